"""Two looks at a data set: the threshold of each unit, and how its strongest places overlap with concepts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.dataset import Dataset, Examples, first
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
        act = activations(model, model.inputs(first(data)), self.site)
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
        thresholds = below(self.thresholds, act.dtype)
        counts = {name: state.values for name, state in states.items() if isinstance(state, Counts)}
        for i in range(len(act)):
            unit, pixel = above(act[i], thresholds, down, across)
            self._count(counts, unit, pixel, [found[i] for found in labels])

    def _count(self, counts: dict[str, Tensor], unit: Tensor, pixel: Tensor, labels: list[Tensor]) -> None:
        """One picture: units above their thresholds with the pixels, and labels (layers, pixels) by category."""
        starts, concepts, sizes = self.words.starts, len(self.words), unit.bincount(minlength=len(self.thresholds))
        both = counts["both"].view(-1)
        for k, (category, found) in enumerate(zip(self.words.categories, labels, strict=True)):
            if (found < 0).all():
                continue
            counts["unit"][:, k] += sizes
            counts["pixels"][k] += found.shape[1]
            for layer in found.clamp_min(0).long():
                seen = torch.bincount(layer, minlength=len(self.words.names[k]) + 1)[1:]
                counts["concept"][starts[category] : starts[category] + len(seen)] += seen
                label = layer[pixel]
                place = (unit * concepts + starts[category] + label - 1)[label > 0]
                both.index_add_(0, place, torch.ones_like(place))


def above(act: Tensor, thresholds: Tensor, down: Tensor, across: Tensor) -> tuple[Tensor, Tensor]:
    """Where enlarged maps are above the units' thresholds: the units and pixels, one entry for each such place.

    Enlarged values lie between those of the layer, so what is nowhere above the threshold before a step of the
    enlargement needs no further step. With a threshold of 0.995 that is nearly everything.

    Args:
        act: (units, height, width).
        thresholds: In the type of the activations, (units,).
        down, across: The matrices that enlarge, see `spread`.
    """
    units = (act.amax((1, 2)) > thresholds).nonzero()[:, 0]
    taller = down @ act[units]
    row, y = (taller.amax(2) > thresholds[units, None]).nonzero(as_tuple=True)
    over = taller[row, y] @ across.T > thresholds[units][row, None]
    line, x = over.nonzero(as_tuple=True)
    return units[row[line]], y[line] * len(across) + x


def below(thresholds: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest numbers of a type that are no larger: activations of that type are above both or above neither."""
    found = thresholds.to(dtype)
    return torch.where(found.double() > thresholds, torch.nextafter(found, torch.full_like(found, -torch.inf)), found)


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
