"""Does the map survive a change of the input that the model itself does not mind?"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from cutaway.core.batch import Batch, join, repeat, size, take
from cutaway.core.errors import BadOption, CutawayError, NotPossible
from cutaway.core.method import Explain, explainer_of, method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Scores
from cutaway.core.space import Space
from cutaway.core.target import Target
from cutaway.evaluation.orders import condensed, explained
from cutaway.evaluation.similarity import overlap
from cutaway.evaluation.steadiness import CELLS, Row, scores_of
from cutaway.evaluation.together import each, examined
from cutaway.maths.statistics import spearman

# Noise that changes the prediction of half of the copies is halved, this often at most.
_HALVINGS = 4


@method(paper="ghorbani2019", quick={"samples": 4})
def stability(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    noise: float = 0.02,
    samples: int = 8,
    top: float = 0.05,
    seed: int = 0,
) -> Scores:
    """Add a little noise that leaves the prediction alone, explain again, and compare the maps.

    rank correlation = mean over draws e with class(x + e) = class(x) of spearman(map(x), map(x + e))

    The noise is random, so this is the mild form of the test: a map that fails it needs no attacker.

    Args:
        noise: Its standard deviation, as a share of the range of a pixel; for a row, in standard deviations of the
            column as the space states them. Noisy inputs are clipped to the allowed interval. Where this much changes
            most predictions, it is halved, up to four times, and the result says so.
        samples: Noisy copies of each input.
        top: The share of highest entries whose overlap is counted.
        seed: Draws the noise, the same for each input.

    Returns:
        Rank correlation of the maps with a 95 % bootstrap interval, the lowest one, that of the means of 8 x 8 cells,
        the overlap of the highest entries (two random maps have `top`), and the share of noisy inputs that kept their
        prediction. All at most 1.

    Raises:
        NotPossible: No noisy input kept its prediction; or the input is text, which cannot be changed a little.

    Source: Ghorbani et al. 2019, section 2, its random perturbation as control and its measures. Differs: no attack.
    """
    _check(model, noise, samples, top)
    plan = _Plan(noise, samples, top, seed)
    begin, examine = partial(_Case.of, model, x), partial(_inputs, model, x, plan)
    return examined(attribution, model, x, ("stability", *plan), begin, examine)


def _inputs(model: Model, x: Batch, plan: "_Plan", cases: list["_Case | CutawayError"]) -> list[Scores | CutawayError]:
    """Input by input, all maps of the same noisy copies."""
    for i in track(range(size(x)), "stability"):
        noisy = _kept(model, take(x, slice(i, i + 1)), plan)
        cases = each(cases, partial(_Case.look, model=model, i=i, noisy=noisy, plan=plan))
    return each(cases, partial(_Case.scores, plan=plan))


class _Case(NamedTuple):
    """One map under examination.

    Attributes:
        original: The map, one number for each position.
        target: What it explains.
        explain: Makes it again.
        rows: What the noisy copies of each input so far gave.
    """

    original: Tensor
    target: Target
    explain: Explain
    rows: list[Row]

    @classmethod
    def of(cls, model: Model, x: Batch, attribution: Attribution) -> "_Case":
        """A map, before its inputs are changed."""
        return cls(condensed(attribution), explained(model, x, attribution), explainer_of(attribution), [])

    def look(self, model: Model, i: int, noisy: "_Noisy", plan: "_Plan") -> "_Case":
        """Make the map of the i-th input again for noisy copies of it."""
        maps = condensed(self.explain(model, noisy.kept, self.target.row(i))) if size(noisy.kept) else None
        self.rows.append(_row(self.original[i : i + 1], maps, noisy, plan))
        return self

    def scores(self, plan: "_Plan") -> Scores:
        """What was seen for all inputs.

        Raises:
            NotPossible: No noisy input kept its prediction.
        """
        if not any(row.kept for row in self.rows):
            raise NotPossible(
                f"no input kept its prediction even under noise of {plan.noise / 2**_HALVINGS:g}, so there is nothing "
                "to compare: the model itself is not stable here."
            )
        return scores_of(self.rows, plan.noise, plan.top)


class _Plan(NamedTuple):
    noise: float
    samples: int
    top: float
    seed: int


class _Noisy(NamedTuple):
    """One input, its noisy copies that kept their prediction, and how strong their noise is."""

    row: Batch
    kept: Batch
    noise: float


def _check(model: Model, noise: float, samples: int, top: float) -> None:
    if noise <= 0 or samples < 2:
        raise BadOption(f"expected noise above 0 and at least 2 samples; got noise={noise:g}, samples={samples}.")
    if not 0 < top < 1:
        raise BadOption(f"expected top as a share between 0 and 1; got {top:g}.")
    if model.space.kind == "tokens":
        raise NotPossible("a text cannot be changed by a little noise; stability is for pictures and rows.")


def _row(original: Tensor, maps: Tensor | None, noisy: _Noisy, plan: _Plan) -> Row:
    if maps is None:
        none = torch.empty(0, dtype=torch.float64)
        return Row(0, none, none, none, none, plan.samples, noisy.noise)
    count = len(maps)
    before = original.expand(count, *original.shape[1:])
    moved = _relative(before, maps) / _relative(_values(repeat(noisy.row, count)), _values(noisy.kept))
    return Row(
        kept=count,
        correlation=spearman(before.flatten(1), maps.flatten(1)).cpu(),
        coarse=spearman(_cells(before), _cells(maps)).cpu()
        if _has_cells(maps)
        else torch.empty(0, dtype=torch.float64),
        common=overlap(before, maps, share=plan.top, generator=torch.Generator().manual_seed(plan.seed)),
        ratio=moved.cpu(),
        draws=plan.samples,
        noise=noisy.noise,
    )


def _kept(model: Model, row: Batch, plan: _Plan) -> _Noisy:
    """Noisy copies in the class of the original, and the noise: halved until it leaves half of the classes alone."""
    noise, best = plan.noise, take(row, slice(0, 0))
    for k in range(_HALVINGS + 1):
        noisy = _noisy(model.space, row, plan, noise)
        if model.scores == "values":  # a regressor has no class to keep
            return _Noisy(row, noisy, noise)
        classes = model.run(_joined(row, noisy)).scores.argmax(1)
        best = take(noisy, (classes[1:] == classes[0]).nonzero()[:, 0])
        if 2 * size(best) >= plan.samples or k == _HALVINGS:
            break
        noise /= 2
    return _Noisy(row, best, noise)


def _has_cells(maps: Tensor) -> bool:
    return maps.ndim == 3 and min(maps.shape[1:]) >= 2 * CELLS


def _cells(maps: Tensor) -> Tensor:
    """Means over a grid of cells."""
    return adaptive_avg_pool2d(maps[:, None], CELLS).flatten(1)


def _values(x: Batch) -> Tensor:
    return x if isinstance(x, Tensor) else next(iter(x.values()))


def _joined(row: Batch, more: Batch) -> Batch:
    if isinstance(row, Tensor):
        assert isinstance(more, Tensor)
        return join([row, more])
    assert not isinstance(more, Tensor)
    return {name: join([value, more[name]]) for name, value in row.items()}


def _noisy(space: Space, row: Batch, plan: _Plan, noise: float) -> Batch:
    """Noisy copies of one row. The same noise for every row: otherwise splitting a batch changes the answer."""
    value = _values(row)
    generator = torch.Generator().manual_seed(plan.seed)
    draws = torch.randn((plan.samples, *value.shape[1:]), generator=generator, dtype=torch.float64).to(value)
    scale = space.range if space.kind == "image" else torch.tensor(space.std, dtype=value.dtype, device=value.device)
    noisy = (value + noise * scale * draws).clamp(space.low, space.high)
    if isinstance(row, Tensor):
        return noisy
    copies = repeat(row, plan.samples)
    assert isinstance(copies, dict)
    return {**copies, next(iter(row)): noisy}


def _relative(before: Tensor, after: Tensor) -> Tensor:
    """Size of the change over size, row by row."""
    change = (after - before).flatten(1).cpu().double()
    return change.norm(dim=1) / before.flatten(1).cpu().double().norm(dim=1)
