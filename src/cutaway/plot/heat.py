"""From attribution values over an image to colours, with a scale that says what it shows."""

import functools
import io
import math
import re
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cutaway.core.result import Attribution
from cutaway.core.target import Target
from cutaway.plot.style import number

Pixels = NDArray[np.uint8]

LEVELS = 255  # odd, so that level 127 is exactly 0
PERCENTILE = 99.5
# A greyscale photo is lifted to this range, so that a colour laid over a dark place can still be told.
LIFT = (0.35, 1.0)


@dataclass(frozen=True)
class Scale:
    """What the colours of a map stand for.

    Attributes:
        limit: The value at the end of the scale; the other end is -limit for signed values, else 0.
        signed: Whether the scale has two ends.
        percentile: The limit is this percentile of the size of the values.
        clipped: Share of values beyond the limit; they are drawn in the colour of the end.
        unit: Unit of a value.
    """

    limit: float
    signed: bool
    percentile: float
    clipped: float
    unit: str = ""

    @property
    def text(self) -> str:
        """The scale in a sentence."""
        if self.limit == 0:
            return "every value is 0"
        ends = f"±{number(self.limit)}" if self.signed else f"0 to {number(self.limit)}"
        unit = f" {self.unit}" if self.unit else ""
        if self.clipped == 0:
            return f"scale {ends}{unit}; nothing clipped"
        share = f"{number(100 * self.clipped, 2)}\u00a0%"
        return f"scale {ends}{unit}, clipped at the {number(self.percentile)}th percentile ({share} of values beyond)"


def spatial(values: Tensor) -> Tensor:
    """One number per place: (channels, h, w) summed over channels, (h, w) as it is."""
    values = values.detach().cpu().double()
    return values.sum(0) if values.ndim == 3 else values


def scale_of(values: Tensor, *, signed: bool, percentile: float = PERCENTILE, unit: str = "") -> Scale:
    """The scale that fits these values: it ends at a percentile of their size, so one pixel cannot pale the rest."""
    sizes = values.detach().cpu().double().flatten()
    sizes = (sizes.abs() if signed else sizes.clamp(min=0))[sizes.isfinite()]
    # "higher": the limit is a value that occurs, so that a map of few cells has none clipped.
    limit = float(np.percentile(sizes.numpy(), percentile, method="higher")) if sizes.numel() else 0.0
    if limit == 0 and sizes.numel():
        limit = float(sizes.max())
    clipped = float((sizes > limit).double().mean()) if sizes.numel() else 0.0
    return Scale(limit=limit, signed=signed, percentile=percentile, clipped=clipped, unit=unit)


def levels(values: Tensor, scale: Scale) -> Pixels:
    """Colour levels 0 to 254: 127 is 0 on a signed scale, 0 is 0 on an unsigned one. Undefined values become 255."""
    values = values.detach().cpu().double()
    part = values / scale.limit if scale.limit else torch.zeros_like(values)
    part = part.clamp(-1 if scale.signed else 0, 1)
    level = 127 + 127 * part if scale.signed else 254 * part
    level = torch.where(values.isnan(), torch.full_like(level, 255), level.nan_to_num().round())
    return level.to(torch.uint8).numpy()


@functools.cache
def palette(signed: bool) -> Pixels:
    """256 colours (red, green, blue): the 255 levels of a scale, and grey for undefined."""
    # PuOr reversed: purple for below 0, orange above it. Both are brought to pure white at 0, so that an overlay
    # leaves the photo as it is where nothing mattered.
    colours = matplotlib.colormaps["PuOr_r" if signed else "GnBu"].resampled(LEVELS)(np.arange(LEVELS))[:, :3]
    colours = np.minimum(colours / colours[LEVELS // 2 if signed else 0], 1)
    return np.vstack([np.round(255 * colours), [[128, 128, 128]]]).astype(np.uint8)


def colour(value: float, scale: Scale) -> tuple[float, float, float]:
    """The colour of one value, as red, green, blue in [0, 1]."""
    red, green, blue = palette(scale.signed)[int(levels(torch.tensor([value]), scale)[0])] / 255
    return float(red), float(green), float(blue)


def photo(image: Tensor) -> Pixels:
    """An input (channels, h, w) as (h, w, 3) bytes. Entries outside [0, 1] are brought into it by one linear step."""
    image = image.detach().cpu().double().nan_to_num()
    if image.numel() and (image.min() < 0 or image.max() > 1):
        image = (image - image.min()) / (image.max() - image.min()).clamp(min=1e-12)
    if image.shape[0] != 3:
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    return (255 * image).round().to(torch.uint8).permute(1, 2, 0).numpy()


def grey(pixels: Pixels) -> Pixels:
    """A photo without colour and without its darkest tones: the ground for a map."""
    light = pixels.astype(float) @ (0.299, 0.587, 0.114) / 255
    low, high = LIFT
    return np.round(255 * (low + (high - low) * light)).astype(np.uint8)


def enlarged(cells: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Cells at their true size over an image: each pixel takes the cell that it lies in, nothing is smoothed."""
    h, w = cells.shape[:2]
    rows = np.minimum((np.arange(height) + 0.5) * h / height, h - 1).astype(int)
    columns = np.minimum((np.arange(width) + 0.5) * w / width, w - 1).astype(int)
    return cells[rows][:, columns]


def overlay(image: Tensor, values: Tensor, scale: Scale) -> Pixels:
    """The map laid over the greyscaled image like a coloured film: where a value is 0 the image is unchanged."""
    ground = grey(photo(image))
    film = palette(scale.signed)[enlarged(levels(values, scale), *ground.shape)]
    return np.round(film.astype(float) * ground[..., None] / 255).astype(np.uint8)


def smaller(values: Tensor, most: int) -> tuple[Tensor, int]:
    """The values averaged over blocks so that no side exceeds `most`, and the side of a block."""
    block = math.ceil(max(values.shape[-2:]) / most)
    if block <= 1:
        return values, 1
    pooled = torch.nn.functional.avg_pool2d(values[None].double(), block, ceil_mode=True, count_include_pad=False)
    return pooled[0], block


def indexed_png(level: Pixels, signed: bool) -> bytes:
    """Levels as a PNG file with the scale's own palette: each colour in it is exact."""
    image = Image.fromarray(level)
    image.putpalette(palette(signed).tobytes())
    with io.BytesIO() as file:
        image.save(file, "PNG", optimize=True)
        return file.getvalue()


def subject(target: str) -> str:
    """What a target is about, in words: `logit("tabby")` is about tabby; anything else stands for itself."""
    simple = re.fullmatch(r"(?:logit|prob|logprob)\((?:\"([^\"]*)\"|(\d+))\)", target)
    if simple is None:
        return target or "the target"
    return simple[1] if simple[2] is None else f"class {simple[2]}"


def target_of(attribution: Attribution, i: int | None) -> str:
    """The target of the i-th input, where each has its own; without a number, words for all of them."""
    text = attribution.target
    rows = Target.of(text).rows if text.startswith("[") else ()
    if not rows:
        return text
    every = list(dict.fromkeys(map(str, rows)))
    if i is not None:
        return str(rows[i])
    return every[0] if len(every) == 1 else "the target of each input"


def ends(attribution: Attribution, i: int | None = None) -> tuple[str, str]:
    """What the upper and the lower end of the scale mean, in words. The lower is empty where there is none.

    Args:
        attribution: With the scale.
        i: For this input; without a number, for all.
    """
    target = subject(target_of(attribution, i))
    if attribution.unit.startswith("ranks"):
        return "the methods disagree", ""
    if not attribution.signed:
        return f"matters for {target}", ""
    if " per " in attribution.unit:
        # A slope: it says what a change would do, not what the value that is there did.
        return f"more here raises {target}", f"more here lowers {target}"
    return f"supports {target}", f"opposes {target}"
