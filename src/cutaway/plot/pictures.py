"""Pictures: a grid with captions."""

import math

from matplotlib.figure import Figure

from cutaway.core.result import Pictures
from cutaway.plot import heat
from cutaway.plot.style import LARGE, WIDTH, add_axes, figure, label, note, theme

MOST = 64


def draw(result: Pictures, *, most: int = MOST) -> Figure:
    """The first pictures, at equal width."""
    shown = min(len(result.images), most)
    columns = min(result.columns or min(4, max(shown, 1)), 8)
    rows = math.ceil(max(shown, 1) / columns)
    height, width = result.images.shape[-2:]
    wide = (WIDTH - 0.15) / columns - 0.15
    tall = min(wide * height / max(width, 1), 2 * wide)
    letters, head = max(8, int(wide / 0.075)), 0.28 if result.headings else 0.0
    line = tall + 0.35 + head
    fig = figure(0.5 + rows * line + 0.25, fitted=False)
    note(fig, label(result.title or "Pictures", 70), 0.15, 0.12, fontsize=LARGE, weight="bold", color=theme().ink)
    for i in range(shown):
        row, column = divmod(i, columns)
        left, top = 0.15 + column * (wide + 0.15), 0.5 + row * line + head
        if column == 0 and row < len(result.headings):
            note(fig, label(result.headings[row], int(WIDTH / 0.075)), left, top - head, weight="bold")
        ax = add_axes(fig, left, top, wide, tall)
        ax.imshow(heat.photo(result.images[i]), interpolation="nearest", aspect="auto")
        ax.set_axis_off()
        note(fig, label(result.captions[i], letters), left, top + tall + 0.04)
    if shown < len(result.images):
        note(fig, f"… and {len(result.images) - shown} more", 0.15, 0.5 + rows * line)
    return fig


def describe(result: Pictures) -> str:
    """How many pictures, and their first captions."""
    captions = "; ".join(result.captions[:6])
    return f"{len(result.images)} pictures{f': {captions}' if captions else ''}."
