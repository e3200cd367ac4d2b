"""Masks without fine detail: the smooth maximum of bumps on a coarse grid."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# A bump's radius in cells of the grid, how far it reaches, and how close the smooth maximum is to the maximum.
_RADIUS = 3
_REACH = 6
_SHARPNESS = 20.0


class SmoothMasks:
    """Masks of one image size, each from a coarse grid of heights in [0, 1].

    mask_u = smax over v of k(|u - v| / radius) height_v,   k(z) = exp(-2 max(0, z - 1/2)^2)
    smax f = sum f e^(20 f) / sum e^(20 f)

    Taken at the centres of the cells, and linear between them. The grid goes on for a radius around the image, and its
    outermost heights beyond that, so that a mask may end at the border as it does elsewhere. Divided by the value that
    heights of 1 everywhere give.

    Args:
        height, width: Of the image.
        detail: Radius of a bump, as a share of the shorter side.
        dtype, device: Of the masks.
    """

    def __init__(self, height: int, width: int, detail: float, dtype: torch.dtype, device: torch.device) -> None:
        cell = max(1.0, detail * min(height, width) / _RADIUS)
        self.inside = (max(1, round(height / cell)), max(1, round(width / cell)))
        self._size = (height, width)
        offset = torch.arange(-_REACH, _REACH + 1, dtype=dtype, device=device)
        distance = (offset[:, None] ** 2 + offset**2).sqrt().flatten() / _RADIUS
        self._near = distance <= _REACH / _RADIUS
        self._bump = torch.exp(-2 * (distance - 0.5).clamp(min=0) ** 2)[self._near][None, :, None]
        self.shape = (self.inside[0] + 2 * _RADIUS, self.inside[1] + 2 * _RADIUS)
        self._full = self._smax(torch.ones(1, 1, *self.shape, dtype=dtype, device=device))

    def __call__(self, heights: Float[Tensor, "k 1 a b"]) -> tuple[Float[Tensor, "k 1 p q"], Float[Tensor, "k 1 h w"]]:
        """The masks at the cells of the image, and at its pixels; a hair above 1 in places, where they mean 1."""
        cells = self._smax(heights) / self._full
        return cells, F.interpolate(cells, size=self._size, mode="bilinear", align_corners=False)

    def _smax(self, heights: Tensor) -> Tensor:
        wide = F.pad(heights, [_REACH - _RADIUS] * 4, mode="replicate")
        around = F.unfold(wide, 2 * _REACH + 1)[:, self._near] * self._bump
        return (around * torch.softmax(_SHARPNESS * around, 1)).sum(1).unflatten(1, (1, *self.inside))
