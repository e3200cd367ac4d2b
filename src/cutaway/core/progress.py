"""Progress of long work, told to whoever asked.

A method writes `for mask in track(masks, "rise"):` and knows nothing of terminals. The command line, a notebook or a
server listens with `reporting`. Without a listener nothing is printed. A listener stops the work by raising.
"""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Attributes:
        label: What is being done, in a word or two.
        done: Steps finished.
        total: Steps in all; None where nobody knows.
        pictures: Gives what there is to see so far, (n, channels, height, width) in [0, 1]; None if there is nothing.
    """

    label: str
    done: int
    total: int | None
    pictures: Callable[[], Tensor] | None = field(default=None, compare=False)


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


def is_heard() -> bool:
    """Whether somebody listens."""
    return _reporter.get() is not None


def report(label: str, done: int, total: int | None = None, pictures: Callable[[], Tensor] | None = None) -> None:
    """Tell the listener, if there is one, how far the work is."""
    if (reporter := _reporter.get()) is not None:
        reporter(Progress(label, done, total, pictures))


def track(
    items: Iterable[T], label: str, total: int | None = None, pictures: Callable[[], Tensor] | None = None
) -> Iterator[T]:
    """Yield the items and report after each.

    Args:
        label: What is being done.
        total: How many there are, if `items` cannot say.
        pictures: Gives what there is to see so far; it is called only by listeners that show it.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    report(label, 0, total, pictures)
    for done, item in enumerate(items, start=1):
        yield item
        report(label, done, total, pictures)
