"""The players of a perturbation: which entries of an input, or of a layer, are switched on and off together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from cutaway.core.errors import BadOption, BadShape, unknown_name


@dataclass(frozen=True)
class Features:
    """Which of k players each entry of an input belongs to.

    Attributes:
        ids: The player of each entry, 0 to k - 1; -1 for an entry of nobody, which is always on. Shaped like one input
            without its channels: (h, w), (columns,), (tokens,); with `units`, (channels,).
        names: One per player.
        units: True if the players are units of a layer, each with all its positions.
    """

    ids: Int[Tensor, "*entries"]
    names: tuple[str, ...]
    units: bool = False

    def __post_init__(self) -> None:
        if not _without_gaps(self.ids, len(self.names)):
            present = torch.unique(self.ids)
            raise BadShape(
                f"expected feature ids 0 to {len(self.names) - 1} without gaps (-1 for entries of nobody); "
                f"got {present[present != -1].tolist()[:20]}."
            )
        if not self.names:
            raise BadShape("expected at least one player; every entry belongs to nobody.")

    def __len__(self) -> int:
        """The number of players."""
        return len(self.names)

    @property
    def sizes(self) -> Int[Tensor, "k"]:
        """How many entries each player has."""
        return torch.bincount(self.ids[self.ids >= 0].flatten(), minlength=len(self))

    def mask(self, coalitions: Bool[Tensor, "m k"]) -> Bool[Tensor, "m *entries"]:
        """Which entries are on when the given players are on; entries of nobody always are."""
        return entries(self.ids, coalitions)


def _without_gaps(ids: Tensor, k: int) -> bool:
    """Are all of 0 to k - 1 there, and nothing else but -1? Counted, since sorting the pixels of a photo takes long."""
    low, high = map(int, torch.aminmax(ids)) if ids.numel() else (-1, -1)
    return low >= -1 and high == k - 1 and bool(torch.bincount(ids.flatten() + 1)[1:].all())


def entries(owner: Int[Tensor, "*entries"], coalitions: Bool[Tensor, "m k"]) -> Bool[Tensor, "m *entries"]:
    """Which entries are on, by the player of each; -1 is nobody, who is always on."""
    always = coalitions.new_ones(len(coalitions), 1)
    return torch.cat([coalitions, always], dim=1)[:, owner.to(coalitions.device)]


def of_ids(ids: Tensor) -> Features:
    """Features from any integer labels: gaps are closed, order is kept; -1 is nobody."""
    values, dense = torch.unique(ids, return_inverse=True)
    nobody = int(bool((values == -1).any()))
    return Features(dense - nobody, tuple(f"feature {v}" for v in values.tolist() if v != -1))


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
    """Each token is a player; with `groups`, the pieces of a word are one, and -1 is nobody."""
    ids = torch.as_tensor(list(groups) if groups is not None else range(len(tokens)))
    names = ["" for _ in range(int(ids.max()) + 1)]
    for token, player in zip(tokens, ids.tolist(), strict=True):
        if player >= 0:
            names[player] += token
    return Features(ids, tuple(names))


def columns(names: Sequence[str], groups: str | None = None) -> Features:
    """Each column of a table is a player; with `groups`, some are one player together.

    Args:
        names: Of the columns.
        groups: "" puts together what has the same name before "="; "race,age+income" the columns that begin with
            "race=", "race_", "race:" or "race.", and two columns by name.

    Raises:
        BadOption: A group without columns, or a column in two groups.
    """
    if groups is None:
        return Features(torch.arange(len(names)), tuple(names))
    parts = [part.strip() for part in groups.split(",") if part.strip()]
    owners: dict[int, str] = {}
    for part in parts:
        found = _columns_of(part, names)
        if not found:
            raise BadOption(f"expected columns that begin with {part!r} or are called so; there are none.")
        if twice := [names[i] for i in found if i in owners]:
            raise BadOption(f"expected each column in one group; {twice[0]!r} is in two: {owners[found[0]]}, {part}.")
        owners |= dict.fromkeys(found, part)
    labels = [owners.get(i, name if parts else name.partition("=")[0]) for i, name in enumerate(names)]
    players = list(dict.fromkeys(labels))
    return Features(torch.tensor([players.index(label) for label in labels]), tuple(players))


def _columns_of(part: str, names: Sequence[str]) -> list[int]:
    listed = [p.strip() for p in part.split("+")]
    if len(listed) > 1 and (unknown := [p for p in listed if p not in names]):
        raise unknown_name("column", unknown[0], names)
    begins = re.compile(re.escape(part) + r"([=_:.].*)?", re.DOTALL)
    return [i for i, name in enumerate(names) if (name in listed if len(listed) > 1 else begins.fullmatch(name))]
