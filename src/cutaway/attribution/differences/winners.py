"""How changes pass through what picks entries by their size: pooling, maxima, sorting."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cutaway.attribution.differences.entries import entrywise
from cutaway.attribution.differences.multipliers import slack, summed_to, told_apart, winners
from cutaway.attribution.differences.pair import Both, Pair, baseline_of, explained, given, plain, run_both
from cutaway.core.operations import Call

_PICKS = {"kthvalue", "median", "sort", "topk"}


def winner_rule(pair: Pair) -> Both | None:
    """How the change of such an operation is explained; None if there is no exact way."""
    call, name = pair.call, pair.call.name
    second = given(call, 1, "other")
    if name in ("maximum", "minimum", "fmax", "fmin") or (name in ("max", "min") and isinstance(second, Tensor)):
        if len(pair.movers) == 1:
            return lambda pair: entrywise(pair, pair.movers[0], "clamp")
        return _larger
    if "max_pool" in name and not name.startswith("fractional") and hasattr(F, _indexed(name)):
        return _pooled
    if name in ("amax", "amin") or (name in ("max", "min") and isinstance(given(call, 1, "dim"), int)):
        return _along
    if name in _PICKS:
        picks = [leaf for leaf in tree_leaves(plain(pair)) if isinstance(leaf, Tensor) and not leaf.is_floating_point()]
        return plain if len(picks) == 2 and torch.equal(*picks) else None
    return None


def _indexed(name: str) -> str:
    return name if name.endswith("_with_indices") else f"{name}_with_indices"


def _pooled(pair: Pair) -> tuple[Any, Any]:
    """Maxima over windows."""
    call = pair.call
    longest = 2 if call.name.startswith("adaptive") else 6  # what comes after says whether to return the indices
    pool = getattr(F, _indexed(call.name))
    more = {k: v for k, v in call.kwargs.items() if k not in ("return_indices", "input")}
    (x,) = pair.movers
    b = baseline_of(x)
    assert b is not None
    with torch.no_grad():
        (y, found), (y0, found0) = (pool(t, *call.args[1:longest], **more) for t in (x, b))
        axes = 1 if "1d" in call.name else 2 if "2d" in call.name else 3
        first, other = in_windows(x.detach(), b, y, y0, windows_of(call, x.shape[-axes:], y.shape[-axes:]))
    flat = [t.detach().flatten(-axes) for t in (x, b, y, y0, first, other)]
    at, m = winners(*flat)

    def back(g: Tensor) -> list[Tensor]:
        return [torch.zeros_like(flat[0]).scatter_add_(-1, at, g.flatten(-axes) * m).view_as(x)]

    result, base = explained(pair, y, y0, back)
    asked = call.name.endswith("_with_indices") or call.argument("return_indices", False) is True
    return ((result, found), (base, found0)) if asked else (result, base)


def windows_of(call: Call, sizes: Sequence[int], counts: Sequence[int]) -> list[Tensor]:
    """For each axis that is pooled, the positions that each window sees, (windows, width); -1 beyond the border.

    Args:
        call: The pooling.
        sizes: Of what is pooled.
        counts: Of the result.
    """
    axes, found = len(sizes), []
    if call.name.startswith("adaptive"):
        for size, count in zip(sizes, counts, strict=True):
            starts = torch.arange(count) * size // count
            ends = -(-(torch.arange(count) + 1) * size // count)
            at = starts[:, None] + torch.arange(int((ends - starts).max()))
            found.append(at.masked_fill(at >= ends[:, None], -1))
        return found
    names = ("kernel_size", "stride", "padding", "dilation")
    options = [_each(given(call, place, name, None), axes) for place, name in enumerate(names, start=1)]
    kernels, strides, paddings, dilations = options
    for axis, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        kernel, stride = kernels[axis] or 1, strides[axis] or kernels[axis] or 1
        starts = torch.arange(count) * stride - (paddings[axis] or 0)
        at = starts[:, None] + torch.arange(kernel) * (dilations[axis] or 1)
        found.append(at.masked_fill((at < 0) | (at >= size), -1))
    return found


def _each(option: Any, axes: int) -> list[int | None]:
    """An option of a pooling for each axis; None where it was not given."""
    if option is None or option == []:
        return [None] * axes
    given = list(option) if isinstance(option, Sequence) else [option]
    return given * axes if len(given) == 1 else given


def in_windows(x: Tensor, b: Tensor, y: Tensor, y0: Tensor, windows: Sequence[Tensor]) -> list[Tensor]:
    """Where the largest entry of each window is, at the input and at the baseline: its position among all entries."""
    axes = len(windows)
    sizes, gap, gap_b = x.shape[-axes:], slack(x, axes), slack(b, axes)
    places = _places(windows, sizes).to(x.device)

    def seen(t: Tensor) -> Tensor:
        """Entries by place in the window, (places, ..., windows)."""
        entries = F.pad(t.flatten(-axes), (0, 1), value=-torch.inf)  # what lies beyond the border
        return entries[..., places.flatten()].unflatten(-1, places.shape).movedim(-1 - axes, 0)

    here, there = seen(x), seen(b)
    found = told_apart(here, there, y, gap, gap_b), told_apart(there, here, y0, gap_b, gap)
    every = places.view(len(places), *[1] * (x.ndim - axes), *places.shape[1:]).expand_as(here)
    return [every.gather(0, which[None])[0].clamp(max=math.prod(sizes) - 1) for which in found]


def _places(windows: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """The positions that all windows see, counted along all axes, (places, ..., windows).

    Their number, which is one more than the last of them, stands for what lies beyond the border.
    """
    axes = len(windows)
    total, inside = torch.zeros([1] * 2 * axes, dtype=torch.long), torch.ones([1] * 2 * axes, dtype=torch.bool)
    for axis, (at, size) in enumerate(zip(windows, sizes, strict=True)):
        shape = [1] * 2 * axes
        shape[axis], shape[axes + axis] = at.shape[1], at.shape[0]
        along = at.T.reshape(shape)
        total, inside = total * size + along.clamp(min=0), inside & (along >= 0)
    return torch.where(inside, total, math.prod(sizes)).flatten(0, axes - 1)


def _along(pair: Pair) -> tuple[Any, Any]:
    """The largest or smallest along some axes."""
    call, (x,) = pair.call, pair.movers
    b = baseline_of(x)
    assert b is not None
    with torch.no_grad():
        found, found0 = (one.func(*one.args, **one.kwargs) for one in (pair.call, pair.base))
    y, y0 = (f if isinstance(f, Tensor) else f.values for f in (found, found0))
    dims = given(call, 1, "dim", ())
    dims = [d % x.ndim for d in ([dims] if isinstance(dims, int) else dims)] or list(range(x.ndim))
    others = [d for d in range(x.ndim) if d not in dims]
    now, then = (t.detach().permute(*others, *dims).flatten(len(others)) for t in (x, b))
    shape = (*(x.shape[d] for d in others), 1)
    lowest = call.name.endswith("min")
    at, m = _winners(now, then, y.reshape(shape), y0.reshape(shape), lowest=lowest)

    def back(g: Tensor) -> list[Tensor]:
        flat = torch.zeros_like(now).scatter_(-1, at, g.reshape(shape) * m)
        whole = flat.view(*(x.shape[d] for d in (*others, *dims)))
        order = [*others, *dims]
        return [whole.permute(*(order.index(d) for d in range(x.ndim)))]

    result, base = explained(pair, y, y0, back)
    if isinstance(found, Tensor):
        return result, base
    return type(found)((result, found.indices)), type(found0)((base, found0.indices))


def _larger(pair: Pair) -> tuple[Any, Any]:
    """The larger or smaller of two tensors, entry by entry."""
    y, y0 = run_both(pair)
    a, b = pair.movers
    both, both0 = (
        torch.stack(torch.broadcast_tensors(*ts), -1) for ts in ((a.detach(), b.detach()), map(baseline_of, (a, b)))
    )
    at, m = _winners(both, both0, y[..., None], y0[..., None], lowest=pair.call.name in ("minimum", "fmin", "min"))

    def back(g: Tensor) -> list[Tensor]:
        share = g * m[..., 0]
        chosen = at[..., 0] == 0
        return [summed_to(torch.where(is_it, share, 0.0), t) for t, is_it in ((a, chosen), (b, ~chosen))]

    return explained(pair, y, y0, back)


def _winners(x: Tensor, b: Tensor, y: Tensor, y0: Tensor, *, lowest: bool) -> tuple[Tensor, Tensor]:
    """Who answers for the change of the one maximum or minimum along the last axis, and its multiplier, (..., 1)."""
    sign = -1 if lowest else 1
    here, there, up, up0 = sign * x.movedim(-1, 0), sign * b.movedim(-1, 0), sign * y[..., 0], sign * y0[..., 0]
    gap, gap_b = slack(x, 1)[..., 0], slack(b, 1)[..., 0]
    first = told_apart(here, there, up, gap, gap_b)[..., None]
    other = told_apart(there, here, up0, gap_b, gap)[..., None]
    return winners(x, b, y, y0, first, other, lowest=lowest)
