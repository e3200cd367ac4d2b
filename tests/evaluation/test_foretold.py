import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.gradient import gradient, input_x_gradient
from cutaway.core.errors import BadOption, NotPossible
from cutaway.evaluation.foretold import _sets, infidelity, sensitivity_n
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import SIDE, box_model, bright, made, oracle, row_model

NAME = "this map"
BOTH = [sensitivity_n, infidelity]


def linear():
    model = row_model([3.0, -1.0, 2.0, 0.5, 1.0, -2.0])
    x = torch.tensor([[1.0, 2.0, -1.0, 3.0, 0.5, 1.0], [2.0, 1.0, 1.0, -1.0, 2.0, 3.0]], dtype=torch.float64)
    return model, x


def test_contributions_to_a_linear_function_have_one_for_every_n():
    model, x = linear()
    found = sensitivity_n(model, x, input_x_gradient(model, x, 1))
    assert_close(found.y[NAME], torch.ones(len(found.x), dtype=torch.float64), atol=1e-10, rtol=0)
    picture = sensitivity_n(box_model(), bright(2), input_x_gradient(box_model(), bright(2), 1), cells=4)
    assert_close(picture.y[NAME], torch.ones(len(picture.x), dtype=torch.float64), atol=1e-10, rtol=0)


def test_the_slope_of_a_linear_function_foretells_all_of_it():
    model, x = linear()
    found = infidelity(model, x, gradient(model, x, 1))
    assert found["relative infidelity"] == pytest.approx(0, abs=1e-10)
    assert found["infidelity"] == pytest.approx(0, abs=1e-10)
    assert found.checks["verdict"].status == "ok"
    assert "unit" not in found.checks


@pytest.mark.parametrize("cells", [4, 0])
def test_sensitivity_n_matches_a_loop_over_the_sets(cells):
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 2)
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = sensitivity_n(model, x, made(values), cells=cells, points=3, samples=10, seed=5)
    side = cells or SIDE
    width = SIDE // side
    expected = []
    for i in range(2):
        generator = torch.Generator().manual_seed(5)
        row = []
        for n in found.x.long().tolist():
            sums, falls = [], []
            for gone in _sets(side * side, n, 10, generator):
                assert int(gone.sum()) == n
                pixels = gone.view(side, side).repeat_interleave(width, 0).repeat_interleave(width, 1)
                sums.append(float(values[i].sum(0)[pixels].sum()))
                scores = model.run(torch.stack([x[i], x[i] * ~pixels])).scores[:, 1]
                falls.append(float(scores[0] - scores[1]))
            row.append(np.corrcoef(sums, falls)[0, 1])
        expected.append(row)
    assert_close(found.y[NAME], torch.tensor(expected, dtype=torch.float64).mean(0), atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", BOTH)
def test_the_true_reason_beats_chance_and_its_opposite_is_told_apart(method):
    model, x = box_model(), bright(6)
    found = method(model, x, made(oracle(6) * x, unit=""))
    assert found.checks["verdict"].status == "ok"
    constant = method(model, x, made(torch.ones_like(x)))
    assert constant.checks["verdict"].status != "ok"
    if method is sensitivity_n:
        assert method(model, x, made(-oracle(6))).checks["verdict"].status == "fail"


@pytest.mark.parametrize("method", BOTH)
def test_a_map_of_zeros_foretells_nothing(method):
    found = method(box_model(), bright(6), made(torch.zeros(6, 3, SIDE, SIDE)))
    number = found.summary[NAME] if method is sensitivity_n else 1 - found["relative infidelity"]
    assert number == 0
    assert found.checks["verdict"].status != "ok"


def test_sensitivity_n_takes_text_rows_and_coarse_maps():
    text = tiny_model("text")
    assert torch.isfinite(sensitivity_n(text, inputs_for(text, 2), samples=10).y[NAME]).all()
    photo = tiny_model("conv")
    assert torch.isfinite(sensitivity_n(photo, inputs_for(photo, 1), "grad_cam", samples=10).y[NAME]).all()


def test_what_does_not_fit_is_refused():
    model, x = linear()
    why = gradient(model, x, 1)
    for wrong in ({"points": 0}, {"samples": 2}):
        with pytest.raises(BadOption):
            sensitivity_n(model, x, why, **wrong)
    for wrong in ({"noise": 0}, {"samples": 1}):
        with pytest.raises(BadOption):
            infidelity(model, x, why, **wrong)
    with pytest.raises(NotPossible, match="a text has none"):
        infidelity(tiny_model("text"), inputs_for(tiny_model("text"), 1))
    with pytest.raises(NotPossible, match="one value for each entry"):
        infidelity(tiny_model("conv"), inputs_for(tiny_model("conv"), 1), "grad_cam")
    one = row_model([1.0])
    with pytest.raises(NotPossible, match="at least two"):
        sensitivity_n(one, torch.ones(1, 1), gradient(one, torch.ones(1, 1), 1))
    deaf = row_model([0.0, 0.0])
    for method in BOTH:
        with pytest.raises(NotPossible, match="change"):
            method(deaf, torch.ones(1, 2), gradient(deaf, torch.ones(1, 2), 1))


def test_values_of_another_unit_are_noted():
    model, x = linear()
    assert infidelity(model, x, input_x_gradient(model, x, 1)).checks["unit"].status == "warn"


@pytest.mark.peers
@pytest.mark.parametrize("normalize", [False, True])
def test_captum_gives_the_same_infidelity_for_the_same_noise(normalize):
    metrics = pytest.importorskip("captum.metrics", reason="captum is in requirements-peers.txt")
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    model = ct.Model(net, ct.rows(4, low=-10, high=10), name="tanh")
    x = torch.tensor([[0.3, -0.2, 0.5, 0.1]], dtype=torch.float64)
    values = torch.tensor([[1.0, -2.0, 0.5, 0.3]], dtype=torch.float64)
    seen = []

    def changed(inputs):
        generator = torch.Generator().manual_seed(0)
        for _ in range(4):  # the shuffled maps are drawn first
            torch.randperm(4, generator=generator)
        step = 0.1 * torch.randn(len(inputs), 4, generator=generator, dtype=torch.float64)
        seen.append(net(inputs)[:, 1] - net(inputs - step)[:, 1])
        return step, inputs - step

    theirs = metrics.infidelity(
        net, changed, x, values, target=1, n_perturb_samples=32, max_examples_per_batch=32, normalize=normalize
    )
    ours = infidelity(model, x, made(values), samples=32)
    expected = ours["infidelity"]
    if normalize:
        expected = ours["relative infidelity"] * float(seen[0].square().mean())
    assert float(theirs) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("method", BOTH)
def test_several_maps_of_one_input_share_the_forwards(method):
    """What the target does without regions, or under noise, does not depend on the map."""
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 2)
    values = torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    first, second = (method(model, x, made(v), samples=10) for v in values)
    alone = method(tiny_model("conv"), x, made(values[1]), samples=10)
    assert second.provenance.cost.forwards < first.provenance.cost.forwards / 10
    assert "an earlier call" in second.checks["reused"]
    for name, array in alone.arrays().items():
        assert torch.equal(second.arrays()[name], array)
    with torch.no_grad():
        model.module.fc.weight.mul_(0.5)
    assert "reused" not in method(model, x, made(values[1]), samples=10).checks, "other weights, other falls"
    assert "reused" not in method(model, x + 0.001, made(values[1]), samples=10).checks


def test_a_fill_of_the_users_own_is_never_remembered():
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 1)
    dark, light = (sensitivity_n(model, x, made(x), fill=torch.full_like(x, v), samples=10) for v in (0.1, 0.9))
    assert "reused" not in light.checks
    assert not torch.equal(dark.y[NAME], light.y[NAME])


def test_a_set_that_was_drawn_twice_is_run_once():
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 1)
    found = sensitivity_n(model, x, made(x), cells=2, points=1, samples=50)
    assert found.provenance.cost.forwards <= 6, "four cells, the whole input, and the prediction"
