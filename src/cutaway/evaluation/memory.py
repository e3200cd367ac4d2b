"""What does not depend on the map is computed once, for the maps of several methods."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.fingerprint import fingerprint
from cutaway.core.model import Model

Found = TypeVar("Found")
_MEMORY: WeakKeyDictionary[Model, dict[Hashable, Any]] = WeakKeyDictionary()
# Small tensors each; as many as some maps of a hundred inputs with a few fills need.
_ENTRIES = 512


def remembered(model: Model, row: Batch, about: tuple[Hashable, ...], make: Callable[[], Found]) -> tuple[Found, bool]:
    """What `make` gives, or what it gave for the same weights, the same input and the same settings.

    Args:
        model: The model.
        row: The input, one row.
        about: All else that it depends on.
        make: Computes it.

    Returns:
        The value, which nobody may change, and whether it was known.
    """
    memory, key = _MEMORY.setdefault(model, {}), (model.fingerprint, fingerprint(row), *about)
    if key in memory:
        return cast(Found, memory[key]), True
    found = make()
    while len(memory) >= _ENTRIES:
        memory.pop(next(iter(memory)))
    memory[key] = found
    return found, False


def reuse(what: str, known: int) -> dict[str, Check]:
    """The note that goes with it."""
    text = f"{what} are those of an earlier call for this input, and their cost was counted there."
    return {"reused": Check(text, "note", known)} if known else {}
