"""Progress in a terminal: a bar for each piece of work, with the time left. Elsewhere, a line for each."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from cutaway.core.progress import Progress, Reporter, reporting


@contextmanager
def bars() -> Iterator[None]:
    """Show the progress of all work inside on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        with reporting(_lines(console)):
            yield
        return
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as shown:
        tasks: dict[str, TaskID] = {}

        def reporter(step: Progress) -> None:
            if step.label not in tasks:
                tasks[step.label] = shown.add_task(step.label, total=step.total)
            shown.update(tasks[step.label], completed=step.done, total=step.total)
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
