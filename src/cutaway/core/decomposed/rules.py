"""How each operation treats the two parts of a decomposed activation; see `core.decomposed.tensor`.

Linear operations treat both alike, and a bias is shared between them or left to the rest. A curve gives the part the
mean of its effect alone and its effect beside the rest; a rectifier, on request, its effect alone. Of a product of two
signals, part times part is the part's. What the network decides on the whole (which entry is the largest, how one
compares with another, how attention weighs, what a normalisation divides by) is taken as it is.
"""

from collections.abc import Callable
from typing import Any

import torch

from cutaway.core.decomposed.choices import decided, extreme, largest, pooled
from cutaway.core.decomposed.curves import curve, power, rectifier
from cutaway.core.decomposed.linear import (
    added_product,
    assigned,
    filled,
    joined,
    linear,
    product,
    quotient,
    summed,
    unless_training,
    weighted,
)
from cutaway.core.decomposed.norms import batch_norm, group_norm, layer_norm
from cutaway.core.decomposed.recurrent import lstm, lstm_cell
from cutaway.core.decomposed.tensor import Book, Decomposed, decomposed
from cutaway.core.errors import NotPossible
from cutaway.core.operations import Call
from cutaway.core.rules import Kind, kind_of, where
from cutaway.core.unrolled import UNROLLED

Rule = Callable[[Call, Book, list[Decomposed]], Any]


def answer(call: Call, book: Book) -> Any:
    """The result of an operation on decomposed tensors.

    Raises:
        NotPossible: There is no rule for it.
    """
    if call.name in _COMPOSED:  # made of elementary operations, which come here in their turn
        return _COMPOSED[call.name](*call.args, **call.kwargs)
    rule = _RULES.get(call.name, _BY_KIND.get(kind_of(call.name)))
    with torch._C.DisableTorchFunctionSubclass():
        result = rule(call, book, list(decomposed((call.args, call.kwargs)))) if rule is not None else NotImplemented
        if isinstance(result, Decomposed) and rule is not joined:
            book.compare(result, call)
        if call.in_place and result is not NotImplemented:
            first = call.args[0]
            result = first.write(result) if isinstance(first, Decomposed) else NotImplemented
    if result is NotImplemented:
        raise NotPossible(
            f"no rule to decompose {where(call)}{', which works in place' if call.in_place else ''}. What works on any "
            "network: methods that only run it, such as occlusion."
        )
    return result


def refused(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """An operation that its kind would let through."""
    return NotImplemented


def _table(rules: dict[str, Rule]) -> dict[str, Rule]:
    return {name: rule for names, rule in rules.items() for name in names.split()}


_BY_KIND: dict[Kind, Rule] = {"structural": joined, "sum": joined, "activation": curve}
_RULES = _table(
    {
        "mt detach": joined,
        "grid_sample": linear,
        "where masked_fill pad": filled,
        "setitem": assigned,
        "dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout feature_alpha_dropout": unless_training,
        "add sub rsub": summed,
        "mul matmul einsum dot mv outer inner tensordot": product,
        "div divide true_divide": quotient,
        "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": weighted,
        "addmm": added_product,
        "relu relu6 hardtanh leaky_relu prelu threshold clamp clamp_max maximum minimum fmax fmin": rectifier,
        "hardshrink softshrink": rectifier,
        "pow": power,
        "max min topk sort": largest,
        "amax amin": extreme,
        "max_pool1d max_pool2d max_pool3d": pooled,
        "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d": pooled,
        "batch_norm": batch_norm,
        "layer_norm": layer_norm,
        "group_norm": group_norm,
        "softmax gt ge lt le eq ne greater greater_equal less less_equal isnan isinf isfinite": decided,
        "argmax argmin argsort zeros_like ones_like empty_like full_like new_zeros new_ones new_full": decided,
        "new_empty new_tensor": decided,
        "index_reduce segment_reduce masked_select rrelu index_fill scatter masked_scatter index_put": refused,
        "sqrt log1p acos arccos asin arcsin acosh arccosh atanh arctanh erfinv logit": refused,
    }
)
_COMPOSED: dict[str, Callable[..., Any]] = {**UNROLLED, "lstm": lstm, "lstm_cell": lstm_cell}
