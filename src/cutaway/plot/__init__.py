"""One drawing per result shape, in light and dark, never through pyplot.

What all drawings share: signed values have a diverging scale centred at exactly 0 with equal limits (orange supports
the target, purple opposes it, safe for colour-blind readers); unsigned values have one that only darkens. A scale says
in words what its ends mean, in which unit, and how many values lie beyond it. Labels are drawn as plain text, whatever
they hold.

A shape `Curve` is drawn by the module `cutaway.plot.curve`, which has `draw(result, ...) -> Figure` and
`describe(result) -> str`; nothing else needs to know of a new shape.
"""

from cutaway.core.callable import make_callable
from cutaway.core.result import set_renderer
from cutaway.plot.drawing import describe, draw, png, png_bytes
from cutaway.plot.notebook import html

__all__ = ["describe", "draw", "html", "png", "png_bytes"]

set_renderer(html)
make_callable(__name__, draw)
