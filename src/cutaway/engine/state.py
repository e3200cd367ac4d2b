"""States: what a job keeps of a data set, small enough to merge and to write down.

A state is a handful of tensors with two operations. `update` takes a batch in; `merge` takes another state in. Merging
is associative and commutative and an empty state changes nothing, so any way of cutting a data set into shards gives
the same answer: to the last bit for counts, extremes and samples (`exact`); to rounding for sums, and to the last bit
for those, too, when the same shards are merged in the order of the manifest, as jobs do.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import ClassVar, Self

import torch
from torch import Tensor

from cutaway.core.errors import BadShape

Int = torch.int64
Double = torch.float64


class State:
    """What all states share; a kind of state is a dataclass whose fields are tensors.

    Numbers that belong to a state (how many values it has seen) are tensors without axes: a state is its arrays.

    Attributes:
        exact: True if the answer does not depend on the cut at all, not even in the last bit.
        shrinks: True if a merged state is smaller than the two.
    """

    exact: ClassVar[bool] = True
    shrinks: ClassVar[bool] = True
    kinds: ClassVar[dict[str, type["State"]]] = {}

    def __init_subclass__(cls) -> None:
        State.kinds[cls.__name__] = cls

    def merge(self, other: Self) -> Self:
        """A state that has seen what both have seen."""
        raise NotImplementedError

    def arrays(self) -> dict[str, Tensor]:
        """The tensors by name, as they are written down."""
        return {f.name: getattr(self, f.name).contiguous() for f in fields(self)}  # type: ignore[arg-type]  # a dataclass

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> Self:
        """The inverse of `arrays`."""
        return cls(**arrays)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(t.numel() * t.element_size() for t in self.arrays().values())


States = Mapping[str, State]


def merged(a: States, b: States) -> dict[str, State]:
    """Two groups of states, merged name by name.

    Raises:
        BadShape: They do not have the same names and kinds.
    """
    if a.keys() != b.keys() or any(type(a[name]) is not type(b[name]) for name in a):
        raise BadShape(f"expected states of the same names and kinds; got {sorted(a)} and {sorted(b)}.")
    return {name: a[name].merge(b[name]) for name in a}


def fold(parts: Iterable[States]) -> dict[str, State]:
    """All parts merged, in their order.

    Raises:
        BadShape: There is none.
    """
    whole: dict[str, State] | None = None
    for part in parts:
        whole = dict(part) if whole is None else merged(whole, part)
    if whole is None:
        raise BadShape("expected at least one part to merge; got none.")
    return whole


def count(number: int) -> Tensor:
    """A whole number as a state keeps it."""
    return torch.tensor(number, dtype=Int)
