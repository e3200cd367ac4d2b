"""Can a change of the input that nobody sees, and that leaves the prediction alone, make another map?"""

import torch
from torch import Tensor

from cutaway.core.batch import Batch, primary
from cutaway.core.checks import Status
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Table
from cutaway.evaluation.fragility_attack import Goal, Plan, attacked
from cutaway.evaluation.fragility_table import centres, mean_of, named, rows_of, table, verdict_of
from cutaway.evaluation.regions import regions

_EPSILON = 8 / 255
_QUICK = {"steps": 3}
# Shares of the highest entries that stay, from which a map counts as steady and below which as another one.
_STEADY, _LOST = 0.7, 0.3
# Shares of the shorter side from which a centre moved noticeably, and far.
_NEAR, _FAR = 0.05, 0.15


@method(paper="ghorbani2019", laws={"inside_ball"}, quick=_QUICK)
def fragility_top_k(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    epsilon: float = _EPSILON,
    steps: int = 50,
    top: float = 0.05,
    sharpness: float = 10.0,
    seed: int = 0,
) -> Table:
    """Attack a map so that its highest entries are no longer its highest, while the prediction stays.

    maximise over |x' - x| <= epsilon, class(x') = class(x):  -sum over i in B of R_i(x'),   B the highest of R(x)

    R are the map's sizes, summed over channels and divided by their mean. For gradients, SmoothGrad, products with the
    input and integrated gradients the attack follows second derivatives of a copy of the network with softplus for
    rectifiers; for DeepLIFT those of integrated gradients, for other maps differences. What counts is measured on the
    network itself. Per step two forwards and three backwards (ten times that for a mean of gradients), or sixteen maps.

    Args:
        epsilon: Largest change of an entry, as a share of the range of a pixel; for a row, in standard deviations of
            the column as the space states them.
        steps: Of the attack.
        top: The share of highest entries that is attacked and counted.
        sharpness: Of the softplus, in inverse units of what it rectifies.
        seed: Draws the random neighbours.

    Returns:
        For each input: the share of highest entries that stay, beside that under random changes of the same size; the
        rank correlation of the maps; how far the centre of the map moved, in pixels. `extra["attacked"]` has the
        attacked inputs, in the class of the original.

    Raises:
        NotPossible: Text, a network without classes, or a map of another place than the input.

    Source: Ghorbani et al. 2019, section 3, its first attack. Differs: step size 2.5 epsilon / steps.
    """
    plan = Plan(epsilon, steps, sharpness, seed)
    _check_top(top)

    def goals(i: int, before: Tensor) -> Goal:
        flat = before.flatten()
        highest = torch.zeros_like(flat).index_fill_(0, flat.topk(max(1, round(top * len(flat)))).indices, 1.0)
        return lambda sizes: -(sizes.flatten(1) * highest).sum(1)

    found = attacked(model, x, attribution, goals, plan)
    rows = rows_of(found, top, seed)
    stay, near = (mean_of(rows, k) for k in (1, 2))
    said = f"of the highest {top:.0%} of {named(attribution)}, {stay:.0%} stay ({near:.0%} under random signs)"
    status: Status = "ok" if stay >= _STEADY else "warn" if stay >= _LOST else "fail"
    return table("Fragility of the highest entries", rows, found, top, verdict_of(said, status, stay, epsilon, found))


@method(paper="ghorbani2019", laws={"inside_ball"}, needs={"image"}, quick=_QUICK)
def fragility_mass_center(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    epsilon: float = _EPSILON,
    steps: int = 50,
    top: float = 0.05,
    sharpness: float = 10.0,
    seed: int = 0,
) -> Table:
    """Attack a map so that its centre moves as far as possible, while the prediction stays.

    maximise over |x' - x| <= epsilon, class(x') = class(x):  |C(x') - C(x)|^2,   C = sum_i R_i position_i / sum_i R_i

    The attack and its cost are those of `fragility_top_k`.

    Args:
        epsilon: Largest change of a pixel, as a share of its range.
        steps: Of the attack.
        top: The share of highest entries that is counted.
        sharpness: Of the softplus, in inverse units of what it rectifies.
        seed: Draws the random neighbours.

    Returns:
        For each input: how far the centre moved, in pixels, and the other columns of `fragility_top_k`.
        `extra["attacked"]` has the attacked inputs, in the class of the original.

    Raises:
        NotPossible: A network without classes, or a map that is not over the picture.

    Source: Ghorbani et al. 2019, section 3, its second attack. Differs: centres are not rounded to whole pixels.
    """
    plan = Plan(epsilon, steps, sharpness, seed)
    _check_top(top)

    def goals(i: int, before: Tensor) -> Goal:
        at = centres(before)
        return lambda sizes: (centres(sizes) - at).square().sum(1)

    found = attacked(model, x, attribution, goals, plan)
    rows = rows_of(found, top, seed)
    moved, side = mean_of(rows, 5), min(found[0].before.shape[1:])
    near = sum(float(f.chance_goal.sqrt().mean()) for f in found if len(f.chance)) / len(found)
    said = f"the centre of {named(attribution)} moves by {moved:.2g} of {side} pixels ({near:.2g} under random signs)"
    status: Status = "fail" if moved >= _FAR * side else "warn" if moved >= _NEAR * side else "ok"
    return table("Fragility of the centre", rows, found, top, verdict_of(said, status, moved, epsilon, found))


@method(paper="ghorbani2019", laws={"inside_ball"}, needs={"image"}, quick=_QUICK)
def fragility_targeted(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    region: Tensor | str | None = None,
    epsilon: float = _EPSILON,
    steps: int = 50,
    top: float = 0.05,
    sharpness: float = 10.0,
    seed: int = 0,
) -> Table:
    """Attack a map so that it points at a region of your choice, while the prediction stays.

    maximise over |x' - x| <= epsilon, class(x') = class(x):  sum over i in A of R_i(x'),   A the region

    The attack and its cost are those of `fragility_top_k`.

    Args:
        region: What the map should be made to point at: a mask (n, height, width), or boxes "x0,y0,x1,y1" in pixels,
            with ";" between inputs and "+" between boxes of one. None takes the masks of the examples.
        epsilon: Largest change of a pixel, as a share of its range.
        steps: Of the attack.
        top: The share of highest entries that is counted.
        sharpness: Of the softplus, in inverse units of what it rectifies.
        seed: Draws the random neighbours.

    Returns:
        For each input: the share of the map inside the region, before and after, and the columns of `fragility_top_k`.
        `extra["attacked"]` has the attacked inputs, in the class of the original.

    Raises:
        BadOption: There is no region.
        NotPossible: A network without classes, or a map that is not over the picture.

    Source: Ghorbani et al. 2019, section 3, its targeted attack. Differs: step size 2.5 epsilon / steps.
    """
    plan = Plan(epsilon, steps, sharpness, seed)
    _check_top(top)
    picture = primary(x)
    masks = regions(region, len(picture), *picture.shape[2:])

    def goals(i: int, before: Tensor) -> Goal:
        if before.shape[1:] != masks.shape[1:]:
            raise NotPossible("this map is coarser than the picture, so no region of pixels can be aimed at.")
        inside = masks[i].to(before)
        return lambda sizes: (sizes * inside).flatten(1).sum(1)

    found = attacked(model, x, attribution, goals, plan)
    rows = rows_of(found, top, seed)
    shares = [[f.start / f.before.numel(), f.goal / f.before.numel()] for f in found]
    before, after = (sum(pair[k] for pair in shares) / len(shares) for k in (0, 1))
    near = sum(float(f.chance_goal.mean()) / f.before.numel() for f in found if len(f.chance)) / len(found)
    area = float(masks.double().mean())
    said = (
        f"the share of {named(attribution)} inside the region, {area:.0%} of the picture, goes from {before:.1%} to "
        f"{after:.1%} ({near:.1%} under random signs)"
    )
    status: Status = "fail" if after >= max(area, 2 * before) else "warn" if after >= 2 * before else "ok"
    verdict = verdict_of(said, status, after, epsilon, found)
    return table("Fragility towards a region", rows, found, top, verdict, shares)


def _check_top(top: float) -> None:
    if not 0 < top < 1:
        raise BadOption(f"expected top as a share between 0 and 1; got {top:g}.")
