"""The search for the smallest set of players without which the sign of a game's value changes."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.attribution.erasure_parts import values_of
from cutaway.core.game import Game

# Up to so many parts, each step of the greedy search tries all of them.
_GREEDY = 128


class Found(NamedTuple):
    """A set that changes the sign, or none: which players, the margin before and after, and what was tried.

    Attributes:
        floor: Every set of fewer players was tried, and none changes the sign.
        tried: How many sets were looked at.
    """

    erased: Bool[Tensor, "k"]
    before: float
    after: float
    floor: int
    tried: int


class Search:
    """The search for one input."""

    def __init__(self, game: Game, tries: int) -> None:
        self.game, self.tries = game, tries
        self._looked = 0
        self._sign = 1.0 if game.full > 0 else -1.0

    def found(self) -> Found:
        """Greedy first, for an upper bound; then all sets below it, by size."""
        best, floor = self._greedy(), 2
        if best is not None:
            best = self._without_surplus(best)
        largest = len(self.game) if best is None else int(best.sum()) - 1
        left = self.tries
        for count in range(2, largest + 1):
            left -= math.comb(len(self.game), count)
            if left < 0:
                break
            floor = count + 1
            smaller = self._of_size(count)
            if smaller is not None:
                best, floor = smaller, count
                break
        erased = torch.zeros(len(self.game), dtype=torch.bool) if best is None else best
        # Without parts that change nothing there is no set: the margin after is that of the input.
        after = self.game.full if best is None else float(self.game(~erased[None])[0])
        return Found(erased, self.game.full, after, floor, self._looked)

    def _left(self, erased: Bool[Tensor, "m k"]) -> Float[Tensor, "m"]:
        """What is left of the margin, positive as long as the answer stands."""
        self._looked += len(erased)
        values = self._sign * values_of(self.game, ~erased)
        # The answer is what is above 0: at 0 it is lost, and not yet won.
        return values if self._sign > 0 else torch.where(values == 0, 1e-300, values)

    def _greedy(self) -> Bool[Tensor, "k"] | None:
        """Take away, each time, the part whose absence costs most; by their effect alone where there are many."""
        k = len(self.game)
        single = torch.eye(k, dtype=torch.bool)
        left = self._left(single)
        order = left.argsort(stable=True)
        if left[order[0]] <= 0:
            return single[order[0]]
        ranked = (order.argsort()[None] <= torch.arange(k)[:, None])[1:]
        flips = (self._left(ranked) <= 0).nonzero()[:, 0] if k > 1 else torch.zeros(0)
        best = ranked[int(flips[0])] if len(flips) else None
        erased, most = single[order[0]], k if best is None else int(best.sum()) - 1
        if k > _GREEDY:
            return best
        for _ in range(1, most):
            more = erased | torch.eye(k, dtype=torch.bool)[~erased]
            left = self._left(more)
            erased = more[int(left.argmin())]
            if left.min() <= 0:
                return erased
        return best

    def _without_surplus(self, erased: Bool[Tensor, "k"]) -> Bool[Tensor, "k"]:
        """Put parts back, each time the one that leaves the answer changed most clearly, as long as it is changed."""
        while int(erased.sum()) > 1:
            members = erased.nonzero()[:, 0]
            fewer = erased.repeat(len(members), 1)
            fewer[torch.arange(len(members)), members] = False
            left = self._left(fewer)
            if left.min() > 0:
                break
            erased = fewer[int(left.argmin())]
        return erased

    def _of_size(self, count: int) -> Bool[Tensor, "k"] | None:
        """The set of that size that changes the answer most clearly, if one does."""
        best, lowest = None, 0.0
        for some in _batched(itertools.combinations(range(len(self.game)), count)):
            erased = torch.zeros(len(some), len(self.game), dtype=torch.bool)
            erased.scatter_(1, torch.tensor(some), True)
            left = self._left(erased)
            k = int(left.argmin())
            if left[k] <= 0 and (best is None or left[k] < lowest):
                best, lowest = erased[k], float(left[k])
        return best


def most(k: int, tries: int) -> int:
    """How many sets of k players a search looks at, at most."""
    return 2 * k + (k * k // 2 if k <= _GREEDY else 0) + min(tries, 2 ** min(k, 30))


def _batched(items: Iterator[tuple[int, ...]], count: int = 4096) -> Iterator[list[tuple[int, ...]]]:
    while some := list(itertools.islice(items, count)):
        yield some
