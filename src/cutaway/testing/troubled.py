"""Tiny networks that misbehave: random, stateful, overflowing, failing. The rest of cutaway must survive them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutaway.testing.nets import CLASSES


class Random(nn.Module):
    """Dropout that is always on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4) to (n, classes)."""
        return self.fc(F.dropout(x, 0.5, training=True))


class Stateful(nn.Module):
    """An attribute, a list, a plain tensor and a buffer change with each forward; if `moody`, the answer does, too."""

    def __init__(self, *, moody: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(4, CLASSES)
        self.moody = moody
        self.hidden: Tensor | None = None
        self.log: list[int] = []
        self.seen = torch.zeros(1)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4) to (n, classes)."""
        self.calls.add_(1)
        self.seen += 1
        self.hidden = x.detach().mean(0, keepdim=True)
        self.log.append(len(x))
        self.fresh = True
        return self.fc(x) + (self.calls if self.moody else 0)


class WritesParameter(nn.Module):
    """Changes its own weights when it runs; `quietly` goes around torch's version counter."""

    def __init__(self, *, quietly: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(4, CLASSES)
        self.quietly = quietly

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4) to (n, classes)."""
        with torch.no_grad():
            weight = self.fc.weight.data if self.quietly else self.fc.weight
            weight += 0.1
        return self.fc(x)


class WritesInput(nn.Module):
    """Its first operation works in place on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4) to (n, classes)."""
        return self.fc(x.mul_(2).relu_())


class Overflowing(nn.Module):
    """Finite weights, finite input, infinite activation in its second layer."""

    def __init__(self, inputs: int = 4) -> None:
        super().__init__()
        self.calm = nn.Linear(inputs, 4)
        self.blows = nn.Linear(4, 4)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, classes)."""
        h = self.blows((self.calm(x.flatten(1)).abs() + 2) * torch.finfo(x.dtype).max)
        return self.fc(h - h)


class Hungry(nn.Module):
    """Runs out of memory above a batch size."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.fc = nn.Linear(4, CLASSES)
        self.limit = limit
        self.sizes: Any = Tally()

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4) to (n, classes)."""
        self.sizes.note(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return self.fc(x)


class Tally:
    """Counts outside of a module's state: copies of the module share it, and giving a module back does not reset it."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def note(self, value: int) -> None:
        """Write one number down."""
        self.values.append(value)

    def __len__(self) -> int:
        return len(self.values)

    def __deepcopy__(self, memo: object) -> "Tally":
        return self


class Tripwire(nn.Module):
    """Passes its input on, and raises at one of its calls."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.tally = Tally()
        self.plan = Plan()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the inner module gives."""
        self.tally.note(1)
        if self.plan.at == len(self.tally):
            raise self.plan.error
        return self.inner(*args, **kwargs)


class Plan:
    """At which call to raise what; shared by copies, like a tally."""

    def __init__(self) -> None:
        self.at = 0
        self.error: BaseException = RuntimeError("tripped")

    def __deepcopy__(self, memo: object) -> "Plan":
        return self


def counting(module: nn.Module, seen: Callable[[nn.Module], None]) -> nn.Module:
    """Call `seen` after each forward of `module`, as a user's own hook would."""
    module.register_forward_hook(lambda m, args, output: seen(m))
    return module
