"""Scores: a dot per number, a line for its interval."""

from matplotlib.figure import Figure

from cutaway.core.result import Scores
from cutaway.plot.style import NORMAL, SMALL, axes, figure, label, number, theme


def draw(result: Scores) -> Figure:
    """Dots on one axis, with the number written beside each."""
    fig = figure(1.1 + 0.34 * max(len(result.names), 1))
    ax = axes(fig, result.title or "Scores")
    values = result.values.detach().cpu().double().tolist()
    colours = theme()
    for place, value in enumerate(values):
        if len(result.low) and len(result.high):
            ax.plot(
                [float(result.low[place]), float(result.high[place])],
                [place, place],
                color=colours.accent,
                lw=2.2,
                alpha=0.55,
            )
        ax.plot([value], [place], "o", color=colours.accent, markersize=6.5)
        ax.annotate(
            text_of(result, place), (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=NORMAL
        )
    ax.set_yticks(range(len(values)), [label(name) for name in result.names])
    ax.set_ylim(max(len(values), 1) - 0.5, -0.5)
    ax.margins(x=0.08)
    low, high = ax.get_xlim()
    if low < 0 < high:
        ax.axvline(0, color=colours.muted, linewidth=0.8)
    ax.grid(axis="x", linewidth=0.6)
    ax.tick_params(axis="y", length=0, labelsize=NORMAL)
    ax.set_xlabel(axis_label(result.unit, result.better), fontsize=SMALL)
    return fig


def describe(result: Scores) -> str:
    """The numbers in words."""
    parts = [f"{name} {text_of(result, i)}" for i, name in enumerate(result.names)]
    unit = f" ({axis_label(result.unit, result.better)})" if result.unit or result.better else ""
    return f"{'; '.join(parts[:8])}{f'; and {len(parts) - 8} more' if len(parts) > 8 else ''}{unit}."


def text_of(result: Scores, i: int) -> str:
    """The i-th number with its interval."""
    text = number(float(result.values[i]))
    if len(result.low) and len(result.high):
        text += f" [{number(float(result.low[i]))}, {number(float(result.high[i]))}]"
    return text


def axis_label(unit: str, better: str) -> str:
    """A unit, and which direction is good."""
    return ", ".join(filter(None, [label(unit, 70), f"{better} is better" if better else ""]))
