"""Contributions of columns as steps: from the target on the baseline to the target on the input.

Only where values add up to that change: a method that claims to be complete, on a row of a table.
"""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutaway.core.errors import NotPossible
from cutaway.core.result import Attribution
from cutaway.plot import bars, heat
from cutaway.plot.style import SMALL, figure, label, number, theme

MOST_STEPS = 14
GAP = 1e-3  # share of all steps from which on a gap is shown


class Step(NamedTuple):
    """One column: its name with the value in the input, and where the target is before and after it."""

    name: str
    start: float
    end: float

    @property
    def value(self) -> float:
        """The contribution."""
        return self.end - self.start


def fits(result: Attribution) -> bool:
    """Whether the values are the steps from a baseline to the score."""
    return len(result.values) > 0 and bars.is_row(result) and bars.base(result, 0) is not None


def steps(result: Attribution, i: int) -> list[Step]:
    """The largest contributions first, then all others together, then what the values miss of the score.

    Raises:
        NotPossible: The values do not add up to a change of the target.
    """
    at = bars.base(result, i) if bars.is_row(result) else None
    if at is None:
        method = result.provenance.method or "this map"
        raise NotPossible(
            f"a waterfall needs contributions of columns that add up from a baseline; {method} does not claim that. "
            "Draw bars, or take integrated_gradients."
        )
    every = sorted(bars.columns(result, i), key=lambda bar: -abs(bar.value))
    shown, others = every[:MOST_STEPS], every[MOST_STEPS:]
    parts = [(bar.name, bar.value) for bar in shown]
    parts += [(f"{len(others)} other columns", sum(bar.value for bar in others))] if others else []
    gap = float(result.score[i]) - at - sum(value for _, value in parts)
    parts += [("not explained", gap)] if abs(gap) > GAP * sum(abs(value) for _, value in parts) else []
    found = []
    for name, value in parts:
        found.append(Step(name, at, at + value))
        at += value
    return found


def draw(result: Attribution, *, most: int) -> Figure:
    """The steps of the first few inputs, one chart each."""
    shown = min(len(result.values), most)
    every = [steps(result, i) for i in range(shown)]
    fig = figure(sum(1.35 + 0.27 * len(part) for part in every) + 0.5)
    heights = [1.35 + 0.27 * len(part) for part in every]
    for i, ax in enumerate(fig.subplots(shown, 1, squeeze=False, height_ratios=heights)[:, 0]):
        _draw_row(ax, result, i, every[i])
    fig.suptitle(label(result.title or "Attribution", 70), x=0.02, ha="left", weight="bold", fontsize=11.5)
    upper, lower = heat.ends(result)
    fig.supxlabel(
        f"to the right: {label(upper, 60)}; to the left: {label(lower, 60)}", fontsize=SMALL, color=theme().muted
    )
    return fig


def _draw_row(ax: Axes, result: Attribution, i: int, every: list[Step]) -> None:
    begin, score = bars.base(result, i) or 0.0, float(result.score[i])
    most = max((abs(step.value) for step in every), default=1.0) or 1.0
    scale = heat.Scale(limit=most, signed=True, percentile=100, clipped=0)
    ax.plot([begin, begin], [-0.5, 0.6], color=theme().muted, linewidth=1)
    for place, step in enumerate(every, start=1):
        colour = heat.colour(step.value, scale)
        ax.barh(place, step.value, left=step.start, height=0.7, color=colour, edgecolor=theme().muted, linewidth=0.5)
        ax.plot([step.end, step.end], [place - 0.35, place + 1.35], color=theme().muted, linewidth=0.6)
        outer, side = (max(step.start, step.end), "left") if step.value >= 0 else (min(step.start, step.end), "right")
        sign = "+" if step.value > 0 else ""
        ax.annotate(f" {sign}{number(step.value)} ", (outer, place), va="center", ha=side, fontsize=SMALL)
    last = len(every) + 1
    ax.annotate(f" {number(begin)} ", (begin, 0), va="center", ha="left", fontsize=SMALL, weight="bold")
    ax.annotate(f" {number(score)} ", (score, last), va="center", ha="left", fontsize=SMALL, weight="bold")
    ax.plot([score, score], [last - 0.35, last + 0.4], color=theme().ink, linewidth=2)
    words = ["on the baseline", *(label(step.name, 36) for step in every), "on this input"]
    ax.set_yticks(range(last + 1), words)
    ax.invert_yaxis()
    places = [begin, *(end for step in every for end in (step.start, step.end))]
    room = 0.16 * ((max(places) - min(places)) or 1.0)
    ax.set_xlim(min(places) - room, max(places) + room)
    ax.set_xlabel(label(result.target, 60) or "target")
