"""LRP on operations: what each operation between the place of attribution and the target does to relevance."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cutaway.attribution.relevance.choice import Choice
from cutaway.attribution.relevance.ledger import Ledger
from cutaway.attribution.relevance.tensors import Known, exchanged, known, note
from cutaway.attribution.relevance.weighing import Weighing
from cutaway.core.operations import Call
from cutaway.core.rules import kind_of, signals, where, with_backward
from cutaway.core.space import Space

# Their own slope is y / x, wherever it exists.
_STRAIGHT = {"relu", "leaky_relu", "prelu", "rrelu", "abs", "absolute"}
_GATES = {"sigmoid", "hardsigmoid", "rsqrt", "reciprocal", "rtruediv", "rdiv", "softmax", "softmin"}
_TWO_SIDED = {"tanh", "erf"}
# Moves that may bring constants in.
_FILLING = {"pad", "constant_pad_nd", "masked_fill", "where", "index_fill", "setitem"}
_MULTIPLYING = {"mul", "matmul", "einsum", "mv", "inner", "tensordot", "rmatmul"}


class Passing(Weighing):
    """Answers each operation of a run.

    Args:
        choice: Which rule for which operation.
        space: Of the model; its normalisation hands relevance on unchanged.
    """

    def __init__(self, choice: Choice, space: Space, ledger: Ledger, *, whole: bool = False) -> None:
        super().__init__(choice, ledger, whole=whole)
        self.space = space
        self._answers: dict[str, Callable[[Call, list[Tensor]], Any]] = {
            "structural": self._moved,
            "linear": self.weights,
            "sum": self._summed,
            "winner": self._picked,
            "product": self._product,
            "activation": self._entrywise,
            "normalisation": self.normalised,
            "softmax": self._softmax,
            "composite": self._composite,
        }

    def __call__(self, call: Call) -> Any:
        """Run one operation."""
        flows = signals(call)
        if not flows:
            return NotImplemented
        match self.choice.plain(call):
            case "pass":
                return self._entrywise(call, flows)
            case "gradient":
                return self.own_slope(call, flows)
            case "hold":
                return exchanged(call, [(t, t.detach()) for t in flows]).run()
        return self._answers.get(kind_of(call.name), self.refused)(call, flows)

    # -- moves, sums, maxima -------------------------------------------------------------------------------------------

    def _moved(self, call: Call, flows: list[Tensor]) -> Any:
        """Entries change places: so does their relevance."""
        facts = [known(t) for t in flows]
        after = Known(
            first=all(f.first for f in facts),
            gate=all(f.gate for f in facts),
            of_constant=all(f.of_constant for f in facts),
            two_sided=all(f.two_sided for f in facts),
        )
        return self.moves(call, flows, after, fills=call.name in _FILLING or _has_constants(call))

    def _picked(self, call: Call, flows: list[Tensor]) -> Any:
        """The winner takes all."""
        return self.moves(call, flows, Known(first=all(known(t).first for t in flows)))

    def _summed(self, call: Call, flows: list[Tensor]) -> Any:
        """Summands share in proportion, which is what their own slopes say; constants take their share."""
        facts = known(flows[0])
        if len(flows) == 1 and facts.first and self._is_normalisation(call):
            return self.hands_on(call, flows[0], Known(first=True))
        constants = [t for t in flows if known(t).of_constant]
        if 0 < len(constants) < len(flows):
            call = exchanged(call, [(t, t.detach()) for t in constants])
            flows = signals(call)
            facts = known(flows[0])
        plus_one = any(not isinstance(v, Tensor) and v == 1 for v in call.args[:2])
        gate = len(flows) == 1 and (facts.gate or (facts.two_sided and plus_one))
        fills = call.name in ("add", "sub", "rsub") and len(flows) == 1
        return self.own_slope(call, flows, Known(gate=gate), fills=fills)

    # -- entry by entry ------------------------------------------------------------------------------------------------

    def _entrywise(self, call: Call, flows: list[Tensor]) -> Any:
        """A function of each entry hands its relevance to that entry."""
        if len(flows) > 1:
            return self.refused(call, flows)
        x = flows[0]
        after = Known(known(x).first, gate=call.name in _GATES, two_sided=call.name in _TWO_SIDED)
        if not self.is_whole(x) and (call.name in _STRAIGHT or _clamps_at_zero(call)):
            return self.own_slope(call, flows, after)
        return self.hands_on(call, x, after)

    def _scaled(self, call: Call, x: Tensor) -> Any:
        """One signal times what is held constant."""
        facts = known(x)
        spread = any(t is not x and t.numel() > 1 for t in _all_tensors(call))
        after = Known(facts.first, facts.gate, facts.of_constant or (facts.gate and spread))
        return self.hands_on(call, x, after) if self.is_whole(x) else self.own_slope(call, [x], after)

    def _softmax(self, call: Call, flows: list[Tensor]) -> Any:
        """Weights are held where they multiply something. Elsewhere the sum that normalises them is."""
        x = flows[0]
        if call.name != "log_softmax" or self.is_whole(x):
            return self._entrywise(call, flows)
        result = with_backward(call.run, lambda signal: (signal,), x)  # the score, less a number
        self.pay(call, result, (result - x).detach())
        return result

    # -- products ------------------------------------------------------------------------------------------------------

    def _product(self, call: Call, flows: list[Tensor]) -> Any:
        """A gate is held, and what it gates takes all; of several signals each takes the same share."""
        if call.name in ("div", "divide", "true_divide"):
            return self._quotient(call, flows)
        if call.name in ("rtruediv", "rdiv"):
            return self._entrywise(call, flows)
        if call.name not in _MULTIPLYING:
            return self.refused(call, flows)
        gates = [t for t in flows if known(t).gate]
        if 0 < len(gates) < len(flows):
            call = exchanged(call, [(t, t.detach()) for t in gates])
            flows = signals(call)
            result = self._scaled(call, flows[0]) if call.name == "mul" else self.own_slope(call, flows)
            return self.told(result, self.ledger.held, call.name)
        if len(flows) == 1:
            return self._scaled(call, flows[0]) if call.name == "mul" else self.weights(call, flows)
        result = self.own_slope(call, flows, Known(gate=bool(gates)), share=1 / len(flows))
        return self.told(result, self.ledger.shared, where(call))

    def _quotient(self, call: Call, flows: list[Tensor]) -> Any:
        """The divisor is held."""
        divisor = call.args[1] if len(call.args) > 1 else call.kwargs.get("other")
        if isinstance(divisor, Tensor) and divisor.requires_grad:
            if len(flows) == 1:
                note(result := self._entrywise(call, flows), Known(known(divisor).first, gate=True))
                return result
            call = exchanged(call, [(divisor, divisor.detach())])
            flows = signals(call)
            if len(flows) == 1:
                return self.told(self._scaled(call, flows[0]), self.ledger.held, call.name)
        return self._scaled(call, flows[0]) if len(flows) == 1 else self.refused(call, flows)

    def _composite(self, call: Call, flows: list[Tensor]) -> Any:
        """Many operations in one call are met one by one; of attention with its weights held, only the values count."""
        if call.name != "scaled_dot_product_attention":
            return NotImplemented
        query, key, value = (call.args[k] if len(call.args) > k else call.kwargs[n] for k, n in enumerate(_ROLES))
        if not value.requires_grad or value is key or value is query:
            return NotImplemented
        call = exchanged(call, [(t, t.detach()) for t in (query, key)])
        return self.told(self.own_slope(call, signals(call)), self.ledger.held, "softmax")

    def _is_normalisation(self, call: Call) -> bool:
        """Is this a step of the model's own normalisation, whose output stands for the input?"""
        other = call.args[1] if len(call.args) > 1 else None
        if call.name != "sub" or not isinstance(other, Tensor) or other.numel() != len(self.space.mean):
            return False
        return torch.equal(other.flatten(), torch.tensor(self.space.mean, dtype=other.dtype, device=other.device))


_ROLES = ("query", "key", "value")


def _all_tensors(call: Call) -> list[Tensor]:
    return [t for t in tree_leaves((call.args, dict(call.kwargs))) if isinstance(t, Tensor)]


def _has_constants(call: Call) -> bool:
    return any(t.is_floating_point() and not t.requires_grad for t in _all_tensors(call))


def _clamps_at_zero(call: Call) -> bool:
    """One bound, and it is 0: a ReLU, or its mirror image."""
    if call.name != "clamp":
        return False
    bounds = [b for b in (*call.args[1:], *(call.kwargs.get(n) for n in ("min", "max"))) if b is not None]
    return len(bounds) == 1 and not isinstance(bounds[0], Tensor) and bounds[0] == 0
