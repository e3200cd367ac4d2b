"""Colours, sizes and labels that all drawings share."""

import contextlib
import functools
import math
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from matplotlib.ft2font import FT2Font
from matplotlib.layout_engine import ConstrainedLayoutEngine


@dataclass(frozen=True)
class Theme:
    """The colours of a drawing's ground and text."""

    ground: str
    ink: str
    muted: str
    grid: str
    accent: str


THEMES = {
    "light": Theme(ground="#ffffff", ink="#1b1f24", muted="#57606a", grid="#d8dee4", accent="#1f5fa8"),
    "dark": Theme(ground="#171a20", ink="#e6eaef", muted="#a3adb8", grid="#363d47", accent="#7fb2ee"),
}

# Distinct for all common kinds of colour vision, and readable on white and on near black (Tol's bright scheme).
SERIES = ("#4477aa", "#ee6677", "#228833", "#b5a642", "#66ccee", "#aa3377", "#8f8f8f", "#dd7733")
DASHES: tuple[Any, ...] = ("solid", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

FONT = "DejaVu Sans"
MONO = "DejaVu Sans Mono"
SMALL, NORMAL, LARGE = 9.0, 10.0, 11.5
WIDTH = 7.2  # inches: a page's column

# What a user's style must not change, and what has nothing to do with style.
_NOT_STYLE = (
    "backend",
    "interactive",
    "toolbar",
    "timezone",
    "savefig.directory",
    "tk.",
    "webagg.",
    "figure.hooks",
    "date",
)
_lock = threading.RLock()
_current: list[Theme] = [THEMES["light"]]


@contextlib.contextmanager
def themed(name: str) -> Iterator[Theme]:
    """Matplotlib's defaults in a theme's colours, for the length of a block; the user's settings come back after it."""
    theme = THEMES[name]
    # Matplotlib's settings are global, so two threads cannot draw in two themes at once.
    with _lock, matplotlib.rc_context():
        settings: Any = matplotlib.rcParams  # its stubs allow only literal names
        settings.update(_settings(theme))
        _current.append(theme)
        try:
            yield theme
        finally:
            _current.pop()


def theme() -> Theme:
    """The theme of the drawing that is being made."""
    return _current[-1]


def _settings(theme: Theme) -> dict[str, Any]:
    defaults: Mapping[str, Any] = {str(k): v for k, v in matplotlib.rcParamsDefault.items()}
    plain = {k: defaults[k] for k in defaults if not k.startswith(_NOT_STYLE)}
    ink = dict.fromkeys(("text.color", "axes.titlecolor"), theme.ink)
    muted = dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), theme.muted)
    lines = dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), theme.grid)
    ground = dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), theme.ground)
    sizes = {"font.size": NORMAL, "axes.titlesize": LARGE, "axes.labelsize": NORMAL, "legend.fontsize": SMALL}
    ticks = {"xtick.labelsize": SMALL, "ytick.labelsize": SMALL, "font.family": FONT}
    spines = {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    titles = {"axes.titlelocation": "left", "axes.titleweight": "bold", "legend.frameon": False}
    return {**plain, **ink, **muted, **lines, **ground, **sizes, **ticks, **spines, **titles}


def figure(height: float, width: float = WIDTH, *, fitted: bool = True) -> Figure:
    """An empty figure in inches; `fitted` leaves the room between axes and labels to matplotlib."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1) if fitted else None
    return Figure(figsize=(width, height), layout=layout)


def axes(figure: Figure, title: str = "") -> Axes:
    """The only axes of a figure, with a title."""
    ax: Axes = figure.add_subplot()
    if title:
        ax.set_title(label(title, 80))
    return ax


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed in inches from the figure's upper left corner."""
    w, h = figure.get_size_inches()
    ax: Axes = figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
    return ax


def note(figure: Figure, text: str, left: float, top: float, **style: Any) -> None:
    """A line of text placed in inches from the figure's upper left corner."""
    w, h = figure.get_size_inches()
    style = {"fontsize": SMALL, "color": theme().muted, "va": "top", **style}
    figure.text(left / w, 1 - top / h, text, **style)


def label(text: object, most: int = 40) -> str:
    """Text that matplotlib draws as it stands: no mathematics, no control or bidirectional characters, not too long."""
    text = str(text)
    if len(text) > most:
        # The ends of layer and file names tell more than their middles.
        head = most * 2 // 3
        text = f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"
    return "".join(map(_visible, text)).replace("$", r"\$")


def _visible(character: str) -> str:
    if character == "\n":
        return "↵"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return "\ufffd"
    return character if ord(character) in _drawable() else "□"


@functools.cache
def _drawable() -> frozenset[int]:
    return frozenset(FT2Font(findfont(FONT)).get_charmap())


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, as a person writes it."""
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 < exponent < 6:
        text = f"{value:.{max(digits - 1 - exponent, 0)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return text.replace("-", "−")
    superscript = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{value / 10.0**exponent:.{digits - 1}f}×10{superscript}".replace("-", "−")


def ink_on(rgb: Any) -> str:
    """Black or white, whichever reads better on a colour; the better one always has a contrast of at least 4.5."""
    return "#000000" if contrast(rgb, (0.0, 0.0, 0.0)) >= contrast(rgb, (1.0, 1.0, 1.0)) else "#ffffff"


def contrast(one: Any, other: Any) -> float:
    """The contrast ratio of two colours (red, green, blue in [0, 1]) as WCAG 2 defines it, from 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(rgb: Any) -> float:
    channel = np.asarray(rgb, dtype=float)[:3]
    linear = np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
