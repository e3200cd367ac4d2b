"""Means and covariances that merge without losing digits (Chan, Golub and LeVeque 1979)."""

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from cutaway.core.errors import BadShape
from cutaway.engine.state import Double, Int, State


@dataclass
class Covariance(State):
    """Mean and scatter of the rows of one or two matrices.

    The scatter is sum over rows of (a - mean a)' (b - mean b), kept as it is, divided only at the end. Parts merge by

        S = S1 + S2 + (m1 - m2)' (m1' - m2') n1 n2 / (n1 + n2)

    which subtracts no large numbers from each other, as mean squares minus squared means would.

    Attributes:
        seen: How many rows.
        left, right: Means, (p,) and (q,); the same where there is one matrix.
        scatter: (p, q), in double precision.
    """

    exact: ClassVar[bool] = False
    seen: Tensor
    left: Tensor
    right: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, p: int, q: int | None = None) -> Self:
        """Nothing seen of matrices with p and q columns; of one with p, if q is not given."""
        q = p if q is None else q
        zeros = torch.zeros(p, dtype=Double), torch.zeros(q, dtype=Double), torch.zeros(p, q, dtype=Double)
        return cls(torch.zeros((), dtype=Int), *zeros)

    def update(self, a: Tensor, b: Tensor | None = None) -> None:
        """Take in rows: (n, p), and (n, q) of the same examples where there are two matrices."""
        a = a.detach().to("cpu", Double)
        b = a if b is None else b.detach().to("cpu", Double)
        if len(a) != len(b):
            raise BadShape(f"expected the same examples in both matrices; got {len(a)} and {len(b)} rows.")
        if not len(a):
            return
        left, right = a.mean(0), b.mean(0)
        part = type(self)(torch.tensor(len(a)), left, right, (a - left).T @ (b - right))
        whole = self.merge(part)
        self.seen, self.left, self.right, self.scatter = whole.seen, whole.left, whole.right, whole.scatter

    def merge(self, other: Self) -> Self:
        """Both together."""
        seen = self.seen + other.seen
        if not int(seen):
            return self
        share = (other.seen.double() / seen.double()).to(Double)
        left, right = other.left - self.left, other.right - self.right
        scatter = self.scatter + other.scatter + torch.outer(left, right) * (self.seen * share)
        return type(self)(seen, self.left + left * share, self.right + right * share, scatter)

    def value(self, *, unbiased: bool = True) -> Tensor:
        """The covariance matrix, (p, q).

        Args:
            unbiased: Divide by n - 1 instead of n.
        """
        return self.scatter / max(int(self.seen) - int(unbiased), 1)
