"""Backward passes in which every rectifier lets only the positive part of a signal through.

At each rectifier y = r(x):

    guided    signal_x = max(signal_y, 0) * r'(x)     (Springenberg et al. 2015)
    straight  signal_x = max(signal_y, 0)             (the deconvnet; Zeiler and Fergus 2014)

Everything else differentiates as usual; max pooling sends the signal to the maximum.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cutaway.core.model import Model
from cutaway.core.operations import Call, Operation, Rules
from cutaway.core.rectifiers import FAMILY, rectified

# From what goes into a rectifier, how to run it, and whom to tell when a signal comes back, to what comes out of it.
Treatment = Callable[[Tensor, Callable[[], Tensor], Callable[[], None]], Tensor]


class Seen:
    """What the rules met. Forwards are told apart by the model's own count, since a batch may take several.

    Attributes:
        met: Rectifiers that ran.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._treated: dict[int, list[Operation]] = defaultdict(list)
        self.met: set[Operation] = set()

    def passed(self, operation: Operation) -> None:
        """A signal came back through a rectifier. Those after the target never see one."""
        self._treated[self._model.spent["forwards"]].append(operation)

    @property
    def treated(self) -> list[Operation]:
        """The operations that a signal passed, for the last forward."""
        return self._treated[max(self._treated)] if self._treated else []


def positive_rules(treatment: Treatment, seen: Seen) -> Rules:
    """The rules of a treatment, for every operation of the family.

    Args:
        treatment: `guided` or `straight`.
        seen: Where the rectifiers that were met are noted.
    """

    def rule(call: Call) -> Any:
        found = rectified(call)
        if found is None:
            return NotImplemented
        operation = Operation(found.name, call.site)
        seen.met.add(operation)
        if not found.x.requires_grad:
            return NotImplemented
        return call.deliver(treatment(found.x, found.run, lambda: seen.passed(operation)))

    return dict.fromkeys(FAMILY, rule)


def guided(x: Tensor, run: Callable[[], Tensor], passed: Callable[[], None]) -> Tensor:
    """The rectifier, with its own slope and the positive part of the signal."""
    y = run()

    def positive(signal: Tensor) -> Tensor:
        passed()
        return signal.clamp(min=0)

    y.register_hook(positive)  # type: ignore[no-untyped-call]  # as below
    return y


def straight(x: Tensor, run: Callable[[], Tensor], passed: Callable[[], None]) -> Tensor:
    """The rectifier, with the positive part of the signal alone."""
    result: Tensor = _PositivePassed.apply(x, run, passed)  # type: ignore[no-untyped-call]  # torch has no annotation here
    return result


class _PositivePassed(torch.autograd.Function):
    """Any function of x whose backward passes the positive part of the signal unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[], Tensor], passed: Callable[[], None]) -> Tensor:
        ctx.passed = passed
        return run()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None]:
        ctx.passed()
        return signal.clamp(min=0), None, None
