"""Search for an input close by, of the same class, that is explained in another way."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.batch import Batch, size, take
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import explainer_of
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.core.target import Target
from cutaway.evaluation.fragility_slopes import slopes_for
from cutaway.evaluation.orders import explained

# Inputs explained at once, and how many of an attack's are explained on the real network.
_AT_ONCE, _JUDGED = 16, 10
# How often the way back to the input is halved, for one that left its class.
_HALVED = 5
# Random neighbours that an attack has to beat.
CONTROLS = 8

# From sizes of a map over positions (n, ...), relative to their mean, to what the attack wants to raise, (n,).
Goal = Callable[[Tensor], Tensor]


class Plan(NamedTuple):
    """How far and how long to search.

    Attributes:
        epsilon: Largest change of an entry, as a share of the range of a pixel, or in standard deviations of a column.
        steps: Of the attack.
        sharpness: Of the softplus in place of rectifiers.
        seed: Of the random neighbours.
    """

    epsilon: float
    steps: int
    sharpness: float
    seed: int


class Found(NamedTuple):
    """What was found for one input.

    Attributes:
        x, sizes: The best input found (1, ...) and its map's sizes (1, ...); the original ones if nothing was better.
        before: Sizes of the original map.
        goal, start: What the attack raised: at its end, and at the original input.
        chance: Sizes of the maps of random neighbours of the same class, (draws, ...).
        chance_goal: What those reached.
        kept: Share of the inputs looked at that kept the class, and did not have to be drawn back.
        moved: The largest change of an entry, relative to what is allowed.
        how: Where the slopes came from.
        weak: True if they are an estimate.
    """

    x: Tensor
    sizes: Tensor
    before: Tensor
    goal: float
    start: float
    chance: Tensor
    chance_goal: Tensor
    kept: float
    moved: float
    how: str
    weak: bool


def attacked(
    model: Model, x: Batch, attribution: Attribution, goals: Callable[[int, Tensor], Goal], plan: Plan
) -> list[Found]:
    """Attack the map of each input.

    x_0 = x,   x_t+1 = clip(x_t + a sign(slope of goal(map of x_t)), at most epsilon from x),   a = 2.5 epsilon / steps

    Ten x_t, the last among them, are looked at on the real network. One that the model puts into another class than x
    is drawn back towards x until it is in that class. Of these, and of random neighbours of that class, the one with
    the highest goal is kept.

    Args:
        model: The network.
        x: Inputs.
        attribution: Their maps.
        goals: The goal for an input, from its number and the sizes of its map.
        plan: How far and how long.

    Raises:
        BadOption: A ball or a number of steps that is none.
        NotPossible: Inputs that cannot be changed a little, or a map that is not over the input.
    """
    _check(model, x, attribution, plan)
    assert isinstance(x, Tensor)
    target, found = explained(model, x, attribution), []
    for i in track(range(size(x)), "fragility"):
        row = take(x, slice(i, i + 1))
        assert isinstance(row, Tensor)
        found.append(_Attack(model, row, attribution, target.row(i), plan).run(partial(goals, i)))
    return found


def _check(model: Model, x: Batch, attribution: Attribution, plan: Plan) -> None:
    if not plan.epsilon > 0 or plan.steps < 1 or not plan.sharpness > 0:
        raise BadOption(
            "expected epsilon and sharpness above 0 and at least 1 step; got "
            f"epsilon={plan.epsilon:g}, sharpness={plan.sharpness:g}, steps={plan.steps}."
        )
    if model.space.kind == "tokens" or not isinstance(x, Tensor):
        raise NotPossible("a text cannot be changed a little; fragility is for pictures and rows.")
    if attribution.wrt != "input":
        raise NotPossible(f"fragility is about maps of the input; this one is of {attribution.wrt}.")
    if model.scores == "values":
        raise NotPossible(f"{model.name} has no classes, so there is no prediction that an attack could keep.")


class _Attack:
    """One input under attack."""

    def __init__(self, model: Model, x: Tensor, attribution: Attribution, target: Target, plan: Plan) -> None:
        self.model, self.x, self.target, self.plan = model, x, target, plan
        self.explain = explainer_of(attribution)
        self.generator = torch.Generator().manual_seed(plan.seed)
        space = model.space
        unit = torch.tensor(space.std if space.kind == "row" else (space.range,)).to(x)
        self.radius = (plan.epsilon * unit).expand(1, *x.shape[1:]) if space.kind == "row" else plan.epsilon * unit
        self.slopes = slopes_for(
            model, target, attribution, self.explain, x, self.radius, plan.sharpness, self.generator
        )
        self.label = int(model.run(x).scores.argmax(1))

    def run(self, goal_for: Callable[[Tensor], Goal]) -> Found:
        """Attack, try random neighbours, and compare."""
        before = sizes_of(self.explain(self.model, self.x, self.target).values)
        goal, tried, x = goal_for(before), [], self.x
        for _ in range(self.plan.steps):
            slope = self.slopes(x, lambda maps: goal(sizes_of(maps)))
            x = self._inside(x + 2.5 / self.plan.steps * self.radius * slope.sign())
            tried.append(x)
        start = float(goal(before))
        best, best_sizes, best_goal = self.x, before, start
        looked = torch.cat(tried[:: -math.ceil(len(tried) / _JUDGED)])
        kept = float(self._stays(looked).double().mean())
        signs = 2 * torch.randint(2, (CONTROLS, *self.x.shape[1:]), generator=self.generator) - 1
        near = self._of_this_class(self._inside(self.x + self.radius * signs.to(self.x)))
        chance = torch.cat([maps for maps, _ in near]) if near else before[:0]
        for maps, rows in [*self._of_this_class(self._drawn_back(looked)), *near]:
            values = goal(maps)
            if float(values.max()) > best_goal:
                at = int(values.argmax())
                best, best_sizes, best_goal = rows[at : at + 1], maps[at : at + 1], float(values[at])
        return Found(
            x=best,
            sizes=best_sizes,
            before=before,
            goal=best_goal,
            start=start,
            chance=chance,
            chance_goal=goal(chance),
            kept=kept,
            moved=float(((best - self.x).abs() / self.radius).max()),
            how=self.slopes.how,
            weak=self.slopes.weak,
        )

    def _inside(self, x: Tensor) -> Tensor:
        """The nearest input in the ball and in the bounds."""
        near = torch.minimum(torch.maximum(x, self.x - self.radius), self.x + self.radius)
        return near.clamp(self.model.space.low, self.model.space.high)

    def _stays(self, rows: Tensor) -> Tensor:
        return self.model.run(rows).scores.argmax(1) == self.label

    def _drawn_back(self, rows: Tensor) -> Tensor:
        """The same inputs; those of another class as near to x as it takes, by halving the way."""
        share = self._stays(rows).to(rows)
        for k in range(1, _HALVED + 1):
            out = (share < 1).nonzero()[:, 0]
            if not len(out):
                break
            further = share[out] + 0.5**k
            share[out] = torch.where(self._stays(self._part_way(rows[out], further)), further, share[out])
        return self._part_way(rows, share)[share > 0]

    def _part_way(self, rows: Tensor, share: Tensor) -> Tensor:
        return self._inside(self.x + share.view(-1, *[1] * (rows.ndim - 1)) * (rows - self.x))

    def _of_this_class(self, candidates: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Sizes of the maps of those that keep the class, on the real network, and the inputs themselves."""
        found = []
        for rows in candidates.split(_AT_ONCE) if len(candidates) else ():
            same = rows[self._stays(rows)]
            if len(same):
                found.append((sizes_of(self.explain(self.model, same, self.target).values), same))
        return found


def sizes_of(maps: Tensor) -> Tensor:
    """Sizes over positions (n, ...), summed over channels and divided by their mean; in double precision."""
    sizes = (maps.double().sum(1) if maps.ndim == 4 else maps.double()).abs()
    return sizes / sizes.flatten(1).mean(1).clamp_min(1e-300).view(-1, *[1] * (sizes.ndim - 1))
