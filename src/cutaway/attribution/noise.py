"""Slopes of the target near an input: their mean, their mean square and their variance under noise."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.batch import Batch, repeat, size, take
from cutaway.core.budget import afford, at_once, cut_short, fair_share, in_time
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target
from cutaway.maths.running import Running

# Noise samples in memory at once.
_BLOCK = 32
_SLOPE = "target per input unit"


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
        noise: Standard deviation of the noise, as a share of the range: of the allowed interval for the pixels of
            an image or the entries of a latent vector, of the activation's own maximum minus minimum anywhere else.
        seed: Draws the noise; the same for each input.

    Returns:
        Slopes in the target's unit per unit of the place, shaped like the activation there. `extra["standard_error"]`
        says how much of them is chance.

    Source: Smilkov et al. 2017, section 2. Differs: the range is that of the space, not of the one picture.
    """
    shaken = _shaken(model, x, target, wrt, samples, noise, seed, lambda slope: slope)
    return _averaged(shaken, target, wrt, noise, _SLOPE, signed=True)


@method(
    paper="hooker2019",
    laws={"batch_independent", "dummy", "same_for_equivalent_nets"},
    needs={"gradient"},
    quick={"samples": 5},
)
def smoothgrad_squared(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
) -> Attribution:
    """The squared gradient averaged over noisy copies of the input: how strongly the target reacts nearby, up or down.

    values_i = mean over e ~ N(0, sigma^2) of (d target(x + e) / d x_i)^2,   sigma = noise * range

    It is the square of `smoothgrad` plus `vargrad`. One forward and one backward pass for each sample.

    Args:
        wrt: Where to attribute, and where the noise is added.
        samples: Noisy copies of each input.
        noise: Standard deviation of the noise, as a share of the range; see `smoothgrad`.
        seed: Draws the noise; the same for each input.

    Returns:
        Squared slopes, never negative, shaped like the activation at `wrt`. `extra["standard_error"]` says how much of
        them is chance.

    Source: Hooker et al. 2019, section 4.
    """
    shaken = _shaken(model, x, target, wrt, samples, noise, seed, torch.square)
    return _averaged(shaken, target, wrt, noise, f"({_SLOPE}) squared", signed=False)


@method(
    paper="adebayo2018local",
    laws={"batch_independent", "dummy", "same_for_equivalent_nets"},
    needs={"gradient"},
    quick={"samples": 5},
)
def vargrad(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
) -> Attribution:
    """How much the gradient of each entry varies when the input is shaken a little.

    values_i = variance over e ~ N(0, sigma^2) of d target(x + e) / d x_i,   sigma = noise * range

    One forward and one backward pass for each sample.

    Args:
        wrt: Where to attribute, and where the noise is added.
        samples: Noisy copies of each input; at least 2.
        noise: Standard deviation of the noise, as a share of the range; see `smoothgrad`.
        seed: Draws the noise; the same for each input.

    Returns:
        Variances (the mean square minus the squared mean), never negative, shaped like the activation at `wrt`.

    Source: Adebayo et al. 2018 (local explanations), equation 3.
    """
    if samples < 2:
        raise BadOption(f"expected at least two samples, since one has no variance; got {samples}.")
    shaken = _shaken(model, x, target, wrt, samples, noise, seed, lambda slope: slope)
    values, least = shaken.variance, min(shaken.samples)
    share = (2 / (least - 1)) ** 0.5
    text = f"{least} samples tell the variance of a normal number to within a standard error of {share:.0%} of it."
    return Attribution(
        values=values.to(shaken.dtype),
        target=str(target),
        wrt=str(wrt),
        unit=f"({_SLOPE}) squared",
        signed=False,
        checks={
            "sigma": _noise_sentence(shaken.sigma, noise),
            "error": Check(text, "note", share),
            **cut_short(shaken.samples, samples, "samples"),
        },
    )


class _Shaken(NamedTuple):
    """Moments of what the noisy copies gave, (n, ...) in double precision, and for each input its noise and samples."""

    mean: Tensor
    variance: Tensor
    sigma: Tensor
    samples: tuple[int, ...]
    wanted: int
    dtype: torch.dtype


def _shaken(
    model: Model,
    x: Batch,
    target: Target,
    wrt: Site,
    samples: int,
    noise: float,
    seed: int,
    of: Callable[[Tensor], Tensor],
) -> _Shaken:
    """Mean and variance of a function of the slope under noise."""
    if samples < 1:
        raise BadOption(f"expected at least one sample; got {samples}.")
    if noise < 0:
        raise BadOption(f"expected noise as a share of the range from 0 up, such as 0.15; got {noise:g}.")
    passes = size(x) * samples
    afford(passes, f"gradients under noise with {samples:,} samples", backwards=passes, stops=True)
    places = _activations(model, x, wrt)
    moments, sigmas = [], []
    for i in track(range(size(x)), "noisy gradients"):
        sigmas.append(noise * _range(model, places[i], wrt))
        row, wanted = take(x, slice(i, i + 1)), target.row(i)
        with fair_share(size(x) - i):
            moments.append(_moments(model, row, wanted, wrt, places[i], sigmas[-1], samples, seed, of))
    mean, variance, done = zip(*moments, strict=True)
    return _Shaken(torch.stack(mean), torch.stack(variance), torch.tensor(sigmas), done, samples, places.dtype)


def _activations(model: Model, x: Batch, wrt: Site) -> Tensor:
    """The place's values for each input."""
    if wrt == INPUT and isinstance(x, Tensor) and model.space.kind != "tokens":
        return x
    return model.run(x, read=[wrt.whole])[wrt]


def _range(model: Model, place: Tensor, wrt: Site) -> float:
    if wrt.whole == INPUT and model.space.kind in ("image", "latent"):
        return model.space.range
    return float(place.max() - place.min())


def _moments(
    model: Model,
    row: Batch,
    target: Target,
    wrt: Site,
    place: Tensor,
    sigma: float,
    samples: int,
    seed: int,
    of: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, int]:
    """Mean and variance for one input, in double precision, and of how many samples."""
    found = Running()
    for step in in_time(_noise(place, samples, seed)):
        points = place + sigma * step
        found.add(of(model.gradient(repeat(row, len(step)), target, wrt=wrt, edit={wrt: points}).slope.double()))
    return found.mean, found.variance(unbiased=False), found.count


def _noise(place: Tensor, samples: int, seed: int) -> Iterator[Tensor]:
    """Normal noise for so many copies of a place, some of them at a time."""
    # A generator of its own for each input: otherwise the noise of one would depend on the others.
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, samples, _BLOCK):
        shape = (min(_BLOCK, samples - start), *place.shape)
        yield from torch.randn(shape, generator=generator, dtype=place.dtype).to(place.device).split(at_once(_BLOCK))


def _averaged(shaken: _Shaken, target: Target, wrt: Site, noise: float, unit: str, *, signed: bool) -> Attribution:
    samples = torch.tensor(shaken.samples).view(-1, *[1] * (shaken.mean.ndim - 1)).to(shaken.mean)
    error, least = (shaken.variance / (samples - 1).clamp(min=1)).sqrt(), min(shaken.samples)
    return Attribution(
        values=shaken.mean.to(shaken.dtype),
        target=str(target),
        wrt=str(wrt),
        unit=unit,
        signed=signed,
        extra={"standard_error": error.to(shaken.dtype)} if least > 1 else {},
        checks={
            "sigma": _noise_sentence(shaken.sigma, noise),
            "error": _error_sentence(shaken.mean, error, least),
            **cut_short(shaken.samples, shaken.wanted, "samples"),
        },
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
