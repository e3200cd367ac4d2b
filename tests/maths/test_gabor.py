"""Fits of wavelets: planted ones come back, and the parts of a picture that are none stay out."""

import numpy as np
import pytest

from cutaway.maths.gabor import Wavelet, nearest_wavelet


def drawn_at_random(seed: int) -> Wavelet:
    draw = np.random.default_rng(seed)
    return Wavelet(
        amplitude=draw.uniform(0.1, 3),
        x=draw.uniform(3.5, 5.5),
        y=draw.uniform(3.5, 5.5),
        angle=draw.uniform(0, 180),
        frequency=draw.uniform(0.12, 0.35),
        phase=draw.uniform(-180, 180),
        width=draw.uniform(1.2, 2.2),
        aspect=draw.uniform(0.7, 1.5),
        fit=1.0,
    )


def by_hand(w: Wavelet, size: int) -> np.ndarray:
    """The definition, pixel by pixel."""
    picture = np.zeros((size, size))
    angle = np.radians(w.angle)
    for row in range(size):
        for column in range(size):
            u = (column - w.x) * np.cos(angle) + (row - w.y) * np.sin(angle)
            v = (row - w.y) * np.cos(angle) - (column - w.x) * np.sin(angle)
            bell = np.exp(-(u**2 + (w.aspect * v) ** 2) / (2 * w.width**2))
            picture[row, column] = w.amplitude * bell * np.cos(2 * np.pi * w.frequency * u + np.radians(w.phase))
    return picture


def apart(a: float, b: float, round_: float) -> float:
    """How far two directions are from each other."""
    return abs((a - b + round_ / 2) % round_ - round_ / 2)


@pytest.mark.parametrize("seed", range(20))
def test_a_planted_wavelet_comes_back(seed):
    planted = drawn_at_random(seed)
    picture = by_hand(planted, 9)
    assert np.allclose(planted.drawn(9, 9), picture)
    found = nearest_wavelet(picture)
    assert found.fit > 0.999
    assert apart(found.angle, planted.angle, 180) < 2
    assert found.frequency == pytest.approx(planted.frequency, abs=0.01)
    assert (found.x, found.y) == pytest.approx((planted.x, planted.y), abs=0.1)
    # Near 0 or 180 degrees the wave may be told as running the other way: then the phase has the other sign.
    sign = 1 if abs(found.angle - planted.angle) < 90 else -1
    assert apart(found.phase, sign * planted.phase, 360) < 10
    assert np.allclose(found.drawn(9, 9), picture, atol=0.02 * planted.amplitude)


def test_the_fit_is_the_share_of_squares_explained():
    draw = np.random.default_rng(0)
    picture = by_hand(drawn_at_random(1), 9) + draw.normal(size=(9, 9)) * 0.2
    found = nearest_wavelet(picture)
    left = ((picture - found.drawn(9, 9)) ** 2).sum() / (picture**2).sum()
    assert found.fit == pytest.approx(1 - left, abs=1e-6)
    assert 0.5 < found.fit < 1


def test_noise_is_no_wavelet():
    draw = np.random.default_rng(0)
    fits = [nearest_wavelet(draw.normal(size=(9, 9))).fit for _ in range(5)]
    assert max(fits) < 0.5


def test_a_blob_has_no_wave():
    rows, columns = np.mgrid[:9, :9]
    found = nearest_wavelet(np.exp(-((rows - 4) ** 2 + (columns - 4) ** 2) / 8))
    assert found.fit > 0.99
    assert found.frequency < 0.08
