"""What long work may cost: forwards, asked before the first one, and seconds, asked on the way.

    with limits(forwards=1_000_000, seconds=60):
        why = kernel_shapley(model, x, target)

A method says `afford(forwards, "what")` before it starts, and is refused above the limit, with the estimate. A method
that gets better with time asks `time_is_up()` between two steps, and hands back what it has, with the check `partial`.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible

# So many forwards of EfficientNet-Lite0 are half an hour on two cores; of a small network, seconds.
FORWARDS = 100_000


@dataclass(frozen=True)
class _Limits:
    forwards: float = FORWARDS
    seconds: float = math.inf
    deadline: float = math.inf


class TooMuch(NotPossible):
    """Work that would need more forwards than the limit."""


_limits: ContextVar[_Limits] = ContextVar("limits")


def _current() -> _Limits:
    return _limits.get(_Limits())


@contextmanager
def limits(*, forwards: float = FORWARDS, seconds: float = math.inf) -> Iterator[None]:
    """Limit what the work inside may cost.

    Args:
        forwards: Forwards of single inputs that one method may need by its own estimate; `math.inf` for any number.
        seconds: Time from now on, after which methods that can do so stop with what they have.

    Raises:
        BadOption: A limit that nothing can keep.
    """
    if not forwards > 0 or not seconds > 0:
        raise BadOption(f"expected limits above 0; got {forwards:g} forwards and {seconds:g} seconds.")
    token = _limits.set(_Limits(forwards, seconds, time.monotonic() + seconds))
    try:
        yield
    finally:
        _limits.reset(token)


@contextmanager
def tighter(*, forwards: float, seconds: float) -> Iterator[None]:
    """As `limits`, where those that hold outside are lower they stay."""
    now = _current()
    left = now.deadline - time.monotonic()
    seconds, forwards = min(seconds, max(left, 1e-9)), min(forwards, now.forwards)
    with limits(forwards=forwards, seconds=seconds):
        yield


def afford(forwards: float, what: str) -> None:
    """Refuse work that would cost more forwards than the limit, before it has begun.

    Args:
        forwards: The estimate.
        what: Who asks, and the way to ask for less: "exact_shapley of 16 players".

    Raises:
        TooMuch: It would cost too much.
    """
    if forwards > (limit := _current().forwards):
        count = f"{forwards:,.0f}" if forwards < 1e15 else f"{forwards:.1g}"
        raise TooMuch(
            f"{what} would take about {count} forwards; the limit is {limit:,.0f}. To do it all the same: --yes on the "
            f"command line, `with cutaway.core.budget.limits(forwards=...)` in Python."
        )


def time_is_up() -> bool:
    """True if the time limit has passed."""
    return time.monotonic() >= _current().deadline


def partial(done: int, wanted: int, noun: str = "forwards") -> Check:
    """The check of a result that the time limit cut short."""
    text = f"The time limit of {_current().seconds:g} s ended this after {done:,} of up to {wanted:,} {noun}."
    return Check(text, "warn", done)
