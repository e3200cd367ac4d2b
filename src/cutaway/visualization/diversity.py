"""Pictures of one aim that differ in style: what goes on together in them must not be alike.

aim_i - d |aim_i| / (m - 1) * sum over the other pictures j of <G_i, G_j>

G is the Gram matrix of the layer's channels over positions, with length 1. Each picture compares itself with what the
others were one step before; their gradient is then the same as in one batch, and it does not matter which pictures run
together.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.errors import NotPossible
from cutaway.core.site import OUTPUT, Site, unit_axis
from cutaway.core.target import Target, per_row
from cutaway.core.trace import Trace


def gram(act: Float[Tensor, "n *axes"], axis: int) -> Float[Tensor, "n channels channels"]:
    """The mean product of each two channels over positions, as a matrix of length 1."""
    flat = act.movedim(axis, 1).flatten(2)
    found = flat @ flat.transpose(1, 2)
    return found / found.flatten(1).norm(dim=1).clamp(min=torch.finfo(act.dtype).tiny)[:, None, None]


class Diverse:
    """Aims that each lose something where their picture is like the other copies.

    Args:
        aims: One for each group of copies.
        copies: Pictures of each.
        weight: How much of an aim is lost if all copies are alike.

    Raises:
        NotPossible: An aim has no layer with positions.
    """

    def __init__(self, aims: list[Target], copies: int, weight: float) -> None:
        self._rows = [aim for aim in aims for _ in range(copies)]
        self._copies, self._weight = copies, weight
        self._sites = [_layer(aim) for aim in self._rows]
        self._before: list[Tensor | None] = [None] * len(self._rows)
        self._now: list[Tensor | None] = [None] * len(self._rows)

    def aims(self) -> Target:
        """The aims of the next step."""
        self._before, self._now = self._now, [None] * len(self._rows)
        return per_row([self._row(i) for i in range(len(self._rows))])

    def _row(self, i: int) -> Target:
        aim, site = self._rows[i], self._sites[i]

        def value(trace: Trace) -> Tensor:
            score, act = aim(trace), trace[site]
            if act.ndim < 3:
                raise NotPossible(f"{site} has no positions, so there is nothing to compare; aim at an earlier layer.")
            own = gram(act, unit_axis(act, trace.module(site)))
            self._now[i] = own.detach()[0]
            others = self._others(i)
            if not others:
                return score
            like = torch.stack([(own * other).sum((1, 2)) for other in others]).sum(0) / (self._copies - 1)
            # Twice: the other pictures lose as much when this one becomes like them.
            return score - 2 * self._weight * score.detach().abs() * like

        return Target(f"{aim.text}, unlike the others ({i})", tuple(dict.fromkeys((*aim.sites, site))), value)

    def _others(self, i: int) -> list[Tensor]:
        group = i // self._copies * self._copies
        others = (self._before[j] for j in range(group, group + self._copies) if j != i)
        return [other for other in others if other is not None]


def _layer(aim: Target) -> Site:
    layers = [site for site in aim.sites if site != OUTPUT]
    if not layers:
        raise NotPossible(
            f"diversity compares the channels of a layer at its positions; {aim} names no layer. "
            "Aim at a unit or a direction."
        )
    return layers[0]
