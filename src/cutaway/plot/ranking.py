"""Ranking: a bar per thing, best first."""

from matplotlib.figure import Figure

from cutaway.core.result import Ranking
from cutaway.plot.style import SMALL, axes, figure, label, number, theme

MOST = 20


def draw(result: Ranking, *, most: int = MOST) -> Figure:
    """The first things with their scores."""
    shown = min(len(result.names), most)
    fig = figure(1.1 + 0.27 * max(shown, 1))
    ax = axes(fig, result.title or "Ranking")
    values = result.values[:shown].detach().cpu().double().tolist()
    ax.barh(range(shown), values, height=0.7, color=theme().accent)
    for place, value in enumerate(values):
        ax.annotate(
            f" {number(value)} ", (value, place), va="center", ha="left" if value >= 0 else "right", fontsize=SMALL
        )
    ax.set_yticks(range(shown), [label(name, 36) for name in result.names[:shown]])
    ax.set_ylim(max(shown, 1) - 0.5, -0.5)
    ax.margins(x=0.14)
    ax.axvline(0, color=theme().muted, linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    at = f" at {label(result.site, 40)}" if result.site else ""
    left_out = f"; the first {shown} of {len(result.names)}" if shown < len(result.names) else ""
    ax.set_xlabel(f"{label(result.unit, 60) or 'score'}{at}{left_out}")
    return fig


def describe(result: Ranking) -> str:
    """The first five."""
    pairs = [f"{name} {number(float(value))}" for name, value in zip(result.names[:5], result.values, strict=False)]
    at = f" at {result.site}" if result.site else ""
    return f"{len(result.names)} things in order{at}: {', '.join(pairs)}{' …' if len(result.names) > 5 else ''}."
