"""Contributions from differences: what each entry adds to the change of the target between a baseline and the input."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cutaway.attribution.differences.changes import Changes
from cutaway.attribution.path import path_ends
from cutaway.core.batch import Batch, join, size, take
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill, zero
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

_ZERO = zero()


@method(
    paper="shrikumar2017",
    laws={"batch_independent", "complete", "dummy", "linear_in_target", "symmetric"},
    needs={"gradient"},
)
def deeplift(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    baseline: Fill = _ZERO,
    samples: int = 1,
    otherwise: Literal["refuse", "slope"] = "refuse",
    seed: int = 0,
) -> Attribution:
    """Explain the change of the target from a baseline to the input, by passing changes back through the network.

    values_i = m_i * (x_i - b_i),   m of a function y = f(z) of one number: (y - y0) / (z - z0)

    Multipliers follow the chain rule. Of a product, each factor's is the mean of the other; of a maximum, that entry
    has one that made it rise or fall; softmax, normalisation, attention and recurrent networks are taken apart into
    such operations. So the sum is exact. Two forwards and one backward pass for each input and draw of the baseline.

    Args:
        wrt: Where to attribute; at a layer, x and b are the activations there, for the input and for the filled input.
        baseline: What stands for "nothing there".
        samples: Draws of a random baseline to average over.
        otherwise: What to do about an operation without a rule: refuse, or let it keep its slope and say so.
        seed: Draws the baselines; the same for each input.

    Returns:
        Values in the target's unit, shaped like the activation at `wrt`. They sum to target(x) - target(b); the second
        is `extra["baseline_score"]`.

    Raises:
        NotPossible: An operation on the way has no rule; it is named, with its place.

    Source: Shrikumar et al. 2017, sections 3.2 and 3.5.1 (rescale rule). Differs: rules act on operations and not on
    modules, and products, quotients and attention have rules of their own.
    """
    if samples < 1 or (samples > 1 and not baseline.random):
        raise BadOption(
            f"expected samples=1, since {baseline} is always the same; got {samples}. Random ones: noise, gaussian:0.2."
        )
    generators = [torch.Generator().manual_seed(seed) for _ in range(size(x))]
    run = _explained(model, x, target, wrt, baseline, generators, otherwise)
    total, squares, base, still = run.values, torch.zeros_like(run.values), run.base, run.still
    for k in track(range(1, samples), "deeplift"):
        run = _explained(model, x, target, wrt, baseline, generators, otherwise)
        apart = run.values - total
        total = total + apart / (k + 1)
        squares += apart * (run.values - total)
        base, still = base + (run.base - base) / (k + 1), still + (run.still - still) / (k + 1)
    values = total.to(run.dtype)
    gap = values.double().reshape(len(values), -1).sum(1) - (run.score - base)
    extra = {"baseline_score": base}
    if samples > 1:
        extra["standard_error"] = (squares / (samples - 1) / samples).sqrt().to(run.dtype)
    return Attribution(
        values=values,
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=run.score.to(run.dtype),
        extra=extra,
        checks=_sum_check(values, run.score - base, gap) | _rule_checks(run.rules) | _still_check(still, baseline),
    )


class _Run(NamedTuple):
    """One draw of the baseline for a batch.

    Attributes:
        values: Contributions in double precision.
        score, base: The target at the input and at the baseline.
        still: Share of the entries that equal the baseline, by input.
        rules: What the rules noted, for each chunk.
        dtype: Of the place.
    """

    values: Tensor
    score: Tensor
    base: Tensor
    still: Tensor
    rules: list[Changes]
    dtype: torch.dtype


def _explained(
    model: Model,
    x: Batch,
    target: Target,
    wrt: Site,
    baseline: Fill,
    generators: list[torch.Generator],
    otherwise: Literal["refuse", "slope"],
) -> _Run:
    """Contributions for one draw of the baseline."""
    rows = [take(x, slice(i, i + 1)) for i in range(size(x))]
    fills = [baseline.row(i, len(rows)) for i in range(len(rows))]
    bases = join(
        [path_ends(model, row, wrt, fill, 1, g)[1:] for row, fill, g in zip(rows, fills, generators, strict=True)]
    )
    module = None if wrt.whole == INPUT else model.module.get_submodule(wrt.module)
    ruled: dict[int, Changes] = {}

    def rules(chunk: slice) -> Changes:
        def begin(value: Tensor) -> Tensor:
            # At one unit or position the others stay as they are.
            changed = value.clone()
            changed[wrt.index(value, module)] = bases[chunk].to(value)
            return changed

        count = chunk.stop - chunk.start
        model.spent["forwards"] += count  # of the baseline, beside that of the input
        ruled[chunk.start] = Changes(begin, count, otherwise)
        return ruled[chunk.start]

    try:
        score, value, slope = model.gradient(x, target, wrt=wrt, rules=rules)
    finally:
        for rule in ruled.values():
            rule.release()
    step = value.double() - bases.double()
    noted = [ruled[start] for start in sorted(ruled)]
    base = _base_scores(model, x, target, wrt, bases, noted, score)
    still = (step == 0).double().reshape(len(step), -1).mean(1)
    return _Run(slope.double() * step, score.double(), base.double(), still, noted, value.dtype)


def _base_scores(
    model: Model, x: Batch, target: Target, wrt: Site, bases: Tensor, rules: list[Changes], score: Tensor
) -> Tensor:
    """The target at the baseline: what the rules carried along; run again if their last result is not the target."""
    ends = [rule.last for rule in rules]
    if all(end is not None and end[0].shape == end[1].shape == (len(end[0]),) for end in ends):
        found, base = (join([end[k] for end in ends if end is not None]) for k in range(2))
        if torch.equal(found, score):
            return base
    return target(model.run(x, read=target.sites, edit={wrt: bases}))


def _sum_check(values: Tensor, change: Tensor, gap: Tensor) -> dict[str, Check]:
    """Do the values sum to the change? Of the input where they miss it most."""
    size = values.double().reshape(len(values), -1).abs().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    worst = int((gap.abs() / size).argmax())
    which = f" (input {worst}, the worst of {len(gap)})" if len(gap) > 1 else ""
    total, moved, off = float(change[worst] + gap[worst]), float(change[worst]), float(gap[worst] / size[worst])
    text = f"The values sum to {total:.6g} of a change of {moved:.6g} from the baseline{which}"
    fine = abs(off) <= min(100 * torch.finfo(values.dtype).eps ** 0.75, 0.01)
    text += f": they miss it by {float(gap[worst]):.1g}."
    if not fine:
        text += " Something that the rules did not see or could not explain took part."
    return {"gap": Check(text, "ok" if fine else "warn", off)}


def _rule_checks(rules: list[Changes]) -> dict[str, Check]:
    """What the rules had to leave out."""
    checks = {}
    if sloped := list(dict.fromkeys(name for rule in rules for name in rule.sloped)):
        text = (
            f"No rule for {', '.join(sloped[:5])}{' ...' if len(sloped) > 5 else ''}: the slope at the input was used."
        )
        checks["sloped"] = Check(text, "warn", float(len(sloped)))
    if branches := list(dict.fromkeys(name for rule in rules for name in rule.branches)):
        text = f"{', '.join(branches[:5])} read numbers that are others at the baseline, which ran as the input did."
        checks["branches"] = Check(text, "warn", float(len(branches)))
    return checks


def _still_check(still: Tensor, baseline: Fill) -> dict[str, Check]:
    """Where the input equals the baseline the values are 0, whatever the network does."""
    same = float(still.max())
    if same == 1:
        return {"baseline": Check(f"An input equals the baseline ({baseline}), so its values are all 0.", "warn", same)}
    if same > 0.01:
        text = f"{same:.0%} of the entries equal the baseline ({baseline}) and get 0 whatever the network does"
        return {"baseline": Check(f"{text}; compare another, such as farthest.", "note", same)}
    return {}
