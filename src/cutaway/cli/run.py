"""`cutaway run METHOD`: a command for each method of the catalogue, with its options."""

import math
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cutaway.cli.options import examples, show, whole_set, with_model, with_output, with_text, with_workers
from cutaway.cli.progress import bars
from cutaway.core.budget import FORWARDS, limits
from cutaway.core.catalogue import Method, Option, catalogue, find
from cutaway.core.model import Model
from cutaway.core.result import Result
from cutaway.plot import describe, png, png_bytes
from cutaway.report import write
from cutaway.session.run import run as run_method
from cutaway.store import Study

_MARKS = {"ok": "✓", "note": "·", "warn": "!", "fail": "✗"}


class _Methods(click.Group):
    """One command for each method, made from its signature."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All methods, as the shell writes them."""
        return [name.replace("_", "-") for name in catalogue()]

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The command of one method."""
        return command_of(find(name))


@click.command("run", cls=_Methods)
def run() -> None:
    """Run one method: `cutaway run occlusion --x cat.jpg --target tabby`.

    `cutaway run METHOD --help` shows its options; `cutaway methods` lists what each method answers.
    """


def command_of(entry: Method) -> click.Command:
    """The command line of a method: what it works on, then its own options."""

    def call(
        model: Model,
        x: tuple[str, ...],
        text: tuple[str, ...],
        study: Path,
        open_it: bool,
        picture: Path | None,
        yes: bool,
        seconds: float,
        **given: Any,
    ) -> None:
        kept = Study(study, draw=png_bytes)
        given = {name: value for name, value in given.items() if value is not None}
        alone = not x and not text and set(entry.optional) & {"x", "data"}
        batch = None if alone else whole_set(x) if whole else examples(x, text, model)
        with bars(), limits(forwards=math.inf if yes else FORWARDS, seconds=seconds):
            result = run_method(entry.name, model, batch, study=kept, **given)
        tell(result, Console())
        key = kept.key_of(result.provenance)
        click.echo(f"kept as {key[:12]} in {study}; `cutaway report {key[:12]} --study {study}` makes a page of it")
        if picture is not None:
            png(result, picture)
            click.echo(f"picture: {picture}")
        if open_it:
            show(write([result], study / "pages" / f"{key[:12]}.html", overwrite=True))

    whole = "data" in entry.positional and "x" not in entry.positional
    command = with_workers(call) if whole else call
    if {"x", "data"} <= set(entry.positional):
        about = "The other examples that the method needs: a photo, folder or data set, as --x takes it."
        command = click.option("--data", required="data" not in entry.optional, help=about)(command)
    for option in reversed(entry.options):
        command = _option(option)(command)
    if "attribution" in entry.positional:
        about = "The method whose explanation is examined."
        command = click.option("--attribution", default="gradient", show_default=True, help=about)(command)
    if {"target", "attribution"} & set(entry.positional):
        about = "Class name or number, or a target such as 'logit(3) - logit(5)'. The predicted class if not given."
        command = click.option("--target", help=about)(command)
    command = click.option("--picture", type=click.Path(path_type=Path), help="Also draw the result into this PNG.")(
        command
    )
    about = f"Also do what is estimated to take more than {FORWARDS:,} forwards."
    command = click.option("--yes", is_flag=True, help=about)(command)
    about = "Stop after so many seconds, where a method can hand back what it has by then."
    command = click.option("--seconds", type=float, default=math.inf, help=about)(command)
    about = (
        "Photo, folder, data set (`cutaway data`), file of texts or rows (.txt, .csv), or - for a photo from standard "
        "input; again for more."
    )
    command = click.option("--x", multiple=True, help=about)(
        with_text(with_output(with_model(command, taken={option.name for option in entry.options})))
    )
    return click.command(entry.name.replace("_", "-"), help=_help(entry), short_help=entry.summary)(command)


def tell(result: Result, console: Console) -> None:
    """The result in words: what it is, its checks, its cost."""
    console.print(f"[bold]{type(result).__name__}[/bold] of {result.provenance.method}", highlight=False)
    console.print(describe(result), highlight=False, markup=False)
    for name, check in result.checks.items():
        console.print(f"{_MARKS[check.status]} {name}: {check}", highlight=False, markup=False)
    cost = result.provenance.cost
    console.print(f"{cost.forwards} forwards, {cost.backwards} backwards, {cost.seconds:.1f} s", highlight=False)


def _help(entry: Method) -> str:
    example = f"cutaway run {entry.name.replace('_', '-')}{_example(entry)}"
    needed = ", ".join(["model", *(["x"] if set(entry.positional) - {"model", *entry.optional} else [])])
    return f"{entry.summary}\n\nExample: {example}\n\nPython: cutaway.run('{entry.name}', {needed})"


def _example(entry: Method) -> str:
    """What it can be tried on: the first of these that fits, so that the example works as it stands."""
    options, places = {option.name for option in entry.options}, set(entry.positional)
    text = "tokens" in entry.needs
    cases = (
        (
            "objective" in options,
            ("" if entry.optional else " --x photos/chelsea") + " --objective 'unit(\"_blocks.6:3\")'",
        ),
        (text and "recipe" in options, " --model sentiment-average --x sst2/dev --yes"),
        (text, " --text 'a gripping , funny film'"),
        ({"x", "data"} <= places, " --x photos/chelsea --data photos/coffee"),
        ("data" in places, " --model shapes-cnn --x shapes/test[0:500] --workers 2"),
        ("board" in entry.needs, " --model tic-tac-toe --x 'moves:b2'"),
        ("region" in options, " --model shapes-cnn --x 'shapes/test[0:20]'"),
        ("recipe" in options, " --model digits-cnn --x digits/test --epochs 10 --yes"),
        ("other" in options, " --model digits-cnn --x digits/test --other permuted.safetensors"),
    )
    return next((given for fits, given in cases if fits), " --x photos/chelsea")


def _option(option: Option) -> Any:
    default = "none" if option.default is None else str(option.default)
    if isinstance(option.default, tuple):
        default = ";".join(map(str, option.default))
    about = option.help if not option.choices else f"{option.help} One of: {', '.join(option.choices)}."
    return click.option(f"--{option.name.replace('_', '-')}", option.name, help=f"{about}  [default: {default}]")
