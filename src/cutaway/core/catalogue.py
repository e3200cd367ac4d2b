"""The catalogue of methods: what there is, found by walking the package, so that nobody edits a list."""

import functools
import importlib
import pkgutil
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cutaway
from cutaway.core.errors import unknown_name
from cutaway.core.fingerprint import as_text
from cutaway.core.result import Result

# Packages that hold no methods. Every other package directly under cutaway is a room.
_NOT_ROOMS = {
    "cli",
    "server",
    "report",
    "session",
    "plot",
    "store",
    "zoo",
    "data",
    "testing",
    "engine",
    "core",
    "maths",
}


@dataclass(frozen=True)
class Option:
    """One keyword of a method.

    Attributes:
        name: As in Python; the command line writes `-` for `_`.
        kind: Its type in words.
        default: The default, as text or number.
        choices: The allowed values, where they are few.
        help: What it does.
    """

    name: str
    kind: str
    default: Any
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True)
class Method:
    """An entry of the catalogue.

    Attributes:
        name: What `cutaway.run` takes.
        room: The package it lives in: what kind of question it answers.
        summary: The first line of its docstring.
        positional: What it works on.
        options: Its keywords.
        result: The shape of its answer.
        paper: Key in the bibliography.
        laws: Properties it claims; each is tested.
        needs: What it asks of a model or input: "gradient", "image".
        quick: Options for a rough answer at a fraction of the cost, for tests that run the method many times.
        function: The decorated function.
        optional: What it works on if that is given, and can do without.
    """

    name: str
    room: str
    summary: str
    positional: tuple[str, ...]
    options: tuple[Option, ...]
    result: str
    paper: str
    laws: tuple[str, ...]
    needs: tuple[str, ...]
    quick: Mapping[str, Any]
    function: Callable[..., Result]
    optional: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The entry as data."""
        names = ("name", "room", "summary", "positional", "result", "paper", "laws", "needs")
        data: dict[str, Any] = {name: getattr(self, name) for name in names}
        data["quick"] = dict(self.quick)
        data["options"] = [vars(option) | {"default": as_text(option.default)} for option in self.options]
        return data


@functools.cache
def catalogue() -> Mapping[str, Method]:
    """All methods by name, found by importing every module of every room."""
    found: dict[str, Method] = {}
    for package in sorted(
        p.name for p in pkgutil.iter_modules(cutaway.__path__) if p.ispkg and p.name not in _NOT_ROOMS
    ):
        room = importlib.import_module(f"cutaway.{package}")
        for info in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
            for value in vars(importlib.import_module(info.name)).values():
                entry = getattr(value, "method", None)
                if isinstance(entry, Method) and value.__module__ == info.name:
                    found[entry.name] = entry
    return types.MappingProxyType(dict(sorted(found.items(), key=lambda item: (item[1].room, item[0]))))


def find(name: str) -> Method:
    """A method by its name; `-` and `_` are the same.

    Raises:
        UnknownName: There is none.
    """
    entry = catalogue().get(name.replace("-", "_"))
    if entry is None:
        raise unknown_name("method", name, catalogue(), "`cutaway methods` lists all.")
    return entry
