"""Models whose reason is known, and maps made by hand: what a test of explanations is tried on."""

from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.space import images, rows

SIDE = 16
# In a corner, away from the centre; with 4 cells along a side, exactly one cell.
BOX = (slice(12, 16), slice(0, 4))


class Box(nn.Module):
    """The logit of class 1 is the mean brightness of a box, times a factor; that of class 0 is a constant."""

    def __init__(self, factor: float = 8.0) -> None:
        """A box with that slope."""
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) to (n, 2)."""
        inside = self.factor * x[:, :, *BOX].mean((1, 2, 3))
        return torch.stack([torch.full_like(inside, 2.0), inside], dim=1)


def box_model() -> Model:
    """The model that looks into the box."""
    return Model(Box(), images(SIDE), classes=("dark", "bright"), name="box")


def bright(count: int = 1) -> Tensor:
    """Pictures in class 1, with texture everywhere."""
    noise = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return 0.5 + 0.5 * noise


def oracle(count: int = 1) -> Tensor:
    """One in the box, zero outside."""
    truth = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.float64)
    truth[:, :, *BOX] = 1.0
    return truth


def made(values: Tensor, target: str = "logit(1)", **more: Any) -> Attribution:
    """A map made by hand."""
    return Attribution(values=values, target=target, **more)


def row_model(weights: list[float]) -> Model:
    """A linear model of a row: the logit of class 1 is a weighted sum."""
    net = nn.Linear(len(weights), 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0] * len(weights), weights], dtype=torch.float64))
    return Model(net, rows(len(weights), low=-10, high=10), name="weighted sum")
