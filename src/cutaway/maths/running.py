"""Mean and variance of rows that come a few at a time."""

import torch
from jaxtyping import Float
from torch import Tensor


class Running:
    """Mean and variance of the rows so far, entry by entry, in double precision.

    Blocks are merged (Chan, Golub and LeVeque 1979): the mean of squares minus the square of the mean would lose all
    digits.

    Attributes:
        count: Rows so far.
        mean: Of the rows, (...).
    """

    def __init__(self) -> None:
        """Start without rows."""
        self.count = 0
        self.mean = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, rows: Float[Tensor, "n ..."]) -> None:
        """Take in some rows."""
        rows, count = rows.double(), len(rows)
        middle = rows.mean(0)
        apart, total = middle - self.mean.to(middle), self.count + count
        self._squares = self._squares.to(middle) + (rows - middle).square().sum(0)
        self._squares += apart.square() * self.count * count / total
        self.mean = self.mean.to(middle) + apart * count / total
        self.count = total

    def variance(self, *, unbiased: bool = True) -> Float[Tensor, "..."]:
        """Of the rows; 0 for a single one. `unbiased` divides by n - 1 instead of n."""
        return self._squares / max(self.count - unbiased, 1)
