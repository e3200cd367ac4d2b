"""Running operations so that autograd's signal keeps its meaning: relevance for each unit, or relevance itself."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from cutaway.attribution.relevance.ledger import Ledger
from cutaway.attribution.relevance.tensors import UNKNOWN, Keeper, Kept, Known, exchanged, known, note
from cutaway.attribution.relevance.weights import denominator, total
from cutaway.core.operations import Call
from cutaway.core.rules import with_backward


class Carrier:
    """Runs operations.

    The signal is c = R / x, relevance for each unit of a tensor. In that form moves, sums, averages, maxima and ReLUs
    are right with their own gradient, and nothing is divided. Before the first operation that mixes entries, it is
    relevance itself, since there an entry that is 0 may have some.

    Attributes:
        ledger: Where relevance that is taken or lost is written down.
        whole: The signal is relevance itself everywhere.
        arrived: Relevance reached an operation that mixes entries of the place of attribution.
    """

    def __init__(self, ledger: Ledger, *, whole: bool = False) -> None:
        self.ledger = ledger
        self.whole = whole
        self.arrived = False
        self.keeper = Keeper()

    def is_whole(self, x: Tensor) -> bool:
        """Is the signal at x relevance itself?"""
        return self.whole or known(x).first

    def per_unit(self, x: Tensor) -> Tensor:
        """A copy of x at which the signal is relevance for each unit; x itself where it is that already."""
        if not self.is_whole(x):
            return x
        kept = self.keeper.keep(x)

        def back(signal: Tensor) -> tuple[Tensor]:
            self.arrived = True
            return (signal * kept.value,)

        return with_backward(lambda: x.detach().clone(), back, x)

    def own_slope(
        self, call: Call, flows: list[Tensor], after: Known = UNKNOWN, *, fills: bool = False, share: float = 1.0
    ) -> Any:
        """Run an operation whose own gradient hands down relevance for each unit.

        Args:
            after: What is known of the result.
            fills: Constants enter the result, and take relevance.
            share: What part of its slope each signal gets.
        """
        constant = _constant_part(call, flows) if fills else None
        result = self._run(exchanged(call, [(t, self.per_unit(t)) for t in {id(t): t for t in flows}.values()]), call)
        for k, tensor in enumerate(_tensors(result)):
            self.as_whole(call, tensor)
            if share != 1:
                tensor.register_hook(lambda signal: signal * share)
            if constant is not None and (part := constant[k]) is not None:
                self.pay(call, tensor, part)
            note(tensor, after)
        return result

    def moves(self, call: Call, flows: list[Tensor], after: Known, *, fills: bool = False) -> Any:
        """Run an operation that only moves entries, with whatever signal they have."""
        if not all(self.is_whole(t) for t in flows):
            return self.own_slope(call, flows, after, fills=fills)
        constant = _constant_part(call, flows) if fills else None
        result = self._run(call, call)
        for k, tensor in enumerate(_tensors(result)):
            if constant is not None and (part := constant[k]) is not None:
                self.pay(call, tensor, part != 0)
            note(tensor, after)
        return result

    def hands_on(self, call: Call, x: Tensor, after: Known) -> Any:
        """Run an operation under which each entry hands its relevance to the entry it was made from."""
        if self.is_whole(x):
            result = with_backward(call.run, lambda signal: (signal.sum_to_size(x.shape),), x)
            return self._delivered(call, result, after)
        before = self.keeper.keep(x)
        outcome: list[Kept] = []

        def back(signal: Tensor) -> tuple[Tensor]:
            relevance = signal * outcome[0].value
            self._write_stuck(call, relevance, before.value)
            return (relevance / denominator(before.value, 0.0),)

        result = with_backward(call.run, back, x)
        outcome.append(self.keeper.keep(result))
        return self._delivered(call, result, after)

    def _run(self, call: Call, asked: Call) -> Any:
        """Run a call; where it works in place, its result ends up in what was asked for."""
        writes = asked.in_place or asked.name == "setitem"
        if writes:
            self.keeper.will_be_overwritten(asked.args[0])
        result = call.func(*call.args, **call.kwargs)
        if not writes:
            return result
        into, made = asked.args[0], call.args[0]
        return into if made is into else into.copy_(made)

    def _delivered(self, call: Call, result: Tensor, after: Known) -> Tensor:
        if call.in_place:
            self.keeper.will_be_overwritten(call.args[0])
        result = call.deliver(result)
        note(result, after)
        return result

    def as_whole(self, call: Call, tensor: Tensor) -> None:
        """Take relevance itself from what comes after a result, where that is what the run carries."""
        if not self.whole:
            return
        kept = self.keeper.keep(tensor)

        def hook(signal: Tensor) -> Tensor:
            self._write_stuck(call, signal, kept.value)
            return signal / denominator(kept.value, 0.0)

        tensor.register_hook(hook)

    def _write_stuck(self, call: Call, relevance: Tensor, value: Tensor) -> None:
        """Relevance of an entry that is 0 cannot be shared out in proportion to what made it."""
        empty = value == 0
        if bool(empty.any()) and (stuck := total(relevance * empty)):
            self.ledger.write(call, lost=stuck)

    def pay(self, call: Call, tensor: Tensor, constant: Tensor) -> None:
        """Write down what constants take at a result."""

        def hook(signal: Tensor) -> None:
            taken = torch.where(signal == 0, 0.0, signal * constant)  # a masked score of -inf gets no signal
            self.ledger.write(call, biases=total(taken))

        tensor.register_hook(hook)


def _tensors(result: Any) -> list[Tensor]:
    return [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.requires_grad]


def _constant_part(call: Call, flows: list[Tensor]) -> list[Tensor | None]:
    """What an operation makes of signals that are 0, for each result; None where that is nothing."""
    flowing = {id(t) for t in flows}

    def empty(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return torch.zeros_like(value) if id(value) in flowing else value.clone()

    with torch.no_grad():
        args, kwargs = tree_map(empty, (call.args, dict(call.kwargs)))
        result = call.func(*args, **kwargs)
        result = args[0] if call.name == "setitem" else result
        parts = [t for t in tree_leaves(result) if isinstance(t, Tensor) and t.is_floating_point()]
        return [part if bool(part.any()) else None for part in parts]
