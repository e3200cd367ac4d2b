"""Which pixels the score needs, from many images that each show a random half: no gradient, no look inside."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.attribution.grids import Masks
from cutaway.attribution.occlusion import admitted, primary
from cutaway.attribution.tally import Estimate, Shown, Tally
from cutaway.core.batch import Batch, repeat, size, take
from cutaway.core.budget import afford, cut_short, fair_share, in_time
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill, neutral
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT
from cutaway.core.target import Target, logit, per_row, prob

_NEUTRAL = neutral()
# Masks between two looks at the halves. A multiple of every usual chunk, and so many that looking costs nothing.
_STEP = 50
# Before this many masks, halves agree or not by chance.
_FIRST = 100
# Below this expected agreement the order of pixels is not to be relied on, whatever was asked for.
_ENOUGH = 0.8


@method(
    paper="petsiuk2018",
    laws={"batch_independent", "same_for_equivalent_nets"},
    needs={"image"},
    quick={"masks": 100},
)
def rise(
    model: Model,
    x: Batch,
    target: Target,
    *,
    masks: int = 1000,
    agreement: float = 0.8,
    cells: int = 7,
    keep: float = 0.5,
    fill: Fill = _NEUTRAL,
    probability: bool = True,
    estimate: Estimate = "adjusted",
    seed: int = 0,
) -> Attribution:
    """Show random parts of the image, and see which pixels were there when the score was high.

    values_i = Cov(score, m_i) / keep,  over random smooth masks m

    For a mask of zeros and ones that is E[score | pixel i is shown] - E[score]. The paper's formula
    mean(score * m_i) / keep has E[score] added, the same for each pixel, and with it most of its noise.

    Args:
        masks: Masks, and so forwards, at most.
        agreement: Stop earlier, after 100 masks at least, once the map is expected to have this rank correlation with
            one from as many other masks (from its two halves, by Spearman and Brown's formula); 1 never stops.
        cells: Cells of the coarse random grid along each side.
        keep: Share of cells that are shown.
        fill: What hidden pixels fade to; `neutral` is what the network sees as 0, as in the paper.
        probability: Where the target is the logit of one class, score its probability, as in the paper.
        estimate: "paper" is its formula; "centred" subtracts the mean score; "adjusted" subtracts also what is linear
            in the cells' means, whose covariance with a pixel is known exactly.
        seed: Draws the masks; the same for each input.

    Returns:
        One number for each pixel, (n, 1, h, w), in the score's unit, and its standard error in `extra["error"]`.

    Source: Petsiuk, Das and Saenko 2018, eq. 6. Differs: less noise for the same masks, and stopped when halves
    agree. Several targets for one image share its masks and forwards.
    """
    _check(masks, agreement, cells, keep)
    aims = [scored(target.row(i), model, probability) for i in range(size(x))]
    found: dict[int, Tally] = {}
    groups = equal_rows(primary(x))
    afford(masks * len(groups), f"rise with {masks} masks", stops=True)
    for number, same in enumerate(groups):
        row = take(x, slice(same[0], same[0] + 1))
        image = primary(row)
        height, width = image.shape[2:]
        drawn = Masks(masks, cells=cells, keep=keep, height=height, width=width, seed=seed)
        shown = Shown(drawn, cells, height, width)
        hidden = admitted(model, row, fill(image, model.space, torch.Generator().manual_seed(seed)))
        tallies = [Tally(aims[i], shown, estimate) for i in same]
        with fair_share(len(groups) - number):
            for start in in_time(range(0, masks, _STEP)):
                report("rise", number * masks + start, len(groups) * masks)
                if all(t.agrees(agreement, _FIRST) for t in tallies):
                    break
                some = drawn[start : start + _STEP]
                shown.add(some)
                _show(model, row, hidden, some, [t for t in tallies if not t.agrees(agreement, _FIRST)])
        found |= dict(zip(same, tallies, strict=True))
    report("rise", len(groups) * masks, len(groups) * masks)
    return _result(model, x, target, [found[i] for i in range(size(x))], agreement, masks)


def _check(masks: int, agreement: float, cells: int, keep: float) -> None:
    if masks < 4:
        raise BadOption(f"expected 4 masks or more, two for each half; got {masks}.")
    if not 0 < agreement <= 1:
        raise BadOption(f"expected agreement above 0, up to 1 (never stop early); got {agreement:g}.")
    if cells < 1:
        raise BadOption(f"expected 1 cell or more along a side; got {cells}.")
    if not 0 < keep < 1:
        raise BadOption(f"expected keep as a share between 0 and 1, such as 0.5; got {keep:g}.")


def scored(target: Target, model: Model, probability: bool) -> Target:
    """What is averaged: the probability of a class where its logit alone is asked for, else the target as it is."""
    if not probability or model.scores != "logits" or len(target.classes) != 1:
        return target
    (which,) = target.classes
    return prob(which) if str(target) == str(logit(which)) else target


def equal_rows(x: Tensor) -> list[list[int]]:
    """Rows that are the same input, together: they share masks and forwards."""
    groups: list[list[int]] = []
    for i in range(len(x)):
        same = next((g for g in groups if torch.equal(x[g[0]], x[i])), None)
        if same is None:
            groups.append([i])
        else:
            same.append(i)
    return groups


def _show(model: Model, row: Batch, hidden: Tensor, masks: Tensor, tallies: Sequence[Tally]) -> None:
    """Run the image under some masks, and note each target's scores."""
    pictures = torch.lerp(hidden, primary(row), masks.to(hidden)[:, None])
    sites = list(dict.fromkeys(site for t in tallies for site in t.target.sites))
    trace = model.run(repeat(row, len(masks)), read=sites, edit={INPUT: pictures})
    for tally in tallies:
        scores = tally.target(trace).expand(len(masks)).double().cpu()
        tally.scores = torch.cat([tally.scores, scores])


def _result(
    model: Model, x: Batch, target: Target, tallies: Sequence[Tally], agreement: float, masks: int
) -> Attribution:
    aims = per_row([t.target for t in tallies])
    maps, errors = zip(*(t.map() for t in tallies), strict=True)
    values, error = (torch.stack(found)[:, None].to(primary(x)) for found in (maps, errors))
    return Attribution(
        values=values,
        target=str(aims if target.rows else aims.rows[0]),
        unit="target",
        score=aims(model.run(x, read=aims.sites)),
        extra={"error": error},
        checks=_checks(tallies, target, agreement, float(values.abs().max()), float(error.mean()))
        | cut_short(
            [len(t.scores) for t in tallies],
            [len(t.scores) if t.agrees(agreement, _FIRST) else masks for t in tallies],
            "masks",
        ),
    )


def _checks(
    tallies: Sequence[Tally], target: Target, agreement: float, largest: float, error: float
) -> dict[str, Check]:
    """How many masks, what two halves of them say, and how large the noise is."""
    worst = min(tallies, key=lambda t: t.repeatable if t.repeatable == t.repeatable else -math.inf)
    used = sorted({len(t.scores) for t in tallies})
    count = f"{used[0]} masks" if len(used) == 1 else f"{used[0]} to {used[-1]} masks"
    stopped = "" if agreement == 1 else f", until the expected agreement was {agreement:g} or none were left"
    checks = {"masks": Check(f"{count.capitalize()} were used for each map{stopped}.", "note", float(used[-1]))}
    if math.isnan(worst.halves):
        text = "The score is the same under all masks, so that the map is flat."
        return checks | {"agreement": Check(text, "warn")}
    text = (
        f"Maps from two halves of the masks have rank correlation {worst.halves:.2f}; with a repetition of the whole, "
        f"{worst.repeatable:.2f} is expected."
    )
    enough = worst.repeatable >= min(agreement, _ENOUGH)
    more = "" if enough else " The fine order of the pixels is noise; more masks would help."
    checks["agreement"] = Check(text + more, "ok" if enough else "warn", worst.halves)
    text = f"The standard error is {error:.2g} on average; the largest value is {largest:.2g}."
    checks["error"] = Check(text, "note", error)
    if any(t.target is not target.row(i) for i, t in enumerate(tallies)):
        text = "As in the paper, the class's probability was scored, not its logit; probability=False scores the logit."
        checks["score"] = Check(text, "note")
    return checks
