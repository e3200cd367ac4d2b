"""`cutaway microscope MODEL`: a site of all units of some layers."""

import re
import time
from functools import partial
from pathlib import Path

import click

from cutaway.cli.options import show, with_model
from cutaway.cli.progress import bars
from cutaway.core.model import Model
from cutaway.data.lazy import opened
from cutaway.report.microscope import begun


@click.command()
@partial(with_model, argument=True, taken=("size",))
@click.option("--x", help="Data set or folder that examples come from (`cutaway data`); without it, pictures alone.")
@click.option("--layers", default="", help="Places with `;` between them (`cutaway layers`); the last with positions.")
@click.option("--units", default="", help="Which of each layer: 0:16 for the first sixteen, 3,17 for two; all.")
@click.option(
    "--out", default="microscope", show_default=True, type=click.Path(path_type=Path), help="Folder to write."
)
@click.option("--steps", default=128, show_default=True, help="Steps for the picture of each unit; 0 for no pictures.")
@click.option("--size", default=96, show_default=True, help="Pixels along a side of that picture.")
@click.option("--k", default=9, show_default=True, help="Examples for each unit.")
@click.option("--seed", default=0, show_default=True, help="Seed of the pictures.")
@click.option("--open", "open_it", is_flag=True, help="Show the site in a browser.")
def microscope(
    model: Model,
    x: str | None,
    layers: str,
    units: str,
    out: Path,
    steps: int,
    size: int,
    k: int,
    seed: int,
    open_it: bool,
) -> None:
    """Write a site of static pages on every unit of some layers: pictures, examples, classes.

    Stopped, it goes on where it was when it is called again; layers and units may be added.

    \b
    Examples:
      cutaway microscope shapes-cnn --layers "relu3;relu5" --x "shapes/test[0:500]" --out units
      cutaway microscope net.py:make --weights net.safetensors --model-size 224 --layers layer3 --x photos/
    """  # noqa: D301 click reads \b as "keep these lines"
    started = time.perf_counter()
    data = None if x is None else opened(x, space=model.space)
    places = [place.strip() for place in re.split("[;,]", layers) if place.strip()]
    survey = begun(model, data, out, layers=places, units=units, steps=steps, size=size, k=k, seed=seed)
    try:
        with bars():
            survey.fill()
    except KeyboardInterrupt:
        click.echo(f"kept: {survey.write()} with {survey.done} of {survey.total} units; the same command goes on")
        raise
    page = survey.write()
    click.echo(f"site: {page}  ({survey.total} units, {time.perf_counter() - started:.0f} s)")
    if open_it:
        show(page)
