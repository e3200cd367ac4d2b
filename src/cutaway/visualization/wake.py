"""A way out for units that are silent at the start: a gradient through rectifiers that let none through.

A ReLU that is off everywhere gives the picture no slope, and the search could not begin. Where nothing gets through a
rectifier for a picture, the signal passes at entries below its range if it wants them larger, and at those above if it
wants them smaller.
"""

import torch
from torch import Tensor

from cutaway.core.operations import Call, Rules
from cutaway.core.rectifiers import FAMILY, SMOOTH, rectified
from cutaway.core.rules import with_backward

_LEAKY = SMOOTH | {"leaky_relu", "prelu", "rrelu"}


def _rule(call: Call) -> Tensor:
    found = rectified(call)
    if found is None or found.name in _LEAKY or not found.x.requires_grad:
        return NotImplemented
    with torch.no_grad():
        result = found.run()
        # Not the result itself: it would keep the whole graph alive in a circle.
        through, below = result == found.x, found.x <= 0

    def back(signal: Tensor) -> tuple[Tensor]:
        slope = signal * through
        for row in (~slope.flatten(1).any(1)).nonzero()[:, 0].tolist():
            up, down = signal[row].clamp(min=0), signal[row].clamp(max=0)
            slope[row] = torch.where(through[row], slope[row], torch.where(below[row], up, down))
        return (slope,)

    return call.deliver(with_backward(lambda: result, back, found.x))


WAKING: Rules = dict.fromkeys(FAMILY, _rule)
