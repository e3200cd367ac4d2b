"""How alike two maps of the same input are, by several measures."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.evaluation.orders import ranks
from cutaway.maths.statistics import pearson, spearman

# A histogram of gradients needs at least two by two cells of this many pixels.
_HOG_CELL = 8


def similarities(
    a: Float[Tensor, "n *entries"], b: Float[Tensor, "n *entries"], *, signed: bool
) -> dict[str, Float[Tensor, " n"]]:
    """For each pair of maps: rank correlation with and without sign, and for pictures SSIM and HOG correlation.

    Args:
        a, b: Maps, one number per position.
        signed: False leaves out the correlation with sign, where the sign has no meaning or never changes.
    """
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    found = {"rank correlation": spearman(flat_a, flat_b)} if signed else {}
    found["rank correlation of sizes"] = spearman(flat_a.abs(), flat_b.abs())
    if a.ndim == 3 and min(a.shape[1:]) >= 3:
        found["SSIM"] = torch.tensor([ssim(p, q) for p, q in zip(a, b, strict=True)], dtype=torch.float64)
    if a.ndim == 3 and min(a.shape[1:]) >= 2 * _HOG_CELL:
        found["HOG correlation"] = pearson(hog(a), hog(b))
    return found


def ssim(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"]) -> float:
    """Structural similarity of two maps, each divided by its largest size; Gaussian window of 1.5 pixels.

    1 for equal maps. Two maps that are zero nearly everywhere are alike, too, wherever they are not zero.
    """
    from skimage.metrics import structural_similarity

    window = min(11, *a.shape)
    window -= 1 - window % 2
    gaussian = {"gaussian_weights": True, "sigma": 1.5} if window == 11 else {}
    return float(structural_similarity(_scaled(a), _scaled(b), data_range=2.0, win_size=window, **gaussian))


def hog(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n features"]:
    """Histograms of oriented gradients, 8 pixels a cell: where lines are and how they run."""
    from skimage.feature import hog as histograms

    cell = (_HOG_CELL, _HOG_CELL)
    return torch.stack(
        [torch.from_numpy(histograms(_scaled(m), pixels_per_cell=cell, cells_per_block=(1, 1))).double() for m in maps]
    )


def overlap(
    a: Float[Tensor, "n *entries"], b: Float[Tensor, "n *entries"], *, share: float, generator: torch.Generator
) -> Float[Tensor, " n"]:
    """How many of the highest entries of one map are among the highest of the other, from 0 to 1.

    Args:
        a, b: Maps.
        share: How many entries count as highest, as a share; at least one. Two random maps have about this overlap.
        generator: Chooses among equal entries, for each map anew: a constant map has no highest entries to keep.
    """
    k = max(1, round(share * a[0].numel()))
    pairs = zip(a.flatten(1), b.flatten(1), strict=True)
    common = [((ranks(p, generator) < k) & (ranks(q, generator) < k)).sum() / k for p, q in pairs]
    return torch.stack(common).double().cpu()


def _scaled(m: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A map divided by its largest size, so that it lies in [-1, 1]."""
    largest = float(m.abs().max())
    return (m.double() / (largest if largest > 0 and math.isfinite(largest) else 1.0)).cpu().numpy()
