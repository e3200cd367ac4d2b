"""The rule set: every operation runs twice, at the input and at the baseline, and is differentiated by its change.

An operation whose own slope explains its change exactly, such as a convolution, keeps it; any other gets multipliers.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cutaway.attribution.differences.entries import (
    STEPS,
    divided,
    entrywise,
    halfway,
    many_factors,
    multiplied,
    softmax,
    softmax_axis,
)
from cutaway.attribution.differences.pair import (
    Both,
    Pair,
    at_baseline,
    baseline_of,
    carry,
    carry_one,
    forget,
    given,
    plain,
)
from cutaway.attribution.differences.parts import PARTS, has_parts
from cutaway.attribution.differences.winners import winner_rule
from cutaway.core.errors import NotPossible
from cutaway.core.operations import Call
from cutaway.core.rectifiers import FAMILY, rectified
from cutaway.core.rules import ForEveryOperation, kind_of, refused_when_reached, signals, where

Otherwise = Literal["refuse", "slope"]

# Nothing in these depends on the values of what they are given.
_FRESH = {
    "new_empty", "new_full", "new_ones", "new_tensor", "new_zeros",
    "backward", "format", "register_hook", "repr", "requires_grad", "retain_grad",
}  # fmt: skip
# Of the linear and quadratic kinds by name, but not so in all that they take.
_ODD = {"addcdiv", "chain_matmul", "copysign", "floor_divide", "grid_sample", "index_reduce", "prod", "segment_reduce"}
_QUOTIENTS = {"div", "divide", "true_divide", "rdiv", "rtruediv"}
# ReLU in other words, once `rectified` has found that these calls are that.
_SPELT = {"clamp", "fmax", "masked_fill", "max", "maximum", "mul", "threshold", "where"}
_SOFTMAXES = {"log_softmax", "logsumexp", "softmax"}


class Changes(ForEveryOperation):
    """The rule set; one for each chunk of a batch.

    Args:
        begin: From the tensor where attribution takes place to its value at the baseline.
        rows: Number of inputs in the chunk.
        otherwise: What to do about an operation without a rule: refuse, or keep its slope and note it.

    Attributes:
        sloped: Operations that kept their slope for want of a rule.
        branches: Numbers that the forward read out of tensors, to decide what to do, and that differ at the baseline.
        last: The last result, and what it is at the baseline.
    """

    parts = PARTS
    reach_target = True

    def __init__(self, begin: Callable[[Tensor], Tensor], rows: int, otherwise: Otherwise) -> None:
        super().__init__(self._answer)
        self._begin: Callable[[Tensor], Tensor] | None = begin
        self._rows = rows
        self._otherwise = otherwise
        self._written: list[Tensor] = []
        self.sloped: dict[str, None] = {}
        self.branches: dict[str, None] = {}
        self.last: tuple[Tensor, Tensor] | None = None

    def release(self) -> None:
        """Take back what was left on tensors that outlive the run, such as a buffer that the forward writes into."""
        for tensor in self._written:
            forget(tensor)
        self._written = []

    def _answer(self, call: Call) -> Any:
        given = [leaf for leaf in tree_leaves((call.args, dict(call.kwargs))) if isinstance(leaf, Tensor)]
        self._look(call, given)
        if call.name in _FRESH or call.name.endswith("_like") or all(baseline_of(t) is None for t in given):
            return NotImplemented
        moves = any(t.requires_grad for t in given)
        if moves and (kind_of(call.name) == "composite" or has_parts(call)):
            return NotImplemented  # its parts come here one by one
        if (call.in_place or call.name == "setitem") and baseline_of(call.args[0]) is None:
            carry_one(call.args[0], call.args[0].detach().clone())  # it is the same there until now
            self._written.append(call.args[0])
        pair = Pair(call, at_baseline(call), signals(call))
        result, base = self._both(pair) if moves else plain(pair)
        if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            if result is not None and (call.name == "numpy" or result != base):
                self.branches[where(call)] = None
            return result
        carry(result, base)
        if isinstance(result, Tensor):
            self.last = result.detach(), base  # without the graph, which would outlive its chunk
        return result

    def _look(self, call: Call, given: Sequence[Tensor]) -> None:
        """Find the beginning; and refuse a signal that came out of something unseen.

        Raises:
            NotPossible: An operation that is not torch's own lies on the way.
        """
        for t in given:
            if not t.requires_grad or baseline_of(t) is not None:
                continue
            if t.grad_fn is None:
                if self._begin is not None and t.ndim and len(t) == self._rows:
                    # In the same layout, so that what is a view there is a view here.
                    carry_one(t, torch.empty_like(t, requires_grad=False).copy_(self._begin(t.detach())))
                    self._begin = None
                continue
            raise NotPossible(
                f"deeplift cannot follow the signal to {where(call)}: it comes out of {t.grad_fn.name()}, an operation "
                "that torch does not show. Use integrated_gradients, or write that part in torch operations."
            )

    def _both(self, pair: Pair) -> tuple[Any, Any]:
        """Results at the input, with the backward pass that explains the change, and at the baseline."""
        rule = _rule_for(pair)
        if rule is not None:
            return rule(pair)
        result, base = plain(pair)
        if self._otherwise == "slope":
            self.sloped[where(pair.call)] = None
            return result, base
        why = (
            f"deeplift has no rule for {where(pair.call)}; pass otherwise='slope' to let it differentiate as usual and "
            "see the gap, or use integrated_gradients, which needs no rules."
        )
        return refused_when_reached(pair.call, result, why), base


def _rule_for(pair: Pair) -> Both | None:
    """How the change of an operation is explained; None if there is no exact way."""
    call, movers = pair.call, pair.movers
    name, kind = call.name, kind_of(call.name)
    if name in FAMILY and (found := rectified(call)) is not None and found.x.requires_grad:
        return lambda pair: entrywise(pair, found.x, "relu" if _is_relu(found.name, call) else found.name)
    if name == "prod" and isinstance(given(call, 1, "dim"), int) and not _switches(pair):
        return many_factors
    if name in _ODD or _switches(pair):
        return None
    if kind in ("structural", "sum") or (kind == "silent" and name not in STEPS):
        return plain
    if kind == "activation" or name in STEPS:
        return (lambda pair: entrywise(pair, movers[0], name)) if len(movers) == 1 else None
    if kind == "winner":
        return winner_rule(pair)
    if name in _SOFTMAXES:
        return softmax if isinstance(softmax_axis(call, movers[0]), int) else None
    if name in _QUOTIENTS:
        return None if call.argument("rounding_mode", call.kwargs.get("rounding_mode")) else divided
    if kind in ("linear", "product"):
        if len(movers) == 1:
            return plain
        return multiplied if name == "mul" else halfway if len(movers) == 2 or name != "einsum" else None
    return plain if name == "batch_norm" and not given(call, 5, "training", False) else None


def _is_relu(name: str, call: Call) -> bool:
    """Is this plain ReLU, in whatever spelling? Then its slope at 0 is the same in all of them."""
    return name == "relu" or (name in _SPELT and not (name == "clamp" and given(call, 2, "max") is not None))


def _switches(pair: Pair) -> bool:
    """Is there a mask or an index that depends on the input and is another at the baseline?"""
    given = tree_leaves((pair.call.args, dict(pair.call.kwargs)))
    still = [t for t in given if isinstance(t, Tensor) and not t.requires_grad]
    return any((b := baseline_of(t)) is not None and not torch.equal(t, b) for t in still)
