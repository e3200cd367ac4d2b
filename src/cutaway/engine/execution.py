"""Where jobs run and where they keep their shards: said once around a call, so that no method needs options for it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutaway.engine.part import Part
    from cutaway.engine.work import Job

# From a job and the numbers of shards to finished parts, in any order. The numbers are drawn as work becomes free.
Executor = Callable[["Job", Iterable[int]], Iterator["Part"]]


def here(job: "Job", wanted: Iterable[int]) -> Iterator["Part"]:
    """Do the shards one after the other in this process."""
    return (job.do(index) for index in wanted)


@dataclass(frozen=True)
class Execution:
    """How jobs are run.

    Attributes:
        executor: Who does the shards.
        folder: Where finished shards are kept; None to keep none.
        partial: Answer from the shards that are finished, and do no others.
        recipe: What `cutaway.run` was called with, so that the job can be taken up again by its number.
    """

    executor: Executor = here
    folder: Path | None = None
    partial: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)


_current: ContextVar[Execution] = ContextVar("execution", default=Execution())  # noqa: B039 it is frozen


def execution() -> Execution:
    """How jobs are to be run now."""
    return _current.get()


@contextmanager
def executing(how: Execution) -> Iterator[None]:
    """Run the jobs of all methods called inside like this."""
    token = _current.set(how)
    try:
        yield
    finally:
        _current.reset(token)
