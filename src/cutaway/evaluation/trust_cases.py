"""Explanations under examination: what is made, what tests found about it, and what there was no time for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from torch import Tensor

from cutaway.core.batch import Batch, size
from cutaway.core.call import made_by
from cutaway.core.catalogue import Method, find
from cutaway.core.checks import Check
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Cost, Result
from cutaway.core.target import Target
from cutaway.evaluation.trust_tests import Test

NO_TIME = "there was no time left"
QUICK_FORM = "in its quick form"


@dataclass
class Case:
    """One explanation under examination.

    Attributes:
        name: What it is called.
        made: A method of the catalogue, a map, or a function that makes one.
        map: The map, once it is made.
        rough: The map that tests compare with that make it again: the method's quick form, where it has one.
        took: Seconds for the rough map.
        hurried: What the map is, where there was no time for the whole one: "cut short".
        evidence: What the tests found, by their names.
        refused: By name, the tests that do not apply, and why.
        late: Tests that there was no time for.
        why_none: Why there is no map.
    """

    name: str
    made: Any
    map: Attribution | None = None
    rough: Attribution | None = None
    took: float = 0.0
    hurried: str = ""
    evidence: dict[str, Result] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    why_none: str = ""

    @property
    def laws(self) -> tuple[str, ...]:
        """What the map claims of itself."""
        return self.made.laws if isinstance(self.made, Method) else ()

    @property
    def failed(self) -> bool:
        """True if a test says not to rely on the map."""
        return any("verdict" in r.checks and r.checks["verdict"].status == "fail" for r in self.evidence.values())

    def map_for(self, test: Test) -> Attribution:
        """The map that a test examines."""
        found = self.rough if test.repeats else self.map
        assert found is not None
        return found

    @property
    def quick(self) -> Mapping[str, Any]:
        """The options of its quick form; empty if it has none."""
        return self.made.quick if isinstance(self.made, Method) else {}

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
        budget: Seconds; no test is begun that is not expected to end in time.
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


def does_not_apply(case: Case, test: Test, plan: Plan) -> bool:
    """True if a test has no meaning for a map, which is noted with the reason."""
    why = test.why_not(case.laws, plan.region)
    if test.name == "completeness" and not why and (case.hurried or (plan.quick and case.quick)):
        why = f"the map is {case.hurried or QUICK_FORM}, and its sum is not the method's"
    if why:
        case.refused[test.name] = why
    return bool(why)


def explained_by(
    model: Model, x: Batch | Examples, target: Target, case: Case, plan: Plan, **options: Any
) -> Attribution:
    """The map of a case, by its method with these options, by its function, or as it was given."""
    if isinstance(case.made, Attribution):
        return case.made
    if not isinstance(case.made, Method):
        return made_by(case.made, model, model.inputs(x), target)
    if "one_input" in case.made.needs and count(x) > 1:
        raise NotPossible(f"{case.made.name} takes one input at a time; there are {count(x)}.")
    made = case.made.function(model, x, target, **seeded(case.made, plan.seed), **options)
    assert isinstance(made, Attribution)
    return made


def count(x: Batch | Examples) -> int:
    """How many inputs."""
    return len(x) if isinstance(x, Examples) else size(x)


def tested(model: Model, x: Batch | Examples, case: Case, test: Test, plan: Plan) -> None:
    """Test a map, and note what was found, or why nothing."""
    entry = find(test.name)
    options = seeded(entry, plan.seed) | {**test.options, **(entry.quick if test.repeats or plan.quick else {})}
    if "region" in {option.name for option in entry.options}:
        options["region"] = plan.region
    try:
        found = entry.function(model, x, case.map_for(test), **options)
    except NotPossible as refusal:
        case.refused[test.name] = str(refusal)
        return
    case.evidence[test.name] = _said_quick(found, case.quick) if test.repeats and case.quick else found


def seeded(entry: Method, seed: int) -> dict[str, Any]:
    """The seed as an option, for a method that takes one."""
    return {"seed": seed} if any(option.name == "seed" for option in entry.options) else {}


def _said_quick(result: Result, quick: Mapping[str, Any]) -> Result:
    options = ", ".join(f"{name}={value}" for name, value in quick.items())
    text = f"The method was repeated in its quick form ({options}), also for the map it is compared with."
    return replace(result, checks={**result.checks, "quick": Check(text, "note")})
