"""The frame of a page: its template, style sheet, script and security policy."""

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cutaway.plot import heat, tokens

FOLDER = Path(__file__).parent / "templates"
GENERATOR = "cutaway report"


def render(template: str, *, beside: bool = False, **content: Any) -> str:
    """A page from its template. All content is escaped unless it is `Markup` already.

    Args:
        template: Its file.
        beside: The page may show pictures that lie in its own folder or site; otherwise only those inside it.
        **content: What the template asks for.
    """
    style, script = style_sheet(), _source("page.js")
    pictures = "data: 'self' file:" if beside else "data:"
    policy = (
        f"default-src 'none'; img-src {pictures}; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    frame = {"policy": policy, "style": Markup(style), "script": Markup(script), "generator": GENERATOR}
    return _environment().get_template(template).render(**frame, **content)


@functools.cache
def style_sheet() -> str:
    """The one style sheet: the page's own rules and those made from the colour scales."""
    return "\n".join([_source("page.css"), *(_gradient(signed) for signed in (True, False)), tokens.css()])


def _gradient(signed: bool) -> str:
    colours = heat.palette(signed)[: heat.LEVELS]
    steps = [f"rgb({r},{g},{b})" for r, g, b in colours[:: (heat.LEVELS - 1) // 127].tolist()]
    return f".scale-{'signed' if signed else 'plain'}{{background:linear-gradient(to right,{','.join(steps)})}}"


def _source(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
