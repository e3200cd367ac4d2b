"""How alike two maps of the same input are, by several measures."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.evaluation.orders import ranks
from cutaway.maths.statistics import pearson, spearman
from cutaway.maths.statistics import ranks as ranks_of

SIGNED, SIZES = "rank correlation", "rank correlation of sizes"
EDGES = "rank correlation with the picture's edges"
# A histogram of gradients needs at least two by two cells of this many pixels.
_HOG_CELL, _DIRECTIONS = 8, 9


def similarities(
    a: Float[Tensor, "n *entries"], b: Float[Tensor, "n *entries"], *, signed: bool
) -> dict[str, Float[Tensor, " n"]]:
    """For each pair of maps: rank correlation with and without sign, and for pictures SSIM and HOG correlation.

    Args:
        a, b: Maps, one number per position.
        signed: False leaves out the correlation with sign, where the sign has no meaning or never changes.
    """
    return Likeness(a, signed=signed)(b)


class Likeness:
    """How alike maps are to those of the same inputs that stay the same; what depends on these is computed once."""

    def __init__(
        self, maps: Float[Tensor, "n *entries"], *, signed: bool, outlines: Float[Tensor, "n h w"] | None = None
    ) -> None:
        """The maps that stay.

        Args:
            maps: One number per position.
            signed: False leaves out the correlation with sign.
            outlines: Other maps of the same inputs, whose rank correlation with the sizes is added.
        """
        self._maps = maps
        self._signed = ranks_of(maps.flatten(1)) if signed else None
        self._sizes = ranks_of(maps.flatten(1).abs())
        self._outlines = ranks_of(outlines.flatten(1)) if outlines is not None else None
        self._structure = Structure(maps) if maps.ndim == 3 and min(maps.shape[1:]) >= 3 else None
        self._hog = hog(maps) if maps.ndim == 3 and min(maps.shape[1:]) >= 2 * _HOG_CELL else None

    def __call__(self, b: Float[Tensor, "n *entries"]) -> dict[str, Float[Tensor, " n"]]:
        """By measure, the likeness of each of these maps to its own."""
        if b.ndim == 2:
            return self._of_rows(b)
        sizes = ranks_of(b.flatten(1).abs())
        found = {SIGNED: pearson(self._signed, ranks_of(b.flatten(1)))} if self._signed is not None else {}
        found[SIZES] = pearson(self._sizes, sizes)
        if self._structure is not None:
            found["SSIM"] = self._structure(b)
        if self._hog is not None:
            found["HOG correlation"] = pearson(self._hog, hog(b))
        if self._outlines is not None:
            found[EDGES] = pearson(sizes, self._outlines)
        return found

    def _of_rows(self, b: Float[Tensor, "n entries"]) -> dict[str, Float[Tensor, " n"]]:
        """For rows and texts, over entries that are not zero in both: a column at its baseline is zero in any map."""
        found: dict[str, list[float]] = {SIGNED: [], SIZES: []} if self._signed is not None else {SIZES: []}
        for p, q in zip(self._maps, b, strict=True):
            told = (p != 0) | (q != 0)
            for name, values in found.items():
                one, other = (p[told], q[told]) if name == SIGNED else (p[told].abs(), q[told].abs())
                values.append(float(spearman(one, other)) if len(one) > 2 else math.nan)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}


def ssim(a: Float[Tensor, "h w"], b: Float[Tensor, "h w"]) -> float:
    """Structural similarity of two maps; see `Structure`."""
    return float(Structure(a[None])(b[None]))


class Structure:
    """Structural similarity (SSIM) to maps that stay, each map divided by its largest size; 1 for equal ones.

    mean over windows of (2 m_a m_b + c) (2 cov_ab + d) / ((m_a^2 + m_b^2 + c) (var_a + var_b + d)),
    c = 0.02^2, d = 0.06^2, in Gaussian windows of 1.5 pixels; in even ones where a map is smaller than 11 x 11

    Two maps that are zero nearly everywhere are alike, too, wherever they are not zero.

    Source: Wang et al. 2004, equation 13, with covariances over one less than the pixels of a window.
    """

    def __init__(self, maps: Float[Tensor, "n h w"]) -> None:
        """The maps that stay."""
        window = min(11, *maps.shape[1:])
        self._window = window - 1 + window % 2
        self._maps = _scaled(maps)
        self._means, self._squares = self._smooth(self._maps), self._smooth(self._maps.square())

    def __call__(self, b: Float[Tensor, "n h w"]) -> Float[Tensor, " n"]:
        """The similarity of each map to its own."""
        b = _scaled(b)
        means, product, count = self._smooth(b), self._smooth(self._maps * b), self._window**2
        both, sizes = self._means * means, self._means.square() + means.square()
        likeness = (2 * both + 0.02**2) / (sizes + 0.02**2)
        sample = count / (count - 1)
        spread = sample * (self._squares + self._smooth(b.square()) - sizes) + 0.06**2
        likeness *= (2 * sample * (product - both) + 0.06**2) / spread
        return likeness.mean((1, 2))

    def _smooth(self, maps: Tensor) -> Tensor:
        """Means over the windows that lie inside."""
        from scipy.ndimage import gaussian_filter, uniform_filter

        size, edge = self._window, self._window // 2
        smooth = (
            gaussian_filter(maps.numpy(), sigma=1.5, truncate=3.5, axes=(1, 2))
            if size == 11
            else uniform_filter(maps.numpy(), size=size, axes=(1, 2))
        )
        rows, columns = (length - edge for length in maps.shape[1:])
        return torch.from_numpy(smooth[:, edge:rows, edge:columns])


def hog(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n features"]:
    """Histograms of oriented gradients: where lines are and how they run, each cell divided by its own size.

    Nine directions over half a turn, cells of 8 x 8 pixels, every cell a block. A cell's histogram is divided by its
    norm, cut at 0.2 and divided again.

    Source: Dalal and Triggs 2005, with their L2-Hys.
    """
    values = _scaled(maps)
    down, across = torch.zeros_like(values), torch.zeros_like(values)
    down[:, 1:-1], across[:, :, 1:-1] = values[:, 2:] - values[:, :-2], values[:, :, 2:] - values[:, :, :-2]
    turn = torch.rad2deg(torch.atan2(down, across)) % 180
    which = (turn * (_DIRECTIONS / 180)).long().clamp(max=_DIRECTIONS - 1)
    count, (rows, columns) = len(maps), (length // _HOG_CELL for length in maps.shape[1:])
    # One number for each pair of cell and direction, so that all histograms are one.
    cell = torch.arange(rows * columns).view(rows, columns)
    cell = cell.repeat_interleave(_HOG_CELL, 0).repeat_interleave(_HOG_CELL, 1)
    inside = (slice(None), slice(rows * _HOG_CELL), slice(columns * _HOG_CELL))
    bins = which[inside] + _DIRECTIONS * (cell + rows * columns * torch.arange(count)[:, None, None])
    length = torch.hypot(down, across)[inside] / _HOG_CELL**2
    cells = torch.bincount(bins.flatten(), length.flatten(), count * rows * columns * _DIRECTIONS)
    cells = cells.view(count, rows * columns, _DIRECTIONS)
    for limit in (0.2, math.inf):
        cells = (cells / (cells.square().sum(-1, keepdim=True) + 1e-10).sqrt()).clamp(max=limit)
    return cells.flatten(1)


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


def _scaled(maps: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Maps divided each by its largest size, so that they lie in [-1, 1]; in double precision, on the CPU."""
    maps = maps.double().cpu()
    largest = maps.abs().amax((1, 2), keepdim=True)
    return maps / torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
