"""Tiny networks of every common construction, as plain modules: none of them knows cutaway."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 3


def seeded(build: Callable[[], nn.Module], *, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A module whose random weights come from `seed` and leave the global random state alone; in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None:
                # Statistics as after some training: with the initial ones, normalising would do nothing.
                nn.init.normal_(layer.running_mean, std=0.2)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return module.to(dtype).eval()


class Mlp(nn.Module):
    """Two layers with a non-linearity between them, written in one of the usual ways."""

    def __init__(self, style: str = "module", *, inputs: int = 4, hidden: int = 8, bias: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden, bias=bias)
        self.last = nn.Linear(hidden, CLASSES, bias=bias)
        self.act = {"inplace": nn.ReLU(inplace=True), "tanh": nn.Tanh(), "gelu": nn.GELU(), "relu6": nn.ReLU6()}.get(
            style, nn.ReLU()
        )
        self.style = style

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, classes)."""
        return self.last(self._activated(self.first(x)))

    def _activated(self, h: Tensor) -> Tensor:
        match self.style:
            case "functional":
                return F.relu(h)
            case "clamp":
                return h.clamp(min=0)
            case "maximum":
                return torch.maximum(h, torch.zeros_like(h))
            case "product":
                return h * (h > 0)
            case _:
                return self.act(h)


class Reused(nn.Module):
    """One ReLU module that runs twice."""

    def __init__(self, inputs: int = 4) -> None:
        super().__init__()
        self.a = nn.Linear(inputs, 8)
        self.b = nn.Linear(8, 8)
        self.c = nn.Linear(8, CLASSES)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, classes)."""
        return self.c(self.act(self.b(self.act(self.a(x)))))


class Duplicated(Reused):
    """`Reused` with a ReLU of its own at each place: the same function as another graph."""

    def __init__(self, inputs: int = 4) -> None:
        super().__init__(inputs)
        self.other = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, classes)."""
        return self.c(self.other(self.b(self.act(self.a(x)))))


class ConvNet(nn.Module):
    """Convolutions with batch normalisation, pooling and a linear end."""

    def __init__(self, channels: int = 3, size: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.relu2 = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6 * (size // 4) ** 2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, size, size) to (n, classes)."""
        h = self.pool(self.relu1(self.bn1(self.conv1(x))))
        h = F.avg_pool2d(self.relu2(self.conv2(h)), 2)
        return self.fc(self.drop(h.flatten(1)))


class Residual(nn.Module):
    """Skips in both spellings: `x += y` and `torch.add(x, y)`."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 4, 3, padding=1)
        self.block1 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.block2 = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU6(inplace=True)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, classes)."""
        h = self.stem(x)
        y = self.block1(h)
        y += h
        y = F.relu(y)
        y = self.act(torch.add(self.block2(y), y))
        return self.fc(y.mean((2, 3)))


class Concatenation(nn.Module):
    """Two branches, concatenated, gated by a sigmoid as in squeeze and excitation."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.left = nn.Conv2d(channels, 2, 1)
        self.right = nn.Conv2d(channels, 2, 3, padding=1)
        self.gate = nn.Linear(4, 4)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, classes)."""
        h = torch.cat([self.left(x), torch.tanh(self.right(x))], dim=1)
        size = h.size(0)
        gate = torch.sigmoid(self.gate(h.mean((2, 3)))).view(size, 4, 1, 1)
        return self.fc((h * gate).flatten(2).sum(-1))


class GapLinear(nn.Module):
    """One convolution, a global average and a linear end: Grad-CAM is the class activation map here."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 5, 3, padding=1)
        self.fc = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, classes)."""
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


class Segmenter(nn.Module):
    """A class score for each pixel."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv2d(channels, 4, 3, padding=1)
        self.head = nn.Conv2d(4, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, classes, h, w)."""
        return self.head(F.relu(self.body(x)))


class DeadBranch(nn.Module):
    """A layer that its forward never reaches, and a unit that is 0 for every input."""

    def __init__(self) -> None:
        super().__init__()
        self.live = nn.Linear(4, 6)
        self.dead = nn.Linear(4, 6)
        self.last = nn.Linear(6, CLASSES)
        with torch.no_grad():
            self.live.weight[0], self.live.bias[0] = 0.0, -1.0

    def forward(self, x: Tensor, *, other: bool = False) -> Tensor:
        """(n, 4) to (n, classes)."""
        return self.last(torch.relu(self.dead(x) if other else self.live(x)))


class ColourWeights(nn.Module):
    """A linear model of an image: logits_k = sum of weight_k * x. The answer to every explanation is known."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.fc = nn.Linear(weight[0].numel(), len(weight), bias=False)
        with torch.no_grad():
            self.fc.weight.copy_(weight.flatten(1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, classes)."""
        return self.fc(x.flatten(1))


class UnfoldedConv(nn.Module):
    """A `GapLinear` whose convolution is written as unfold and a matrix product."""

    def __init__(self, twin: GapLinear) -> None:
        super().__init__()
        self.weight = nn.Parameter(twin.conv.weight.detach().flatten(1).clone())
        assert twin.conv.bias is not None
        self.bias = nn.Parameter(twin.conv.bias.detach().clone())
        self.fc = nn.Linear(5, CLASSES).to(self.weight.dtype)
        self.fc.load_state_dict(twin.fc.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, classes)."""
        h = self.weight @ F.unfold(x, 3, padding=1) + self.bias[:, None]
        return self.fc(torch.maximum(h, torch.zeros_like(h)).mean(2))


def linear(weight: Tensor) -> nn.Module:
    """A linear model of rows without bias, from its weights (classes, inputs)."""
    return ColourWeights(weight).to(weight.dtype).eval()
