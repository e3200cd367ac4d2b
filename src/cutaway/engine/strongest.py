"""The examples of a data set that a unit answers most to, at either end of its range and in between."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.model import Model
from cutaway.core.site import Site, unit_axis
from cutaway.engine.extremes import Best
from cutaway.engine.state import State, States

End = Literal["maximum", "minimum"]


@dataclass(frozen=True)
class Strongest:
    """The k examples of highest, or lowest, activation, for each unit of some layers.

    The states are named "maximum conv3" and "minimum conv3"; those of a minimum have values of changed sign.

    Attributes:
        sites: The layers.
        k: How many examples.
        ends: Which ends are looked for.
        limits: By the name of a state, a number for each unit: only peaks above 0 and up to it count. Without it, all.
    """

    sites: tuple[str, ...]
    k: int
    ends: tuple[End, ...] = ("maximum",)
    limits: Mapping[str, Tensor] = field(default_factory=dict)

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Nobody yet."""
        peaks = self._peaks(model, model.inputs(first(data)))
        return {name: Best.empty(values.shape[1], self.k) for name, (values, _) in peaks.items()}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Compare with the best so far."""
        for name, (values, places) in self._peaks(model, x).items():
            state, limit = states[name], self.limits.get(name)
            assert isinstance(state, Best)
            if limit is not None:
                values = values.cpu().double()
                values = values.masked_fill((values <= 0) | (values > limit), -torch.inf)
            state.update(values, ids, places)

    def _peaks(self, model: Model, x: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Highest activation of each unit, and the position of it, counted row by row; each (n, units)."""
        trace = model.run(x, read=self.sites)
        found = {}
        for text in self.sites:
            site = Site.of(text).whole
            # Units come second, but last in a sequence of tokens (n, tokens, units).
            act = trace[site].movedim(unit_axis(trace[site], trace.module(site)), 1)
            flat = act.reshape(*act.shape[:2], -1)
            for end in self.ends:
                peak = (flat if end == "maximum" else -flat).max(2)
                found[f"{end} {text}"] = peak.values, peak.indices
        return found
