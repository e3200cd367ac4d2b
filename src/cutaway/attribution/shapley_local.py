"""Shapley values where only neighbours are thought to play together: words of a sentence, cells of an image.

Neighbours are the player before and after in a text or row, and those that touch in an image. The k-neighbourhood of a
player are all that at most `radius` steps lead to, and the player itself.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.attribution.shares import Shares, attribution_of, games, half_width
from cutaway.core.batch import Batch
from cutaway.core.budget import afford, at_once, cut_short, fair_share, time_is_up
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.features import Features
from cutaway.core.fill import Fill, neutral
from cutaway.core.game import Game
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

_NEUTRAL = neutral()
# Sets of one player's neighbours that are listed at most.
_MOST_SETS = 2**16
# Coalitions that are run at once, and where there is a time limit: of fewer, none are put together from layers.
_TOGETHER, _FEW = 256, 64
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
    radius: int | None = None,
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
        radius: Steps to the farthest neighbour: two words on each side if not given; in an image, the cells that touch.
        outside: What lies beyond the neighbourhood: absent as in the paper, or present as in its released code.
        seed: Draws a random fill, and what is left out where the time limit ends it.

    Returns:
        Values in the target's unit, a part's value in equal shares on its entries; undivided in `extra["whole"]`. They
        need not sum to v(all) - v(nobody); the gap is a check. Where the time limit ends it, an estimate from the sets
        so far, with the ends of its 95 % interval in `extra["low"]` and `extra["high"]`.

    Raises:
        BadOption: A neighbourhood of more than 16 players.

    Source: Chen, Song, Wainwright and Jordan 2019, definition 1.
    """
    what = (model, x, target, _all_sets, "l_shapley", radius, outside)
    return _local(*what, features=features, fill=fill, wrt=wrt, seed=seed)


@method(paper="chen2019", laws=_LAWS, quick={"features": "auto:9", "radius": 1})
def c_shapley(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    fill: Fill = _NEUTRAL,
    wrt: Site = INPUT,
    radius: int | None = None,
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
        radius: Steps to the farthest neighbour: two words on each side if not given; in an image, the cells that touch.
        outside: What lies beyond the neighbourhood: absent as in the paper, or present as in its released code.
        seed: Draws a random fill, and what is left out where the time limit ends it.

    Returns:
        Values in the target's unit, a part's value in equal shares on its entries; undivided in `extra["whole"]`. They
        do not sum to v(all) - v(nobody): the weights of few neighbours sum to less than 1, in a plane with a radius
        of 2 to much more. Checks say so. Where the time limit ends it, an estimate as in l_shapley.

    Raises:
        BadOption: More connected sets around a player than can be listed.

    Source: Chen, Song, Wainwright and Jordan 2019, definition 2.
    """
    what = (model, x, target, _connected_sets, "c_shapley", radius, outside)
    return _local(*what, features=features, fill=fill, wrt=wrt, seed=seed)


def _local(
    model: Model,
    x: Batch,
    target: Target,
    sets: Sets,
    name: str,
    radius: int | None,
    outside: Outside,
    *,
    features: Features | str,
    fill: Fill,
    wrt: Site,
    seed: int,
) -> Attribution:
    if radius is not None and radius < 1:
        raise BadOption(f"expected a radius of 1 step or more; got {radius}.")
    plans: dict[int, _Plan] = {}

    def forwards(game: Game) -> float:
        plans[id(game)] = _Plan(game, sets, radius, outside, seed, name)
        return len(plans[id(game)])

    played = games(
        model,
        x,
        target,
        features=features,
        fill=fill,
        wrt=wrt,
        seed=seed,
        forwards=forwards,
        name=name,
        stops=True,
    )
    shares = []
    for i, game in enumerate(played):
        with fair_share(len(played) - i):
            shares.append(plans[id(game)].shares(name))
    cut = cut_short([s.used for s in shares], [len(plans[id(game)]) for game in played], "forwards")
    result = attribution_of(played, shares, x, target, wrt, exact_sum=False, sampled=bool(cut)).with_checks(**cut)
    heaviest = max(plans[id(game)].heaviest for game in played)
    if heaviest > 1 + 1e-9:
        text = (
            f"The weights around a player sum to up to {heaviest:.3g}: they were made for a line, and in a plane there "
            "are more connected sets. Sizes mean nothing then; radius=1 keeps the sum below 1."
        )
        result = result.with_checks(weights=Check(text, "warn", heaviest))
    if model.space.kind == "row" and wrt == INPUT:
        text = "Columns were taken for neighbours in the order of the table, which means little unless it is a series."
        return result.with_checks(order=Check(text, "warn"))
    return result


class _Plan:
    """The coalitions that one game needs, each once, and how they are weighed."""

    def __init__(self, game: Game, sets: Sets, radius: int | None, outside: Outside, seed: int, name: str) -> None:
        self.game, k = game, len(game)
        afford(game.forwards(k), f"{name} of {k} players", stops=True)
        touching = neighbours(game)
        radius = radius or (1 if game.features.ids.ndim == 2 else 2)
        self._present = outside == "present"
        players, weights, pairs = list[int](), list[float](), list[tuple[frozenset[int], frozenset[int]]]()
        distinct: set[frozenset[int]] = set()
        for i in range(k):
            around = within(i, touching, radius)
            for chosen, weight in sets(i, touching, radius):
                # Those that are there, or where most are, those that are not.
                one = frozenset(around - chosen) if self._present else chosen
                pairs.append((one, one ^ {i}))
                players.append(i)
                weights.append(weight)
                distinct.add(one)
            afford(
                game.forwards(len(distinct)), f"{name} of {k} players, for the first {i + 1} of them alone,", stops=True
            )
        order, self._rounds = in_rounds(torch.tensor(players), seed)
        self.weights, self.players = torch.tensor(weights, dtype=torch.float64)[order], torch.tensor(players)[order]
        seen: dict[frozenset[int], int] = {}
        where = [[seen.setdefault(key, len(seen)) for key in pairs[n]] for n in order.tolist()]
        self._where, self._keys = torch.tensor(where).T, list(seen)

    def __len__(self) -> int:
        """How many coalitions there are."""
        return len(self._keys)

    @property
    def heaviest(self) -> float:
        """The largest sum of one player's weights."""
        return float(torch.zeros(len(self.game)).double().index_add_(0, self.players, self.weights).max())

    def _coalitions(self, some: slice) -> Bool[Tensor, "m k"]:
        """Some of them, in the order in which pairs need them."""
        keys = self._keys[some]
        rows = torch.full((len(keys), len(self.game)), self._present)
        for row, key in zip(rows, keys, strict=True):
            row[list(key)] = not self._present
        return rows

    def shares(self, label: str) -> Shares:
        """Run them; where the time limit ends it, estimate each player from a sample of its sets."""
        values = torch.zeros(0, dtype=torch.float64)
        latest = self._where.amax(0).cummax(0).values
        least = int(latest[self._rounds <= 1][-1]) + 1  # two sets of each player have a spread
        for start in range(0, len(self), together := max(_FEW, at_once(_TOGETHER))):
            report(label, start, len(self))
            if start >= least and time_is_up():
                break
            values = torch.cat([values, self.game(self._coalitions(slice(start, start + together)))])
        report(label, len(self), len(self))
        done = int((latest < len(values)).sum())
        gains = values[self._where[0, :done]] - values[self._where[1, :done]]
        found, half = from_sample(gains, self.weights, self.players, len(self.game))
        return Shares(found, half, len(values))


def in_rounds(players: Int[Tensor, "n"], seed: int) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
    """An order in which each player comes once before any comes twice, its sets at random; and the round of each.

    Args:
        players: Of each set.
        seed: Of the order.
    """
    shuffled = torch.randperm(len(players), generator=torch.Generator().manual_seed(seed))
    grouped = shuffled[players[shuffled].argsort(stable=True)]
    sizes = torch.bincount(players)
    place = torch.arange(len(players)) - (sizes.cumsum(0) - sizes)[players[grouped]]
    rounds, order = place.sort(stable=True)
    return grouped[order], rounds


def from_sample(
    gains: Float[Tensor, "m"], weights: Float[Tensor, "n"], players: Int[Tensor, "n"], k: int
) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
    """The weighted sum of each player's gains, from the first `m` of `n`; and half of its interval, 0 if all are known.

    value = W * r,  r = sum over known sets of w g / sum of w,   W the sum of all its weights

    The variance is that of a ratio, under sampling without replacement.
    """
    m = len(gains)

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(k).index_add_(0, players[: len(values)], values)

    known, whole = total(weights[:m]), total(weights)
    counts, sizes = total(torch.ones_like(weights[:m])), total(torch.ones_like(weights))
    found = total(weights[:m] * gains) * (whole / known)
    left = 1 - counts / sizes
    if not bool(left.any()):
        return found, torch.zeros_like(found)
    spread = total((weights[:m] * (gains - (found / whole)[players[:m]])).square())
    error = (left * counts / (counts - 1).clamp(min=1) * spread).sqrt() * whole / known
    return found, half_width(error, float(counts[left > 0].min()) - 1)


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
