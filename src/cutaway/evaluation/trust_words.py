"""One plain sentence for a map, from all the evidence about it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from cutaway.core.checks import Check, Status
from cutaway.core.result import Attribution, Curve, Result, Scores
from cutaway.evaluation.paired import ENOUGH
from cutaway.evaluation.trust_cases import Case
from cutaway.evaluation.trust_tests import Test, named_test

ORDER: tuple[Status, ...] = ("ok", "note", "warn", "fail")
# What a verdict comes to, in words that need no context.
WORDS: dict[Status, str] = {
    "ok": "passed",
    "note": "passed, with a note",
    "warn": "with care",
    "fail": "do not rely on",
}
_OPENING: dict[Status, str] = {
    "note": "Passed, with a note",
    "warn": "Read with care",
    "fail": "Do not rely on this map",
}
_MOST = 4  # clauses of a sentence that has only good to say
PARTS = {"image": "regions", "tokens": "words", "row": "columns"}


class Figure(NamedTuple):
    """What a test measured: its number, and where that lies; nan where there is none."""

    value: float
    low: float
    high: float


def figure(name: str, result: Result) -> Figure:
    """The number that a test's verdict goes by, with its interval."""
    said, nan = result.checks["verdict"], float("nan")
    value = nan if said.value is None else float(said.value)
    low, high = said.interval or (nan, nan)
    if said.interval is None and isinstance(result, Scores) and len(result.low):
        first = result.values[0]
        low, high = (float(result.low[0]), float(result.high[0])) if abs(float(first) - value) < 1e-9 else (low, high)
    return Figure(value, low, high) if named_test(name).sign > 0 else Figure(-value + 0.0, -high, -low)


def verdict(evidence: Mapping[str, Result], parts: str = "regions", late: int = 0, *, few: bool = False) -> Check:
    """What all tests together say: as good as the worst of them.

    If several tests ask whether the model uses what the map ranks highest, and none can tell the map from chance,
    nothing speaks for it, and it fails as a whole. A test in which the answer does not move at all is left out.

    Args:
        evidence: Results of tests by name, each with a check called `verdict`.
        parts: What a map ranks: regions, words, columns.
        late: Tests that there was no time for: without them, a map has not passed yet.
        few: True if there are so few inputs that chance alone may hide what a good map does.
    """
    mute = [name for name, result in evidence.items() if _says_nothing(result)]
    told = {name: r.checks["verdict"].status for name, r in evidence.items() if "verdict" in r.checks}
    status = {name: found for name, found in told.items() if name not in mute}
    silence = f"; {_both(mute)} cannot tell, as the answer stays when all {parts} are replaced" if mute else ""
    if not status:
        return Check(f"Not tested: no test fits this map, so nothing is known about it{silence}.", "warn")
    used = [found for name, found in status.items() if named_test(name).faithful]
    lost = len(used) > 1 and not {"ok", "note"} & set(used) and not few
    worst: Status = "fail" if lost else max(status.values(), key=ORDER.index)
    named = [name for name, found in status.items() if found == worst or (worst == "fail" and found == "warn")]
    shown = sorted(named, key=lambda name: -ORDER.index(status[name]))[: _MOST if worst == "ok" else None]
    clauses, others = [_clause(named_test(name), evidence[name]) for name in shown], len(status) - len(shown)
    said = (", ".join(clauses) if worst == "ok" and others else _listed(clauses)).replace("{parts}", parts)
    more = f"; there was no time for {'a test' if late == 1 else f'{late} tests'}" if late else ""
    overall = max(worst, "note", key=ORDER.index) if late else worst
    return Check(f"{_opening(worst, len(status), late)}: {said}{_rest(worst, others)}{silence}{more}.", overall)


def _says_nothing(result: Result) -> bool:
    """Does the answer stay where it is with every fill, so that no map could make it move?"""
    return "range" in result.checks and result.checks["range"].value == 1


def _both(names: Sequence[str]) -> str:
    return " and ".join(names).replace("_", " ")


def _opening(worst: Status, count: int, late: int) -> str:
    if late and worst in ("ok", "note"):
        return "Passed so far"
    return _OPENING[worst] if worst != "ok" else f"Passed all {count} tests" if count > 1 else "Passed the one test"


def _rest(worst: Status, others: int) -> str:
    """What is left to say of the tests that are not named."""
    if not others:
        return ""
    if worst == "ok":
        return f", and {others} more"
    return f"; it passed the other {f'{others} tests' if others > 1 else 'test'}"


def sentence(case: Case, kind: str) -> Check:
    """The verdict on a case, also where there is no map, or one that says nothing."""
    if case.map is None:
        return Check(f"Not examined: {case.why_none.rstrip('.')}.", "note")
    if _flat(case.map):
        return Check("Do not rely on this map: it has one value everywhere, so it says nothing.", "fail")
    if not case.evidence and case.late:
        return Check("Not tested: there was no time left, so nothing is known about this map.", "warn")
    few = len(case.map.values) < ENOUGH
    said = verdict(case.evidence, PARTS.get(kind, "parts"), len(case.late), few=few)
    if not case.hurried:
        return said
    return Check(f"{said.removesuffix('.')}; for lack of time, the map is {case.hurried}.", said.status)


def _flat(made: Attribution) -> bool:
    values = made.values.detach().flatten(1)
    return bool(torch.equal(values, values[:, :1].expand_as(values)))


def _clause(test: Test, result: Result) -> str:
    return test.said[result.checks["verdict"].status] + _numbers(test, result)


def _numbers(test: Test, result: Result) -> str:
    """The figure behind a clause, with that of chance where there is one."""
    value = result.checks["verdict"].value
    if test.faithful and isinstance(result, Curve) and result.summary:
        own, *controls = result.summary.items()
        chance = next((area for control, area in controls if control.startswith("random")), None)
        if chance is None:
            return f" (area {own[1]:.2g})"
        ahead = own[1] > chance if result.better == "higher" else own[1] < chance
        unsure = ahead and result.checks["verdict"].status in ("warn", "fail")
        rest = ", but not beyond chance with every fill" if unsure else ""
        return f" (area {own[1]:.2g}, at random {chance:.2g}{rest})"
    if value is None:
        return ""
    shares = {"completeness": "gap ", "energy_in_region": "", "pointing_game": "in "}
    if test.name in shares:
        return f" ({shares[test.name]}{value:.1%})" if test.name == "completeness" else f" ({value:.0%})"
    ranked = test.name in ("parameter_randomization", "stability")
    return f" ({'rank ' if ranked else ''}correlation {value:.2f})" if ranked or test.name == "sensitivity_n" else ""


def _listed(clauses: list[str]) -> str:
    return ", and ".join([", ".join(clauses[:-1]), clauses[-1]] if len(clauses) > 1 else clauses)
