"""Reference pages that cannot go stale: written from the catalogue and the command line while the docs are built.

One page for each method, one list of them by room, one page with the help text of every command. What a person has to
say about a method (what it cannot tell you, pitfalls, figures) is in docs/methods/NAME.md and ends up on its page.
"""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx

from cutaway.core.bibliography import paper
from cutaway.core.catalogue import Method, catalogue

SECTION = re.compile(r"^(Args|Returns|Raises|Source|Attributes|Example):[ ]?", re.MULTILINE)

# What to hand over for the objects of a signature, in Python and in a shell.
PYTHON = {
    "model": 'ct.load("efficientnet-lite0")',
    "x": 'ct.data("photos/chelsea")',
    "data": 'ct.data("shapes/test[0:16]")',
}

# The same for a method that explains moves in a game.
BOARD = {"model": 'ct.load("tic-tac-toe")', "x": 'ct.data("moves:b2", space=model.space)'}

# What a picture is made for.
OBJECTIVE = 'unit("_blocks.6:3")'


def sections(doc: str) -> dict[str, str]:
    """The parts of a Google docstring by name; `summary` and `body` are what precedes the first heading."""
    parts = SECTION.split(inspect.cleandoc(doc))
    summary, _, body = parts[0].partition("\n\n")
    found = {"summary": " ".join(summary.split()), "body": body.strip()}
    return found | {name: inspect.cleandoc(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def page(method: Method, extra: str) -> str:
    """The whole page of a method, in MyST Markdown."""
    return "\n".join(line for block in _blocks(method, extra) for line in (block, ""))


def _blocks(method: Method, extra: str) -> Iterator[str]:
    doc = sections(method.function.__doc__ or "")
    yield f"# {method.name}"
    yield doc["summary"]
    for paragraph in filter(None, doc["body"].split("\n\n")):
        yield fenced("text", paragraph) if re.match(r"\s*\S+ = ", paragraph) else paragraph
    yield f"## Signature\n\nRoom: {{ref}}`room-{method.room}`. Answer: `{method.result}`."
    yield fenced("python", _signature(method))
    if method.options:
        yield "## Options\n\n" + _options(method)
    if "Returns" in doc:
        yield f"## What you get\n\n{doc['Returns']}"
    yield f"## Example\n\n{fenced('python', _python_example(method))}\n\n{fenced('shell', _shell_example(method))}"
    yield "## Laws\n\n" + _laws(method)
    yield "## Source\n\n" + _source(method, doc)
    if extra:
        yield extra


def _signature(method: Method) -> str:
    options = [f"{o['name']}={_value(o['default'])}" for o in method.as_json()["options"]]
    star = ["*"] if options else []
    call = f"{method.name}({', '.join([*method.positional, *star, *options])})"
    return f"from {method.function.__module__} import {method.name}\n\n{call}"


def _options(method: Method) -> str:
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for option in method.as_json()["options"]:
        kind = ", ".join(f"`{_value(choice)}`" for choice in option["choices"]) or option["kind"]
        rows.append(f"| `{option['name']}` | {kind} | `{_value(option['default'])}` | {_cell(option['help'])} |")
    return "\n".join(rows)


def _laws(method: Method) -> str:
    if not method.laws:
        return "It makes no claim beyond the [laws of every method](../../explanation/laws.md)."
    claims = ", ".join(f"`{law}`" for law in sorted(method.laws))
    return f"Beyond the [laws of every method](../../explanation/laws.md) it claims {claims}; each is a test."


def _source(method: Method, doc: dict[str, str]) -> str:
    found = paper(method.paper)
    note = f"{doc['Source']}\n\n" if "Source" in doc else ""
    return f"{note}{{cite:t}}`{method.paper}`: [{found.title}]({found.url})."


def _python_example(method: Method) -> str:
    given, aim = (PYTHON | BOARD, "a1") if "board" in method.needs else (PYTHON, "tabby")
    lines = ["import cutaway as ct", "", f"model = {given['model']}"]
    needed = [p for p in method.positional if p not in method.optional]
    objects = [p for p in needed if p not in {"model", "target", "attribution", "explain"}]
    lines += [f"{name} = {given.get(name, '...')}" for name in objects]
    if {"attribution", "explain"} & set(method.positional):
        lines.append('why = ct.run("integrated_gradients", model, x, target="tabby")')
    handed = ["why" if name in {"attribution", "explain"} else name for name in needed if name != "target"]
    target = f', target="{aim}"' if "target" in method.positional else ""
    target += f", objective='{OBJECTIVE}'" if _has_objective(method) else ""
    return "\n".join([*lines, f'result = ct.run("{method.name}", {", ".join(handed)}{target})', "ct.plot(result)"])


def _has_objective(method: Method) -> bool:
    return any(option.name == "objective" for option in method.options)


def _shell_example(method: Method) -> str:
    if "board" in method.needs:
        return f'cutaway run {method.name} --model tic-tac-toe --x "moves:b2" --target a1'
    words = [f"cutaway run {method.name} --model efficientnet-lite0"]
    words += ["--x photos/chelsea"] if "x" in method.positional else []
    words += ["--target tabby"] if {"target", "attribution", "explain"} & set(method.positional) else []
    words += [f"--objective '{OBJECTIVE}'"] if _has_objective(method) else []
    return " ".join(words)


def room_index(methods: dict[str, Method]) -> str:
    """The list of all methods, room by room, under the room's own words."""
    lines = ["# Methods", "", "Written from the catalogue that `cutaway methods` prints."]
    for room in dict.fromkeys(m.room for m in methods.values()):
        doc = inspect.cleandoc(import_module(f"cutaway.{room}").__doc__ or "")
        lines += ["", f"(room-{room})=", f"## {room.capitalize()}", "", doc, ""]
        lines += ["| method | what it does | paper |", "|---|---|---|"]
        for m in (m for m in methods.values() if m.room == room):
            lines.append(f"| [{m.name}]({m.name}.md) | {_cell(m.summary)} | {{cite:t}}`{m.paper}` |")
    toc = "\n".join(sorted(methods))
    return "\n".join([*lines, "", f"```{{toctree}}\n:hidden:\n\n{toc}\n```", ""])


def command_page(group: click.Group) -> str:
    """The help text of every command, exactly as the terminal shows it."""
    context = click.Context(group, info_name="cutaway", terminal_width=100)
    lines = ["# Commands", "", fenced("text", group.get_help(context))]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        help_text = command.get_help(click.Context(command, info_name=name, parent=context, terminal_width=100))
        lines += ["", f"## cutaway {name}", "", fenced("text", help_text)]
    return "\n".join([*lines, ""])


def fenced(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text}\n```"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _value(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def write(path: Path, text: str) -> None:
    """Write a file unless it says this already, so that Sphinx rebuilds only what changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def generate(app: Sphinx) -> None:
    """Write all pages into the source folder, where git ignores them."""
    from cutaway.cli import cli

    source, folder = Path(app.srcdir), Path(app.srcdir) / "reference" / "methods"
    methods = catalogue()
    for stale in set(folder.glob("*.md")) - {folder / f"{name}.md" for name in [*methods, "index"]}:
        stale.unlink()
    for name, method in methods.items():
        extra = source / "methods" / f"{name}.md"
        write(folder / f"{name}.md", page(method, extra.read_text(encoding="utf-8") if extra.exists() else ""))
    write(folder / "index.md", room_index(methods))
    write(source / "reference" / "commands.md", command_page(cli))


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
