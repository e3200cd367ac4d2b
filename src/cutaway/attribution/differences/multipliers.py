"""Multipliers: how much of an operation's change between a baseline and the input goes to each thing that changed.

For y = f(x, ...) they are numbers m with   y - y0 = sum over the inputs of m * (x - b),   exactly.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def quotient(x: Tensor, b: Tensor, y: Tensor, y0: Tensor, slope: Callable[[Tensor], Tensor], *, smooth: bool) -> Tensor:
    """For a function of each entry: the change of y by the change of x; where x hardly changes, the slope half-way.

    Args:
        x, b: Arguments at the input and at the baseline.
        y, y0: Values there.
        slope: The function's slope at any points, shaped like y.
        smooth: The function has a slope everywhere. Then the slope half-way is the better number before all digits of
            the quotient are lost: with error dx^2 against eps / dx, so below the third root of eps.
    """
    change = x - b
    least = torch.finfo(x.dtype).eps ** (1 / 3) * x.abs().clamp_max(1) if smooth else 0.0
    close = change.abs() <= least
    m = (y - y0) / change
    if bool(close.any()):
        m = torch.where(close, slope(((x + b) / 2).expand_as(y)), m)
    # What is minus infinity at both ends, as behind an attention mask, does not change; nor does sqrt at 0 and 0.
    return m.nan_to_num_(0.0, 0.0, 0.0)


def ratio(a: Tensor | float, a0: Tensor | float, b: Tensor, b0: Tensor) -> tuple[Tensor, Tensor]:
    """For y = a / b: multipliers of a and of b. The change of 1 / b is that of b times -1 / (b b0)."""
    return (1 / b + 1 / b0) / 2, -(a + a0) / 2 / (b * b0)


def logarithmic_mean(log_y: Tensor, log_y0: Tensor) -> Tensor:
    """(y - y0) / (log y - log y0), which lies between y and y0: the multiplier of the exponential function.

    0 where one of them is exactly 0, as behind an attention mask.
    """
    apart = log_y - log_y0
    close = apart.abs() <= torch.finfo(log_y.dtype).eps ** (1 / 3)
    mean = torch.where(close, ((log_y + log_y0) / 2).exp(), (log_y.exp() - log_y0.exp()) / apart)
    return mean.nan_to_num_(0.0, 0.0, 0.0)


def winners(
    x: Tensor, b: Tensor, y: Tensor, y0: Tensor, first: Tensor, other: Tensor, *, lowest: bool = False
) -> tuple[Tensor, Tensor]:
    """For a maximum along the last axis: which entry answers for the change, and its multiplier, from 0 to 1.

    A rise is due to the entry that is the largest now, and a fall to the one that was: each of them moved in that
    direction by at least as much as the maximum did. `told_apart` finds them.

    Args:
        x, b: (..., entries) at the input and at the baseline.
        y, y0: (..., k) largest of some entries there.
        first, other: (..., k) which entries these are, at the input and at the baseline.
        lowest: For a minimum.
    """
    is_now = y <= y0 if lowest else y >= y0
    at = torch.where(is_now, first, other)
    moved = x.gather(-1, at) - b.gather(-1, at)
    # Between 0 and 1 but for rounding, and for entries that `told_apart` took for equal.
    return at, torch.where(moved == 0, torch.ones_like(moved), (y - y0) / moved).clamp(0, 1)


def told_apart(x: Tensor, b: Tensor, y: Tensor, slack: Tensor, slack_b: Tensor) -> Tensor:
    """Which entry along the first axis is the largest: of those alike, the one that is the largest in the other tensor.

    Behind a convolution of an even baseline all entries are equal, up to last digits that change from run to run and
    with the size of the batch: these must not decide which of them was the largest. Of entries that are alike in both
    tensors, the first is taken. Entries are compared with the largest one and not put on a grid, since there is no grid
    on which equal entries never lie on both sides of a step.

    Args:
        x: (entries, ...).
        b: The other tensor.
        y: (...) the largest of x.
        slack, slack_b: How far entries of x and of b that are alike may be apart.
    """
    near = x >= y - slack
    there = torch.where(near, b, -torch.inf)
    near &= there >= there.amax(0) - slack_b
    # The largest of falling numbers is the first one, and found sooner than by argmax along an outer axis.
    count = len(x)
    falling = torch.arange(count, 0, -1, dtype=torch.uint8 if count < 256 else torch.int32, device=x.device)
    return count - (near * falling.view(-1, *[1] * (x.ndim - 1))).amax(0).long().clamp(min=1)


def slack(t: Tensor, axes: int) -> Tensor:
    """A share of the largest finite size over the last axes: well above the last digits, well below what is seen."""
    sizes = t.detach().abs().flatten(-axes)
    if not bool(sizes.isfinite().all()):
        sizes = sizes.nan_to_num(0.0, 0.0, 0.0)
    return torch.finfo(t.dtype).eps ** (2 / 3) * sizes.amax(-1).view(*t.shape[:-axes], *[1] * axes)


def summed_to(signal: Tensor, like: Tensor) -> Tensor:
    """A signal at a broadcast copy of a tensor, summed to the tensor itself."""
    return signal if signal.shape == like.shape else signal.sum_to_size(like.shape)
