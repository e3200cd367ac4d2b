"""Gradients with another backward pass at every rectifier: guided backpropagation and the deconvnet.

Both let only the positive part of the incoming signal through. Guided backpropagation also multiplies by the
rectifier's own slope, the deconvnet does not. Everything else differentiates as usual; max pooling sends the signal to
the maximum.
"""

from collections import Counter

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.errors import NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.positive import Seen, Treatment, guided, positive_rules, straight
from cutaway.core.rectifiers import FAMILY, SMOOTH
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

# Calls with rectifiers inside, which a run under rules meets one by one.
_HIDING = ("rnn_relu", "rnn_relu_cell")


@method(paper="springenberg2015", laws={"batch_independent", "dummy"}, needs={"gradient", "relu_family"})
def guided_backprop(model: Model, x: Batch, target: Target, *, wrt: Site = INPUT) -> Attribution:
    """The gradient along paths on which every rectifier was active and every signal positive.

    At each rectifier y = r(x):   signal_x = max(signal_y, 0) * r'(x)

    One forward and one backward pass for each input.

    Args:
        wrt: Where to attribute.

    Returns:
        Modified slopes, shaped like the activation at `wrt`. Their sum has no meaning.

    Source: Springenberg et al. 2015, section 3.4. Differs: for every operation of the ReLU family, by its own slope.
    """
    return _ruled(model, x, target, wrt, guided, "guided_backprop")


@method(paper="zeiler2014", laws={"batch_independent", "dummy"}, needs={"gradient", "relu_family"})
def deconvnet(model: Model, x: Batch, target: Target, *, wrt: Site = INPUT) -> Attribution:
    """The network run backwards with a rectifier at every rectifier: a picture that a unit's filters would paint.

    At each rectifier y = r(x):   signal_x = max(signal_y, 0)

    One forward and one backward pass for each input.

    Args:
        wrt: Where to attribute.

    Returns:
        Modified slopes, shaped like the activation at `wrt`. Their sum has no meaning.

    Source: Zeiler and Fergus 2014, section 2.1. Differs: biases play no part and normalisation layers use their own
    slope.
    """
    return _ruled(model, x, target, wrt, straight, "deconvnet")


def _ruled(model: Model, x: Batch, target: Target, wrt: Site, treatment: Treatment, name: str) -> Attribution:
    """The gradient under a treatment of the rectifiers."""
    seen = Seen(model)
    score, _, slope = model.gradient(x, target, wrt=wrt, rules=positive_rules(treatment, seen))
    if not seen.met:
        _refuse_without_rectifiers(model, x, name)
    return Attribution(
        values=slope,
        target=str(target),
        wrt=str(wrt),
        unit="modified slope",
        score=score,
        checks=_checks(seen, target, wrt),
    )


def _refuse_without_rectifiers(model: Model, x: Batch, name: str) -> None:
    """A target before the first rectifier is fine; a network without any is not.

    Raises:
        NotPossible: No operation of the family was met in a whole forward.
    """
    met = Counter(operation.name for operation in model.census(x))
    if not any(FAMILY.get(kind) or kind in _HIDING for kind in met):
        raise NotPossible(
            f"{name} changes the backward pass of rectifiers (ReLU and its kin), and {model.name} has none; it has "
            f"{', '.join(sorted(met))}. Use integrated_gradients or smoothgrad."
        )


def _checks(seen: Seen, target: Target, wrt: Site) -> dict[str, Check]:
    treated = Counter(operation.name for operation in seen.treated)
    count = sum(treated.values())
    if not treated:
        text = f"No rectifier lies between {wrt} and {target}, so this is the plain gradient."
        checks = {"rectifiers": Check(text, "note", 0.0)}
    else:
        listed = ", ".join(f"{name} {times} times" if times > 1 else name for name, times in sorted(treated.items()))
        text = f"{count} operations were treated as rectifiers: {listed}. All others differentiate as usual."
        checks = {"rectifiers": Check(text, "ok", float(count))}
    if smooth := sorted(set(treated) & SMOOTH):
        text = "is smooth" if len(smooth) == 1 else "are smooth"
        text = f"The method is defined for ReLU; {', '.join(smooth)} {text}, so the slope stands for the switch."
        checks["smooth"] = Check(text, "warn")
    return checks
