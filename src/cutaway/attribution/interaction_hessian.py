"""How the integrated gradient of one part depends on another: second derivatives along a path."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.attribution.interaction import interaction_checks, refuse_different
from cutaway.core.batch import Batch, size, take
from cutaway.core.budget import afford, cut_short, fair_share, in_time
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.features import Features
from cutaway.core.fill import Fill, zero
from cutaway.core.game import Game, play
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Matrix
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target, per_row

_ZERO = zero()


@method(paper="janizek2021", laws={"seeded"}, needs={"gradient"}, quick={"features": "auto:4", "steps": 4})
def integrated_hessians(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto:9",
    baseline: Fill = _ZERO,
    wrt: Site = INPUT,
    steps: int = 32,
    shift: float = 0.05,
    seed: int = 0,
) -> Matrix:
    """How much of the integrated gradient of one part is due to another.

    G_ij = integral over s from 0 to 1 of -s ln(s) d_i H(b + s d) d_j, for i other than j;  d = x - b
    G_ii = the same, and the integral of -ln(s) d_i g_i(b + s d)

    g and H are the gradient and the Hessian of the target, b is the baseline. All G_ij sum to target(x) - target(b).
    The double integral of the paper has become one over s = alpha beta. H d_j is a difference of two gradients, so that
    a network with kinks has an answer, too, if a rough one: taken over twice the distance as well, the differences tell
    how rough (the check `kinks`). 4 k + 1 forwards and backwards for each step.

    Args:
        features: The parts; `auto:9` takes what is natural, an image in 9 cells.
        baseline: Where the path begins.
        wrt: Where the parts are: the input, or a layer.
        steps: Points on the path.
        shift: How far a part is moved each way for H d_j, as a share of its way from the baseline to that step.
        seed: Draws a random baseline.

    Returns:
        Interactions in the target's unit, symmetric; the diagonal is what a part does by itself. They sum to the
        target's change from the baseline up to the gap that is a check. For several inputs, the mean.

    Raises:
        BadShape: Several inputs with different parts.

    Source: Janizek, Sturmfels and Lee 2021, equations 6 and 7. Differs: one integral; differences of gradients instead
    of second derivatives, where the paper exchanges rectifiers for softplus.
    """
    if steps < 1:
        raise BadOption(f"expected 1 step or more; got {steps}.")
    if not 0 < shift <= 0.5:
        raise BadOption(f"expected shift as a share above 0 and up to 0.5; got {shift:g}.")
    if baseline.of_tokens or baseline.random:
        raise BadOption(f"expected a baseline of fixed numbers, such as zero or mean; got {baseline}.")
    rows = [(take(x, slice(i, i + 1)), target.row(i)) for i in range(size(x))]
    played = [play(model, row, aim, features=features, fill=baseline, wrt=wrt, seed=seed) for row, aim in rows]
    refuse_different(played)
    k = len(played[0])
    passes = len(played) * steps * (4 * k + 1)
    afford(passes, f"integrated_hessians of {k} parts", backwards=passes, stops=True)
    made, done = [], []
    for i, (game, (row, aim)) in enumerate(zip(played, rows, strict=True)):
        with fair_share(len(played) - i):
            matrices, points = _matrices(model, game, row, aim, steps, shift)
        made.append(matrices)
        done.append(points)
    found = torch.stack(made)
    values = found[:, 0].mean(0)
    names = list(played[0].features.names)
    return Matrix(
        values=values,
        row_names=names,
        column_names=names,
        unit="target",
        sequence=model.space.kind == "tokens" and not played[0].features.units,
        checks={
            **interaction_checks(played, values, torch.empty(0)),
            **_quality(played, found),
            **cut_short(done, steps, "points", "Between them curvature was taken as linear; see the gap."),
        },
    )


def _quality(played: Sequence[Game], found: Float[Tensor, "n 2 k k"]) -> dict[str, Check]:
    """Do the pairs sum to the change, and do they depend on how far parts were moved?"""
    changes = torch.tensor([game.full - game.empty for game in played], dtype=torch.float64)
    scale = max(float(found[:, 0].abs().sum((1, 2)).max()), 1e-300)
    gap = float((found[:, 0].sum((1, 2)) - changes).abs().max())
    text = f"The values miss the target's change from the baseline by {gap:.2g}, {gap / scale:.2%} of their sizes' sum."
    checks = {"gap": Check(text, "ok" if gap <= 0.05 * scale else "warn", gap)}
    bend = float((found[:, 0] - found[:, 1]).abs().sum((1, 2)).max()) / scale
    text = f"Second derivatives over twice the distance move the values by {bend:.1%} of their sizes' sum."
    if bend > 0.1:
        text += " The network has kinks instead of curves: do not rely on single pairs, use shapley_interaction."
    return checks | {"kinks": Check(text, "ok" if bend <= 0.1 else "warn", bend)}


def _matrices(
    model: Model, game: Game, row: Batch, target: Target, steps: int, shift: float
) -> tuple[Float[Tensor, "2 k k"], int]:
    """The interactions from differences over `shift`, and over twice as much; and from how many points of the path."""
    k, at = len(game), game.place.wrt.whole
    prefix = model.prefix(row, at)
    assert game.absent is not None
    begin, way = game.absent, prefix.value - game.absent
    owner = game.place.owner(game.features).to(way.device)
    # The way of each player alone, (k, ...), and in a row for sums.
    own = (owner == torch.arange(k, device=way.device).view(-1, *[1] * owner.ndim)) * way
    flat = own.flatten(1).double()
    moved = way + torch.cat([torch.zeros_like(way), *(sign * shift * own for sign in (1, -1, 2, -2))])
    aims = per_row([target] * len(moved))
    # s = u^2 takes the logarithm's corner at 0 away.
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    u, length = torch.from_numpy(nodes + 1) / 2, torch.from_numpy(weights)
    order, bent = _halving(steps), list[Tensor]()
    for node in track(in_time(order), "integrated hessians", steps):
        slopes = model.gradient(None, aims, wrt=at, edit={at: begin + float(u[node]) ** 2 * moved}, prefix=prefix).slope
        slope, *others = slopes.flatten(1).double().split([1, k, k, k, k])
        bent.append(torch.stack([_bent(others[:2], flat, slope, shift), _bent(others[2:], flat, slope, 2 * shift)]))
    share = -(u**2).log() * u * length
    every = _between(u, torch.tensor(order[: len(bent)]), torch.stack(bent))
    return torch.einsum("s,swij->wij", share, every), len(bent)


def _between(at: Tensor, asked: Tensor, found: Tensor) -> Tensor:
    """What was found at some points, at all of them: on a line between two that were asked, level beyond the last."""
    known, order = at[asked].sort()
    after = torch.searchsorted(known, at).clamp(max=len(known) - 1)
    before = (after - 1).clamp(min=0)
    gap = known[after] - known[before]
    share = torch.where(gap > 0, (at - known[before]) / gap, 1.0).clamp(0, 1).view(-1, *[1] * (found.ndim - 1))
    return torch.lerp(found[order[before]], found[order[after]], share)


def _bent(ends: Sequence[Tensor], flat: Tensor, slope: Tensor, shift: float) -> Float[Tensor, "k k"]:
    """At one point of the path, d_i H d_j from slopes to both sides, and the slope's own part on the diagonal."""
    curved = (ends[0] - ends[1]) / (2 * shift) @ flat.T
    return ((curved + curved.T) / 2 + torch.diag(flat @ slope[0])).cpu()


def _halving(count: int) -> list[int]:
    """The numbers below `count`, so that the first of them are spread evenly: the middle, those of both halves, ..."""
    spans, order = [(0, count)], []
    for low, high in spans:
        if low < high:
            middle = (low + high) // 2
            order.append(middle)
            spans += [(low, middle), (middle + 1, high)]
    return order
