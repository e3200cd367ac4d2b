"""Images that a layer cannot tell from a given one: what its activation still says of the input."""

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.budget import in_time
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.site import Site
from cutaway.core.target import Target, per_row

_STEP, _MEMORY, _SPREAD, _TINY = 0.03, 0.9, 0.999, 1e-8
# Price of the differences between neighbouring pixels, beside a distance that is 1 for an image without activation.
_ROUGHNESS = 5.0
# Largest move of the image between two steps, as a share of its side: against patterns that fit the pixel grid.
_MOVE = 1 / 56


def inverted(
    model: Model,
    site: Site,
    act: Float[Tensor, "1 ..."],
    masks: Float[Tensor, "k ..."],
    shape: torch.Size,
    steps: int,
    seed: int,
) -> tuple[Float[Tensor, "k c h w"], tuple[float, ...], int]:
    """One image for each mask, with that part of the activation; how far it is from it, relative to its length.

    min over z of   |mask (A(z) - act)|^2 / |mask act|^2 + price * mean |grad z|

    Adam from faint noise, moved a little between steps; one forward and one backward for each image and step. Last of
    the answer is the number of steps, which the time limit may end.
    """
    low, high = model.space.low, model.space.high
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((1, *shape[1:]), generator=generator, dtype=torch.float64).to(act)
    z = ((low + high) / 2 + 0.02 * (high - low) * start).repeat(len(masks), 1, 1, 1).clamp(low, high)
    aim = _distance(site, act, masks)
    mean, square = torch.zeros_like(z), torch.zeros_like(z)
    most = round(_MOVE * min(shape[2:]))
    step = 0
    for step in track(in_time(range(steps)), "inversion", steps):
        moves = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
        found = model.gradient(torch.roll(z, moves, (2, 3)), aim)
        slope = torch.roll(found.slope, [-m for m in moves], (2, 3)) + _roughness_slope(z, high - low)
        mean, square = _MEMORY * mean + (1 - _MEMORY) * slope, _SPREAD * square + (1 - _SPREAD) * slope**2
        ahead, spread = mean / (1 - _MEMORY ** (step + 1)), square / (1 - _SPREAD ** (step + 1))
        rate = _STEP * (high - low) * (1 - step / steps)
        z = (z - rate * ahead / (spread.sqrt() + _TINY)).clamp(low, high)
    off = aim(model.run(z, read=[site])).clamp(min=0).sqrt()
    return z, tuple(off.tolist()), step + 1


def _distance(site: Site, act: Tensor, masks: Tensor) -> Target:
    """The squared distance of each row's activation from the wanted one, where its mask looks, by its length."""
    sizes = (masks * act).flatten(1).square().sum(1).clamp(min=torch.finfo(act.dtype).tiny)

    def of(k: int) -> Target:
        return Target(
            f"distance {k}",
            (site,),
            lambda trace: (masks[k] * (trace[site] - act)).flatten(1).square().sum(1) / sizes[k],
        )

    return per_row([of(k) for k in range(len(masks))])


def _roughness_slope(z: Tensor, width: float) -> Tensor:
    """Of the mean absolute difference between neighbours, in units of the range, with respect to the pixels."""
    slope = torch.zeros_like(z)
    for axis in (2, 3):
        sign = z.diff(dim=axis).sign() / (width * z[0].numel())
        slope.narrow(axis, 1, z.shape[axis] - 1).add_(sign)
        slope.narrow(axis, 0, z.shape[axis] - 1).sub_(sign)
    return _ROUGHNESS * slope
