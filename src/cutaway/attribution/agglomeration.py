"""A hierarchy of what mattered: parts of the input joined step by step, by what they have in common.

The score of a group is its contextual decomposition. The parts with the largest scores come first; then a group grows
by the neighbours whose joining changes its score most, groups that touch become one, until there is one group of all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from cutaway.attribution.decomposition_groups import Bias, Groups, Rectifier, adding, idle, law
from cutaway.core.batch import Batch, primary, size
from cutaway.core.budget import afford, cut_short, time_is_up
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.features import Features
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.players import features_of
from cutaway.core.result import Tree
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

Score = Callable[[Sequence[frozenset[int]]], list[float]]
_JOINED = "What was left was joined at once, as the last level shows."


@method(paper="singh2019", needs={"one_input"}, quick={"features": "auto:4", "percentile": 50.0})
def agglomerative_decomposition(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    features: Features | str = "auto",
    percentile: float = 90.0,
    bias: Bias | None = None,
    rectifier: Rectifier = "averaged",
) -> Tree:
    """Which words form phrases and which regions form parts, as a tree whose groups have scores.

    priority of joining b to a group a = |part(a and b) - part(a)|;  of a single part = |part(b)|

    In each step, all joinings whose priority reaches the percentile are made. Two forwards for each group that is
    looked at: for k parts, some k^2 / 2 groups at most, far fewer with a lower percentile.

    Args:
        wrt: As in contextual_decomposition.
        features: What is joined: words, cells:7, superpixels:50, columns; `auto` takes what is natural.
        percentile: Of the priorities, at and above which parts are joined in a step. 100 joins one at a time.
        bias: As in contextual_decomposition.
        rectifier: As in contextual_decomposition.

    Returns:
        A tree; scores in the target's unit. Words are neighbours in the text, regions where they touch, and columns
        and units all are. Where the time limit ends it, what is left is joined in a last step.

    Raises:
        BadShape: More than one input.

    Source: Singh et al. 2019, algorithm 1. Differs: groups that touch are joined at once, as in the published code;
    priorities go by size, so that parts that oppose the target come in as early as those that support it.
    """
    if size(x) != 1:
        raise BadShape(f"expected one input, since the tree is about its parts; got {size(x)}.")
    if not 0 <= percentile <= 100:
        raise BadOption(f"expected a percentile from 0 to 100; got {percentile:g}.")
    players = features_of(features, model, x, wrt)
    k = len(players)
    afford(k * k + 4, f"agglomerative_decomposition of {k} players", stops=True)
    groups = Groups(model, x, target.row(0), players, bias, rectifier, "agglomerative_decomposition", wrt)

    def score(wanted: Sequence[frozenset[int]]) -> list[float]:
        on = torch.zeros(len(wanted), k, dtype=torch.bool)
        for row, members in zip(on, wanted, strict=True):
            row[list(members)] = True
        return groups(on).tolist()

    growth = Growth(k, neighbours(players, model.space.kind), score)
    while not (cut := time_is_up()) and growth.step(percentile):
        pass
    grown = growth.steps
    if cut:
        growth.join_all()
    on_picture = wrt == INPUT and model.space.kind == "image" and not players.units
    picture = primary(x)[0] if on_picture else torch.empty(0)
    return Tree(
        names=list(players.names),
        members=growth.members,
        parents=growth.parents,
        levels=growth.levels,
        values=torch.tensor(growth.values, dtype=torch.float64),
        target=str(target),
        unit="target",
        sequence=model.space.kind == "tokens" and not players.units,
        input=picture,
        regions=players.ids if on_picture else torch.empty(0),
        checks={
            "law": law(groups.gap, model.dtype),
            "sum": adding(groups, torch.tensor(growth.values[:k], dtype=torch.float64)),
            "steps": _steps(growth),
        }
        | idle(torch.tensor(growth.values[:k]))
        | (cut_short([grown], [k], "steps", _JOINED) if growth.steps > grown else {}),
    )


def neighbours(features: Features, kind: str) -> list[set[int]]:
    """For each player those that it touches: in an image side by side, in a text next to each other; else all others.

    Args:
        features: The players.
        kind: Of the model's space: positions in line are neighbours in a text, columns of a row all are.
    """
    ids, k = features.ids, len(features)
    if features.units or (ids.ndim == 1 and kind != "tokens"):
        return [set(range(k)) - {i} for i in range(k)]
    found: list[set[int]] = [set() for _ in range(k)]
    ids = ids if ids.ndim > 1 else ids[ids >= 0]  # a special piece between two words keeps nothing apart
    for axis, length in enumerate(ids.shape):
        one, other = ids.narrow(axis, 1, length - 1), ids.narrow(axis, 0, length - 1)
        differ = (one != other) & (one >= 0) & (other >= 0)
        for a, b in set(zip(one[differ].tolist(), other[differ].tolist(), strict=True)):
            found[a].add(b)
            found[b].add(a)
    return found


@dataclass
class Growth:
    """The tree as it grows.

    Attributes:
        players: How many parts there are.
        touching: For each part those that it touches.
        score: The scores of groups.
        groups: The nodes that grow: those of parts that were chosen.
    """

    players: int
    touching: list[set[int]]
    score: Score
    members: list[list[int]] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    groups: dict[int, frozenset[int]] = field(default_factory=dict)
    steps: int = 0

    def __post_init__(self) -> None:
        singles = [frozenset([i]) for i in range(self.players)]
        for single, value in zip(singles, self.score(singles), strict=True):
            self._add(single, value, 0)

    @property
    def chosen(self) -> frozenset[int]:
        """The parts that belong to a group."""
        return frozenset().union(*self.groups.values())

    @property
    def whole(self) -> bool:
        """True once all are one group."""
        return len(self.members[-1]) == self.players

    def step(self, percentile: float) -> bool:
        """Join what has the highest priority; False once all are one group."""
        if self.whole:
            return False
        self.steps += 1
        chosen, new = self.chosen, set(range(self.players))
        if len(chosen) < self.players:
            new = {part for part, priority in self._most(chosen, percentile)}
        self._regroup(chosen | new)
        return True

    def join_all(self) -> None:
        """Join what is left at once."""
        while not self.whole:
            self.steps += 1
            self._regroup(frozenset(range(self.players)))

    def _most(self, chosen: frozenset[int], percentile: float) -> Iterator[tuple[int, float]]:
        """The parts to be joined in this step, with their priorities."""
        priorities = [(i, abs(self.values[i])) for i in range(self.players) if i not in chosen]
        grown = [(node, part) for node, group in self.groups.items() for part in sorted(self._around(group) - chosen)]
        unions = self.score([self.groups[node] | {part} for node, part in grown]) if grown else []
        priorities += [
            (part, abs(value - self.values[node])) for (node, part), value in zip(grown, unions, strict=True)
        ]
        sizes = torch.tensor([priority for _, priority in priorities], dtype=torch.float64)
        enough = float(torch.quantile(sizes, percentile / 100, interpolation="lower"))
        yield from ((part, priority) for part, priority in priorities if priority >= enough)

    def _around(self, group: Iterable[int]) -> set[int]:
        return set().union(*(self.touching[i] for i in group)) - set(group)

    def _regroup(self, chosen: frozenset[int]) -> None:
        """Groups that touch become one; all, once none can grow any more."""
        found = list(self._connected(chosen))
        if len(chosen) == self.players and len(found) > 1 and all(g in self._known() for g in found):
            found = [chosen]
        made = [group for group in found if group not in self._known()]
        at = {group: i for i, group in enumerate(map(frozenset, self.members))}
        for group, value in zip(made, self.score(made) if made else [], strict=True):
            parts = [i for i, up in enumerate(self.parents) if up == -1 and set(self.members[i]) <= group]
            at[group] = self._add(group, value, self.steps)
            for i in parts:
                self.parents[i] = at[group]
        self.groups = {at[group]: group for group in found}

    def _known(self) -> set[frozenset[int]]:
        return set(map(frozenset, self.members))

    def _connected(self, chosen: frozenset[int]) -> Iterator[frozenset[int]]:
        left = set(chosen)
        while left:
            group, border = set(), {min(left)}
            while border:
                group |= border
                border = (self._around(border) & left) - group
            left -= group
            yield frozenset(group)

    def _add(self, group: frozenset[int], value: float, level: int) -> int:
        self.members.append(sorted(group))
        self.parents.append(-1)
        self.levels.append(level)
        self.values.append(value)
        return len(self.members) - 1


def _steps(growth: Growth) -> Check:
    text = (
        f"{growth.players} parts were joined in {growth.steps} steps into {len(growth.members)} groups, them included."
    )
    return Check(text, "note", growth.steps)
