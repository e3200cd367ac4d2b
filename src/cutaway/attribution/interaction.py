"""Which two parts of an input mean more, or less, together than each alone."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.attribution.shapley import check_sampling, table_of
from cutaway.attribution.shares import LEVEL, games, half_width
from cutaway.core.batch import Batch
from cutaway.core.budget import cut_short, fair_share, time_is_up
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.features import Features
from cutaway.core.fill import Fill, neutral
from cutaway.core.game import Game
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.core.result import Matrix
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target
from cutaway.maths.shapley import how_many, interactions

_NEUTRAL = neutral()


@method(paper="grabisch1999", laws={"seeded"}, quick={"features": "auto:4"})
def shapley_interaction(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto:9",
    fill: Fill = _NEUTRAL,
    wrt: Site = INPUT,
    forwards: int = 4096,
    seed: int = 0,
) -> Matrix:
    """How much more two parts add together than apart, on average over what else is there.

    I_ij = sum over S without i, j of |S|! (k - |S| - 2)! / (k - 1)! (v(S,i,j) - v(S,i) - v(S,j) + v(S))

    Where the forwards are enough for all 2^k coalitions (12 parts by default), the answer is exact. Otherwise it is
    estimated in rounds: in each, k / 2 random orders bring every two parts side by side once, for about k^2 forwards.

    Args:
        features: The parts; `auto:9` takes what is natural, an image in 9 cells.
        fill: What stands for a part that is absent.
        wrt: Where the parts are: the input, or a layer.
        forwards: At most so many for each input.
        seed: Draws the orders and a random fill; the same for each input.

    Returns:
        Interactions in the target's unit, symmetric, with an empty diagonal; above 0 where two parts need each other,
        below where one can stand for the other. 95 % intervals in `low` and `high` where they are estimated. For
        several inputs, the mean.

    Raises:
        BadOption: Fewer forwards than two rounds need.
        BadShape: Several inputs with different parts.

    Source: Grabisch and Roubens 1999.
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
        forwards=lambda game: min(forwards, how_many(len(game))),
        name="shapley_interaction",
    )
    refuse_different(played)
    found = []
    for i, game in enumerate(played):
        with fair_share(len(played) - i):
            found.append(_interactions(game, forwards, seed))
    values = torch.stack([f[0] for f in found]).mean(0)
    half = torch.stack([f[1] for f in found]).square().sum(0).sqrt() / len(found)
    names = list(played[0].features.names)
    sampled = bool(half.any())
    return Matrix(
        values=values,
        row_names=names,
        column_names=names,
        unit="target",
        low=values - half if sampled else torch.empty(0),
        high=values + half if sampled else torch.empty(0),
        sequence=model.space.kind == "tokens" and not played[0].features.units,
        checks=interaction_checks(played, values, half) | {name: c for f in found for name, c in f[2].items()},
    )


def refuse_different(played: Sequence[Game]) -> None:
    """A mean over inputs has a meaning only where the parts are the same, and pairs only where there are two."""
    if len({game.features.names for game in played}) > 1:
        raise BadShape(
            f"expected inputs with the same parts; got {len(played)} with different ones. Pass one at a time."
        )
    if len(played[0]) < 2:
        raise BadShape("expected at least two parts, to compare them together and apart; got one.")


def interaction_checks(played: Sequence[Game], values: Float[Tensor, "k k"], half: Tensor) -> dict[str, Check]:
    """Who played, the strongest pair, and how sure it is."""
    k, names = len(played[0]), played[0].features.names
    of_mean = "" if len(played) == 1 else f" The mean over {len(played)} inputs."
    checks = {"players": Check(played[0].describe() + of_mean, "note", k)}
    off = values.masked_fill(torch.eye(k, dtype=torch.bool), 0.0)
    place = int(off.abs().argmax())
    largest = float(off.flatten()[place])
    change = sum(game.full - game.empty for game in played) / len(played)
    if largest == 0:
        return checks | {"none": Check("No two parts interact: the target is additive in them.", "note", 0.0)}
    text = (
        f"The strongest pair is {names[place // k]!r} and {names[place % k]!r} with {largest:.3g}; all parts together "
        f"change the target by {change:.3g}."
    )
    checks["strongest"] = Check(text, "note", largest)
    widest = float(half.nan_to_num().max()) if half.numel() else 0.0
    if widest:
        beyond = int(((off.abs() > half.nan_to_num()) & (half > 0)).sum()) // 2
        text = (
            f"{beyond} of {k * (k - 1) // 2} pairs have a {LEVEL:.0%} interval without 0; the widest is ± {widest:.2g}."
        )
        checks["interval"] = Check(text, "ok" if abs(largest) > widest else "warn", widest)
    return checks


def _interactions(game: Game, forwards: int, seed: int) -> tuple[Tensor, Tensor, dict[str, Check]]:
    """The values, half of their intervals, and what to say of this one."""
    k = len(game)
    if 2**k <= forwards:
        values = interactions(table_of(game))
        return values, torch.zeros_like(values), {}
    each = (k + k % 2) ** 2
    most = forwards // each
    if most < 2:
        raise BadOption(
            f"expected {2 * each} forwards or more for {k} parts, two rounds; got {forwards}: choose fewer."
        )
    paths = side_by_side(k)
    generator, rounds = torch.Generator().manual_seed(seed), list[Tensor]()
    while len(rounds) < most and not (len(rounds) > 1 and time_is_up()):
        report("shapley interaction", len(rounds), most)
        rounds.append(_round(game, paths, torch.randperm(k + k % 2, generator=generator)))
    report("shapley interaction", most, most)
    every = torch.stack(rounds)
    half = half_width(every.std(0) / len(rounds) ** 0.5, len(rounds) - 1)
    return every.mean(0), half, cut_short([len(rounds) * each], most * each, "forwards")


def side_by_side(k: int) -> list[list[int]]:
    """Orders of k players, or of k + 1 where k is odd, in which each two come side by side exactly once (Walecki)."""
    n = k + k % 2
    steps = [(i + 1) // 2 if i % 2 else -(i // 2) for i in range(n)]  # 0, 1, -1, 2, -2, ...
    return [[(start + step) % n for step in steps] for start in range(n // 2)]


def _round(game: Game, paths: Sequence[Sequence[int]], relabelled: Tensor) -> Float[Tensor, "k k"]:
    """One estimate of every pair. With an odd number of players, one more that does nothing makes it even."""
    k, n = len(game), len(relabelled)
    found = torch.full((k, k), math.nan, dtype=torch.float64)
    for path in paths:
        order = relabelled[torch.tensor(path)]
        places = torch.empty_like(order).index_copy_(0, order, torch.arange(n))
        before = places[None] < torch.arange(n + 1)[:, None]  # the first 0, 1, ... n of the order
        swapped = before[:-2].clone()
        swapped[torch.arange(n - 1), order[1:]] = True
        values = game(torch.cat([before, swapped])[:, :k])
        chain, other = values[: n + 1], values[n + 1 :]
        gains = chain[2:] - chain[1:-1] - other + chain[:-2]
        real = (order[:-1] < k) & (order[1:] < k)
        a, b = order[:-1][real], order[1:][real]
        found[a, b] = found[b, a] = gains[real]
    return found
