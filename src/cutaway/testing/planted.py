"""Models whose reason is known, and maps made by hand: what a test of explanations is tried on."""

from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.space import images, rows, tokens
from cutaway.testing.sequences import WORDS, ToyTokenizer

SIDE = 16
# In a corner, away from the centre; with 4 cells along a side, exactly one cell.
BOX = (slice(12, 16), slice(0, 4))
GOOD = WORDS.index("good")


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


class Trigger(nn.Module):
    """The logit of class 1 is three times the number of times that `good` occurs; other words are ignored."""

    def __init__(self) -> None:
        """An embedding with one dimension."""
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 1, dtype=torch.float64)
        with torch.no_grad():
            self.embedding.weight.zero_()
            self.embedding.weight[GOOD] = 3.0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(n, t) to (n, 2)."""
        values = self.embedding(input_ids)[..., 0]
        values = values if attention_mask is None else values * attention_mask
        return torch.stack([0 * values.sum(1), values.sum(1)], dim=1)


def trigger_model() -> Model:
    """The model that looks for one word."""
    return Model(Trigger(), tokens(), name="trigger", tokenizer=ToyTokenizer(), embedding="embedding")


def triggers(model: Model, texts: str | list[str]) -> Tensor:
    """One at each token that is the word, zero elsewhere."""
    x = model.inputs(texts)
    assert not isinstance(x, Tensor)
    return (x["input_ids"] == GOOD).double()


def made(values: Tensor, target: str = "logit(1)", **more: Any) -> Attribution:
    """A map made by hand."""
    return Attribution(values=values, target=target, **more)


def row_model(weights: list[float]) -> Model:
    """A linear model of a row: the logit of class 1 is a weighted sum."""
    net = nn.Linear(len(weights), 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0] * len(weights), weights], dtype=torch.float64))
    return Model(net, rows(len(weights), low=-10, high=10), name="weighted sum")
