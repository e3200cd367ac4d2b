"""Inputs in pieces, and the orders in which a map and its controls rank them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cutaway.core.call import predicted
from cutaway.core.features import grid
from cutaway.core.fill import Fill
from cutaway.core.method import Explain
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution
from cutaway.evaluation.orders import CONTROLS, over_input

ORDERS = tuple(name.removesuffix(" first") for name in CONTROLS)
_AT_ONCE = 256


class Pieces(NamedTuple):
    """Pictures or rows, each in the same pieces.

    Attributes:
        model: Whose inputs they are.
        x: Inputs, (n, ...), on the CPU.
        ids: The piece of each pixel or column.
        scores: By order, one for each piece; an order without scores is random.
    """

    model: Model
    x: Float[Tensor, "n *entries"]
    ids: Int[Tensor, "*places"]
    scores: dict[str, Float[Tensor, "n pieces"]]

    @classmethod
    def of(cls, model: Model, x: Tensor, by: Attribution | Explain, orders: Sequence[str], cells: int) -> "Pieces":
        """Inputs in pieces.

        Args:
            model: Whose inputs they are.
            x: Inputs.
            by: Their maps, or what makes maps of the classes that the model gives them.
            orders: The first is the map's, others are controls, by name.
            cells: Pieces along each side of a picture; 0 makes every pixel one.
        """
        if x.ndim == 4:
            height, width = x.shape[2:]
            ids = grid(height, width, cells=min(cells or height * width, height, width)).ids
            ids = ids if cells else torch.arange(height * width).view(height, width)
        else:
            ids = torch.arange(x.shape[1])
        maps = over_input(model, x, by) if isinstance(by, Attribution) else _made(model, x, by)
        scores = {orders[0]: _pooled(ids, maps)}
        for name in orders[1:]:
            if name in CONTROLS:
                scores[name] = _pooled(ids, torch.stack([CONTROLS[name](picture) for picture in x]))
        return cls(model, x, ids, scores)

    @property
    def flat(self) -> list[bool]:
        """For which inputs the map has one value everywhere."""
        own = next(iter(self.scores.values()))
        return (own == own[:, :1]).all(1).tolist()

    def gone(self, order: str, share: float, keep: bool, seed: int) -> Bool[Tensor, "n pieces"]:
        """Which pieces are removed: the first share of an order, or the last. Equal scores are in random order."""
        count = int(self.ids.max()) + 1
        chance = torch.rand(len(self.x), count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        shuffled = chance.argsort(1)
        scores = self.scores[order].gather(1, shuffled) if order in self.scores else torch.zeros_like(chance)
        first = shuffled.gather(1, scores.argsort(dim=1, descending=not keep, stable=True))
        return torch.zeros(chance.shape, dtype=torch.bool).scatter_(1, first[:, : round(share * count)], True)

    def without(self, gone: Bool[Tensor, "n pieces"], fill: Fill) -> Tensor:
        """The inputs without those pieces."""
        return torch.where(self._entries(gone), fill(self.x, self.model.space), self.x)

    def silhouettes(self, gone: Bool[Tensor, "n pieces"]) -> Tensor:
        """Inputs that show which pieces are gone, and nothing else."""
        space = self.model.space
        mean, std = (torch.tensor(v, dtype=self.x.dtype) for v in (space.mean, space.std))
        shape = (1, -1, 1, 1) if self.x.ndim == 4 else (1, -1)
        low, high = ((mean + sign * std).clamp(space.low, space.high).view(shape).expand_as(self.x) for sign in (-1, 1))
        return torch.where(self._entries(gone), high, low)

    def _entries(self, gone: Bool[Tensor, "n pieces"]) -> Tensor:
        mask = gone[:, self.ids]
        return mask[:, None] if self.x.ndim == 4 else mask


def _made(model: Model, x: Tensor, explain: Explain) -> Float[Tensor, "n *places"]:
    """Maps of many inputs, a few at a time."""
    found = []
    for rows in track(x.split(_AT_ONCE), "maps of the training inputs"):
        batch = model.inputs(rows)
        found.append(over_input(model, batch, explain(model, batch, predicted(model, batch))))
    return torch.cat(found)


def _pooled(ids: Int[Tensor, "*places"], maps: Float[Tensor, "n *places"]) -> Float[Tensor, "n pieces"]:
    """The mean over each piece."""
    values = maps.detach().cpu().double().flatten(1)
    total = torch.zeros(len(values), int(ids.max()) + 1, dtype=torch.float64)
    return total.index_add_(1, ids.flatten(), values) / ids.flatten().bincount()
