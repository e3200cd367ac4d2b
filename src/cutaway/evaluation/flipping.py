"""Flip region after region, and add up how far the score falls: most relevant first against least relevant first."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch, size, take
from cutaway.core.checks import Check, Status
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Curve
from cutaway.evaluation.curves import watched
from cutaway.evaluation.memory import remembered, reuse
from cutaway.evaluation.orders import control_scores, explained, over_input, random_ranks, ranks, tied
from cutaway.evaluation.paired import CHANCE, Standing, interval, standing
from cutaway.evaluation.subject import Subject

Score = Literal["probability", "target"]
_FILLS = {"image": ("noise", "zero", "blur"), "row": ("zero", "mean")}
MOST, LEAST = "most relevant first", "least relevant first"


class Found(NamedTuple):
    """The falls of one fill.

    Attributes:
        own: By order, (n, points).
        random: (n, orders, points); no orders without controls.
        controls: By name, (n, points).
    """

    own: dict[str, Float[Tensor, "n points"]]
    random: Float[Tensor, "n orders points"]
    controls: dict[str, Float[Tensor, "n points"]]


@method(
    paper="samek2017", laws={"oracle_beats_random"}, quick={"fills": ("zero",), "steps": 8, "orders": 2, "cells": 4}
)
def pixel_flipping(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    fills: tuple[str, ...] = (),
    cells: int = 16,
    steps: int = 16,
    share: float = 0.5,
    orders: int = 4,
    score: Score = "target",
    controls: bool = True,
    seed: int = 0,
) -> Curve:
    """Flip the regions that the map ranks highest, one after the other, and add up how far the score falls.

    AOPC = mean over k = 0..L of target(x) - target(x with the first k regions filled)

    The same with the lowest first is drawn beside; the gap between the two needs no control, since both destroy equally
    many pixels. Regions of equal rank come in random order.

    Args:
        fills: What replaces a region, each with numbers of its own. Empty: noise, zero and blur for pictures, zero and
            mean for rows, zero for text. The first one is drawn, and is in the verdict.
        cells: Regions along each side of a picture; 0 flips single pixels.
        steps: Points of a curve after the first.
        share: How much of the input is flipped in the end.
        orders: Random orders to compare with.
        score: The explained target itself, or the probability of the explained class.
        controls: False measures the curve of the most relevant first and nothing beside it: an eighth of the forwards,
            and no verdict.
        seed: Of the noise, of the random orders, and of ties.

    Returns:
        How far the score has fallen over the share flipped, in the unit of the score, with a 95 % bootstrap band over
        inputs. The summary has the area over each curve (AOPC): first the map's most relevant regions, for each fill;
        then its least relevant ones, random orders, and for pictures edges and centre.

    Source: Samek et al. 2017, equation 12; Bach et al. 2015. Differs: a grid of cells in place of 9 x 9 pixels, shares
    in place of 100 regions, several regions between two points, controls, several fills.
    """
    if not 0 < share <= 1:
        raise BadOption(f"expected share above 0 and up to 1; got {share:g}.")
    if steps < 2 or orders < 2:
        raise BadOption(f"expected steps and orders of 2 or more; got steps={steps}, orders={orders}.")
    watch, words = watched(model, explained(model, x, attribution), score)
    subjects = [Subject.of(model, take(x, slice(i, i + 1)), watch.row(i), cells=cells) for i in range(size(x))]
    maps = over_input(model, x, attribution)
    pooled = [subject.pooled(values) for subject, values in zip(subjects, maps, strict=True)]
    points = min(steps, max(subject.players for subject in subjects))
    shares = torch.linspace(0, share, points + 1, dtype=torch.float64)
    found, known = {}, 0
    for text in fills or _FILLS.get(model.space.kind, ("zero",)):
        fill, rows = Fill.of(text), []
        for subject, scores in track(list(zip(subjects, pooled, strict=True)), f"pixel flipping, {text}"):
            falls, was_known = (
                _falls(subject, fill, scores, shares, orders, seed)
                if controls
                else (_own_fall(subject, fill, scores, shares, seed), False)
            )
            rows.append(falls)
            known += was_known
        names = list(control_scores(model.space, subjects[0].value)) if controls else []
        found[text] = _sorted(torch.stack(rows), orders, names)
    curve = curve_of("Pixel flipping", "share flipped", found, shares, words, pooled)
    return curve.with_checks(**reuse("The controls' curves", known // len(found)))


def _falls(
    subject: Subject, fill: Fill, scores: Tensor, shares: Tensor, orders: int, seed: int
) -> tuple[Float[Tensor, "o points"], bool]:
    """Most relevant first, least relevant first, random, controls; and whether all but the first two were known."""
    filled = subject.filled(fill, seed)

    def controls() -> tuple[Tensor, Tensor]:
        ends = subject.watched(torch.cat([subject.value, filled]))
        return ends, subject.curves(subject.value, filled, ends, _control_places(subject, orders, seed), shares)

    about = ("flipping", str(subject.target), fill.text, tuple(shares.tolist()), subject.players, orders, seed)
    (ends, others), known = remembered(subject.model, subject.row, about, controls)
    places = [ranks(sign * scores, torch.Generator().manual_seed(seed)) for sign in (1, -1)]
    own = subject.curves(subject.value, filled, ends, places, shares)
    return ends[0] - torch.cat([own, others]), known


def _own_fall(subject: Subject, fill: Fill, scores: Tensor, shares: Tensor, seed: int) -> Float[Tensor, "1 points"]:
    """Most relevant first."""
    filled = subject.filled(fill, seed)

    def watched() -> Tensor:
        return subject.watched(torch.cat([subject.value, filled]))

    about = ("flipping, ends", str(subject.target), fill.text, subject.players, seed)
    ends, _ = remembered(subject.model, subject.row, about, watched)
    place = ranks(scores, torch.Generator().manual_seed(seed))
    return ends[0] - subject.curves(subject.value, filled, ends, [place], shares)


def _control_places(subject: Subject, orders: int, seed: int) -> list[Tensor]:
    chance = torch.Generator().manual_seed(seed + 1)
    random = [random_ranks(subject.players, chance) for _ in range(orders)]
    controls = control_scores(subject.model.space, subject.value).values()
    return random + [ranks(subject.pooled(control), chance) for control in controls]


def _sorted(rows: Float[Tensor, "n o points"], orders: int, controls: list[str]) -> Found:
    random = rows[:, 2 : 2 + orders]
    return Found(
        own=dict(zip((MOST, LEAST), rows.unbind(1), strict=False)),
        random=random,
        controls={name: rows[:, 2 + orders + k] for k, name in enumerate(controls)},
    )


def _aopc(falls: Float[Tensor, "*batch points"]) -> Float[Tensor, "*batch"]:
    return falls.mean(-1)


def curve_of(
    title: str, label: str, found: dict[str, Found], shares: Tensor, words: str, pooled: list[Tensor]
) -> Curve:
    """The result: curves with the first fill, the areas over all of them, and the sentences.

    Args:
        title, label: Of the curve and its axis.
        found: By fill.
        shares: The axis.
        words: What is watched.
        pooled: The value of each region or word, for each input.
    """
    ties, flat = max(map(tied, pooled)), sum(bool((scores == scores[0]).all()) for scores in pooled)
    first = next(iter(found))
    summary: dict[str, float] = {}
    for text, one in found.items():
        more = f", {text} fill" if len(found) > 1 else ""
        series = _series(one)
        summary |= {name + more: float(_aopc(rows).mean()) for name, rows in series.items()}
    series = _series(found[first])
    bands = {name: interval(rows) for name, rows in series.items()} if len(found[first].random) > 1 else {}
    return Curve(
        title=title,
        x=shares,
        y={name: rows.mean(0) for name, rows in series.items()},
        low={name: low for name, (low, _) in bands.items()},
        high={name: high for name, (_, high) in bands.items()},
        x_label=label,
        y_label=f"fall of {words}",
        summary=summary,
        summary_label="area over the curve",
        better="higher",
        checks=_checks(found, words, ties, flat),
    )


def _series(one: Found) -> dict[str, Float[Tensor, "n points"]]:
    """All curves by name, the random orders as their mean."""
    return one.own | ({CHANCE: one.random.mean(1)} if one.random.shape[1] else {}) | one.controls


def _checks(found: dict[str, Found], words: str, ties: float, flat: int) -> dict[str, Check]:
    first = next(iter(found))
    most = float(_aopc(found[first].own[MOST]).mean())
    between = _between(_aopc(found[first].own[MOST]))
    text = f"Taking away what this map ranks highest lowers {words} by {most:.3g} on average, with the fill {first!r}"
    if found[first].random.shape[1]:
        more, status = _beside(found)
        checks = {"verdict": Check(f"{text}: {more}", "warn" if flat else status, most, between)}
        gap = most - float(_aopc(found[first].own[LEAST]).mean())
        checks["gap"] = Check(f"Between most and least relevant first lie {gap:.3g}.", "ok" if gap > 0 else "warn", gap)
    else:
        checks = {
            "verdict": Check(f"{text}; without controls, that is not compared with chance.", "note", most, between)
        }
    if ties > 0.01:
        text = f"{ties:.0%} of the pieces share their rank with another; among equals the order is random."
        text += f" For {flat} inputs the map has one value everywhere, so all of it is." if flat else ""
        checks["ties"] = Check(text, "warn" if flat else "note", ties)
    return checks


def _beside(found: dict[str, Found]) -> tuple[str, Status]:
    """How the map stands among its controls, in words and as a status, over all fills."""
    places = {text: _standing(one) for text, one in found.items()}
    first = next(iter(found))
    least = float(_aopc(found[first].own[LEAST]).mean())
    text = f"{places[first].sentence('more', '.3g')}. Taking away what it ranks lowest lowers it by {least:.3g}."
    if len(found) > 1:
        ahead = sum(CHANCE in place.ahead for place in places.values())
        text += f" It is ahead of chance with {ahead} of {len(found)} fills."
    statuses = [place.status for place in places.values()]
    alike = set(statuses) == {"ok"} or set(statuses) == {"fail"}
    return text, statuses[0] if alike else "note" if set(statuses) <= {"ok", "note"} else "warn"


def _between(areas: Float[Tensor, " n"]) -> tuple[float, float] | None:
    """Over several inputs, the bootstrap interval of their mean."""
    if len(areas) < 2:
        return None
    low, high = interval(areas)
    return float(low), float(high)


def _standing(one: Found) -> Standing:
    mine = _aopc(one.own[MOST])
    return standing(mine, {CHANCE: _aopc(one.random)} | {name: _aopc(rows) for name, rows in one.controls.items()})
