"""How an LSTM treats the two parts of a decomposed signal, as published for it.

A gate is the sum of three: what the part adds, what the rest adds, and what its bias alone gives. Of the products that
follow, those that involve the rest belong to the rest; bias times bias belongs to whoever is read at that step. The
output gate is taken as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.decomposed.tensor import Book, Decomposed, decomposed
from cutaway.core.operations import Call
from cutaway.core.unrolled import recurrent


def lstm(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """`torch.lstm` on a decomposed input, padded or packed."""
    at = 2 if isinstance(args[3], bool) else 3  # of packed sequences, the second argument is the sizes
    params, layers, both = args[at], args[at + 2], args[at + 5]
    each = len(params) // (layers * (2 if both else 1))
    weights, biases = _without_biases(params, each) if args[at + 1] else (params, {})
    book = next(decomposed(args)).book
    found: tuple[Tensor, ...] = recurrent(_step(biases, book))(*args[:at], weights, False, *args[at + 2 :], **kwargs)
    return found


def lstm_cell(
    input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, ...]:
    """`torch.lstm_cell` on a decomposed input or state."""
    book = next(decomposed((input, hx))).book
    biases = {} if b_ih is None or b_hh is None else {id(w_hh): b_ih + b_hh}
    return _step(biases, book)(F.linear(input, w_ih), tuple(hx), w_hh, None)


def _without_biases(params: Sequence[Tensor], each: int) -> tuple[list[Tensor], dict[int, Tensor]]:
    """The weights alone, and the sum of the two biases by the recurrent weight that they stand beside."""
    weights, biases = [], {}
    for start in range(0, len(params), each):
        into, recurrent, first, second, *project = params[start : start + each]
        weights += [into, recurrent, *project]
        biases[id(recurrent)] = first + second
    return weights, biases


def _step(biases: Mapping[int, Tensor], book: Book) -> Callable[..., tuple[Tensor, ...]]:
    """One step of an LSTM whose biases are kept apart from the input's share of its gates."""

    def step(
        x: Tensor, state: tuple[Tensor, ...], weight: Tensor, none: None, project: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        hidden, cell = state
        with torch._C.DisableTorchFunctionSubclass():
            bias = biases.get(id(weight), weight.new_zeros(len(weight)))
            x, hidden, cell = (_lifted(t, book) for t in (x, hidden, cell))
            found = _next(x, hidden, cell, weight, bias)
            book.compare(found[0], Call("lstm", book.places.now, torch.lstm, (), {}))
        return (found[0] if project is None else F.linear(found[0], project)), found[1]

    return step


def _lifted(t: Tensor, book: Book) -> Decomposed:
    """A constant, which is the rest's."""
    return t if isinstance(t, Decomposed) else Decomposed(torch.zeros_like(t), t, t, book)


def _next(
    x: Decomposed, hidden: Decomposed, cell: Decomposed, weight: Tensor, bias: Tensor
) -> tuple[Decomposed, Decomposed]:
    """The next hidden state and cell."""
    parts = (x.part + hidden.part @ weight.T).chunk(4, -1)
    rests = (x.rest + hidden.rest @ weight.T).chunk(4, -1)
    enter, forget, new, leave = (
        _three(curve, *given) for curve, *given in zip(_CURVES, parts, rests, bias.chunk(4), strict=True)
    )
    both, reader = enter.bias * new.bias, _reader(x)
    part = enter.part * (new.part + new.bias) + enter.bias * new.part + reader * both
    part = part + (forget.part + forget.bias) * cell.part
    rest = enter.rest * new.total + (enter.part + enter.bias) * new.rest + (1 - reader) * both
    rest = rest + forget.total * cell.rest + forget.rest * cell.part

    i, f, g, o = (x.whole + hidden.whole @ weight.T + bias).chunk(4, -1)
    whole = torch.sigmoid(f) * cell.whole + torch.sigmoid(i) * torch.tanh(g)
    shown = _three(torch.tanh, part, rest, bias.new_zeros(()))
    out = Decomposed(leave.total * shown.part, leave.total * shown.rest, torch.sigmoid(o) * torch.tanh(whole), x.book)
    return out, Decomposed(part, rest, whole, x.book)


class _Three(NamedTuple):
    """What a curve makes of a sum of three."""

    part: Tensor
    rest: Tensor
    bias: Tensor

    @property
    def total(self) -> Tensor:
        return self.part + self.rest + self.bias


_CURVES = (torch.sigmoid, torch.sigmoid, torch.tanh, torch.sigmoid)


def _three(curve: Callable[[Tensor], Tensor], part: Tensor, rest: Tensor, bias: Tensor) -> _Three:
    """The effect of the part and of the rest beside the bias, each the mean of both orders; and the bias alone."""
    start, first, second = curve(bias), curve(part + bias), curve(rest + bias)
    end = curve(part + rest + bias)
    return _Three((first - start + end - second) / 2, (second - start + end - first) / 2, start)


def _reader(x: Decomposed) -> Tensor:
    """Who is read at this step: 1 for the part, 0 for the rest, in between where the input has both."""
    part, rest = (t.abs().sum(-1, keepdim=True) for t in (x.part, x.rest))
    return torch.where(part + rest > 0, part / (part + rest), torch.zeros_like(part))
