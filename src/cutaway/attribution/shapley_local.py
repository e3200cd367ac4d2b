"""Shapley values where only neighbours are thought to play together: words of a sentence, cells of an image.

Neighbours are the player before and after in a text or row, and those that touch in an image. The k-neighbourhood of a
player are all that at most `radius` steps lead to, and the player itself.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.attribution.shares import Shares, attribution_of, exactly, games
from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.features import Features
from cutaway.core.fill import Fill, neutral
from cutaway.core.game import Game
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

_NEUTRAL = neutral()
# Sets of one player's neighbours that are listed at most.
_MOST_SETS = 2**16
Outside = Literal["absent", "present"]
# The sets of players around one that are compared, each with its weight; the player is in all of them.
Sets = Callable[[int, list[set[int]], int], list[tuple[frozenset[int], float]]]
_LAWS = {"batch_independent", "linear_in_target", "same_for_equivalent_nets"}


@method(paper="chen2019", laws=_LAWS, quick={"features": "auto:9", "radius": 1})
def l_shapley(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    fill: Fill = _NEUTRAL,
    wrt: Site = INPUT,
    radius: int = 2,
    outside: Outside = "absent",
    seed: int = 0,
) -> Attribution:
    """What each word or cell adds among its neighbours, on average over all sets of them.

    phi_i = 1 / n sum over T with i, T inside N(i), of (v(T) - v(T without i)) / C(n - 1, |T| - 1)

    N(i) are the n players within `radius` steps of i, and i. That is the Shapley value of i in the game of its
    neighbourhood. At most 2^n forwards for each player; sets that neighbours share are run once.

    Args:
        features: The parts: words, tokens, cells:7.
        fill: What stands for a part that is absent.
        wrt: Where the parts are: the input, or a layer.
        radius: Steps to the farthest neighbour; 2 are two words on each side.
        outside: What lies beyond the neighbourhood: absent as in the paper, or present as in its released code.
        seed: Draws a random fill.

    Returns:
        Values in the target's unit, a part's value in equal shares on its entries; undivided in `extra["whole"]`. They
        need not sum to v(all) - v(nobody); the gap is a check.

    Raises:
        BadOption: A neighbourhood of more than 16 players.

    Source: Chen, Song, Wainwright and Jordan 2019, definition 1.
    """
    what = {"features": features, "fill": fill, "wrt": wrt, "seed": seed}
    return _local(model, x, target, _all_sets, "l_shapley", radius, outside, **what)


@method(paper="chen2019", laws=_LAWS, quick={"features": "auto:9", "radius": 1})
def c_shapley(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    fill: Fill = _NEUTRAL,
    wrt: Site = INPUT,
    radius: int = 2,
    outside: Outside = "absent",
    seed: int = 0,
) -> Attribution:
    """What each word or cell adds to the connected pieces around it: phrases, patches.

    phi_i = sum over connected U with i, U inside N(i), of 2 / ((|U| + 2) (|U| + 1) |U|) (v(U) - v(U without i))

    N(i) are the players within `radius` steps of i. In a sentence the U are the runs of words through i, so that the
    forwards grow with the square of the radius, not exponentially.

    Args:
        features: The parts: words, tokens, cells:7.
        fill: What stands for a part that is absent.
        wrt: Where the parts are: the input, or a layer.
        radius: Steps to the farthest neighbour; 2 are two words on each side.
        outside: What lies beyond the neighbourhood: absent as in the paper, or present as in its released code.
        seed: Draws a random fill.

    Returns:
        Values in the target's unit, a part's value in equal shares on its entries; undivided in `extra["whole"]`. They
        do not sum to v(all) - v(nobody): the weights of few neighbours sum to less than 1. The gap is a check.

    Raises:
        BadOption: More connected sets around a player than can be listed.

    Source: Chen, Song, Wainwright and Jordan 2019, definition 2.
    """
    return _local(
        model,
        x,
        target,
        _connected_sets,
        "c_shapley",
        radius,
        outside,
        features=features,
        fill=fill,
        wrt=wrt,
        seed=seed,
    )


def _local(
    model: Model, x: Batch, target: Target, sets: Sets, name: str, radius: int, outside: Outside, **what: object
) -> Attribution:
    if radius < 1:
        raise BadOption(f"expected a radius of 1 step or more; got {radius}.")
    plans: dict[int, _Plan] = {}

    def forwards(game: Game) -> float:
        plans[id(game)] = _Plan(game, sets, radius, outside)
        return len(plans[id(game)].coalitions)

    played = games(model, x, target, forwards=forwards, name=name, **what)  # type: ignore[arg-type]  # passed on
    shares = [plans[id(game)].shares() for game in played]
    result = attribution_of(played, shares, x, target, what["wrt"], exact_sum=False)  # type: ignore[arg-type]  # a Site
    if model.space.kind == "row" and what["wrt"] == INPUT:
        text = "Columns were taken for neighbours in the order of the table, which means little unless it is a series."
        return result.with_checks(order=Check(text, "warn"))
    return result


class _Plan:
    """The coalitions that one game needs, each once, and how they are weighed."""

    def __init__(self, game: Game, sets: Sets, radius: int, outside: Outside) -> None:
        self.game = game
        touching, k = neighbours(game), len(game)
        with_it, without, self.weights, self.players = [], [], [], []
        for i in range(k):
            beyond = torch.ones(k, dtype=torch.bool) if outside == "present" else torch.zeros(k, dtype=torch.bool)
            beyond[list(within(i, touching, radius))] = False
            for chosen, weight in sets(i, touching, radius):
                row = beyond.clone()
                row[list(chosen)] = True
                with_it.append(row)
                without.append(row.index_fill(0, torch.tensor([i]), value=False))
                self.weights.append(weight)
                self.players.append(i)
        every = torch.stack(with_it + without)
        self.coalitions, self._where = torch.unique(every, dim=0, return_inverse=True)

    def shares(self) -> Shares:
        """Run them."""
        values = self.game(self.coalitions)[self._where].view(2, -1)
        gains = (values[0] - values[1]) * torch.tensor(self.weights, dtype=torch.float64)
        players = torch.tensor(self.players)
        found = torch.zeros(len(self.game), dtype=torch.float64).index_add_(0, players, gains)
        return exactly(found, len(self.coalitions))


def neighbours(game: Game) -> list[set[int]]:
    """Which players touch each other.

    Raises:
        NotPossible: The players have no places, or more than two axes of them.
    """
    features = game.features
    if features.units and game.place.kind != "row":
        raise NotPossible("units of a layer have no neighbours; use kernel_shapley, or features that have places.")
    ids = features.ids
    if ids.ndim == 1:
        ids = ids[ids >= 0]
        pairs = torch.stack([ids[:-1], ids[1:]], dim=1)
    elif ids.ndim == 2:
        pairs = torch.cat([_touching(ids[:, :-1], ids[:, 1:]), _touching(ids[:-1], ids[1:])])
    else:
        raise NotPossible(f"expected players along a line or in a plane; got places of shape {tuple(ids.shape)}.")
    found: list[set[int]] = [set() for _ in range(len(game))]
    for a, b in torch.unique(pairs, dim=0).tolist():
        if a != b and min(a, b) >= 0:
            found[a].add(b)
            found[b].add(a)
    return found


def _touching(a: Int[Tensor, "h w"], b: Int[Tensor, "h w"]) -> Int[Tensor, "n 2"]:
    return torch.stack([a.flatten(), b.flatten()], dim=1)


def within(i: int, touching: list[set[int]], radius: int) -> set[int]:
    """The players that at most `radius` steps lead to, and i."""
    found = {i}
    for _ in range(radius):
        found |= {b for a in found for b in touching[a]}
    return found


def _all_sets(i: int, touching: list[set[int]], radius: int) -> list[tuple[frozenset[int], float]]:
    around = sorted(within(i, touching, radius))
    n = len(around)
    if n > 16:
        raise BadOption(f"expected neighbourhoods of at most 16 players; radius={radius} gives {n}. Use c_shapley.")
    others = [p for p in around if p != i]
    found = []
    for code in range(2 ** (n - 1)):
        chosen = frozenset([i, *(p for bit, p in enumerate(others) if code >> bit & 1)])
        found.append((chosen, 1 / (n * math.comb(n - 1, len(chosen) - 1))))
    return found


def _connected_sets(i: int, touching: list[set[int]], radius: int) -> list[tuple[frozenset[int], float]]:
    around = within(i, touching, radius)
    found, newest = {frozenset([i])}, {frozenset([i])}
    while newest:
        newest = {s | {b} for s in newest for a in s for b in touching[a] if b in around and b not in s} - found
        found |= newest
        if len(found) > _MOST_SETS:
            raise BadOption(f"radius={radius} has more than {_MOST_SETS:,} connected sets around a player; choose 1.")
    ordered = sorted(found, key=lambda s: (len(s), sorted(s)))
    return [(s, connected_weight(len(s))) for s in ordered]


def connected_weight(size: int) -> float:
    """The weight of a connected set: 1/3, 1/12, 1/30 for 1, 2, 3 players."""
    return 2 / ((size + 2) * (size + 1) * size)
