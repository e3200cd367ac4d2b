"""Rules of decisions, which are taken on the whole: what is largest, what is compared, how attention weighs."""

from typing import Any

import torch
from torch import Tensor

from cutaway.core.decomposed.compute import is_number, run
from cutaway.core.decomposed.curves import rectifier
from cutaway.core.decomposed.tensor import Book, Decomposed
from cutaway.core.operations import Call


def largest(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """The largest or smallest along an axis, or a sorted axis: places chosen on the whole."""
    if len(found) == 2 or (call.name in ("max", "min") and any(isinstance(a, Tensor) for a in call.args[1:])):
        return rectifier(call, book, found)
    (x,) = found
    whole = run(call, [x.whole])
    if isinstance(whole, Tensor):
        flat = torch.argmax if call.name == "max" else torch.argmin
        at = flat(x.whole)
        return Decomposed(x.part.flatten()[at], x.rest.flatten()[at], whole, book)
    values, at = whole
    dim = call.argument("dim", None)
    dim = dim if dim is not None else next((a for a in call.args[1:] if is_number(a)), -1)
    if call.name == "topk":
        dim = call.args[2] if len(call.args) > 2 else call.kwargs.get("dim", -1)
    picked = at if at.ndim == x.ndim else at.unsqueeze(dim)
    part, rest = (t.gather(dim, picked) for t in (x.part, x.rest))
    return type(whole)([Decomposed(part.view_as(values), rest.view_as(values), values, book), at])


def extreme(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Amax and amin: the first entry that has the extreme value of the whole."""
    (x,) = found
    whole = run(call, [x.whole])
    dims = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", ())
    axes = [a % x.ndim for a in ((dims,) if isinstance(dims, int) else dims)] or list(range(x.ndim))

    def last(t: Tensor) -> Tensor:
        return t.movedim(axes, list(range(-len(axes), 0))).flatten(-len(axes))

    at = (last(x.whole).argmax(-1) if call.name == "amax" else last(x.whole).argmin(-1))[..., None]
    part, rest = (last(t).gather(-1, at).reshape(whole.shape) for t in (x.part, x.rest))
    return Decomposed(part, rest, whole, book)


def pooled(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Max pooling: places chosen on the whole."""
    (x,) = found
    if call.argument("return_indices", False):
        return NotImplemented
    kwargs = {**call.kwargs, "return_indices": True}
    whole, at = _value_and_places(Call(call.name, call.site, call.func, call.args, kwargs), x)
    positions = int(call.name.rstrip("d")[-1])
    part, rest = (
        t.flatten(-positions).gather(-1, at.flatten(-positions).expand(*t.shape[:-positions], -1)).view(whole.shape)
        for t in (x.part, x.rest)
    )
    return Decomposed(part, rest, whole, book)


def _value_and_places(call: Call, x: Decomposed) -> tuple[Tensor, Tensor]:
    whole, at = run(call, [x.row()])
    return whole.expand(x.shape[0], *whole.shape[1:]), at


def decided(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """A decision on the whole, or a new tensor of the same shape: not decomposed."""
    return run(call, [d.whole for d in found])
