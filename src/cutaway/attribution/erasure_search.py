"""The search for the smallest set of players without which the sign of a game's value changes."""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cutaway.core.budget import at_once, time_is_up
from cutaway.core.game import Game

# Up to so many parts, each step of the greedy search tries all of them.
_GREEDY = 128
# Sets that are made at once: of many players, all of them would not fit into memory. With a time limit, fewer; still as
# many as it takes for a game of cells to be worth a shortcut.
_TOGETHER, _FEW = 256, 64


class Found(NamedTuple):
    """A set that changes the sign, or none: which players, the margin before and after, and what was tried.

    Attributes:
        floor: Every set of fewer players was tried, and none changes the sign.
        tried: How many sets were looked at.
        late: The time limit ended the search.
    """

    erased: Bool[Tensor, "k"]
    before: float
    after: float
    floor: int
    tried: int
    late: bool


class _Late(Exception):
    """The time is up."""


class Search:
    """The search for one input."""

    def __init__(self, game: Game, tries: int) -> None:
        self.game, self.tries = game, tries
        self._looked, self._floor = 0, 2
        self._best: Bool[Tensor, " k"] | None = None
        self._sign = 1.0 if game.full > 0 else -1.0

    def found(self) -> Found:
        """Greedy first, for an upper bound; then all sets below it, by size, as far as tries and time go."""
        try:
            self._greedy()
            self._without_surplus()
            self._smaller()
            late = False
        except _Late:
            late = True
        best = self._best
        erased = torch.zeros(len(self.game), dtype=torch.bool) if best is None else best
        # Without parts that change nothing there is no set: the margin after is that of the input.
        after = self.game.full if best is None else float(self.game(~erased[None])[0])
        return Found(erased, self.game.full, after, self._floor, self._looked, late)

    def _left(self, erased: Bool[Tensor, "m k"]) -> Float[Tensor, "m"]:
        """What is left of the margin, positive as long as the answer stands. Single parts are tried in any case.

        Raises:
            _Late: The time is up.
        """
        found = [torch.zeros(0, dtype=torch.float64)]
        for some in erased.split(at_once(_TOGETHER, _FEW)):
            if self._looked >= len(self.game) and time_is_up():
                raise _Late
            self._looked += len(some)
            found.append(self._sign * self.game(~some))
        values = torch.cat(found)
        # The answer is what is above 0: at 0 it is lost, and not yet won.
        return values if self._sign > 0 else torch.where(values == 0, 1e-300, values)

    def _greedy(self) -> None:
        """Take away, each time, the part whose absence costs most; by their effect alone where there are many."""
        k = len(self.game)
        single = torch.eye(k, dtype=torch.bool)
        left = self._left(single)
        order = left.argsort(stable=True)
        if left[order[0]] <= 0:
            self._best = single[order[0]]
            return
        ranked = (order.argsort()[None] <= torch.arange(k)[:, None])[1:]
        flips = (self._left(ranked) <= 0).nonzero()[:, 0] if k > 1 else torch.zeros(0)
        self._best = ranked[int(flips[0])] if len(flips) else None
        erased, most = single[order[0]], k if self._best is None else int(self._best.sum()) - 1
        for _ in range(1, most if k <= _GREEDY else 1):
            more = erased | torch.eye(k, dtype=torch.bool)[~erased]
            left = self._left(more)
            erased = more[int(left.argmin())]
            if left.min() <= 0:
                self._best = erased
                return

    def _without_surplus(self) -> None:
        """Put parts back, each time the one that leaves the answer changed most clearly, as long as it is changed."""
        while self._best is not None and int(self._best.sum()) > 1:
            members = self._best.nonzero()[:, 0]
            fewer = self._best.repeat(len(members), 1)
            fewer[torch.arange(len(members)), members] = False
            left = self._left(fewer)
            if left.min() > 0:
                return
            self._best = fewer[int(left.argmin())]

    def _smaller(self) -> None:
        """Try all sets that are smaller, by size, as far as the tries go."""
        largest = len(self.game) if self._best is None else int(self._best.sum()) - 1
        left = self.tries
        for count in range(2, largest + 1):
            left -= math.comb(len(self.game), count)
            if left < 0 or self._of_size(count):
                return
            self._floor = count + 1

    def _of_size(self, count: int) -> bool:
        """Find the set of that size that changes the answer most clearly, if one does."""
        lowest = math.inf
        for some in _batched(itertools.combinations(range(len(self.game)), count)):
            erased = torch.zeros(len(some), len(self.game), dtype=torch.bool)
            erased.scatter_(1, torch.tensor(some), True)
            left = self._left(erased)
            k = int(left.argmin())
            if left[k] <= 0 and left[k] < lowest:
                self._best, lowest = erased[k], float(left[k])
        return lowest < math.inf


def most(k: int, tries: int) -> int:
    """How many sets of k players a search looks at, at most."""
    return 2 * k + (k * k // 2 if k <= _GREEDY else 0) + min(tries, 2 ** min(k, 30))


def _batched(items: Iterator[tuple[int, ...]], count: int = 1024) -> Iterator[list[tuple[int, ...]]]:
    while some := list(itertools.islice(items, count)):
        yield some
