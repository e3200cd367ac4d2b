"""From a result to its figure: the module is found by the name of the shape."""

import importlib
import importlib.util
import io
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure

from cutaway.core import atomic
from cutaway.core.errors import BadOption
from cutaway.core.result import Result
from cutaway.plot.style import THEMES, themed

DPI = 110
SOFTWARE = "cutaway"


def draw(result: Result, *, theme: str = "light", **options: Any) -> Figure:
    """The drawing of a result as a matplotlib figure that pyplot knows nothing of.

    Args:
        result: Any result.
        theme: "light" or "dark".
        **options: Of the shape's own `draw`: `percentile`, `most`.
    """
    if theme not in THEMES:
        raise BadOption(f"expected theme as one of {', '.join(THEMES)}; got {theme!r}.")
    with themed(theme):
        figure: Figure = module_of(result).draw(result, **options)
    return figure


def png_bytes(result: Result, *, theme: str = "light", dpi: int = DPI, **options: Any) -> bytes:
    """The drawing as the bytes of a PNG file."""
    figure = draw(result, theme=theme, **options)
    with themed(theme), io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=dpi, metadata={"Software": SOFTWARE})
        return file.getvalue()


def png(result: Result, path: str | Path, *, overwrite: bool = True, **options: Any) -> Path:
    """Write the drawing as a PNG file, whole or not at all."""
    return atomic.write_bytes(path, png_bytes(result, **options), overwrite=overwrite, mode=atomic.SHARED)


def describe(result: Result) -> str:
    """The drawing in a sentence or two, for those who do not see it."""
    sentence: str = module_of(result).describe(result)
    return f"{result.title}: {sentence}" if result.title else sentence


def module_of(result: Result) -> ModuleType:
    """The module that draws results of this shape, or of the nearest shape that it derives from."""
    for shape in type(result).__mro__:
        name = f"{__package__}.{shape.__name__.lower()}"
        if shape is not Result and importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
    raise BadOption(f"expected a result of a shape with a drawing; got {type(result).__name__}.")
