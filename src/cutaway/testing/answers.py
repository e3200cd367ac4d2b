"""Tiny networks whose inputs or outputs are not one tensor: tuples, dictionaries, dataclasses."""

from collections import OrderedDict
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.testing.nets import CLASSES


@dataclass
class Answer:
    """An output with two tensors and something else."""

    logits: Tensor
    features: Tensor
    note: str = "ok"


@dataclass
class LibraryOutput(OrderedDict[str, Tensor]):
    """Like a Hugging Face ModelOutput: a dataclass that is a dictionary of its fields that are not None."""

    logits: Tensor | None = None
    hidden: Tensor | None = None
    loss: Tensor | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            if (value := getattr(self, f.name)) is not None:
                self[f.name] = value

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep field and entry together."""
        super().__setitem__(key, value)
        super().__setattr__(key, value)


class Part(nn.Module):
    """A linear layer that answers in a container of the given kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.map = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Any:
        """(n, 4) to a container of (n, 6) and (n, 6)."""
        h = self.map(x)
        match self.kind:
            case "tuple":
                return h, h * 2
            case "list":
                return [h, h * 2]
            case "dict":
                return {"h": h, "twice": h * 2}
            case "nested":
                return {"pair": (h, h * 2), "count": torch.tensor(3)}
            case "dataclass":
                return Answer(h, h * 2)
            case "library":
                return LibraryOutput(logits=h, hidden=h * 2)
            case _:
                return h


def first_tensor(value: Any) -> Tensor:
    """The tensor that `Part` puts first, whatever the container."""
    while not isinstance(value, Tensor):
        value = (
            value.logits
            if isinstance(value, Answer)
            else next(iter(value.values() if isinstance(value, dict) else value))
        )
    return value


class Contained(nn.Module):
    """A `Part` in the middle, and logits in the same kind of container at the end."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.part = Part(kind)
        self.fc = nn.Linear(6, CLASSES)
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        """(n, 4) to a container with logits (n, classes)."""
        h = torch.relu(first_tensor(self.part(x)))
        logits = self.fc(h)
        match self.kind:
            case "tuple":
                return logits, h
            case "list":
                return [logits, h]
            case "dict":
                return {"logits": logits, "features": h}
            case "dataclass":
                return Answer(logits, h)
            case "library":
                return LibraryOutput(logits=logits, hidden=h)
            case _:
                return logits


# Where the logits are in each container, as `Model(output=...)` takes it.
OUTPUT_OF = {
    "tuple": "0",
    "list": "0",
    "dict": "logits",
    "dataclass": "logits",
    "library": "logits",
    "nested": "",
    "plain": "",
}


class TwoInputs(nn.Module):
    """Takes a dictionary of two tensors as keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, CLASSES)
        self.b = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(n, 4) and (n, 2) to (n, classes)."""
        return self.a(x).tanh() + self.b(context)
