"""Random rotations of a space of many dimensions, and parts of a rotation."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import schur
from torch import Tensor


def random_rotation(n: int, generator: torch.Generator) -> Float[Tensor, "n n"]:
    """A rotation of n dimensions, all equally likely, in double precision.

    Args:
        n: Dimensions.
        generator: Of the random numbers.
    """
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    # The signs make it uniform (Stewart 1980); the last one makes it a rotation without a mirror, which has no half.
    q = q * r.diagonal().sign()
    if torch.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    return q


def fractional(rotation: Float[Tensor, "n n"], shares: Float[Tensor, "k"]) -> Float[Tensor, "k n n"]:
    """The real matrix powers of a rotation: 0 is none, 1 the whole, and a quarter four times over is the whole, too.

    A rotation turns planes that do not touch each other by angles t, found by the real Schur form; its power a turns
    the same planes by a t.

    Args:
        rotation: Orthogonal, with determinant 1.
        shares: The powers.
    """
    form, basis = schur(rotation.numpy(), output="real")
    angles, planes = _planes(form)
    turned = np.zeros((len(shares), len(form), len(form)))
    for axis in range(len(form)):
        turned[:, axis, axis] = 1.0
    for angle, (i, j) in zip(angles, planes, strict=True):
        cos, sin = np.cos(shares.numpy() * angle), np.sin(shares.numpy() * angle)
        turned[:, i, i], turned[:, i, j], turned[:, j, i], turned[:, j, j] = cos, -sin, sin, cos
    return torch.from_numpy(basis @ turned @ basis.T)


def _planes(form: np.ndarray) -> tuple[list[float], list[tuple[int, int]]]:
    """The angles and axes of the planes that a Schur form turns; two axes that are mirrored are a plane turned over."""
    angles, planes, mirrored, i = [], [], list[int](), 0
    while i < len(form):
        if i + 1 < len(form) and abs(form[i + 1, i]) > 1e-12:
            angles.append(float(np.arctan2(form[i + 1, i], form[i, i])))
            planes.append((i, i + 1))
            i += 2
            continue
        if form[i, i] < 0:
            mirrored.append(i)
        i += 1
    pairs = list(zip(mirrored[::2], mirrored[1::2], strict=True))
    return angles + [np.pi] * len(pairs), planes + pairs
