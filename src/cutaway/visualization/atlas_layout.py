"""Activations on a map: near each other what is alike, in cells, with one mean activation for each."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.core.errors import BadShape, NotPossible

Layout = Literal["umap", "pca"]
# As in the paper's code.
_NEIGHBOURS, _GAP = 20, 0.01
# Of fewer points, neighbours say nothing.
FEW = 50
# Points beyond these percentiles lie on the edge of the map, a tenth of its width away from the others.
_CUT, _MARGIN = 0.01, 0.1
# Added to the diagonal of the second moment, as a share of its mean.
_RIDGE = 1e-3


@dataclass(frozen=True)
class Cells:
    """The cells of one level that have enough points.

    Attributes:
        side: Cells along a side.
        places: Row and column of each, (cells, 2); row 0 is the top.
        counts: Points in each, (cells,).
        members: The cell of each point, -1 for none, (points,).
    """

    side: int
    places: Int[Tensor, "cells 2"]
    counts: Int[Tensor, "cells"]
    members: Int[Tensor, "points"]

    def mean(self, rows: Float[Tensor, "points k"]) -> Float[Tensor, "cells k"]:
        """The mean over each cell's points."""
        inside = self.members >= 0
        sums = torch.zeros(len(self.counts), rows.shape[1], dtype=torch.float64)
        sums.index_add_(0, self.members[inside], rows[inside].double())
        return sums / self.counts[:, None]


def laid_out(points: Float[Tensor, "n channels"], layout: Layout, seed: int) -> Float[Tensor, "n 2"]:
    """Each point's place in the unit square.

    Raises:
        BadShape: Fewer than three points.
        NotPossible: UMAP is not installed.
    """
    if len(points) < 3:
        what = "Look at more examples." if len(points) else "The layer is zero everywhere on these examples."
        raise BadShape(f"expected at least 3 activations that are not 0; got {len(points)}. {what}")
    flat = _umap(points, seed) if layout == "umap" and len(points) >= FEW else _components(points)
    low, high = flat.quantile(_CUT, 0), flat.quantile(1 - _CUT, 0)
    flat = flat.clamp(low, high)
    span = (high - low).clamp(min=1e-12)
    return ((flat - low) / span + _MARGIN) / (1 + 2 * _MARGIN)


def _umap(points: Tensor, seed: int) -> Tensor:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other packages that it could use
            from umap import UMAP
    except ImportError as error:
        raise NotPossible(
            "a layout by neighbours needs UMAP: pip install 'cutaway[atlas]', or choose layout=pca."
        ) from error
    made = UMAP(n_components=2, n_neighbors=_NEIGHBOURS, min_dist=_GAP, metric="cosine", random_state=seed, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(np.asarray(made.fit_transform(points.numpy()), dtype=np.float64))


def _components(points: Tensor) -> Tensor:
    """The two first principal components of the directions; signs fixed by the largest entry of each axis."""
    directions = torch.nn.functional.normalize(points.double(), dim=1)
    centred = directions - directions.mean(0)
    *_, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    flat = centred @ axes.T
    return torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))


def in_cells(places: Float[Tensor, "n 2"], side: int, least: int) -> Cells:
    """Cells of a square grid with at least so many points."""
    column, row = (places * side).long().clamp(0, side - 1).unbind(1)
    codes, members, counts = torch.unique(row * side + column, return_inverse=True, return_counts=True)
    enough = counts >= least
    number = torch.where(enough, enough.cumsum(0) - 1, -1)
    codes = codes[enough]
    return Cells(side, torch.stack([codes // side, codes % side], 1), counts[enough], number[members])


def whitened(points: Float[Tensor, "n channels"]) -> tuple[Float[Tensor, "channels channels"], int]:
    """The inverse of the second moment about 0, with a small ridge, and the rank before that.

    (E[a a'] + r I)^-1,   r = 0.001 * trace / channels
    """
    points = points.double()
    moment = points.T @ points / len(points)
    rank = int(torch.linalg.matrix_rank(moment, hermitian=True))
    ridge = _RIDGE * moment.diagonal().mean()
    return torch.linalg.inv(moment + ridge * torch.eye(len(moment), dtype=moment.dtype)), rank
