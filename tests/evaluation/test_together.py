"""Maps that are examined together have the evidence that they have apart, for fewer passes."""

from collections import Counter

import pytest
import torch

from cutaway.attribution.cam import grad_cam, grad_cam_plus_plus, layer_cam
from cutaway.attribution.gradient import first_derivative, gradient, input_x_gradient
from cutaway.attribution.noise import smoothgrad
from cutaway.attribution.occlusion import occlusion
from cutaway.attribution.rules import guided_backprop
from cutaway.core.errors import NotPossible
from cutaway.evaluation.moves import max_sensitivity
from cutaway.evaluation.sanity import parameter_randomization
from cutaway.evaluation.sensitivity import stability
from cutaway.evaluation.together import together
from cutaway.testing.compare import same_result
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import made

OF_ONE_PASS = (gradient, input_x_gradient, first_derivative, grad_cam, grad_cam_plus_plus, layer_cam)
OTHERS = (smoothgrad, guided_backprop, occlusion)
TESTS = [
    (parameter_randomization, {"stages": 4}),
    (parameter_randomization, {"stages": 3, "order": "independent"}),
    (max_sensitivity, {"samples": 3}),
    (stability, {"samples": 3}),
]


def maps_of(model, x, methods, target=(1, 2)):
    return [method(model, x, list(target), **method.method.quick) for method in methods]


@pytest.mark.parametrize(("test", "options"), TESTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_together_is_as_apart(test, options, dtype):
    model = tiny_model("conv", dtype)
    x = inputs_for(model, 2)
    maps = maps_of(model, x, (*OF_ONE_PASS, *OTHERS))
    apart = [test(model, x, one, **options) for one in maps]
    with together(maps):
        found = [test(model, x, one, **options) for one in maps]
    for one, other in zip(found, apart, strict=True):
        same_result(one, other, 0.0 if dtype == torch.float64 else 1e-3)


def spent_on(test, model, x, maps, **options):
    before = Counter(model.spent)
    with together(maps):
        found = [test(model, x, one, **options) for one in maps]
    assert [one.provenance.cost.forwards > 0 for one in found] == [True] + [False] * (len(maps) - 1)
    return Counter(model.spent) - before


@pytest.mark.parametrize(
    ("test", "options", "times"),
    [(parameter_randomization, {"stages": 3}, 3), (max_sensitivity, {"samples": 4}, 4), (stability, {"samples": 4}, 4)],
)
def test_six_maps_take_the_passes_of_one(test, options, times):
    """All but the passes of the first network or input, where the layer is learned; forwards look for places, too."""
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    maps = maps_of(model, x, OF_ONE_PASS, target=(0, 1, 2))
    alone = spent_on(test, model, x, maps[:1], **options)
    assert alone["backwards"] == times * 3
    first = 3 if test is parameter_randomization else times
    assert spent_on(test, model, x, maps, **options)["backwards"] == alone["backwards"] + first


def test_a_map_that_is_refused_does_not_end_the_test_of_the_others():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    given, *others = [made(torch.rand(2, 3, 16, 16)), *maps_of(model, x, (gradient, grad_cam))]
    maps = [others[0], given, others[1]]
    with together(maps):
        found = max_sensitivity(model, x, maps[0], samples=2)
        with pytest.raises(NotPossible, match="made by hand"):
            max_sensitivity(model, x, given, samples=2)
        same_result(found, max_sensitivity(model, x, others[0], samples=2))
        max_sensitivity(model, x, others[1], samples=2)


def test_other_options_and_other_maps_are_examined_anew():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    maps = maps_of(model, x, (gradient, input_x_gradient))
    other = gradient(model, x, 0)
    expected = [
        max_sensitivity(model, x, maps[0], samples=3),
        max_sensitivity(model, x, maps[0], samples=3, seed=1),
        max_sensitivity(model, x, other, samples=3),
    ]
    with together(maps):
        found = [
            max_sensitivity(model, x, maps[0], samples=3),
            max_sensitivity(model, x, maps[0], samples=3, seed=1),
            max_sensitivity(model, x, other, samples=3),
        ]
    for one, wanted in zip(found, expected, strict=True):
        same_result(one, wanted)


def test_the_list_of_maps_may_grow():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    maps = maps_of(model, x, (gradient,))
    late = input_x_gradient(model, x, [1, 2])
    expected = max_sensitivity(model, x, late, samples=2)
    with together(maps):
        max_sensitivity(model, x, maps[0], samples=2)
        maps.append(late)
        same_result(max_sensitivity(model, x, late, samples=2), expected)
