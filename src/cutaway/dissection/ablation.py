"""Whether a classifier uses a unit: what becomes of its accuracy without it."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from cutaway.core.batch import Batch, size, take
from cutaway.core.checks import Check, Status
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Table
from cutaway.core.site import Site, unit_axis
from cutaway.dissection.dissect import dissect
from cutaway.dissection.places import last_inner, real_positions, unit_numbers
from cutaway.engine.counts import Counts, Sums
from cutaway.engine.job import fold
from cutaway.engine.state import State, States
from cutaway.maths.proportions import paired_change

_Z = 1.959963984540054  # of an interval of 95 %
# Variants of one input that are put together at once; the model splits them further as it needs.
_AT_ONCE = 64


@method(paper="morcos2018", quick={"draws": 2})
def unit_ablation(
    model: Model,
    data: Dataset,
    *,
    site: Site | None = None,
    units: tuple[str, ...] = (),
    concept: str = "",
    top: int = 4,
    instead: Literal["zero", "mean"] = "zero",
    draws: int = 20,
    seed: int = 0,
) -> Table:
    """How much of a classifier's accuracy, for each class, is lost without some units, beside random ones.

    change(c) = P(right without the units | c) - P(right | c),   without: a_u = 0, or its mean, at all positions

    Each input is run once up to the layer, and then once for each variant from there on. Named units, or the top units
    of a concept, are taken out together, and beside them as many random ones, several times. If neither is named, each
    unit of the layer is taken out alone.

    Args:
        site: The layer; if none is named, the last with positions (texts: with a row for each piece; tables: the last
            one before the answer).
        units: Numbers of the units that are taken out, with `;` between them in a text.
        concept: Take out the units with the highest IoU of those that `dissect` finds for this concept on these data.
        top: How many of them at most.
        instead: What stands for the answer of a unit that is taken out: 0, or the unit's mean over the data.
        draws: Random sets of as many other units.
        seed: Of these sets.

    Returns:
        With units or a concept, a row for all examples and one for each class, the most hurt first: accuracy before and
        after, the change with a 95 % interval, the mean, lowest and highest change over the random sets, and the share
        of sets (this one among them) that hurt as much; then the same for the probability of the right class (`p`),
        which changes long before an answer does. Without, a row for each unit, and the class that it hurts most. Where
        the data has no labels, the network's own answers stand for them.

    Raises:
        BadOption: A unit or concept that does not exist, or an option out of range.

    Source: Morcos et al. 2018, section 2.2 (ablation of single directions), for each class as in Zhou et al. 2018.
    """
    if min(top, draws) < 1:
        raise BadOption(f"expected at least one unit and one random set; got top={top} and draws={draws}.")
    if units and concept:
        raise BadOption("expected units or a concept, not both.")
    row = take(model.inputs(first(data)), slice(0, 1))
    site = last_inner(model, row) if site is None else site.whole
    act, axis = _units(model, row, site)
    count = act.shape[1]
    if concept:
        units = units_of(dissect(model, data, site=site), concept, top)
    chosen = unit_numbers(units, count, site)
    groups = _groups(chosen, count, draws, seed) if units else torch.eye(count, dtype=torch.bool)
    stand_in = torch.zeros(count, dtype=torch.float64)
    if instead == "mean":
        sums = fold(_Means(str(site), count), model, data, label="means").states["units"]
        assert isinstance(sums, Sums)
        stand_in = sums.total / sums.seen
    folded = fold(_Ablations(str(site), axis, groups, stand_in), model, data, label="ablation")
    counted = _Counted.of(folded.states, [model.class_name(k) for k in range(_classes(folded.states))])
    made = _by_class(counted, chosen, site) if units else _by_unit(counted, site)
    checks = {**made.checks, **folded.checks}
    if first(data).labels is None:
        text = "The data has no labels: right is what the network answers with all its units."
        checks["labels"] = Check(text, "note")
    return Table(columns=made.columns, rows=made.rows, checks=checks)


def units_of(table: Table, concept: str, most: int) -> tuple[str, ...]:
    """The units of a table of `dissect` whose best concept, of all or of its category, is this one; the best first.

    Args:
        table: Of `dissect`.
        concept: Its name.
        most: How many units at most.

    Raises:
        BadOption: No unit has it.
    """
    pairs = [(c, "IoU") for c in ("concept",)]
    pairs += [(c, f"{c.removeprefix('best ')} IoU") for c in table.columns if c.startswith("best ")]
    at = {name: k for k, name in enumerate(table.columns)}
    found = {
        int(row[at["unit"]]): float(row[at[score]])
        for name, score in pairs
        for row in table.rows
        if row[at[name]] == concept and float(row[at[score]]) > 0
    }
    if not found:
        known = sorted({str(row[at[name]]) for name, _ in pairs for row in table.rows} - {"–"})
        raise BadOption(f"no unit has {concept!r} as its best concept; there are {', '.join(known)}.")
    return tuple(str(unit) for unit in sorted(found, key=lambda unit: (-found[unit], unit))[:most])


@dataclass(frozen=True)
class _Means:
    """The mean of each unit over positions and examples."""

    site: str
    count: int

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Nothing seen."""
        return {"units": Sums.empty(self.count)}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Take in some examples."""
        site, state = Site.of(self.site), states["units"]
        act = _units(model, x, site)[0].double()
        real = real_positions(model, x, act, site)[:, None]
        assert isinstance(state, Sums)
        state.update((act * real).sum(2) / real.sum(2))


@dataclass(frozen=True)
class _Ablations:
    """Counts of right answers that come and go when units are taken out.

    Attributes:
        site: The layer.
        axis: Of the units there.
        groups: Which units are taken out in each variant, (variants, units).
        stand_in: What stands there, (units,).
    """

    site: str
    axis: int
    groups: Tensor
    stand_in: Tensor

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Zeros."""
        classes, variants = model.run(model.inputs(first(data))).scores.shape[1], len(self.groups)
        return {
            "n": Counts.empty(classes),
            "right": Counts.empty(classes),
            "gained": Counts.empty(variants, classes),
            "lost": Counts.empty(variants, classes),
            "before": Sums.empty(classes),
            "probability": Sums.empty(variants, classes),
        }

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """One input after the other: up to the layer once, then on from there."""
        counts = {name: state.values for name, state in states.items() if isinstance(state, Counts)}
        for i in range(size(x)):
            probabilities = self._probabilities(model, take(x, slice(i, i + 1)))
            answers = probabilities.argmax(1)
            label = int(answers[0]) if part.labels is None else _expected(model, part, int(part.labels[i]))
            if not 0 <= label < len(counts["n"]):
                raise BadShape(f"expected labels from 0 to {len(counts['n']) - 1}; example {int(ids[i])} has {label}.")
            right = answers == label
            counts["n"][label] += 1
            counts["right"][label] += int(right[0])
            counts["gained"][:, label] += (right[1:] & ~right[0]).long()
            counts["lost"][:, label] += (right[0] & ~right[1:]).long()
            of_label = probabilities[:, label].double()
            _add(states["before"], label, of_label[0])
            _add(states["probability"], label, of_label[1:] - of_label[0])

    def _probabilities(self, model: Model, row: Batch) -> Tensor:
        """Of all classes with all units, then in each variant, (1 + variants, classes)."""
        site = Site.of(self.site)
        prefix = model.prefix(row, site)
        value = prefix.value
        found = []
        along = [-1 if axis == self.axis else 1 for axis in range(1, value.ndim)]
        stand_in = self.stand_in.to(value).view(1, *along)
        for groups in torch.cat([torch.zeros_like(self.groups[:1]), self.groups]).split(_AT_ONCE):
            edited = torch.where(groups.to(value.device).view(len(groups), *along), stand_in, value)
            found.append(model.run(None, prefix=prefix, edit={str(site): edited}).probabilities.cpu())
        return torch.cat(found)


def _add(state: State, label: int, value: Tensor) -> None:
    """Add a number, and its square, to the column of a class."""
    assert isinstance(state, Sums)
    state.total[..., label] += value
    state.squares[..., label] += value.square()


def _units(model: Model, x: Batch, site: Site) -> tuple[Tensor, int]:
    """The units of a layer at its positions, (n, units, positions), and the axis that they are on in the network."""
    trace = model.run(x, read=[site])
    act = trace[site]
    axis = unit_axis(act, trace.module(site)) if act.ndim > 2 else 1
    act = act.movedim(axis, 1).cpu()
    return (act.flatten(2) if act.ndim > 2 else act[:, :, None]), axis


def _expected(model: Model, part: Examples, label: int) -> int:
    """The network's number of a class of the data set."""
    if not part.classes or model.classes is None or tuple(part.classes) == model.classes:
        return label
    return model.class_index(part.classes[label])


def _groups(chosen: tuple[int, ...], count: int, draws: int, seed: int) -> Tensor:
    """The chosen units, then random sets of as many others; of all units where there are not enough others."""
    generator = torch.Generator().manual_seed(seed)
    others = torch.tensor([unit for unit in range(count) if unit not in chosen], dtype=torch.long)
    others = others if len(others) >= len(chosen) else torch.arange(count)
    groups = torch.zeros(1 + draws, count, dtype=torch.bool)
    groups[0, list(chosen)] = True
    for k in range(draws):
        groups[1 + k, others[torch.randperm(len(others), generator=generator)[: len(chosen)]]] = True
    return groups


@dataclass(frozen=True)
class _Counted:
    """What the data set came to: of variants and classes, or of variants and all classes together.

    Attributes:
        names: Of the classes.
        n, right, before: Examples, right answers and summed probability of the right class with all units, (classes,).
        gained, lost, moved, squares: Answers that become right and wrong, and the sum of changes of probability and of
            their squares, (variants, classes).
    """

    names: list[str]
    n: Tensor
    right: Tensor
    before: Tensor
    gained: Tensor
    lost: Tensor
    moved: Tensor
    squares: Tensor

    @classmethod
    def of(cls, states: States, names: list[str]) -> "_Counted":
        """From the states of `_Ablations`; all classes together come last."""
        arrays = {name: state.arrays() for name, state in states.items()}
        found = [arrays[name]["values"] for name in ("n", "right", "gained", "lost")]
        found += [arrays["before"]["total"], *(arrays["probability"][part] for part in ("total", "squares"))]
        n, right, gained, lost, before, moved, squares = (
            torch.cat([t, t.sum(-1, keepdim=True)], -1).double() for t in found
        )
        return cls([*names, "all"], n, right, before, gained, lost, moved, squares)

    def change(self, k: int | slice) -> tuple[Tensor, Tensor, Tensor]:
        """The change of accuracy in a class without the units of each variant, and the ends of its interval."""
        n = self.n[k]
        ends = paired_change(self.gained[:, k], self.lost[:, k], n.expand_as(self.gained[:, k]))
        return ((self.gained - self.lost)[:, k] / n.clamp_min(1)), *ends

    def shift(self, k: int | slice) -> tuple[Tensor, Tensor, Tensor]:
        """The mean change of the right class's probability, and the ends of its interval (normal)."""
        n = self.n[k].clamp_min(1)
        mean = self.moved[:, k] / n
        spread = (self.squares[:, k] / n - mean.square()).clamp_min(0)
        reach = _Z * (spread / (n - 1).clamp_min(1)).sqrt()
        # One example tells nothing of the spread.
        reach = torch.where(self.n[k] > 1, reach, 1.0)
        return mean, (mean - reach).clamp_min(-1), (mean + reach).clamp_max(1)


def _classes(states: States) -> int:
    return len(states["n"].arrays()["values"])


def _by_class(counted: _Counted, chosen: tuple[int, ...], site: Site) -> Table:
    """A row for all examples, and one for each class."""
    columns = ["class", "examples", "accuracy", "without", "change", "low", "high"]
    columns += ["random", "random low", "random high", "as bad", "probability", "p change", "p low", "p high"]
    columns += ["p random", "p as bad"]
    rows = []
    for k, name in enumerate(counted.names):
        if not (n := int(counted.n[k])):
            continue
        (change, low, high), (shift, p_low, p_high) = counted.change(k), counted.shift(k)
        accuracy, ends = float(counted.right[k] / n), [change[0], low[0], high[0]]
        random = [change[1:].mean(), change[1:].min(), change[1:].max(), _as_bad(change)]
        of_class = [counted.before[k] / n, shift[0], p_low[0], p_high[0], shift[1:].mean(), _as_bad(shift)]
        rows.append([name, n, accuracy, accuracy + float(change[0]), *map(float, [*ends, *random, *of_class])])
    whole: dict[str, Any] = dict(zip(columns, rows[-1], strict=True))
    which = f"unit {chosen[0]}" if len(chosen) == 1 else f"{len(chosen)} units ({', '.join(map(str, chosen))})"
    text = (
        f"Without {which} of {site}, {whole['without']:.1%} of {whole['examples']} answers are right instead of "
        f"{whole['accuracy']:.1%} (change {whole['change']:+.1%}, from {whole['low']:+.1%} to {whole['high']:+.1%}); "
        f"without as many random units {whole['random']:+.1%} on average, from {whole['random low']:+.1%} to "
        f"{whole['random high']:+.1%}. The right class's probability changes by {whole['p change']:+.4f}, without "
        f"random units by {whole['p random']:+.4f}."
    )
    least = 1 / len(counted.moved)
    status: Status = "ok" if min(whole["as bad"], whole["p as bad"]) <= least + 1e-12 else "note"
    rows = [rows[-1], *sorted(rows[:-1], key=lambda row: (row[4], row[12]))]
    return Table(columns=columns, rows=rows, checks={"effect": Check(text, status, whole["change"])})


def _as_bad(changes: Tensor) -> Tensor:
    """The share of sets that hurt as much as the first, itself among them."""
    return (changes <= changes[0]).double().mean()


def _by_unit(counted: _Counted, site: Site) -> Table:
    """A row for each unit, the most harmful first."""
    columns = ["unit", "accuracy", "without", "change", "low", "high", "p change", "p low", "p high"]
    columns += ["hurts most", "its p change", "its p low", "its p high"]
    (change, low, high), (shift, p_low, p_high) = counted.change(-1), counted.shift(-1)
    of_class, its_low, its_high = counted.shift(slice(0, -1))
    accuracy, rows = float(counted.right[-1] / counted.n[-1]), []
    for u in shift.argsort(stable=True).tolist():
        k = int(of_class[u].argmin())
        numbers = [accuracy + change[u], change[u], low[u], high[u], shift[u], p_low[u], p_high[u]]
        its = [of_class[u, k], its_low[u, k], its_high[u, k]]
        name = counted.names[k] if bool(of_class[u, k] < 0) else "–"
        rows.append([u, accuracy, *map(float, numbers), name, *map(float, its)])
    needed = int((p_high < 0).sum())
    text = (
        f"{int(counted.n[-1])} answers, {accuracy:.1%} right. Without one unit of {site} the change is between "
        f"{float(change.min()):+.1%} and {float(change.max()):+.1%}. The right class's probability falls without "
        f"{needed} of {len(change)} units (whole interval below 0), by {-float(shift.min()):.4f} at most."
    )
    return Table(columns=columns, rows=rows, checks={"effect": Check(text, "ok", float(shift.min()))})
