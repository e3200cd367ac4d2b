"""Stability in numbers and words: what the noisy copies of all inputs gave."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.checks import Check, Status
from cutaway.core.result import Scores
from cutaway.evaluation.paired import interval

# Mean rank correlations from which a map counts as steady, and below which as another map.
_STEADY, _LOST = 0.7, 0.3
CELLS = 8


class Row(NamedTuple):
    """What the noisy copies of one input gave.

    Attributes:
        kept: How many copies the model puts into the same class.
        correlation: Rank correlation of each of their maps with the original, (kept,).
        coarse: The same for the means of 8 x 8 cells; empty where the map is not that large.
        common: Overlap of the highest entries, (kept,).
        ratio: Relative change of the map over relative change of the input, (kept,).
        draws: How many copies there were.
        noise: How strong it was.
    """

    kept: int
    correlation: Tensor
    coarse: Tensor
    common: Tensor
    ratio: Tensor
    draws: int
    noise: float


def scores_of(rows: list[Row], noise: float, top: float) -> Scores:
    """Means over all copies of all inputs, with intervals and sentences."""
    correlation, coarse = (torch.cat([getattr(row, name) for row in rows]) for name in ("correlation", "coarse"))
    correlation, coarse = correlation[~correlation.isnan()], coarse[~coarse.isnan()]
    lowest = float(correlation.min()) if len(correlation) else math.nan
    share = sum(row.kept for row in rows) / sum(row.draws for row in rows)
    found = {"rank correlation": _mean([row.correlation for row in rows]), "lowest rank correlation": (lowest,) * 3}
    if any(len(row.coarse) for row in rows):
        found["rank correlation of cells"] = _mean([row.coarse for row in rows])
    overlap = _mean([row.common for row in rows])
    found |= {f"overlap of the highest {top:.0%}": overlap, "predictions kept": (share,) * 3}
    values, low, high = torch.tensor(list(found.values()), dtype=torch.float64).T
    lowered = any(row.noise < noise for row in rows)
    verdict = _verdict(found["rank correlation"], coarse, overlap[0], _stated(rows, noise), top, lowered)
    return Scores(
        title="Stability",
        names=list(found),
        values=values,
        low=low,
        high=high,
        unit=f"of 1, under noise of {_stated(rows, noise)}",
        better="higher",
        checks={"verdict": verdict} | _notes(rows, noise),
    )


def _stated(rows: list[Row], noise: float) -> str:
    used = sorted({row.noise for row in rows if row.kept})
    return f"{used[0]:g}" if len(used) == 1 else f"{used[0]:g} to {used[-1]:g}"


def _mean(parts: list[Tensor]) -> tuple[float, float, float]:
    """Mean over all copies, and its interval: over the inputs if there are several, else over the copies of one."""
    kept = [part[~part.isnan()] for part in parts]
    kept = [part for part in kept if len(part)]
    if not kept:
        return math.nan, math.nan, math.nan
    low, high = interval(torch.stack([part.mean() for part in kept]) if len(kept) > 1 else kept[0])
    return float(torch.cat(kept).mean()), float(low), float(high)


def _verdict(
    correlation: tuple[float, float, float], coarse: Tensor, common: float, noise: str, top: float, lowered: bool
) -> Check:
    """By the order of single entries; where that is lost, by the order of cells, which an eye sees first."""
    mean, low, high = correlation
    if math.isnan(mean):
        text = f"The map, or every map under noise of {noise}, has one value everywhere: it has no order."
        return Check(text, "warn")
    cells = float(coarse.mean()) if len(coarse) else mean
    what, status = _judged(mean, cells)
    status = "note" if status == "ok" and lowered else status
    regions = f", of {CELLS} x {CELLS} cells {cells:.2f}" if len(coarse) else ""
    text = (
        f"Under noise of {noise} that leaves the prediction alone, {what}: rank correlation {mean:.2f} ({low:.2f} to "
        f"{high:.2f}){regions}; of the highest {top:.0%}, {common:.0%} stay."
    )
    return Check(text, status, mean)


def _judged(entries: float, cells: float) -> tuple[str, Status]:
    if entries >= _STEADY:
        return "the map keeps its order", "ok"
    if cells >= _STEADY:
        return "single values change and regions stay", "note"
    if cells >= _LOST:
        return "the map changes its order", "warn"
    return "the map becomes another one", "fail"


def _notes(rows: list[Row], noise: float) -> dict[str, Check]:
    kept, draws = sum(row.kept for row in rows), sum(row.draws for row in rows)
    text = f"{kept} of {draws} noisy inputs kept their prediction; only those were explained."
    checks = {"kept": Check(text, "ok" if kept == draws else "note" if kept > draws / 2 else "warn", kept / draws)}
    lowered = [row.noise for row in rows if row.noise < noise]
    if lowered:
        text = (
            f"For {len(lowered)} of {len(rows)} inputs the noise was lowered, down to {min(lowered):g}, since more "
            "changed most predictions: the model is undecided there, and the test is a milder one."
        )
        checks["lowered"] = Check(text, "note", min(lowered))
    ratio = torch.cat([row.ratio for row in rows])
    if ratio.isfinite().any():
        worst = float(ratio[ratio.isfinite()].max())
        text = f"At worst the map changes {worst:.3g} times as much as the input, both relative to their size."
        checks["ratio"] = Check(text, "note", worst)
    return checks
