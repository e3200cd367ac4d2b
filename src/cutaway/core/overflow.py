"""Where a network stops being finite, in words."""

from typing import TYPE_CHECKING

import torch

from cutaway.core.batch import Batch
from cutaway.core.errors import BadOption, BadShape, NotPossible

if TYPE_CHECKING:
    from cutaway.core.model import Model


def first_overflow(model: "Model", x: Batch | None) -> str:
    """The first layer whose output is inf or nan for this input, for the end of a sentence."""
    if x is None or model.is_scripted:
        return "the network overflows"
    with model.borrow():
        for path, module in model.module.named_modules():
            if path and not list(module.children()):
                try:
                    act = model.run(x, read=[path])[path]
                except (BadOption, BadShape, NotPossible):
                    continue
                if not torch.isfinite(act).all():
                    return f"the first layer that overflows is {path!r}; use float32 or smaller weights"
    return "the forward is finite, its gradient is not; try another target, such as the logit"
