"""What each part of an input adds, on average over all orders in which the parts could come: Shapley values.

v(S) is the target when only the parts in S are there, and the fill stands for the others: a game whose players are the
parts. phi_i is the mean of v(S and i) - v(S) over all orders, S being what came before i. The phi sum to
v(all) - v(nobody).
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cutaway.attribution.shares import Shares, attribution_of, exactly, games, half_width, narrow_enough
from cutaway.core.batch import Batch
from cutaway.core.budget import partial, time_is_up
from cutaway.core.errors import BadOption
from cutaway.core.features import Features
from cutaway.core.fill import Fill, neutral
from cutaway.core.game import Game
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target
from cutaway.maths.shapley import all_coalitions, how_many, shapley

_NEUTRAL = neutral()
# More players have more coalitions than a table should hold.
MOST_EXACT = 16


@method(
    paper="shapley1953",
    laws={"batch_independent", "complete", "linear_in_target", "same_for_equivalent_nets", "symmetric"},
    quick={"features": "auto:4"},
)
def exact_shapley(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto:9",
    fill: Fill = _NEUTRAL,
    wrt: Site = INPUT,
    seed: int = 0,
) -> Attribution:
    """What each of a few parts adds to the target, on average over all orders in which they could come.

    phi_i = sum over S without i of |S|! (k - |S| - 1)! / k! (v(S and i) - v(S))

    Every coalition of the k parts is run: 2^k forwards, for up to 16 parts.

    Args:
        features: The parts: cells:3, superpixels:12, words, columns, groups, units; `auto:9` takes what is natural, an
            image in 9 cells.
        fill: What stands for a part that is absent.
        wrt: Where the parts are: the input, or a layer.
        seed: Draws a random fill.

    Returns:
        Values in the target's unit, a part's value in equal shares on its entries; the undivided value in
        `extra["whole"]`. Their sum is v(all) - v(nobody) to the last digits.

    Raises:
        BadOption: More than 16 parts.

    Source: Shapley 1953; for predictions, Strumbelj and Kononenko 2010.
    """
    played = games(
        model,
        x,
        target,
        features=features,
        fill=fill,
        wrt=wrt,
        seed=seed,
        forwards=lambda game: listed(game, MOST_EXACT, "kernel_shapley estimates the same from a sample"),
        name="exact_shapley",
    )
    return attribution_of(played, [exact(game) for game in played], x, target, wrt)


def listed(game: Game, most: int, instead: str) -> float:
    """How many coalitions there are.

    Raises:
        BadOption: More players than `most`.
    """
    if len(game) > most:
        raise BadOption(
            f"expected at most {most} players, since all of their coalitions are run; got {len(game)}. Choose larger "
            f"ones (features=auto:9, cells:3, superpixels:10, groups:...); {instead}."
        )
    return how_many(len(game))


def exact(game: Game) -> Shares:
    """The shares in a game whose coalitions are all run."""
    return exactly(shapley(table_of(game)), 2 ** len(game))


def table_of(game: Game) -> Tensor:
    """The value of every coalition, (2^k,), in the order of `all_coalitions`."""
    coalitions, step = all_coalitions(len(game)), 1024
    values = []
    for start in range(0, len(coalitions), step):
        report("coalitions", start, len(coalitions))
        values.append(game(coalitions[start : start + step]))
    report("coalitions", len(coalitions), len(coalitions))
    return torch.cat(values)


@method(
    paper="castro2009",
    laws={"batch_independent", "complete", "same_for_equivalent_nets"},
    quick={"features": "auto:9", "forwards": 480, "within": 0.03},
)
def permutation_shapley(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    fill: Fill = _NEUTRAL,
    wrt: Site = INPUT,
    forwards: int = 4096,
    within: float = 0.1,
    seed: int = 0,
) -> Attribution:
    """What each part adds to the target, averaged over random orders, each followed by its reverse.

    phi_i = mean over orders of v(what came before i, and i) - v(what came before i)

    Each order costs as many forwards as there are parts. Its gains sum to v(all) - v(nobody), and so do the values.
    `kernel_shapley` is more exact for the same forwards; this one assumes nothing of the game.

    Args:
        features: The parts; an image in 7 x 7 cells, if nothing else is said.
        fill: What stands for a part that is absent.
        wrt: Where the parts are: the input, or a layer.
        forwards: At most so many for each input; where they are enough for all coalitions, the answer is exact.
        within: Stop earlier, once each 95 % interval is at most +- this share of the largest value; 0 never stops.
        seed: Draws the orders and a random fill; the same for each input.

    Returns:
        Values in the target's unit, a part's value in equal shares on its entries; undivided in `extra["whole"]`, with
        the ends of its 95 % interval in `extra["low"]` and `extra["high"]`.

    Raises:
        BadOption: Fewer forwards than two orders and their reverses need.

    Source: Castro, Gomez and Tejada 2009; with reversed orders, Mitchell et al. 2022.
    """
    check_sampling(forwards, within)
    played = games(
        model,
        x,
        target,
        features=features,
        fill=fill,
        wrt=wrt,
        seed=seed,
        forwards=lambda game: min(forwards, how_many(len(game))),
        name="permutation_shapley",
    )
    shares = [_by_orders(game, forwards, within, seed) for game in played]
    return attribution_of(played, shares, x, target, wrt, sampled=True)


def check_sampling(forwards: int, within: float) -> None:
    """Refuse budgets and tolerances that nothing can keep."""
    if forwards < 1:
        raise BadOption(f"expected 1 forward or more; got {forwards}.")
    if not 0 <= within < 1:
        raise BadOption(f"expected within as a share from 0 (never stop early) to below 1; got {within:g}.")


def _by_orders(game: Game, forwards: int, within: float, seed: int) -> Shares:
    k = len(game)
    if 2**k <= forwards:
        return exact(game)
    each = 2 * (k - 1)  # the empty and the full coalition are known
    most = (forwards - 2) // each
    if most < 2:
        raise BadOption(
            f"expected {2 * each + 2} forwards or more for {k} players, two orders each way; got {forwards}."
        )
    generator = torch.Generator().manual_seed(seed)
    gains: list[Tensor] = []
    while len(gains) < most and not (len(gains) > 1 and time_is_up()):
        report("permutation shapley", len(gains), most)
        order = torch.randperm(k, generator=generator)
        gains.append((gains_along(game, order) + gains_along(game, order.flip(0))) / 2)
        values, half = _mean_of(gains)
        # The variance of a few is too uncertain to stop for.
        if len(gains) >= 10 and narrow_enough(values, half, within):
            break
    report("permutation shapley", most, most)
    cut = {"partial": partial(len(gains) * each, most * each)} if time_is_up() and len(gains) < most else {}
    values, half = _mean_of(gains)
    return Shares(values, half, len(gains) * each + 2, cut)


def gains_along(game: Game, order: Int[Tensor, "k"]) -> Tensor:
    """What each player adds when the players come in an order."""
    k = len(order)
    ends = torch.tensor([game.empty, game.full], dtype=torch.float64)
    values = torch.cat([ends[:1], game(_prefixes(order)), ends[1:]])
    return torch.zeros(k, dtype=torch.float64).index_copy_(0, order, values.diff())


def _prefixes(order: Int[Tensor, "k"]) -> Bool[Tensor, "m k"]:
    """The coalitions of the first 1, 2, ... k - 1 players of an order."""
    places = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
    return places[None] < torch.arange(1, len(order))[:, None]


def _mean_of(gains: list[Tensor]) -> tuple[Tensor, Tensor]:
    every = torch.stack(gains)
    if len(gains) < 2:
        return every[0], torch.full_like(every[0], torch.inf)
    return every.mean(0), half_width(every.std(0) / len(gains) ** 0.5, len(gains) - 1)
