"""How far a map can be moved by changes of the input that are too small to see."""

from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch, primary, repeat, size, take
from cutaway.core.checks import Check, Status
from cutaway.core.errors import BadOption, CutawayError, NotPossible
from cutaway.core.method import Explain, explainer_of, method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Scores
from cutaway.core.target import Target
from cutaway.evaluation.orders import explained
from cutaway.evaluation.paired import interval
from cutaway.evaluation.together import each, examined

# Changes, as a share of the map, below which it stays what it was, and from which nothing is left of it.
_STILL, _GONE = 0.5, 1.0


@method(paper="yeh2019", quick={"samples": 3})
def max_sensitivity(
    model: Model, x: Batch, attribution: Attribution, *, radius: float = 0.02, samples: int = 10, seed: int = 0
) -> Scores:
    """Change the input a little at random, explain again, and report the largest change of the map.

    max over e with |e_i| <= radius of |map(x + e) - map(x)| / |map(x)|,   |.| the Euclidean norm

    The largest of a few random changes is a lower bound of the largest there is. The explained class stays the same.

    Args:
        radius: Largest change of an entry, as a share of the range of a pixel; for a row, in standard deviations of the
            column as the space states them. Changed inputs are clipped to the allowed interval.
        samples: Changed copies of each input, the same changes for all.
        seed: Draws the changes.

    Returns:
        Largest and mean relative change of the map (0.1 is 10 % of its size), and the largest relative change of the
        input; for several inputs means, with 95 % bootstrap intervals.

    Raises:
        BadOption: Options out of range.
        NotPossible: The input is text; the map was made by hand and cannot be made again; or it is zero everywhere.

    Source: Yeh et al. 2019, definition 3.1. Differs: changed inputs are clipped; the mean stands beside the largest.
    """
    if not radius > 0 or samples < 1:
        raise BadOption(f"expected radius above 0 and samples of 1 or more; got radius={radius:g}, samples={samples}.")
    if model.space.kind == "tokens":
        raise NotPossible("a text cannot be changed by a little; max_sensitivity is for pictures and rows.")
    test = ("max_sensitivity", radius, samples, seed)
    return examined(attribution, model, x, test, partial(_Case.of, model, x), partial(_inputs, model, x, *test[1:]))


def _inputs(
    model: Model, x: Batch, radius: float, samples: int, seed: int, cases: list["_Case | CutawayError"]
) -> list[Scores | CutawayError]:
    """Input by input, all maps of the same changed copies."""
    for i in track(range(size(x)), "max sensitivity"):
        row = take(x, slice(i, i + 1))
        near = _near(model, row, radius, samples, seed)
        changed = _relative(primary(near), primary(row)).max()
        cases = each(cases, partial(_Case.look, model=model, i=i, near=near, changed=changed))
    return each(cases, partial(_Case.scores, radius=radius, samples=samples))


class _Case(NamedTuple):
    """One map under examination.

    Attributes:
        values: The map.
        target: What it explains.
        explain: Makes it again.
        rows: For each input so far, largest and mean change of the map, and largest change of the input.
    """

    values: Tensor
    target: Target
    explain: Explain
    rows: list[Float[Tensor, "3"]]

    @classmethod
    def of(cls, model: Model, x: Batch, attribution: Attribution) -> "_Case":
        """A map, before its inputs are changed.

        Raises:
            NotPossible: It was made by hand, or is zero everywhere.
        """
        case = cls(attribution.values, explained(model, x, attribution), explainer_of(attribution), [])
        if not attribution.values.flatten(1).any(1).all():
            raise NotPossible("a map is zero everywhere, so its relative change has no meaning.")
        return case

    def look(self, model: Model, i: int, near: Batch, changed: Tensor) -> "_Case":
        """Make the map of the i-th input again for changed copies of it."""
        moved = _relative(self.explain(model, near, self.target.row(i)).values, self.values[i : i + 1])
        self.rows.append(torch.stack([moved.max(), moved.mean(), changed]))
        return self

    def scores(self, radius: float, samples: int) -> Scores:
        """What was seen for all inputs."""
        return _scores(torch.stack(self.rows), radius, samples)


def _near(model: Model, row: Batch, radius: float, samples: int, seed: int) -> Batch:
    """Changed copies of one input."""
    value = primary(row)
    draws = torch.rand(samples, *value.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scale = model.space.range if model.space.kind == "image" else torch.tensor(model.space.std, dtype=torch.float64)
    step = (radius * scale * (2 * draws - 1)).to(value)
    near = (value + step).clamp(model.space.low, model.space.high)
    return near if isinstance(row, Tensor) else {**repeat(row, samples), next(iter(row)): near}  # type: ignore[dict-item]  # a dictionary stays one


def _relative(after: Tensor, before: Tensor) -> Float[Tensor, " m"]:
    change = (after - before).flatten(1).double().cpu()
    return change.norm(dim=1) / before.flatten(1).double().cpu().norm(dim=1)


def _scores(rows: Float[Tensor, "n 3"], radius: float, samples: int) -> Scores:
    most, _, inputs = rows.mean(0).tolist()
    status: Status = "ok" if most < _STILL else "note" if most < _GONE else "warn"
    what = {
        "ok": "stays what it was",
        "note": "changes by more than half of its size",
        "warn": "changes by as much as it is large",
    }[status]
    over = f", on average over {len(rows)} inputs" if len(rows) > 1 else ""
    text = (
        f"When entries change by at most {radius:g} of their range (the input by {inputs:.1%}), the map {what}: by "
        f"{most:.0%} at most in {samples} draws{over}."
    )
    low, high = interval(rows) if len(rows) > 1 else (torch.empty(0), torch.empty(0))
    return Scores(
        title="Max-sensitivity",
        names=["largest change", "mean change", "largest change of the input"],
        values=rows.mean(0),
        low=low,
        high=high,
        unit="share of its size",
        better="lower",
        checks={
            "verdict": Check(text, status, most),
            "bound": Check("The largest change of some random draws is a lower bound of the largest there is.", "note"),
        },
    )
