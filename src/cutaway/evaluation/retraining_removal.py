"""Was it the reason, or one of several? Take away what a map ranks highest, and train again without it."""

from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.batch import Batch, primary
from cutaway.core.budget import partial, time_is_up
from cutaway.core.call import predicted
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.fill import Fill
from cutaway.core.method import explainer_of, method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Cost, Curve
from cutaway.evaluation.paired import CHANCE
from cutaway.evaluation.retraining import RecipeLike, School, known_labels, right
from cutaway.evaluation.retraining_curve import OWN, Found, curve_of
from cutaway.evaluation.retraining_pieces import ORDERS, Pieces

_TOLD = 0.25  # share of the way from chance to the whole accuracy


class _Plan(NamedTuple):
    """What is removed, how often and how; see `remove_and_retrain`."""

    shares: tuple[float, ...]
    fills: tuple[str, ...]
    orders: tuple[str, ...]
    keep: bool
    seeds: int
    seed: int

    @property
    def trainings(self) -> int:
        """One for each share, order, fill and seed, one for each seed with nothing removed, and one for the leak."""
        return self.seeds * (1 + len(self.shares) * len(self.orders) * len(self.fills)) + 1


@method(
    paper="hooker2019",
    quick={"shares": (0.5,), "fills": ("mean",), "controls": (), "seeds": 1, "epochs": 1, "cells": 4},
)
def remove_and_retrain(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    labels: Tensor | None = None,
    recipe: RecipeLike = None,
    fills: tuple[str, ...] = ("mean", "zero"),
    shares: tuple[float | str, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
    keep: bool = False,
    controls: tuple[str, ...] = ("edges", "centre"),
    cells: int = 8,
    seeds: int = 3,
    examples: int = 0,
    epochs: int = 0,
    seed: int = 0,
) -> Curve:
    """Remove what the map ranks highest from all pictures, train again, and see how much accuracy is left.

    area = mean over shares s of accuracy(a network trained and tested on inputs without their first share s)

    A network that meets a filled picture for the first time may fail because it is strange; one that was trained on
    such pictures fails because what told the classes is gone. The map is made again for each training input, for the
    class that the model gives it. One training for each share, order, fill and seed, and one for each seed with nothing
    removed; a map and its controls begin with the same weights and see the examples in the same order.

    Args:
        labels: The class of each input; examples bring theirs. Without, the model's own classes count as right.
        recipe: How the network is trained: a `cutaway.core.recipe.Recipe`, or a function that makes one from the model.
            cutaway's own networks bring theirs.
        fills: What replaces the pieces, each with curves of its own. The first one is in the verdict.
        shares: Shares of the pieces that are removed.
        keep: Remove what the map ranks lowest, and keep what it ranks highest.
        controls: Orders of pictures to compare with, beside random ones: edges, centre; or none.
        cells: Pieces along each side of a picture; 0 removes single pixels, as in the paper.
        seeds: How often everything is trained anew, from other weights.
        examples: Training examples taken, the first ones; 0 for all.
        epochs: Passes over them; 0 for the recipe's own number.
        seed: Of the first weights, the random orders and ties; the others follow it.

    Returns:
        Accuracy on the inputs over the share removed, from 0 to 1, with 95 % intervals over seeds. The summary has the
        mean accuracy over the shares, for each order and fill.

    Raises:
        BadOption: No recipe; options out of range.
        NotPossible: The input is text; or the time limit came before the first share was done.

    Source: Hooker et al. 2019, section 3. Differs: cells rather than pixels, the class that the model gives rather than
    the label, since a map of the label can tell it, several fills, paired seeds, and the check `leak`.
    """
    if model.space.kind == "tokens":
        raise NotPossible("remove_and_retrain is for pictures and rows; word_deletion and erasure work on text.")
    if cells < 0:
        raise BadOption(f"expected cells from 1 up, or 0 for single pixels; got {cells}.")
    plan = _planned(model, shares, fills, controls, keep, seeds, seed)
    explain, school = explainer_of(attribution), School.of(model, recipe, examples=examples, epochs=epochs)
    classes, notes = known_labels(model, x, labels)
    inputs = school.data.x
    assert isinstance(inputs, Tensor)
    label = school.afford(plan.trainings, "remove_and_retrain", _maps(attribution, len(inputs)))
    train = Pieces.of(model, inputs, explain, plan.orders, cells)
    test = Pieces.of(model, primary(x).cpu(), attribution, plan.orders, cells)
    if str(predicted(model, x)) != attribution.target:
        text = f"These maps explain {attribution.target}; those of the training inputs the class that the model gives."
        notes["target"] = Check(text, "note")
    found = _measured(school, plan, train, test, classes, label)
    leak = {} if found.done < found.wanted else _leak(school, plan, train, test, classes, float(found.whole.mean()))
    cut = {"partial": partial(found.done, found.wanted, "trainings")} if found.done < found.wanted else {}
    result = curve_of(found, keep, sum(test.flat), leak | notes | cut)
    verdict = result.checks["verdict"]
    doubted = ("ok", "note") if keep else ("warn", "fail")
    if "leak" in leak and leak["leak"].status == "warn" and verdict.status in doubted:
        text = f"{verdict} The holes themselves tell the class, so this says little about the map: see `leak`."
        return result.with_checks(verdict=Check(text, "warn", verdict.value, verdict.interval))
    return result


def _planned(
    model: Model,
    shares: tuple[float | str, ...],
    fills: tuple[str, ...],
    controls: tuple[str, ...],
    keep: bool,
    seeds: int,
    seed: int,
) -> _Plan:
    try:
        portions = tuple(sorted({float(share) for share in shares}))
    except ValueError:
        portions = ()
    if not portions or not 0 < portions[0] <= portions[-1] < 1 or not fills or seeds < 1:
        raise BadOption(
            "expected shares between 0 and 1, one fill or more, and seeds of 1 or more; "
            f"got shares={';'.join(map(str, shares))}, fills={';'.join(fills)}, seeds={seeds}."
        )
    unknown = [name for name in controls if name not in ORDERS]
    if unknown:
        raise BadOption(f"expected controls out of {', '.join(ORDERS)}; got {unknown[0]!r}.")
    for fill in fills:
        Fill.of(fill)
    known = [f"{name} first" for name in controls] if model.space.kind == "image" else []
    return _Plan(portions, tuple(fills), (OWN, CHANCE, *known), keep, seeds, seed)


def _maps(attribution: Attribution, count: int) -> Cost:
    """What that many maps will cost, by those that there are."""
    made, times = attribution.provenance.cost, count / len(attribution.values)
    return Cost(round(made.forwards * times), round(made.backwards * times), made.seconds * times)


def _measured(school: School, plan: _Plan, train: Pieces, test: Pieces, classes: Tensor, label: str) -> Found:
    """Accuracy after each training, until all are done or the time is up: whole shares first, then whole seeds."""
    sizes = (plan.seeds, len(plan.shares), len(plan.fills), len(plan.orders))
    found = torch.full(sizes, torch.nan, dtype=torch.float64)
    whole: list[float] = []
    places = [
        (k, s, f, o) for k in range(sizes[0]) for s in range(sizes[1]) for f in range(sizes[2]) for o in range(sizes[3])
    ]
    for k, s, f, o in track(places, label):
        if time_is_up():
            break
        if len(whole) == k:
            whole.append(float(right(school.train(plan.seed + k), test.x, classes).mean()))
        fill, draw = Fill.of(plan.fills[f]), plan.seed + k
        without = [
            pieces.without(pieces.gone(plan.orders[o], plan.shares[s], plan.keep, draw), fill)
            for pieces in (train, test)
        ]
        found[k, s, f, o] = right(school.train(draw, x=without[0]), without[1], classes).mean()
    own = float(right(school.model, test.x, classes).mean())
    return Found.of(found, torch.tensor(whole, dtype=torch.float64), plan.shares, plan.fills, plan.orders, own)


def _leak(school: School, plan: _Plan, train: Pieces, test: Pieces, classes: Tensor, whole: float) -> dict[str, Check]:
    """What the shape of the removed part tells by itself: a silhouette is a picture, too."""
    share = plan.shares[len(plan.shares) // 2]
    shown = [pieces.silhouettes(pieces.gone(OWN, share, plan.keep, plan.seed)) for pieces in (train, test)]
    told = float(right(school.train(plan.seed, x=shown[0]), shown[1], classes).mean())
    chance = float(classes.bincount().max()) / len(classes)
    much = told > chance + _TOLD * max(whole - chance, 0)
    text = (
        f"From the holes alone ({share:.0%} of the pieces), without what is in the input, a network learns to tell the "
        f"class of {told:.0%} of the inputs (always the same class: {chance:.0%})"
    )
    text += (
        "; so what is left after removal may be the trace of the map itself. Larger cells tell less." if much else "."
    )
    return {"leak": Check(text, "warn" if much else "note", told)}
