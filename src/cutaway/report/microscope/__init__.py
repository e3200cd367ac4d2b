"""A site of all units of some layers: for each a picture, its strongest examples, and the classes that go with them.

What is found out about a unit is kept in files that appear whole or not at all (`units.py`), so a run that was stopped
goes on where it was (`survey.py`). Pages are made from these files at the end and at an interrupt (`pages.py`); they
need no server, and load nothing but the pictures in the same folder.
"""

from collections.abc import Sequence
from pathlib import Path

from cutaway.core.dataset import Dataset
from cutaway.core.model import Model
from cutaway.report.microscope.survey import Survey, begun

__all__ = ["Survey", "begun", "microscope"]


def microscope(
    model: Model,
    data: Dataset | None,
    out: str | Path,
    *,
    layers: Sequence[str] = (),
    units: str = "",
    steps: int = 128,
    size: int = 96,
    k: int = 9,
    seed: int = 0,
) -> Path:
    """Write a site of static pages on every unit of some layers, or go on with one.

    One forward for each example, whatever the number of layers; then for each unit `steps` forwards and backwards that
    end at its layer, and a forward of its k examples without it.

    Args:
        model: A network of images.
        data: Where examples come from; None for pictures alone.
        out: The folder of the site. It is empty, or holds a site of the same network, data and options; layers and
            units may be added.
        layers: Places with units; the last with positions if none is named.
        units: Which of each layer: `0:16` for the first sixteen, `3,17` for two of them; all if not given.
        steps: Of the search for a unit's picture; 0 leaves pictures out.
        size: Of that picture, in pixels along a side.
        k: Examples for each unit.
        seed: Of the search.

    Returns:
        The first page.

    Raises:
        BadOption: The folder holds another site or other files, or an option is out of range.
        NotPossible: Not a network of images, or files cannot be written.
        UnknownName: No such layer.
    """
    survey = begun(model, data, out, layers=layers, units=units, steps=steps, size=size, k=k, seed=seed)
    try:
        survey.fill()
    except KeyboardInterrupt:
        survey.write()
        raise
    return survey.write()
