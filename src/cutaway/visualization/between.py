"""What a layer's positions and channels contribute to a class, or to anything in a later layer.

The linear estimate: activation times slope. What it leaves out is measured, by setting parts of the layer to zero.
"""

from typing import Any

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Table
from cutaway.core.site import Site
from cutaway.core.target import Target
from cutaway.visualization.places import grid_of, grid_site
from cutaway.visualization.removal import Variants, agreement, spread_over, without

_LAWS = {"batch_independent", "linear_in_target"}


@method(paper="olah2018", laws=_LAWS, needs={"gradient", "image"}, quick={"removals": 4})
def spatial_attribution(
    model: Model, x: Batch, target: Target, *, layer: Site | None = None, removals: int = 64
) -> Attribution:
    """Which positions of a layer speak for a class, or for anything in a later layer, and which against it.

    values_p = sum over channels c of a_c(p) * d target / d a_c(p)

    The target may be a class, or a place further up: `unit("conv5:12")`, `unit("conv5:12@3,4")`, `energy("conv5@3,4")`.
    One forward and a backward that ends at the layer; then one forward from the layer on for each position that is
    removed.

    Args:
        layer: A place with positions; the last if none is named.
        removals: Positions of each input that are set to 0, one at a time, to see what the target really loses; spread
            evenly over the order of the estimates. 0 leaves that out.

    Returns:
        One value for each position, (n, 1, height, width), in the target's unit. `extra` has the `places` that were
        removed, counted row by row, and the `lost` amounts, both (n, removals).

    Source: Olah et al. 2018 (attribution between layers). Differs: max pooling keeps its own slope; the estimate stands
    beside real removals.
    """
    assert isinstance(x, Tensor)
    found = _Estimate(model, x, target, layer, removals)
    values = (found.act * found.slope).sum(1, keepdim=True)
    places, lost, checks = found.removed(values.flatten(1), 2, "positions")
    return Attribution(
        values=values,
        target=str(target),
        wrt=str(found.site),
        unit="target",
        score=found.score,
        extra={"places": places, "lost": lost} if removals else {},
        checks=checks,
    )


@method(paper="olah2018", needs={"gradient", "image"}, quick={"removals": 4, "k": 2})
def channel_attribution(
    model: Model, x: Batch, target: Target, *, layer: Site | None = None, k: int = 8, removals: int = 32
) -> Table:
    """Which channels of a layer speak for a class, or for anything in a later layer, and which against it.

    value_c = sum over positions p of a_c(p) * d target / d a_c(p)

    The target may be a class, or a place further up: `unit("conv5:12")`. Several targets for one input give one list
    each. One forward and a backward that ends at the layer; then one forward from the layer on for each channel that is
    removed.

    Args:
        layer: A place with positions; the last if none is named.
        k: Channels listed at either end, at most; only those with a value of that sign.
        removals: Channels of each input, beside the listed ones, that are set to 0 to see what the target really loses;
            spread evenly over the order of the estimates. 0 leaves all removals out.

    Returns:
        A row for each input and listed channel, from the highest value down: its mean activation, its attribution, and
        what the target lost without it, in the target's unit. `extra` has all attributions, `values` (n, channels), and
        those that were spread out: `removed` channels and the `lost` amounts, both (n, removals).

    Raises:
        BadOption: No channels to list.

    Source: Olah et al. 2018 (channel attribution). Differs: as `spatial_attribution` does.
    """
    assert isinstance(x, Tensor)
    if k < 1:
        raise BadOption(f"expected at least one channel to list; got k={k}.")
    found = _Estimate(model, x, target, layer, removals)
    values = (found.act * found.slope).sum((2, 3))
    removed, lost, checks = found.removed(values, 1, "channels")
    rows: list[list[Any]] = []
    for i, row in enumerate(values):
        order = row.sort(descending=True, stable=True).indices.tolist()
        listed = [c for c in order[:k] if row[c] > 0] + [c for c in order[max(0, len(order) - k) :] if row[c] < 0]
        real = found.lost(i, torch.tensor(listed, dtype=torch.long), 1).tolist() if removals else [None] * len(listed)
        for channel, without_it in zip(listed, real, strict=True):
            mean = float(found.act[i, channel].mean())
            rows.append([i, str(target.row(i)), channel, mean, float(row[channel]), without_it])
    return Table(
        title=f"channels of {found.site} for {target}",
        columns=["input", "target", "channel", "mean activation", "attribution", "lost without it"],
        rows=rows,
        extra={"values": values, **({"removed": removed, "lost": lost} if removals else {})},
        checks=checks,
    )


class _Estimate:
    """Activations and slopes of a batch at a layer, and what removing parts does.

    Raises:
        BadOption: A negative number of removals.
    """

    def __init__(self, model: Model, x: Tensor, target: Target, layer: Site | None, removals: int) -> None:
        if removals < 0:
            raise BadOption(f"expected removals from 0; got {removals}.")
        self.site = grid_site(model, x, layer)
        grid_of(model, x[:1], self.site)
        self.score, self.act, self.slope = model.gradient(x, target, wrt=self.site)
        self._model, self._x, self._target, self._removals = model, x, target, removals

    def lost(self, i: int, parts: Tensor, axis: int) -> Tensor:
        """What the target of one input loses without each part."""
        variants = Variants(self.act[i : i + 1], parts, axis)
        after = without(self._model, self._x[i : i + 1], self._target.row(i), self.site, variants)
        return self.score[i] - after

    def removed(self, values: Tensor, axis: int, what: str) -> tuple[Tensor, Tensor, dict[str, Check]]:
        """Parts spread over the order of the estimates (n, parts), what the target lost without each, and a check."""
        chosen, lost, linear = [], [], []
        for i, row in enumerate(values):
            parts = spread_over(row, self._removals)
            chosen.append(parts.cpu())
            lost.append(self.lost(i, parts, axis) if self._removals else row[:0])
            linear.append(row[parts])
        checks = agreement(linear, lost, what) if self._removals else {}
        if not values.any():
            text = f"No part of {self.site} has an effect on the target to first order; choose another layer or target."
            checks["slope"] = Check(text, "warn")
        return torch.stack(chosen), torch.stack(lost), checks
