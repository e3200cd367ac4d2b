"""A function's signature as a catalogue entry, and option values read from text."""

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal

from cutaway.core.catalogue import Method, Option
from cutaway.core.errors import BadOption
from cutaway.core.features import Features
from cutaway.core.fill import Fill
from cutaway.core.players import checked
from cutaway.core.result import Result
from cutaway.core.site import Site

POSITIONAL = ("model", "x", "target", "data", "attribution", "explain", "a", "b", "groups", "generator")


def describe(function: Callable[..., Result], paper: str, laws: tuple[str, ...], needs: tuple[str, ...]) -> Method:
    """The catalogue entry of a function, read from its signature and docstring."""
    signature, hints = inspect.signature(function), typing.get_type_hints(function)
    doc = inspect.getdoc(function) or ""
    helps = _argument_help(doc)
    positional = tuple(p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD)
    if set(positional) - set(POSITIONAL):
        raise BadOption(
            f"{function.__name__}: positional parameters come from {', '.join(POSITIONAL)}; got {positional}."
        )
    options = tuple(
        Option(p.name, _kind(hints[p.name]), p.default, _choices(hints[p.name]), helps.get(p.name, ""))
        for p in signature.parameters.values()
        if p.kind is p.KEYWORD_ONLY
    )
    return Method(
        name=function.__name__,
        room=function.__module__.split(".")[1] if function.__module__.startswith("cutaway.") else "own",
        summary=doc.split("\n", 1)[0],
        positional=positional,
        options=options,
        result=hints["return"].__name__,
        paper=paper,
        laws=laws,
        needs=needs,
        quick={},
        function=function,
        optional=tuple(name for name in positional if signature.parameters[name].default is None),
    )


def _argument_help(doc: str) -> dict[str, str]:
    """The `Args:` section of a docstring, by argument."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else []:
        if start := re.match(r" {4}(\w[\w, ]*?): (.*)", line):
            names = [name.strip() for name in start[1].split(",")]
            found |= dict.fromkeys(names, start[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def _choices(hint: Any) -> tuple[str, ...]:
    return tuple(str(a) for part in _parts(hint) if typing.get_origin(part) is Literal for a in typing.get_args(part))


def _parts(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the hint itself where it is none."""
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def _kind(hint: Any) -> str:
    if _choices(hint):
        return "choice"
    return " or ".join("none" if p is type(None) else getattr(p, "__name__", str(p)).lower() for p in _parts(hint))


def read_option(entry: Method, name: str, value: Any, hint: Any) -> Any:
    """An option's value, read from its text where it came as one."""
    parts = _parts(hint)
    if type(None) in parts and (value is None or value == "none"):
        return None
    if choices := _choices(hint):
        if str(value) not in choices:
            raise BadOption(f"expected {name} of {entry.name} to be one of {', '.join(choices)}; got {value!r}.")
        values = [a for p in parts if typing.get_origin(p) is Literal for a in typing.get_args(p)]
        return values[choices.index(str(value))]
    if Site in parts:
        return Site.of(value)
    if Fill in parts:
        return Fill.of(value)
    if Features in parts:
        return checked(value)
    for kind in (bool, int, float):
        if kind in parts:
            return _number(entry, name, value, kind, parts)
    if any(typing.get_origin(p) is tuple for p in parts):
        return tuple(value.split(";") if isinstance(value, str) and value else value)
    return value


def _number(entry: Method, name: str, value: Any, kind: type, parts: Sequence[Any]) -> Any:
    wrong = BadOption(f"expected {name} of {entry.name} as {kind.__name__}; got {value!r}.")
    if kind is bool:
        if str(value).lower() not in ("true", "false"):
            raise wrong
        return str(value).lower() == "true"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        if str in parts or any(not isinstance(p, type) or p not in (int, float, type(None)) for p in parts):
            return value
        raise wrong
    whole = int in parts and float not in parts
    try:
        number = int(value) if whole and not isinstance(value, float) else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if math.isnan(number) or (whole and not float(number).is_integer()):
        raise wrong
    return int(number) if whole else number
