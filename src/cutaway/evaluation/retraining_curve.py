"""Accuracies after many trainings as a curve, with what they say in words."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.checks import Check, Status
from cutaway.core.errors import NotPossible
from cutaway.core.result import Curve
from cutaway.evaluation.paired import CHANCE, Standing
from cutaway.evaluation.retraining import over_seeds

OWN = "this map"
_SHORT = 0.1  # how much less accurate than the network itself its like may be after training again


class Found(NamedTuple):
    """What was measured.

    Attributes:
        accuracy: After removal, (seeds, shares, fills, orders).
        whole: With nothing removed, (seeds,).
        shares, fills, orders: Of those axes.
        done, wanted: Trainings after a removal.
        own: Accuracy of the network that is explained.
    """

    accuracy: Float[Tensor, "seeds shares fills orders"]
    whole: Float[Tensor, " seeds"]
    shares: tuple[float, ...]
    fills: tuple[str, ...]
    orders: tuple[str, ...]
    done: int
    wanted: int
    own: float

    @classmethod
    def of(
        cls,
        accuracy: Tensor,
        whole: Tensor,
        shares: tuple[float, ...],
        fills: tuple[str, ...],
        orders: tuple[str, ...],
        own: float,
    ) -> "Found":
        """The seeds that are whole; of the first one, the shares that are.

        Raises:
            NotPossible: Not even one share is.
        """
        there = torch.isfinite(accuracy)
        done, wanted = int(there.sum()), there.numel()
        seeds = int(there.flatten(1).all(1).sum())
        if not seeds:
            count = int(there[0].flatten(1).all(1).sum())
            if not count:
                raise NotPossible(
                    f"the time limit ended this after {done} of {wanted} trainings, before one share was done; give it "
                    "more, or ask for fewer fills, controls, examples or epochs."
                )
            seeds, accuracy, shares = 1, accuracy[:, :count], shares[:count]
        return cls(accuracy[:seeds], whole[:seeds], shares, fills, orders, done, wanted, own)

    def series(self, fill: int, order: int) -> Float[Tensor, "seeds points"]:
        """Accuracy over the share removed, from nothing on."""
        return torch.cat([self.whole[:, None], self.accuracy[:, :, fill, order]], 1)

    def area(self, fill: int, order: int) -> Float[Tensor, " seeds"]:
        """Mean accuracy over the shares."""
        return self.accuracy[:, :, fill, order].mean(1)


def curve_of(found: Found, keep: bool, flat: int, more: dict[str, Check]) -> Curve:
    """The result: all orders with the first fill, the map and chance with the others."""
    y: dict[str, Tensor] = {}
    summary: dict[str, float] = {}
    for f, fill in enumerate(found.fills):
        for o, order in enumerate(found.orders):
            name = f"{order}, {fill} fill" if len(found.fills) > 1 else order
            summary[name] = float(found.area(f, o).mean())
            if f == 0 or order in (OWN, CHANCE):
                y[name] = found.series(f, o)
    bands = {name: over_seeds(rows) for name, rows in y.items()} if len(found.whole) > 1 else {}
    return Curve(
        title="Keep and retrain" if keep else "Remove and retrain",
        x=torch.tensor([0.0, *found.shares], dtype=torch.float64),
        y={name: rows.mean(0) for name, rows in y.items()},
        low={name: low for name, (low, _) in bands.items()},
        high={name: high for name, (_, high) in bands.items()},
        x_label="share removed" + (", lowest ranks first" if keep else ""),
        y_label="accuracy after training again",
        summary=summary,
        summary_label="mean accuracy",
        better="higher" if keep else "lower",
        checks=_checks(found, keep, flat) | more,
    )


def _checks(found: Found, keep: bool, flat: int) -> dict[str, Check]:
    sign = 1.0 if keep else -1.0
    places = [_standing(found, f, sign) for f in range(len(found.fills))]
    mine, seeds = float(found.area(0, 0).mean()), len(found.whole)
    what = f"{'on only' if keep else 'without'} what this map ranks highest"
    beside = places[0].sentence("more" if keep else "less", ".1%")
    text = f"Trained {what}, the network is right for {mine:.1%}, with the fill {found.fills[0]!r}: {beside}."
    if len(found.fills) > 1:
        text += f" It is ahead of chance with {sum(CHANCE in p.ahead for p in places)} of {len(places)} fills."
    statuses = {place.status for place in places}
    status: Status = statuses.pop() if len(statuses) == 1 else "note" if statuses <= {"ok", "note"} else "warn"
    if seeds == 1:
        text, status = f"{text} One training of each tells little: another seed may turn it around.", "note"
    whole = _untouched(float(found.whole.mean()), found.own)
    if whole.status == "warn":
        text, status = f"{text} Even without removal it learns too little to judge by: see `whole`.", "warn"
    checks = {"verdict": Check(text, "warn" if flat else status, mine), "whole": whole}
    for f, fill in enumerate(found.fills):
        name = f"lead_{fill}" if len(found.fills) > 1 else "lead"
        checks[name] = _lead(sign * (found.area(f, 0) - found.area(f, found.orders.index(CHANCE))), fill, keep)
    if flat:
        text = f"For {flat} inputs the map has one value everywhere, so what was removed there is random."
        checks["ties"] = Check(text, "warn", flat)
    return checks


def _untouched(again: float, own: float) -> Check:
    """What training again is worth by itself: a network that has hardly learned has little to lose."""
    text = f"With nothing removed, training again gives {again:.1%}; the network itself is right for {own:.1%}"
    if again >= own - _SHORT:
        return Check(f"{text}.", "note", again)
    return Check(f"{text}: these trainings are too short to judge by. Give more epochs or examples.", "warn", again)


def _standing(found: Found, fill: int, sign: float) -> Standing:
    """Ahead is what is so over all seeds, by the interval of the paired differences."""
    mine = found.area(fill, 0)
    others = {name: found.area(fill, o) for o, name in enumerate(found.orders) if o}
    low = {name: _low(sign * (mine - other)) for name, other in others.items()}
    means = {name: float(other.mean()) for name, other in others.items()}
    return Standing(
        ahead={name: means[name] for name in others if low[name] > 0},
        behind={name: means[name] for name in others if low[name] <= 0},
        beaten=_low(sign * (others[CHANCE] - mine)) > 0,
    )


def _low(differences: Float[Tensor, " seeds"]) -> float:
    return float(over_seeds(differences)[0]) if len(differences) > 1 else float(differences)


def _lead(differences: Float[Tensor, " seeds"], fill: str, keep: bool) -> Check:
    mean, good = float(differences.mean()), "higher" if keep else "lower"
    side = good if mean >= 0 else "lower" if keep else "higher"
    text = f"With the fill {fill!r}, accuracy is {abs(mean):.1%} {side} than after random removal"
    if len(differences) == 1:
        return Check(f"{text}, by one training of each.", "note", mean)
    low, high = (float(end) for end in over_seeds(differences))
    text += f"; a good map makes it {good}: by {low:+.1%} to {high:+.1%} (95 %, paired over {len(differences)} seeds)."
    return Check(text, "note", mean, (low, high))
