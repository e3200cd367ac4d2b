"""`cutaway explain INPUT`: what mattered for a network's answer, and how far that explanation can be trusted."""

import json
import math
import shlex
import time
from pathlib import Path

import click

from cutaway.cli.options import examples, show, with_model, with_text
from cutaway.cli.progress import bars
from cutaway.core.model import Model
from cutaway.report import Explanation, InputExplanation, compose, lines, write_explanation


@click.command()
@click.argument("names", metavar="[INPUT]...", nargs=-1)
@with_text
@with_model
@click.option(
    "--target", help="Class name or number, or 'logit(3) - logit(5)'. Each input's predicted class if not given."
)
@click.option("--methods", help="Methods with commas between, or `all`. The usual ones if not given.")
@click.option(
    "--out", default="explanation", show_default=True, type=click.Path(path_type=Path), help="Folder or .html to write."
)
@click.option("--budget", type=float, help="Seconds for maps and tests; those that tell most come first.")
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option("--open", "open_it", is_flag=True, help="Show the page in a browser.")
def explain(
    names: tuple[str, ...],
    text: tuple[str, ...],
    model: Model,
    target: str | None,
    methods: str | None,
    out: Path,
    budget: float | None,
    seed: int,
    open_it: bool,
) -> None:
    """Explain a network's answer to each INPUT, test each explanation, and write one page that needs no network.

    An input is a photo, a folder, a data set such as photos/chelsea or imagenet-samples[0:3], or - for a photo from
    standard input; for a model that reads text, a file with one text per line, or --text; for one that reads rows, a
    CSV file.

    \b
    Examples:
      cutaway explain cat.jpg --open
      cutaway explain cat.jpg dog.jpg --target tabby --methods rise,grad-cam --out why
      cutaway explain cat.jpg --model net.py:make --weights net.safetensors --size 64 --classes names.txt
      cutaway explain --text "a gripping , funny film" --model sentiment-lstm
      cutaway explain what-if-compas[0] --model what-if-compas
    """  # noqa: D301 click reads \b as "keep these lines"
    started = time.perf_counter()
    batch, chosen = examples(names, text, model), compose.chosen(methods, compose.kind_of(model))
    done: list[InputExplanation] = []
    notes = list(batch.notes)
    try:
        with bars():
            seconds = math.inf if budget is None else budget
            found = compose.inputs(model, batch, chosen, target=target, budget=seconds, seed=seed)
            for explained, refused in found:
                done.append(explained)
                notes += [note for note in refused if note not in notes]
    except KeyboardInterrupt:
        if done:
            notes.append(f"Interrupted after {len(done)} of {len(batch)} inputs.")
            page = _write(done, model, notes, names, text, seed, started, out)
            click.echo(f"kept: {page} with {len(done)} of {len(batch)} inputs")
        raise
    for one in done:
        (best, probability), *_ = one.predictions
        click.echo(f"{one.name}: {best} ({probability:.1%})")
        for shown in one.maps:
            click.echo(f"  {shown.attribution.provenance.method}: {shown.sentence}")
    page = _write(done, model, notes, names, text, seed, started, out)
    click.echo(f"report: {page}  ({time.perf_counter() - started:.0f} s)")
    if open_it:
        show(page)


def _write(
    done: list[InputExplanation],
    model: Model,
    notes: list[str],
    names: tuple[str, ...],
    texts: tuple[str, ...],
    seed: int,
    started: float,
    out: Path,
) -> Path:
    first = names[0] if names else f"text:{texts[0]}"
    given = [*names, *(word for text in texts for word in ("--text", text))]
    model_line = lines.load_arguments(model.source)
    page = Explanation(
        inputs=done,
        model=model.name,
        limits=list(compose.LIMITS[compose.kind_of(model)]),
        provenance=compose.provenance(model, seed, started),
        python=f'cutaway.run("integrated_gradients", cutaway.load({model_line}), {_quoted(first)})',
        shell=shlex.join(["cutaway", "explain", *given, *lines.model_options(model.source), "--seed", str(seed)]),
        notes=notes,
    )
    return write_explanation(page, out)


def _quoted(text: str) -> str:
    """A string as Python has it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)
