"""What is optimised in place of pixels: numbers that stand for pictures.

The Fourier canvas is an orthonormal change of basis (the Hartley transform, which is real, and its own inverse) with
its waves weighted by one over their frequency, and its three colours mixed as they are in photos. A step of the same
length in all parameters then changes a picture as photos differ from each other, mostly smoothly.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

Canvas = Literal["fourier", "pixel", "shared", "alpha"]

# The square root of the covariance of colours in photos, by the length of its longest column (Olah et al. 2017).
_COLOURS = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]], dtype=torch.float64)
_COLOURS = _COLOURS / _COLOURS.norm(dim=0).max()
# Standard deviation of the first parameters, and how much a wave of frequency 1 adds to a picture.
_FAINT, _GAIN = 0.01, 2**0.5 / 4
# Coarse layers of the shared canvas: one cell for so many pixels of a side, alike in all pictures.
_COARSE = (4, 8, 16)
# The darkest and brightest that a given picture can be: 0 and 1 would need infinite parameters.
_DARK = 0.01


class Easel(NamedTuple):
    """Parameters to optimise, and the function from them to pictures (k, channels, h, w) in [0, 1]."""

    parameters: list[Tensor]
    paint: Callable[[list[Tensor]], Tensor]


def hartley(x: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
    """The Hartley transform over two axes: orthonormal, real, its own inverse.

    H(u, v) = 1 / sqrt(h w) * sum over y, x of x(y, x) cas(2 pi (u y / h + v x / w)),   cas a = cos a + sin a
    """
    # In half precision there is no Fourier transform.
    waves = torch.fft.fft2(x.to(torch.promote_types(x.dtype, torch.float32)), norm="ortho")
    return (waves.real - waves.imag).to(x)


def falloff(h: int, w: int) -> Float[Tensor, "h w"]:
    """The weight of each wave: one over its frequency in cycles per pixel, at most that of one cycle per side."""
    y, x = torch.fft.fftfreq(h, dtype=torch.float64), torch.fft.fftfreq(w, dtype=torch.float64)
    return _GAIN / torch.hypot(y[:, None], x[None, :]).clamp(min=1 / max(h, w))


def easel(
    canvas: Canvas, groups: int, copies: int, shape: tuple[int, int, int], generator: torch.Generator, like: Tensor
) -> Easel:
    """Faint noise to begin with: the same for each group, another one for each copy.

    Args:
        canvas: Which one.
        groups: Things to be pictured.
        copies: Pictures of each.
        shape: Channels, height and width of a picture.
        generator: Of the noise.
        like: A tensor of the wanted type and device.
    """
    channels, h, w = shape
    channels += canvas == "alpha"

    def noise(copies: int, *size: int) -> Tensor:
        drawn = _FAINT * torch.randn((copies, channels, *size), generator=generator, dtype=torch.float64)
        return drawn.to(like)

    own = noise(copies, h, w).repeat(groups, 1, 1, 1)
    if canvas == "pixel":
        return Easel([own], lambda p: torch.sigmoid(p[0]))
    weights = falloff(h, w).to(like)

    def fine(p: Tensor) -> Tensor:
        return coloured(hartley(p * weights))

    if canvas != "shared":
        return Easel([own], lambda p: torch.sigmoid(fine(p[0])))
    coarse = [noise(1, -(-h // cell), -(-w // cell)) for cell in _COARSE]

    def both(p: list[Tensor]) -> Tensor:
        common = sum(coloured(interpolate(c, (h, w), mode="bilinear", align_corners=False)) for c in p[1:])
        return torch.sigmoid(fine(p[0]) + common)

    return Easel([own, *coarse], both)


def easel_with(pictures: Float[Tensor, "k c h w"]) -> Easel:
    """The Fourier canvas with given pictures in [0, 1] on it."""
    weights = falloff(*pictures.shape[2:]).to(pictures)
    values = torch.logit(pictures.clamp(_DARK, 1 - _DARK))
    start = hartley(coloured(values, inverse=True)) / weights
    return Easel([start], lambda p: torch.sigmoid(coloured(hartley(p[0] * weights))))


def coloured(x: Float[Tensor, "k c h w"], *, inverse: bool = False) -> Float[Tensor, "k c h w"]:
    """Independent colours mixed as in photos; other channels than the first three, and grey pictures, stay."""
    if x.shape[1] < 3:
        return x
    mix = (torch.linalg.inv(_COLOURS) if inverse else _COLOURS).to(x)
    colours = torch.einsum("cd,kdhw->kchw", mix, x[:, :3])
    return colours if x.shape[1] == 3 else torch.cat([colours, x[:, 3:]], dim=1)
