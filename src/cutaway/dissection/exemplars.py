"""The examples of a data set that a unit answers most to."""

from typing import Any

import torch

from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, first
from cutaway.core.errors import BadOption
from cutaway.core.layers import last_with_positions
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Table
from cutaway.engine.extremes import Best
from cutaway.engine.job import Folded, fold
from cutaway.engine.strongest import Strongest

# The peak of an example that a unit answers to a little, as a share of the unit's extreme, is at most this.
_SLIGHT = 0.2


@method(paper="zeiler2014", quick={"k": 2})
def dataset_examples(
    model: Model, data: Dataset, *, sites: tuple[str, ...] = (), k: int = 9, spectrum: bool = False
) -> Table:
    """The examples of a data set to which each unit of some layers answers most, and where in them.

    For unit u:   the k examples with the largest max over positions p of a_u(x, p)

    One forward for each example, whatever the number of layers; only k numbers are kept for each unit. The spectrum
    takes a second look at the data set, since the extremes must be known first.

    Args:
        sites: Layers, with `;` between them in a text; the last with positions if none is named.
        k: Examples for each unit, and for each part of the spectrum.
        spectrum: Also those with the lowest minimum, and those with a slight answer: the highest peaks that are no more
            than a fifth of the unit's extreme, upwards and downwards.

    Returns:
        A row for each unit and rank: the example's number in the data set, its activation, and the position of it in
        the layer, counted row by row; with the spectrum, its part comes last. Among equals the example that comes first
        in the data set.

    Raises:
        BadOption: Fewer than one example.

    Source: Zeiler and Fergus 2014, section 4 (the top activations); Olah et al. 2017 for the spectrum, with no number
    for what is slight.
    """
    if k < 1:
        raise BadOption(f"expected at least one example for each unit; got {k}.")
    wanted = tuple(sites) or (str(last_with_positions(model, model.inputs(first(data)))),)
    whole = Strongest(wanted, k, ("maximum", "minimum") if spectrum else ("maximum",))
    folded = fold(whole, model, data, label="strongest examples")
    rows = [row for site in wanted for row in _rows(_best(folded, "maximum", site), site, 1)]
    silent = sum(int((_best(folded, "maximum", site).values.amax(1) <= 0).sum()) for site in wanted)
    text = f"{folded.seen} examples were looked at; {silent} units are never above 0."
    checks = {"seen": Check(text, "ok" if not silent else "note", float(folded.seen)), **folded.checks}
    columns = ["layer", "unit", "rank", "example", "activation", "position"]
    if not spectrum:
        return Table(columns=columns, rows=rows, checks=checks)
    rows = _spectrum(model, data, whole, folded)
    above = sum(int((_best(folded, "minimum", site).values.amax(1) <= 0).sum()) for site in wanted)
    if above:
        text = f"{above} units are never below 0, so they have no negative side here; look before the rectifier."
        checks["negative"] = Check(text, "note", float(above))
    return Table(columns=[*columns, "part"], rows=rows, checks=checks)


def _spectrum(model: Model, data: Dataset, whole: Strongest, extremes: Folded) -> list[list[Any]]:
    """Rows of all four parts, unit by unit, from the highest activation down."""
    limits = {name: _SLIGHT * state.values[:, 0] for name, state in extremes.states.items() if isinstance(state, Best)}
    slight = fold(Strongest(whole.sites, whole.k, whole.ends, limits), model, data, label="slight examples")
    rows = []
    for site in whole.sites:
        parts = (
            (extremes, "maximum", "maximum", 1),
            (slight, "maximum", "slightly positive", 1),
            (slight, "minimum", "slightly negative", -1),
            (extremes, "minimum", "minimum", -1),
        )
        for order, (folded, end, name, sign) in enumerate(parts):
            for row in _rows(_best(folded, end, site), site, sign):
                # What is not below 0 is no negative side: after a rectifier all examples would share the lowest.
                if name == "maximum" or sign * row[4] > 0:
                    rows.append((whole.sites.index(site), row[1], order, [*row, name]))
    return [row for *_, row in sorted(rows, key=lambda entry: entry[:3])]


def _best(folded: Folded, end: str, site: str) -> Best:
    state = folded.states[f"{end} {site}"]
    assert isinstance(state, Best)
    return state


def _rows(state: Best, site: str, sign: int) -> list[list[Any]]:
    """One row for each unit and rank; `sign` is -1 where the state looked for the lowest."""
    rows = []
    for unit, (values, ids, places) in enumerate(zip(state.values, state.ids, state.places, strict=True)):
        for rank in range(int((state.found[unit] & (values > -torch.inf)).sum())):
            number = int(ids[rank])
            rows.append([site, unit, rank + 1, number, sign * float(values[rank]), int(places[rank])])
    return rows
