"""Progress of long work, told to whoever asked.

A method writes `for mask in track(masks, "rise"):` and knows nothing of terminals. The command line, a notebook or a
server listens with `reporting`. Without a listener nothing is printed. A listener stops the work by raising.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Attributes:
        label: What is being done, in a word or two.
        done: Steps finished.
        total: Steps in all; None where nobody knows.
    """

    label: str
    done: int
    total: int | None


Reporter = Callable[[Progress], None]
_reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


@contextmanager
def reporting(reporter: Reporter) -> Iterator[None]:
    """Send the progress of all work inside to `reporter`, which may raise to stop it."""
    token = _reporter.set(reporter)
    try:
        yield
    finally:
        _reporter.reset(token)


def report(label: str, done: int, total: int | None = None) -> None:
    """Tell the listener, if there is one, how far the work is."""
    if (reporter := _reporter.get()) is not None:
        reporter(Progress(label, done, total))


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Yield the items and report after each.

    Args:
        label: What is being done.
        total: How many there are, if `items` cannot say.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    report(label, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        report(label, done, total)
