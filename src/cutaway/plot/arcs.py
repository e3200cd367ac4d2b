"""Arcs over the words of a text: above, two words that add more together; below, dotted, two that add less."""

import math
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from cutaway.core.result import Matrix
from cutaway.plot import heat
from cutaway.plot.style import MONO, SMALL, add_axes, label, theme

LETTER = 0.092  # inches
# Words wider than this together are not drawn over one line.
MOST = 9.0
# Arcs of less than this share of the strongest are left out, and so are all beyond this number: they hide the others.
LEAST, MOST_ARCS = 0.1, 24
# Inches for the highest arc, and for the line of words; and for the sentence below.
HIGH, LINE = 0.95, 0.3
LEGEND = 5.7


def fits(result: Matrix) -> bool:
    """True if the matrix is about the words of a text that are short enough to be drawn in a line."""
    return result.sequence and len(result.row_names) >= 2 and width(result) <= MOST


def width(result: Matrix) -> float:
    """Of the line of words, in inches."""
    return LETTER * sum(len(_shown(name)) + 1 for name in result.row_names)


def height(result: Matrix) -> float:
    """Of the drawing, in inches: no room below where nothing opposes."""
    pairs = _pairs(result)
    return LINE + sum(HIGH for sign in (1, -1) if any(sign * value > 0 for _, _, value in pairs)) + 0.3


def draw(fig: Figure, result: Matrix, left: float, top: float) -> None:
    """Draw the words and their arcs at a place of a figure, in inches."""
    pairs = _pairs(result)
    above = HIGH if any(value > 0 for _, _, value in pairs) else 0.05
    wide, tall = width(result), height(result)
    ax = add_axes(fig, left, top, wide, tall)
    ax.set(xlim=(0, wide), ylim=(tall, 0))
    ax.set_axis_off()
    centres, x = [], 0.0
    for name in result.row_names:
        text = _shown(name)
        centres.append(x + LETTER * len(text) / 2)
        ax.text(
            centres[-1], above + LINE / 2, text, family=MONO, fontsize=10, ha="center", va="center", color=theme().ink
        )
        x += LETTER * (len(text) + 1)
    scale = heat.Scale(limit=max(abs(v) for _, _, v in pairs) if pairs else 1.0, signed=True, percentile=100, clipped=0)
    farthest = {s: max((abs(centres[i] - centres[j]) for i, j, v in pairs if s * v > 0), default=1.0) for s in (1, -1)}
    for i, j, value in sorted(pairs, key=lambda pair: abs(pair[2])):
        across = abs(centres[i] - centres[j])
        rise = HIGH * 0.92 * min(math.sqrt(across / farthest[1 if value > 0 else -1]), across)
        base, peak = (above, above - rise) if value > 0 else (above + LINE, above + LINE + rise)
        ax.add_patch(_arc(centres[i], centres[j], base, peak, value, scale))
    ax.text(0, tall - 0.14, _legend(result, pairs), fontsize=SMALL, color=theme().muted, va="center")


def _pairs(result: Matrix) -> list[tuple[int, int, float]]:
    """The pairs that are drawn: the strongest, and of those that are estimated, the ones whose interval lacks 0."""
    values = result.values.detach().cpu().double().nan_to_num()
    if result.low.numel():
        sure = (result.low.nan_to_num() > 0) | (result.high.nan_to_num() < 0)
        values = torch.where(sure.cpu(), values, 0.0)
    rows, columns = np.triu_indices(len(values), 1)
    found = [(int(i), int(j), float(values[i, j])) for i, j in zip(rows, columns, strict=True)]
    limit = max((abs(v) for _, _, v in found), default=0.0)
    found = [pair for pair in found if limit and abs(pair[2]) >= LEAST * limit]
    return sorted(found, key=lambda pair: -abs(pair[2]))[:MOST_ARCS]


def _arc(a: float, b: float, base: float, peak: float, value: float, scale: heat.Scale) -> PathPatch:
    # The middle of a cubic curve is at 3/4 of the height of its two handles.
    handle = base + (peak - base) * 4 / 3
    path = Path([(a, base), (a, handle), (b, handle), (b, base)], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    part = abs(value) / scale.limit
    style: Any = "solid" if value > 0 else (0, (1.2, 1.2))
    # The ends of the scale are lost on paper or on black: a line has its colour from the middle, its weight from size.
    colour = heat.colour(math.copysign(0.5 + 0.25 * part, value) * scale.limit, scale)
    return PathPatch(path, fill=False, edgecolor=colour, linewidth=0.7 + 2.6 * part, linestyle=style, capstyle="round")


def _legend(result: Matrix, pairs: list[tuple[int, int, float]]) -> str:
    if not pairs:
        return "no two words interact" + (" beyond the error of the estimate" if result.low.numel() else "")
    sure = " whose interval lacks 0" if result.low.numel() else ""
    count = len(result.row_names) * (len(result.row_names) - 1) // 2
    return f"{len(pairs)} of {count} pairs{sure}; above: more together than apart; below, dotted: less"


def _shown(name: str) -> str:
    return label(name, 16) or " "
