"""One plain sentence for a map, from all the evidence about it."""

from collections.abc import Mapping

from cutaway.core.checks import Check, Status
from cutaway.core.result import Curve, Result

ORDER: tuple[Status, ...] = ("ok", "note", "warn", "fail")
_OPENING = {
    "ok": "Passed every test",
    "note": "Passed, with a note",
    "warn": "Read with care",
    "fail": "Do not rely on this map",
}
# What a test found, in a few words: if the map did well, and if not. The numbers stand beside the test itself.
_CLAUSES = {
    "completeness": ("its values add up", "its values do not add up"),
    "deletion": (
        "the answer falls when its top {parts} are removed",
        "removing its top {parts} does little more than chance",
    ),
    "insertion": (
        "its top {parts} alone bring the answer back",
        "its top {parts} alone bring back little more than chance",
    ),
    "parameter_randomization": (
        "it changes when what the model learned is wiped out",
        "it hardly changes when what the model learned is wiped out",
    ),
    "stability": ("small noise leaves it as it is", "small noise changes it"),
}


def verdict(evidence: Mapping[str, Result], parts: str = "regions") -> Check:
    """What all tests together say, as good as the worst of them.

    Args:
        evidence: Results of tests by name, each with a check called `verdict`.
        parts: What a map ranks: regions, words, columns.
    """
    checks = {name: result.checks["verdict"] for name, result in evidence.items() if "verdict" in result.checks}
    worst: Status = max((check.status for check in checks.values()), key=ORDER.index, default="note")
    for_it = [_clause(name, evidence[name], good=True) for name, c in checks.items() if c.status in ("ok", "note")]
    against = [_clause(name, evidence[name], good=False) for name, c in checks.items() if c.status in ("warn", "fail")]
    said = "; but ".join(part for part in (_listed(against), _listed(for_it)) if part)
    return Check(f"{_OPENING[worst]}: {said.replace('{parts}', parts)}.", worst)


def _clause(name: str, result: Result, *, good: bool) -> str:
    if name not in _CLAUSES:
        return f"{name.replace('_', ' ')} {'speaks for it' if good else 'speaks against it'}"
    return _CLAUSES[name][0 if good else 1] + _numbers(name, result)


def _numbers(name: str, result: Result) -> str:
    """The figure behind a clause, with that of chance where there is one."""
    value = result.checks["verdict"].value
    if name in ("deletion", "insertion") and isinstance(result, Curve):
        own, *controls = result.summary.items()
        chance = next((area for control, area in controls if control.startswith("random")), None)
        return f" (area {own[1]:.2g}, at random {chance:.2g})" if chance is not None else f" (area {own[1]:.2g})"
    if value is None:
        return ""
    return f" (gap {value:.1%})" if name == "completeness" else f" (rank correlation {value:.2f})"


def _listed(clauses: list[str]) -> str:
    return ", and ".join([", ".join(clauses[:-1]), clauses[-1]] if len(clauses) > 1 else clauses)
