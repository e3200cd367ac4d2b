"""The verdicts as one table: methods down, evidence across, the most trustworthy first."""

import math
import re
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check, shortest
from cutaway.core.model import Model
from cutaway.core.result import Table
from cutaway.evaluation.agreement import span
from cutaway.evaluation.orders import over_input
from cutaway.evaluation.paired import ENOUGH
from cutaway.evaluation.trust_cases import NO_TIME as UNMADE
from cutaway.evaluation.trust_cases import Case
from cutaway.evaluation.trust_tests import Test
from cutaway.evaluation.trust_words import ORDER, WORDS, Figure, figure, sentence
from cutaway.maths.statistics import spearman

MARKS = {"ok": "✓", "note": "•", "warn": "!", "fail": "✕"}
_NAMED = 3  # maps that a sentence names, if there are no more
COST = ("inputs", "forwards", "backwards", "seconds")
NO_TIME, NO_MEANING = "no time", "–"
NOT_EXAMINED, NOT_TESTED = "not examined", "not tested"


def table_of(model: Model, x: Batch, cases: Sequence[Case], tests: Sequence[Test], budget: float, inputs: int) -> Table:
    """The answer of `trust`.

    Args:
        model: The model.
        x: The inputs.
        cases: Examined.
        tests: In order; a column for each that applied to a map.
        budget: Seconds that there were.
        inputs: How many.
    """
    said = {case.name: sentence(case, model.space.kind) for case in cases}
    ordered = sorted(cases, key=lambda case: _place(case, said[case.name]))
    shown = [test for test in tests if any(test.name in (*case.evidence, *case.late) for case in cases)]
    numbers = torch.stack([_numbers(case, shown) for case in ordered])
    checks = {case.name: said[case.name] for case in ordered} | _notes(ordered, inputs)
    return Table(
        title="Which maps to believe",
        columns=["method", "verdict", *(test.head for test in shown), *COST],
        rows=[_row(case, said[case.name], shown, inputs) for case in ordered],
        extra={"value": numbers[..., 0], "low": numbers[..., 1], "high": numbers[..., 2]},
        checks=checks | _agreement(model, x, ordered) | _left_out(ordered, tests, budget),
    )


def _place(case: Case, said: Check) -> tuple[float, ...]:
    """Best verdicts first; among equals those that passed more, and by more; last, what was not tested or not made."""
    if case.map is None or _untested(case):
        return (len(ORDER) + (case.map is None), 0.0, 0.0)
    passed = [result.checks["verdict"].status == "ok" for result in case.evidence.values()]
    leads = [figure(name, r).value for name, r in case.evidence.items() if name in ("insertion", "deletion")]
    return (ORDER.index(said.status), -sum(passed) / max(len(passed), 1), -sum(v for v in leads if not math.isnan(v)))


def _untested(case: Case) -> bool:
    """True if there was no time for any test."""
    return bool(case.late) and not case.evidence


def _row(case: Case, said: Check, shown: Sequence[Test], inputs: int) -> list[str | int | float]:
    if case.map is None:
        return [case.name, NOT_EXAMINED, *[NO_MEANING] * len(shown), inputs, 0, 0, 0.0]
    cost, cells = case.cost, [_cell(case, test) for test in shown]
    soft = said.status in ("ok", "note")
    verdict = f"{MARKS[said.status]} {'passed so far' if case.late and soft else WORDS[said.status]}"
    verdict = NOT_TESTED if _untested(case) else verdict
    return [case.name, verdict, *cells, inputs, cost.forwards, cost.backwards, cost.seconds]


def _cell(case: Case, test: Test) -> str:
    """What a test found, as text: its mark, its number, the interval."""
    if test.name not in case.evidence:
        return NO_TIME if test.name in case.late else NO_MEANING
    result = case.evidence[test.name]
    return f"{MARKS[result.checks['verdict'].status]} {_figure_text(figure(test.name, result))}".strip()


def _figure_text(found: Figure) -> str:
    """A number with its interval: "0.31 (0.22 to 0.40)"."""
    if math.isnan(found.value):
        return ""
    if math.isnan(found.low):
        return f"{found.value:.2f}"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _numbers(case: Case, shown: Sequence[Test]) -> Float[Tensor, "tests 3"]:
    nothing = Figure(*[math.nan] * 3)
    found = [figure(t.name, case.evidence[t.name]) if t.name in case.evidence else nothing for t in shown]
    return torch.tensor([tuple(one) for one in found], dtype=torch.float64).view(len(shown), 3)


def _notes(cases: Sequence[Case], inputs: int) -> dict[str, Check]:
    """What the numbers rest on, and which tests have no meaning for which map."""
    checks = {}
    if inputs < ENOUGH:
        text = (
            f"{'One input is' if inputs == 1 else f'{inputs} inputs are'} too few to judge a method by: intervals here "
            f"are over random orders and noise, not over inputs. Give {ENOUGH} or more, better 20."
        )
        checks["few"] = Check(text, "note", inputs)
    reasons: dict[str, list[str]] = {}
    for case in cases:
        for name, why in case.refused.items():
            reasons.setdefault(f"{name}: {why.rstrip('.')}", []).append(case.name)
    if reasons:
        made = sum(case.map is not None for case in cases)
        parts = [f"{what} ({', '.join(names) if len(names) < made else 'all'})" for what, names in reasons.items()]
        checks["not_applicable"] = Check(f"Tests that do not apply. {'; '.join(parts)}.", "note", len(parts))
    return checks


def _left_out(cases: Sequence[Case], tests: Sequence[Test], budget: float) -> dict[str, Check]:
    """What the budget did not allow: tests, maps, and whole maps."""
    late = {test.name: [case.name for case in cases if test.name in case.late] for test in tests}
    made = sum(case.map is not None for case in cases)
    parts = [f"{name} ({_which(names, made)})" for name, names in late.items() if names]
    said = [f"Tests left out: {'; '.join(parts)}"] if parts else []
    unmade = [case.name for case in cases if case.map is None and case.why_none == UNMADE]
    said += [f"Not examined, {len(unmade)} of {len(cases)} methods: {', '.join(unmade)}"] if unmade else []
    hurried = [case for case in cases if case.hurried]
    for how in dict.fromkeys(case.hurried for case in hurried):
        maps = [f"{case.name}{_how_far(case)}" for case in hurried if case.hurried == how]
        said.append(f"Maps {how}: {', '.join(maps)}")
    if not said:
        return {}
    text = f"The budget of {shortest(budget)} s was not enough. {'. '.join(said)}. What was done first tells most."
    return {"partial": Check(text, "warn", sum(map(len, late.values())) + len(unmade) + len(hurried))}


def _which(names: Sequence[str], of: int) -> str:
    """Which maps, if they are few; else how many."""
    if len(names) == of:
        return "all maps"
    return ", ".join(names) if len(names) <= _NAMED else f"{len(names)} of {of} maps"


def _how_far(case: Case) -> str:
    """How many of its steps a map has that was cut short: " (57 of up to 256 gradients)"."""
    found = re.search(r"after (.+? of up to \S+ \w+)", case.map.checks.get("partial", "")) if case.map else None
    return f" ({found[1]})" if found else ""


def _agreement(model: Model, x: Batch, cases: Sequence[Case]) -> dict[str, Check]:
    """How alike the maps are among themselves; no test, since maps that share a mistake agree."""
    names, flat = [], []
    for case in cases:
        if case.map is not None and case.map.wrt == "input":
            names.append(case.name)
            flat.append(over_input(model, x, case.map).abs().flatten(1))
    pairs = [
        (float(spearman(flat[a], flat[b]).nanmean()), names[a], names[b])
        for a in range(len(names))
        for b in range(a + 1, len(names))
    ]
    pairs = sorted(pair for pair in pairs if not math.isnan(pair[0]))
    if not pairs:
        return {}
    between = span(pairs[0], pairs[-1])
    text = (
        f"The sizes of two maps have a rank correlation {between}: where they disagree, a conclusion from one is about "
        "the method, too."
    )
    return {"agreement": Check(text, "note", pairs[0][0])}
