"""Does the map depend on what the model learned? Unlearn it, and look whether the map notices."""

import math
from functools import partial

import torch
from torch import Tensor

from cutaway.core.batch import Batch, primary
from cutaway.core.checks import Check
from cutaway.core.errors import CutawayError, NotPossible
from cutaway.core.method import explainer_of, method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Curve
from cutaway.evaluation.orders import condensed, edges, explained, resized
from cutaway.evaluation.paired import interval
from cutaway.evaluation.similarity import EDGES, SIGNED, SIZES, Likeness
from cutaway.evaluation.together import each, examined
from cutaway.evaluation.weights import Blocks, Order, Randomiser, blocks
from cutaway.maths.statistics import correlation_interval

# Agreement that a map of something learned does not keep. On EfficientNet-Lite0 the gradient keeps 0.3, guided
# backprop 0.98.
SAME, SLOW = 0.8, 0.6
# A correlation whose interval reaches down to here may be chance: maps of few words or columns have such intervals.
LITTLE = 0.4


@method(paper="adebayo2018", quick={"stages": 3})
def parameter_randomization(
    model: Model, x: Batch, attribution: Attribution, *, order: Order = "cascading", stages: int = 6, seed: int = 0
) -> Curve:
    """Make the model's weights random, block by block, and explain again: a map of what it learned must change.

    y_k = similarity(map of f, map of f with the first k blocks random)

    The map is made again at every stage with its own method and options, for the same target. Layers are counted from
    the output down; the first block is the output layer alone. Each layer is reset by its own initialiser in a copy
    of the model.

    Args:
        order: `cascading` keeps the blocks above random, so that at the end all are; `independent` makes one block
            random at a time.
        stages: Blocks at most, and so how often the map is made again.
        seed: Draws the new weights.

    Returns:
        Similarity with the original map at each stage: rank correlation with sign and of sizes; for pictures SSIM, the
        correlation of histograms of oriented gradients, and, as a control, the rank correlation of sizes with the
        picture's edges, which know no model. Several inputs are averaged, with a 95 % bootstrap band. The summary is
        the mean over the stages.

    Source: Adebayo et al. 2018, section 3. Differs: layers in blocks; modules without an initialiser get normal noise
    with the mean and spread of their weights.
    """
    test = ("parameter_randomization", order, stages, seed)
    return examined(attribution, model, x, test, partial(_Case, model, x), partial(_stages, model, x, *test[1:]))


def _stages(
    model: Model, x: Batch, order: Order, stages: int, seed: int, cases: list["_Case | CutawayError"]
) -> list[Curve | CutawayError]:
    """Stage by stage, all maps on the same network."""
    parts = blocks(model, x, stages)
    randomiser = Randomiser(model, parts.parts, order, seed)
    for k in track(range(len(parts.parts)), "parameter randomization"):
        cases = each(cases, partial(_Case.look, again=randomiser.step(k)))
    return each(cases, partial(_Case.curve, parts=parts, randomiser=randomiser, order=order))


class _Case:
    """One map under examination: how it was made, and how alike its successors are."""

    def __init__(self, model: Model, x: Batch, attribution: Attribution) -> None:
        """The map, before any weights are random.

        Raises:
            NotPossible: It cannot be made again.
        """
        self._x, self._target, self._explain = x, explained(model, x, attribution), explainer_of(attribution)
        self._original = original = condensed(attribution)
        signed = attribution.signed and bool((original < 0).any())
        self._likeness = Likeness(original, signed=signed, outlines=_outlines(model, x, original))
        self._name = " of ".join(filter(None, ["The map", attribution.provenance.method.replace("_", " ")]))
        # Numbers, and not tensors: small ones that stay, between large ones that go, leave memory in pieces.
        self._found = [self._numbers(original)]
        self._refusals: dict[int, str] = {}

    def look(self, again: Model) -> "_Case":
        """Make the map again with other weights. Where there is none, this stage is a gap."""
        try:
            found = self._numbers(condensed(self._explain(again, self._x, self._target)))
        except NotPossible as refusal:
            self._refusals[len(self._found)] = str(refusal)
            found = {name: [math.nan] * len(values) for name, values in self._found[0].items()}
        self._found.append(found)
        return self

    def _numbers(self, maps: Tensor) -> dict[str, list[float]]:
        """By measure, how alike each map is to the original."""
        return {name: values.tolist() for name, values in self._likeness(maps).items()}

    def curve(self, parts: Blocks, randomiser: Randomiser, order: Order) -> Curve:
        """What was seen at all stages."""
        rows = {
            name: torch.tensor([stage[name] for stage in self._found], dtype=torch.float64).T.contiguous()
            for name in self._found[0]
        }
        told = int(((self._original != 0).flatten(1).sum(1) - 3).clamp(min=0).sum())
        checks = _verdict(rows, parts, order, self._name, told) | _notes(parts, randomiser, self._refusals)
        return _curve(rows, parts, order, checks | _edges(rows))


def _curve(rows: dict[str, Tensor], parts: Blocks, order: Order, checks: dict[str, Check]) -> Curve:
    y = {name: values.nanmean(0) for name, values in rows.items()}
    low, high = {}, {}
    for name, values in rows.items():
        if len(values) > 1:
            low[name], high[name] = interval(values)
    where = "random from the output down to" if order == "cascading" else "random in the block that ends at"
    return Curve(
        title="Parameter randomization",
        x=torch.arange(len(parts.parts) + 1, dtype=torch.float64),
        y=y,
        low=low,
        high=high,
        x_label=where,
        y_label="similarity",
        x_names=["as trained", *(part[-1] or "the model itself" for part in parts.parts)],
        summary={name: float(values[1:].nanmean()) for name, values in y.items()},
        summary_label="mean over the stages",
        better="lower",
        checks=checks,
    )


def agreement(rows: dict[str, Tensor]) -> Tensor:
    """What the verdict goes by, at each stage: the rank correlation, with sign or of sizes, that is farther from 0.

    A map that is turned upside down has not forgotten what it shows.
    """
    return _kept(rows).nanmean(0)


def _kept(rows: dict[str, Tensor]) -> Tensor:
    """The same for each input, (n, stages).

    Of a row or text, the sign counts where there is one: the sizes of contributions follow those of the columns or
    embeddings in any network, however random.
    """
    names = (SIGNED,) if SIGNED in rows and "SSIM" not in rows else (SIGNED, SIZES)
    return torch.stack([rows[name].abs() for name in names if name in rows]).amax(0)


def _verdict(rows: dict[str, Tensor], parts: Blocks, order: Order, name: str, told: int) -> dict[str, Check]:
    """By the agreement over the upper half of the stages, and at the end, where nothing learned is left."""
    stages = agreement(rows)[1:]
    half = (len(stages) + 1) // 2 if order == "cascading" else len(stages)
    upper, last = stages[:half], stages[-1]
    if upper.isnan().all():
        text = "Once weights are random there is no map, or one of equal values: nothing of the map is left."
        return {"verdict": Check(text, "note")}
    held, between = float(upper.nanmean()), _interval(rows, half)
    worst = max(held, float(last.nan_to_num(0.0)) if order == "cascading" else 0.0)
    if order == "cascading":
        layers = sum(len(part) for part in parts.parts[:half])
        where = (
            f"with the upper {layers} of {parts.total} layers random" if half > 1 else "with the output layer random"
        )
    else:
        where = f"with {parts.total} layers random, one block of {len(parts.parts)} at a time"
    numbers = f"rank correlation with itself {float(stages[half - 1]):.2f} {where}"
    if half == len(stages):
        numbers = f"rank correlation with itself {held:.2f} on average {where}"
    elif not stages[half - 1].isnan() and not last.isnan():
        numbers += f", {float(stages[0]):.2f} with the output layer alone, {float(last):.2f} with all"
    if worst >= SLOW and correlation_interval(min(worst, 1.0), told + 3, ranked=True)[0] < LITTLE:
        text = f"{name} changes little ({numbers}), but so few entries do not tell that from chance: give more inputs."
        return {"verdict": Check(text, "note", held, between)}
    if worst >= SAME:
        return {
            "verdict": Check(
                f"{name} hardly changes ({numbers}): it does not show what this model learned.", "fail", held, between
            )
        }
    if worst >= SLOW:
        return {
            "verdict": Check(
                f"{name} changes slowly ({numbers}): part of it does not come from what this model learned.",
                "warn",
                held,
                between,
            )
        }
    return {"verdict": Check(f"{name} reacts to what the model learned ({numbers}).", "ok", held, between)}


def _interval(rows: dict[str, Tensor], half: int) -> tuple[float, float] | None:
    """Over several inputs, the bootstrap interval of what the verdict goes by."""
    means = _kept(rows)[:, 1 : half + 1].nanmean(1)
    means = means[~means.isnan()]
    if len(means) < 2:
        return None
    low, high = interval(means)
    return float(low), float(high)


def _notes(parts: Blocks, randomiser: Randomiser, refusals: dict[int, str]) -> dict[str, Check]:
    checks = {}
    if randomiser.without:
        few = ", ".join(path or "the model itself" for path in randomiser.without[:3])
        text = (
            f"{len(randomiser.without)} of {parts.total} layers have no initialiser of their own ({few}): normal "
            "noise like their weights took its place."
        )
        checks["initialiser"] = Check(text, "note", len(randomiser.without))
    if refusals:
        text = f"At {len(refusals)} of {len(parts.parts)} stages there is no map: {next(iter(refusals.values()))}"
        checks["refused"] = Check(text, "note", len(refusals))
    return checks


def _outlines(model: Model, x: Batch, original: Tensor) -> Tensor | None:
    """The control, a map that knows no weights: the edges of each picture, as large as the maps."""
    if model.space.kind != "image" or original.ndim != 3:
        return None
    outlines = torch.stack([edges(picture) for picture in primary(x)])
    return outlines if outlines.shape == original.shape else resized(outlines, original.shape[1:])


def _edges(rows: dict[str, Tensor]) -> dict[str, Check]:
    if EDGES not in rows:
        return {}
    means = rows[EDGES].nanmean(0)
    before, after = float(means[0]), float(means[1:].nanmean())
    text = (
        "An edge detector would stay at 1 throughout. The sizes of this map have a rank correlation of "
        f"{before:.2f} with the picture's edges, and {after:.2f} on average while weights are random."
    )
    return {"edges": Check(text, "note", before)}
