"""Gabor wavelets: a wave under a bell, and the one that is nearest to a given small picture."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Plane = NDArray[np.float64]

# Numbers that a wavelet has; a fit to not many more of them would say nothing.
PARAMETERS = 8
_TURNS = 8
_WAVES = (0.08, 0.15, 0.25, 0.4)
_BEST_STARTS = 4


@dataclass(frozen=True)
class Wavelet:
    """A Gabor wavelet on a grid of pixels.

    g(x, y) = amplitude * exp(-(u^2 + (aspect v)^2) / (2 width^2)) * cos(2 pi frequency u + phase)

    with u, v the coordinates along and across the wave, from the centre (x, y).

    Attributes:
        amplitude: At the centre, above 0.
        x, y: The centre in pixels; the middle of the first pixel is 0.
        angle: Direction in which the wave runs, in degrees from 0 (to the right) to 180, turning downwards.
        frequency: In cycles per pixel, from 0 to 0.5.
        phase: At the centre, in degrees from -180 to 180: 0 is a bright bar, 180 a dark one, 90 and -90 edges.
        width: Standard deviation of the bell along the wave, in pixels.
        aspect: How many times narrower the bell is across it.
        fit: The share of the picture's squares that the wavelet explains, at most 1.
    """

    amplitude: float
    x: float
    y: float
    angle: float
    frequency: float
    phase: float
    width: float
    aspect: float
    fit: float

    def drawn(self, height: int, width: int) -> Plane:
        """The wavelet on a grid."""
        waves = _waves(
            np.array([self.x, self.y, math.radians(self.angle), self.frequency, self.width, self.aspect]), height, width
        )
        phase = math.radians(self.phase)
        drawn: Plane = self.amplitude * (waves[0] * math.cos(phase) - waves[1] * math.sin(phase))
        return drawn


def nearest_wavelet(picture: Plane) -> Wavelet:
    """The wavelet with the least squared distance to a picture, from the best of several starts.

    For each centre, direction, frequency and bell, the best amplitude and phase follow from a linear fit, so the search
    has six numbers. It ends in a local optimum, which need not be the best of all.

    Args:
        picture: (height, width), not 0 everywhere.

    Source: Jones and Palmer 1987, equation 1.
    """
    height, width = picture.shape
    scale = float(np.sqrt((picture**2).sum()))
    wanted = picture / scale
    side = max(height, width)
    low = np.array([-0.5, -0.5, -np.inf, 0.0, 0.4, 0.2])
    high = np.array([width - 0.5, height - 0.5, np.inf, 0.5, 2.0 * side, 5.0])

    def left(six: Plane) -> Plane:
        basis = _waves(six, height, width).reshape(2, -1)
        return wanted.ravel() - basis.T @ _weights(basis, wanted)

    energy = wanted**2
    rows, columns = np.mgrid[:height, :width]
    centre = (energy * columns).sum(), (energy * rows).sum()
    starts = [
        np.array([*centre, math.pi * turn / _TURNS, wave, side / 4, 1.0]) for turn in range(_TURNS) for wave in _WAVES
    ]
    starts = sorted(starts, key=lambda six: float((left(six) ** 2).sum()))[:_BEST_STARTS]
    found = min((least_squares(left, six, bounds=(low, high)) for six in starts), key=lambda fit: float(fit.cost))
    return _named(found.x, wanted, scale, 1 - 2 * float(found.cost))


def _waves(six: Plane, height: int, width: int) -> Plane:
    """The cosine and the sine wave under the bell, (2, height, width)."""
    x, y, angle, frequency, spread, aspect = six
    rows, columns = np.mgrid[:height, :width]
    along = (columns - x) * math.cos(angle) + (rows - y) * math.sin(angle)
    across = (rows - y) * math.cos(angle) - (columns - x) * math.sin(angle)
    bell = np.exp(-(along**2 + (aspect * across) ** 2) / (2 * spread**2))
    turns = 2 * math.pi * frequency * along
    return np.stack([bell * np.cos(turns), bell * np.sin(turns)])


def _weights(basis: Plane, wanted: Plane) -> Plane:
    """The best weights of two waves; the second plays no part where its frequency is 0."""
    return np.asarray(np.linalg.lstsq(basis.T, wanted.ravel(), rcond=1e-10)[0], dtype=np.float64)


def _named(six: Plane, wanted: Plane, scale: float, fit: float) -> Wavelet:
    x, y, angle, frequency, spread, aspect = (float(value) for value in six)
    cosine, sine = _weights(_waves(six, *wanted.shape).reshape(2, -1), wanted)
    phase = math.atan2(-sine, cosine)
    # A wave that runs the other way is the same wave with the phase mirrored.
    turns = math.floor(angle / math.pi)
    if turns % 2:
        phase = -phase
    return Wavelet(
        amplitude=scale * math.hypot(cosine, sine),
        x=x,
        y=y,
        angle=math.degrees(angle - turns * math.pi),
        frequency=frequency,
        phase=math.degrees(phase),
        width=spread,
        aspect=aspect,
        fit=fit,
    )
