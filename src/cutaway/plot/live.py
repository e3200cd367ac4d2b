"""Pictures while they are being made: half blocks for a terminal, and a display in a notebook that renews itself."""

import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from markupsafe import Markup
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from cutaway.core.progress import Progress, is_heard, reporting
from cutaway.plot.notebook import data_uri

# Pictures shown at once, pixels along the side of each, and the seconds between two looks at them.
MOST, SIDE, PAUSE = 4, 24, 1.0


def strip(pictures: Float[Tensor, "n c h w"], side: int, most: int = MOST) -> Tensor:
    """The first pictures side by side, (side, width, 3) bytes, with a gap of one pixel."""
    found = pictures[:most].detach().float().cpu().clamp(0, 1)
    found = found if found.shape[1] == 3 else found.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    width = max(1, round(side * found.shape[3] / found.shape[2]))
    small = interpolate(found, (side, width), mode="bilinear", align_corners=False, antialias=True)
    gap = torch.zeros(3, side, 1)
    row = torch.cat([part for picture in small for part in (picture, gap)][:-1], dim=2)
    return (row.permute(1, 2, 0) * 255).round().to(torch.uint8)


def half_blocks(pictures: Float[Tensor, "n c h w"], side: int = SIDE) -> str:
    """Pictures as lines of half blocks with 24-bit colours, two pixels a character; `side` must be even."""
    pixels = strip(pictures, side).tolist()
    lines = []
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        cells = (
            f"\x1b[38;2;{a[0]};{a[1]};{a[2]}m\x1b[48;2;{b[0]};{b[1]};{b[2]}m\u2580"
            for a, b in zip(upper, lower, strict=True)
        )
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


@contextmanager
def in_notebook() -> Iterator[None]:
    """Show the progress of the work inside, with its pictures, below the cell. Elsewhere, or if others listen, idle."""
    ipython = _kernel()
    if ipython is None or is_heard():
        yield
        return
    display = sys.modules["IPython.display"]
    handle = display.display(display.HTML(""), display_id=True)
    last = [0.0]

    def reporter(step: Progress) -> None:
        now = time.monotonic()
        if now - last[0] >= PAUSE:
            last[0] = now
            handle.update(display.HTML(shown(step)))

    try:
        with reporting(reporter):
            yield
    finally:
        handle.update(display.HTML(""))


def shown(step: Progress) -> str:
    """A step as HTML: what is done and how far it is, above what there is to see."""
    of = f" of {step.total}" if step.total is not None else ""
    words = Markup("<div>{} {}{}</div>").format(step.label, step.done, of)
    if step.pictures is None:
        return str(words)
    file = io.BytesIO()
    Image.fromarray(strip(step.pictures(), 128).numpy()).save(file, "PNG")
    return str(words + Markup('<img alt="{} so far" src="{}">').format(step.label, data_uri(file.getvalue())))


def _kernel() -> Any:
    """The notebook's kernel, if this process is one; IPython is never imported for it."""
    found = sys.modules.get("IPython")
    shell = found.get_ipython() if found is not None else None
    return shell if shell is not None and hasattr(shell, "kernel") and "IPython.display" in sys.modules else None
