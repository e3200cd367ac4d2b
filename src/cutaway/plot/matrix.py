"""Matrix: coloured cells with names, and the numbers themselves where there is room; pairs of words also as arcs."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutaway.core.result import Matrix
from cutaway.plot import arcs, heat
from cutaway.plot.style import LARGE as TITLE
from cutaway.plot.style import SMALL, add_axes, figure, ink_on, label, note, number, theme

APART = 0.15  # inches between two names
MOST_NUMBERS = 12
SIDE = 4.6  # inches at most


def draw(result: Matrix, *, percentile: float = 100.0) -> Figure:
    """Cells on a scale that ends at the largest size unless a percentile is given."""
    values = result.values.detach().cpu().double()
    rows, columns = values.shape
    scale = heat.scale_of(values, signed=result.signed, percentile=percentile, unit=result.unit)
    cell = min(0.5, SIDE / max(rows, columns, 1))
    over = arcs.height(result) + 0.25 if arcs.fits(result) else 0.0
    left, top = 0.3 + 0.075 * _longest(result.row_names), 0.55 + over
    below = 0.35 + 0.06 * _longest(result.column_names)
    wide, tall = max(cell * columns, 0.8), max(cell * rows, 0.8)
    across = max(left + wide + 1.1, 4.5, max(arcs.width(result) + 0.3, arcs.LEGEND) if over else 0.0)
    fig = figure(top + tall + below + 0.35, across, fitted=False)
    note(fig, label(result.title or "Matrix", 60), 0.15, 0.12, fontsize=TITLE, weight="bold", color=theme().ink)
    if over:
        arcs.draw(fig, result, 0.15, 0.5)
    ax = add_axes(fig, left, top, wide, tall)
    level = heat.levels(values, scale)
    ax.imshow(heat.palette(scale.signed)[level], interpolation="nearest", aspect="auto")
    _name_axes(ax, result, every=max(1, math.ceil(APART / cell)))
    if max(rows, columns) <= MOST_NUMBERS:
        _write_numbers(ax, values.numpy(), level, scale)
    _bar(fig, scale, left + wide + 0.2, top, tall)
    undefined = "; grey: undefined" if bool(values.isnan().any()) else ""
    note(fig, label(scale.text, 110) + undefined, 0.15, top + tall + below + 0.05)
    return fig


def describe(result: Matrix) -> str:
    """Its size and its extreme entries."""
    values = result.values.detach().cpu().double()
    size = f"matrix of {values.shape[0]} rows and {values.shape[1]} columns"
    if values.numel() == 0 or bool(values.isnan().all()):
        return f"{size}; no entry is defined."
    sizes = values.abs() if result.signed else values
    place = int(sizes.nan_to_num(nan=-np.inf).argmax())
    row, column = divmod(place, values.shape[1])
    unit = f" {result.unit}" if result.unit else ""
    where = f"{_name(result.row_names, row)} × {_name(result.column_names, column)}"
    largest = "largest entry in size" if result.signed else "largest entry"
    return f"{size}; the {largest} is {number(float(values[row, column]))}{unit} at {where}."


def _name(names: list[str], i: int) -> str:
    return names[i] if i < len(names) else str(i)


def _longest(names: list[str]) -> int:
    return max((min(len(name), 24) for name in names), default=0)


def _name_axes(ax: Axes, result: Matrix, every: int) -> None:
    for names, axis in ((result.row_names, ax.yaxis), (result.column_names, ax.xaxis)):
        places = range(0, len(names), every)
        axis.set_ticks(list(places), [label(names[i], 24) for i in places])
    ax.tick_params(length=0, labelsize=SMALL)
    for tick in ax.get_xticklabels():
        tick.set(rotation=40, ha="right", rotation_mode="anchor")
    ax.spines[:].set_visible(False)


def _write_numbers(ax: Axes, values: np.ndarray, level: heat.Pixels, scale: heat.Scale) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            ground = heat.palette(scale.signed)[level[row, column]] / 255
            text = _short(float(value), scale.limit)
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color=ink_on(ground))


def _short(value: float, limit: float) -> str:
    """A number with the decimals that the largest one needs, so that cells of one size hold them all."""
    if not 1e-2 <= limit < 1e5:
        return number(value, 2)
    decimals = max(0, 2 - math.ceil(math.log10(limit)) if limit < 1 else 2 - len(str(int(limit))) + 1)
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _bar(fig: Figure, scale: heat.Scale, left: float, top: float, tall: float) -> None:
    ax = add_axes(fig, left, top, 0.14, tall)
    steps = np.arange(heat.LEVELS, dtype=np.uint8)[::-1, None]
    low = -1 if scale.signed else 0
    ax.imshow(heat.palette(scale.signed)[steps], aspect="auto", extent=(0, 1, low, 1))
    ax.set_xticks([])
    ax.yaxis.tick_right()
    places = [-1, 0, 1] if scale.signed else [0, 1]
    ax.set_yticks(places, [number(scale.limit * place) for place in places])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
