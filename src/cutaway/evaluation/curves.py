"""The curves behind insertion and deletion: the map's and the controls', for every input and fill."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch, size, take
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.core.target import Target, log_odds, logit, logprob, prob
from cutaway.evaluation.memory import remembered
from cutaway.evaluation.orders import control_scores, explained, over_input, ranks, tied
from cutaway.evaluation.subject import Subject

Kind = Literal["deletion", "insertion"]

# What stands for "absent" by kind of input; the paper's own choice comes first.
_FILLS: dict[tuple[str, str], tuple[str, ...]] = {
    ("deletion", "image"): ("zero", "blur", "mean"),
    ("insertion", "image"): ("blur", "zero", "mean"),
    ("deletion", "row"): ("zero", "mean"),
    ("insertion", "row"): ("zero", "mean"),
}


class Plan(NamedTuple):
    """The options of a curve; see `deletion`."""

    fills: tuple[str, ...]
    cells: int
    steps: int
    orders: int
    score: str
    seed: int

    def fills_for(self, kind: Kind, space: str) -> tuple[str, ...]:
        """The fills asked for, or those that fit the kind of input."""
        return self.fills or _FILLS.get((kind, space), ("zero",))


class Measured(NamedTuple):
    """All curves of one attribution.

    Attributes:
        name: Of the attribution.
        shares: The common axis, (points,).
        own: By fill, the map's curve for each input, (n, points).
        random: By fill, (n, orders, points).
        controls: By fill and control, (n, points).
        watched: What was watched, in words.
        tied: Largest share of pieces that share their rank, over inputs.
        flat: How many inputs have a map with one value everywhere.
        reused: How many inputs had the curves of their controls from an earlier call.
    """

    name: str
    shares: Float[Tensor, " points"]
    own: dict[str, Float[Tensor, "n points"]]
    random: dict[str, Float[Tensor, "n orders points"]]
    controls: dict[str, dict[str, Float[Tensor, "n points"]]]
    watched: str
    tied: float
    flat: int
    reused: int


def measured(kind: Kind, model: Model, x: Batch, attribution: Attribution, plan: Plan) -> Measured:
    """Run all replaced inputs.

    Raises:
        BadOption: Options out of range.
    """
    if plan.steps < 2 or plan.orders < 2:
        raise BadOption(f"expected steps and orders of 2 or more; got steps={plan.steps}, orders={plan.orders}.")
    fills = {text: Fill.of(text) for text in plan.fills_for(kind, model.space.kind)}
    maps, target = over_input(model, x, attribution), explained(model, x, attribution)
    watch, words = watched(model, target, plan.score)
    rows = [take(x, slice(i, i + 1)) for i in range(size(x))]
    subjects = [Subject.of(model, row, watch.row(i), cells=plan.cells) for i, row in enumerate(rows)]
    steps = min(plan.steps, max(subject.players for subject in subjects))
    shares = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    scores = [subject.pooled(values) for subject, values in zip(subjects, maps, strict=True)]
    own: dict[str, list[Tensor]] = {text: [] for text in fills}
    beside: dict[str, list[Tensor]] = {text: [] for text in fills}
    reused = 0
    for i, subject in enumerate(track(subjects, kind)):
        place = ranks(scores[i], torch.Generator().manual_seed(plan.seed))
        for text, fill in fills.items():
            mine, others, known = _curves(kind, subject, place, fill, shares, plan)
            own[text].append(mine)
            beside[text].append(others)
            reused += known
    names = list(control_scores(model.space, subjects[0].value))
    stacked = {text: torch.stack(found) for text, found in beside.items()}
    return Measured(
        name=attribution.provenance.method or "this map",
        shares=shares,
        own={text: torch.stack(found) for text, found in own.items()},
        random={text: found[:, : plan.orders] for text, found in stacked.items()},
        controls={
            text: {name: found[:, plan.orders + k] for k, name in enumerate(names)} for text, found in stacked.items()
        },
        watched=words,
        tied=max(map(tied, scores)),
        flat=sum(bool((values == values[0]).all()) for values in scores),
        reused=reused // len(fills),
    )


def watched(model: Model, target: Target, score: str) -> tuple[Target, str]:
    """What to watch while explaining a target, and what it is called."""
    rows = target.rows or (target,)
    classes = [_class_of(row) for row in rows]
    if score == "target" or model.scores == "values" or any(k is None for k in classes):
        return target, str(target) if not target.rows else "the explained target"
    probabilities = Target.of([prob(k) for k in classes if k is not None], model)
    if target.rows and len(set(classes)) > 1:
        return probabilities, "the probability of the explained class"
    index = model.class_index(classes[0]) if classes[0] is not None else 0
    return probabilities.rows[0] if not target.rows else probabilities, f"the probability of {model.class_name(index)}"


def _class_of(target: Target) -> int | str | None:
    """The class whose probability rises with this target, if it is that simple."""
    if len(target.classes) != 1:
        return None
    (which,) = target.classes
    return which if target.text in {f(which).text for f in (logit, prob, logprob, log_odds)} else None


def _curves(
    kind: Kind, subject: Subject, place: Tensor, fill: Fill, shares: Tensor, plan: Plan
) -> tuple[Tensor, Tensor, bool]:
    """The map's curve, the controls', and whether some of those were known already."""
    filled = subject.filled(fill, plan.seed)
    chance = torch.Generator().manual_seed(plan.seed + 1)
    random = [torch.randperm(subject.players, generator=chance) for _ in range(plan.orders)]
    about = (str(subject.target), fill.text, len(shares), plan[1:])

    def by_chance() -> tuple[Tensor, Tensor]:
        ends = subject.watched(torch.cat([subject.value, filled]))
        return ends, subject.curves(subject.value, filled, ends, random, shares)

    (ends, deleted), known = remembered(subject.model, subject.row, ("random", *about), by_chance)
    start, end = subject.value, filled
    if kind == "insertion":
        # Showing in a random order is deleting in the opposite one, which is as random, seen from its end.
        start, end, ends, deleted = end, start, ends.flip(0), deleted.flip(1)

    def by_look() -> Tensor:
        scores = control_scores(subject.model.space, subject.value).values()
        return subject.curves(start, end, ends, [ranks(subject.pooled(one), chance) for one in scores], shares)

    others, seen = remembered(subject.model, subject.row, (kind, *about), by_look)
    return subject.curves(start, end, ends, [place], shares)[0], torch.cat([deleted, others]), known or seen
