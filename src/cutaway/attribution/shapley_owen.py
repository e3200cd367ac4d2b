"""Shapley values for players in families: a family comes together, and shares its gain inside."""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.cluster.hierarchy import linkage
from torch import Tensor

from cutaway.attribution.shapley import check_sampling, gains_along
from cutaway.attribution.shares import Shares, attribution_of, exactly, games, half_width
from cutaway.core.batch import Batch
from cutaway.core.budget import partial, time_is_up
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.features import Features, columns
from cutaway.core.fill import Fill, neutral
from cutaway.core.game import Game
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target
from cutaway.maths.shapley import how_many

_NEUTRAL = neutral()
# A player, or a family of players and families.
Tree = int | tuple[Any, ...]


@method(
    paper="owen1977",
    laws={"batch_independent", "complete", "linear_in_target", "same_for_equivalent_nets"},
    quick={"features": "auto:9", "forwards": 80},
)
def owen_shapley(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    fill: Fill = _NEUTRAL,
    wrt: Site = INPUT,
    families: str = "auto",
    forwards: int = 2048,
    seed: int = 0,
) -> Attribution:
    """What each part adds, on average over the orders in which parts of one family come one after the other.

    phi_i = mean over orders that keep each family together of v(what came before i, and i) - v(what came before i)

    With two levels that is the Owen value; families may have families inside. For a part at the end of a path through
    families of m_1, m_2, ... members, 2^(m_1 - 1 + m_2 - 1 + ...) coalitions come before it. They are all run where the
    forwards allow it; otherwise random orders are.

    Args:
        features: The parts.
        fill: What stands for a part that is absent.
        wrt: Where the parts are: the input, or a layer.
        families: "auto" joins what is alike, two by two: neighbouring parts of like colour of an image, neighbouring
            words of a text, units of like activation; and columns with the same name before "=". For columns, groups as
            `features=groups:` has them: "race,age+priors".
        forwards: At most so many for each input.
        seed: Draws the orders and a random fill; the same for each input.

    Returns:
        Values in the target's unit, a part's value in equal shares on its entries; undivided in `extra["whole"]`, with
        the ends of its 95 % interval in `extra["low"]` and `extra["high"]`. They sum to v(all) - v(nobody).

    Raises:
        BadOption: Families of other things than columns, or fewer forwards than two orders need.

    Source: Owen 1977; for more levels, Winter 1989.
    """
    check_sampling(forwards, 0.0)
    played = games(
        model,
        x,
        target,
        features=features,
        fill=fill,
        wrt=wrt,
        seed=seed,
        forwards=lambda game: forwards,
        name="owen_shapley",
    )
    for game in played:
        if len(game) > forwards:  # before so many are compared with each other
            raise _too_few(game, forwards)
    shares = [_of_families(game, tree_of(game, families), forwards, seed) for game in played]
    result = attribution_of(played, shares, x, target, wrt, sampled=True)
    tree = tree_of(played[0], families)
    text = f"The {len(played[0])} players are in families: {outline(tree, played[0].features.names)}."
    return result.with_checks(families=Check(text, "note"))


def _of_families(game: Game, tree: Tree, forwards: int, seed: int) -> Shares:
    if sum(_contexts(tree).values()) <= 4 * forwards:
        parts = [_before(i, tree, len(game)) for i in range(len(game))]
        every = torch.cat([torch.cat([before, before | _one(i, len(game))]) for i, (before, _) in enumerate(parts)])
        coalitions, where = torch.unique(every, dim=0, return_inverse=True)
        if len(coalitions) <= forwards:
            values = game(coalitions)[where].split([2 * len(weights) for _, weights in parts])
            gains = [(v.view(2, -1)[1] - v.view(2, -1)[0]) @ w for v, (_, w) in zip(values, parts, strict=True)]
            return exactly(torch.stack(gains), len(coalitions))
    return _by_orders(game, tree, forwards, seed)


def _one(i: int, k: int) -> Bool[Tensor, "k"]:
    return torch.arange(k) == i


def members(tree: Tree) -> list[int]:
    """The players of a family."""
    return [tree] if isinstance(tree, int) else [i for part in tree for i in members(part)]


def _contexts(tree: Tree, before: float = 1.0) -> dict[int, float]:
    """How many coalitions can come before each player."""
    if isinstance(tree, int):
        return {tree: before}
    return {i: n for part in tree for i, n in _contexts(part, before * how_many(len(tree) - 1)).items()}


def _before(player: int, tree: Tree, k: int) -> tuple[Bool[Tensor, "m k"], Float[Tensor, "m"]]:
    """The coalitions that can come before a player, and how likely each is."""
    rows, weights = torch.zeros(1, k, dtype=torch.bool), torch.ones(1, dtype=torch.float64)
    while not isinstance(tree, int):
        own = next(part for part in tree if player in members(part))
        others = [part for part in tree if part is not own]
        chosen, likely = [], []
        for code in range(2 ** len(others)):
            some = [i for bit, part in enumerate(others) if code >> bit & 1 for i in members(part)]
            chosen.append(torch.isin(torch.arange(k), torch.tensor(some, dtype=torch.long)))
            likely.append(1 / (len(tree) * math.comb(len(others), code.bit_count())))
        rows = (rows[:, None] | torch.stack(chosen)[None]).flatten(0, 1)
        weights = (weights[:, None] * torch.tensor(likely, dtype=torch.float64)[None]).flatten()
        tree = own
    return rows, weights


def _by_orders(game: Game, tree: Tree, forwards: int, seed: int) -> Shares:
    """Random orders that keep families together, each followed by its reverse, which does so too."""
    each = 2 * (len(game) - 1)
    most = (forwards - 2) // each
    if most < 2:
        raise _too_few(game, forwards)
    draw, gains = random.Random(seed), list[Tensor]()
    while len(gains) < most and not (len(gains) > 1 and time_is_up()):
        report("owen shapley", len(gains), most)
        order = torch.tensor(_shuffled(tree, draw))
        gains.append((gains_along(game, order) + gains_along(game, order.flip(0))) / 2)
    report("owen shapley", most, most)
    every = torch.stack(gains)
    half = half_width(every.std(0) / len(gains) ** 0.5, len(gains) - 1)
    cut = {"partial": partial(len(gains) * each, most * each)} if len(gains) < most else {}
    return Shares(every.mean(0), half, len(gains) * each + 2, cut)


def _too_few(game: Game, forwards: int) -> BadOption:
    return BadOption(
        f"expected {4 * len(game) - 2} forwards or more for {len(game)} players; got {forwards}. Choose larger players."
    )


def _shuffled(tree: Tree, draw: random.Random) -> list[int]:
    if isinstance(tree, int):
        return [tree]
    return [i for part in draw.sample(tree, len(tree)) for i in _shuffled(part, draw)]


# -- families ----------------------------------------------------------------------------------------------------------


def tree_of(game: Game, families: str) -> Tree:
    """The families of a game's players."""
    place, names = game.place, game.features.names
    if place.kind in ("row", "latent"):
        owners = columns(names, "" if families == "auto" else families).ids.tolist()
        groups = [tuple(i for i, owner in enumerate(owners) if owner == g) for g in range(max(owners) + 1)]
        return tuple(group[0] if len(group) == 1 else group for group in groups)
    if families != "auto":
        raise BadOption(f"expected families=auto for {place.describe()}; groups by name are for columns of a table.")
    if game.features.ids.ndim == 1 and not game.features.units:
        return _halves(list(range(len(game))))
    return _joined(_descriptions(game))


def _halves(players: Sequence[int]) -> Tree:
    if len(players) == 1:
        return players[0]
    middle = len(players) // 2
    return _halves(players[:middle]), _halves(players[middle:])


def _descriptions(game: Game) -> np.ndarray:
    """What each player looks like: a unit's activation; else mean colour and place, which count the same."""
    place, ids = game.place, game.features.ids
    act = place.model.run(place.row, read=[place.wrt.whole])[place.wrt.whole].double().cpu()
    act = act.movedim(place.axis, 1)[0]
    if game.features.units:
        return act.reshape(len(act), -1).numpy()
    if not place.wrt.is_whole:
        act = act[:1].expand(1, *ids.shape) * 0
    axes = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in ids.shape), indexing="ij")
    means = []
    for entries in (act, torch.stack(axes)):
        sums = torch.zeros(len(entries), len(game) + 1, dtype=torch.float64)
        sums.index_add_(1, ids.flatten() + 1, entries.flatten(1))
        mean = sums[:, 1:].T / game.features.sizes[:, None]
        spread = float((mean - mean.mean(0)).norm())
        means.append(mean / spread if spread else mean)
    return torch.cat(means, dim=1).numpy()


def _joined(descriptions: np.ndarray) -> Tree:
    """Joined two by two, the most alike first (Ward)."""
    found: list[Tree] = list(range(len(descriptions)))
    if len(found) > 1:
        for a, b, *_ in linkage(descriptions, "ward"):
            found.append((found[int(a)], found[int(b)]))
    return found[-1]


def outline(tree: Tree, names: Sequence[str], most: int = 6) -> str:
    """The first families in words."""
    if isinstance(tree, int):
        return str(names[tree])
    parts = [[names[i] for i in members(part)] for part in tree]
    shown = [" + ".join([*part[:4], *(["..."] if len(part) > 4 else [])]) for part in parts]
    return "; ".join([*shown[:most], *([f"and {len(shown) - most} more"] if len(shown) > most else [])])
