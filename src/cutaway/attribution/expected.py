"""Contributions against many references at once: the path integral, averaged over where the path begins."""

from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.attribution.path import path_ends, slopes_at
from cutaway.core.batch import Batch, repeat, size, take
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill, noise
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

_NOISE = noise()
# Points of a path in memory at once.
_BLOCK = 32


@method(
    paper="erion2021",
    laws={"batch_independent", "dummy", "linear_in_target", "same_for_equivalent_nets", "seeded"},
    needs={"gradient"},
    quick={"samples": 8},
)
def expected_gradients(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    references: Fill = _NOISE,
    samples: int = 200,
    seed: int = 0,
) -> Attribution:
    """Integrated gradients averaged over random references: what differs here from what is usual.

    values_i = mean over r, a of (x_i - r_i) * d target(r + a (x - r)) / d x_i,   r random, a uniform in [0, 1]

    Each sample draws a reference and one point of its path. The path is cut into samples / 2 equal pieces with two
    points each, which leaves the mean as it is and makes it steadier. Two forwards and one backward for each sample.

    Args:
        wrt: Where to attribute; at a layer, x and r are the activations there, for the input and for the reference.
        references: Draws the references; `sample:DATA` or `sample(tensor)` draws from data, which is what is meant.
        samples: References drawn for each input; an even number.
        seed: Draws references and points; the same for each input.

    Returns:
        Values in the target's unit, shaped like the activation at `wrt`. In expectation they sum to target(x) minus
        the mean target of the references; `extra["gap"]` is by how much they miss it, `extra["standard_error"]` how
        much of each value is chance.

    Source: Erion et al. 2021, eq. 4. Differs: points are stratified along the path.
    """
    if samples < 2 or samples % 2:
        raise BadOption(f"expected an even number of samples, from 2 up; got {samples}.")
    found = []
    for i in track(range(size(x)), "expected gradients"):
        found.append(_expected(model, take(x, slice(i, i + 1)), target.row(i), wrt, references, samples, seed))
    values, error, change, gap, chance = (torch.stack(part) for part in list(zip(*found, strict=True))[:5])
    dtype = found[0].dtype
    return Attribution(
        values=values.to(dtype),
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=torch.stack([one.score for one in found]).to(dtype),
        extra={"standard_error": error.to(dtype), "gap": gap, "change": change},
        checks=_checks(values, error, change, gap, chance, references, samples),
    )


class _Expected(NamedTuple):
    """Of one input: values with their error, the change to explain, how far they miss it, and the error of that."""

    values: Tensor
    error: Tensor
    change: Tensor
    gap: Tensor
    chance: Tensor
    score: Tensor
    dtype: torch.dtype


def _expected(
    model: Model, row: Batch, target: Target, wrt: Site, references: Fill, samples: int, seed: int
) -> _Expected:
    generator = torch.Generator().manual_seed(seed)
    pieces = torch.arange(samples) // 2
    shares = (pieces + torch.rand(samples, generator=generator, dtype=torch.float64)) / (samples // 2)
    slopes = slopes_at(model, row, target, wrt)
    parts = []
    for start in range(0, samples, _BLOCK):
        count = min(_BLOCK, samples - start)
        point, *_ = ends = path_ends(model, row, wrt, references, count, generator)
        share = shares[start : start + count].to(point).view(-1, *[1] * point.ndim)
        _, slope = slopes(torch.lerp(ends[1:], point, share))
        products = slope.double() * (point - ends[1:]).double()
        score = target(model.run(repeat(row, len(ends)), read=target.sites, edit={wrt: ends})).double().cpu()
        # The two points of a piece differ by chance alone, so half the square of their difference is its variance.
        squares = (products[0::2] - products[1::2]).square().sum(0)
        sums = products.reshape(count, -1).sum(1).cpu()
        parts.append((products.sum(0), squares, score[0] - score[1:], sums, score[0]))
    total, squares = (torch.stack([part[k] for part in parts]).sum(0) for k in range(2))
    change, sums = (torch.cat([part[k] for part in parts]) for k in (2, 3))
    missed = sums - change
    chance = (missed[0::2] - missed[1::2]).square().sum().sqrt() / samples
    values, error = total / samples, squares.sqrt() / samples
    return _Expected(values, error, change.mean(), missed.mean(), chance, parts[0][4], ends.dtype)


def _checks(
    values: Tensor, error: Tensor, change: Tensor, gap: Tensor, chance: Tensor, references: Fill, samples: int
) -> dict[str, Check]:
    """What the values sum to, and how much of them is chance; of the input where it is worst."""
    worst = int((gap.abs() / chance.clamp_min(torch.finfo(chance.dtype).tiny)).argmax())
    which = f" (input {worst}, the worst of {len(gap)})" if len(gap) > 1 else ""
    moved, off, spread = (float(t[worst]) for t in (change, gap, chance))
    text = f"The values sum to {moved + off:.4g}; the target is {moved:.4g} above its mean at the references{which}. "
    expected = abs(off) <= 4 * spread + 1e-6 * abs(moved)
    text += f"The gap is {off:+.2g}, and chance alone makes gaps of about {spread:.2g}."
    size, noise = (part.reshape(len(part), -1).square().mean(1).sqrt() for part in (values, error))
    share = float((noise / size.clamp_min(torch.finfo(size.dtype).tiny)).max())
    said = f"The standard error of the mean over {samples} samples is {share:.0%} of the size of the map"
    checks = {
        "gap": Check(text, "ok" if expected else "warn", off),
        "error": Check(f"{said}: single values are mostly chance. Raise samples.", "warn", share)
        if share > 0.5
        else Check(f"{said}.", "ok", share),
    }
    if not references.random:
        text = f"The reference ({references}) is always the same, so this is integrated gradients by chance; use that."
        checks["references"] = Check(text, "note")
    return checks
