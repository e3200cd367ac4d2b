"""Does the map survive a change of the input that the model itself does not mind?"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from cutaway.core.batch import Batch, join, repeat, size, take
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import Explain, explainer_of, method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Scores
from cutaway.core.space import Space
from cutaway.core.target import Target
from cutaway.evaluation.orders import condensed, explained
from cutaway.evaluation.similarity import overlap
from cutaway.evaluation.steadiness import CELLS, Row, scores_of
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
    target, explain = explained(model, x, attribution), explainer_of(attribution)
    original = condensed(attribution)
    rows = [
        _row(
            model,
            take(x, slice(i, i + 1)),
            target.row(i),
            explain,
            original[i : i + 1],
            _Plan(noise, samples, top, seed),
        )
        for i in track(range(size(x)), "stability")
    ]
    if not any(row.kept for row in rows):
        raise NotPossible(
            f"no input kept its prediction even under noise of {noise / 2**_HALVINGS:g}, so there is nothing to "
            "compare: the model itself is not stable here."
        )
    return scores_of(rows, noise, top)


class _Plan(NamedTuple):
    noise: float
    samples: int
    top: float
    seed: int


def _check(model: Model, noise: float, samples: int, top: float) -> None:
    if noise <= 0 or samples < 2:
        raise BadOption(f"expected noise above 0 and at least 2 samples; got noise={noise:g}, samples={samples}.")
    if not 0 < top < 1:
        raise BadOption(f"expected top as a share between 0 and 1; got {top:g}.")
    if model.space.kind == "tokens":
        raise NotPossible("a text cannot be changed by a little noise; stability is for pictures and rows.")


def _row(model: Model, row: Batch, target: Target, explain: Explain, original: Tensor, plan: _Plan) -> Row:
    kept, noise = _kept(model, row, plan)
    if not size(kept):
        none = torch.empty(0, dtype=torch.float64)
        return Row(0, none, none, none, none, plan.samples, noise)
    maps = condensed(explain(model, kept, target))
    count = len(maps)
    before = original.expand(count, *original.shape[1:])
    moved = _relative(before, maps) / _relative(_values(repeat(row, count)), _values(kept))
    return Row(
        kept=count,
        correlation=spearman(before.flatten(1), maps.flatten(1)).cpu(),
        coarse=spearman(_cells(before), _cells(maps)).cpu()
        if _has_cells(maps)
        else torch.empty(0, dtype=torch.float64),
        common=overlap(before, maps, share=plan.top, generator=torch.Generator().manual_seed(plan.seed)),
        ratio=moved.cpu(),
        draws=plan.samples,
        noise=noise,
    )


def _kept(model: Model, row: Batch, plan: _Plan) -> tuple[Batch, float]:
    """Noisy copies in the class of the original, and the noise: halved until it leaves half of the classes alone."""
    noise, best = plan.noise, take(row, slice(0, 0))
    for k in range(_HALVINGS + 1):
        noisy = _noisy(model.space, row, plan, noise)
        if model.scores == "values":  # a regressor has no class to keep
            return noisy, noise
        classes = model.run(_joined(row, noisy)).scores.argmax(1)
        best = take(noisy, (classes[1:] == classes[0]).nonzero()[:, 0])
        if 2 * size(best) >= plan.samples or k == _HALVINGS:
            break
        noise /= 2
    return best, noise


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
