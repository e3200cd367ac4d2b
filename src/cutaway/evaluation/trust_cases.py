"""Explanations under examination: each is made once, and tested until every test is done or the time is up."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from cutaway.core.batch import Batch, size
from cutaway.core.budget import TooMuch, tighter
from cutaway.core.call import made_by
from cutaway.core.catalogue import Method, find
from cutaway.core.checks import Check
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Cost, Result
from cutaway.core.target import Target
from cutaway.evaluation.trust_tests import Test, effort_of

# Seconds that the limit of a budget is counted in.
clock = time.monotonic
_NO_TIME = "there was no time left"
# Tests that are made for one map after the other, before any other test of any map.
_FIRST = ("completeness", "energy_in_region", "pointing_game", "parameter_randomization")


@dataclass
class Case:
    """One explanation under examination.

    Attributes:
        name: What it is called.
        made: A method of the catalogue, a map, or a function that makes one.
        map: The map, once it is made.
        rough: The map that tests compare with that make it again: the method's quick form, where it has one.
        evidence: What the tests found, by their names.
        refused: By name, the tests that do not apply, and why.
        late: Tests that there was no time for.
        why_none: Why there is no map.
    """

    name: str
    made: Any
    map: Attribution | None = None
    rough: Attribution | None = None
    evidence: dict[str, Result] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    why_none: str = ""

    @property
    def laws(self) -> tuple[str, ...]:
        """What the map claims of itself."""
        return self.made.laws if isinstance(self.made, Method) else ()

    @property
    def cost(self) -> Cost:
        """What the map and its tests took."""
        spent = [r.provenance.cost for r in self.evidence.values()]
        spent += [m.provenance.cost for m in {id(m): m for m in (self.map, self.rough) if m is not None}.values()]
        return Cost(
            sum(cost.forwards for cost in spent),
            sum(cost.backwards for cost in spent),
            round(sum(cost.seconds for cost in spent), 4),
        )


class Plan(NamedTuple):
    """What to do, and how long at most.

    Attributes:
        tests: In order.
        region: What maps should point at, if that is known.
        budget: Seconds; no step is begun that is not expected to end in time.
        quick: True for every method and test in its quick form.
        seed: Of all random choices.
    """

    tests: Sequence[Test]
    region: Tensor | str | None
    budget: float
    quick: bool
    seed: int


def cases_of(made: Sequence[Any]) -> list[Case]:
    """A case for each method, map or function, with a name of its own."""
    cases: list[Case] = []
    for one in made:
        if isinstance(one, Attribution):
            name = one.provenance.method or "given map"
        elif isinstance(one, Method) or callable(one):
            name = one.name if isinstance(one, Method) else getattr(one, "__name__", "function")
        else:
            raise BadOption(
                "expected names of methods, maps or functions of (model, x, target) to examine; "
                f"got {type(one).__name__}."
            )
        same = sum(case.name == name or case.name.startswith(f"{name} #") for case in cases)
        cases.append(Case(f"{name} #{same + 1}" if same else name, one))
    return cases


def examine(model: Model, x: Batch | Examples, target: Target, cases: Sequence[Case], plan: Plan) -> None:
    """Make the maps and test them; the cases hold what was found.

    A step that the model, the method or the input does not allow is noted as refused, with the reason. After the time
    is up nothing more is begun.
    """
    pace, started = _Pace(), clock()
    steps = list(_steps(cases, plan.tests))
    for case, test in track(steps, f"{len(cases)} maps and their tests" if len(cases) > 1 else "a map and its tests"):
        if test is not None and (case.map is None or _does_not_apply(case, test, plan)):
            continue
        left = plan.budget - (clock() - started)
        effort = 0.0 if test is None else _effort(case, test, cases, _count(x), plan)
        if left <= 0 or pace.seconds(effort) > left:
            _too_late(case, test)
            continue
        began = clock()
        if test is None:
            with tighter(forwards=max(1.0, pace.forwards(left)), seconds=left):
                spent = _made(model, x, target, case, plan)
        else:
            spent = _tested(model, x, case, test, plan)
        pace.add(spent, clock() - began)


def _steps(cases: Sequence[Case], tests: Sequence[Test]) -> Iterator[tuple[Case, Test | None]]:
    """A map and its most telling tests, then the next map; after that, test by test, so that no map is left behind."""
    first = [test for test in tests if test.name in _FIRST]
    for case in cases:
        yield case, None
        for test in first:
            yield case, test
    for test in tests:
        if test not in first:
            yield from ((case, test) for case in cases)


class _Pace:
    """How long a forward takes here, from the steps that are done."""

    def __init__(self) -> None:
        self._effort, self._seconds = 0.0, 0.0

    def add(self, effort: float, seconds: float) -> None:
        self._effort += effort
        self._seconds += seconds

    def seconds(self, effort: float) -> float:
        return effort * self._seconds / self._effort if self._effort else 0.0

    def forwards(self, seconds: float) -> float:
        """How many of them fit into a time; any number before the first is done."""
        return seconds * self._effort / self._seconds if self._effort and self._seconds else math.inf


def _count(x: Batch | Examples) -> int:
    return len(x) if isinstance(x, Examples) else size(x)


def _effort(case: Case, test: Test, cases: Sequence[Case], inputs: int, plan: Plan) -> float:
    assert case.rough is not None
    first = not any(test.name in other.evidence for other in cases)
    return test.effort(case.rough.provenance.cost, inputs, first=first) / (4 if plan.quick else 1)


def _too_late(case: Case, test: Test | None) -> None:
    if test is None:
        case.why_none = _NO_TIME
    else:
        case.late.append(test.name)


def _does_not_apply(case: Case, test: Test, plan: Plan) -> bool:
    why = test.why_not(case.laws, plan.region)
    if test.name == "completeness" and not why and plan.quick and case.made.quick:
        why = "the map was made in its quick form, whose sum is not the method's"
    if why:
        case.refused[test.name] = why
    return bool(why)


def _made(model: Model, x: Batch | Examples, target: Target, case: Case, plan: Plan) -> float:
    """Make the map, and its rough form."""
    try:
        if isinstance(case.made, Attribution):
            case.map = case.rough = case.made
        elif isinstance(case.made, Method):
            case.map, case.rough = _by_method(model, x, target, case.made, plan)
        else:
            case.map = case.rough = made_by(case.made, model, model.inputs(x), target)
    except TooMuch as refusal:
        case.why_none = _NO_TIME if plan.budget < math.inf else str(refusal)
    except NotPossible as refusal:
        case.why_none = str(refusal)
    return effort_of(case.cost) if case.map is not None else 0.0


def _by_method(
    model: Model, x: Batch | Examples, target: Target, entry: Method, plan: Plan
) -> tuple[Attribution, Attribution]:
    if "one_input" in entry.needs and _count(x) > 1:
        raise NotPossible(f"{entry.name} takes one input at a time; there are {_count(x)}.")

    def attribution(**options: Any) -> Attribution:
        made = entry.function(model, x, target, **seeded(entry, plan.seed), **options)
        assert isinstance(made, Attribution)
        return made

    rough = attribution(**entry.quick) if entry.quick else None
    full = rough if rough is not None and plan.quick else attribution()
    return full, rough or full


def _tested(model: Model, x: Batch | Examples, case: Case, test: Test, plan: Plan) -> float:
    entry = find(test.name)
    made = case.rough if test.repeats else case.map
    options = seeded(entry, plan.seed) | {**test.options, **(entry.quick if test.repeats or plan.quick else {})}
    if "region" in {option.name for option in entry.options}:
        options["region"] = plan.region
    try:
        found = entry.function(model, x, made, **options)
    except NotPossible as refusal:
        case.refused[test.name] = str(refusal)
        return 0.0
    quick = case.made.quick if isinstance(case.made, Method) else {}
    case.evidence[test.name] = _said_quick(found, quick) if test.repeats and quick else found
    return effort_of(found.provenance.cost)


def seeded(entry: Method, seed: int) -> dict[str, Any]:
    """The seed as an option, for a method that takes one."""
    return {"seed": seed} if any(option.name == "seed" for option in entry.options) else {}


def _said_quick(result: Result, quick: Mapping[str, Any]) -> Result:
    options = ", ".join(f"{name}={value}" for name, value in quick.items())
    text = f"The method was repeated in its quick form ({options}), also for the map it is compared with."
    return replace(result, checks={**result.checks, "quick": Check(text, "note")})
