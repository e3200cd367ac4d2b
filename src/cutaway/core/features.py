"""The players of a perturbation: which entries of an input are switched on and off together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cutaway.core.errors import BadOption, BadShape


@dataclass(frozen=True)
class Features:
    """A partition of an input's entries into k players.

    Attributes:
        ids: The player of each entry, 0 to k - 1. Shaped like one input without its channels: (h, w), (columns,),
            (tokens,).
        names: One per player.
    """

    ids: Int[Tensor, "*entries"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        present = torch.unique(self.ids)
        if not torch.equal(present, torch.arange(len(self.names))):
            raise BadShape(
                f"expected feature ids 0 to {len(self.names) - 1} without gaps; got {present.tolist()[:20]}."
            )

    def __len__(self) -> int:
        """The number of players."""
        return len(self.names)

    def mask(self, coalitions: Bool[Tensor, "m k"]) -> Bool[Tensor, "m *entries"]:
        """Which entries are on when the given players are on."""
        return coalitions[:, self.ids]


def of_ids(ids: Tensor) -> Features:
    """Features from any integer labels: gaps are closed, order is kept."""
    values, dense = torch.unique(ids, return_inverse=True)
    return Features(dense, tuple(f"feature {v}" for v in values.tolist()))


def pixels(height: int, width: int) -> Features:
    """Each pixel is a player, all channels together."""
    ids = torch.arange(height * width).view(height, width)
    return Features(ids, tuple(f"{y},{x}" for y in range(height) for x in range(width)))


def grid(height: int, width: int, *, cells: int) -> Features:
    """Square-ish cells, `cells` along each side.

    Raises:
        BadOption: More cells than pixels.
    """
    if not 1 <= cells <= min(height, width):
        raise BadOption(
            f"expected 1 to {min(height, width)} cells along a side of {height} x {width} pixels; got {cells}."
        )
    rows = torch.arange(height) * cells // height
    columns = torch.arange(width) * cells // width
    names = tuple(f"{r},{c}" for r in range(cells) for c in range(cells))
    return Features(rows[:, None] * cells + columns[None, :], names)


def superpixels(image: Tensor, *, pieces: int = 50, compactness: float = 10.0) -> Features:
    """SLIC superpixels of one image (channels, height, width)."""
    from skimage.segmentation import slic

    picture = image.detach().cpu().movedim(0, -1).double().numpy()
    labels = slic(picture, n_segments=pieces, compactness=compactness, start_label=0, channel_axis=-1)
    return of_ids(torch.from_numpy(labels).long())


def words(tokens: Sequence[str], groups: Sequence[int] | None = None) -> Features:
    """Each token is a player; with `groups`, the pieces of a word are one."""
    ids = torch.as_tensor(list(groups) if groups is not None else range(len(tokens)))
    names = ["" for _ in range(int(ids.max()) + 1)]
    for token, player in zip(tokens, ids.tolist(), strict=True):
        names[player] += token
    return Features(ids, tuple(names))


def columns(names: Sequence[str]) -> Features:
    """Each column of a table is a player."""
    return Features(torch.arange(len(names)), tuple(names))
