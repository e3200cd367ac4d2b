"""From the values of players to an attribution: spread over their entries, with intervals, and what to say of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor

from cutaway.core.batch import Batch, join, primary, size, take
from cutaway.core.budget import afford
from cutaway.core.checks import Check
from cutaway.core.fill import Fill
from cutaway.core.game import Game, play
from cutaway.core.model import Model
from cutaway.core.players import FeaturesLike
from cutaway.core.result import Attribution
from cutaway.core.site import Site
from cutaway.core.target import Target

# Of the intervals.
LEVEL = 0.95


@dataclass(frozen=True)
class Shares:
    """What each player of one game gets.

    Attributes:
        values: One for each player.
        half: Half the width of its interval; 0 where it is exact.
        used: Coalitions that were asked for.
        checks: What to say of this one, such as that it was cut short.
    """

    values: Float[Tensor, "k"]
    half: Float[Tensor, "k"]
    used: int
    checks: dict[str, Check] = field(default_factory=dict)


def exactly(values: Float[Tensor, "k"], used: int) -> Shares:
    """Shares without an error."""
    return Shares(values, torch.zeros_like(values), used)


def half_width(error: Float[Tensor, "*k"], freedom: float) -> Float[Tensor, "*k"]:
    """Half of a Student interval, from standard errors and the degrees of freedom behind them."""
    return error * float(stdtrit(freedom, (1 + LEVEL) / 2))


def narrow_enough(values: Tensor, half: Tensor, within: float) -> bool:
    """Is each interval at most +- `within` of the largest value?"""
    return within > 0 and float(half.max()) <= within * float(values.abs().max())


def games(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: FeaturesLike,
    fill: Fill,
    wrt: Site,
    seed: int,
    forwards: Callable[[Game], float],
    name: str,
    stops: bool = False,
) -> list[Game]:
    """The game of each input, once it is known that all of them can be afforded.

    Args:
        forwards: Coalitions that one game will take.
        name: Of the method, for the refusal.
        stops: True if it ends with what it has once the time is up.
    """
    found = [
        play(model, take(x, slice(i, i + 1)), target.row(i), features=features, fill=fill, wrt=wrt, seed=seed)
        for i in range(size(x))
    ]
    most = max(map(len, found))
    what = f"{name} of {most} players" + (f" for {len(found)} inputs" if len(found) > 1 else "")
    afford(sum(game.forwards(forwards(game)) for game in found), what, stops=stops)
    return found


def attribution_of(
    played: Sequence[Game],
    shares: Sequence[Shares],
    x: Batch,
    target: Target,
    wrt: Site,
    *,
    exact_sum: bool = True,
    sampled: bool = False,
) -> Attribution:
    """The attribution: a player's value in equal parts on its entries, so that no entry counts twice in a sum.

    Args:
        exact_sum: True if the values sum to v(all) - v(nobody) by construction.
        sampled: True if the values have intervals, unless there were forwards enough.
    """
    like = primary(x) if primary(x).is_floating_point() else torch.empty(0, dtype=played[0].place.model.dtype)

    def shown(pick: Callable[[Game, Shares], Tensor]) -> Tensor:
        return join([pick(game, share) for game, share in zip(played, shares, strict=True)])

    extra = {
        "player": shown(lambda game, share: game.owner[None]),
        "whole": shown(lambda game, share: game.lay_out(share.values)).to(like),
    }
    if sampled:
        extra["low"] = shown(lambda game, share: game.lay_out(share.values - share.half)).to(like)
        extra["high"] = shown(lambda game, share: game.lay_out(share.values + share.half)).to(like)
    return Attribution(
        values=shown(lambda game, share: game.spread(share.values)).to(like),
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=torch.tensor([game.full for game in played], dtype=torch.float64).to(like),
        players=[list(game.features.names) for game in played],
        extra=extra,
        checks=_checks(played, shares, exact_sum),
    )


def _checks(played: Sequence[Game], shares: Sequence[Shares], exact_sum: bool) -> dict[str, Check]:
    """Who played for what, how the values add up, how sure they are, and whether anything happened at all."""
    game, share = played[0], shares[0]
    of_first = "" if len(played) == 1 else f" For the first of {len(played)} inputs."
    checks = {"players": Check(game.describe() + of_first, "note", len(game))}
    change, total = game.full - game.empty, float(share.values.sum())
    ends = f"from {game.empty:.3g} with no player to {game.full:.3g} with all of them"
    text = f"The values sum to {total:.3g}; the target changes by {change:.3g}, {ends}.{of_first}"
    far = not exact_sum and abs(total - change) > abs(change)
    text += " That is far off: compare the values with each other, and not with the target." if far else ""
    checks["sum"] = Check(text, "ok" if exact_sum else "warn" if far else "note", total - change)
    used = sum(s.used for s in shares)
    widest = max(shares, key=_relative)
    if _relative(widest) > 0:
        text = (
            f"From {used:,} coalitions; the widest {LEVEL:.0%} interval is ± {float(widest.half.max()):.2g}, and the "
            f"largest value is {float(widest.values.abs().max()):.2g} in size."
        )
        checks["interval"] = Check(text, "ok" if _relative(widest) <= 0.5 else "warn", float(widest.half.max()))
    elif exact_sum:
        checks["interval"] = Check(f"The values are exact: from {used:,} coalitions.", "ok", 0.0)
    idle = [i for i, (g, s) in enumerate(zip(played, shares, strict=True)) if _is_nothing(g, s)]
    if idle:
        which = "" if len(played) == 1 else f" for {len(idle)} of {len(played)} inputs"
        text = f"No player changes the target{which}: are they the fill already, or does nothing depend on them?"
        checks["idle"] = Check(text, "warn")
    return checks | {name: check for s in shares for name, check in s.checks.items()}


def _is_nothing(game: Game, share: Shares) -> bool:
    """Are the values rounding alone, beside the target?"""
    return float(share.values.abs().max()) <= 1e-12 * (abs(game.full) + abs(game.empty))


def _relative(share: Shares) -> float:
    """The widest interval as a part of the largest value."""
    largest, widest = float(share.values.abs().max()), float(share.half.max())
    return widest / largest if largest > 0 else (math.inf if widest > 0 else 0.0)
