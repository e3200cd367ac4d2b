"""Rules of normalisations: a factor and a bias, the factor that of the whole."""

from typing import Any

from torch import Tensor

from cutaway.core.decomposed.compute import value_of, with_constant
from cutaway.core.decomposed.tensor import Book, Decomposed
from cutaway.core.operations import Call


def batch_norm(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Batch normalisation with its running statistics: a factor and a bias for each channel."""
    mean, var, weight, bias = (call.argument(n) for n in ("running_mean", "running_var", "weight", "bias"))
    if call.argument("training") is not False or not isinstance(mean, Tensor) or not isinstance(var, Tensor):
        return NotImplemented
    (x,) = found
    factor = (var + call.argument("eps", 1e-5)).rsqrt()
    factor = factor if weight is None else factor * weight
    shift = -mean * factor if bias is None else bias - mean * factor
    view = (-1, *[1] * (x.ndim - 2))
    factor = factor.view(view)
    return with_constant(book, x.part * factor, x.rest * factor, value_of(call, found), shift.view(view))


def layer_norm(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Normalisation over the last axes, with the whole's deviation."""
    (x,) = found
    axes = list(range(-len(call.argument("normalized_shape")), 0))
    deviation = (x.row().var(axes, unbiased=False, keepdim=True) + call.argument("eps", 1e-5)).sqrt()
    weight, bias = call.argument("weight"), call.argument("bias")
    part, rest = ((t - t.mean(axes, keepdim=True)) / deviation for t in (x.part, x.rest))
    return _scaled(book, part, rest, value_of(call, found), weight, bias)


def group_norm(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Normalisation over groups of channels, with the whole's deviation."""
    (x,) = found
    groups, eps = call.argument("num_groups"), call.argument("eps", 1e-5)

    def grouped(t: Tensor) -> Tensor:
        return t.reshape(t.shape[0], groups, -1)

    deviation = (grouped(x.row()).var(2, unbiased=False, keepdim=True) + eps).sqrt()
    centred = (grouped(t) - grouped(t).mean(2, keepdim=True) for t in (x.part, x.rest))
    part, rest = ((t / deviation).view(x.shape) for t in centred)
    view = (-1, *[1] * (x.ndim - 2))
    weight, bias = (None if t is None else t.view(view) for t in (call.argument("weight"), call.argument("bias")))
    return _scaled(book, part, rest, value_of(call, found), weight, bias)


def _scaled(book: Book, part: Tensor, rest: Tensor, whole: Tensor, weight: Tensor | None, bias: Tensor | None) -> Any:
    """The learned factor and bias after a normalisation."""
    if weight is not None:
        part, rest = part * weight, rest * weight
    return Decomposed(part, rest, whole, book) if bias is None else with_constant(book, part, rest, whole, bias)
