"""Classes and units as boolean functions of units that are on or off."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check
from cutaway.core.dataset import Dataset, Examples, first
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Table
from cutaway.core.site import OUTPUT, Site, unit_axis
from cutaway.dissection.places import last_inner, real_positions, unit_numbers
from cutaway.engine.job import fold
from cutaway.engine.state import State, States
from cutaway.engine.stored import Rows
from cutaway.maths.boolean import EXACT, Form, minimised
from cutaway.maths.proportions import wilson

# So many classes are explained if nothing else is said.
MOST_CLASSES = 20


@method(paper="mccluskey1956", quick={"variables": 3})
def boolean_form(
    model: Model,
    data: Dataset,
    *,
    of: tuple[str, ...] = (),
    site: Site | None = None,
    units: tuple[str, ...] = (),
    variables: int = 8,
    quantile: float = 0.75,
    seed: int = 0,
) -> Table:
    """The shortest AND, OR and NOT of units that are on or off which says when a class is answered or a unit is on.

    v_u(x) = (max over positions of a_u(x) > T_u),   the outcome ~ OR of ANDs of v_u and NOT v_u, with fewest terms

    Half of the examples make the table of patterns: an outcome is true for a pattern if it is for most of its examples,
    and patterns that were not seen may come out either way. The other half says how often the form is right. One
    forward for each example.

    Args:
        of: What is explained, with `;` between several in a text: classes by name or number, or units such as
            `conv5:12`. All classes if none is named, up to 20.
        site: The layer whose units are the variables; the last with positions if none is named.
        units: Numbers of these units; if none is named, those that tell most about each outcome are chosen.
        variables: How many are chosen then. Up to 12 the form is proven to be the shortest; above it is searched.
        quantile: A unit is on in the examples in which its highest answer is above this quantile of its own.
        seed: Of the orders that are tried above 12 variables.

    Returns:
        A row for each outcome: its form, with terms and literals; how often it is right on the half that was not used
        (`accuracy`, with a 95 % interval), beside the share of the more frequent answer there (`always the same`); the
        share of those examples whose pattern had been seen (`coverage`); and how often it is right on the half that
        was used (`fit`), the most that any function of these variables can be.

    Raises:
        BadOption: An option out of range, or a unit that does not exist.
        UnknownName: A class that does not exist.
        NotPossible: An answer is not finite.

    Source: McCluskey 1956 for up to 12 variables; above, in the manner of Brayton et al. 1984 (Espresso).
    """
    if not 0 < quantile < 1:
        raise BadOption(f"expected a quantile between 0 and 1, such as 0.75; got {quantile}.")
    if not 1 <= variables <= 64:
        raise BadOption(f"expected from 1 to 64 variables; got {variables}.")
    if len(data) < 2:
        raise BadOption(f"expected at least two examples, one of them to test the form on; got {len(data)}.")
    x = model.inputs(first(data))
    site = (last_inner(model, x) if site is None else site).whole
    targets = _targets(model, x, of)
    kept = fold(_Peaks(str(site), tuple(targets.values())), model, data, label="units")
    rows = kept.states["rows"]
    assert isinstance(rows, Rows)
    found = rows.values.numpy()
    if not np.isfinite(found).all():
        raise NotPossible(f"an answer of {site} or of what is explained is not finite, so nothing is on or off.")
    count = found.shape[1] - len(targets)
    chosen = unit_numbers(units, count, site)
    on = found[:, chosen] > np.quantile(found[:, chosen], quantile, axis=0)
    split = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).numpy()
    used, left = split[: -(-len(found) // 2)], split[-(-len(found) // 2) :]
    forms = []
    for k, (name, target) in enumerate(track(list(targets.items()), "forms"), start=count):
        # Classes came as 0 and 1; units are cut like the variables.
        cut = 0.5 if target.unit is None else float(np.quantile(found[:, k], quantile))
        # A unit does not explain itself.
        others = [i for i, unit in enumerate(chosen) if (str(site), unit) != (target.site, target.unit)]
        picked = others if units else _telling(on[used][:, others], found[used, k] > cut, variables, others)
        names = [f"u{chosen[i]}" for i in picked]
        forms.append(_tested(name, names, on[:, picked], found[:, k] > cut, used, left, seed))
    return _table(forms, str(site), kept.checks)


@dataclass(frozen=True)
class _Target:
    """What is explained: a unit of a layer, or a class by its number."""

    site: str
    unit: int | None
    label: int = -1

    def __str__(self) -> str:
        return f"{self.site}:{self.unit}" if self.unit is not None else f"class {self.label}"


@dataclass(frozen=True)
class _Peaks:
    """The highest answer of each unit to each example, and what is to be explained.

    Attributes:
        site: The layer.
        targets: What is explained.
    """

    site: str
    targets: tuple[_Target, ...]

    def begin(self, model: Model, data: Dataset, examples: int) -> dict[str, State]:
        """Nothing seen."""
        width = _peaks(model, model.inputs(first(data)), [self.site])[self.site].shape[1] + len(self.targets)
        return {"rows": Rows.empty(width, dtype=torch.float64)}

    def update(self, states: States, model: Model, x: Batch, part: Examples, ids: Tensor) -> None:
        """Look at some examples."""
        wanted = [self.site, *(t.site for t in self.targets)]
        peaks = _peaks(model, x, wanted)
        columns = [
            peaks[t.site][:, t.unit] if t.unit is not None else (peaks[t.site].argmax(1) == t.label)
            for t in self.targets
        ]
        state = states["rows"]
        assert isinstance(state, Rows)
        state.update(ids, torch.cat([peaks[self.site].double(), *(c.double()[:, None] for c in columns)], 1))


def _peaks(model: Model, x: Batch, sites: list[str]) -> dict[str, Tensor]:
    """The highest answer of each unit over all positions, (n, units); the scores of the output as they are."""
    trace = model.run(x, read=list(dict.fromkeys(sites)))
    found = {}
    for text in sites:
        site = Site.of(text).whole
        act = trace[site] if site != OUTPUT else trace.scores
        act = act.movedim(unit_axis(act, trace.module(site)), 1).flatten(2) if act.ndim > 2 else act[:, :, None]
        act = act.cpu()
        found[text] = act.masked_fill(~real_positions(model, x, act, site)[:, None], -torch.inf).amax(2)
    return found


def _targets(model: Model, x: Batch, of: tuple[str, ...]) -> dict[str, _Target]:
    """What is explained, by name."""
    classes = model.run(x).scores.shape[1]
    if not of and classes > MOST_CLASSES:
        raise BadOption(f"{model.name} has {classes} classes; name those that are to be explained with of=.")
    found: dict[str, _Target] = {}
    for text in of or tuple(str(k) for k in range(classes)):
        place = Site.of(text) if ":" in text else None
        if place is not None and place.unit is not None and place.position is None:
            width = _peaks(model, x, [str(place.whole)])[str(place.whole)].shape[1]
            if place.unit >= width:
                raise BadOption(f"expected a unit from 0 to {width - 1} of {place.whole}; got {text}.")
            found[text] = _Target(str(place.whole), place.unit)
            continue
        label = model.class_index(int(text) if text.isdigit() else text, classes)
        found[model.class_name(label)] = _Target("output", None, label)
    return found


def _telling(on: np.ndarray, truth: np.ndarray, most: int, columns: list[int]) -> list[int]:
    """The variables that tell most about an outcome together: one after the other, as long as they tell more.

    What they tell is the mutual information of patterns and outcome, less what as many patterns would seem to tell by
    chance, (patterns - 1) / 2 n (Miller 1955).
    """
    picked: list[int] = []
    code, known = np.zeros(len(on), dtype=np.int64), 0.0
    while len(picked) < most:
        rest = [i for i in range(on.shape[1]) if i not in picked]
        told = [_information(code * 2 + on[:, i], truth) for i in rest]
        if not told or max(told) <= known + 1e-12:
            break
        best = rest[int(np.argmax(told))]
        picked.append(best)
        code, known = np.unique(code * 2 + on[:, best], return_inverse=True)[1], max(told)
    return sorted(columns[i] for i in picked)


def _information(code: np.ndarray, truth: np.ndarray) -> float:
    """Mutual information in nats, corrected for chance."""
    _, code = np.unique(code, return_inverse=True)
    n, table = len(code), np.zeros((int(code.max()) + 1, 2))
    np.add.at(table, (code, truth.astype(int)), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0) / n
    there = table > 0
    return float((table[there] * np.log(table[there] / expected[there])).sum() / n) - (len(table) - 1) / (2 * n)


@dataclass(frozen=True)
class _Tested:
    """A form and how it did: shares of examples, beside the form."""

    name: str
    names: list[str]
    form: Form
    hits: int
    left: int
    constant: float
    coverage: float
    fit: float


def _tested(
    name: str, names: list[str], on: np.ndarray, truth: np.ndarray, used: np.ndarray, left: np.ndarray, seed: int
) -> _Tested:
    """The form of one half of the examples, tried on the other."""
    patterns, code = np.unique(on[used], axis=0, return_inverse=True)
    share = np.bincount(code.ravel(), truth[used], len(patterns)) / np.bincount(code.ravel(), minlength=len(patterns))
    form = minimised(patterns[share > 0.5], patterns[share <= 0.5], seed=seed)
    seen = {row.tobytes() for row in patterns}
    return _Tested(
        name=name,
        names=names,
        form=form,
        hits=int((form(on[left]) == truth[left]).sum()),
        left=len(left),
        constant=float(max(truth[left].mean(), 1 - truth[left].mean())),
        coverage=float(np.mean([row.tobytes() in seen for row in np.ascontiguousarray(on[left])])),
        fit=float((form(on[used]) == truth[used]).mean()),
    )


def _table(forms: list[_Tested], site: str, checks: dict[str, Check]) -> Table:
    columns = ["outcome", "form", "terms", "literals", "variables", "shortest", "accuracy", "low", "high"]
    columns += ["always the same", "coverage", "fit"]
    counts = torch.tensor([[f.hits, f.left] for f in forms], dtype=torch.float64)
    low, high = wilson(counts[:, 0], counts[:, 1])
    rows = [
        [
            *(f.name, f.form.text(f.names), len(f.form.terms), f.form.literals, len(f.names), f.form.least),
            *(f.hits / f.left, float(low[k]), float(high[k]), f.constant, f.coverage, f.fit),
        ]
        for k, f in enumerate(forms)
    ]
    return Table(columns=columns, rows=rows, checks={**_checks(forms, low.tolist(), site), **checks})


def _checks(forms: list[_Tested], low: list[float], site: str) -> dict[str, Check]:
    better = [f.name for f, end in zip(forms, low, strict=True) if end > f.constant]
    accuracy, constant = (float(np.mean(v)) for v in ([f.hits / f.left for f in forms], [f.constant for f in forms]))
    text = (
        f"Units of {site}, u0, u1, ..., on or off, say it right for {accuracy:.1%} of {forms[0].left} examples that "
        f"were not used, beside {constant:.1%} for always the same answer; {len(better)} of {len(forms)} forms are "
        "better than that."
    )
    checks = {"accuracy": Check(text, "ok" if len(better) == len(forms) else "warn", accuracy)}
    longer = [f.name for f in forms if not f.form.least]
    text = f"{len(forms) - len(longer)} of {len(forms)} forms are proven to be the shortest"
    why = f"; {', '.join(longer[:5])}: searched, since above {EXACT} variables or too many terms." if longer else "."
    checks["shortest"] = Check(text + why, "note" if longer else "ok", float(len(longer)))
    coverage = float(np.mean([f.coverage for f in forms]))
    text = f"{coverage:.1%} of the examples that were not used have a pattern that had been seen; the rest is a guess."
    checks["coverage_of_patterns"] = Check(text, "ok" if coverage > 0.8 else "warn", coverage)
    return checks
