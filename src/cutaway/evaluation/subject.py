"""One input whose entries are replaced, some more at each step, while the model is watched."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.core.batch import Batch, repeat
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.features import grid
from cutaway.core.fill import Fill
from cutaway.core.model import Model
from cutaway.core.site import INPUT
from cutaway.core.target import Target

# Replaced inputs held in memory at once.
_AT_ONCE = 32


class Subject(NamedTuple):
    """One input, ready to have its players replaced.

    Attributes:
        model: The model.
        row: The input, one row.
        value: What is replaced, (1, ...): the picture, the row, or the embedding of the tokens.
        ids: The player of each pixel, column or token; -1 where nothing is ever replaced.
        target: What is watched.
    """

    model: Model
    row: Batch
    value: Tensor
    ids: Int[Tensor, "*entries"]
    target: Target

    @classmethod
    def of(cls, model: Model, row: Batch, target: Target, *, cells: int) -> "Subject":
        """A subject from one row of a batch.

        Args:
            model: The model.
            row: The row.
            target: What is watched.
            cells: Players along each side of a picture; 0 makes every pixel one.

        Raises:
            BadOption: A negative number of cells.
        """
        if cells < 0:
            raise BadOption(f"expected cells from 1 up, or 0 for single pixels; got {cells}.")
        if model.space.kind == "tokens":
            return cls(model, row, model.run(row, read=[INPUT])[INPUT], _words(model, row), target)
        value = row if isinstance(row, Tensor) else next(iter(row.values()))
        if model.space.kind != "image":
            return cls(model, row, value, torch.arange(value.shape[1]), target)
        height, width = value.shape[2:]
        if cells == 0:
            return cls(model, row, value, torch.arange(height * width).view(height, width), target)
        return cls(model, row, value, grid(height, width, cells=min(cells, height, width)).ids, target)

    @property
    def players(self) -> int:
        """How many players there are."""
        return int(self.ids.max()) + 1

    def pooled(self, scores: Float[Tensor, "*entries"]) -> Float[Tensor, " players"]:
        """Each player's mean score."""
        kept = self.ids.flatten() >= 0
        ids, values = self.ids.flatten()[kept], scores.detach().cpu().double().flatten()[kept]
        total = torch.zeros(self.players, dtype=torch.float64).index_add_(0, ids, values)
        return total / ids.bincount(minlength=self.players)

    def filled(self, fill: Fill, seed: int) -> Tensor:
        """The input with every player replaced, (1, ...).

        Raises:
            NotPossible: A fill that has no meaning for embeddings.
        """
        if self.model.space.kind == "tokens" and fill.text in ("mean", "neutral", "noise", "farthest"):
            raise NotPossible(f"the fill {fill.text!r} has no meaning for the embedding of a word; use zero.")
        absent = fill(self.value, self.model.space, torch.Generator().manual_seed(seed))
        return torch.where(self._entries(torch.ones(1, self.players, dtype=torch.bool)), absent, self.value)

    def watched(self, values: Float[Tensor, "m ..."]) -> Float[Tensor, " m"]:
        """The target on replaced inputs."""
        return self.seen(values, [self.target])[0]

    def seen(self, values: Float[Tensor, "m ..."], targets: Sequence[Target]) -> Float[Tensor, "targets m"]:
        """Several targets on replaced inputs, from the same forwards.

        Raises:
            NotPossible: One is not finite there.
        """
        sites = list(dict.fromkeys(site for target in targets for site in target.sites))
        trace = self.model.run(repeat(self.row, len(values)), read=sites, edit={INPUT: values})
        found = torch.stack([target(trace).double().cpu().expand(len(values)) for target in targets])
        for target, one in zip(targets, found, strict=True):
            if not torch.isfinite(one).all():
                raise NotPossible(f"{target} is not finite for an input with replaced pieces; try another fill.")
        return found

    def curves(
        self,
        start: Tensor,
        end: Tensor,
        ends: Float[Tensor, "2"],
        places: Sequence[Int[Tensor, " players"]],
        shares: Float[Tensor, " points"],
    ) -> Float[Tensor, "orders points"]:
        """The target while players go from `start` to `end`, in each of several orders.

        Args:
            start, end: The input before and after, (1, ...).
            ends: The target there, which all orders have in common.
            places: For each order, the place of every player in it.
            shares: Shares of the players that have gone, from 0 to 1.
        """
        # As many are left at share 1 - s as have gone at s, so that a curve can be read from either end.
        gone, left = (shares * self.players).round(), ((1 - shares) * self.players).round()
        counts = torch.where(shares <= 0.5, gone, self.players - left).long()
        found = ends[0].expand(len(places), len(shares)).clone()
        found[:, counts == self.players] = ends[1]
        inner = [n for n in counts.unique().tolist() if 0 < n < self.players]
        wanted = [(order, n) for order in range(len(places)) for n in inner]
        for i in range(0, len(wanted), _AT_ONCE):
            part = wanted[i : i + _AT_ONCE]
            gone = self._entries(torch.stack([places[order] < n for order, n in part]))
            for (order, n), value in zip(part, self.watched(torch.where(gone, end, start)), strict=True):
                found[order, counts == n] = value
        return found

    def without(self, players: Tensor, filled: Tensor) -> Tensor:
        """The input with some players replaced: from masks (m, players) to (m, ...)."""
        return torch.where(self._entries(players), filled, self.value)

    def _entries(self, players: Tensor) -> Tensor:
        """Masks over players as masks that fit the input."""
        never = torch.zeros(len(players), 1, dtype=torch.bool)
        mask = torch.cat([players.cpu(), never], dim=1)[:, self.ids].to(self.value.device)
        if self.model.space.kind == "tokens":
            return mask[..., None]
        return mask[:, None] if self.model.space.kind == "image" else mask


def _words(model: Model, row: Batch) -> Int[Tensor, " tokens"]:
    """A player for each token that stands for text; none for padding and special tokens."""
    tokens = row if isinstance(row, Tensor) else row.get("input_ids", next(iter(row.values())))
    keep = torch.ones(tokens.shape[1], dtype=torch.bool)
    if not isinstance(row, Tensor) and "attention_mask" in row:
        keep &= row["attention_mask"][0].bool().cpu()
    special = getattr(model.tokenizer, "all_special_ids", None) or []
    keep &= ~torch.isin(tokens[0].cpu(), torch.tensor(special, dtype=tokens.dtype))
    if not keep.any():
        raise NotPossible("this text has no words to replace, only special tokens.")
    return torch.where(keep, keep.cumsum(0) - 1, -1)
