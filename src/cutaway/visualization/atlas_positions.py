"""Which activations an atlas is made of: some positions of each picture, or those that speak most for a class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.dataset import Dataset, Examples
from cutaway.core.model import Model
from cutaway.core.site import Site
from cutaway.core.target import logit, per_row
from cutaway.engine.extremes import Highest, Sample, keys
from cutaway.engine.state import State, States
from cutaway.visualization.places import grid_of


@dataclass(frozen=True)
class Scattered:
    """Random positions of each picture, each with what it adds to the classes that the picture is taken for.

    Attributes:
        site: The layer.
        most: Activations that are kept in all.
        positions: Of each picture.
        classes: Classes of each picture, the likeliest first.
        seed: Of the choice.
    """

    site: str
    most: int
    positions: int
    classes: int
    seed: int

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """An empty sample; a row is an activation, the numbers of the classes, and the attribution to each."""
        width = _channels(model, data, self.site) + 2 * self.classes
        return {"sample": Sample.empty(min(self.most, examples * self.positions), width, seed=self.seed)}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take the positions of some pictures in."""
        sample = states["sample"]
        assert isinstance(sample, Sample)
        top = model.run(x).output.topk(self.classes, 1).indices
        act, parts = torch.empty(0), []
        for rank in range(self.classes):
            aims = per_row([logit(k) for k in top[:, rank].tolist()])
            _, act, slope = model.gradient(x, aims, wrt=self.site)
            parts.append((act * slope).sum(1).flatten(1))
        places = inside(act)
        numbers = ids[:, None].to(places) * act[0, 0].numel() + places
        order = keys(numbers.flatten(), self.seed + 1).view(numbers.shape).sort(1).indices[:, : self.positions]
        which = torch.arange(len(act))[:, None].expand(order.shape).flatten()
        where = places[order.flatten()]
        rows = act.flatten(2)[which, :, where]
        found = torch.stack([p[which, where] for p in parts], 1)
        sample.update(numbers.gather(1, order).flatten(), torch.cat([rows, top[which].to(rows), found], 1))


@dataclass(frozen=True)
class Speaking:
    """The positions of all pictures that add most to some classes.

    Attributes:
        site: The layer.
        most: Activations that are kept of each class.
        aims: The classes.
    """

    site: str
    most: int
    aims: tuple[int, ...]

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Nothing for each class; a row is an activation and the attribution to each of the classes."""
        width = _channels(model, data, self.site) + len(self.aims)
        return {str(k): Highest.empty(self.most, width) for k in self.aims}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take the positions of some pictures in."""
        act, parts = torch.empty(0), []
        for k in self.aims:
            _, act, slope = model.gradient(x, logit(k), wrt=self.site)
            parts.append((act * slope).sum(1).flatten(1))
        places = inside(act)
        numbers = (ids[:, None].to(places) * act[0, 0].numel() + places).flatten()
        rows = act.flatten(2)[:, :, places].movedim(1, 2).flatten(0, 1)
        found = torch.stack([p[:, places].flatten() for p in parts], 1)
        for column, k in enumerate(self.aims):
            state = states[str(k)]
            assert isinstance(state, Highest)
            best = found[:, column].sort(descending=True, stable=True).indices[: self.most].cpu()
            state.update(found[best, column], numbers[best], torch.cat([rows, found], 1)[best])


def inside(act: Tensor) -> Tensor:
    """The positions of a layer that are not at its border, where padding shows; all of a very small one."""
    height, width = act.shape[2:]
    rows = torch.arange(height)[1:-1] if height > 3 else torch.arange(height)
    columns = torch.arange(width)[1:-1] if width > 3 else torch.arange(width)
    return (rows[:, None] * width + columns).flatten()


def _channels(model: Model, data: Dataset, site: str) -> int:
    return grid_of(model, model.inputs(data[0:1]), Site.of(site)).shape[1]
