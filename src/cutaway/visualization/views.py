"""Random views of a picture: a little aside, larger or smaller, and turned. What survives them is no pixel pattern."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

# As in Olah et al. 2017, whose pixels are those of a picture with 128 along a side: moves of up to 4 and 2 pixels,
# sizes from 0.9 to 1.1, and turns of up to 10 degrees, or none in 5 of 26 cases.
_FIRST, _SECOND, _SCALES, _ANGLE, _STRAIGHT = 4 / 128, 2 / 128, 11, 10, 5


@dataclass(frozen=True)
class View:
    """How a picture is looked at.

    Attributes:
        down, across: Moves in pixels, before scaling and turning, and after.
        scale: Above 1, the picture seems larger.
        angle: In degrees.
    """

    down: tuple[int, int] = (0, 0)
    across: tuple[int, int] = (0, 0)
    scale: float = 1.0
    angle: float = 0.0

    def of(self, pictures: Float[Tensor, "k c h w"], fill: float) -> Float[Tensor, "k c h w"]:
        """The pictures as they are seen so, `fill` where they end; linear between pixels."""
        if self == View():
            return pictures
        h, w = pictures.shape[2:]
        matrix = (self._moved(0, h, w) @ self._turned(h, w) @ self._moved(1, h, w))[:2].to(pictures)
        grid = affine_grid(matrix[None], [1, 1, h, w], align_corners=False)
        seen = grid_sample(pictures - fill, grid.expand(len(pictures), -1, -1, -1), align_corners=False)
        return seen + fill

    def _moved(self, which: int, h: int, w: int) -> Tensor:
        """From a place in what is seen to the one in the picture, in units of half a side."""
        matrix = torch.eye(3, dtype=torch.float64)
        matrix[0, 2], matrix[1, 2] = -2 * self.across[which] / w, -2 * self.down[which] / h
        return matrix

    def _turned(self, h: int, w: int) -> Tensor:
        turn = math.radians(self.angle)
        cos, sin = math.cos(turn) / self.scale, math.sin(turn) / self.scale
        return torch.tensor([[cos, sin * h / w, 0], [-sin * w / h, cos, 0], [0, 0, 1]], dtype=torch.float64)


def drawn(size: int, generator: torch.Generator) -> View:
    """A random view of pictures with so many pixels along a side."""
    first, second = (max(1, round(share * size)) if size > 1 else 0 for share in (_FIRST, _SECOND))

    def below(count: int) -> int:
        return int(torch.randint(count, (1,), generator=generator))

    down, across = ((below(2 * first + 1) - first, below(2 * second + 1) - second) for _ in range(2))
    scale = 1 + (below(_SCALES) - _SCALES // 2) / 50
    angle = below(2 * _ANGLE + 1 + _STRAIGHT) - _ANGLE
    return View(down, across, scale, float(angle) if angle <= _ANGLE else 0.0)
