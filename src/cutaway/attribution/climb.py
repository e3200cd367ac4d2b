"""Masks of a fixed area with the highest score: gradient ascent under a constraint that grows stricter."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.budget import in_time
from cutaway.core.errors import BadOption
from cutaway.core.progress import track

# The weight of the area beside a score that runs from 0 (hidden) to 1 (whole), at the first and at the last step: weak
# at first, so that a mask finds its place, and then stronger by the same factor with each step.
WEIGHTS = (1.0, 100.0)
# Adam: the step in units of a mask's range, and its two memories.
_STEP, _MEMORY, _SPREAD, _TINY = 0.1, 0.8, 0.99, 1e-6
# After this share of the steps, searches side by side may go on from each other's place.
_MEET = 0.6
# Cells of a mask that differ by less are equal: the pull of the area is then the same for both.
_EQUAL = 1e-5

# From what is optimised to masks: those that the area is counted in, and those that the score sees.
Shape = Callable[[Tensor], tuple[Tensor, Tensor]]
# From masks to the score of each, and its slope with respect to them.
Reward = Callable[[Tensor], tuple[Tensor, Tensor]]


def climb(
    start: Float[Tensor, "k ..."],
    shape: Shape,
    reward: Reward,
    areas: Float[Tensor, "k"],
    *,
    iterations: int,
    weights: tuple[Tensor | float, float] = WEIGHTS,
    meet: Callable[[Tensor], Tensor] | None = None,
    label: str = "",
) -> tuple[Float[Tensor, "k ..."], int]:
    """From starting values in [0, 1] to those whose mask of each area has a high score, and after how many steps.

    Args:
        start: One for each area.
        shape: From the values to masks.
        reward: The score to raise, about 1 for the whole image, and its slope.
        areas: Share of ones that each mask should have.
        iterations: Steps, unless the time limit ends them.
        weights: Of the area, at the first step, one or one for each area, and at the last.
        meet: From all values to those to go on from, once, on the way.
        label: For the progress.
    """
    values = start.clone()
    first = torch.as_tensor(weights[0]).to(values).expand(len(values)).view(-1, *[1] * (values.ndim - 1))
    growth = (weights[1] / first) ** (1 / max(1, iterations - 1))
    step, born, turn = 0, 0, max(1, round(_MEET * iterations))
    for step in track(in_time(range(iterations)), label, iterations):
        if step == turn and meet is not None:
            values, born = meet(values), step
        if step == born:
            mean, square = torch.zeros_like(values), torch.zeros_like(values)
        slope = _slope(values, shape, reward, areas, first * growth**step)
        mean = _MEMORY * mean + (1 - _MEMORY) * slope
        square = _SPREAD * square + (1 - _SPREAD) * slope**2
        age = step - born + 1
        ahead, spread = mean / (1 - _MEMORY**age), square / (1 - _SPREAD**age)
        values = (values - _STEP * ahead / (spread.sqrt() + _TINY)).clamp(0, 1)
    return values, step + 1


def _slope(values: Tensor, shape: Shape, reward: Reward, areas: Tensor, weight: Tensor) -> Tensor:
    """Of weight * distance from the area - reward, with respect to the values."""
    with torch.inference_mode(False), torch.enable_grad():
        values = values.detach().clone().requires_grad_()
        cells, masks = shape(values)
        # Above 1 counts as 1, but may be pulled down.
        up = reward(masks.detach().clamp(0, 1))[1]
        pull = weight * pull_to_area(cells.detach().clamp(0, 1), areas)
        (slope,) = torch.autograd.grad((cells, masks), values, (pull, -up))
    return slope


def pull_to_area(cells: Float[Tensor, "k ..."], areas: Float[Tensor, "k"]) -> Float[Tensor, "k ..."]:
    """The slope of the mean squared distance between a mask's sorted cells and as many zeros and ones as its area has.

    loss = mean of (sorted cells - r)^2,   r = 0 ... 0 1 ... 1 with mean `areas`

    Cells that are equal share the ones that fall to them, so that their order in memory does not decide.
    """
    flat = cells.flatten(1)
    count = flat.shape[1]
    ordered, which = flat.sort(1)
    place = torch.arange(1, count + 1, dtype=flat.dtype, device=flat.device)
    wanted = (place - (1 - areas[:, None]) * count).clamp(0, 1)
    rise = torch.zeros_like(which)
    rise[:, 1:] = ordered.diff(dim=1) > _EQUAL
    group = rise.cumsum(1)
    total = torch.zeros_like(flat).scatter_add(1, group, wanted)
    members = torch.zeros_like(flat).scatter_add(1, group, torch.ones_like(flat))
    wanted = (total / members.clamp(min=1)).gather(1, group)
    return torch.zeros_like(flat).scatter(1, which, 2 * (ordered - wanted) / count).view_as(cells)


def with_area(masks: Float[Tensor, "k ..."], areas: Float[Tensor, "k"]) -> Float[Tensor, "k ..."]:
    """Masks raised to the power that gives each exactly its area: what is 0 or 1 stays, and so does the order.

    A mask with too few cells above 0 keeps a smaller area.
    """
    return masks ** power_for(masks, areas)


def power_for(masks: Float[Tensor, "k ..."], areas: Float[Tensor, "k"]) -> Float[Tensor, "k ..."]:
    """That power, shaped so that it broadcasts."""
    axes = tuple(range(1, masks.ndim))
    wide = [-1] + [1] * len(axes)
    low, high = (torch.full_like(areas, value).view(wide) for value in (1e-3, 1e3))
    for _ in range(60):
        middle = (low * high).sqrt()
        large = (masks**middle).mean(axes, keepdim=True) > areas.view(wide)
        low, high = torch.where(large, middle, low), torch.where(large, high, middle)
    return (low * high).sqrt()


def smallest_enough(
    areas: Float[Tensor, "k"], scores: Float[Tensor, "k"], full: float, none: float, *, delete: bool
) -> Float[Tensor, ""]:
    """The smallest area that keeps the whole score, or whose loss takes away half of it; 0 if none does.

    Args:
        areas: Ascending.
        scores: What each mask leaves.
        full, none: The score of the whole, and of what is hidden altogether.
        delete: Whether the masks hide or keep.
    """
    shares = (scores - none) / (full - none or 1.0)
    enough = shares <= 0.5 if delete else shares >= 1
    return areas[int(enough.nonzero()[0])] if enough.any() else torch.zeros_like(areas[0])


def checked_areas(areas: tuple[float | str, ...]) -> list[float]:
    """Areas in ascending order, as numbers between 0 and 1.

    Raises:
        BadOption: Not shares.
    """
    try:
        numbers = sorted({float(a) for a in areas})
    except ValueError:
        numbers = []
    if not numbers or not 0 < numbers[0] <= numbers[-1] < 1:
        text = ", ".join(map(str, areas))
        raise BadOption(f"expected areas as shares between 0 and 1, such as 0.05;0.1;0.2; got {text or 'none'}.")
    return numbers
