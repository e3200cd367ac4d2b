"""The test of the tests: a method that is wrong in one way fails the law that is about it, and only sound ones pass."""

import pytest
import torch

from cutaway.core.batch import Batch, size
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Scores, Table
from cutaway.core.target import Target
from cutaway.testing.battery import check_method

ALWAYS = {"paper": "simonyan2014", "needs": {"gradient"}}
GRADIENT_LAWS = {"dummy", "symmetric", "linear_in_target", "same_for_equivalent_nets"}


def explained(model, x, target, values):
    return Attribution(values=values, target=str(target), score=model.gradient(x, target).score)


@method(**ALWAYS, laws=GRADIENT_LAWS)
def sound(model: Model, x: Batch, target: Target) -> Attribution:
    """Slopes.

    values_i = d target / d x_i

    Returns:
        Slopes.

    Source: Simonyan et al. 2014.
    """
    return explained(model, x, target, model.gradient(x, target).slope)


@method(**ALWAYS)
def undocumented(model: Model, x: Batch, target: Target, *, power: int = 1) -> Attribution:
    """Slopes"""
    return explained(model, x, target, model.gradient(x, target).slope)


@method(**ALWAYS)
def mixes_rows(model: Model, x: Batch, target: Target) -> Attribution:
    """Slopes, scaled by the batch."""
    slope = model.gradient(x, target).slope
    return explained(model, x, target, slope / slope.abs().max())


@method(**ALWAYS)
def draws_globally(model: Model, x: Batch, target: Target) -> Attribution:
    """Noise from the global generator."""
    slope = model.gradient(x, target).slope
    return explained(model, x, target, slope + torch.rand_like(slope))


@method(**ALWAYS)
def single_precision(model: Model, x: Batch, target: Target) -> Attribution:
    """Slopes in float32."""
    return explained(model, x, target, model.gradient(x, target).slope.float())


@method(**ALWAYS)
def counts_chunks(model: Model, x: Batch, target: Target) -> Attribution:
    """Slopes, plus the size of a chunk."""
    return explained(model, x, target, model.gradient(x, target).slope + model._runner.chunk)


@method(**ALWAYS)
def writes_weights(model: Model, x: Batch, target: Target) -> Attribution:
    """Slopes of a network that it changes for good."""
    slope = model.gradient(x, target).slope
    next(model.module.parameters()).data.mul_(1.01)
    return explained(model, x, target, slope)


@method(**ALWAYS)
def writes_input(model: Model, x: Batch, target: Target) -> Attribution:
    """Slopes, with the input changed."""
    slope = model.gradient(x, target).slope
    for tensor in [x] if isinstance(x, torch.Tensor) else x.values():
        tensor.mul_(0)
    return explained(model, x, target, slope)


@method(**ALWAYS)
def swallows(model: Model, x: Batch, target: Target) -> Attribution:
    """Slopes, whatever happens."""
    try:
        return explained(model, x, target, model.gradient(x, target).slope)
    except BaseException:
        values = torch.zeros(size(x), 3, 16, 16, dtype=model.dtype)
        return Attribution(values=values, target=str(target))


@method(**ALWAYS, laws={*GRADIENT_LAWS, "complete", "conserves"})
def off_by_one(model: Model, x: Batch, target: Target) -> Attribution:
    """Slopes plus a ramp, which claims everything."""
    slope = model.gradient(x, target).slope
    ramp = torch.linspace(1, 2, slope.numel(), dtype=slope.dtype).view_as(slope)
    return explained(model, x, target, slope + ramp)


@method(**ALWAYS)
def modest(model: Model, x: Batch, target: Target) -> Attribution:
    """Slopes, without saying what they can do."""
    return explained(model, x, target, model.gradient(x, target).slope)


@method(paper="simonyan2014", laws={"oracle_beats_random"})
def prefers_chance(model: Model, x: Batch, attribution: Attribution) -> Scores:
    """How uneven a map is."""
    values = attribution.values.flatten(1).var(1).mean().double()
    return Scores(names=["uneven"], values=values[None], better="higher")


@method(paper="ghorbani2019", laws={"inside_ball"})
def goes_too_far(model: Model, x: Batch, attribution: Attribution, *, epsilon: float = 0.1) -> Table:
    """An attack that adds its step to the bounds of the ball."""
    assert isinstance(x, torch.Tensor)
    return Table(columns=["input"], rows=[[0]], extra={"attacked": x + 1.01 * epsilon * model.space.range})


def outcome(function, name, **options):
    checks = {check.name: check for check in check_method(function, **options)}
    assert name in checks, f"{name} is none of {sorted(checks)}"
    try:
        checks[name]()
    except (AssertionError, NotPossible) as error:
        return str(error) or "failed"
    return ""


@pytest.mark.parametrize("check", list(check_method(sound)), ids=lambda check: check.name)
def test_a_sound_method_passes(check):
    check()


@pytest.mark.parametrize(
    ("function", "law", "what"),
    [
        (undocumented, "documented", "no sentence"),
        (mixes_rows, "batch_independent[float64]", "row 0 of values"),
        (draws_globally, "seeded", "values"),
        (single_precision, "keeps_dtype[float64]", "values are torch.float32"),
        (counts_chunks, "chunk_independent[float64]", "values"),
        (writes_weights, "restores", "weight"),
        (writes_input, "restores", "input x"),
        (swallows, "restores_after_an_error", "swallowed"),
        (swallows, "restores_after_an_interrupt", "swallowed"),
        (off_by_one, "complete[float64]", "miss the change"),
        (off_by_one, "conserves[float64]", "sum of the values"),
        (off_by_one, "dummy[float64]", "ignored column"),
        (off_by_one, "symmetric[float64]", "columns that are alike"),
        (off_by_one, "linear_in_target[float32]", "combined target"),
        (modest, "breaks_linear_in_target", "add it to laws="),
        (modest, "breaks_same_for_equivalent_nets", "add it to laws="),
        (prefers_chance, "oracle_beats_random[float64]", "the true reason scores"),
        (goes_too_far, "inside_ball[float64]", "an entry moved by"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_method_that_is_wrong_is_caught(function, law, what):
    assert what in outcome(function, law)


def test_a_law_that_does_not_exist_cannot_be_claimed():
    @method(**ALWAYS, laws={"commplete"})
    def wrong(model: Model, x: Batch, target: Target) -> Attribution:
        """Wrong."""
        raise NotImplementedError

    with pytest.raises(BadOption, match="claims commplete; expected laws out of complete, "):
        list(check_method(wrong))


def test_what_is_no_method_is_refused():
    with pytest.raises(NotPossible, match="under @method"):
        list(check_method(len))
