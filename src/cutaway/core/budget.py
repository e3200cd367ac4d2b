"""What long work may cost: forwards, asked before the first one, and seconds, asked on the way.

    with limits(forwards=1_000_000, seconds=60):
        why = kernel_shapley(model, x, target)

A method says `afford(forwards, "what")` before it starts, and is refused above the limit, with the estimate. A method
that gets better with time goes through its steps `in_time`, for each of several inputs in its `fair_share` of the time,
and hands back what it has, with `cut_short` among its checks.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TypeVar

from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible

T = TypeVar("T")

# So many forwards of EfficientNet-Lite0 are half an hour on two cores; of a small network, seconds.
FORWARDS = 100_000
# Forwards that take as long as a backward pass.
BACKWARD = 2.0
# What all limits are measured with, in seconds.
clock = time.monotonic


@dataclass(frozen=True)
class _Limits:
    forwards: float = FORWARDS
    seconds: float = math.inf
    deadline: float = math.inf
    fitting: float = math.inf


class TooMuch(NotPossible):
    """Work that would need more forwards than the limit."""


_limits: ContextVar[_Limits] = ContextVar("limits")


def _current() -> _Limits:
    return _limits.get(_Limits())


@contextmanager
def _within(new: _Limits) -> Iterator[None]:
    token = _limits.set(new)
    try:
        yield
    finally:
        _limits.reset(token)


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
    with _within(_Limits(forwards, seconds, clock() + seconds)):
        yield


@contextmanager
def tighter(*, forwards: float = math.inf, fitting: float = math.inf, seconds: float = math.inf) -> Iterator[None]:
    """Limit what the work inside may cost further; what holds outside stays.

    Args:
        forwards: As in `limits`.
        fitting: The same for work that cannot be cut short once the time is up.
        seconds: Time from now on.
    """
    now = _current()
    new = _Limits(
        forwards=min(forwards, now.forwards),
        fitting=min(fitting, now.fitting),
        seconds=min(seconds, now.seconds),
        deadline=min(clock() + seconds, now.deadline),
    )
    with _within(new):
        yield


@contextmanager
def fair_share(pieces: int) -> Iterator[None]:
    """Give one piece of work, of so many that are still to do, an equal part of the time that is left."""
    now, time_now = _current(), clock()
    ends = min(now.deadline, time_now + max(0.0, now.deadline - time_now) / pieces)
    with _within(replace(now, deadline=ends)):
        yield


def afford(forwards: float, what: str, *, backwards: float = 0.0, stops: bool = False) -> None:
    """Refuse work that would cost more than the limit, before it has begun.

    Args:
        forwards: The estimate.
        what: Who asks, and the way to ask for less: "exact_shapley of 16 players".
        backwards: Backward passes beside them; each counts as two forwards.
        stops: True if the work ends with what it has once the time is up.

    Raises:
        TooMuch: It would cost too much.
    """
    now, cost = _current(), forwards + BACKWARD * backwards
    limit = now.forwards if stops else min(now.forwards, now.fitting)
    if cost > limit:
        passes = f"{_count(forwards)} forwards"
        passes += f" and {_count(backwards)} backwards, as long as {_count(cost)} forwards" if backwards else ""
        raise TooMuch(
            f"{what} would take about {passes}; the limit is {limit:,.0f}. To do it all the same: --yes on the "
            f"command line, `with cutaway.core.budget.limits(forwards=...)` in Python."
        )


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e15 else f"{number:.1g}"


def time_is_up() -> bool:
    """True if the time limit has passed."""
    return clock() >= _current().deadline


def in_time(items: Iterable[T], least: int = 1) -> Iterator[T]:
    """The items, until the time limit has passed; the first `least` of them in any case."""
    for done, item in enumerate(items):
        if done >= least and time_is_up():
            return
        yield item


def at_once(usual: int, few: int = 8) -> int:
    """How many forwards to ask for at once: as usual, or where there is a time limit, few between two looks at it."""
    return usual if math.isinf(_current().deadline) else min(usual, few)


def cut_short(done: Sequence[int], wanted: Sequence[int] | int, noun: str, then: str = "") -> dict[str, Check]:
    """The check `partial` of a result that the time limit cut short; none if it was not.

    Args:
        done: For each input, how many steps there were.
        wanted: How many there would have been.
        noun: What they are: "masks".
        then: What that means for the result; a sentence of its own.
    """
    totals = [wanted] * len(done) if isinstance(wanted, int) else wanted
    least, most = min(zip(done, totals, strict=True), key=lambda pair: pair[0] / max(pair[1], 1))
    if least >= most:
        return {}
    where = f" for the input, of {len(done)}, that got least" if len(done) > 1 and len(set(done)) > 1 else ""
    return {"partial": partial(least, most, f"{noun}{where}", then)}


def partial(done: int, wanted: int, noun: str = "forwards", then: str = "") -> Check:
    """The check of a result that the time limit cut short, with a sentence on what that means."""
    text = f"The time limit of {_current().seconds:.3g} s ended this after {done:,} of up to {wanted:,} {noun}."
    return Check(f"{text} {then}".strip(), "warn", done)
