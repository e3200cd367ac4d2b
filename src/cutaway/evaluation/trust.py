"""Which of several explanations of a model to believe: all evidence about each in a row, and a sentence."""

import math
from typing import Any

from torch import Tensor

from cutaway.core.batch import Batch, size
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Table
from cutaway.core.target import Target
from cutaway.evaluation.trust_cases import Plan, cases_of
from cutaway.evaluation.trust_schedule import examine
from cutaway.evaluation.trust_table import table_of
from cutaway.evaluation.trust_tests import chosen_tests, methods_of


@method(
    paper="adebayo2018",
    quick={
        "methods": ("gradient", "input_x_gradient"),
        "tests": ("parameter_randomization", "pixel_flipping"),
        "rough": True,
    },
)
def trust(
    model: Model,
    x: Batch,
    target: Target,
    *,
    methods: tuple[Any, ...] = (),
    tests: tuple[str, ...] = (),
    region: Tensor | str | None = None,
    budget: float | None = None,
    rough: bool = False,
    seed: int = 0,
) -> Table:
    """Make the maps of several methods, test each in every way that fits, and say which of them to believe.

    verdict of a map = the worst of its tests;   fail, too, if no test of what the model uses tells it from chance

    Tests that repeat a method do so in its quick form, for both sides of the comparison. Maps and tests share what they
    have in common: the curves of controls, the answers on changed inputs.

    Args:
        methods: Names with ";" between them, or `all`; in Python also maps made by hand and functions of (model, x,
            target). Empty: the usual ones for the kind of input.
        tests: Names with ";" between them. Empty: completeness for maps that promise it, energy_in_region and
            pointing_game where a region is known, parameter_randomization, insertion, deletion, word_deletion for text,
            stability, sensitivity_n.
        region: What maps should point at: a mask (n, height, width), or boxes "x0,y0,x1,y1" in pixels, with ";"
            between inputs and "+" between boxes of one. None takes the masks of the examples.
        budget: Seconds; none for as long as it takes. The tests that tell most come first; tests and maps that there
            is no time for are named, and maps that it cut short.
        rough: Run every method and test in its quick form.
        seed: Of all random choices.

    Returns:
        A row for each method, the most trustworthy first: the verdict, the number that each test goes by with its 95 %
        interval where there is one, how many inputs these rest on, and what they cost in forwards, backwards (of one
        input) and seconds. The sentence on a method is the check of its name. `extra` has the numbers, (methods,
        tests), nan where a test does not apply.

    Raises:
        UnknownName: No such method or test.
        BadOption: A method that explains no prediction, a test that examines no map, or a budget that is not above 0.
        NotPossible: None of the methods has a map here.

    Source: own; the tests have papers of their own. That a map must change with the weights is Adebayo et al. 2018.
    """
    seconds = math.inf if budget is None else budget
    if not seconds > 0:
        raise BadOption(f"expected a budget above 0 seconds; got {seconds:g}.")
    chosen = chosen_tests(tests, model.space.kind)
    cases = cases_of(methods_of(methods, model.space.kind))
    examine(model, x, target, cases, Plan(chosen, region, seconds, rough, seed))
    if all(case.map is None for case in cases):
        raise NotPossible(f"none of these methods has a map here; {cases[0].name}: {cases[0].why_none}")
    return table_of(model, x, cases, chosen, seconds, size(x))
