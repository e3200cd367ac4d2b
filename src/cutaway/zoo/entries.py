"""What a known model is, and the list of them, found by walking this package."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from cutaway.core.model import Model

if TYPE_CHECKING:
    from cutaway.core.recipe import Recipe


@dataclass(frozen=True)
class Entry:
    """A model that can be loaded by name. A module of this package offers its own as a tuple called `MODELS`.

    Attributes:
        name: What the user types.
        summary: One line: what it is and what it was trained on.
        load: Makes it; keyword options are the model's own.
        recipe: How it was trained, for a model of ours.
    """

    name: str
    summary: str
    load: Callable[..., Model]
    recipe: "Recipe | None" = None


@cache
def catalogue() -> dict[str, Entry]:
    """Every known model by name, in alphabetical order."""
    found: dict[str, Entry] = {}
    for module in pkgutil.iter_modules(importlib.import_module("cutaway.zoo").__path__):
        for entry in getattr(importlib.import_module(f"cutaway.zoo.{module.name}"), "MODELS", ()):
            found[entry.name] = entry
    return dict(sorted(found.items()))
