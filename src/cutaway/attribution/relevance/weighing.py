"""LRP on operations: those with weights, and normalisations."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from cutaway.attribution.relevance.carrier import Carrier
from cutaway.attribution.relevance.choice import Choice
from cutaway.attribution.relevance.layers import held_spread, scale_and_shift, uses_the_batch, weighted
from cutaway.attribution.relevance.ledger import Ledger
from cutaway.attribution.relevance.tensors import Kept, Known, Made, exchanged, known, note
from cutaway.attribution.relevance.weights import Rule, Weighted, along, denominator, hand_down, total
from cutaway.core.operations import Call
from cutaway.core.rules import refused_when_reached, where, with_backward


class NeedsWhole(Exception):
    """A rule hands relevance to entries that are 0, above the first operation."""


class Weighing(Carrier):
    """Hands relevance down through weights.

    Args:
        choice: Which rule for which operation.
    """

    def __init__(self, choice: Choice, ledger: Ledger, *, whole: bool = False) -> None:
        super().__init__(ledger, whole=whole)
        self.choice = choice

    def weights(self, call: Call, flows: list[Tensor]) -> Any:
        """An operation with weights, under the rule that was chosen for it."""
        x = flows[0]
        op = weighted(call, x) if len(flows) == 1 else None
        if op is None:
            return self.refused(call, flows)
        rule = self.choice.for_weights(call, op.is_convolution, known(x).first)
        if rule.absolute and not self.is_whole(x):
            raise NeedsWhole
        if rule.shares is not None:
            result = self._replaced(call, rule, op, x, call.run)
            note(result, Known(made=Made(call, op, rule, x, (x._version, result._version))))
            return result
        result = op(self.per_unit(x)) if self.is_whole(x) else call.run()
        made = Made(call, op, rule, x, (x._version, result._version))
        self._account(call, rule, op, result, made)
        note(result, Known(made=made))
        return result

    def _replaced(self, call: Call, rule: Rule, op: Weighted, x: Tensor, run: Callable[[], Tensor]) -> Tensor:
        """Run an operation, and hand relevance down to x by the replacements of a rule."""
        whole = self.is_whole(x)
        before = self.keeper.keep(x)
        outcome: list[Kept] = []

        def back(signal: Tensor) -> tuple[Tensor]:
            self.arrived = self.arrived or whole
            relevance = signal if self.whole else signal * outcome[0].value
            down = hand_down(rule, op, before.value, outcome[0].value, relevance)
            self.ledger.write(call, rule.name, down.came, down.biases, down.lost)
            return (down.signal * before.value if whole and not rule.absolute else down.signal,)

        result = with_backward(run, back, x)
        outcome.append(self.keeper.keep(result))
        return result

    def _account(self, call: Call, rule: Rule, op: Weighted, result: Tensor, made: Made | None = None) -> None:
        """Let the epsilon rule act on the signal at a result, and write down what it and the bias take."""
        kept = self.keeper.keep(result)

        def hook(signal: Tensor) -> Tensor | None:
            if made is not None and made.folded:
                return None
            relevance = signal if self.whole else signal * kept.value
            came, lost, down = total(relevance), 0.0, signal
            if self.whole or rule.epsilon:
                down = relevance / denominator(kept.value, rule.epsilon)
                lost = came - total(down * kept.value)
            biases = 0.0 if op.bias is None else total(along(down, op.width) * op.bias)
            self.ledger.write(call, rule.name, came, biases, lost)
            return down

        result.register_hook(hook)

    def normalised(self, call: Call, flows: list[Tensor]) -> Any:
        """Batch normalisation is a scale, folded into the weights before it. The others hold their spread constant."""
        x = flows[0]
        if len(flows) > 1 or (call.name == "batch_norm" and uses_the_batch(call)):
            return self.refused(call, flows)
        if call.name == "batch_norm":
            return self._batch_norm(call, x)
        if call.name in ("normalize", "local_response_norm"):
            return self.told(self.hands_on(call, x, Known(known(x).first)), self.ledger.held, call.name)
        back, shift = held_spread(call, x)
        result = with_backward(call.run, back, self.per_unit(x))
        self.as_whole(call, result)
        if shift is not None:
            self.pay(call, result, shift)
        return self.told(result, self.ledger.held, call.name)

    def _batch_norm(self, call: Call, x: Tensor) -> Tensor:
        scale, shift = scale_and_shift(call)
        made = known(x).made
        if made is not None and made.op.axis is not None and (made.x._version, x._version) == made.versions:
            op = made.op.shifted(scale, shift)
            if made.rule.shares is not None:
                return self._replaced(made.call, made.rule, op, made.x, call.run)
            made.folded = True
            result = call.run()
            self._account(made.call, made.rule, op, result)
            return result
        result = exchanged(call, [(x, self.per_unit(x))]).run()
        self._account(call, Rule("scale", None), Weighted(_as_scale, scale, shift, None, x.ndim - 2, False), result)
        return result

    def refused(self, call: Call, flows: list[Tensor]) -> Any:
        """No rule: an error as soon as relevance arrives here."""
        rules = " ".join(f'"...; {call.name} = {plain}" {does},' for plain, does in _PLAIN.items()).rstrip(",")
        why = f"lrp has no rule for {where(call)}. Choose one with the option rule: {rules}."
        return refused_when_reached(call, call.func(*call.args, **call.kwargs), why)

    @staticmethod
    def told(result: Tensor, names: set[str], name: str) -> Tensor:
        """Note that something was held or shared, once relevance arrives there."""
        if result.requires_grad:
            result.register_hook(lambda signal: names.add(name))
        return result


_PLAIN = {
    "pass": "hands relevance on entry by entry",
    "gradient": "uses its own slope",
    "hold": "takes its result for a constant",
}


def _as_scale(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x * weight.view(-1, *([1] * (x.ndim - 2)))
