"""From scores under random masks to a map: three estimates of one covariance, of different noise.

paper      mean(s m) / keep: the covariance, plus the mean score at every pixel, with the noise of both
centred    cov(s, m) / keep
adjusted   the same, with the part of s that is linear in the mean of m in each cell taken out of the sample, and its
covariance, which is known exactly, put in: the noise that is left is that of the rest of s
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.attribution.grids import Masks, averaging
from cutaway.core.target import Target
from cutaway.maths.statistics import spearman, spearman_brown

# Points along a side on which maps of halves are compared. They are smooth on the scale of a cell.
_COARSE = 28
# Pull of the adjustment towards none, as a share of the cells' variance. Without it, 49 cells fit few masks to noise.
_RIDGE = 0.3
# Masks in memory at once.
_TOGETHER = 50
_ALL = slice(None)
Estimate = Literal["adjusted", "centred", "paper"]


class Shown:
    """The masks that one image was shown under, in brief: on a grid fine enough to compare maps, and cell by cell."""

    def __init__(self, masks: Masks, cells: int, height: int, width: int) -> None:
        self.masks = masks
        rows, columns = masks.covariance()
        self._coarse = averaging(min(_COARSE, height), height), averaging(min(_COARSE, width), width)
        self._cells = averaging(min(cells, height), height), averaging(min(cells, width), width)
        # How the mean of each cell covaries with each pixel, by rows and columns, but for the factor keep (1 - keep).
        self.reach = self._cells[0] @ rows, self._cells[1] @ columns
        self.coarse_reach = self.reach[0] @ self._coarse[0].T, self.reach[1] @ self._coarse[1].T
        spread = [(reach * cells).sum(1) for reach, cells in zip(self.reach, self._cells, strict=True)]
        self.variance = masks.keep * (1 - masks.keep) * torch.outer(*spread).flatten()
        self.coarse, self.cells = torch.empty(0, 0, 0), torch.empty(0, 0)

    def add(self, masks: Float[Tensor, "m h w"]) -> None:
        """Note some masks."""
        coarse, cells = (down @ masks.double() @ across.T for down, across in (self._coarse, self._cells))
        self.coarse = torch.cat([self.coarse, coarse]) if len(self.coarse) else coarse
        cells = cells.flatten(1) - self.masks.keep
        self.cells = torch.cat([self.cells, cells]) if len(self.cells) else cells


class _Fit(NamedTuple):
    """Scores taken apart: `known @ cells`, whose covariance with a pixel is known, and `rest`, whose is estimated.

    A fit to few masks leaves less of their scores than of others'. `outside` is what a fit without the mask would leave
    of its score, from which the noise is known.
    """

    known: Float[Tensor, "cells cells"]
    rest: Float[Tensor, "m"]
    outside: Float[Tensor, "m"]
    scale: float


class Tally:
    """The scores of one target under the masks shown so far."""

    def __init__(self, target: Target, shown: Shown, estimate: Estimate) -> None:
        self.target, self.shown, self.estimate = target, shown, estimate
        self.scores = torch.empty(0, dtype=torch.float64)
        self._halves: tuple[int, float] = (0, math.nan)

    def fit(self, which: slice = _ALL) -> _Fit:
        """Take the scores apart, all or some of them."""
        scores, cells = self.scores[which], self.shown.cells[: len(self.scores)][which]
        known = torch.zeros(cells.shape[1], dtype=torch.float64)
        shape, keep = [len(reach) for reach in self.shown.reach], self.shown.masks.keep
        if self.estimate == "paper":
            return _Fit(known.view(shape), scores, scores, 1 / (len(scores) * keep))
        rest, own = scores - scores.mean(), torch.zeros_like(scores)
        if self.estimate == "adjusted":
            ridge = torch.diag(_RIDGE * len(scores) * self.shown.variance)
            pull = torch.linalg.solve(cells.T @ cells + ridge, cells.T)  # from scores to the fit
            known, own = pull @ rest, (cells.T * pull).sum(0)
            rest = rest - cells @ known
        rest = rest - rest.mean()
        return _Fit(known.view(shape), rest, rest / (1 - own), 1 / ((len(scores) - 1) * keep))

    def coarse(self, which: slice) -> Float[Tensor, "a b"]:
        """The map from some of the masks, on the coarse grid."""
        fit, masks = self.fit(which), self.shown.coarse[: len(self.scores)][which]
        return fit.scale * _weighted(fit.rest, masks) + self._known(fit, self.shown.coarse_reach)

    def map(self) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
        """The estimate from all masks, and its standard error. The masks are made once more."""
        fit, n, keep = self.fit(), len(self.scores), self.shown.masks.keep
        centre = 0.0 if self.estimate == "paper" else keep
        total: Tensor | float = 0.0
        squares: Tensor | float = 0.0
        for start in range(0, n, _TOGETHER):
            masks = self.shown.masks[start : min(start + _TOGETHER, n)].double()
            some = slice(start, start + _TOGETHER)
            total = total + _weighted(fit.rest[some], masks)
            squares = squares + _weighted(fit.outside[some] ** 2, (masks - centre) ** 2)
        spread = squares / n / keep**2 - (total / n / keep) ** 2
        assert isinstance(total, Tensor)
        assert isinstance(spread, Tensor)
        return fit.scale * total + self._known(fit, self.shown.reach), (spread.clamp(min=0) / n).sqrt()

    def _known(self, fit: _Fit, reach: tuple[Tensor, Tensor]) -> Tensor:
        return (1 - self.shown.masks.keep) * (reach[0].T @ fit.known @ reach[1])

    @property
    def halves(self) -> float:
        """Rank correlation of the maps from masks of even and of odd number; nan where one of them is flat."""
        if self._halves[0] != len(self.scores):
            even, odd = (self.coarse(slice(start, None, 2)).flatten() for start in (0, 1))
            self._halves = (len(self.scores), float(spearman(even, odd)))
        return self._halves[1]

    @property
    def repeatable(self) -> float:
        """The rank correlation expected with a map from as many other masks."""
        return spearman_brown(self.halves) if self.halves > 0 else self.halves

    def agrees(self, agreement: float, first: int) -> bool:
        """True if more masks are not wanted: there were `first` at least, and a repetition is expected to agree."""
        return agreement < 1 and len(self.scores) >= first and self.repeatable >= agreement


def _weighted(weights: Float[Tensor, "m"], maps: Float[Tensor, "m h w"]) -> Float[Tensor, "h w"]:
    return (weights @ maps.flatten(1)).view(maps.shape[1:])
