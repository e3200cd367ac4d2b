"""Players as text: which features an option asks for, on one input of a model.

auto            what is natural: words, columns (one-hot groups as one), units of a layer, 7 x 7 cells of an image
auto:9          the same, with at most 9 cells of an image
pixels          each pixel, or each position of a layer
cells:7         7 x 7 cells of nearly equal size
superpixels:50  about 50 pieces that follow the picture (SLIC)
words, tokens   of a text; special pieces and padding belong to nobody and stay
columns         each column of a table
groups          columns that share what stands before "=" are one player: race=A and race=B
groups:race,age+income   columns that begin with "race=", "race_", "race:" or "race."; and two columns together
units           the channels, neurons or dimensions of a layer, each at all its positions
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from cutaway.core.batch import Batch, primary
from cutaway.core.errors import BadOption, BadShape, NotPossible, unknown_name
from cutaway.core.features import Features, columns, grid, of_ids, pixels, superpixels
from cutaway.core.model import Model
from cutaway.core.site import INPUT, Site, unit_axis
from cutaway.core.text import Pieces, pieces_of

FeaturesLike = Features | Tensor | str
# Cells along a side of an image where nothing else was said.
_SIDE = 7


def checked(what: FeaturesLike) -> Features | str:
    """Features as an option: ready-made, by ids, or a text whose form is right.

    Raises:
        UnknownName: No features of that name.
        BadOption: An argument that they cannot take.
    """
    if isinstance(what, Features):
        return what
    if isinstance(what, Tensor):
        return of_ids(what)
    if not isinstance(what, str):
        raise BadOption(f"expected features as a text such as cells:7, or as ids; got {type(what).__name__}.")
    name, _, argument = what.partition(":")
    if name not in _FORMS:
        raise unknown_name("features called", name, _FORMS, f"All: {', '.join(_FORMS)}.")
    if not re.fullmatch(_FORMS[name][0], argument):
        raise BadOption(f"expected features such as auto:9, cells:7, superpixels:50, groups:race,sex; got {what!r}.")
    return what


def features_of(what: FeaturesLike, model: Model, row: Batch, wrt: Site = INPUT) -> Features:
    """The players of one input: `players_at(what, place_of(model, row, wrt))`.

    Raises:
        BadShape: Ready-made features of another size.
        NotPossible: The input has no such players.
    """
    return players_at(what, place_of(model, row, wrt))


@dataclass(frozen=True)
class Place:
    """One input, or a layer's activation for it, with what its axes are.

    Attributes:
        kind: Of the space at the input, else "layer".
        shape: Of the values there, without the batch axis.
        index: What the site takes of them, batch axis first.
        axis: The one that counts units, batch axis first.
        model, row, wrt: What it belongs to.
    """

    kind: str
    shape: tuple[int, ...]
    index: tuple[slice | int, ...]
    axis: int
    model: Model
    row: Batch
    wrt: Site

    @property
    def kept(self) -> list[int]:
        """The axes that the site leaves, batch axis first, but for the batch axis."""
        return [a for a in range(1, len(self.shape) + 1) if not isinstance(self.index[a], int)]

    @property
    def inside(self) -> tuple[int, ...]:
        """The sizes that the site leaves, without the batch axis."""
        return tuple(torch.empty(1, device="meta").expand(1, *self.shape)[self.index].shape[1:])

    @property
    def units(self) -> int:
        """How many units there are; 0 at a single one."""
        return self.inside[self.kept.index(self.axis)] if self.axis in self.kept else 0

    @property
    def positions(self) -> tuple[int, ...]:
        """The sizes of what is no unit: (h, w), (tokens,); of a row, its columns."""
        found = tuple(n for a, n in zip(self.kept, self.inside, strict=True) if a != self.axis)
        return found or (self.units,)

    def owner(self, features: Features) -> Int[Tensor, "..."]:
        """The player of each entry, spread over `shape` by broadcasting; -1 is nobody."""
        flat = not any(a != self.axis for a in self.kept)
        sizes = zip(self.kept, self.inside, strict=True)
        ids = features.ids.view([n if flat or (a == self.axis) == features.units else 1 for a, n in sizes])
        if self.wrt.is_whole:
            return ids
        every = torch.full(self.shape, -1)
        every[self.index[1:]] = ids.expand(self.inside)
        return every

    def describe(self) -> str:
        """What it is, for messages."""
        nouns = {"image": "an image", "row": "a row", "latent": "a latent vector", "tokens": "a text"}
        return nouns.get(self.kind, str(self.wrt))


def place_of(model: Model, row: Batch, wrt: Site = INPUT, act: Tensor | None = None) -> Place:
    """Where players are wanted.

    Args:
        model, row: One input, as the model takes it.
        wrt: The place whose entries are switched.
        act: The values there, (1, ...), where they are known already; else a forward finds them.
    """
    if wrt.module == "input":
        whole, module = primary(row) if act is None else act, None
        # Token ids stand for an embedding, of which only the positions matter.
        whole = whole[..., None] if whole.ndim == 2 and model.space.kind == "tokens" else whole
    else:
        whole = model.run(row, read=[wrt.whole])[wrt.whole] if act is None else act
        module = model.module.get_submodule(wrt.module)
    kind = model.space.kind if wrt == INPUT else "layer"
    return Place(kind, tuple(whole.shape[1:]), wrt.index(whole, module), unit_axis(whole, module), model, row, wrt)


def players_at(what: FeaturesLike, place: Place) -> Features:
    """The players at a place."""
    if not place.inside:
        raise NotPossible(
            f"{place.wrt} is a single number, which no players can share; choose more of {place.wrt.whole}."
        )
    what = checked(what)
    if isinstance(what, Features):
        wanted = (place.units,) if what.units else place.positions
        if tuple(what.ids.shape) != wanted:
            raise BadShape(f"expected features of shape {wanted} at {place.describe()}; got {tuple(what.ids.shape)}.")
        return what
    name, _, argument = what.partition(":")
    return _FORMS[name][1](argument, place)


# -- each form ---------------------------------------------------------------------------------------------------------


def _auto(argument: str, place: Place) -> Features:
    if place.kind == "tokens":
        return _words("", place) if pieces_of(place.row, place.model.tokenizer) else _tokens("", place)
    if place.kind == "image":
        side = math.isqrt(int(argument)) if argument else _SIDE
        return grid(*place.positions, cells=max(1, min(side, *place.positions)))
    if place.kind in ("row", "latent"):
        return _groups("", place)
    return _units("", place) if place.units else _pixels("", place)


def _pixels(argument: str, place: Place) -> Features:
    if len(place.positions) == 2:
        return pixels(*place.positions)
    count = math.prod(place.positions)
    return Features(torch.arange(count).view(place.positions), tuple(map(str, range(count))))


def _cells(argument: str, place: Place) -> Features:
    if len(place.positions) != 2:
        raise NotPossible(f"cells need rows and columns; {place.describe()} has shape {place.inside}. Use auto.")
    return grid(*place.positions, cells=int(argument or _SIDE))


def _superpixels(argument: str, place: Place) -> Features:
    if place.kind != "image":
        raise NotPossible(f"superpixels follow the colours of an image; {place.describe()} has none. Use auto.")
    return superpixels(primary(place.row)[0], pieces=int(argument or 50))


def _words(argument: str, place: Place) -> Features:
    pieces = _pieces("words", place)
    return Features(torch.tensor(pieces.words), pieces.names)


def _tokens(argument: str, place: Place) -> Features:
    if place.kind == "tokens" and not pieces_of(place.row, place.model.tokenizer):
        mask = place.row.get("attention_mask") if isinstance(place.row, dict) else None
        on = [True] * place.shape[0] if mask is None else mask[0].bool().tolist()
        return _some(on, list(map(str, range(len(on)))))
    pieces = _pieces("tokens", place)
    return _some([word >= 0 for word in pieces.words], pieces.tokens)


def _pieces(name: str, place: Place) -> Pieces:
    if place.model.space.kind != "tokens" or place.positions != tuple(primary(place.row).shape[1:2]):
        raise NotPossible(f"{name} are the parts of a text; {place.describe()} has none. Use auto.")
    found = pieces_of(place.row, place.model.tokenizer)
    if not found:
        raise NotPossible(f"{place.model.name} has no tokenizer to tell {name}; features=tokens takes each position.")
    if max(found[0].words, default=-1) < 0:
        raise BadShape("expected a text with at least one word; got padding and special pieces only.")
    return found[0]


def _some(on: Sequence[bool], names: Sequence[str]) -> Features:
    chosen = [i for i, counts in enumerate(on) if counts]
    ids = [-1] * len(on)
    for player, i in enumerate(chosen):
        ids[i] = player
    return Features(torch.tensor(ids), tuple(names[i] for i in chosen))


def _columns(argument: str, place: Place) -> Features:
    return columns(_column_names(place))


def _groups(argument: str, place: Place) -> Features:
    return columns(_column_names(place), argument)


def _column_names(place: Place) -> Sequence[str]:
    if place.kind not in ("row", "latent"):
        raise NotPossible(f"columns are the parts of a row of a table; {place.describe()} has none. Use auto.")
    return place.model.space.names or tuple(map(str, range(place.units)))


def _units(argument: str, place: Place) -> Features:
    if not place.units or place.kind == "tokens":
        raise NotPossible(f"units are the channels of a layer; {place.describe()} has none to choose. Use auto.")
    return Features(torch.arange(place.units), tuple(map(str, range(place.units))), units=True)


_NUMBER, _NOTHING = r"([1-9][0-9]{0,6})?", r""
_FORMS: dict[str, tuple[str, Callable[[str, Place], Features]]] = {
    "auto": (_NUMBER, _auto),
    "pixels": (_NOTHING, _pixels),
    "cells": (_NUMBER, _cells),
    "superpixels": (_NUMBER, _superpixels),
    "words": (_NOTHING, _words),
    "tokens": (_NOTHING, _tokens),
    "columns": (_NOTHING, _columns),
    "groups": (r".*", _groups),
    "units": (_NOTHING, _units),
}
