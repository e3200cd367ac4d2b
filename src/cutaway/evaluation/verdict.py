"""Insertion and deletion in words: what the map's curve has over the controls'."""

from typing import Literal

import torch
from torch import Tensor

from cutaway.core.checks import Check
from cutaway.core.result import Curve
from cutaway.evaluation.curves import Kind, Measured
from cutaway.evaluation.paired import above, lead_interval
from cutaway.maths.statistics import bootstrap_interval

_CHANCE = "random order"
_PLAIN = {_CHANCE: "random orders", "edges first": "edges", "centre first": "the centre"}


def curve_of(kind: Kind, found: Measured) -> Curve:
    """The result: the map's series and the controls' with the first fill, then the map and chance with the others.

    More lines could not be told apart; the areas of all are in the summary.
    """
    y: dict[str, Tensor] = {}
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}
    areas: dict[str, float] = {}
    for k, fill in enumerate(found.own):
        more = f", {fill} fill" if len(found.own) > 1 else ""
        series = {found.name: found.own[fill], _CHANCE: found.random[fill].mean(1)} | found.controls[fill]
        areas |= {name + more: float(area(rows, found.shares).mean()) for name, rows in series.items()}
        for name in series if k == 0 else (found.name, _CHANCE):
            y[name + more] = series[name].mean(0)
            band = _band(series[name], found.random[fill] if name == _CHANCE else None)
            if band is not None:
                low[name + more], high[name + more] = band
    return Curve(
        title=kind.capitalize(),
        x=found.shares,
        y=y,
        low=low,
        high=high,
        x_label="share replaced" if kind == "deletion" else "share shown",
        y_label=found.watched.removeprefix("the "),
        summary=areas,
        summary_label="area under the curve",
        better="lower" if kind == "deletion" else "higher",
        checks=_checks(kind, found),
    )


def _band(rows: Tensor, orders: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Over inputs, the bootstrap interval of the mean; for one input, the range of its random orders."""
    if len(rows) > 1:
        return bootstrap_interval(rows, generator=torch.Generator().manual_seed(0))
    return None if orders is None else (orders[0].min(0).values, orders[0].max(0).values)


def area(values: Tensor, shares: Tensor) -> Tensor:
    """The integral along the last axis by trapezoids; over a whole curve, its mean height."""
    return torch.trapezoid(values, shares, dim=-1)


def _checks(kind: Kind, found: Measured) -> dict[str, Check]:
    first = next(iter(found.own))
    lead = {fill: _leads(kind, found, fill) for fill in found.own}
    sentence = _sentence(kind, found, first, lead[first])
    if len(found.own) > 1:
        sentence += f" {_over_fills(lead)}"
    mine, others = area(found.own[first], found.shares), area(found.random[first], found.shares)
    gaps = mine[:, None] - others
    checks = {"verdict": Check(sentence, _status(kind, found, lead), float(gaps.mean()), lead_interval(gaps))}
    if found.tied > 0.01:
        text = f"{found.tied:.0%} of the pieces share their rank with another; among equals the order is random."
        text += f" For {found.flat} inputs the map has one value everywhere, so all of it is." if found.flat else ""
        checks["ties"] = Check(text, "warn" if found.flat else "note", found.tied)
    checks |= _range(found)
    if found.reused:
        text = "The controls' curves are those of an earlier call for this input, and their cost was counted there."
        checks["controls"] = Check(text, "note")
    return checks


def _leads(kind: Kind, found: Measured, fill: str) -> dict[str, bool]:
    """For each control: is the map's area better, by more than chance?"""
    sign = -1.0 if kind == "deletion" else 1.0
    mine = sign * area(found.own[fill], found.shares)
    random = sign * area(found.random[fill], found.shares)
    leads = {_CHANCE: above(mine[:, None] - random)}
    for name, values in found.controls[fill].items():
        leads[name] = above(mine[:, None] - sign * area(values, found.shares)[:, None])
    return leads


def _sentence(kind: Kind, found: Measured, fill: str, lead: dict[str, bool]) -> str:
    verb, move = ("Replacing", "fall") if kind == "deletion" else ("Showing", "rise")
    areas = {_CHANCE: area(found.random[fill], found.shares).mean(0)}
    areas |= {name: area(values, found.shares).mean(0) for name, values in found.controls[fill].items()}
    mine = float(area(found.own[fill], found.shares).mean())

    def listed(names: list[str]) -> str:
        parts = []
        for name in names:
            value = f"{float(areas[name].mean()):.2g}"
            value += f" ± {float(areas[name].std()):.1g}" if areas[name].ndim else ""
            parts.append(f"{_PLAIN[name]} ({value})")
        return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)

    ahead, behind = [n for n in areas if lead[n]], [n for n in areas if not lead[n]]
    what = f"{verb} what this map ranks highest makes {found.watched} {move}"
    how = f"faster than {listed(ahead)}" if ahead else f"no faster than {listed(behind)}"
    but = f", but no faster than {listed(behind)}" if ahead and behind else ""
    inputs = len(found.own[fill])
    over = f" on average over {inputs} inputs" if inputs > 1 else ""
    return f"{what} {how}{but}: its area is {mine:.2g}{over}, with the fill {fill!r}."


def _over_fills(lead: dict[str, dict[str, bool]]) -> str:
    parts = []
    for control in next(iter(lead.values())):
        fills = [fill for fill, leads in lead.items() if leads[control]]
        parts.append(f"{_PLAIN[control]} with {len(fills)} of {len(lead)} fills")
    return f"It is ahead of {', '.join(parts)}."


def _status(kind: Kind, found: Measured, lead: dict[str, dict[str, bool]]) -> Literal["ok", "note", "warn", "fail"]:
    """`ok` ahead of every control with every fill that tells; `fail` if random orders are ahead with each of them."""
    if found.flat:
        return "warn"  # whatever the curve does, chance did some of it
    telling = [fill for fill in lead if fill not in _idle(found)]
    if not telling:
        return "warn"
    if all(all(lead[fill].values()) for fill in telling):
        return "ok"
    if all(lead[fill][_CHANCE] for fill in telling):
        return "note"
    sign = -1.0 if kind == "deletion" else 1.0
    behind = [
        above(sign * (area(found.random[fill], found.shares) - area(found.own[fill], found.shares)[:, None]))
        for fill in telling
    ]
    return "fail" if all(behind) else "warn"


def _range(found: Measured) -> dict[str, Check]:
    """A fill that leaves the answer in place makes a curve that says little."""
    if not (flat := _idle(found)):
        return {}
    text = (
        f"Replacing everything by {' or '.join(map(repr, flat))} hardly changes {found.watched}, so there the curves "
        "say little, and do not count."
    )
    return {"range": Check(text, "warn", len(flat) / len(found.own))}


def _idle(found: Measured) -> list[str]:
    """Fills that leave the answer where it is even if they replace everything."""
    return [
        fill
        for fill, rows in found.own.items()
        if float((rows[:, 0] - rows[:, -1]).abs().mean()) < 0.1 * float(rows[:, [0, -1]].abs().max())
    ]
