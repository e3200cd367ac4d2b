"""Curve: lines with bands, each named in the legend with its summary."""

import textwrap

import torch
from matplotlib.figure import Figure

from cutaway.core.result import Curve
from cutaway.plot.style import DASHES, SERIES, axes, figure, label, number

MOST_NAMES = 24


def draw(result: Curve) -> Figure:
    """All series over the common axis."""
    fig = figure(3.6 if not result.x_names else 4.0)
    ax = axes(fig, result.title or "Curve")
    x = result.x.detach().cpu().double()
    for i, (name, values) in enumerate(result.y.items()):
        colour, y = SERIES[i % len(SERIES)], values.detach().cpu().double()
        mark = "o" if len(x) == 1 else ""
        ax.plot(x, y, marker=mark, color=colour, linestyle=DASHES[i % len(DASHES)], lw=2.0, label=legend(result, name))
        if name in result.low and name in result.high:
            low, high = result.low[name].detach().cpu(), result.high[name].detach().cpu()
            ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    if result.x_names:
        step = -(-len(result.x_names) // MOST_NAMES)
        ax.set_xticks(x[::step].tolist(), [label(name, 24) for name in result.x_names[::step]], rotation=40, ha="right")
    ax.set_xlabel(label(result.x_label, 80))
    ax.set_ylabel(textwrap.fill(label(result.y_label, 60), 26))  # the axis is short
    ax.grid(linewidth=0.6)
    title = ", ".join(
        filter(None, [label(result.summary_label, 60), f"{result.better} is better" if result.better else ""])
    )
    if result.y:
        fig.legend(loc="outside lower left", ncols=2, title=title or None, alignment="left")
    return fig


def describe(result: Curve) -> str:
    """Where each series starts and ends, and its summary."""
    axis = f" against {result.x_label}" if result.x_label else ""
    parts = []
    for name, values in list(result.y.items())[:6]:
        ends = values[torch.isfinite(values)]
        course = f" goes from {number(float(ends[0]))} to {number(float(ends[-1]))}" if len(ends) else " is undefined"
        area = f", {result.summary_label or 'summary'} {number(result.summary[name])}" if name in result.summary else ""
        parts.append(f"{name}{course}{area}")
    return f"{result.y_label or 'a curve'}{axis}: {'; '.join(parts)}."


def legend(result: Curve, name: str) -> str:
    """The name of a series with its summary."""
    summary = f"  {number(result.summary[name])}" if name in result.summary else ""
    return label(name, 36) + summary
