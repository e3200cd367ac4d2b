"""The files of a report: `NAME.html`, `NAME.json` beside it, and `NAME_pictures` with the drawings."""

import re
from collections.abc import Mapping
from pathlib import Path

from cutaway.core import atomic
from cutaway.core.errors import BadOption
from cutaway.core.result import Result
from cutaway.plot import png_bytes
from cutaway.plot.drawing import SOFTWARE
from cutaway.report import data, page


def write(path: str | Path, html: str, json: str, pictures: Mapping[str, Result], *, overwrite: bool) -> Path:
    """Write the pictures, the JSON and at last the page, each whole or not at all."""
    path = html_path(path)
    folder = atomic.make_folder(path.with_name(f"{path.stem}_pictures"), mode=0o777)
    for name, result in pictures.items():
        picture = folder / f"{name}.png"
        ours = SOFTWARE.encode()
        atomic.write_bytes(picture, png_bytes(result), overwrite=overwrite, ours=ours, mode=atomic.SHARED, sync=False)
    beside = path.with_suffix(".json")
    atomic.write_text(beside, json, overwrite=overwrite, ours=data.MADE_BY, mode=atomic.SHARED)
    return atomic.write_text(path, html, overwrite=overwrite, ours=page.GENERATOR, mode=atomic.SHARED)


def html_path(path: str | Path) -> Path:
    """The HTML file meant: itself, or `report.html` in a folder. Its folder is made."""
    path = Path(path)
    if path.is_dir() or not path.suffix:
        path = path / "report.html"
    if path.suffix.lower() not in (".html", ".htm"):
        raise BadOption(f"expected a folder or a name that ends in .html for the report; got {str(path)!r}.")
    atomic.make_folder(path.parent, mode=0o777)
    return path


def slug(text: str) -> str:
    """A short file name from any text: letters a to z, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text[:200].lower()).strip("-")[:40].strip("-") or "result"
