"""Rules of what is linear in a signal, of sums, and of products: part and rest after an operation."""

from typing import Any

import torch
from torch import Tensor

from cutaway.core.decomposed.compute import is_number, nothing, run, together, value_of, with_constant
from cutaway.core.decomposed.tensor import Book, Decomposed
from cutaway.core.operations import Call


def joined(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Entries moved, repeated, dropped or put side by side; what is constant among them belongs to the rest."""
    part = run(call, [d.part for d in found], nothing)
    return together(book, part, run(call, [d.rest for d in found]), value_of(call, found))


def linear(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """A linear operation on one signal."""
    if len(found) != 1:
        return NotImplemented
    return together(book, run(call, [found[0].part]), run(call, [found[0].rest]), value_of(call, found))


def filled(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Some entries exchanged for a constant, or for another signal: `where`, `masked_fill`, padding."""
    args = tuple(0 if is_number(a) else a for a in call.args)
    kwargs = {name: 0 if name in ("value", "other", "input") and is_number(v) else v for name, v in call.kwargs.items()}
    part = run(Call(call.name, call.site, call.func, args, kwargs), [d.part for d in found], nothing)
    return Decomposed(part, run(call, [d.rest for d in found]), value_of(call, found), book)


def assigned(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Entries written from outside: x[index] = value."""
    x, index, value = call.args
    if not isinstance(x, Decomposed):
        return NotImplemented
    part, rest, whole = x.part.clone(), x.rest.clone(), x.whole.clone()
    is_split = isinstance(value, Decomposed)
    part[index] = value.part if is_split else 0.0
    rest[index] = value.rest if is_split else value
    whole[index] = value.whole if is_split else value
    x.write(Decomposed(part, rest, whole, book))
    return None


def unless_training(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Dropout that drops nothing."""
    training = call.argument("training", call.argument("train", True))
    return joined(call, book, found) if training is False or call.argument("p") == 0 else NotImplemented


def summed(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """The sum or difference of two signals, or of a signal and a constant."""
    if len(found) == 2:
        return joined(call, book, found)

    def none(value: Any) -> Any:
        return value * 0 if isinstance(value, Tensor) else 0

    args = tuple(a if isinstance(a, Decomposed) else none(a) for a in call.args[:2]) + call.args[2:]
    kwargs = {
        k: v if isinstance(v, Decomposed) or k not in ("other", "input") else none(v) for k, v in call.kwargs.items()
    }
    alone = Call(call.name, call.site, call.func, args, kwargs)
    (x,) = found
    constant = run(call, [torch.zeros_like(x.row())])
    return with_constant(book, run(alone, [x.part]), run(alone, [x.rest]), value_of(call, found), constant)


def product(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """A product: linear in one signal; of two signals, what involves the rest of either belongs to the rest."""
    if len(found) == 1:
        return linear(call, book, found)
    if len(found) != 2:
        return NotImplemented
    a, b = found
    part = run(call, [a.part, b.part])
    rest = run(call, [a.part + a.rest, b.rest]) + run(call, [a.rest, b.part])
    return Decomposed(part, rest, value_of(call, found), book)


def quotient(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """A signal divided by a constant."""
    return linear(call, book, found) if call.args and call.args[0] is found[0] else NotImplemented


def weighted(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """A convolution or matrix product with a bias."""
    given = dict(zip(("input", "weight", "bias"), call.args, strict=False)) | dict(call.kwargs)
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    if len(found) != 1 or x is not found[0]:
        return NotImplemented
    args, kwargs = (*call.args[:2], None, *call.args[3:])[: len(call.args)], {**call.kwargs}
    kwargs.pop("bias", None)
    alone = Call(call.name, call.site, call.func, args, kwargs)
    part, rest, whole = run(alone, [x.part]), run(alone, [x.rest]), value_of(call, found)
    if bias is None:
        return Decomposed(part, rest, whole, book)
    positions = 0 if call.name == "linear" else weight.ndim - 2
    return with_constant(book, part, rest, whole, bias.view(-1, *[1] * positions))


def added_product(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """The matrix product of a signal with weights, added to a bias: addmm(bias, x, weight)."""
    if len(found) != 1 or len(call.args) != 3 or call.kwargs or call.args[1] is not found[0]:
        return NotImplemented
    bias, x, weight = call.args
    return with_constant(book, x.part @ weight, x.rest @ weight, run(call, [x.whole]), bias)
