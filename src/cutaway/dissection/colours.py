"""Eleven names for colours, for every pixel of a photo.

The names are the basic colour terms that languages have in common (Berlin and Kay 1969). A pixel gets the name of the
nearest of a few typical colours in CIE Lab, where distances are roughly those that an eye sees.
"""

import numpy as np
import torch
from skimage.color import rgb2lab
from torch import Tensor

# Typical colours in 0 to 255: several where a name covers much of the space.
_TYPICAL = {
    "black": [(0, 0, 0), (25, 25, 25)],
    "blue": [(0, 0, 255), (30, 70, 170), (100, 150, 220), (0, 0, 120)],
    "brown": [(120, 70, 30), (90, 50, 25), (160, 110, 60)],
    "grey": [(128, 128, 128), (80, 80, 80), (175, 175, 175)],
    "green": [(0, 160, 0), (0, 90, 0), (110, 190, 80), (90, 120, 50)],
    "orange": [(255, 140, 0), (240, 110, 30)],
    "pink": [(255, 150, 190), (250, 190, 200), (230, 90, 150)],
    "purple": [(128, 0, 128), (150, 80, 190), (90, 40, 120)],
    "red": [(220, 0, 0), (150, 20, 20), (255, 50, 40)],
    "white": [(255, 255, 255), (230, 230, 230)],
    "yellow": [(255, 255, 0), (230, 200, 40), (250, 240, 130)],
}
NAMES = ("", *_TYPICAL)
_POINTS = rgb2lab(np.array([rgb for shades in _TYPICAL.values() for rgb in shades], dtype=float)[None] / 255)[0]
_NAME_OF = np.array([i for i, shades in enumerate(_TYPICAL.values(), start=1) for _ in shades], dtype=np.int16)


def colours(x: Tensor) -> Tensor:
    """The number of each pixel's colour name in `NAMES`, (n, 1, height, width).

    Args:
        x: Pictures in [0, 1], (n, 3, height, width).
    """
    lab = rgb2lab(x.detach().cpu().movedim(1, -1).double().clamp(0, 1).numpy())
    # Squared distances, the pixel's own square left out: it is the same for all names.
    far = (_POINTS**2).sum(1) - 2 * lab @ _POINTS.T
    return torch.from_numpy(_NAME_OF[far.argmin(-1)])[:, None]
