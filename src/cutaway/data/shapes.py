"""Generated pictures whose label is known to depend on stated pixels only, to score explanations against.

The rule. A picture of 48 x 48 pixels shows exactly one of eight shapes (circle, square, triangle, star, cross, ring,
moon, bowtie). Which one it is, is the label. `masks` marks its pixels: nothing else in the picture carries information
about the label. Where the shape is, its size, turn, colour and texture, the colour and texture of the ground, and the
clutter (bars, corners, dots, in the same colours as the shapes) are all drawn independently of the label. Clutter keeps
out of the disc around the shape that would hold any of the eight. A network sees an outline by the contrast across it,
so score a map against the mask grown by a pixel.

Example i of a split is the same whatever is asked for beside it: its random numbers come from a counter set to i.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from cutaway.core.dataset import Examples
from cutaway.core.progress import track
from cutaway.core.space import Space
from cutaway.data.outlines import CLUTTER, OBJECTS, Outline, disc
from cutaway.data.sets import DataSet

SIZE = 48
CLASSES = tuple(OBJECTS)
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "stripes", "checks", "speckles")
SPLITS = {"train": 12_000, "test": 2_000}
_CENTRES = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
_HUES = dict(zip(COLOURS, (0.0, 0.075, 0.15, 0.33, 0.5, 0.62, 0.77, 0.9), strict=True))


@dataclass(frozen=True)
class Scene:
    """One picture and everything that is true of it.

    Attributes:
        picture: (3, 48, 48) in [0, 1], in steps of 1/255.
        mask: Pixels of the shape, (48, 48).
        shape, colour, texture: Of the shape; only `shape` is the label.
        ground: Texture of the ground.
        clutter: Kinds of the things that do not matter.
        behind: Their visible pixels, (48, 48).
    """

    picture: np.ndarray
    mask: np.ndarray
    shape: str
    colour: str
    texture: str
    ground: str
    clutter: tuple[str, ...]
    behind: np.ndarray


class Draws:
    """A stream of random numbers that belongs to one example of one split."""

    def __init__(self, split: str, index: int) -> None:
        seed = np.random.Philox(key=[20_240_101, list(SPLITS).index(split)], counter=[0, 0, 0, index])
        self._generator = np.random.Generator(seed)

    def between(self, low: float, high: float) -> float:
        """One number, uniform."""
        return low + (high - low) * self._generator.random()

    def choice(self, options: tuple[str, ...]) -> str:
        """One of the options, all equally likely."""
        return options[int(self._generator.random() * len(options))]

    def noise(self) -> np.ndarray:
        """One number in [0, 1) per pixel."""
        return self._generator.random((SIZE, SIZE))


def scene(split: str, index: int) -> Scene:
    """The picture with this number, drawn from its own stream of random numbers."""
    draws = Draws(split, index)
    shape, colour, texture = CLASSES[index % len(CLASSES)], draws.choice(COLOURS), draws.choice(TEXTURES)
    ground = draws.choice(TEXTURES)
    picture = _painted(draws, ground, _muted(draws), 0.12)

    radius = draws.between(9, 15)
    x, y = draws.between(radius, SIZE - radius), draws.between(radius, SIZE - radius)
    angle = draws.between(0, 2 * np.pi)
    mask, around = _placed(OBJECTS[shape], x, y, radius, angle), _placed(disc, x, y, 1.12 * radius + 2, 0)

    clutter = tuple(draws.choice(tuple(CLUTTER)) for _ in range(int(draws.between(0, 5))))
    behind = np.zeros_like(mask)
    for kind in clutter:
        size, angle = draws.between(3.5, 6), draws.between(0, 2 * np.pi)
        part = _placed(CLUTTER[kind], draws.between(3, SIZE - 3), draws.between(3, SIZE - 3), size, angle)
        paint = _painted(draws, draws.choice(TEXTURES), _vivid(draws, draws.choice(COLOURS)), 0.25)
        if not (part & around).any():
            picture = np.where(part, paint, picture)
            behind |= part

    paint = _painted(draws, texture, _vivid(draws, colour), 0.25)
    picture = np.round(255 * np.where(mask, paint, picture).clip(0, 1)) / 255
    return Scene(picture, mask, shape, colour, texture, ground, clutter, behind)


def shapes(split: str, which: range, space: Space | None = None) -> Examples:
    """The pictures with these numbers, with labels and masks; `space` changes nothing."""
    scenes = [scene(split, index) for index in track(which, "drawing shapes")]
    return Examples(
        x=torch.from_numpy(np.stack([s.picture for s in scenes])).float(),
        names=[f"{split} {index}" for index in which],
        labels=torch.tensor([CLASSES.index(s.shape) for s in scenes]),
        classes=CLASSES,
        masks=torch.from_numpy(np.stack([s.mask for s in scenes])),
        source=f"shapes/{split}",
        concepts={
            "shape": _where(scenes, CLASSES, lambda s: s.shape),
            "texture": _where(scenes, TEXTURES, lambda s: s.texture, lambda s: s.ground),
        },
        concept_names={"shape": ("", *CLASSES), "texture": ("", *TEXTURES)},
    )


def _where(
    scenes: list[Scene],
    names: tuple[str, ...],
    inside: Callable[[Scene], str],
    outside: Callable[[Scene], str] | None = None,
) -> torch.Tensor:
    """What the pixels of the shape are, and those of the ground where clutter does not hide it, (n, 1, 48, 48)."""
    found = np.zeros((len(scenes), 1, SIZE, SIZE), dtype=np.int16)
    for labels, scene in zip(found, scenes, strict=True):
        if outside is not None:
            labels[0][~scene.behind] = 1 + names.index(outside(scene))
        labels[0][scene.mask] = 1 + names.index(inside(scene))
    return torch.from_numpy(found)


def _placed(outline: Outline, x: float, y: float, radius: float, angle: float) -> np.ndarray:
    """Pixels whose centre lies inside the outline, moved, scaled and turned."""
    across, down = _CENTRES[0] - x, _CENTRES[1] - y
    sin, cos = np.sin(angle), np.cos(angle)
    # Rounded, so that the last digit of a machine's sine does not decide about a pixel.
    u, v = (np.round((cos * across - sin * down) / radius, 9), np.round((-sin * across - cos * down) / radius, 9))
    return outline(u, v)


def _painted(draws: Draws, texture: str, colour: np.ndarray, contrast: float) -> np.ndarray:
    """A whole picture of one colour, darker by `contrast` where the texture says so, with a little grain."""
    angle, period, phase = draws.between(0, np.pi), draws.between(3, 7), draws.between(0, 1)
    across, down = _CENTRES
    along = np.round((across * np.cos(angle) + down * np.sin(angle)) / period + phase, 9)
    aside = np.round((down * np.cos(angle) - across * np.sin(angle)) / period, 9)
    noise = draws.noise()
    dark = {
        "plain": lambda: np.zeros((SIZE, SIZE)),
        "stripes": lambda: along % 1 < 0.5,
        "checks": lambda: (along % 1 < 0.5) ^ (aside % 1 < 0.5),
        "speckles": lambda: noise < 0.3,
    }[texture]()
    return colour[:, None, None] - contrast * dark + 0.06 * (noise - 0.5)


def _muted(draws: Draws) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(draws.between(0, 1), draws.between(0, 0.3), draws.between(0.2, 0.55)))


def _vivid(draws: Draws, colour: str) -> np.ndarray:
    hue = (_HUES[colour] + draws.between(-0.02, 0.02)) % 1
    return np.array(colorsys.hsv_to_rgb(hue, draws.between(0.7, 0.95), draws.between(0.8, 1.0)))


DATASETS = tuple(
    DataSet(f"shapes/{split}", f"generated shapes with exact masks, 48 x 48, {split}", size, partial(shapes, split))
    for split, size in SPLITS.items()
)
