"""Tree: groups in their colours. Of words or columns, blocks that stand on what they join; of regions, pictures."""

import math
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from cutaway.core.result import Tree
from cutaway.plot import heat
from cutaway.plot.style import LARGE, MONO, SMALL, add_axes, figure, ink_on, label, note, number, theme

BLOCK, GAP = 0.34, 0.035  # inches: height of a step, and between two blocks
LETTER, LEAST = 0.088, 0.46  # inches: a letter of a name, and the narrowest block
LONGEST = 18  # letters of a name
MOST_THINGS = 40
MOST_PICTURES = 8
PICTURE = 1.68  # inches


def draw(result: Tree, *, percentile: float = 100.0) -> Figure:
    """Blocks for words and columns; pictures where the things are regions of one."""
    scale = scale_of(result, percentile)
    return _pictures(result, scale) if result.regions.numel() else _blocks(result, scale)


def describe(result: Tree) -> str:
    """How many groups there are, the whole's score, and the groups whose scores are largest and smallest."""
    values: list[float] = result.values.detach().cpu().double().nan_to_num().tolist()
    unit = f" {result.unit}" if result.unit else ""
    text = (
        f"tree of {len(result.names)} things in {len(result.members)} groups; all together {number(values[-1])}{unit}"
    )
    high, low = values.index(max(values)), values.index(min(values))
    return (
        f"{text}; the largest score has {_called(result, high)} with {number(values[high])}, the smallest "
        f"{_called(result, low)} with {number(values[low])}."
    )


def scale_of(result: Tree, percentile: float = 100.0) -> heat.Scale:
    """One scale for all groups, so that they can be compared."""
    return heat.scale_of(result.values, signed=True, percentile=percentile, unit=result.unit)


def order(result: Tree) -> list[int]:
    """The things from left to right, so that every group stands together: in reading order where there is one."""
    if result.sequence:
        return list(range(len(result.names)))
    below: list[list[int]] = [[] for _ in result.members]
    for i, up in enumerate(result.parents):
        if up >= 0:
            below[up].append(i)
    found, waiting = [], [len(result.members) - 1]
    while waiting:
        i = waiting.pop()
        if below[i]:
            waiting += sorted(below[i], key=lambda j: min(result.members[j]), reverse=True)
        else:
            found.append(i)
    return found


def _called(result: Tree, i: int) -> str:
    names = [result.names[j] for j in result.members[i]]
    shown = (" " if result.sequence else ", ").join(names[:8])
    return repr(f"{shown[:80]}{' …' if len(names) > 8 or len(shown) > 80 else ''}")


def _head(fig: Figure, result: Tree) -> None:
    note(fig, label(result.title or "Tree", 46), 0.15, 0.12, fontsize=LARGE, weight="bold", color=theme().ink)
    target = label(heat.subject(result.target), 34)
    note(fig, f"orange supports {target}, purple opposes it", 0.15, 0.4, fontsize=SMALL)


# -- words and columns -------------------------------------------------------------------------------------------------


def _blocks(result: Tree, scale: heat.Scale) -> Figure:
    """Single things at the bottom; a block over those that a group joins, as high as its step."""
    row = order(result)[:MOST_THINGS]
    wide = [max(LEAST, LETTER * len(label(result.names[i], LONGEST)) + 0.16) for i in row]
    left = dict(zip(row, np.cumsum([0.15, *wide[:-1]]).tolist(), strict=True))
    right = {i: left[i] + w for i, w in zip(row, wide, strict=True)}
    steps = sorted(set(result.levels))
    top, tall = 0.75, BLOCK * len(steps)
    left_out = len(result.names) - len(row)
    fig = figure(top + tall + 0.65, max(right[row[-1]] + 0.15, 4.8), fitted=False)
    _head(fig, result)
    for i, members in enumerate(result.members):
        there = [j for j in members if j in left]
        if not there:
            continue
        begin = steps.index(result.levels[i])
        end = steps.index(result.levels[result.parents[i]]) if result.parents[i] >= 0 else len(steps)
        for first, last in _runs([row.index(j) for j in there]):
            edges = left[row[first]], right[row[last]]
            _block(fig, edges, (top + tall - BLOCK * end, top + tall - BLOCK * begin), float(result.values[i]), scale)
    for i in row:
        middle = (left[i] + right[i]) / 2
        style = {"family": MONO, "fontsize": 9.4, "ha": "center", "color": theme().ink}
        note(fig, label(result.names[i], LONGEST), middle, top + tall + 0.06, **style)
    more = f"; {left_out} more things are not shown" if left_out else ""
    note(fig, label(scale.text, 90) + more, 0.15, top + tall + 0.38)
    return fig


def _runs(places: list[int]) -> list[tuple[int, int]]:
    """First and last of each unbroken run of places."""
    places = sorted(places)
    breaks = [k for k in range(1, len(places)) if places[k] != places[k - 1] + 1]
    starts, ends = [0, *breaks], [*breaks, len(places)]
    return [(places[a], places[b - 1]) for a, b in zip(starts, ends, strict=True)]


def _block(
    fig: Figure, across: tuple[float, float], down: tuple[float, float], value: float, scale: heat.Scale
) -> None:
    w, h = fig.get_size_inches()
    (left, right), (top, bottom) = across, down
    ground = heat.colour(value, scale)
    size = (right - left - GAP) / w, (bottom - top - GAP) / h
    edge: Any = {"edgecolor": theme().muted, "linewidth": 0.5}
    fig.add_artist(Rectangle(((left + GAP / 2) / w, 1 - (bottom - GAP / 2) / h), *size, facecolor=ground, **edge))
    place = ((left + right) / 2 / w, 1 - (top + bottom) / 2 / h)
    fig.text(*place, number(value, 2), ha="center", va="center", fontsize=8, color=ink_on(ground))


# -- regions of a picture ----------------------------------------------------------------------------------------------


def _pictures(result: Tree, scale: heat.Scale) -> Figure:
    """The single regions, and then what has been joined after some of the steps."""
    steps = sorted(set(result.levels))
    if len(steps) > MOST_PICTURES:
        steps = [steps[round(i)] for i in np.linspace(0, len(steps) - 1, MOST_PICTURES)]
    columns = min(4, len(steps))
    height, width = result.regions.shape
    tall, lines = min(max(PICTURE * height / max(width, 1), 0.5), 2 * PICTURE), math.ceil(len(steps) / columns)
    below = 0.72 + lines * (tall + 0.32)
    fig = figure(below + 0.3, 0.15 + 4 * (PICTURE + 0.12), fitted=False)
    _head(fig, result)
    note(fig, label(scale.text, 90), 0.15, below + 0.02)
    for k, step in enumerate(steps):
        left, top = 0.15 + k % columns * (PICTURE + 0.12), 0.72 + k // columns * (tall + 0.32)
        ax = add_axes(fig, left, top, PICTURE, tall)
        ax.imshow(picture(result, step, scale), interpolation="nearest", aspect="auto")
        ax.set_axis_off()
        note(fig, _caption(result, step), left, top + tall + 0.04, fontsize=SMALL)
    return fig


def picture(result: Tree, step: int, scale: heat.Scale) -> heat.Pixels:
    """What there is after a step: each joined group in its colour, with an outline. Before the first, all regions."""
    values = torch.zeros(len(result.names) + 1, dtype=torch.float64)
    group = torch.full((len(result.names) + 1,), -1)
    for i in result.at(step):
        if step == 0 or len(result.members[i]) > 1:
            values[result.members[i]] = float(result.values[i])
            group[result.members[i]] = i
    at = result.regions.detach().cpu().long()
    image = result.input if result.input.numel() else torch.ones(3, *at.shape)
    shown = heat.overlay(image, values[at], scale)
    shown[_edges(group[at])] = (27, 31, 36)
    return shown


def _edges(group: Tensor) -> np.ndarray:
    """Where a group ends: its own pixels beside those of another."""
    edge = torch.zeros_like(group, dtype=torch.bool)
    edge[:, 1:] |= group[:, 1:] != group[:, :-1]
    edge[1:, :] |= group[1:, :] != group[:-1, :]
    return edge.numpy()


def _caption(result: Tree, step: int) -> str:
    if step == 0:
        return f"each of {len(result.names)} alone"
    joined = [i for i in result.at(step) if len(result.members[i]) > 1]
    if len(joined) == 1:
        return f"step {step}: one group, {number(float(result.values[joined[0]]), 2)}"
    return f"step {step}: {len(joined)} groups"
