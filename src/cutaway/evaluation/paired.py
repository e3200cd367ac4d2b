"""A map beside its controls, input by input: who is ahead, and by more than chance?"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.checks import Status
from cutaway.maths.statistics import bootstrap_interval

# Fewer inputs than this have no interval worth the name.
ENOUGH = 5
CHANCE = "random"
# Differences up to this share of the numbers are rounding.
_EVEN = 1e-9
PLAIN = {CHANCE: "chance", "edges first": "edges", "centre first": "the centre"}


def above(differences: Float[Tensor, "n draws"]) -> bool:
    """Is the lead real? Over enough inputs by its interval, else over each of the draws."""
    if len(differences) >= ENOUGH:
        return bool(interval(differences.mean(1))[0] > 0)
    return bool((differences.mean(0) > 0).all())


def lead_interval(differences: Float[Tensor, "n draws"]) -> tuple[float, float]:
    """Where the mean lead lies: over enough inputs its bootstrap interval, else the range over the draws."""
    if len(differences) >= ENOUGH:
        low, high = interval(differences.mean(1))
        return float(low), float(high)
    over = differences.mean(0)
    return float(over.min()), float(over.max())


class Standing(NamedTuple):
    """Where a map stands among its controls.

    Attributes:
        ahead, behind: Controls that it beats by more than chance, and the others; each with the control's mean.
        beaten: True if chance is ahead of the map by more than chance.
    """

    ahead: dict[str, float]
    behind: dict[str, float]
    beaten: bool

    @property
    def status(self) -> Status:
        """`ok` ahead of every control, `note` ahead of chance only, `fail` where chance is ahead of the map."""
        if not self.behind:
            return "ok"
        return "note" if CHANCE in self.ahead else "fail" if self.beaten else "warn"

    def sentence(self, more: str, digits: str = ".2g") -> str:
        """Which controls it beats: "more than chance (0.1) and edges (0.2), but no more than the centre (0.4)"."""
        lists = [
            [f"{PLAIN.get(name, name)} ({value:{digits}})" for name, value in side.items()]
            for side in (self.ahead, self.behind)
        ]
        ahead, behind = (" and ".join([*filter(None, [", ".join(s[:-1])]), *s[-1:]]) for s in lists)
        if not ahead:
            return f"no {more} than {behind}"
        return f"{more} than {ahead}" + (f", but no {more} than {behind}" if behind else "")


def standing(mine: Float[Tensor, " n"], controls: Mapping[str, Tensor], *, better: str = "higher") -> Standing:
    """Compare a map's numbers with its controls' on the same inputs.

    Args:
        mine: One number for each input.
        controls: By name, (n,) or (n, draws); the first one is chance.
        better: "higher" or "lower".
    """
    sign = 1.0 if better == "higher" else -1.0
    several = {name: values if values.ndim == 2 else values[:, None] for name, values in controls.items()}

    def ahead(one: Tensor, other: Tensor) -> bool:
        """Is one ahead? What rounding can do is no lead: a constant map shuffled is the same map."""
        apart = sign * (one - other)
        return above(apart.masked_fill(apart.abs() <= _EVEN * one.abs().max(), 0.0))

    lead = {name: ahead(mine[:, None], values) for name, values in several.items()}
    means = {name: float(values.mean()) for name, values in several.items()}
    chance = next(iter(several.values()))
    return Standing(
        ahead={name: means[name] for name in means if lead[name]},
        behind={name: means[name] for name in means if not lead[name]},
        beaten=ahead(chance, mine[:, None]),
    )


def interval(values: Float[Tensor, "n *rest"]) -> tuple[Tensor, Tensor]:
    """The 95 % bootstrap interval of the mean over inputs, over those that have a value; nan where none has."""
    known = ~values.isnan()
    if known.all():
        return bootstrap_interval(values, generator=torch.Generator().manual_seed(0))
    columns = (
        zip(values.flatten(1).unbind(1), known.flatten(1).unbind(1), strict=True)
        if values.ndim > 1
        else [(values, known)]
    )
    ends = [interval(column[here]) if here.any() else (column.new_full((), torch.nan),) * 2 for column, here in columns]
    low, high = (torch.stack(side).view(values.shape[1:]) for side in zip(*ends, strict=True))
    return low, high
