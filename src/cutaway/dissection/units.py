"""Two looks at a data set: the threshold of each unit, and how its strongest places overlap with concepts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.dataset import Dataset, Examples
from cutaway.core.errors import BadShape
from cutaway.core.model import Model
from cutaway.core.receptive import Axis
from cutaway.core.site import Site
from cutaway.dissection.concepts import Vocabulary, labels_of
from cutaway.engine.counts import Counts
from cutaway.engine.state import State, States
from cutaway.engine.tails import Tail, room_for


@dataclass(frozen=True)
class Thresholds:
    """The tail of each unit's activations over all positions of all pictures.

    Attributes:
        site: The layer.
        quantile: That will be asked for.
        rotation: New units as sums of the old, (units, units); None for the units as they are.
    """

    site: str
    quantile: float
    rotation: Tensor | None = None

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Room for the tail of so many examples, or of all if that is less."""
        act = activations(model, model.inputs(data[0:1]), self.site)
        each = act.shape[2] * act.shape[3]
        room = min(room_for(self.quantile, each * len(data)), each * examples)
        return {"tail": Tail.empty(act.shape[1], room)}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take in all positions."""
        act = rotated(activations(model, x, self.site), self.rotation)
        tail = states["tail"]
        assert isinstance(tail, Tail)
        tail.update(act.transpose(0, 1).flatten(1))


@dataclass(frozen=True)
class Overlaps:
    """Counts of pixels: units above their thresholds, concepts, and both at once.

    Attributes:
        site: The layer.
        thresholds: Of its units.
        words: The concepts.
        height, width: The size at which pixels are counted.
        y, x: Where the layer's positions are centred in the picture.
        rotation: As in `Thresholds`.
    """

    site: str
    thresholds: Tensor
    words: Vocabulary
    height: int
    width: int
    y: Axis
    x: Axis
    rotation: Tensor | None = None

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Zeros."""
        units, concepts = len(self.thresholds), len(self.words)
        return {
            "both": Counts.empty(units, concepts),
            "concept": Counts.empty(concepts),
            # A picture counts for a category only if somebody looked for it there.
            "unit": Counts.empty(units, len(self.words.categories)),
            "pixels": Counts.empty(len(self.words.categories)),
        }

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Count the pixels of some pictures."""
        act = rotated(activations(model, x, self.site), self.rotation)
        size = tuple(part.x.shape[2:]) if isinstance(part.x, Tensor) else (self.height, self.width)
        down = spread(self.y, act.shape[2], self.height, size[0]).to(act)
        across = spread(self.x, act.shape[3], self.width, size[1]).to(act)
        labels = [labels_of(part, c, self.height, self.width).flatten(2) for c in self.words.categories]
        # Enlarged values lie between those of the layer: a unit that is nowhere above its threshold there stays below.
        alive = act.amax((2, 3)) > self.thresholds
        counts = {name: state.values for name, state in states.items() if isinstance(state, Counts)}
        for i in range(len(act)):
            units = alive[i].nonzero()[:, 0]
            enlarged = down @ act[i, units] @ across.T
            over = (enlarged > self.thresholds[units, None, None]).flatten(1)
            self._count(counts, units, over, [found[i] for found in labels])

    def _count(self, counts: dict[str, Tensor], units: Tensor, over: Tensor, labels: list[Tensor]) -> None:
        """One picture: `over` (units, pixels), and the labels (layers, pixels) of each category."""
        starts, concepts = self.words.starts, len(self.words)
        row, pixel = over.nonzero(as_tuple=True)
        for k, (category, found) in enumerate(zip(self.words.categories, labels, strict=True)):
            if (found < 0).all():
                continue
            counts["unit"][units, k] += over.sum(1)
            counts["pixels"][k] += over.shape[1]
            for layer in found.clamp_min(0).long():
                sizes = torch.bincount(layer, minlength=len(self.words.names[k]) + 1)[1:]
                counts["concept"][starts[category] : starts[category] + len(sizes)] += sizes
                label = layer[pixel]
                # Few pixels are above a threshold of 0.995: they are looked up one by one.
                place = units[row] * concepts + starts[category] + label - 1
                both = torch.bincount(place[label > 0], minlength=counts["both"].numel())
                counts["both"] += both.view_as(counts["both"])


def activations(model: Model, x: Batch, site: str) -> Tensor:
    """The units of a layer at its positions, (n, units, height, width); one position for units without any.

    Raises:
        BadShape: The place has no units, or more than two axes of positions.
    """
    act = model.run(x, read=[site])[Site.of(site).whole]
    if act.ndim not in (2, 4):
        raise BadShape(
            "expected a layer with units, (n, units) or (n, units, height, width); "
            f"{site} has shape {tuple(act.shape)}."
        )
    return act.cpu() if act.ndim == 4 else act.cpu()[:, :, None, None]


def last_with_positions(model: Model, row: Batch) -> Site:
    """The last layer in the order of the modules with at least 2 x 2 positions; the last one of all if there is none.

    Raises:
        BadShape: The network has no layer with units.
    """
    layers = [layer for layer in model.layers(row) if layer.shape is not None and layer.calls == 1 and layer.site]
    wide = [layer for layer in layers if len(layer.shape or ()) == 3 and min((layer.shape or ())[1:]) > 1]
    flat = [layer for layer in layers if len(layer.shape or ()) in (1, 3)]
    if not wide and not flat:
        raise BadShape(f"{model.name} has no layer with units, (n, units) or (n, units, height, width).")
    return Site.of((wide or flat)[-1].site)


def rotated(act: Tensor, rotation: Tensor | None) -> Tensor:
    """Units as sums of units."""
    return act if rotation is None else torch.einsum("uv,nvhw->nuhw", rotation.to(act), act)


def spread(axis: Axis, positions: int, pixels: int, size: int) -> Tensor:
    """The matrix (pixels, positions) that enlarges a layer linearly, its positions anchored where they are centred.

    Args:
        axis: Receptive fields, in pixels of the picture.
        positions: Of the layer.
        pixels: Of the enlarged map.
        size: Of the picture.
    """
    where = (torch.arange(pixels, dtype=torch.float64) + 0.5) * size / pixels - 0.5
    place = ((where - axis.first) / axis.step).clamp(0, positions - 1)
    below = place.floor().long().clamp(max=max(positions - 2, 0))
    share = place - below
    matrix = torch.zeros(pixels, positions, dtype=torch.float64)
    rows = torch.arange(pixels)
    matrix[rows, below] = 1 - share
    if positions > 1:
        matrix[rows, below + 1] = share
    return matrix
