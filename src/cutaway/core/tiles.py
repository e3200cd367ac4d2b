"""Many coalitions of a picture's parts, without running the first layers anew for each: exact, from a few pictures.

A position of an early layer sees few parts. Give the parts colours, so that no position sees two of the same colour:
four are enough for cells that are larger than a receptive field. Then what a position gives under any coalition is what
it gives in one of the 2^4 pictures where all parts of a colour are present or absent together, and the layer under a
coalition is put together from those, position by position. The rest of the network continues from there.
"""

import math
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cutaway.core.errors import CutawayError
from cutaway.core.features import Features
from cutaway.core.model import Model
from cutaway.core.receptive import Field, receptive_fields
from cutaway.core.runner import Prefix
from cutaway.core.site import Site
from cutaway.core.target import Target

# 2^4 pictures.
_COLOURS = 4
# Places that are tried, from the latest on: that a place is all that the rest depends on is seen by trying.
_TRIES = 4
_TOLERANCE = 1e-4


class Tiles(NamedTuple):
    """A layer under any coalition.

    Attributes:
        prefix: The input's forward up to the layer.
        patterns: What each position gives in each picture, (positions * pictures, channels).
        seen: The player of each colour that a position may see, (positions, colours); k where there is none.
        shape: Height and width of the layer.
    """

    prefix: Prefix
    patterns: Float[Tensor, "rows channels"]
    seen: Int[Tensor, "positions colours"]
    shape: tuple[int, int]

    def __call__(self, coalitions: Bool[Tensor, "m k"]) -> Float[Tensor, "m channels h w"]:
        """The layer's activation when only these players are there, with channels innermost in memory."""
        present = torch.cat([coalitions, coalitions.new_zeros(len(coalitions), 1)], 1).long()
        positions, colours = self.seen.shape
        pictures = (present[:, self.seen] << torch.arange(colours)).sum(2)
        rows = (pictures + torch.arange(positions) * 2**colours).to(self.patterns.device)
        act = self.patterns.index_select(0, rows.flatten())
        return act.view(len(coalitions), *self.shape, -1).permute(0, 3, 1, 2)


def tiles(
    model: Model,
    row: Tensor,
    target: Target,
    players: Features,
    absent: Tensor,
    whole: Callable[[Bool[Tensor, "m k"]], Tensor],
) -> Tiles | None:
    """The latest layer that can be put together for this picture and these players; None if there is none.

    Args:
        model, row, target: The game: one picture and what is asked of it.
        players: Who owns which pixel.
        absent: The picture without anybody.
        whole: The target under coalitions, by whole forwards, to compare with.
    """
    try:
        candidates = _candidates(model, row, players)
    except CutawayError:  # a network that cannot be looked into, or has no gradient of places
        return None
    half = torch.rand(1, len(players), generator=torch.Generator().manual_seed(0)) < 0.5
    # Each player is absent alone with others, and with all: what goes around the layer would still show it.
    coalitions = torch.cat([half, ~half, torch.zeros_like(half)])
    wanted = None
    for site, seen, colours, shape in candidates:
        pictures = torch.arange(2**_COLOURS)[:, None] >> colours & 1
        on = players.mask(pictures.bool()).to(row.device)[:, None]
        act = model.run(torch.where(on, row, absent), read=[site])[site]
        patterns = act.permute(2, 3, 0, 1).reshape(-1, act.shape[1]).contiguous()
        made = Tiles(model.prefix(row, site), patterns, seen, shape)
        if made.prefix.calls is None:
            continue
        found = continued(model, made, coalitions, target)
        wanted = whole(coalitions) if wanted is None else wanted
        if bool(((found - wanted).abs() <= _TOLERANCE * (1e-3 + wanted.abs())).all()):
            return made
    return None


def continued(model: Model, made: Tiles, coalitions: Bool[Tensor, "m k"], target: Target) -> Float[Tensor, "m"]:
    """The target under coalitions, computed from the layer on."""
    site = made.prefix.site
    trace = model.run(None, read=target.sites, edit={site: made(coalitions)}, prefix=made.prefix)
    return target(trace).expand(len(coalitions)).double().cpu()


_Candidate = tuple[Site, Tensor, Tensor, tuple[int, int]]
_Traced = tuple[Site, Field, tuple[int, int, int]]


def _candidates(model: Model, row: Tensor, players: Features) -> list[_Candidate]:
    """Places where the players can be coloured, those that save most first: a large field, then a small activation."""
    owned = _owned(players)
    paints: dict[tuple[Field, tuple[int, int]], tuple[Tensor, Tensor] | None] = {}
    found: list[_Candidate] = []
    for site, field, (_, height, width) in sorted(_traced(model, row), key=_saving):
        key = field, (height, width)
        if height * width > _COLOURS * len(players) and key not in paints:
            paints[key] = _coloured(owned, *key)
        if (paint := paints.get(key)) is not None:
            found.append((site, *paint, key[1]))
        if len(found) == _TRIES:
            break
    return found


def _saving(place: _Traced) -> tuple[float, int, int]:
    site, field, shape = place
    return -field.y.size * field.x.size, math.prod(shape), site.module.count(".")


# What was traced in a network, by the size of its pictures. Should the network have changed since, the comparison with
# whole forwards shows it.
_known: WeakKeyDictionary[nn.Module, dict[torch.Size, list[_Traced]]] = WeakKeyDictionary()


def _traced(model: Model, row: Tensor) -> list[_Traced]:
    """Each place whose positions see a part of the picture, with its field and the shape of its activation."""
    known = _known.setdefault(model.module, {})
    if row.shape not in known:
        layers = {Site.of(a.site): a.shape for a in model.layers(row) if a.calls == 1}
        shapes = {site: (s[0], s[1], s[2]) for site, s in layers.items() if s is not None and len(s) == 3}
        fields = receptive_fields(model, list(shapes), row)
        known[row.shape] = [
            (site, field, shapes[site]) for site, field in fields.items() if field is not None and not field.everywhere
        ]
    return known[row.shape]


def _coloured(owned: Tensor, field: Field, shape: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """The player of each colour that each position may see, and the players' colours; None if there are too few."""
    sees = _sees(owned, field, shape)
    meets = (sees.float() @ sees.float().T) > 0
    colours = torch.full((len(sees),), -1)
    for k in range(len(sees)):
        taken = set(colours[meets[k]].tolist())
        free = [c for c in range(_COLOURS) if c not in taken]
        if not free:
            return None
        colours[k] = free[0]
    seen = torch.full((sees.shape[1], _COLOURS), len(sees))
    who, where = sees.nonzero(as_tuple=True)
    seen[where, colours[who]] = who
    return seen, colours


def _owned(players: Features) -> Int[Tensor, "k h w"]:
    """How many pixels each player has above and left of each corner between pixels."""
    mine = players.ids.cpu()[None] == torch.arange(len(players))[:, None, None]
    return torch.nn.functional.pad(mine.int(), (1, 0, 1, 0)).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)


def _sees(owned: Tensor, field: Field, shape: tuple[int, int]) -> Bool[Tensor, "k positions"]:
    """Which players have a pixel in the box of each position."""
    tall, wide = owned.shape[1] - 1, owned.shape[2] - 1
    rows = torch.tensor([field.box(y, 0, tall, wide)[::2] for y in range(shape[0])])
    columns = torch.tensor([field.box(0, x, tall, wide)[1::2] for x in range(shape[1])])
    bands = owned[:, rows[:, 1]] - owned[:, rows[:, 0]]
    inside = bands[:, :, columns[:, 1]] - bands[:, :, columns[:, 0]]
    return (inside > 0).flatten(1)
