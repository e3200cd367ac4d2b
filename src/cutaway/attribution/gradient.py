"""Slopes of the target: the gradient, its product with the input, and its average under noise."""

import torch
from torch import Tensor

from cutaway.core.batch import Batch, repeat, size, take
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

# Noise samples in memory at once.
_BLOCK = 32
_SLOPE = "target per input unit"


@method(
    paper="simonyan2014",
    laws={"batch_independent", "dummy", "linear_in_target", "same_for_equivalent_nets", "symmetric"},
    needs={"gradient"},
)
def gradient(model: Model, x: Batch, target: Target, *, wrt: Site = INPUT) -> Attribution:
    """How fast the target changes with each entry, at this input.

    values_i = d target(x) / d x_i

    One forward and one backward pass for each input.

    Args:
        wrt: Where to attribute; `input` is the pixel, the column or the embedding of a token.

    Returns:
        Slopes in the target's unit per unit of the place, shaped like the activation there.

    Source: Simonyan et al. 2014, section 3. Differs: signed, and with all channels kept.
    """
    score, _, slope = model.gradient(x, target, wrt=wrt)
    return Attribution(values=slope, target=str(target), wrt=str(wrt), unit=_SLOPE, score=score)


@method(
    paper="shrikumar2017",
    laws={"batch_independent", "dummy", "linear_in_target", "same_for_equivalent_nets", "symmetric"},
    needs={"gradient"},
)
def input_x_gradient(model: Model, x: Batch, target: Target, *, wrt: Site = INPUT) -> Attribution:
    """What each entry would contribute if the target were the straight line that touches it here and runs through 0.

    values_i = x_i * d target(x) / d x_i

    One forward and one backward pass for each input.

    Args:
        wrt: Where to attribute; at a layer, x is the activation there.

    Returns:
        Values in the target's unit, shaped like the activation at `wrt`. They sum to the target only where it is a
        homogeneous function of x, such as a logit of a ReLU network without biases.

    Source: Shrikumar et al. 2017, section 2. Differs: x is in the user's units, before the network's own normalisation,
    so a black pixel gets 0.
    """
    score, value, slope = model.gradient(x, target, wrt=wrt)
    values = value * slope
    return Attribution(
        values=values,
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=score,
        checks={"sum": _compared_sum(values, score)},
    )


@method(
    paper="smilkov2017",
    laws={"batch_independent", "dummy", "linear_in_target", "same_for_equivalent_nets"},
    needs={"gradient"},
    quick={"samples": 5},
)
def smoothgrad(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
) -> Attribution:
    """The gradient averaged over noisy copies of the input: the slope of the target, blurred at that scale.

    values_i = mean over e ~ N(0, sigma^2) of d target(x + e) / d x_i,   sigma = noise * range

    One forward and one backward pass for each sample.

    Args:
        wrt: Where to attribute, and where the noise is added.
        samples: Noisy copies of each input.
        noise: Standard deviation of the noise, as a share of the range: of the allowed interval for the pixels of an
        image
            or the entries of a latent vector, of the activation's own maximum minus minimum anywhere else.
        seed: Draws the noise; the same for each input.

    Returns:
        Slopes in the target's unit per unit of the place, shaped like the activation there. `extra["standard_error"]`
        says how much of them is chance.

    Source: Smilkov et al. 2017, section 2. Differs: the range is that of the space, not of the one picture.
    """
    if samples < 1:
        raise BadOption(f"expected at least one sample; got {samples}.")
    if noise < 0:
        raise BadOption(f"expected noise as a share of the range from 0 up, such as 0.15; got {noise:g}.")
    places = _activations(model, x, wrt)
    rows = []
    for i in track(range(size(x)), "smoothgrad"):
        sigma = noise * _range(model, places[i], wrt)
        slopes = _noisy_slopes(model, take(x, slice(i, i + 1)), target.row(i), wrt, places[i], sigma, samples, seed)
        rows.append((*slopes, torch.tensor(sigma)))
    values, error, sigmas = (torch.stack(part) for part in zip(*rows, strict=True))
    return Attribution(
        values=values.to(places),
        target=str(target),
        wrt=str(wrt),
        unit=_SLOPE,
        extra={"standard_error": error.to(places)} if samples > 1 else {},
        checks={"sigma": _noise_sentence(sigmas, noise), "error": _error_sentence(values, error, samples)},
    )


def _activations(model: Model, x: Batch, wrt: Site) -> Tensor:
    """The place's values for each input."""
    if wrt == INPUT and isinstance(x, Tensor) and model.space.kind != "tokens":
        return x
    return model.run(x, read=[wrt.whole])[wrt]


def _range(model: Model, place: Tensor, wrt: Site) -> float:
    if wrt.whole == INPUT and model.space.kind in ("image", "latent"):
        return model.space.range
    return float(place.max() - place.min())


def _noisy_slopes(
    model: Model, row: Batch, target: Target, wrt: Site, place: Tensor, sigma: float, samples: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Mean gradient of one input under noise, and its standard error; in double precision."""
    # A generator of its own for each input: otherwise the noise of one would depend on the others.
    generator = torch.Generator().manual_seed(seed)
    mean, squares = (torch.zeros_like(place, dtype=torch.float64) for _ in range(2))
    for start in range(0, samples, _BLOCK):
        count = min(_BLOCK, samples - start)
        step = torch.randn((count, *place.shape), generator=generator, dtype=place.dtype).to(place.device)
        points = place + sigma * step
        slope = model.gradient(repeat(row, count), target, wrt=wrt, edit={wrt: points}).slope.double()
        # Merged block by block: the mean of squares minus the square of the mean would lose all digits.
        apart = slope.mean(0) - mean
        mean += apart * count / (start + count)
        squares += (slope - slope.mean(0)).square().sum(0) + apart.square() * start * count / (start + count)
    return mean, (squares / max(samples - 1, 1) / samples).sqrt()


def _compared_sum(values: Tensor, score: Tensor) -> Check:
    sums = values.double().reshape(len(values), -1).sum(1)
    worst = int((sums - score.double()).abs().argmax())
    return Check(
        f"The values sum to {sums[worst]:.4g}; the target is {score[worst]:.4g}. "
        "They need not agree: only without biases is the target the sum of these products.",
        "note",
        float(sums[worst] - score[worst]),
    )


def _noise_sentence(sigma: Tensor, noise: float) -> Check:
    low, high = float(sigma.min()), float(sigma.max())
    size = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    if high == 0:
        return Check("The noise is 0, so this is the plain gradient.", "note", 0.0)
    return Check(
        f"The noise has a standard deviation of {size} in units of the place: {noise:.0%} of the range.", "ok", high
    )


def _error_sentence(values: Tensor, error: Tensor, samples: int) -> Check:
    if samples == 1:
        return Check("One sample has no standard error; use at least 2.", "warn")
    size, chance = (part.reshape(len(part), -1).square().mean(1).sqrt() for part in (values, error))
    share = float((chance / size.clamp_min(torch.finfo(size.dtype).tiny)).max())
    text = f"The standard error of the mean over {samples} samples is {share:.0%} of the size of the map"
    if share > 0.5:
        return Check(f"{text}: single values are mostly chance. Raise samples.", "warn", share)
    return Check(f"{text}.", "ok", share)
