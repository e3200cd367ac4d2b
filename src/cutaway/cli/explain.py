"""`cutaway explain PHOTO`: what a network saw, and how far that explanation can be trusted."""

import shlex
import time
from pathlib import Path

import click

from cutaway.cli.options import examples, show, with_model
from cutaway.cli.progress import bars
from cutaway.core.model import Model
from cutaway.report import Explanation, PhotoExplanation, compose, lines, write_explanation


@click.command()
@click.argument("photos", nargs=-1, required=True)
@with_model
@click.option(
    "--target", help="Class name or number, or 'logit(3) - logit(5)'. Each photo's predicted class if not given."
)
@click.option("--methods", help="Methods with commas between, or `all`. The usual eight if not given.")
@click.option(
    "--out", default="explanation", show_default=True, type=click.Path(path_type=Path), help="Folder or .html to write."
)
@click.option("--seed", default=0, show_default=True, help="Seed of every random choice.")
@click.option("--open", "open_it", is_flag=True, help="Show the page in a browser.")
def explain(
    photos: tuple[str, ...], model: Model, target: str | None, methods: str | None, out: Path, seed: int, open_it: bool
) -> None:
    """Explain what a network saw in PHOTOS, test each explanation, and write one page that needs no network.

    A photo is a file, a folder, a data set such as photos/chelsea or imagenet-samples[0:3], or - for standard input.

    \b
    Examples:
      cutaway explain cat.jpg --open
      cutaway explain cat.jpg dog.jpg --target tabby --methods rise,grad-cam --out why
      cutaway explain cat.jpg --model net.py:make --weights net.safetensors --size 64 --classes names.txt
    """  # noqa: D301 click reads \b as "keep these lines"
    started = time.perf_counter()
    batch, chosen = examples(photos, model), compose.chosen(methods)
    done: list[PhotoExplanation] = []
    notes = list(batch.notes)
    try:
        with bars():
            for explained, refused in compose.photos(model, batch, chosen, target=target, seed=seed):
                done.append(explained)
                notes += [note for note in refused if note not in notes]
    except KeyboardInterrupt:
        if done:
            notes.append(f"Interrupted after {len(done)} of {len(batch)} photos.")
            page = _write(done, model, notes, photos, seed, started, out)
            click.echo(f"kept: {page} with {len(done)} of {len(batch)} photos")
        raise
    for photo in done:
        (best, probability), *_ = photo.predictions
        click.echo(f"{photo.name}: {best} ({probability:.1%})")
        for shown in photo.maps:
            click.echo(f"  {shown.attribution.provenance.method}: {shown.sentence}")
    page = _write(done, model, notes, photos, seed, started, out)
    click.echo(f"report: {page}  ({time.perf_counter() - started:.0f} s)")
    if open_it:
        show(page)


def _write(
    done: list[PhotoExplanation],
    model: Model,
    notes: list[str],
    names: tuple[str, ...],
    seed: int,
    started: float,
    out: Path,
) -> Path:
    page = Explanation(
        photos=done,
        model=model.name,
        limits=list(compose.LIMITS),
        provenance=compose.provenance(model, seed, started),
        python=f'cutaway.run("integrated_gradients", cutaway.load({lines.load_arguments(model.source)}), "{names[0]}")',
        shell=shlex.join(["cutaway", "explain", *names, *lines.model_options(model.source), "--seed", str(seed)]),
        notes=notes,
    )
    return write_explanation(page, out)
