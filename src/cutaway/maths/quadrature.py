"""Integrals along a line, with nodes placed where the integral is least certain."""

from typing import NamedTuple

import torch
from torch import Tensor

# Fourth order pays only where the slope is smooth. Through kinks it does not, though chance may favour it, so it has to
# win clearly.
_CLEARLY = 0.25
# A jump of the function itself would draw all nodes to one place; closer than this, single precision sees one node.
_NARROWEST = 2.0**-20


class Estimate(NamedTuple):
    """What the nodes say about an integral.

    Attributes:
        rule: "trapezoid", or "simpson" where the slope is smooth.
        residual: Sum of the sizes of all local residuals: a bound on the error of the integral.
        worst: Local residual of each panel, by size.
    """

    rule: str
    residual: float
    worst: Tensor


class Line:
    """The integral over [0, 1] of a slope whose own integral is known at every node.

    The interval is tiled by panels of two equal halves. Each half has the local residual h (s_i + s_j) / 2 - (v_j -
    v_i): what the trapezoid rule makes of it, minus the true change. The panels with the largest residuals are bisected
    first.

    Attributes:
        at: Nodes in [0, 1], in the order in which they were added.
        value: The function there.
        slope: Its derivative there.
    """

    def __init__(self) -> None:
        """A line without nodes."""
        self.at = torch.empty(0, dtype=torch.float64)
        self.value = torch.empty(0, dtype=torch.float64)
        self.slope = torch.empty(0, dtype=torch.float64)

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self.at)

    @property
    def change(self) -> float:
        """The function at 1 minus the function at 0."""
        return float(self.value[self.at.argmax()] - self.value[self.at.argmin()])

    def add(self, at: Tensor, value: Tensor, slope: Tensor) -> None:
        """Add nodes that `wanted` asked for."""
        self.at = torch.cat([self.at, at.to(self.at)])
        self.value = torch.cat([self.value, value.to(self.at)])
        self.slope = torch.cat([self.slope, slope.to(self.at)])

    def wanted(self, most: int) -> Tensor:
        """The nodes to add next, at most so many; none where nothing can be refined.

        An eighth of the panels is bisected at once: the placement is hardly worse than one by one, and batches fill.
        """
        if not len(self):
            panels = max(1, min(4, (most - 1) // 2))
            return torch.linspace(0, 1, 2 * panels + 1, dtype=torch.float64)
        at = self.at.sort().values
        left, middle, right = at[0:-2:2], at[1::2], at[2::2]
        worst = torch.where(right - left > _NARROWEST, self.estimate().worst, torch.zeros_like(left))
        # Residuals that are only rounding have nothing to gain.
        count = min(max(2, len(left) // 8), most // 2, int((worst > 1e-9 * worst.sum()).sum()))
        chosen = worst.topk(count).indices
        return torch.cat([(left + middle)[chosen] / 2, (middle + right)[chosen] / 2]).sort().values

    def estimate(self) -> Estimate:
        """How well the nodes resolve the slope."""
        order = self.at.argsort()
        at, value, slope = self.at[order], self.value[order], self.slope[order]
        halves = (at.diff() * (slope[:-1] + slope[1:]) / 2 - value.diff()).view(-1, 2)
        width, change = at[2::2] - at[0:-2:2], value[2::2] - value[0:-2:2]
        panels = width * (slope[0:-2:2] + 4 * slope[1::2] + slope[2::2]) / 6 - change
        smooth = panels.abs().sum() < _CLEARLY * halves.sum(1).abs().sum()
        worst = panels.abs() if smooth else halves.abs().sum(1)
        return Estimate("simpson" if smooth else "trapezoid", float(worst.sum()), worst)

    def weights(self) -> Tensor:
        """The weight of each node, in the order in which they were added; they sum to 1."""
        order = self.at.argsort()
        at = self.at[order]
        weights = torch.zeros_like(at)
        if self.estimate().rule == "simpson":
            sixth = (at[2::2] - at[0:-2:2]) / 6
            weights[0:-2:2] += sixth
            weights[1::2] += 4 * sixth
            weights[2::2] += sixth
        else:
            half = at.diff() / 2
            weights[:-1] += half
            weights[1:] += half
        return torch.zeros_like(weights).scatter(0, order, weights)
