"""Shapley values from random coalitions: the sample that says most for its forwards."""

import torch

from cutaway.attribution.shapley import check_sampling, exact
from cutaway.attribution.shares import Shares, attribution_of, games, half_width, narrow_enough
from cutaway.core.batch import Batch
from cutaway.core.budget import partial, time_is_up
from cutaway.core.checks import Check
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
from cutaway.maths.pairs import Estimate, Pairs
from cutaway.maths.pairs import estimate as estimated
from cutaway.maths.shapley import how_many

_NEUTRAL = neutral()


@method(
    paper="lundberg2017",
    laws={"batch_independent", "complete", "same_for_equivalent_nets"},
    quick={"features": "auto:9", "forwards": 64, "within": 0.5},
)
def kernel_shapley(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    fill: Fill = _NEUTRAL,
    wrt: Site = INPUT,
    forwards: int = 2048,
    within: float = 0.1,
    estimate: Estimate = "smooth",
    seed: int = 0,
) -> Attribution:
    """What each part adds to the target, from random coalitions, each with its complement, and none twice.

    phi = argmin over phi of sum over S of w(|S|) (v(S) - v(nobody) - sum over i in S of phi_i)^2,
    w(s) = (k - 1) / (C(k, s) s (k - s)),  so that the phi sum to v(all) - v(nobody)

    Where the forwards are enough for all coalitions, they are all run and the answer is exact.

    Args:
        features: The parts; an image in 7 x 7 cells, if nothing else is said.
        fill: What stands for a part that is absent.
        wrt: Where the parts are: the input, or a layer.
        forwards: At most so many for each input; at least 2 k + 2.
        within: Stop earlier, once each 95 % interval is at most +- this share of the largest value; 0 never stops.
        estimate: "regression" is the formula above, each coalition weighted by w and by how likely it was to be drawn;
            "smooth" takes the exact Shapley values of the smoothest game through all values, corrected by what it
            misses of values that are left out.
        seed: Draws the coalitions and a random fill; the same for each input.

    Returns:
        Values in the target's unit, a part's value in equal shares on its entries; undivided in `extra["whole"]`, with
        the ends of its 95 % interval in `extra["low"]` and `extra["high"]`.

    Raises:
        BadOption: Fewer forwards than 2 k + 2.

    Source: Lundberg and Lee 2017, equation 8; complements, Covert and Lee 2021; without repetition, Musco and Witter
    2025. Differs: coalitions are drawn by size, equally many of each as far as there are so many; the default estimate.
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
        name="kernel_shapley",
    )
    shares = [_by_pairs(game, forwards, within, estimate, seed) for game in played]
    return attribution_of(played, shares, x, target, wrt, sampled=True)


def _by_pairs(game: Game, forwards: int, within: float, how: Estimate, seed: int) -> Shares:
    k = len(game)
    if 2**k <= forwards:
        return exact(game)
    if forwards < 2 * k + 2:
        raise BadOption(
            f"expected {2 * k + 2} forwards or more for {k} players; got {forwards}. Choose larger players."
        )
    most = (forwards - 2) // 2
    pairs, odd = Pairs(k, seed), torch.zeros(0, dtype=torch.float64)
    total = min(most, max(3 * k, 50))
    while True:
        new = pairs.grow(total)
        report("kernel shapley", len(odd), most)
        values = game(torch.cat([new, ~new]))  # in one call: the more at once, the cheaper each
        odd = torch.cat([odd, (values[: len(new)] - values[len(new) :]) / 2])
        found = estimated(pairs, odd, game.full - game.empty, how)
        half = half_width(found.error, found.freedom)
        if total == most or narrow_enough(found.values, half, within) or time_is_up():
            break
        total = min(most, total * 3 // 2)
    report("kernel shapley", most, most)
    checks = {"partial": partial(2 * total, 2 * most)} if total < most and time_is_up() else {}
    if len(pairs) < 3 * k:
        text = f"From {2 * len(pairs)} coalitions of {k} players, intervals are rough; 6 for each player are enough."
        checks["few"] = Check(text, "warn", 2 * len(pairs))
    return Shares(found.values, half, 2 * len(pairs) + 2, checks)
