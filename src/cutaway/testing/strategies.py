"""Random small networks and inputs for Hypothesis, which shrinks a failure to the smallest network that shows it."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.testing.nets import CLASSES, seeded

SIZE = 10
_LAYERS = "conv norm relu gelu tanh inplace skip branch scale pool mean strided dilated".split()


@dataclass(frozen=True)
class Plan:
    """A network as a list of layer names: easy to print, and to shrink."""

    layers: tuple[str, ...]
    channels: int
    seed: int

    def build(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The network, in eval mode."""
        return seeded(lambda: Graph(self.layers, self.channels), seed=self.seed, dtype=dtype)

    def model(self, dtype: torch.dtype = torch.float64, *, batch_size: int | None = None) -> Model:
        """The network as a model of small images."""
        return Model(self.build(dtype), images(SIZE, channels=2, mean=0.5, std=0.5), batch_size=batch_size)


class Graph(nn.Module):
    """Layers one after the other, with skips and branches, and a linear end."""

    def __init__(self, layers: tuple[str, ...], channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 3, padding=1)
        self.names = layers
        self.layers = nn.ModuleList(_layer(name, channels) for name in layers)
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 2, size, size) to (n, classes)."""
        h = start = self.stem(x)
        for name, layer in zip(self.names, self.layers, strict=True):
            match name:
                case "skip":
                    other = layer(start)
                    h = h + other if other.shape == h.shape else h - 0.5
                case "branch":
                    h = torch.cat([layer(h), h], dim=1)[:, : h.shape[1]] * torch.sigmoid(h)
                case "scale":
                    h = h * layer(h).mean((2, 3), keepdim=True)
                case "inplace":
                    h = layer(h.clone())
                case _:
                    h = layer(h)
        return self.fc(h.mean((2, 3)))


def _layer(name: str, channels: int) -> nn.Module:
    match name:
        case "norm":
            return nn.BatchNorm2d(channels)
        case "relu":
            return nn.ReLU()
        case "gelu":
            return nn.GELU()
        case "tanh":
            return nn.Tanh()
        case "inplace":
            return nn.ReLU(inplace=True)
        case "branch":
            return nn.Conv2d(channels, 1, 1)
        case "pool":
            return nn.MaxPool2d(3, stride=2, padding=1)
        case "mean":
            return nn.AvgPool2d(2, stride=1, padding=1)
        case "strided":
            return nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        case "dilated":
            return nn.Conv2d(channels, channels, 3, padding=2, dilation=2)
        case _:
            return nn.Conv2d(channels, channels, 1)


plans = st.builds(
    Plan,
    layers=st.lists(st.sampled_from(_LAYERS), max_size=5).map(tuple),
    channels=st.integers(1, 4),
    seed=st.integers(0, 99),
)
smooth_plans = plans.map(
    lambda p: Plan(
        tuple({"relu": "tanh", "inplace": "gelu", "pool": "mean"}.get(layer, layer) for layer in p.layers),
        p.channels,
        p.seed,
    )
)
counts = st.sampled_from([1, 2, 7])
memory_formats = st.sampled_from([torch.contiguous_format, torch.channels_last])


def batch(count: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images for a `Plan`'s model."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
