"""Outlines of the shapes of the generated set: each is a test on coordinates, True inside.

u points right and v points up, in units in which a shape reaches from about -1 to 1. Coordinates may be arrays of any
shape.
"""

from collections.abc import Callable

import numpy as np

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def circle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A disc."""
    return u**2 + v**2 < 0.9**2


def disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Everything within 1; holds each of the shapes when 1.12 times as large."""
    return u**2 + v**2 < 1


def square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A square."""
    return np.maximum(abs(u), abs(v)) < 0.75


def triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A triangle with equal sides, point up."""
    return (v > -0.55) & (np.sqrt(3) * abs(u) + v < 1.1)


def star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points."""
    angle = np.arctan2(u, v) % (2 * np.pi / 5) - np.pi / 5
    return np.hypot(u, v) * np.cos(np.pi / 5 - abs(angle)) < 1.12 - 0.75 * (1 - abs(angle) / (np.pi / 5)) ** 0.7


def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A plus sign."""
    return (np.maximum(abs(u), abs(v)) < 1.0) & (np.minimum(abs(u), abs(v)) < 0.33)


def ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A circle with a hole."""
    return (np.hypot(u, v) < 1.0) & (np.hypot(u, v) > 0.55)


def moon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A disc with a bite out of it."""
    return (np.hypot(u, v) < 1.0) & (np.hypot(u - 0.55, v) > 0.8)


def bowtie(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Two triangles that meet at their points."""
    return (abs(u) < 0.85) & (abs(v) < 0.1 + 0.6 * abs(u))


def bar(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A long, thin rectangle."""
    return (abs(u) < 1.0) & (abs(v) < 0.22)


def corner(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """An L with equal arms."""
    return (np.minimum(u, v) > -0.8) & (np.maximum(u, v) < 0.8) & (np.minimum(u, v) < -0.4)


def dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Three small discs in a row."""
    nearest = np.minimum(np.minimum(abs(u), abs(u - 0.75)), abs(u + 0.75))
    return nearest**2 + v**2 < 0.26**2


OBJECTS: dict[str, Outline] = {f.__name__: f for f in (circle, square, triangle, star, cross, ring, moon, bowtie)}
CLUTTER: dict[str, Outline] = {f.__name__: f for f in (bar, corner, dots)}
