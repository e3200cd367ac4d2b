"""Points: a scatter in two or three dimensions; groups differ by colour and by mark."""

from collections import Counter
from typing import Any

import torch
from matplotlib.figure import Figure

from cutaway.core.result import Points
from cutaway.plot.style import MARKERS, SERIES, SMALL, figure, label, theme

MOST_GROUPS = 8
MOST_NAMES = 25
OTHER = "other groups"


def draw(result: Points) -> Figure:
    """All points; the seven largest groups have a colour of their own if there are more than eight."""
    fig = figure(5.0)
    positions = result.positions.detach().cpu().double()
    flat = positions.shape[1] == 2
    ax: Any = fig.add_subplot() if flat else fig.add_subplot(projection="3d")
    ax.set_title(label(result.title or "Points", 80))
    size = max(4.0, min(36.0, 6000 / max(len(positions), 1)))
    groups = _groups(result)
    for i, name in enumerate(dict.fromkeys(groups)):
        chosen = positions[torch.tensor([group == name for group in groups])]
        colour = theme().muted if name == OTHER else SERIES[i % len(SERIES)]
        caption = f"{label(name, 30)} ({len(chosen)})"
        style = {"s": size, "color": colour, "marker": MARKERS[i % len(MARKERS)], "alpha": 0.8, "linewidths": 0}
        ax.scatter(*chosen.T.tolist(), label=caption, **style)
        if name in result.joined:
            ax.plot(*chosen.T.tolist(), color=colour, linestyle=":", lw=1.5)
    if 0 < len(result.names) <= MOST_NAMES:
        # Beside others of a line, the legend says what a point is, and the names on the line need the room.
        named = [
            (label(name, 24), place)
            for name, group, place in zip(result.names, groups, positions.tolist(), strict=False)
            if not result.joined or group in result.joined
        ]
        for k, (name, place) in enumerate(named):
            if flat:  # above and below in turn, so that neighbours on a line do not cover each other's
                ax.annotate(name, place, xytext=(4, (5, -12)[k % 2]), textcoords="offset points", fontsize=SMALL)
            else:
                ax.text(*place, f" {name}", fontsize=SMALL)
    for name, axis in zip(result.axes, "xyz", strict=False):
        getattr(ax, f"set_{axis}label")(label(name, 40))
    ax.grid(linewidth=0.6)
    if result.groups:
        fig.legend(loc="outside lower left", ncols=3)
    return fig


def describe(result: Points) -> str:
    """How many points in which groups."""
    count = Counter(result.groups).most_common(5)
    groups = f" in {len(set(result.groups))} groups: {', '.join(f'{n} ({k})' for n, k in count)}" if count else ""
    return f"{len(result.positions)} points in {result.positions.shape[1]} dimensions{groups}."


def _groups(result: Points) -> list[str]:
    if not result.groups:
        return ["points"] * len(result.positions)
    count = Counter(result.groups)
    if len(count) <= MOST_GROUPS:
        return list(result.groups)
    kept = {name for name, _ in count.most_common(MOST_GROUPS - 1)}
    return [group if group in kept else OTHER for group in result.groups]
