import math

import pytest
import torch

from cutaway.maths.quadrature import Line


def followed(value, slope, *, nodes, tol=0.0):
    """A line along a known function, refined until its residual or the nodes run out."""
    line = Line()
    while len(at := line.wanted(nodes - len(line))):
        line.add(at, value(at), slope(at))
        if line.estimate().residual <= tol:
            break
    return line


def kinked(a):
    """Slope 1 up to 0.3 and 5 after it."""
    return torch.where(a < 0.3, a, 0.3 + 5 * (a - 0.3)), torch.where(a < 0.3, 1.0, 5.0)


@pytest.mark.parametrize("nodes", [3, 4, 5, 9, 10, 33])
def test_weights_sum_to_one_and_the_budget_is_kept(nodes):
    line = followed(torch.sin, torch.cos, nodes=nodes)
    assert nodes - 1 <= len(line) <= nodes
    assert float(line.weights().sum()) == pytest.approx(1, abs=1e-14)
    assert len(line.at.unique()) == len(line)


def test_a_straight_line_needs_no_refinement():
    line = followed(lambda a: 3 * a, lambda a: torch.full_like(a, 3.0), nodes=100)
    assert len(line) == 9
    assert line.estimate().residual < 1e-15


def test_simpsons_rule_is_exact_for_cubic_slopes():
    line = followed(lambda a: a**4, lambda a: 4 * a**3, nodes=100, tol=1e-14)
    assert len(line) == 9
    assert line.estimate().rule == "simpson"


def test_a_smooth_slope_is_integrated_to_nine_digits():
    line = followed(lambda a: torch.tanh(6 * a), lambda a: 6 / torch.cosh(6 * a) ** 2, nodes=300, tol=1e-9)
    assert float((line.weights() * line.slope).sum()) == pytest.approx(math.tanh(6), abs=1e-9)
    assert len(line) < 300


def test_nodes_gather_at_a_kink():
    line = followed(lambda a: kinked(a)[0], lambda a: kinked(a)[1], nodes=41)
    assert line.estimate().rule == "trapezoid"
    assert ((line.at - 0.3).abs() < 0.02).sum() > 20
    assert line.estimate().residual < 1e-4


def test_the_residual_bounds_the_error():
    line = followed(lambda a: torch.sin(20 * a), lambda a: 20 * torch.cos(20 * a), nodes=25)
    error = abs(float((line.weights() * line.slope).sum()) - line.change)
    assert 0 < error <= line.estimate().residual


def test_weights_belong_to_the_nodes_in_the_order_they_came():
    line = followed(lambda a: kinked(a)[0], lambda a: kinked(a)[1], nodes=21)
    order = line.at.argsort()
    at, slope = line.at[order], line.slope[order]
    assert float((line.weights() * line.slope).sum()) == pytest.approx(float(torch.trapezoid(slope, at)), abs=1e-14)


def test_a_jump_of_the_function_itself_does_not_take_the_whole_budget():
    line = followed(lambda a: (a > 0.31).double(), torch.zeros_like, nodes=1000)
    assert len(line) < 100
    assert line.estimate().residual == pytest.approx(1)
