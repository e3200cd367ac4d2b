"""Commands that list what there is: methods, models, data sets, and the layers of a model."""

import json
from functools import partial
from typing import Any

import click
from rich.console import Console
from rich.table import Table as Sheet

from cutaway.cli.options import with_model
from cutaway.core.bibliography import paper
from cutaway.core.catalogue import catalogue
from cutaway.core.errors import BadOption
from cutaway.core.model import Model
from cutaway.data import names as data_names
from cutaway.zoo import names as model_names

as_json = click.option("--json", "in_json", is_flag=True, help="Print as JSON.")


@click.command()
@click.option("--room", help="Only one kind: attribution, evaluation.")
@as_json
def methods(room: str | None, in_json: bool) -> None:
    """List the methods: `cutaway methods --json` has all options, papers and laws."""
    entries = [m for m in catalogue().values() if room in (None, m.room)]
    if not entries:
        raise BadOption(
            f"expected --room out of {', '.join(sorted({m.room for m in catalogue().values()}))}; got {room!r}."
        )
    if in_json:
        click.echo(json.dumps([m.as_json() | {"citation": paper(m.paper).citation} for m in entries], indent=1))
        return
    _print(["method", "room", "what it answers", "result"], [[m.name, m.room, m.summary, m.result] for m in entries])


@click.command()
@as_json
def models(in_json: bool) -> None:
    """List the models known by name. Your own: `--model net.py:function --weights FILE --size 224`."""
    _list(["model", "what it is"], model_names(), in_json)


@click.command("data")
@as_json
def data(in_json: bool) -> None:
    """List the data sets. Your own: a photo, `folder:PATH`, or `-` for standard input. A slice: `shapes/test[0:16]`."""
    _list(["data", "what it is"], data_names(), in_json)


@click.command()
@partial(with_model, argument=True)
@as_json
def layers(model: Model, in_json: bool) -> None:
    """List the places of a model that can be read, edited and explained: `cutaway layers shapes-cnn`."""
    found = model.layers()
    if in_json:
        click.echo(json.dumps([layer._asdict() for layer in found], indent=1))
        return
    rows = [[p.site, p.kind, _size(p.shape), f"{p.parameters:,}", "" if p.calls == 1 else str(p.calls)] for p in found]
    _print(["place", "module", "shape", "parameters", "calls"], rows)


def _size(shape: tuple[int, ...] | None) -> str:
    return "several parts" if shape is None else " x ".join(map(str, shape))


def _list(columns: list[str], rows: list[tuple[str, str]], in_json: bool) -> None:
    if in_json:
        click.echo(json.dumps([{"name": name, "summary": about} for name, about in rows], indent=1))
    else:
        _print(columns, [list(row) for row in rows])


def _print(columns: list[str], rows: list[list[Any]]) -> None:
    console = Console()
    if not console.is_terminal:  # for `grep` and `cut`: one line each, tabs between
        for row in rows:
            click.echo("\t".join(row))
        return
    sheet = Sheet(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        sheet.add_row(*row)
    console.print(sheet, markup=False)
