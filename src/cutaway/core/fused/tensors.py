"""Notes on tensors while a forward runs, by identity."""

import functools
import weakref
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from torch import Tensor

from cutaway.core.operations import operation_name

T = TypeVar("T")
_NESTED = (tuple, list)
# Questions whose answer is the same before and after a normalisation or an activation.
_SAME_ANSWER = {"size", "dim", "numel", "element_size", "is_floating_point", "is_complex"}
_SAME_ATTRIBUTE = {"shape", "ndim", "dtype", "device", "requires_grad", "is_cuda", "is_sparse", "is_nested", "grad_fn"}


class Noted(Generic[T]):
    """Something about each of some tensors, as long as they live."""

    def __init__(self) -> None:
        self._notes: dict[int, tuple[weakref.ref[Tensor], T]] = {}

    def note(self, tensor: Tensor, what: T) -> None:
        """Remember something about a tensor, in place of what was noted before."""
        self._notes[id(tensor)] = weakref.ref(tensor), what

    def get(self, tensor: Tensor) -> T | None:
        """What was noted, if it was about this very tensor: a number of one that is gone may be given anew."""
        found = self._notes.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else None

    def forget(self, tensor: Tensor) -> None:
        """Drop what was noted."""
        self._notes.pop(id(tensor), None)

    def living(self) -> list[T]:
        """The notes on tensors that are still there."""
        return [what for tensor, what in self._notes.values() if tensor() is not None]


def tensors_in(args: Iterable[Any]) -> list[Tensor]:
    """All tensors among arguments; by hand, since this happens at each operation."""
    found: list[Tensor] = []
    for value in args:
        if isinstance(value, Tensor):
            found.append(value)
        elif type(value) in _NESTED:
            found += tensors_in(value)
    return found


@functools.cache
def is_question(func: Any) -> bool:
    """Does a call only ask for what is the same for all steps of a chain: shape, type, device?"""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in _SAME_ATTRIBUTE
    return not operation_name(func) and name in _SAME_ANSWER
