"""`cutaway jobs`: what became of looks at whole data sets."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as Sheet

from cutaway.cli.options import with_workers
from cutaway.cli.progress import bars
from cutaway.session import jobs as work

_study = click.option(
    "--study",
    default="cutaway-study",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder that keeps results, and the shards of jobs.",
)


@click.group(invoke_without_command=True)
@_study
@click.pass_context
def jobs(context: click.Context, study: Path) -> None:
    """List the jobs over whole data sets: `cutaway jobs`, `cutaway jobs resume 943846db`.

    A job that was stopped, by Ctrl-C or worse, keeps its finished shards. The same `cutaway run` goes on with it, and
    so does `resume`.
    """
    context.obj = study
    if context.invoked_subcommand is not None:
        return
    found = work.jobs(study)
    if not found.rows:
        click.echo(f"no jobs in {study}")
        return
    sheet = Sheet(*found.columns, box=None, header_style="bold", pad_edge=False)
    for row in found.rows:
        sheet.add_row(*map(str, row))
    Console().print(sheet, markup=False)


@jobs.command()
@click.argument("job")
@with_workers
@click.pass_obj
def resume(study: Path, job: str, workers: str, partial: bool) -> None:
    """Go on with a job; finished shards are not done again."""
    from cutaway.cli.run import tell

    with bars():
        result = work.resume(study, job, workers=workers, partial=partial)
    tell(result, Console())


@jobs.command()
@click.argument("job")
@click.pass_obj
def cancel(study: Path, job: str) -> None:
    """Ask whoever works on a job to stop after the shard at hand."""
    work.cancel(study, job)
    click.echo(f"asked for job {job} to stop")


@jobs.command()
@click.argument("job", required=False)
@click.pass_obj
def clean(study: Path, job: str | None) -> None:
    """Remove the shards of a job, or of all that nobody works on. Results are kept."""
    removed = work.clean(study, job)
    click.echo(f"removed {', '.join(removed)}" if removed else "nothing to remove")
