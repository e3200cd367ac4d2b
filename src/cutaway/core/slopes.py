"""A target and its slope at places: one forward and one backward of some rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from cutaway.core.batch import take
from cutaway.core.door import is_finite
from cutaway.core.errors import NotPossible
from cutaway.core.operations import Places, Rules, UnderRules
from cutaway.core.overflow import first_overflow
from cutaway.core.runner import Plan, Runner
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target
from cutaway.core.trace import Trace

if TYPE_CHECKING:
    from cutaway.core.model import Model


class Gradient(NamedTuple):
    """A target and its slope at a place: `score` (n,), `value` and `slope` shaped like the activation there."""

    score: Tensor
    value: Tensor
    slope: Tensor


def slopes(
    model: Model,
    runner: Runner,
    plan: Plan,
    rows: slice,
    target: Target,
    sites: Sequence[Site],
    rules: Rules | None,
    trace: Callable[[dict[Site, Tensor]], Trace],
) -> list[Gradient]:
    """The target of some rows and its slope at each place. With more than one place, the graph begins at the input.

    Args:
        model, runner: The network, as methods see it and as it is run.
        plan, rows: What is run.
        target, sites: What is differentiated, and where.
        rules: Rules that change the backward pass of operations.
        trace: Makes of what was read what a target takes.

    Raises:
        NotPossible: The target does not depend on a place, is not finite, or the network is not differentiable.
    """
    places = list(dict.fromkeys(site.whole for site in sites))
    begin = places[0] if len(places) == 1 else INPUT
    wanted = [*target.sites, *(place for place in places if place != begin)]
    found, leaf = runner.once(plan, rows, list(dict.fromkeys(wanted)), begin, rules)
    assert leaf is not None
    reach = rules is not None and getattr(rules, "reach_target", False)
    with UnderRules(rules, Places(model.module)) if rules and reach else contextlib.nullcontext():
        score = target(trace(found)).expand(len(leaf))
    if not score.requires_grad:
        raise NotPossible(
            f"{target} does not depend on {places[0]} in {model.name} in a way that can be differentiated."
        )
    if not is_finite(score):
        # Its slope may well be finite, and would look like an answer.
        where = first_overflow(model, take(plan.x, rows) if plan.prefix is None else plan.x)
        raise NotPossible(f"{target} is not finite on this input of {model.name}: {where}.")
    at = {place: leaf if place == begin else found[place] for place in places}
    if outside := [str(place) for place, value in at.items() if not value.requires_grad]:
        raise NotPossible(f"{outside[0]} in {model.name} does not depend on the input; ask for it alone.")
    try:
        slope_at = dict(zip(places, _differentiated(model, target, score, at), strict=True))
    except RuntimeError as error:
        if not runner.refuses_layout(error):
            raise
        return slopes(model, runner, plan, rows, target, sites, rules, trace)
    runner.spent["backwards"] += len(leaf)
    indices = [site.index(at[site.whole], runner.module_at(site)) for site in sites]
    return [
        Gradient(score.detach(), at[site.whole].detach()[index], slope_at[site.whole][index])
        for site, index in zip(sites, indices, strict=True)
    ]


def _differentiated(model: Model, target: Target, score: Tensor, at: dict[Site, Tensor]) -> list[Tensor]:
    """The slope of a score at each of some tensors of its graph."""
    try:
        found = torch.autograd.grad(score.sum(), list(at.values()), allow_unused=True)
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise NotPossible(
            f"{model.name} has no gradient: it overwrites an activation that its backward pass needs. Replace the "
            "operation in place (x += y, relu_, inplace=True) by an ordinary one. "
            f"torch says: {str(error).split(' Hint:')[0]}"
        ) from error
    for place, slope in zip(at, found, strict=True):
        if slope is None:
            raise NotPossible(f"{target} does not depend on {place}: that place comes after what the target reads.")
    return list(found)
