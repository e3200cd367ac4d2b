"""An attack in numbers and words: what stays of the map of each input, beside random changes."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.checks import Check, Status
from cutaway.core.errors import NotPossible
from cutaway.core.result import Attribution, Table
from cutaway.evaluation.fragility_attack import Found
from cutaway.evaluation.similarity import overlap
from cutaway.maths.statistics import spearman


def centres(sizes: Float[Tensor, "n h w"]) -> Float[Tensor, "n 2"]:
    """The mean position of each map, weighted by its sizes, as row and column."""
    if sizes.ndim != 3:
        raise NotPossible("this map is not laid out over the picture, so it has no centre.")
    down, across = (torch.arange(length).to(sizes) for length in sizes.shape[1:])
    total = sizes.sum((1, 2)).clamp_min(1e-300)
    return torch.stack([sizes.sum(2) @ down / total, sizes.sum(1) @ across / total], dim=1)


def rows_of(found: list[Found], top: float, seed: int) -> list[list[Any]]:
    """What the table says of each input."""
    rows = []
    for i, one in enumerate(found):
        generator = torch.Generator().manual_seed(seed)
        stay = float(overlap(one.before, one.sizes, share=top, generator=generator))
        pairs = (one.before.expand_as(one.chance), one.chance)
        others = overlap(*pairs, share=top, generator=generator) if len(one.chance) else torch.empty(0)
        ranks = spearman(one.before.flatten(1), one.sizes.flatten(1))
        near = spearman(*(maps.flatten(1) for maps in pairs))
        moved = float((centres(one.sizes) - centres(one.before)).norm()) if one.before.ndim == 3 else None
        rows.append([i, stay, _mean(others), _mean(ranks), _mean(near), moved, one.moved, _beats_chance(one)])
    return rows


def table(
    title: str, rows: list[list[Any]], found: list[Found], top: float, verdict: Check,
    shares: list[list[float]] | None = None,
) -> Table:  # fmt: skip
    """The result, with its checks."""
    columns = [
        "input", f"highest {top:.0%} that stay", "after random signs", "rank correlation", "rank after random signs",
        "centre moved, pixels", "largest change, of epsilon", "beats random signs",
    ]  # fmt: skip
    if shares is not None:
        columns += ["share in the region", "after the attack"]
        rows = [row + pair for row, pair in zip(rows, shares, strict=True)]
    return Table(
        title=title,
        columns=columns,
        rows=rows,
        extra={"attacked": torch.cat([one.x for one in found])},
        checks={"verdict": verdict} | _checks(rows, found),
    )


def _mean(values: Tensor) -> float | None:
    """The mean of what is defined, if anything is."""
    known = values[~values.isnan()]
    return float(known.mean()) if len(known) else None


def mean_of(rows: list[list[Any]], column: int) -> float:
    """The mean of a column, over the inputs that have it."""
    known = [row[column] for row in rows if row[column] is not None]
    return sum(known) / len(known) if known else math.nan


def named(attribution: Attribution) -> str:
    """The map, with the name of its method."""
    return " of ".join(filter(None, ["the map", attribution.provenance.method.replace("_", " ")]))


def verdict_of(said: str, status: Status, value: float, epsilon: float, found: list[Found]) -> Check:
    """A map that withstood an attack that was weak, or that did no more than chance, has not passed."""
    weak = found[0].weak or not all(map(_beats_chance, found))
    text = f"With changes of at most {epsilon:.3g} that keep the prediction, {said}."
    return Check(text, "note" if status == "ok" and weak else status, value)


def _beats_chance(one: Found) -> bool:
    return bool((one.chance_goal < one.goal).all()) and one.goal > one.start


def _checks(rows: list[list[Any]], found: list[Found]) -> dict[str, Check]:
    beaten, inside = sum(map(_beats_chance, found)), max(one.moved for one in found)
    kept = sum(one.kept for one in found) / len(found)
    said = {
        "kept": f"Every input given back keeps its prediction; {kept:.0%} of those that the attack tried did, and the "
        "others were drawn back until they did.",
        "inside": f"No entry moved by more than {inside:.4g} of what is allowed.",
        "control": f"The attack went further than random changes of the same size for {beaten} of {len(rows)} inputs.",
        "slopes": f"The attack followed {found[0].how}.",
    }
    if found[0].weak:
        said["slopes"] = f"{said['slopes'][:-1]}: a weak attack, so a map that withstands it may still be fragile."
    return {
        "kept": Check(said["kept"], "ok", kept),
        "inside": Check(said["inside"], "ok", inside),
        "control": Check(said["control"], "ok" if beaten == len(rows) else "warn", beaten / len(rows)),
        "slopes": Check(said["slopes"], "note"),
    }
