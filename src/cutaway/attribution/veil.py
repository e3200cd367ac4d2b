"""An image under a mask: where the mask is 1 it is as it was, where it is 0 it is blurred or replaced."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.attribution.occlusion import admitted
from cutaway.core.batch import Batch
from cutaway.core.fill import Fill, gaussian_blur
from cutaway.core.model import Model

# As in the papers: eight levels, the last with a Gaussian of 20 pixels where the image has 224.
_LEVELS = 8
_STRONGEST = 20 / 224


class Veil:
    """One image in several states, from as it is to fully hidden, and every state between two of them.

    Args:
        levels: The states, from the image to the hidden one; between neighbours the picture changes linearly.
    """

    def __init__(self, levels: Float[Tensor, "levels c h w"]) -> None:
        self._levels = levels

    @property
    def hidden(self) -> Float[Tensor, "1 c h w"]:
        """The image under a mask of zeros."""
        return self._levels[-1:]

    def __call__(self, masks: Float[Tensor, "k 1 h w"]) -> Float[Tensor, "k c h w"]:
        """The image under each mask, with entries from 0 to 1."""
        clear, dim, share = self._around(masks)
        return torch.lerp(clear, dim, share)

    def back(self, masks: Float[Tensor, "k 1 h w"], slope: Float[Tensor, "k c h w"]) -> Float[Tensor, "k 1 h w"]:
        """From the slope of a score with respect to the pictures to that with respect to the masks."""
        clear, dim, _ = self._around(masks)
        return (slope * (clear - dim)).sum(1, keepdim=True) * (len(self._levels) - 1)

    def _around(self, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The states before and after that of each pixel, and how far it is from the first to the second."""
        depth = (1 - masks) * (len(self._levels) - 1)
        before = depth.floor().clamp(0, len(self._levels) - 2)
        which = before.long().expand(-1, self._levels.shape[1], -1, -1)
        return self._levels.gather(0, which), self._levels.gather(0, which + 1), depth - before


def blurring(model: Model, row: Batch) -> Veil:
    """Hidden means blurred, the more the less the mask is: no pixel of another image, no new edge."""
    image = admitted(model, row, row if isinstance(row, Tensor) else next(iter(row.values())))
    strongest = max(1.0, _STRONGEST * min(image.shape[2:]))
    levels = [gaussian_blur(image, strongest * k / (_LEVELS - 1)) for k in range(1, _LEVELS)]
    # A blurred image keeps the image's bounds, but for rounding.
    return Veil(torch.cat([image, *levels]).clamp(model.space.low, model.space.high))


def fading(model: Model, row: Batch, fill: Fill, seed: int = 0) -> Veil:
    """Hidden means mixed with a fill, the more the less the mask is."""
    image = admitted(model, row, row if isinstance(row, Tensor) else next(iter(row.values())))
    hidden = admitted(model, row, fill(image, model.space, torch.Generator().manual_seed(seed)))
    return Veil(torch.cat([image, hidden]))


def relative(score: float, full: float, none: float) -> float:
    """Where a score lies between that of the hidden image (0) and that of the whole one (1)."""
    span = full - none
    return (score - none) / span if span and math.isfinite(span) else math.nan
