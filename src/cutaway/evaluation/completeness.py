"""Do the contributions add up to the change that they claim to explain?"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.batch import Batch, repeat, size, take
from cutaway.core.catalogue import catalogue
from cutaway.core.checks import Check, Status
from cutaway.core.fill import Fill, zero
from cutaway.core.game import play
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Provenance, Scores
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target
from cutaway.evaluation.orders import explained

# Relative gaps up to which contributions are complete for all practical purposes, and above which they are not.
_CLOSE, _WIDE = 0.01, 0.1


class _Absent(NamedTuple):
    """What an attribution was compared with.

    Attributes:
        fill: The baseline.
        draws: How many draws of a random one were averaged.
        seed: Of the draws.
        own: True if the attribution itself says so.
        parts: True if it has parts that were absent, in place of a baseline.
    """

    fill: Fill
    draws: int
    seed: int
    own: bool
    parts: bool


@method(paper="sundararajan2017")
def completeness(model: Model, x: Batch, attribution: Attribution, *, baseline: Fill | None = None) -> Scores:
    """Compare the sum of the contributions with the change of the target from a baseline to the input.

    gap = sum_i values_i - (target(x) - target(b));  relative gap = sum |gap| / sum |target(x) - target(b)| over inputs

    Every method can be measured; only some promise a small gap. The sum is in double precision.

    Args:
        baseline: The input that stands for "nothing there". None takes what the attribution was made with: its
            baseline, or its parts with all of them absent; or zero if it had neither.

    Returns:
        The relative gap (0.01 is 1 % of the change), and the sum, the change and the gap in the target's unit. For
        several inputs the means, with the smallest and largest value as interval.

    Source: Sundararajan et al. 2017, proposition 1. Differs: reported as a number, never as passed or failed.
    """
    target, place = explained(model, x, attribution), Site.of(attribution.wrt)
    absent = _absent(attribution.provenance, baseline)
    total = attribution.values.detach().double().flatten(1).sum(1).cpu()
    changed = _without_parts(attribution.provenance, place) if absent.parts else partial(_change, place, absent)
    change = torch.stack([changed(model, take(x, slice(i, i + 1)), target.row(i)) for i in range(size(x))])
    gap = total - change
    share = gap.abs() / change.abs()
    moved = float(change.abs().sum())
    relative = float(gap.abs().sum()) / moved if moved else float("nan")
    rows = torch.stack([share, total, change, gap])
    many = size(x) > 1
    return Scores(
        title="Completeness",
        names=["relative gap", "sum of the values", "change of the target", "gap"],
        values=torch.cat([torch.tensor([relative], dtype=torch.float64), rows[1:].mean(1)]),
        low=rows.nan_to_num(nan=relative).amin(1) if many else torch.empty(0),
        high=rows.nan_to_num(nan=relative).amax(1) if many else torch.empty(0),
        unit=f"relative gap: share of the change; the others: {attribution.target or 'target'}",
        better="lower",
        checks=_checks(attribution, absent, total, change, relative),
    )


def _absent(made: Provenance, baseline: Fill | None) -> _Absent:
    """The baseline that was asked for, else the attribution's own, else zero."""
    parts = baseline is None and all(_readable(made.options.get(name)) for name in ("features", "fill"))
    named = made.options.get("fill" if parts else "baseline")
    own = _readable(named) and (baseline is None or str(baseline) == named)
    fill = baseline if baseline is not None else Fill.of(named) if own and isinstance(named, str) else zero()
    return _Absent(fill, int(made.options.get("samples", 1)) if own and fill.random else 1, made.seed or 0, own, parts)


def _readable(named: object) -> bool:
    """Is it a text that says what stood for nothing?"""
    return isinstance(named, str) and named not in ("none", "function") and not named.startswith(("given", "sample"))


def _without_parts(made: Provenance, place: Site) -> Callable[[Model, Batch, Target], Tensor]:
    """The change of the target from no part to all of them. What is nobody's, such as a text's marks, stays."""

    def change(model: Model, row: Batch, target: Target) -> Tensor:
        options, seed = made.options, made.seed or 0
        fill = Fill.of(str(options["fill"]))
        game = play(model, row, target, features=str(options["features"]), fill=fill, wrt=place, seed=seed)
        return torch.tensor(game.full - game.empty, dtype=torch.float64)

    return change


def _change(place: Site, absent: _Absent, model: Model, row: Batch, target: Target) -> Tensor:
    """target(x) - target(b), with b as the activation at the place for the filled input."""
    embedded = model.space.kind == "tokens"
    value = model.run(row, read=[INPUT])[INPUT] if embedded or not isinstance(row, Tensor) else row
    generator = torch.Generator().manual_seed(absent.seed)
    fills = torch.cat([absent.fill(value, model.space, generator) for _ in range(absent.draws)])
    rows = repeat(row, len(fills))
    if place == INPUT:
        edit = {INPUT: fills}
    else:
        there = model.run(rows, read=[place.whole], edit={INPUT: fills})[place.whole]
        if place.is_whole:
            edit = {place.whole: there}
        else:
            edit = {place: there[place.index(there, model.module.get_submodule(place.module))]}
    before = target(model.run(row, read=target.sites)).double().cpu().expand(1)[0]
    after = target(model.run(rows, read=target.sites, edit=edit)).double().cpu().expand(len(fills))
    return before - after.mean()


def _checks(
    attribution: Attribution, absent: _Absent, total: Tensor, change: Tensor, relative: float
) -> dict[str, Check]:
    made = attribution.provenance
    entry = catalogue().get(made.method)
    name = made.method.replace("_", " ") or "this map"
    numbers = f"the values sum to {float(total.mean()):.4g} of a change of {float(change.mean()):.4g}"
    where = "no part to all of them, absent ones being" if absent.parts else "the baseline"
    numbers += f" from {where} {str(absent.fill)!r}"
    numbers += f" (means of {len(total)} inputs)" if len(total) > 1 else ""
    gap = f"gap {relative:.2%} of the change" if relative < 2 else f"gap {relative:.3g} times the change"
    gap = gap if relative == relative else "the relative gap is undefined, since the target does not change"
    checks = {}
    if "per" in attribution.unit.split():
        text = (
            f"The values are slopes, in {attribution.unit}; their sum has no meaning, and completeness is not claimed "
            f"({numbers})."
        )
        checks["verdict"] = Check(text, "note", relative)
    elif entry is None or "complete" not in entry.laws:
        text = f"{_capital(name)} does not claim that its values add up; {numbers}: {gap}."
        checks["verdict"] = Check(text, "note", relative)
    else:
        checks["verdict"] = Check(f"{_capital(numbers)}: {gap}.", _status(relative), relative)
    if not absent.own and "baseline" in made.options:
        text = (
            f"The map was made with the baseline {made.options['baseline']}, which is not what it is compared with "
            "here."
        )
        checks["baseline"] = Check(text, "warn")
    elif not absent.own:
        checks["baseline"] = Check(f"The map names no baseline of its own; {str(absent.fill)!r} was taken.", "note")
    return checks


def _status(relative: float) -> Status:
    if relative != relative:
        return "note"
    return "ok" if relative <= _CLOSE else "warn" if relative <= _WIDE else "fail"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
