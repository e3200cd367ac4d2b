"""Quantiles of very many values: exact from the upper tail alone, or within a stated error from a histogram."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.engine.state import Double, State, count

# New values wait in this share of the room that the tail takes, and are then sorted in together.
_WAITING = 4


@dataclass
class Tail(State):
    """The largest values of each unit: enough for any quantile in that tail, to the last bit.

    The 0.995 quantile of N values is between the two with 0.005 (N - 1) others above them. So N / 200 values per unit
    answer it exactly, and no activation needs to be stored.

    Attributes:
        kept: (units, room + waiting) float32; the largest come last, behind places for values that wait.
        room: How many of the largest are kept for each unit.
        waiting: How many values wait, from the left.
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
        return cls(places, count(room), count(0), count(0))

    def update(self, values: Tensor) -> None:
        """Take in values, (units, m).

        Raises:
            BadShape: A value is not finite.
        """
        values = values.detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(values).all()):
            unit = int((~torch.isfinite(values)).any(1).nonzero()[0])
            raise BadShape(f"expected finite activations; unit {unit} has NaN or infinity.")
        self.seen = self.seen + values.shape[1]
        space = self.kept.shape[1] - int(self.room)
        while values.shape[1]:
            if int(self.waiting) == space:
                self._sort_in()
            start = int(self.waiting)
            part = values[:, : space - start]
            self.kept[:, start : start + part.shape[1]] = part
            self.waiting = count(start + part.shape[1])
            values = values[:, part.shape[1] :]

    def merge(self, other: Self) -> Self:
        """The largest values of both."""
        room = max(int(self.room), int(other.room))
        whole = type(self).empty(len(self.kept), room)
        for part in (self, other):
            part._sort_in()
            kept = part.kept[:, -int(part.room) :]
            whole._take(kept)
        whole._sort_in()
        whole.seen = self.seen + other.seen
        return whole

    def arrays(self) -> dict[str, Tensor]:
        """Without the places for values that wait; sorted, so that equal states are equal files."""
        self._sort_in()
        kept = self.kept[:, -int(self.room) :].sort(1).values
        return {"kept": kept.contiguous(), "room": self.room, "waiting": count(0), "seen": self.seen}

    @classmethod
    def of(cls, arrays: dict[str, Tensor]) -> Self:  # type: ignore[override]  # a mapping is enough for the others
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
        largest = self.kept[:, -int(self.room) :].sort(1).values.double()
        low = largest[:, -(seen - below)]
        high = largest[:, -max(seen - below - 1, 1)]
        share = place - below
        step = high - low
        # NumPy's two forms, each exact at its own end.
        return high - step * (1 - share) if share >= 0.5 else low + step * share

    def _take(self, kept: Tensor) -> None:
        """Values from another tail; they were counted there."""
        seen = self.seen
        for start in range(0, kept.shape[1], step := self.kept.shape[1] - int(self.room)):
            self._sort_in()
            part = kept[:, start : start + step]
            self.kept[:, : part.shape[1]] = part
            self.waiting = count(part.shape[1])
        self.seen = seen

    def _sort_in(self) -> None:
        """Bring the largest to the right. In place: a copy would double the memory."""
        if int(self.waiting):
            table = self.kept.numpy()
            space = table.shape[1] - int(self.room)
            table[:, int(self.waiting) : space] = -np.inf
            table.partition(space, axis=1)
            self.waiting = count(0)


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
