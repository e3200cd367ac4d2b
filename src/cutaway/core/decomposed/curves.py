"""Rules of functions of each entry by itself: rectifiers and other curves."""

from typing import Any

import torch

from cutaway.core.decomposed.compute import at_zero, run, value_of, with_constant
from cutaway.core.decomposed.tensor import Book, Decomposed
from cutaway.core.operations import Call


def rectifier(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """A piecewise linear curve r: like any other; or r(part) - r(0), and r(part + rest) - r(part) for the rest."""
    if len(found) != 1:
        return chosen(call, book, found)
    if book.how.averages:
        return curve(call, book, found)
    (x,) = found
    start = at_zero(call, x)
    alone = run(call, [x.part])
    rest = run(call, [x.part + x.rest]) - alone
    if not start.any():
        return Decomposed(alone, rest, value_of(call, found), book)
    return with_constant(book, alone - start, rest, value_of(call, found), start)


def chosen(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """The larger or smaller of two signals: chosen on the whole."""
    if len(found) != 2:
        return NotImplemented
    a, b = found
    whole = value_of(call, found)
    first = whole == a.whole
    return Decomposed(torch.where(first, a.part, b.part), torch.where(first, a.rest, b.rest), whole, book)


def curve(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """Any other curve f: the mean of f(part) - f(0) and f(part + rest) - f(rest); the same for the rest."""
    if len(found) != 1:
        return NotImplemented
    (x,) = found
    start = at_zero(call, x)
    if not start.isfinite().all():
        return NotImplemented  # a logarithm, or a division
    both = run(call, [x.part + x.rest])
    # In place where memory is our own: on large activations, passes over memory are what this costs.
    part = (both - run(call, [x.rest])).add_(run(call, [x.part])).sub_(start).mul_(0.5)
    rest = both.sub(part).sub_(start)
    if not start.any():
        return Decomposed(part, rest, value_of(call, found), book)
    return with_constant(book, part, rest, value_of(call, found), start)


def power(call: Call, book: Book, found: list[Decomposed]) -> Any:
    """A power with a positive whole exponent, which every number has."""
    exponent = call.args[1] if len(call.args) > 1 else call.kwargs.get("exponent")
    whole = isinstance(exponent, int | float) and exponent > 0 and float(exponent).is_integer()
    return curve(call, book, found) if whole else NotImplemented
