"""Slopes of the target, their size and their product with the input; and how far each entry is from the mean."""

from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site, unit_axis
from cutaway.core.target import Target

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
    paper="li2016",
    laws={"batch_independent", "dummy", "same_for_equivalent_nets", "symmetric"},
    needs={"gradient"},
)
def first_derivative(model: Model, x: Batch, target: Target, *, wrt: Site = INPUT) -> Attribution:
    """How strongly the target reacts to each entry, up or down: for a text, to each dimension of each word.

    values_i = |d target(x) / d x_i|

    One forward and one backward pass for each input.

    Args:
        wrt: Where to attribute; `input` is the pixel, the column or the embedding of a token.

    Returns:
        Sizes of slopes in the target's unit per unit of the place, shaped like the activation there.

    Source: Li et al. 2016, section 5.1. Differs: a word that comes twice has a value at each of its positions.
    """
    score, _, slope = model.gradient(x, target, wrt=wrt)
    return Attribution(values=slope.abs(), target=str(target), wrt=str(wrt), unit=_SLOPE, score=score, signed=False)


@method(paper="li2016", laws={"batch_independent", "same_for_equivalent_nets"})
def variance_saliency(model: Model, x: Batch, target: Target, *, wrt: Site = INPUT) -> Attribution:
    """How far each word lies from the mean word of its text, dimension by dimension; the network is not asked.

    values_pd = (e_pd - mean over q of e_qd)^2,   p and q positions, d a dimension

    Positions are the tokens of a text without its padding, the pixels of a channel, the columns of a row. One forward
    pass for each input, to read the place and the target.

    Args:
        wrt: Where to look; at a layer, positions are those of one unit, and units where each has only one.

    Returns:
        Squared distances in squared units of the place, shaped like the activation there; 0 at padding.

    Source: Li et al. 2016, section 5.2. Differs: a word that comes twice has a value at each of its positions.
    """
    trace = model.run(x, read=[wrt.whole, *target.sites])
    act = trace[wrt.whole]
    axis = unit_axis(act, trace.module(wrt))
    positions = [a for a in range(1, act.ndim) if a != axis] or [axis]
    real = _real(model, x, act, wrt)
    mean = (act * real).sum(positions, keepdim=True) / real.expand_as(act).sum(positions, keepdim=True).clamp_min(1)
    values = ((act - mean).square() * real)[wrt.index(act, trace.module(wrt))]
    text = "These values do not depend on the network's answer: they are the same for every target."
    return Attribution(
        values=values,
        target=str(target),
        wrt=str(wrt),
        unit="squared units of the place",
        score=target(trace),
        signed=False,
        checks={"blind": Check(text, "note")},
    )


def _real(model: Model, x: Batch, act: Tensor, wrt: Site) -> Tensor:
    """1 where a position is a token of the text, 0 at padding."""
    mask = x.get("attention_mask") if isinstance(x, dict) else None
    if mask is None or model.space.kind != "tokens" or act.ndim != 3 or act.shape[:2] != mask.shape:
        return act.new_ones(())
    return mask[:, :, None].to(act)


def _compared_sum(values: Tensor, score: Tensor) -> Check:
    sums = values.double().reshape(len(values), -1).sum(1)
    worst = int((sums - score.double()).abs().argmax())
    return Check(
        f"The values sum to {sums[worst]:.4g}; the target is {score[worst]:.4g}. "
        "They need not agree: only without biases is the target the sum of these products.",
        "note",
        float(sums[worst] - score[worst]),
    )
