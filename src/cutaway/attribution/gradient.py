"""Slopes of the target: the gradient, its product with the input, and its average under noise."""

from cutaway.core.batch import Batch
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target


@method(paper="simonyan2014", laws={"batch_independent", "dummy", "linear_in_target", "same_for_equivalent_nets"}, needs={"gradient"})
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
    return Attribution(values=slope, target=str(target), wrt=str(wrt), unit="target per input unit", score=score)
