"""Table: aligned text. Pages show a real table instead."""

from typing import Any

from matplotlib.figure import Figure

from cutaway.core.result import Table
from cutaway.plot.style import LARGE, SMALL, WIDTH, add_axes, figure, label, note, number, theme

MOST_ROWS = 30
LINE = 0.26
LETTER = 0.078  # inches per letter at the small size
WIDEST = 34


def draw(result: Table, *, most: int = MOST_ROWS) -> Figure:
    """The first rows, numbers aligned at their right."""
    rows = [[label(cell(value), WIDEST) for value in row] for row in result.rows[:most]]
    heads = [label(name, WIDEST) for name in result.columns]
    wide = [LETTER * max(map(len, column)) + 0.25 for column in zip(heads, *rows, strict=True)]
    right = [all(_is_number(row[j]) for row in result.rows) and bool(result.rows) for j in range(len(heads))]
    top = 0.5 + _tally_height(result)
    fig = figure(top + 0.45 + LINE * (len(rows) + 1), max(WIDTH, sum(wide) + 0.4), fitted=False)
    note(fig, label(result.title or "Table", 70), 0.15, 0.12, fontsize=LARGE, weight="bold", color=theme().ink)
    _draw_tally(fig, result)
    for line, texts in enumerate([heads, *rows]):
        left = 0.15
        for text, width, at_right in zip(texts, wide, right, strict=True):
            style = {"weight": "bold", "color": theme().muted} if line == 0 else {"color": theme().ink}
            place = {"ha": "right"} if at_right else {}
            note(
                fig, text, left + (width - 0.2 if at_right else 0), top + LINE * line, fontsize=SMALL, **style, **place
            )
            left += width
    if len(rows) < len(result.rows):
        note(fig, f"… and {len(result.rows) - len(rows)} more rows", 0.15, top + LINE * (len(rows) + 1))
    return fig


def _tally_height(result: Table) -> float:
    return 0.35 + LINE * len(result.tally) + 0.2 if result.tally else 0.0


def _draw_tally(fig: Figure, result: Table) -> None:
    """A bar for each kind of row, from 0."""
    if not result.tally:
        return
    note(fig, label(result.tally_label, 70), 0.15, 0.5, fontsize=SMALL, weight="bold", color=theme().muted)
    names, most = [label(name, WIDEST) for name in result.tally], max(result.tally.values()) or 1
    left = 0.3 + LETTER * max(map(len, names))
    for line, (name, value) in enumerate(zip(names, result.tally.values(), strict=True)):
        down, wide = 0.8 + LINE * line, 3.0 * value / most
        note(fig, name, 0.15, down, fontsize=SMALL, color=theme().ink)
        if value:
            ax = add_axes(fig, left, down + 0.03, wide, LINE - 0.1)
            ax.set_facecolor(theme().muted)
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set_visible(False)
        note(fig, str(value), left + wide + 0.08, down, fontsize=SMALL, color=theme().ink)


def describe(result: Table) -> str:
    """Its size and columns."""
    counted = ", ".join(f"{name} {value}" for name, value in result.tally.items())
    tally = f" {result.tally_label}: {counted}." if counted else ""
    rows = "1 row" if len(result.rows) == 1 else f"{len(result.rows)} rows"
    return f"table of {rows} with the columns {', '.join(result.columns)}.{tally}"


def cell(value: Any) -> str:
    """A cell as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 4)
    return str(value)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
