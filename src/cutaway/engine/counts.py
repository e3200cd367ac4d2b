"""States that add up: whole numbers, which are exact, and sums in double precision."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from cutaway.core.errors import BadShape
from cutaway.engine.state import Double, Int, State


@dataclass
class Counts(State):
    """Whole numbers that add up: intersections, sizes of masks, cells of a confusion table, bins of a histogram.

    Attributes:
        values: int64, of any shape.
    """

    values: Tensor

    @classmethod
    def empty(cls, *shape: int) -> Self:
        """Zeros."""
        return cls(torch.zeros(shape, dtype=Int))

    def update(self, values: Tensor) -> None:
        """Add whole numbers of the same shape."""
        if values.is_floating_point():
            raise BadShape(f"expected whole numbers to count; got {values.dtype}.")
        self.values += values.to(self.values)

    def merge(self, other: Self) -> Self:
        """The sum."""
        return type(self)(self.values + other.values)


@dataclass
class Sums(State):
    """Sums, and sums of squares, in double precision: the moments behind means and their intervals.

    Attributes:
        seen: How many rows.
        total, squares: Of the rows, any shape.
    """

    exact: ClassVar[bool] = False
    seen: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def empty(cls, *shape: int) -> Self:
        """Nothing seen."""
        zeros = torch.zeros(shape, dtype=Double)
        return cls(torch.zeros((), dtype=Int), zeros, zeros.clone())

    def update(self, rows: Tensor) -> None:
        """Take in rows, (n, *shape)."""
        rows = rows.detach().to("cpu", Double)
        self.seen = self.seen + len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)

    def merge(self, other: Self) -> Self:
        """The sums of both."""
        return type(self)(self.seen + other.seen, self.total + other.total, self.squares + other.squares)
