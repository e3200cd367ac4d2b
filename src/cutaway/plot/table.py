"""Table: aligned text. Pages show a real table instead."""

from typing import Any

from matplotlib.figure import Figure

from cutaway.core.result import Table
from cutaway.plot.style import LARGE, SMALL, WIDTH, figure, label, note, number, theme

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
    fig = figure(0.95 + LINE * (len(rows) + 1), max(WIDTH, sum(wide) + 0.4), fitted=False)
    note(fig, label(result.title or "Table", 70), 0.15, 0.12, fontsize=LARGE, weight="bold", color=theme().ink)
    for line, texts in enumerate([heads, *rows]):
        left = 0.15
        for text, width, at_right in zip(texts, wide, right, strict=True):
            style = {"weight": "bold", "color": theme().muted} if line == 0 else {"color": theme().ink}
            place = {"ha": "right"} if at_right else {}
            note(
                fig, text, left + (width - 0.2 if at_right else 0), 0.5 + LINE * line, fontsize=SMALL, **style, **place
            )
            left += width
    if len(rows) < len(result.rows):
        note(fig, f"… and {len(result.rows) - len(rows)} more rows", 0.15, 0.5 + LINE * (len(rows) + 1))
    return fig


def describe(result: Table) -> str:
    """Its size and columns."""
    return f"table of {len(result.rows)} rows with the columns {', '.join(result.columns)}."


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
