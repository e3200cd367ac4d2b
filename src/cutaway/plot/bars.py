"""Attribution of columns or units: one bar each, the largest first."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutaway.core.result import Attribution
from cutaway.plot import heat
from cutaway.plot.style import SMALL, figure, label, number, theme

MOST_BARS = 20


def is_row(result: Attribution) -> bool:
    """Whether the explained inputs are rows of numbers."""
    return result.input.ndim == 2 and result.input.is_floating_point() and result.input.shape == result.values.shape


def names(result: Attribution, i: int) -> list[str]:
    """A name per entry: what the result calls them, else their index."""
    count = result.values[i].numel()
    given = result.tokens[i] if len(result.tokens) > i else []
    if len(given) == count:
        return given
    site = "" if result.wrt == "input" else result.wrt
    shape = result.values.shape[1:]
    if len(shape) < 2:
        return [f"{site}:{j}" if site else f"column {j}" for j in range(count)]
    return [f"{site}[{j}]" for j in range(count)]


def draw(result: Attribution, *, most: int) -> Figure:
    """Bars of the first few inputs, one chart each."""
    shown = min(len(result.values), most)
    count = min(result.values[0].numel() if len(result.values) else 0, MOST_BARS)
    fig = figure(max(shown, 1) * (0.9 + 0.24 * count) + 0.5)
    for i, ax in enumerate(fig.subplots(max(shown, 1), 1, squeeze=False)[:, 0]):
        if i < shown:
            _draw_row(ax, result, i)
    upper, lower = heat.ends(result)
    meaning = f"right of 0: {label(upper, 60)}; left of 0: {label(lower, 60)}" if lower else label(upper, 60)
    fig.suptitle(label(result.title or "Attribution", 70), x=0.02, ha="left", weight="bold", fontsize=11.5)
    fig.supxlabel(meaning, fontsize=SMALL, color=theme().muted)
    return fig


def _draw_row(ax: Axes, result: Attribution, i: int) -> None:
    values = result.values[i].detach().cpu().double().flatten()
    called = names(result, i)
    order = values.abs().argsort(descending=True, stable=True)[:MOST_BARS].tolist()
    scale = heat.scale_of(values, signed=result.signed, percentile=100, unit=result.unit)
    at_input = result.input[i].flatten() if is_row(result) else None
    for place, j in enumerate(order):
        value = float(values[j])
        # A thin outline: the palest colours are near the ground's.
        ax.barh(place, value, height=0.72, color=heat.colour(value, scale), edgecolor=theme().muted, linewidth=0.5)
        ax.annotate(
            f" {number(value)} ", (value, place), va="center", ha="left" if value >= 0 else "right", fontsize=SMALL
        )
    shown = [
        f"{label(called[j], 30)}" + (f" = {number(float(at_input[j]))}" if at_input is not None else "") for j in order
    ]
    ax.set_yticks(range(len(order)), shown)
    ax.invert_yaxis()
    ax.axvline(0, color=theme().muted, linewidth=0.8)
    ax.margins(x=0.18)
    left_out = f", the {len(order)} largest of {len(values)}" if len(order) < len(values) else ""
    ax.set_xlabel(f"{label(result.unit, 60) or 'value'} at {label(result.wrt, 30)}{left_out}")
