"""How a rule computes: the operation with other values in place of its decomposed tensors."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from cutaway.core.decomposed.tensor import Book, Decomposed, exchanged
from cutaway.core.operations import Call

# Each row of the result comes from the same row of the signal, whatever else is given.
_ROW_BY_ROW = frozenset(
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm layer_norm group_norm "
    "relu relu6 hardtanh leaky_relu threshold clamp sigmoid tanh gelu silu mish elu selu celu softplus softsign "
    "hardswish hardsigmoid neg avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d interpolate pad dropout clone contiguous detach to float double".split()
)
# The same, unless what else is given has more axes.
_BROADCASTING = frozenset("add sub rsub mul div maximum minimum".split())


def run(call: Call, values: Iterable[Tensor], plain: Callable[[Any], Any] = lambda value: value) -> Any:
    """The operation with other values for its decomposed tensors, in their order, and never written over them."""
    following = iter(values)

    def change(t: Any) -> Any:
        return next(following) if isinstance(t, Decomposed) else plain(t)

    func, args, kwargs = call.func, exchanged(call.args, change), exchanged(call.kwargs, change)
    if call.in_place:
        func, args, kwargs = _out_of_place(call, args, kwargs)
    try:
        return func(*args, **kwargs)
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
        return func(*exchanged(args, Tensor.contiguous), **exchanged(kwargs, Tensor.contiguous))


def _out_of_place(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same operation with its result in memory of its own."""
    if kwargs.get("inplace"):
        return call.func, args, {**kwargs, "inplace": False}
    other = getattr(Tensor, call.func.__name__.removesuffix("_"), None)
    if call.func.__name__.startswith("__") or other is None:
        return call.func, (args[0].clone(), *args[1:]), kwargs
    return other, args, kwargs


def value_of(call: Call, found: Sequence[Decomposed]) -> Any:
    """What the network computes; once, if the rows are held once and the operation keeps them apart."""
    plain = [t for t in _tensors((call.args, call.kwargs)) if not isinstance(t, Decomposed)]
    once = all(d.is_held_once and d.ndim == found[0].ndim for d in found) and (
        call.name in _ROW_BY_ROW or (call.name in _BROADCASTING and all(t.ndim <= found[0].ndim for t in plain))
    )
    if not once:
        return run(call, [d.whole for d in found])
    result = run(call, [d.row() for d in found])
    if len(result) != 1:  # padding along the first axis
        return run(call, [d.whole for d in found])
    return result.expand(found[0].shape[0], *result.shape[1:])


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [t for item in items for t in _tensors(item)]


def together(book: Book, part: Any, rest: Any, whole: Any) -> Any:
    """Results side by side as decomposed tensors; whole tuples of them where the operation gives several."""
    if isinstance(part, Tensor):
        return Decomposed(part, rest, whole, book) if part.is_floating_point() else whole
    made = [together(book, *parts) for parts in zip(part, rest, whole, strict=True)]
    return type(part)(made) if isinstance(part, tuple | list) else made


def with_constant(book: Book, part: Tensor, rest: Tensor, whole: Tensor, constant: Tensor) -> Decomposed:
    """The parts with a bias added: shared in proportion to their sizes, or left to the rest."""
    if not book.how.shares_bias or not constant.isfinite().all():  # a mask of -inf is nobody's signal
        return Decomposed(part, rest + constant, whole, book)
    share = part.abs()
    share = share.div_(rest.abs().add_(share)).nan_to_num_(nan=0.0)  # 0 / 0: where there is no signal, the rest's
    return Decomposed(
        torch.addcmul(part, share, constant), torch.addcmul(rest, share.neg_().add_(1), constant), whole, book
    )


def at_zero(call: Call, x: Decomposed) -> Tensor:
    """What a curve gives for 0; one number, where it is the same for all entries."""
    alone = len(_tensors((call.args, call.kwargs))) == 1
    return torch.as_tensor(run(call, [x.part.new_zeros(()) if alone else torch.zeros_like(x.row())]))


def nothing(t: Tensor) -> Tensor:
    """Nothing in place of a constant."""
    return torch.zeros_like(t) if t.is_floating_point() else t


def is_number(value: object) -> bool:
    """True for a number, not for a switch."""
    return isinstance(value, int | float) and not isinstance(value, bool)
