"""What a target really loses when parts of a layer are set to zero, beside what the slope foretells."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.checks import Check
from cutaway.core.model import Model
from cutaway.core.site import Site
from cutaway.core.target import Target
from cutaway.maths.statistics import correlation_interval, spearman

# Variants of an activation held at once.
_AT_ONCE = 32


def without(model: Model, x: Tensor, target: Target, site: Site, changed: "Variants") -> Tensor:
    """The target on one input with each variant of the activation at a layer, (variants,).

    Args:
        model: The network.
        x: One input.
        target: Of that input.
        site: The layer.
        changed: The variants.
    """
    prefix = model.prefix(x, site)
    found = []
    for start in range(0, len(changed), _AT_ONCE):
        rows = slice(start, min(start + _AT_ONCE, len(changed)))
        values = changed.rows(rows)
        trace = model.run(None, prefix=prefix, edit={site: values}, read=list(target.sites))
        found.append(target(trace).detach().expand(len(values)))
    return torch.cat(found) if found else torch.empty(0, dtype=x.dtype, device=x.device)


@dataclass(frozen=True)
class Variants:
    """An activation (1, channels, h, w) with one part after the other taken out.

    Attributes:
        value: The activation.
        parts: What is subtracted, as places (k,) along an axis that are set to 0; or tensors (k, channels, h, w).
        axis: 1 for whole channels, 2 for positions counted row by row, 0 for tensors.
    """

    value: Tensor
    parts: Tensor
    axis: int

    def __len__(self) -> int:
        """How many variants there are."""
        return len(self.parts)

    def rows(self, rows: slice) -> Tensor:
        """Some of them, (k, channels, h, w)."""
        parts = self.parts[rows]
        if self.axis == 0:
            return self.value - parts
        flat = self.value.flatten(2).repeat(len(parts), 1, 1)
        every = torch.arange(len(parts), device=flat.device)
        if self.axis == 1:
            flat[every, parts.to(flat.device)] = 0
        else:
            flat[every, :, parts.to(flat.device)] = 0
        return flat.view(len(parts), *self.value.shape[1:])


def spread_over(values: Tensor, count: int) -> Tensor:
    """`count` places out of a list of values (k,), evenly from the lowest to the highest, both of them included."""
    order = values.sort(stable=True).indices
    if count >= len(order):
        return order
    return order[torch.linspace(0, len(order) - 1, count).round().long()]


def agreement(linear: list[Tensor], removed: list[Tensor], what: str) -> dict[str, Check]:
    """How well the slope foretold what removing does, input by input.

    Args:
        linear: For each input, what the slope foretells for the parts that were removed.
        removed: What the target lost.
        what: What the parts are: "channels".
    """
    orders = [float(spearman(a, b)) for a, b in zip(linear, removed, strict=True) if len(a) > 3]
    orders = [order for order in orders if not math.isnan(order)]
    if not orders:
        text = f"Too few {what} were removed, or all of them alike, to compare the linear estimate with."
        return {"ablation": Check(text, "note")}
    mean = sum(orders) / len(orders)
    many = sum(len(a) for a in removed)
    a, b = torch.cat(linear).double(), torch.cat(removed).double()
    scale = float((a * b).sum() / (a * a).sum()) if a.any() else math.nan
    text = f"{many} {what} were set to 0 one at a time: the order of what the target really lost and that of the linear"
    text += f" estimate correlate at {mean:.2f}"
    if len(orders) == 1:
        low, high = correlation_interval(mean, len(linear[0]), ranked=True)
        text += f" (95 % interval {low:.2f} to {high:.2f})"
    else:
        text += f" on average ({min(orders):.2f} to {max(orders):.2f} over {len(orders)} inputs)"
    text += f"; a unit of the estimate stood for {scale:.2g} of the loss."
    return {"ablation": Check(text, "ok" if mean >= 0.7 else "note" if mean >= 0.4 else "warn", mean)}
