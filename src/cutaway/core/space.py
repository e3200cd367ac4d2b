"""What a model's input is, so that noise, fills and plots have units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.errors import BadOption

Kind = Literal["image", "tokens", "row", "latent"]


@dataclass(frozen=True)
class Space:
    """The inputs of a model, in the user's units; normalisation happens inside `Model`.

    Attributes:
        kind: What one input is.
        shape: Shape of one input without the batch axis; None where any length will do.
        low, high: Bounds of an entry, in input units. An image in [0, 1] has 0 and 1.
        mean, std: The network sees (x - mean) / std, channel by channel. Length 1 or the number of channels.
        names: Column names, for rows.
        crop: Share of a photo's shorter side that the model is used to see: the middle of it.
    """

    kind: Kind
    shape: tuple[int | None, ...]
    low: float = 0.0
    high: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    names: tuple[str, ...] = ()
    crop: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise BadOption(f"expected low < high as bounds of the input; got {self.low} and {self.high}.")
        if any(s <= 0 for s in self.std):
            raise BadOption(f"expected positive standard deviations; got std={self.std}.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.shape[0]):
                raise BadOption(f"expected 1 or {self.shape[0]} numbers as {name}; got {len(values)}.")

    @property
    def range(self) -> float:
        """Width of the allowed interval, in input units."""
        return self.high - self.low

    def normalised(self, x: Tensor) -> Tensor:
        """(x - mean) / std: what the network sees."""
        if self.mean == (0.0,) and self.std == (1.0,):
            return x
        view = (1, -1) + (1,) * (x.ndim - 2)
        mean = torch.tensor(self.mean, dtype=x.dtype, device=x.device).view(view)
        std = torch.tensor(self.std, dtype=x.dtype, device=x.device).view(view)
        return (x - mean) / std

    def describe(self) -> str:
        """The expected batch in words, for error messages."""
        sizes = ", ".join("any" if s is None else str(s) for s in self.shape)
        nouns = {"image": "images", "tokens": "token ids", "row": "rows", "latent": "latent vectors"}
        bounds = "" if self.kind == "tokens" else f" in [{self.low:g}, {self.high:g}]"
        return f"{nouns[self.kind]} (n, {sizes}){bounds}"


def images(
    size: int | tuple[int, int],
    *,
    channels: int = 3,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    low: float = 0.0,
    high: float = 1.0,
    crop: float = 1.0,
) -> Space:
    """The space of images (n, channels, height, width) with entries in [low, high].

    Args:
        size: Height and width in pixels, or one number for both.
        channels: 3 for colour, 1 for grey.
        mean, std: The network's own normalisation, in input units, one number or one per channel.
        low, high: Bounds of a pixel.
        crop: Share of a photo's shorter side that is kept when it is brought to this size; 224/256 for many networks.

    Raises:
        BadOption: A share outside (0, 1].
    """
    if not 0 < crop <= 1:
        raise BadOption(f"expected crop as a share above 0 and up to 1; got {crop:g}.")
    height, width = (size, size) if isinstance(size, int) else size
    return Space("image", (channels, height, width), low, high, _floats(mean), _floats(std), crop=crop)


def tokens(length: int | None = None) -> Space:
    """The space of token sequences; the place called `input` is then the embedding of each token."""
    return Space("tokens", (length,))


def rows(
    columns: int | Sequence[str],
    *,
    low: float = -1e9,
    high: float = 1e9,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> Space:
    """The space of table rows (n, columns); pass the column names to see them in every result."""
    names = tuple(f"x{i}" for i in range(columns)) if isinstance(columns, int) else tuple(columns)
    return Space("row", (len(names),), low, high, _floats(mean), _floats(std), names)


def latents(size: int, *, low: float = -4.0, high: float = 4.0) -> Space:
    """The space of latent vectors (n, size) of a generator."""
    return Space("latent", (size,), low, high)


def _floats(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) if isinstance(values, int | float) else tuple(float(v) for v in values)
