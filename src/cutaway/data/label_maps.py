"""Pictures whose pixels are numbers: what is where, brought to the same frame as the photo that they belong to."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cutaway.core.errors import BadShape
from cutaway.core.space import Space
from cutaway.data.decoding import decode, file_bytes
from cutaway.data.images import frame, window


def numbers(path: Path, name: str) -> np.ndarray:
    """The numbers of a label picture, (height, width) int64: R + 256 G of a colour picture, else its grey values.

    Raises:
        UnknownName: No such file.
        BadShape: It is no PNG that can be read, or holds something else than such numbers.
    """
    image = decode(file_bytes(path), name, suffix=path.suffix)
    if image.format != "PNG":
        raise BadShape(f"{name}: expected labels as PNG; got {image.format}, which may change numbers.")
    return read(image, name)


def read(image: Image.Image, name: str) -> np.ndarray:
    """The numbers of a decoded label picture."""
    if image.mode in ("RGB", "RGBA"):
        parts = np.asarray(image).astype(np.int64)
        if parts[..., 2].any():
            raise BadShape(f"{name}: expected labels as R + 256 G with B = 0; some pixels have B > 0, like a photo.")
        return np.asarray(parts[..., 0] + 256 * parts[..., 1])
    if image.mode not in ("L", "P", "I", "I;16", "1"):
        raise BadShape(f"{name}: expected labels as grey, palette or R + 256 G; got mode {image.mode}.")
    return np.asarray(image).astype(np.int64)


def fitted(labels: np.ndarray, size: tuple[int, int], space: Space | None) -> Tensor:
    """The labels in the frame of the space, each pixel with the nearest label: (height, width) int16.

    Args:
        labels: (rows, columns), over the whole photo and at any scale.
        size: Width and height of the photo.
        space: The space that the photo was fitted to.
    """
    _, height, width = frame(space)
    left, top, right, bottom = window(*size, space)
    rows = _nearest(top / size[1], bottom / size[1], height, labels.shape[0])
    columns = _nearest(left / size[0], right / size[0], width, labels.shape[1])
    return torch.from_numpy(labels[rows][:, columns].astype(np.int16))


def _nearest(start: float, stop: float, count: int, size: int) -> np.ndarray:
    """Which of `size` places lie at the centres of `count` equal parts of a stretch, given as shares of the whole."""
    where = (start + (stop - start) * (np.arange(count) + 0.5) / count) * size
    return np.clip(where.astype(np.int64), 0, size - 1)
