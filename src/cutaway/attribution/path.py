"""Contributions along a path: the target's gradient, integrated from a baseline to the input."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.batch import Batch, repeat, size, take
from cutaway.core.budget import afford, cut_short, fair_share, in_time, time_is_up
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill, zero
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.space import Space
from cutaway.core.target import Target
from cutaway.maths.quadrature import Line

_ZERO = zero()
# Wider bounds than this say that nothing is known of a column.
_BOUNDLESS = 1e6


@method(
    paper="sundararajan2017",
    laws={"batch_independent", "complete", "dummy", "same_for_equivalent_nets", "symmetric"},
    needs={"gradient"},
    quick={"max_steps": 17},
)
def integrated_gradients(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    baseline: Fill = _ZERO,
    tol: float = 0.01,
    max_steps: int = 256,
    samples: int = 1,
    seed: int = 0,
) -> Attribution:
    """Integrate the target's gradient along the straight line from a baseline to the input.

    values_i = (x_i - b_i) * integral over a in [0, 1] of d target(b + a (x - b)) / d x_i

    Each gradient comes with the target itself, so every piece of the path knows its residual: what the rule makes of
    it, minus the true change. Pieces with large residuals are bisected first.

    Args:
        wrt: Where to attribute; at a layer, x and b are the activations there, for the input and for the filled input.
        baseline: What stands for "nothing there".
        tol: Refine until the sizes of the local residuals sum to less than this share of the change in the target.
        max_steps: Gradients spent at most, for each input and draw.
        samples: Draws of a random baseline to average over.
        seed: Draws the baselines; the same for each input.

    Returns:
        Values in the target's unit, shaped like the activation at `wrt`. They sum to target(x) - target(b) up to
        `extra["gap"]`, which is never larger than `extra["residual"]`.

    Source: Sundararajan et al. 2017, eq. 1; Sturmfels et al. 2020 for the baselines. Differs: steps are placed
    adaptively, since for a ReLU network the integrand jumps.
    """
    _check(baseline, tol, max_steps, samples)
    passes = size(x) * samples * max_steps
    afford(passes, f"integrated_gradients in up to {max_steps:,} steps", backwards=passes, stops=True)
    paths: list[_Path] = []
    for i in range(size(x)):
        row, generator = take(x, slice(i, i + 1)), torch.Generator().manual_seed(seed)
        ends = path_ends(model, row, wrt, baseline.row(i, size(x)), samples, generator)
        slopes = slopes_at(model, row, target.row(i), wrt)
        draws: list[_Path] = []
        with fair_share(size(x) - i):
            for begin in in_time(ends[1:], least=2):
                tell = _teller(i * samples + len(draws), size(x) * samples, max_steps)
                with fair_share(samples - len(draws)):
                    draws.append(_integrated(slopes, begin, ends[0], tol, max_steps, tell))
                tell(max_steps)
        paths.append(_averaged(draws, (samples - len(draws)) * max_steps))
    return _result(paths, target, wrt, baseline, tol)


class _Path(NamedTuple):
    """One integral: contributions in double precision, and what is known of their error.

    Attributes:
        wanted: Steps that there could have been, had there been time for them.
    """

    values: Tensor
    dtype: torch.dtype
    score: float
    change: float
    residual: float
    steps: int
    wanted: int
    rule: str
    unmoved: float
    spread: Tensor | None = None


Slopes = Callable[[Tensor], tuple[Tensor, Tensor]]


def _check(baseline: Fill, tol: float, max_steps: int, samples: int) -> None:
    if tol < 0:
        raise BadOption(f"expected tol as a share from 0 up, such as 0.01; got {tol:g}.")
    if max_steps < 3:
        raise BadOption(f"expected max_steps of 3 or more, the ends and the middle of the path; got {max_steps}.")
    if samples < 1 or (samples > 1 and not baseline.random):
        raise BadOption(
            f"expected samples=1, since {baseline} is always the same; got {samples}. Random ones: noise, gaussian:0.2."
        )


def path_ends(model: Model, row: Batch, wrt: Site, baseline: Fill, samples: int, generator: torch.Generator) -> Tensor:
    """The activation at `wrt` for the input, then for each draw of the baseline; (1 + samples, ...)."""
    embedded = model.space.kind == "tokens"
    x = model.run(row, read=[INPUT])[INPUT] if embedded or not isinstance(row, Tensor) else row
    space = _bounded(model.space, x, baseline)
    fills = [baseline(x, space, generator) for _ in range(samples)]
    ends = torch.cat([x, *(fills if embedded else map(model.inputs, fills))])
    if wrt == INPUT:
        return ends
    return model.run(repeat(row, len(ends)), read=[wrt.whole], edit={INPUT: ends})[wrt]


def _bounded(space: Space, x: Tensor, fill: Fill) -> Space:
    """The space whose bounds a random fill is drawn within; of an embedding, which has none, its own least and most.

    Raises:
        BadOption: Noise within the bounds of a table that gives none.
    """
    if space.kind == "tokens":
        low, high = float(x.min()), float(x.max())
        return replace(space, low=low, high=high) if low < high else space
    if space.kind == "row" and space.range > _BOUNDLESS and str(fill).partition(":")[0] in ("noise", "gaussian"):
        raise BadOption(
            f"expected columns with bounds for {fill}; this table's reach from {space.low:g} to {space.high:g}. "
            "Pass rows to draw from, as sample(table), or say rows(..., low=..., high=...)."
        )
    return space


def slopes_at(model: Model, row: Batch, target: Target, wrt: Site) -> Slopes:
    """The target and its slope at any points of the place, for one input. What lies before the place is run once."""
    prefix = None if wrt.whole == INPUT else model.prefix(row, wrt.whole)

    def slopes(points: Tensor) -> tuple[Tensor, Tensor]:
        rows = repeat(row, len(points))
        if prefix is None:
            score, _, slope = model.gradient(rows, target, wrt=wrt, edit={wrt: points})
        else:
            edit = {wrt.whole: prefix.value.repeat_interleave(len(points), 0), wrt: points}
            score, _, slope = model.gradient(None, target, wrt=wrt, edit=edit, prefix=prefix)
        return score, slope

    return slopes


def _teller(path: int, paths: int, max_steps: int) -> Callable[[int], None]:
    """Report the gradients spent on one of several paths, as if each took all that it may."""
    return lambda steps: report("integrated gradients", path * max_steps + steps, paths * max_steps)


def _integrated(
    slopes: Slopes, begin: Tensor, end: Tensor, tol: float, max_steps: int, tell: Callable[[int], None]
) -> _Path:
    """Refine one path until its residual is small or the budget is spent."""
    line, found = Line(), []
    # In double precision: single precision loses the digits that the residual is made of.
    start, step = begin.double(), end.double() - begin.double()
    wanted = 0
    while len(at := line.wanted(max_steps - len(line))):
        if len(line) and time_is_up():
            wanted = max_steps
            break
        tell(len(line))
        weight = at.to(step).view(-1, *[1] * end.ndim)
        score, slope = slopes(torch.lerp(start[None], end.double()[None], weight).to(end))
        found.append(slope)
        line.add(at, score.double().cpu(), (slope.double() * step).reshape(len(at), -1).sum(1).cpu())
        estimate = line.estimate()
        if not step.any() or estimate.residual <= tol * abs(line.change):
            break
    integral = torch.zeros_like(step)
    for weight, slope in zip(line.weights().tolist(), torch.cat(found), strict=True):
        integral += weight * slope.double()
    last = float(line.value[line.at.argmax()])
    unmoved = float((step == 0).double().mean())
    steps = len(line)
    known = (last, line.change, estimate.residual, steps, max(wanted, steps), estimate.rule, unmoved)
    return _Path(integral * step, end.dtype, *known)


def _averaged(draws: list[_Path], left: int) -> _Path:
    """The mean over draws of the baseline, for others of which `left` steps had no time.

    The residual stays a bound on the gap.
    """
    steps, wanted = sum(path.steps for path in draws), sum(path.wanted for path in draws) + left
    if len(draws) == 1:
        return draws[0]._replace(wanted=wanted)
    values = torch.stack([path.values for path in draws])
    mean = {name: sum(getattr(p, name) for p in draws) / len(draws) for name in ("change", "residual", "unmoved")}
    spread = values.std(0) / len(draws) ** 0.5
    return draws[0]._replace(values=values.mean(0), steps=steps, wanted=wanted, spread=spread, **mean)


def _result(paths: list[_Path], target: Target, wrt: Site, baseline: Fill, tol: float) -> Attribution:
    values = torch.stack([path.values for path in paths])
    change = torch.tensor([path.change for path in paths], dtype=torch.float64)
    residual = torch.tensor([path.residual for path in paths], dtype=torch.float64)
    gap = values.reshape(len(values), -1).sum(1).cpu() - change
    extra = {"gap": gap, "residual": residual, "change": change, "steps": torch.tensor([path.steps for path in paths])}
    if paths[0].spread is not None:
        extra["standard_error"] = torch.stack([p.spread for p in paths if p.spread is not None]).to(paths[0].dtype)
    checks = _completeness(paths, gap, change, residual, tol) | _blindness(paths, baseline)
    checks |= cut_short(
        [p.steps for p in paths], [p.wanted for p in paths], "gradients", "The residual bounds what that left open."
    )
    return Attribution(
        values=values.to(paths[0].dtype),
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=torch.tensor([path.score for path in paths], dtype=paths[0].dtype),
        extra=extra,
        checks=checks,
    )


def _completeness(paths: list[_Path], gap: Tensor, change: Tensor, residual: Tensor, tol: float) -> dict[str, Check]:
    """The signed gap and the summed local residual, of the input where the residual is largest."""
    scale = change.abs().clamp_min(torch.finfo(torch.float64).tiny)
    worst = int((residual / scale).argmax())
    which = f" (input {worst}, the worst of {len(paths)})" if len(paths) > 1 else ""
    total, moved = float(gap[worst] + change[worst]), float(change[worst])
    if moved == 0:
        text = f"The target is the same at the baseline and at the input{which}; the values sum to {total:.3g}."
        return {"gap": Check(text, "warn" if residual[worst] else "note", total)}
    off, share, path = float(gap[worst] / scale[worst]), float(residual[worst] / scale[worst]), paths[worst]
    text = f"The values sum to {total:.4g} of a change of {moved:.4g} from the baseline{which}: gap {off:+.2%}."
    bound = f"The local residuals, which bound the gap, sum to {share:.2%} of the change{which}"
    spent = f"after {path.steps} gradients ({path.rule} rule)"
    close = share <= tol
    more = "" if close else f" Wanted were {tol:.2%}: raise max_steps, or read regions rather than single values."
    return {
        "gap": Check(text, "ok" if abs(off) <= max(tol, 1e-6) else "warn", off),
        "residual": Check(f"{bound} {spent}.{more}", "ok" if close else "warn", share),
    }


def _blindness(paths: list[_Path], baseline: Fill) -> dict[str, Check]:
    """Where the input equals the baseline the values are 0, whatever the network does."""
    same = max(path.unmoved for path in paths)
    if same == 1:
        count = sum(path.unmoved == 1 for path in paths)
        which = "The input equals" if len(paths) == 1 else f"{count} of {len(paths)} inputs equal"
        return {"baseline": Check(f"{which} the baseline ({baseline}), so all values are 0.", "warn", same)}
    if same > 0.01:
        text = f"{same:.0%} of the entries equal the baseline ({baseline}) and get 0 whatever the network does"
        return {"baseline": Check(f"{text}; compare another, such as farthest.", "note", same)}
    return {}
