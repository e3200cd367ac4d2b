"""`cutaway trust INPUT...`: which methods to believe for this model, in a table and a sentence for each."""

import math
import re
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.table import Table as Drawn
from rich.text import Text

from cutaway.cli.options import examples, show, with_model, with_output, with_text
from cutaway.cli.progress import bars
from cutaway.core.budget import FORWARDS, limits
from cutaway.core.model import Model
from cutaway.core.result import Result, Table
from cutaway.evaluation.trust_table import NOT_EXAMINED, NOT_TESTED
from cutaway.plot import png, png_bytes
from cutaway.plot.style import number
from cutaway.report import write
from cutaway.session.run import run as run_method
from cutaway.store import Study

_COLOURS = {"ok": "green", "note": "green", "warn": "yellow", "fail": "red"}
_INTERVAL = re.compile(r" \(\S+ to \S+\)")
# Columns of numbers; all others have text.
_NUMBERS = ("inputs", "forwards", "backwards", "seconds")


@click.command()
@click.argument("names", metavar="[INPUT]...", nargs=-1)
@with_text
@with_model
@click.option("--target", help="Class name or number. Each input's predicted class if not given.")
@click.option("--methods", default="", help="Methods with commas between, or `all`. The usual ones if not given.")
@click.option("--tests", default="", help="Tests with commas between. All that fit if not given.")
@click.option("--region", help="What maps should point at: boxes x0,y0,x1,y1 in pixels, ; between inputs.")
@click.option("--budget", type=float, help="Seconds; the tests that tell most come first.")
@click.option("--rough", is_flag=True, help="Every method and test in its quick form.")
@click.option("--yes", is_flag=True, help=f"Also do what is estimated to take more than {FORWARDS:,} forwards.")
@click.option("--picture", type=click.Path(path_type=Path), help="Also draw the table into this PNG.")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@with_output
def trust(
    names: tuple[str, ...],
    text: tuple[str, ...],
    model: Model,
    methods: str,
    tests: str,
    yes: bool,
    picture: Path | None,
    study: Path,
    open_it: bool,
    **given: Any,
) -> None:
    """Test the maps of several methods in every way that fits, and say which of them to believe for this model.

    One input says what to believe here; five or more, better twenty, what to believe of a method. An input is a photo,
    a folder, a data set such as imagenet-samples[0:20], or - for a photo from standard input; for a model that reads
    text, a file with one text per line, or --text; for one that reads rows, a CSV file.

    \b
    Examples:
      cutaway trust cat.jpg
      cutaway trust photos-of-mine --methods all --budget 600 --open
      cutaway trust shapes/test[0:20] --model shapes-cnn --methods gradient,grad-cam,rise
      cutaway trust --text "a gripping , funny film" --model sentiment-lstm
    """  # noqa: D301 click reads \b as "keep these lines"
    kept, batch = Study(study, draw=png_bytes), examples(names, text, model)
    given = {name: value for name, value in given.items() if value is not None}
    given |= {"methods": _listed(methods), "tests": _listed(tests)}
    with bars(), limits(forwards=math.inf if yes else FORWARDS):
        result = run_method("trust", model, batch, study=kept, **given)
    tell(result, Console())
    key = kept.key_of(result.provenance)
    click.echo(f"kept as {key[:12]} in {study}; `cutaway report {key[:12]} --study {study}` makes a page of it")
    if picture is not None:
        png(result, picture)
        click.echo(f"picture: {picture}")
    if open_it:
        show(write([result], study / "pages" / f"{key[:12]}.html", overwrite=True))


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.replace(";", ",").split(",") if name.strip())


def tell(result: Result, console: Console) -> None:
    """The table, a sentence for each method, and what else should be known."""
    assert isinstance(result, Table)
    drawn = _drawn(result, intervals=True)
    if (
        console.is_terminal
        and console.measure(drawn, options=console.options.update_width(1000)).minimum > console.width
    ):
        drawn = _drawn(result, intervals=False)  # they are in the sentences and on the page
    # Cells stay whole: into a file or a pipe, and in a narrow terminal, lines are as long as they are.
    room = console.options.update_width(1000)
    least = console.measure(drawn, options=room)
    console.print(drawn, width=max(console.width, least.minimum) if console.is_terminal else least.maximum, crop=False)
    names = [row[0] for row in result.rows]
    said: dict[str, list[str]] = {}
    for name in names:
        said.setdefault(result.checks[name], []).append(name)
    for sentence, same in said.items():
        console.print(f"[bold]{', '.join(same)}[/bold]", sentence, highlight=False, soft_wrap=True)
    for name, check in result.checks.items():
        if name not in names:
            console.print(Text(f"{name.replace('_', ' ')}: {check}", style="dim"), soft_wrap=True)
    cost = result.provenance.cost
    console.print(f"{cost.forwards} forwards, {cost.backwards} backwards, {cost.seconds:.1f} s in all", highlight=False)


def _drawn(result: Table, *, intervals: bool) -> Drawn:
    drawn = Drawn(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    examined = [row for row in result.rows if row[1] not in (NOT_EXAMINED, NOT_TESTED)] or result.rows
    rows = [[_cell(value) if intervals else _INTERVAL.sub("", _cell(value)) for value in row] for row in examined]
    for name, *texts in zip(result.columns, *rows, strict=True):
        side: Literal["left", "right"] = "right" if name in _NUMBERS else "left"
        drawn.add_column(name, justify=side, min_width=max(map(len, [*texts, *name.split()])))
    for row, texts in zip(examined, rows, strict=True):
        colour = _COLOURS.get(getattr(result.checks.get(row[0]), "status", ""), "")
        drawn.add_row(*(Text(text, style=colour if k == 1 else "") for k, text in enumerate(texts)))
    return drawn


def _cell(value: Any) -> str:
    return number(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
