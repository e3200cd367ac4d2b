"""Quantiles of very many values: exact from the upper tail alone, or within a stated error from a histogram."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.engine.state import Double, Int, State, count

# New values wait in this share of the room that the tail takes, and are then sorted in together.
_WAITING = 4
# So many values are taken in at once: finding places for them takes up to twenty times their memory.
_AT_ONCE = 1 << 16


@dataclass
class Tail(State):
    """The largest values of each unit: enough for any quantile in that tail, to the last bit.

    The 0.995 quantile of N values is between the two with 0.005 (N - 1) others above them. So N / 200 values per unit
    answer it exactly, and no activation needs to be stored.

    Attributes:
        kept: (units, waiting + room) float32; the largest come last, behind places for values that wait.
        room: How many of the largest are kept for each unit.
        waiting: How many values of each unit wait, from the left, (units,).
        seen: How many values there were for each unit.
    """

    kept: Tensor
    room: Tensor
    waiting: Tensor
    seen: Tensor

    @classmethod
    def empty(cls, units: int, room: int) -> Self:
        """Nothing seen.

        Args:
            units: How many.
            room: How many of the largest values to keep for each; see `room_for`.
        """
        if room < 1:
            raise BadOption(f"expected room for at least one value per unit; got {room}.")
        places = torch.full((units, room + max(1, room // _WAITING)), -torch.inf)
        return cls(places, count(room), torch.zeros(units, dtype=Int), count(0))

    def update(self, values: Tensor) -> None:
        """Take in values, (units, m).

        Raises:
            BadShape: A value is not finite.
        """
        values = values.detach().to("cpu", torch.float32)
        # A sum tells whether one of them is not finite, or that it has to be looked at more closely.
        if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
            unit = int((~torch.isfinite(values)).any(1).nonzero()[0])
            raise BadShape(f"expected finite activations; unit {unit} has NaN or infinity.")
        self._take(values)
        self.seen = self.seen + values.shape[1]

    def merge(self, other: Self) -> Self:
        """The largest values of both."""
        small, large = sorted((self, other), key=lambda tail: int(tail.room))
        whole = type(self).of(large.arrays(ordered=False))
        small._sort_in()
        whole._take(small.kept[:, -int(small.room) :])
        whole._sort_in()
        whole.seen = self.seen + other.seen
        return whole

    def arrays(self, *, ordered: bool = True) -> dict[str, Tensor]:
        """Without the places for values that wait.

        Args:
            ordered: Sort the values, so that equal states are equal files.
        """
        self._sort_in()
        kept = self.kept[:, -int(self.room) :]
        return {"kept": kept.sort(1).values if ordered else kept, "room": self.room, "seen": self.seen}

    @classmethod
    def of(cls, arrays: Mapping[str, Tensor]) -> Self:
        """The inverse of `arrays`."""
        room = int(arrays["room"])
        state = cls.empty(len(arrays["kept"]), room)
        state.kept[:, -room:] = arrays["kept"]
        state.seen = arrays["seen"]
        return state

    def quantile(self, q: float) -> Tensor:
        """The q quantile of each unit's values: `numpy.quantile` of them in double precision, to the last bit.

        Raises:
            NotPossible: It lies outside the tail that was kept, or there were no values.
        """
        seen = int(self.seen)
        if not seen:
            raise NotPossible("no values were seen, so there is no quantile.")
        place = q * (seen - 1)
        below = math.floor(place)
        if seen - below > int(self.room):
            raise NotPossible(
                f"the {q} quantile of {seen} values needs the {seen - below} largest; {int(self.room)} were kept."
            )
        self._sort_in()
        largest, ends = self.kept[:, -int(self.room) :].numpy(), [below - seen, min(below + 1 - seen, -1)]
        # Unit by unit, so that no second table is made.
        found = [np.partition(row, [len(row) + end for end in ends])[ends] for row in largest]
        low, high = torch.from_numpy(np.array(found)).double().unbind(1)
        share = place - below
        step = high - low
        # NumPy's two forms, each exact at its own end.
        return high - step * (1 - share) if share >= 0.5 else low + step * share

    def _take(self, values: Tensor) -> None:
        """Let those wait that may be among the largest: what is not above the least of the kept is not."""
        space = self.kept.shape[1] - int(self.room)
        for part in torch.split(values, min(space, max(1, _AT_ONCE // max(1, len(values)))), dim=1):
            above = part > self.kept[:, space, None]
            if int((self.waiting + above.sum(1)).max()) > space:
                self._sort_in()
                above = part > self.kept[:, space, None]
            new = above.sum(1)
            start, last = self.waiting.aminmax()
            if start == last and bool(above.all()):
                self.kept[:, int(start) : int(start) + part.shape[1]] = part
            elif bool(new.any()):
                unit, column = above.nonzero(as_tuple=True)
                rank = torch.arange(len(unit)) - (new.cumsum(0) - new)[unit]
                self.kept[unit, self.waiting[unit] + rank] = part[unit, column]
            self.waiting = self.waiting + new

    def _sort_in(self) -> None:
        """Bring the largest to the right. In place: a copy would double the memory."""
        if not int(self.waiting.max()):
            return
        table = self.kept.numpy()
        space = table.shape[1] - int(self.room)
        table[:, :space][np.arange(space) >= self.waiting.numpy()[:, None]] = -np.inf
        table.partition(space, axis=1)
        self.waiting = torch.zeros_like(self.waiting)


def room_for(q: float, values: int) -> int:
    """How many of the largest of `values` numbers the q quantile needs."""
    if not 0 <= q <= 1:
        raise BadOption(f"expected a quantile from 0 to 1, such as 0.995; got {q}.")
    return max(1, values - math.floor(q * (values - 1)))


@dataclass
class LogHistogram(State):
    """Counts in bins whose width grows with the value: any quantile within a relative error, in fixed memory.

    Bin k holds values with size in (g^(k-1), g^k], g = (1 + error) / (1 - error), on each side of 0; the middle of a
    bin is then within `error` of everything in it (Masson, Rim and Lee 2019). Sizes below `SMALLEST` count as 0, those
    above `LARGEST` as that.

    Attributes:
        bins: (units, 2 m + 1) int64: negative, zero, positive.
        error: The relative error.
    """

    bins: Tensor
    error: Tensor

    SMALLEST, LARGEST = 1e-9, 1e9

    @classmethod
    def empty(cls, units: int, *, error: float = 0.01) -> Self:
        """Nothing seen.

        Args:
            units: How many.
            error: Largest relative error of a quantile.
        """
        if not 0 < error < 1:
            raise BadOption(f"expected a relative error between 0 and 1; got {error}.")
        m = math.ceil(math.log(cls.LARGEST / cls.SMALLEST) / cls._step(error))
        return cls(torch.zeros(units, 2 * m + 1, dtype=torch.int64), torch.tensor(error, dtype=Double))

    def update(self, values: Tensor) -> None:
        """Take in values, (units, m)."""
        values = values.detach().to("cpu", Double)
        m = self.bins.shape[1] // 2
        sizes = values.abs().clamp(max=self.LARGEST)
        place = (sizes / self.SMALLEST).clamp_min(1).log().div(self._step(float(self.error))).ceil().long().clamp(1, m)
        place = torch.where(sizes < self.SMALLEST, 0, place * values.sign().long()) + m
        self.bins.scatter_add_(1, place, torch.ones_like(place))

    def merge(self, other: Self) -> Self:
        """The sum of the counts.

        Raises:
            BadShape: Their errors, and so their bins, differ.
        """
        if float(self.error) != float(other.error):
            raise BadShape(f"expected histograms of one error; got {float(self.error)} and {float(other.error)}.")
        return type(self)(self.bins + other.bins, self.error)

    def quantile(self, q: float) -> Tensor:
        """The q quantile of each unit's values, within the relative error, (units,)."""
        seen = self.bins.sum(1, keepdim=True)
        if not bool((seen > 0).all()):
            raise NotPossible("no values were seen, so there is no quantile.")
        rank = torch.floor(q * (seen - 1).double()).long() + 1
        place = torch.searchsorted(self.bins.cumsum(1), rank)[:, 0] - self.bins.shape[1] // 2
        step = self._step(float(self.error))
        # Between the ends of the bin, so that the relative error is the same at both.
        middle = self.SMALLEST * torch.exp(step * place.abs().double()) * 2 / (1 + math.exp(step))
        return torch.where(place == 0, 0.0, middle * place.sign())

    @staticmethod
    def _step(error: float) -> float:
        return math.log((1 + error) / (1 - error))
