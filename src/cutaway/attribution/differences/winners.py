"""How changes pass through what picks entries by their size: pooling, maxima, sorting."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cutaway.attribution.differences.entries import entrywise
from cutaway.attribution.differences.multipliers import summed_to, told_apart, winners
from cutaway.attribution.differences.pair import Both, Pair, baseline_of, explained, given, plain, run_both

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
        apart = told_apart(x.flatten(-axes), b.flatten(-axes))
        first, other = (pool(t.view(x.shape), *call.args[1:longest], **more)[1] for t in apart)
    flat = [t.detach().flatten(-axes) for t in (x, b, y, y0, first, other)]
    at, m = winners(*flat)

    def back(g: Tensor) -> list[Tensor]:
        return [torch.zeros_like(flat[0]).scatter_add_(-1, at, g.flatten(-axes) * m).view_as(x)]

    result, base = explained(pair, y, y0, back)
    asked = call.name.endswith("_with_indices") or call.argument("return_indices", False) is True
    return ((result, found), (base, found0)) if asked else (result, base)


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
    first, other = ((t.argmin if lowest else t.argmax)(-1, keepdim=True) for t in told_apart(now, then))
    at, m = winners(now, then, y.reshape(shape), y0.reshape(shape), first, other, lowest=lowest)

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
    lowest = pair.call.name in ("minimum", "fmin", "min")
    first, other = ((t.argmin if lowest else t.argmax)(-1, keepdim=True) for t in told_apart(both, both0))
    at, m = winners(both, both0, y[..., None], y0[..., None], first, other, lowest=lowest)

    def back(g: Tensor) -> list[Tensor]:
        share = g * m[..., 0]
        chosen = at[..., 0] == 0
        return [summed_to(torch.where(is_it, share, 0.0), t) for t, is_it in ((a, chosen), (b, ~chosen))]

    return explained(pair, y, y0, back)
