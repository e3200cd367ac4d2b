"""Where units are on and where concepts are, for all places of a data set: pixels of pictures, or words of texts.

Units are kept as bits, and concepts as the numbers of those that are at a place, so that 500 pictures of 56 x 56 pixels
with 100 units and 500 concepts take 30 MB.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cutaway.core.batch import Batch, primary
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.receptive import Axis
from cutaway.core.site import Site, unit_axis
from cutaway.dissection.concepts import Vocabulary, labels_of
from cutaway.dissection.units import above, activations, below, spread
from cutaway.dissection.word_concepts import labels_of_words, pieces_of_batch
from cutaway.engine.state import State, States
from cutaway.engine.stored import Rows
from cutaway.engine.tails import Tail, room_for

MOST_BYTES = 4_000_000_000


@dataclass(frozen=True)
class PictureMaps:
    """Pixels of pictures.

    Attributes:
        site: The layer.
        units: Those that are looked at.
        thresholds: Of these.
        words: The concepts.
        layers: How many layers of labels each category has.
        height, width: The size at which pixels are counted.
        y, x: Where the layer's positions are centred in the picture.
    """

    site: str
    units: tuple[int, ...]
    thresholds: Tensor
    words: Vocabulary
    layers: tuple[int, ...]
    height: int
    width: int
    y: Axis
    x: Axis

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Room for all examples."""
        return _begin(len(self.units), sum(self.layers), self.height * self.width, len(self.words), examples)

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take in some pictures."""
        assert isinstance(part.x, Tensor)
        act = activations(model, x, self.site)[:, list(self.units)]
        down = spread(self.y, act.shape[2], self.height, part.x.shape[2]).to(act)
        across = spread(self.x, act.shape[3], self.width, part.x.shape[3]).to(act)
        over = torch.zeros(len(act), len(self.units), self.height * self.width, dtype=torch.bool)
        thresholds = below(self.thresholds, act.dtype)
        for on, maps in zip(over, act, strict=True):
            on[above(maps, thresholds, down, across)] = True
        labels = [labels_of(part, c, self.height, self.width).flatten(2) for c in self.words.categories]
        _take_in(states, ids, over, _numbered(labels, self.words, self.layers), torch.ones(over.shape[::2]))


@dataclass(frozen=True)
class WordThresholds:
    """The tail of each unit's activations over all words of all texts."""

    site: str
    quantile: float
    longest: int

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Room for the tail of so many texts."""
        units = word_units(model, model.inputs(first(data)), self.site).shape[2]
        room = min(room_for(self.quantile, self.longest * len(data)), self.longest * examples)
        return {"tail": Tail.empty(units, room)}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take in all words."""
        act, tail = word_units(model, x, self.site), states["tail"]
        assert isinstance(tail, Tail)
        real = torch.stack([_row(p.words, act.shape[1]) >= 0 for p in pieces_of_batch(model, x)])
        tail.update(act[real].T)


@dataclass(frozen=True)
class WordMaps:
    """Words of texts; the attributes as those of `PictureMaps`, with `width` for the longest text in pieces."""

    site: str
    units: tuple[int, ...]
    thresholds: Tensor
    words: Vocabulary
    layers: tuple[int, ...]
    width: int

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Room for all examples."""
        return _begin(len(self.units), sum(self.layers), self.width, len(self.words), examples)

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take in some texts."""
        act, pieces = word_units(model, x, self.site)[:, :, list(self.units)], pieces_of_batch(model, x)
        over = torch.zeros(len(act), len(self.units), self.width, dtype=torch.bool)
        over[:, :, : act.shape[1]] = (act > self.thresholds).transpose(1, 2)
        real = torch.stack([_row(p.words, self.width) >= 0 for p in pieces])
        labels = [labels_of_words(part, pieces, c, self.words, self.width) for c in self.words.categories]
        _take_in(states, ids, over & real[:, None], _numbered(labels, self.words, self.layers), real)


def _begin(units: int, layers: int, places: int, concepts: int, examples: int) -> dict[str, State]:
    packed, kind = -(-places // 8), torch.int16 if concepts < 2**15 else torch.int32
    wanted = examples * (packed * (units + 1) + layers * places * kind.itemsize)
    if wanted > MOST_BYTES:
        raise NotPossible(
            f"the maps of {units} units and {layers} layers of labels over {examples} examples take {wanted / 1e9:.1f} "
            f"GB; the most is {MOST_BYTES / 1e9:g}. Take a lower resolution, fewer units, or a slice of the data set."
        )
    return {
        "units": Rows.empty(units * packed, dtype=torch.uint8),
        "labels": Rows.empty(layers * places, dtype=kind),
        "real": Rows.empty(packed, dtype=torch.uint8),
    }


def _take_in(states: States, ids: Tensor, over: Tensor, labels: Tensor, real: Tensor) -> None:
    for name, rows in (("units", _bits(over)), ("labels", labels), ("real", _bits(real.bool()))):
        state = states[name]
        assert isinstance(state, Rows)
        state.update(ids, rows.flatten(1))


def _bits(values: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(values.numpy(), axis=-1))


def _numbered(labels: Sequence[Tensor], words: Vocabulary, layers: Sequence[int]) -> Tensor:
    """Concepts by their number in the vocabulary, -1 for none, (n, layers, places); none twice at a place."""
    found = []
    for category, values, count in zip(words.categories, labels, layers, strict=True):
        numbers = torch.where(values > 0, values.long() + words.starts[category] - 1, -1)
        for k in range(1, numbers.shape[1]):
            numbers[:, k] = numbers[:, k].masked_fill((numbers[:, k, None] == numbers[:, :k]).any(1), -1)
        if bool((numbers[:, count:] >= 0).any()):
            raise NotPossible(
                f"the first examples have up to {count} {category} labels at a place, and a later one has more; put an "
                "example with as many as there are among the first."
            )
        empty = torch.full((len(numbers), max(0, count - numbers.shape[1]), numbers.shape[2]), -1)
        found.append(torch.cat([numbers[:, :count], empty], 1))
    return torch.cat(found, 1)


@dataclass(frozen=True)
class Maps:
    """The states of a whole data set, one place after the other.

    Attributes:
        bits: (examples, units, bytes).
        labels: (layers, places).
        real: Which of all places there are, (examples, places of one).
    """

    bits: np.ndarray
    labels: np.ndarray
    real: np.ndarray

    @classmethod
    def of(cls, states: States, units: int, layers: int, places: int) -> "Maps":
        """From the states of `PictureMaps` or `WordMaps`."""
        rows = {name: state.arrays()["values"].numpy() for name, state in states.items()}
        real = np.unpackbits(rows["real"], axis=1, count=places).astype(bool)
        labels = rows["labels"].reshape(len(real), layers, places).swapaxes(0, 1)
        return cls(rows["units"].reshape(len(real), units, -1), labels[:, real], real)

    def on(self, unit: int) -> np.ndarray:
        """The places where a unit is on, rising."""
        over = np.unpackbits(self.bits[:, unit], axis=1, count=self.real.shape[1]).astype(bool)
        return np.flatnonzero(over[self.real])


def word_units(model: Model, x: Batch, site: str) -> Tensor:
    """The units of a layer at the pieces of texts, (n, pieces, units).

    Raises:
        BadShape: The layer has no row for each piece.
    """
    trace = model.run(x, read=[site])
    act = trace[Site.of(site).whole]
    ids = primary(x)
    if act.ndim == 3:
        act = act.movedim(unit_axis(act, trace.module(Site.of(site).whole)), 2)
    if act.ndim != 3 or act.shape[1] != ids.shape[1]:
        raise BadShape(
            f"expected a layer with a row of units for each of {ids.shape[1]} pieces; {site} has shape "
            f"{tuple(act.shape)}."
        )
    return act.cpu()


def _row(values: Sequence[int], width: int) -> Tensor:
    """Numbers as a row, filled up with -1."""
    return torch.tensor([*values[:width], *[-1] * (width - len(values))])
