"""Scores of groups of one input's parts by contextual decomposition, and what to say of them."""

import math
import re
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cutaway.core.batch import Batch
from cutaway.core.budget import at_once, time_is_up
from cutaway.core.checks import Check
from cutaway.core.decomposed.tensor import Gap, How
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.features import Features
from cutaway.core.model import Model
from cutaway.core.overflow import first_overflow
from cutaway.core.players import place_of, players_at
from cutaway.core.progress import report
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

Bias = Literal["shared", "rest"]
Rectifier = Literal["averaged", "alone"]
# Groups whose masks are in memory at once.
_TOGETHER = 128
# How far part + rest may be from the value, as a share of the largest value at a place.
_ENOUGH = {torch.float64: 1e-9, torch.float32: 1e-3}


class Groups:
    """What of the target comes from groups of players, for one input: a function of (m, k) booleans.

    Attributes:
        features: The players.
        is_text: True if the entries are tokens.
        owner: The player of each entry, spread over the place by broadcasting; -1 is nobody.
        index: What the place takes of the entries, where it is not a whole layer.
        whole: The target.
        all: What comes from all players together; the remainder comes from entries of nobody, and from biases.
        gap: The worst place so far where part + rest misses the value.
    """

    def __init__(
        self,
        model: Model,
        row: Batch,
        target: Target,
        features: Features | str,
        bias: Bias | None,
        rectifier: Rectifier,
        name: str,
        wrt: Site = INPUT,
    ) -> None:
        place = place_of(model, row, wrt)
        self.features = players_at(features, place)
        owner = place.owner(self.features)
        self.owner = owner.expand(place.shape) if self.features.units else owner
        self.index = () if wrt.is_whole else place.index[1:]
        self.is_text = wrt == INPUT and model.space.kind == "tokens"
        self.gap, self.whole = Gap(), 0.0
        self._model, self._row, self._target, self._name, self._wrt = model, row, target, name, wrt.whole
        self._how = How(shares_bias=(bias or bias_of(model)) == "shared", averages=rectifier == "averaged")
        nobody, everybody = self(torch.tensor([[False], [True]]).expand(2, len(self.features))).tolist()
        if nobody:
            raise self._not_linear()
        self.all = everybody

    def __len__(self) -> int:
        """The number of players."""
        return len(self.features)

    def __call__(self, groups: Bool[Tensor, "m k"], least: float = math.inf) -> Float[Tensor, "n"]:
        """The part of the target that comes from each group; after `least`, of those that there is time for."""
        found = [torch.zeros(0, dtype=torch.float64)]
        for start in range(0, len(groups), together := at_once(_TOGETHER)):
            if start >= least and time_is_up():
                break
            report(self._name, start, len(groups))
            found.append(self._scored(groups[start : start + together]))
        report(self._name, len(groups), len(groups))
        return torch.cat(found)

    def each(self) -> tuple[Float[Tensor, "k"], int]:
        """What comes from each player by itself, and for how many there was time.

        Players come in random order, so that those with values lie everywhere. The others are taken together, and share
        what comes from all of them equally.
        """
        k = len(self)
        order = torch.randperm(k, generator=torch.Generator().manual_seed(0))
        found = self(torch.eye(k, dtype=torch.bool)[order], least=1)
        if (done := len(found)) < k:
            left = torch.zeros(1, k, dtype=torch.bool).index_fill(1, order[done:], value=True)
            found = torch.cat([found, (self(left) / (k - done)).expand(k - done)])
        return torch.empty_like(found).index_copy_(0, order, found), done

    def _scored(self, groups: Bool[Tensor, "m k"]) -> Float[Tensor, "m"]:
        on = torch.cat([groups.cpu(), torch.zeros(len(groups), 1, dtype=torch.bool)], dim=1)
        parts = self._model.decomposed(
            self._row, on[:, self.owner], read=self._target.sites, how=self._how, wrt=self._wrt
        )
        part, rest, whole = (self._target(t).double().cpu() for t in (parts.part, parts.rest, parts.whole))
        if parts.gap.size > self.gap.size or not self.gap.name:
            self.gap = parts.gap
        if not bool((part.isfinite() & rest.isfinite()).all()):
            where = first_overflow(self._model, self._row)
            raise NotPossible(f"{self._name} gave parts of {self._target} that are not finite: {where}.")
        # A product of logits, a probability: what they make of two parts does not sum to what they make of the whole.
        miss, size = (part + rest - whole).abs(), part.abs() + rest.abs() + whole.abs()
        if bool((miss > 1e-3 * size).any()) and self.gap.size < 1e-3:
            raise self._not_linear()
        self.whole = float(whole[0]) if whole.ndim else float(whole)
        return part.expand(len(groups)).clone()

    def _not_linear(self) -> NotPossible:
        return NotPossible(
            f"{self._name} splits scores into parts that sum, so the target must be a sum of scores with no constant: "
            f"logit(3), or logit(3) - logit(5); {self._target} is not. For a probability, take its logit, or the "
            "difference of two."
        )


def bias_of(model: Model) -> Bias:
    """Who gets the biases where nothing was said, as in the papers: the rest in recurrent networks, else both."""
    recurrent = any(isinstance(m, nn.RNNBase | nn.RNNCellBase) for m in model.module.modules())
    return "rest" if recurrent else "shared"


def group_of(text: str, features: Features) -> Features:
    """Some players as the only one, from a text such as "3-5" or "0,2,7-9".

    Raises:
        BadOption: Another form, or a number that no player has.
    """
    parts = [re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part) for part in text.split(",")]
    ranges = [range(int(m[1]), int(m[2] or m[1]) + 1) for m in parts if m is not None and len(m[0]) < 20]
    chosen = sorted({i for r in ranges for i in r[: len(features) + 1]})
    if len(ranges) < len(parts) or not chosen or chosen[-1] >= len(features):
        raise BadOption(
            f"expected a group as numbers of players, 0 to {len(features) - 1}, such as 3-5 or 0,2,7-9; got {text!r}."
        )
    ids = torch.where(torch.isin(features.ids, torch.tensor(chosen)), 0, -1)
    return Features(ids, (" ".join(features.names[i] for i in chosen),), features.units)


def law(gap: Gap, dtype: torch.dtype) -> Check:
    """Do the two parts sum to what the network computes, at every operation?"""
    enough = gap.size <= _ENOUGH.get(dtype, 1e-2)
    where = f"{gap.name} in {gap.site or 'the top of the network'}"
    if enough:
        text = (
            f"At every operation, part and rest sum to what the network computes; the worst is {where}: {gap.size:.1g}"
        )
        return Check(f"{text} of the largest value there.", "ok", gap.size)
    text = (
        f"Part and rest miss what the network computes by {gap.size:.1g} of the largest value at {where}: the parts "
        "are so much larger than their sum that rounding shows. Use the network in double precision."
    )
    return Check(text, "warn", gap.size)


def idle(each: Float[Tensor, "k"]) -> dict[str, Check]:
    """Said where no player has anything of the target."""
    text = "No player has a part of the target: does it depend on them at all?"
    return {} if bool(each.any()) else {"idle": Check(text, "warn")}


def adding(groups: Groups, each: Float[Tensor, "k"], more: str = "") -> Check:
    """How what the players have alone compares with what they have together, and with the target."""
    total = float(each.sum())
    text = (
        f"Of the target's {groups.whole:.3g}, {groups.all:.3g} comes from all players together; the parts of each "
        f"alone sum to {total:.3g}.{more}"
    )
    far = abs(total - groups.all) > max(abs(groups.all), abs(groups.whole))
    if far:
        text += " That is far off: what the players do to each other, and the biases, outweigh what they do alone."
    return Check(text, "warn" if far else "note", total - groups.all)
