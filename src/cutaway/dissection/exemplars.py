"""The examples of a data set that a unit answers most to."""

from dataclasses import dataclass

from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, Examples
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Table
from cutaway.core.site import Site
from cutaway.dissection.units import last_with_positions
from cutaway.engine.extremes import Best
from cutaway.engine.job import fold
from cutaway.engine.state import State, States


@dataclass(frozen=True)
class Strongest:
    """The k examples of highest activation, for each unit of some layers.

    Attributes:
        sites: The layers.
        k: How many examples.
    """

    sites: tuple[str, ...]
    k: int

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Nobody yet."""
        peaks = self._peaks(model, model.inputs(data[0:1]))
        return {site: Best.empty(values.shape[1], self.k) for site, (values, _) in peaks.items()}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Compare with the best so far."""
        for site, (values, places) in self._peaks(model, x).items():
            state = states[site]
            assert isinstance(state, Best)
            state.update(values, ids, places)

    def _peaks(self, model: Model, x: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Highest activation of each unit, and the position of it, counted row by row; each (n, units)."""
        trace = model.run(x, read=self.sites)
        found = {}
        for site in self.sites:
            act = trace[Site.of(site).whole]
            # Units come second, but last in a sequence of tokens (n, tokens, units).
            act = act.transpose(1, 2) if act.ndim == 3 else act
            peak = act.reshape(*act.shape[:2], -1).max(2)
            found[site] = peak.values, peak.indices
        return found


@method(paper="zeiler2014", quick={"k": 2})
def dataset_examples(model: Model, data: Dataset, *, sites: tuple[str, ...] = (), k: int = 9) -> Table:
    """The examples of a data set to which each unit of some layers answers most, and where in them.

    For unit u:   the k examples with the largest max over positions p of a_u(x, p)

    One forward for each example, whatever the number of layers; only k numbers are kept for each unit.

    Args:
        sites: Layers, with `;` between them in a text; the last with positions if none is named.
        k: Examples for each unit.

    Returns:
        A row for each unit and rank: the example's number in the data set, its activation, and the position of it in
        the layer, counted row by row. Among equals the example that comes first in the data set.

    Raises:
        BadOption: Fewer than one example.

    Source: Zeiler and Fergus 2014, section 4 (the top activations).
    """
    if k < 1:
        raise BadOption(f"expected at least one example for each unit; got {k}.")
    row = model.inputs(data[0:1])
    wanted = tuple(sites) or (str(last_with_positions(model, row)),)
    folded = fold(Strongest(wanted, k), model, data, label="strongest examples")
    rows = []
    for site, state in folded.states.items():
        assert isinstance(state, Best)
        for unit, (values, ids, places) in enumerate(zip(state.values, state.ids, state.places, strict=True)):
            for rank in range(int(state.found[unit].sum())):
                number = int(ids[rank])
                rows.append([site, unit, rank + 1, number, float(values[rank]), int(places[rank])])
    silent = sum(int((s.values.amax(1) <= 0).sum()) for s in folded.states.values() if isinstance(s, Best))
    text = f"{folded.seen} examples were looked at; {silent} units are never above 0."
    return Table(
        columns=["layer", "unit", "rank", "example", "activation", "position"],
        rows=rows,
        checks={"seen": Check(text, "ok" if not silent else "note", float(folded.seen)), **folded.checks},
    )
