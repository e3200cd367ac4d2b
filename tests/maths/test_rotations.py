"""Random rotations, and what a part of a rotation must be."""

import pytest
import torch

from cutaway.maths.rotations import fractional, random_rotation


def draw(n, seed=0):
    return random_rotation(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n", [1, 2, 3, 8, 33])
def test_a_random_rotation_keeps_lengths_and_mirrors_nothing(n):
    q = draw(n)
    assert torch.allclose(q @ q.T, torch.eye(n, dtype=torch.float64), atol=1e-12)
    assert float(torch.linalg.det(q)) == pytest.approx(1)


@pytest.mark.parametrize("n", [2, 3, 8, 33])
def test_parts_of_a_rotation_add_up(n):
    q = draw(n, seed=n)
    none, quarter, some, rest, whole = fractional(q, torch.tensor([0.0, 0.25, 0.3, 0.7, 1.0], dtype=torch.float64))
    assert torch.allclose(none, torch.eye(n, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(whole, q, atol=1e-10)
    assert torch.allclose(some @ rest, q, atol=1e-10)
    assert torch.allclose(torch.linalg.matrix_power(quarter, 4), q, atol=1e-10)
    assert torch.allclose(some @ some.T, torch.eye(n, dtype=torch.float64), atol=1e-10)


def test_a_part_of_a_turn_in_a_plane_is_a_smaller_turn():
    angle = torch.tensor(2.0, dtype=torch.float64)
    q = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    half = fractional(q, torch.tensor([0.5], dtype=torch.float64))[0]
    assert half[1, 0] == pytest.approx(float(torch.sin(angle / 2)))


def test_axes_that_are_turned_over_are_taken_two_by_two():
    q = torch.diag(torch.tensor([-1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64))
    half = fractional(q, torch.tensor([0.5], dtype=torch.float64))[0]
    assert torch.allclose(half @ half, q, atol=1e-12)


def test_the_first_axis_goes_everywhere_alike():
    ends = torch.stack([draw(3, seed)[:, 0] for seed in range(400)])
    assert ends.mean(0).abs().max() < 0.1
    assert (ends.square().mean(0) - 1 / 3).abs().max() < 0.06
