"""The value of a game without each of its players: of an image, only what can see the missing part is run again."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cutaway.attribution.occlusion import admitted
from cutaway.core.batch import Batch, primary
from cutaway.core.budget import at_once, time_is_up
from cutaway.core.fill import Fill
from cutaway.core.game import Game
from cutaway.core.model import Model
from cutaway.core.patched import Patched
from cutaway.core.progress import report
from cutaway.core.site import INPUT
from cutaway.core.target import Target

# Sets of players that are made at once: of many players, all of them would not fit into memory.
_TOGETHER = 256
# The same for pieces of images.
_PICTURES = 64
# Above this share of the image, the box around a part saves nothing.
_LARGE = 0.5


def values_of(
    game: Game, coalitions: Callable[[slice], Tensor] | Tensor, label: str = "", least: float = math.inf
) -> Tensor:
    """The values of many coalitions, some of them in memory at a time.

    Args:
        game: Whose values.
        coalitions: All of them, or a function that makes some, one for each player.
        label: To report progress under.
        least: After this many, the time limit ends it, with the values so far.
    """
    rows = coalitions if callable(coalitions) else coalitions.__getitem__
    count = len(game) if callable(coalitions) else len(coalitions)
    return _in_pieces(lambda some: game(rows(some)), count, _TOGETHER, label, least)


def without_each(
    game: Game, model: Model, row: Batch, target: Target, fill: Fill, seed: int, label: str
) -> tuple[Tensor, Tensor]:
    """The value without player 0, without player 1, and so on, (k,), and for which of them there was time."""
    # In random order, so that those that were asked say something of the others.
    order = torch.randperm(len(game), generator=torch.Generator().manual_seed(seed))
    without, together = _each(game, model, row, target, fill, seed, order)
    found = _in_pieces(without, len(game), at_once(together), label, least=1)
    values, asked = torch.zeros(len(game), dtype=torch.float64), torch.zeros(len(game), dtype=torch.bool)
    values[order[: len(found)]], asked[order[: len(found)]] = found, True
    return values, asked


def _each(
    game: Game, model: Model, row: Batch, target: Target, fill: Fill, seed: int, order: Tensor
) -> tuple[Callable[[slice], Tensor], int]:
    """From places in an order of the players to the values without those there; and how many to ask for at once."""
    boxes = _boxes(game, model, row)
    if boxes is None:
        players = torch.arange(len(game))

        def without(rows: slice) -> Tensor:
            coalitions = players != order[rows, None]
            return game(coalitions) if rows.start else game.with_ends(coalitions)

        return without, _TOGETHER
    image, (height, width, tops, lefts) = primary(row), boxes
    gone = admitted(model, row, fill(image, model.space, torch.Generator().manual_seed(seed)))
    ids = game.features.ids.to(image.device)

    def some(rows: slice) -> Tensor:
        patches = []
        corners = [(tops[k], lefts[k]) for k in order[rows].tolist()]
        for k, (top, left) in zip(order[rows].tolist(), corners, strict=True):
            box = (..., slice(top, top + height), slice(left, left + width))
            patches.append(torch.where(ids[box] == k, gone[box], image[box]))
        variants = Patched(image, torch.cat(patches), *zip(*corners, strict=True))
        return target(model.run(variants, read=target.sites)).expand(len(patches)).double().cpu()

    return some, _PICTURES


def _boxes(game: Game, model: Model, row: Batch) -> tuple[int, int, list[int], list[int]] | None:
    """Height and width of a box that holds any part of an image, and its corner for each; None where none is of use.

    A random fill is averaged over several draws; that is left to the game.
    """
    if model.space.kind != "image" or game.place.wrt != INPUT or not isinstance(row, Tensor) or game.draws > 1:
        return None
    ids = game.features.ids
    spans = []
    for axis in (0, 1):
        there = torch.zeros(len(game), ids.shape[axis], dtype=torch.bool)
        at = torch.arange(ids.shape[axis]).view([-1, 1] if axis == 0 else [1, -1]).expand_as(ids)
        there[ids[ids >= 0], at[ids >= 0]] = True
        first = there.byte().argmax(1)
        last = ids.shape[axis] - 1 - there.flip(1).byte().argmax(1)
        length = int((last - first).max()) + 1
        spans.append((length, first.clamp(max=ids.shape[axis] - length).tolist()))
    (height, tops), (width, lefts) = spans
    return None if height * width > _LARGE * ids.numel() else (height, width, tops, lefts)


def _in_pieces(
    values: Callable[[slice], Tensor], count: int, together: int, label: str, least: float = math.inf
) -> Tensor:
    found = [torch.zeros(0, dtype=torch.float64)]
    for start in range(0, count, together):
        if start >= least and time_is_up():
            break
        if label:
            report(label, start, count)
        found.append(values(slice(start, min(start + together, count))))
    if label:
        report(label, count, count)
    return torch.cat(found)
