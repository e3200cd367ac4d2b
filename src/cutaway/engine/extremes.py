"""States that keep a few examples: the best of each unit, and a fair sample."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from cutaway.engine.state import Double, Int, State, count

_NOBODY = torch.iinfo(Int).max


@dataclass
class Best(State):
    """The k examples that each unit answers most to; among equals, those with the smaller number.

    Attributes:
        values: (units, k) float64, falling.
        ids: (units, k) the examples' numbers; the largest integer where there are fewer than k.
        places: (units, k) where in the example the value was.
    """

    values: Tensor
    ids: Tensor
    places: Tensor

    @classmethod
    def empty(cls, units: int, k: int) -> Self:
        """Nothing seen."""
        ids = torch.full((units, k), _NOBODY)
        return cls(torch.full((units, k), -torch.inf, dtype=Double), ids, torch.zeros_like(ids))

    def update(self, values: Tensor, ids: Tensor, places: Tensor | None = None) -> None:
        """Take in examples.

        Args:
            values: (n, units), one number per example and unit.
            ids: (n,) whole numbers that name the examples, the same in every run.
            places: (n, units) where in the example the value was; 0 if not given.
        """
        values = values.detach().to("cpu", Double).T
        ids = ids.to("cpu", Int).expand(values.shape)
        places = torch.zeros_like(ids) if places is None else places.detach().to("cpu", Int).T
        whole = self.merge(type(self)(values, ids, places))
        self.values, self.ids, self.places = whole.values, whole.ids, whole.places

    def merge(self, other: Self) -> Self:
        """The best of both. An example that both have seen counts once."""
        k = self.values.shape[1]
        pairs = zip((self.values, self.ids, self.places), (other.values, other.ids, other.places), strict=True)
        values, ids, places = (torch.cat(pair, 1) for pair in pairs)
        # Stable sorts from the last key to the first: by number, then by value.
        by_id = ids.sort(dim=1, stable=True)
        values, places = values.gather(1, by_id.indices), places.gather(1, by_id.indices)
        twice = torch.zeros_like(values, dtype=torch.bool)
        twice[:, 1:] = (by_id.values[:, 1:] == by_id.values[:, :-1]) & (by_id.values[:, 1:] != _NOBODY)
        values = values.masked_fill(twice, -torch.inf)
        ids = by_id.values.masked_fill(twice, _NOBODY)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
        return type(self)(values.gather(1, order), ids.gather(1, order), places.gather(1, order))

    @property
    def found(self) -> Tensor:
        """Which entries are examples, (units, k)."""
        return self.ids != _NOBODY


@dataclass
class Highest(State):
    """The k things with the highest value, and what was kept of each; among equals, those with the smaller number.

    Attributes:
        values: (k,) float64, falling.
        ids: (k,) the things' numbers; the largest integer where there are fewer than k.
        rows: (k, width) what was kept of each.
    """

    values: Tensor
    ids: Tensor
    rows: Tensor

    @classmethod
    def empty(cls, k: int, width: int, *, dtype: torch.dtype = torch.float32) -> Self:
        """Nothing seen."""
        values = torch.full((k,), -torch.inf, dtype=Double)
        return cls(values, torch.full((k,), _NOBODY), torch.zeros(k, width, dtype=dtype))

    def update(self, values: Tensor, ids: Tensor, rows: Tensor) -> None:
        """Take in things by number, with the value of each, (n,), and what is to be kept, (n, width)."""
        part = type(self)(values.detach().to("cpu", Double), ids.to("cpu", Int), rows.detach().to(self.rows))
        whole = self.merge(part)
        self.values, self.ids, self.rows = whole.values, whole.ids, whole.rows

    def merge(self, other: Self) -> Self:
        """The highest of both."""
        values, ids, rows = (
            torch.cat(pair) for pair in ((self.values, other.values), (self.ids, other.ids), (self.rows, other.rows))
        )
        by_id = ids.sort(stable=True).indices
        order = by_id[values[by_id].sort(descending=True, stable=True).indices][: len(self.values)]
        return type(self)(values[order], ids[order], rows[order])

    @property
    def found(self) -> int:
        """How many there are, at most k."""
        return int((self.ids != _NOBODY).sum())


@dataclass
class Sample(State):
    """A sample without replacement that does not depend on how the data set was cut.

    Every example gets a key from the seed and its number; the k smallest keys are the sample (bottom-k sampling, Cohen
    and Kaplan 2007). So each example is as likely as any other, and two runs with one seed choose the same.

    Attributes:
        keys: (k,) int64, rising.
        ids: (k,) the examples' numbers.
        rows: (k, width) what was kept of each.
        seed: Of the keys.
        seen: How many examples there were.
    """

    keys: Tensor
    ids: Tensor
    rows: Tensor
    seed: Tensor
    seen: Tensor

    @classmethod
    def empty(cls, k: int, width: int = 0, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Self:
        """Nothing seen."""
        nobody = torch.full((k,), _NOBODY)
        return cls(nobody, nobody.clone(), torch.zeros(k, width, dtype=dtype), count(seed), count(0))

    def update(self, ids: Tensor, rows: Tensor | None = None) -> None:
        """Take in examples by number, with what is to be kept of each, (n, width)."""
        ids = ids.to("cpu", Int)
        rows = self.rows.new_zeros(len(ids), self.rows.shape[1]) if rows is None else rows.detach().to(self.rows)
        part = type(self)(keys(ids, int(self.seed)), ids, rows, self.seed, count(len(ids)))
        whole = self.merge(part)
        self.keys, self.ids, self.rows, self.seen = whole.keys, whole.ids, whole.rows, whole.seen

    def merge(self, other: Self) -> Self:
        """The smallest keys of both."""
        keys, ids, rows = (
            torch.cat(pair) for pair in ((self.keys, other.keys), (self.ids, other.ids), (self.rows, other.rows))
        )
        by_id = ids.sort(stable=True).indices
        order = by_id[keys[by_id].sort(stable=True).indices][: len(self.keys)]
        return type(self)(keys[order], ids[order], rows[order], self.seed, self.seen + other.seen)

    @property
    def chosen(self) -> Tensor:
        """The examples' numbers, rising; fewer than k where there were fewer."""
        return self.ids[self.ids != _NOBODY].sort().values


def keys(ids: Tensor, seed: int) -> Tensor:
    """63 bits that look random and belong to a seed and a number (the finaliser of SplitMix64, Steele et al. 2014)."""
    z = ids + _signed(0x9E3779B97F4A7C15 * (2 * seed + 1))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ _shifted(z, shift)) * _signed(factor)
    z = z ^ _shifted(z, 31)
    return (z & _NOBODY).clamp(max=_NOBODY - 1)


def _signed(number: int) -> int:
    """64 bits read as a signed number, which is what tensors have."""
    number &= 2**64 - 1
    return number - 2**64 if number >= 2**63 else number


def _shifted(z: Tensor, by: int) -> Tensor:
    """A shift to the right that moves in zeros, also for negative numbers."""
    return (z >> by) & ((1 << (64 - by)) - 1)
