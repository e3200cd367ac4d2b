"""What a data set is here, and the list of them, found by walking this package."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from cutaway.core.dataset import Examples
from cutaway.core.space import Space


@dataclass(frozen=True)
class DataSet:
    """A named source of examples. A module of this package offers its own as a tuple called `DATASETS`.

    Attributes:
        name: What the user types: "shapes/test".
        summary: One line: what it is, whose it is.
        size: How many examples there are.
        take: Makes the examples with these indices. Photos are brought to the size of the space, if one is given.
    """

    name: str
    summary: str
    size: int
    take: Callable[[range, Space | None], Examples]


@cache
def catalogue() -> dict[str, DataSet]:
    """Every data set by name, in alphabetical order."""
    found: dict[str, DataSet] = {}
    for module in pkgutil.iter_modules(importlib.import_module("cutaway.data").__path__):
        for entry in getattr(importlib.import_module(f"cutaway.data.{module.name}"), "DATASETS", ()):
            found[entry.name] = entry
    return dict(sorted(found.items()))
