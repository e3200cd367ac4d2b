"""DeepDream: a photo changed, from coarse to fine, so that a layer sees more of whatever it sees in it."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.door import is_finite
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.layers import last_with_positions
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Pictures
from cutaway.core.target import Target, energy
from cutaway.visualization.ascend import shown, sized_for
from cutaway.visualization.places import photos

# How far a picture moves at each step, as a share of its side: against patterns that fit the pixel grid.
_MOVE = 1 / 7
# A side that is no smaller than this, unless the photo is.
_LEAST = 16


@method(
    paper="mordvintsev2015",
    laws={"rises", "seeded"},
    needs={"gradient", "image"},
    quick={"steps": 3, "octaves": 2},
)
def deep_dream(
    model: Model,
    x: Batch,
    *,
    objective: str | Target = "",
    octaves: int = 4,
    ratio: float = 1.4,
    steps: int = 20,
    rate: float = 0.01,
    seed: int = 0,
) -> Pictures:
    """The photo, changed so that a layer finds more of what it already finds in it.

    z <- z + rate * g / mean |g|,   g = d objective / d z,   first on small copies of the photo, then on larger ones

    Each size starts from the photo at that size plus what the smaller ones added. `octaves * steps` forwards and
    backwards for each photo, those on small copies cheaper.

    Args:
        objective: What to raise: any target, or a list of one for each photo. The mean square of the last layer with
            positions, `energy("...")`, if none is named.
        octaves: Sizes, each `ratio` times as large as the one before; the last is the photo's own.
        ratio: Of neighbouring sizes, above 1.
        steps: At each size.
        rate: Mean change of a pixel at each step, as a share of the range.
        seed: Of the moves between steps.

    Returns:
        The changed photos, (n, 3, height, width) in [0, 1], each with its objective in the caption.

    Source: Mordvintsev, Olah and Tyka 2015. Differs: the slope is taken of the network's own objective for any target,
    and the picture is kept within the bounds of its space.
    """
    assert isinstance(x, Tensor)
    if octaves < 1 or ratio <= 1 or steps < 0 or rate <= 0:
        raise BadOption(
            f"expected octaves from 1, a ratio above 1, steps from 0 and a rate above 0; "
            f"got {octaves}, {ratio:g}, {steps} and {rate:g}."
        )
    aim = Target.of(objective or energy(last_with_positions(model, x[:1])), model)
    if aim.rows and len(aim.rows) != len(x):
        raise BadOption(f"expected one objective, or one for each of {len(x)} photos; got {len(aim.rows)}.")
    generator = torch.Generator().manual_seed(seed)
    picture = x
    for height, width in _sizes(x, octaves, ratio):
        base = _resized(x, height, width)
        picture = base + _resized(picture - _resized(x, *picture.shape[2:]), height, width)
        picture = _dreamt(model, picture, aim, steps, rate, generator)
    before, after = (aim(model.run(z, read=aim.sites)).double().expand(len(x)) for z in (x, picture))
    captions = [f"{aim.row(i)}: {before[i]:.3g} to {after[i]:.3g}" for i in range(len(x))]
    return Pictures(images=photos(model, picture), captions=captions, checks=_checks(before, after))


def _sizes(x: Tensor, octaves: int, ratio: float) -> list[tuple[int, int]]:
    """From the smallest to the photo's own."""
    height, width = x.shape[2:]
    found = [(round(height / ratio**k), round(width / ratio**k)) for k in reversed(range(octaves))]
    return [size for size in found if min(size) >= _LEAST] or [(height, width)]


def _dreamt(model: Model, picture: Tensor, aim: Target, steps: int, rate: float, generator: torch.Generator) -> Tensor:
    """Some steps at one size."""
    height, width = picture.shape[2:]
    low, high = model.space.low, model.space.high
    picture = picture.clamp(low, high)
    most = max(1, round(_MOVE * min(height, width)))

    def so_far() -> Tensor:
        return photos(model, picture)

    with shown(model, [aim], (height, width)) as sized:
        for _ in track(range(steps), f"{height} x {width}", pictures=so_far):
            moves = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
            leaf = picture.detach().requires_grad_()
            seen = sized_for(sized, torch.roll(leaf, moves, (2, 3)))
            (slope,) = torch.autograd.grad(seen, leaf, sized.gradient(seen.detach(), aim).slope)
            if not is_finite(slope):
                raise NotPossible(f"the slope of {aim} is not finite in {model.name}.")
            typical = slope.abs().mean((1, 2, 3), keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
            picture = (picture + rate * (high - low) * slope / typical).clamp(low, high)
    return picture


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    if tuple(x.shape[2:]) == (height, width):
        return x
    return interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=True)


def _checks(before: Tensor, after: Tensor) -> dict[str, Check]:
    rose = after > before
    text = f"The objective is {float(after.mean()):.4g} on the pictures, and {float(before.mean()):.4g} on the photos."
    if not rose.all():
        text += f" It did not rise on {int((~rose).sum())} of {len(rose)}."
    checks = {"score": Check(text, "ok" if rose.all() else "fail", float(after.mean()))}
    if (after == before).any():
        text = "A photo did not change its objective at all: such a unit never fires here, so it has no slope."
        checks["silent"] = Check(text, "fail")
    return checks
