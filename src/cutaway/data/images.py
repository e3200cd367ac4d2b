"""One picture from a file, bytes, standard input, PIL or NumPy, as a tensor in [0, 1].

What is done to a picture on the way (turned, composited, converted) is said in its notes.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape
from cutaway.core.space import Space, images
from cutaway.data.decoding import MAX_BYTES, MAX_PIXELS, decode, file_bytes, too_many_pixels

# What most ImageNet networks were tested on: the middle 224 pixels of a photo whose shorter side is 256.
DEFAULT = images(224, crop=224 / 256)


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: RGB, or grey values in [0, 1] (mode F) where the file has more than eight bits.
        name: File name, or what stands for it.
        notes: What was done to it.
    """

    image: Image.Image
    name: str
    notes: list[str] = field(default_factory=list)

    def fitted(self, space: Space | None = None) -> Tensor:
        """Scaled to fill the frame of the space, cut around the centre: (channels, height, width) in [0, 1].

        Bicubic, with antialiasing. A long and narrow picture loses its ends.
        """
        channels, height, width = frame(space)
        image = self.image if channels == 3 or self.image.mode == "F" else self.image.convert("L")
        # Cropping inside `resize`: a 1 x 10,000,000 picture would be enormous if it were scaled first.
        box = window(*image.size, space)
        return _tensor(image.resize((width, height), Image.Resampling.BICUBIC, box=box), channels)

    def pixels(self) -> Tensor:
        """The whole picture, (3, height, width) in [0, 1]."""
        return _tensor(self.image, 3)


def window(width: float, height: float, space: Space | None) -> tuple[float, float, float, float]:
    """The part of a picture that `fitted` shows: left, top, right and bottom, in its pixels."""
    _, tall, wide = frame(space)
    scale = min(width / wide, height / tall) * (space or DEFAULT).crop
    # The sums may pass the picture's edge by a rounding error, which `resize` would refuse.
    left, top = max(0.0, (width - scale * wide) / 2), max(0.0, (height - scale * tall) / 2)
    return left, top, min(width, left + scale * wide), min(height, top + scale * tall)


def frame(space: Space | None) -> tuple[int, int, int]:
    """Channels, height and width that the space asks for."""
    space = space or DEFAULT
    if space.kind != "image":
        raise BadShape(f"expected {space.describe()}; got a picture.")
    channels, height, width = (size or fallback for size, fallback in zip(space.shape, DEFAULT.shape, strict=True))
    if channels not in (1, 3) or not height or not width:
        raise BadShape(f"pictures can be made for 1 or 3 channels; the model wants {space.describe()}.")
    return channels, height, width


def example(source: Any, space: Space | None = None) -> Examples:
    """One picture as a batch of one, in the space's units."""
    picture = read(source)
    x = to_units(picture.fitted(space)[None], space)
    return Examples(
        x=x,
        names=[picture.name],
        source=str(source) if isinstance(source, str | Path) else picture.name,
        notes=[f"{picture.name}: {n}" for n in picture.notes],
    )


def to_units(x: Tensor, space: Space | None) -> Tensor:
    """From [0, 1] to the bounds of the space."""
    return x if space is None or (space.low, space.high) == (0.0, 1.0) else space.low + space.range * x


def read(source: Any, name: str | None = None) -> Picture:
    """Decode one picture.

    Args:
        source: Path, `-` for standard input, bytes, a PIL image, or an array (height, width), (height, width, 1, 3 or
            4) of uint8, uint16, or floats in [0, 1].
        name: What to call it in notes and errors; the file name by default.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, name or "array")
    if isinstance(source, Image.Image):
        return _from_image(source, name or Path(getattr(source, "filename", "") or "image").name)
    if isinstance(source, bytes | bytearray):
        name = name or "bytes"
        return _finish(decode(bytes(source), name), name)
    if not isinstance(source, str | Path):
        raise BadShape(f"expected a path, bytes, a PIL image or a NumPy array; got {type(source).__name__}.")
    if str(source) == "-":
        name = name or "standard input"
        return _finish(decode(sys.stdin.buffer.read(MAX_BYTES + 1), name), name)
    path = Path(source)
    name = name or path.name
    return _finish(decode(file_bytes(path), name, suffix=path.suffix), name)


def _finish(image: Image.Image, name: str) -> Picture:
    notes = ["the file holds several pictures; the first was used"] if image.format == "MPO" else []
    if image.width < 1 or image.height < 1:
        raise BadShape(f"{name}: expected a picture; got {image.width} x {image.height} pixels.")
    upright = _upright(image, notes)
    return Picture(_colours(upright, name, notes), name, notes)


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Turned as the camera's orientation mark says."""
    try:
        if image.getexif().get(0x0112, 1) in range(2, 9):
            notes.append("turned upright as its EXIF mark says")
            return ImageOps.exif_transpose(image)
    except Exception:  # metadata is untrusted too, and the picture does not depend on it
        notes.append("the EXIF data is unreadable and was ignored")
    return image


def _colours(image: Image.Image, name: str, notes: list[str]) -> Image.Image:
    """As RGB, or as grey in [0, 1] where there are more than eight bits."""
    mode = image.mode
    if mode.startswith("I;16") or mode in ("I", "F"):
        return _deep_grey(image, name, notes)
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"), notes)
    if mode == "CMYK":
        notes.append("converted from CMYK without a colour profile")
    elif mode in ("1", "L"):
        notes.append("grey, repeated in three channels")
    elif mode not in ("RGB", "RGBX", "P", "YCbCr"):
        raise BadShape(f"{name}: colours in mode {mode}; expected RGB, grey, palette or CMYK. Save it as a PNG.")
    return image.convert("RGB")


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    if np.asarray(image.getchannel("A")).min() < 255:
        notes.append("transparent parts shown on white")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _deep_grey(image: Image.Image, name: str, notes: list[str]) -> Image.Image:
    values = np.asarray(image).astype(np.float32)
    if image.mode != "F":
        values /= 65535
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise BadShape(f"{name}: grey values in mode {image.mode} outside the known range; save it with 8 or 16 bits.")
    notes.append("grey with more than eight bits, repeated in three channels")
    return Image.fromarray(values)


def _from_image(image: Image.Image, name: str) -> Picture:
    if image.width * image.height > MAX_PIXELS:
        raise too_many_pixels(name)
    try:
        image.load()
    except OSError as fault:
        raise BadShape(f"{name}: the picture cannot be decoded ({fault}).") from fault
    return _finish(image, name)


def _from_array(array: np.ndarray, name: str) -> Picture:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise BadShape(f"{name}: expected (height, width) or (height, width, 1, 3 or 4); got {array.shape}.")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise too_many_pixels(name)
    grey = array.reshape(array.shape[:2]) if array.ndim == 2 or array.shape[2] == 1 else None
    if array.dtype == np.uint8:
        return _finish(Image.fromarray(np.ascontiguousarray(array if grey is None else grey)), name)
    if array.dtype == np.uint16:
        array = array.astype(np.float32) / 65535
    elif array.dtype.kind != "f":
        raise BadShape(f"{name}: expected uint8, uint16 or floats in [0, 1]; got {array.dtype}.")
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
        raise BadShape(f"{name}: expected floats in [0, 1]; got {array.min():g} to {array.max():g}.")
    if grey is not None:
        return _finish(Image.fromarray(array.reshape(array.shape[:2]).astype(np.float32)), name)
    return _finish(Image.fromarray(np.round(array * 255).astype(np.uint8)), name)


def _tensor(image: Image.Image, channels: int) -> Tensor:
    values = torch.from_numpy(np.asarray(image).astype(np.float32))
    values = values if image.mode == "F" else values / 255
    stacked = values[None] if values.ndim == 2 else values.permute(2, 0, 1)
    # Bicubic overshoots at sharp edges of float pictures.
    return stacked.clamp(0, 1).expand(channels, -1, -1).contiguous()
