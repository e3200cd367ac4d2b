"""In which order maps are made and tested, and how that ends in time."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress

from cutaway.core import budget
from cutaway.core.batch import Batch
from cutaway.core.budget import TooMuch, tighter
from cutaway.core.dataset import Examples
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import report
from cutaway.core.result import Attribution, Cost
from cutaway.core.target import Target
from cutaway.evaluation.together import together
from cutaway.evaluation.trust_cases import NO_TIME, QUICK_FORM, Case, Plan, count, does_not_apply, explained_by, tested
from cutaway.evaluation.trust_tests import Test, effort_of

# Where time is short, tests that are made of each map as soon as it is there.
_FIRST = ("completeness", "energy_in_region", "pointing_game", "parameter_randomization")
# The share of a limited time that maps and these tests may take, where there are others to come.
_FOR_MAPS = 0.5


def examine(model: Model, x: Batch | Examples, target: Target, cases: Sequence[Case], plan: Plan) -> None:
    """Make the maps and test them; the cases hold what was found.

    A step that the model, the method or the input does not allow is noted as refused, with the reason. Where time is
    short, maps and their first tests may take half of it; then these maps get the other tests, one test after the other
    for all of them, and if time is left, further maps are made.
    """
    work = _Examination(model, x, target, plan, len(cases))
    waiting = list(cases)
    while waiting:
        work.make(waiting)
        made = [case for case in waiting if case.map is not None]
        # What failed once fails: of a limited time, that gets what is left.
        made.sort(key=lambda case: case.failed)
        for test in plan.tests:
            with together([case.map_for(test) for case in made]) if plan.budget == math.inf else nullcontext():
                for case in made:
                    work.test(case, test)
        waiting = [case for case in waiting if case.map is None and case.why_none == NO_TIME] if made else []
    work.tell(done=True)


class _Examination:
    """The work on a plan, and the time for it."""

    def __init__(self, model: Model, x: Batch | Examples, target: Target, plan: Plan, cases: int) -> None:
        self._model, self._x, self._target, self._plan = model, x, target, plan
        self._ends, self._limited = budget.clock() + plan.budget, plan.budget < math.inf
        self._pace, self._known = _Pace(), set[str]()
        self._first = [test for test in plan.tests if test.name in _FIRST] if self._limited else []
        self._label = f"{cases} maps and their tests" if cases > 1 else "a map and its tests"
        self._steps, self._done = cases * (1 + len(plan.tests)), 0
        if self._limited:
            with self._timed():
                model.run(model.inputs(x))

    def tell(self, *, done: bool = False) -> None:
        """Report how far the work is."""
        report(self._label, self._steps if done else min(self._done, self._steps - 1), self._steps)

    def make(self, cases: Sequence[Case]) -> None:
        """Make the maps, as far as their part of the time goes, each with its first tests."""
        others = self._limited and len(self._first) < len(self._plan.tests)
        kept = (1 - _FOR_MAPS) * self._left() if others else 0.0
        for k, case in enumerate(cases):
            self.tell()
            left = self._left(kept)
            if left <= 0:
                case.why_none = NO_TIME
                continue
            with self._timed():
                self._made(case, left, left / (len(cases) - k))
            self._done += 1
            for test in self._first if case.map is not None else ():
                self.test(case, test, kept)

    def test(self, case: Case, test: Test, kept: float = 0.0) -> None:
        """Test a map, unless that was done, has no meaning, or is not expected to end in time.

        Args:
            case: With a map.
            test: Which.
            kept: Seconds to be left for others; if there are any, what does not fit now is not yet late.
        """
        if test.name in (*case.evidence, *case.refused, *case.late) or does_not_apply(case, test, self._plan):
            return
        left = self._left(kept)
        if left <= 0 or self._needed(case, test) > left:
            case.late += [] if kept else [test.name]
            return
        self.tell()
        with self._timed():
            tested(self._model, self._x, case, test, self._plan)
        self._known.add(test.name)
        self._done += 1

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Learn from the work inside how long a forward takes."""
        before, began = Counter(self._model.spent), budget.clock()
        yield
        spent = Counter(self._model.spent) - before
        self._pace.add(effort_of(Cost(spent["forwards"], spent["backwards"])), budget.clock() - began)

    def _left(self, kept: float = 0.0) -> float:
        """Seconds that are left, without those that are kept for others."""
        return self._ends - budget.clock() - kept

    def _needed(self, case: Case, test: Test) -> float:
        """Seconds that a test is expected to take."""
        forwards = count(self._x) * test.forwards[test.name in self._known] / (4 if self._plan.quick else 1)
        return test.repeats * case.took + self._pace.seconds(forwards)

    def _made(self, case: Case, left: float, share: float) -> None:
        """Make the map and its rough form.

        Args:
            case: Whose.
            left: Seconds for it and its first tests, at most.
            share: Seconds for it, if the other maps are to have as much.
        """
        began, repeats = budget.clock(), sum(test.repeats for test in self._first)
        try:
            # Whole or not at all: tests make it again, and compare.
            with tighter(forwards=self._pace.forwards(left / (1 + repeats))):
                case.rough = self._map(case, rough=True)
            case.took = budget.clock() - began
            case.map = self._whole(case, share - case.took)
        except TooMuch as refusal:
            case.why_none = NO_TIME if self._limited else str(refusal)
        except NotPossible as refusal:
            case.why_none = str(refusal)

    def _whole(self, case: Case, share: float) -> Attribution:
        """The map itself, cut short at its share of the time; the rough one where that took as long by itself."""
        assert case.rough is not None
        if not case.quick or self._plan.quick:
            return case.rough
        if not self._limited:
            return self._map(case)
        made = None
        if share > case.took:
            with suppress(TooMuch), tighter(seconds=share, fitting=self._pace.forwards(share)):
                made = self._map(case)
        if made is None:
            case.hurried = QUICK_FORM
            return case.rough
        case.hurried = "cut short" if "partial" in made.checks else ""
        return made

    def _map(self, case: Case, *, rough: bool = False) -> Attribution:
        return explained_by(self._model, self._x, self._target, case, self._plan, **(case.quick if rough else {}))


class _Pace:
    """How long a forward takes here, from what was done so far."""

    def __init__(self) -> None:
        self._effort, self._seconds = 0.0, 0.0

    def add(self, effort: float, seconds: float) -> None:
        """Note what some work was, in forwards, and how long it took."""
        if effort:
            self._effort += effort
            self._seconds += seconds

    def seconds(self, effort: float) -> float:
        """How long some work will take; 0 before anything was done."""
        return effort * self._seconds / self._effort if self._effort else 0.0

    def forwards(self, seconds: float) -> float:
        """How many fit into a time; any number before anything was done."""
        return max(1.0, seconds * self._effort / self._seconds) if self._seconds else math.inf
