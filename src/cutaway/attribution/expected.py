"""Contributions against many references at once: the path integral, averaged over where the path begins."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.attribution.path import path_ends, slopes_at
from cutaway.core.batch import Batch, repeat, size, take
from cutaway.core.budget import afford, at_once, cut_short, fair_share, in_time
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.fill import Fill, noise
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target
from cutaway.maths.running import Running

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

    Source: Erion et al. 2021, eq. 4. Differs: points are stratified along the path, and the pieces come in random
    order, so that those that a time limit leaves are an estimate of all.
    """
    if samples < 2 or samples % 2:
        raise BadOption(f"expected an even number of samples, from 2 up; got {samples}.")
    passes = size(x) * samples
    afford(2 * passes, f"expected_gradients with {samples:,} samples", backwards=passes, stops=True)
    found = []
    for i in track(range(size(x)), "expected gradients"):
        row, wanted = take(x, slice(i, i + 1)), target.row(i)
        with fair_share(size(x) - i):
            found.append(_expected(model, row, wanted, wrt, references, samples, seed))
    values, error, change, gap, chance = (torch.stack(part) for part in list(zip(*found, strict=True))[:5])
    done = [one.samples for one in found]
    dtype = found[0].dtype
    return Attribution(
        values=values.to(dtype),
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=torch.stack([one.score for one in found]).to(dtype),
        extra={"standard_error": error.to(dtype), "gap": gap, "change": change},
        checks=_checks(values, error, change, gap, chance, references, min(done)) | cut_short(done, samples, "samples"),
    )


class _Expected(NamedTuple):
    """Of one input: values with their error, the change to explain, how far they miss it, and the error of that."""

    values: Tensor
    error: Tensor
    change: Tensor
    gap: Tensor
    chance: Tensor
    score: Tensor
    samples: int
    dtype: torch.dtype


def _expected(
    model: Model, row: Batch, target: Target, wrt: Site, references: Fill, samples: int, seed: int
) -> _Expected:
    generator = torch.Generator().manual_seed(seed)
    slopes, means, within = slopes_at(model, row, target, wrt), Running(), Running()
    change = []
    for shares in in_time(_points(samples, generator)):
        point, *_ = ends = path_ends(model, row, wrt, references, len(shares), generator)
        share = shares.to(point).view(-1, *[1] * point.ndim)
        _, slope = slopes(torch.lerp(ends[1:], point, share))
        products = slope.double() * (point - ends[1:]).double()
        score = target(model.run(repeat(row, len(ends)), read=target.sites, edit={wrt: ends})).double()
        change.append((score[0] - score[1:]).cpu())
        # What each sample gives, and last by how much its sum misses its change.
        flat = products.reshape(len(products), -1)
        every = torch.cat([flat, flat.sum(1, keepdim=True) - (score[0] - score[1:, None])], 1)
        means.add((every[0::2] + every[1::2]) / 2)
        # The two points of a piece differ by chance alone, so half the square of their difference is its variance.
        within.add((every[0::2] - every[1::2]).square() / 4)
    pieces, asked = means.count, 2 * means.count / samples
    # The variance in two stages: pieces of all, where the time limit left some out, and points of a piece.
    error = ((asked * within.mean + (1 - asked) * means.variance()) / pieces).sqrt()
    values, spread = (part[:-1].view_as(point) for part in (means.mean, error))
    gap, chance = means.mean[-1].cpu(), error[-1].cpu()
    return _Expected(values, spread, torch.cat(change).mean(), gap, chance, score[0].cpu(), 2 * pieces, ends.dtype)


def _points(samples: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Where on the path samples lie, some at a time: two by chance in each piece, and the pieces in random order."""
    pieces = torch.randperm(samples // 2, generator=generator).repeat_interleave(2)
    shares = (pieces + torch.rand(samples, generator=generator, dtype=torch.float64)) / (samples // 2)
    yield from shares.split(at_once(_BLOCK))


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
