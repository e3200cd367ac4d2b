"""Progress in a terminal: a bar for each piece of work, with the time left. Elsewhere, a line for each."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from cutaway.core.progress import Progress, Reporter, reporting
from cutaway.plot import live


class _Watched(Bars):
    """Bars with the pictures that are being made below them, where the terminal has the colours for it."""

    picture: Text | None = None
    _looked = 0.0

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, and the pictures."""
        yield from super().get_renderables()
        if self.picture is not None:
            yield self.picture

    def look(self, step: Progress) -> None:
        """Renew the pictures, not too often."""
        now = time.monotonic()
        if step.pictures is None or self.console.color_system != "truecolor" or now - self._looked < live.PAUSE:
            return
        self._looked = now
        self.picture = Text.from_ansi(live.half_blocks(step.pictures()))


@contextmanager
def bars() -> Iterator[None]:
    """Show the progress of all work inside on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with reporting(_lines(console)):
            yield
        return
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _Watched(*columns, console=console, transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def reporter(step: Progress) -> None:
            if step.label not in tasks:
                tasks[step.label] = shown.add_task(step.label, total=step.total)
            shown.update(tasks[step.label], completed=step.done, total=step.total)
            shown.look(step)
            if step.total is not None and step.done >= step.total:
                shown.remove_task(tasks.pop(step.label))

        with reporting(reporter):
            yield


def _lines(console: Console) -> Reporter:
    """One line for each new kind of work, for logs."""
    seen: set[str] = set()

    def reporter(step: Progress) -> None:
        if step.label not in seen:
            seen.add(step.label)
            console.print(f"{step.label} ...", highlight=False, markup=False)

    return reporter
