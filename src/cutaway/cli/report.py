"""`cutaway report KEY...`: a page from results that were kept."""

from pathlib import Path

import click

from cutaway.cli.options import show
from cutaway.plot import png_bytes
from cutaway.report import write
from cutaway.store import Study


@click.command()
@click.argument("keys", nargs=-1)
@click.option(
    "--study", default="cutaway-study", show_default=True, type=click.Path(path_type=Path), help="Folder of results."
)
@click.option(
    "--out", default="report.html", show_default=True, type=click.Path(path_type=Path), help="The page to write."
)
@click.option("--open", "open_it", is_flag=True, help="Show it in a browser.")
def report(keys: tuple[str, ...], study: Path, out: Path, open_it: bool) -> None:
    """Make a page of kept results: `cutaway report 3f2a91 77c0de --out why.html`. Without keys, list what is kept."""
    kept = Study(study, draw=png_bytes)
    if not keys:
        for entry in kept.find():
            click.echo(f"{entry.key[:12]}\t{entry.method}\t{entry.model}\t{entry.target}\t{entry.created}")
        return
    page = write([kept.get(key) for key in keys], out)
    click.echo(f"report: {page}")
    if open_it:
        show(page)
