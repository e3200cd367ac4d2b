import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.attribution.path import integrated_gradients
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.fill import sample
from cutaway.core.model import Model
from cutaway.core.space import images, rows
from cutaway.core.target import logit, prob
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model

FINE = {"tol": 1e-10, "max_steps": 4000}


def riemann(function, x, begin, *, steps=4000):
    """Reference: equation 1 of the paper as a midpoint sum, in plain torch; `function` gives one number per row."""
    total = torch.zeros_like(x)
    for alphas in ((torch.arange(steps, dtype=torch.float64) + 0.5) / steps).split(500):
        points = (begin + alphas.view(-1, *[1] * (x.ndim - 1)) * (x - begin)).requires_grad_()
        total += torch.autograd.grad(function(points).sum(), points)[0].sum(0)
    return (x - begin) * total / steps


@pytest.mark.parametrize("name", ["mlp_tanh", "mlp_gelu"])
def test_matches_a_riemann_sum(name):
    model = tiny_model(name)
    x = inputs_for(model, 1)
    slow = riemann(lambda p: model.module(p)[:, 2], x, torch.zeros_like(x))
    assert_close(integrated_gradients(model, x, logit(2), **FINE).values, slow, atol=1e-6, rtol=0)


def test_matches_a_riemann_sum_through_kinks():
    model = tiny_model("mlp")
    x = inputs_for(model, 1)
    slow = riemann(lambda p: model.module(p)[:, 2], x, torch.zeros_like(x), steps=40_000)
    assert_close(integrated_gradients(model, x, 2, tol=1e-5, max_steps=2000).values, slow, atol=1e-4, rtol=0)


@pytest.mark.parametrize("target", [logit(1), prob(1), logit(0) - logit(2)], ids=str)
@pytest.mark.parametrize("name", ["mlp_tanh", "mlp_gelu", "concatenation", "encoder"])
def test_values_sum_to_the_change_on_a_smooth_network(name, target):
    model = tiny_model(name)
    x = inputs_for(model, 2)
    result = integrated_gradients(model, x, target, tol=1e-9, max_steps=3000)
    change = target(model.run(x)) - target(model.run(torch.zeros_like(x)))
    assert ((result.values.flatten(1).sum(1) - change) / change).abs().max() < 1e-9
    assert result.checks["residual"].status == "ok"


@pytest.mark.parametrize("name", ["mlp", "mlp_relu6", "conv", "residual"])
def test_the_gap_is_reported_and_bounded_by_the_residual(name):
    model = tiny_model(name)
    x = inputs_for(model, 3)
    result = integrated_gradients(model, x, 1, max_steps=33)
    change = (model.run(x).output - model.run(torch.zeros_like(x)).output)[:, 1]
    gap = result.values.flatten(1).sum(1) - change
    assert_close(result.extra["gap"], gap, atol=1e-12, rtol=0)
    assert_close(result.extra["change"], change, atol=1e-12, rtol=0)
    assert (gap.abs() <= result.extra["residual"] + 1e-12).all()
    assert (result.extra["steps"] <= 33).all()


def test_a_linear_model_gives_weight_times_input_in_three_gradients():
    model = Model(nets.linear(torch.tensor([[2.0, -1.0]], dtype=torch.float64)), rows(2))
    x = torch.tensor([[3.0, 5.0]], dtype=torch.float64)
    result = integrated_gradients(model, x, logit(0), max_steps=3)
    assert result.values.tolist() == [[6.0, -5.0]]
    assert result.extra["steps"].tolist() == [3]
    assert result.checks["gap"].value == 0


def test_a_product_is_shared_equally():
    """Known answer: for f = ab from 0, each factor gets half."""

    class Product(nn.Module):
        def forward(self, x):
            return x.prod(1, keepdim=True)

    result = integrated_gradients(Model(Product(), rows(2)), torch.tensor([[3.0, 4.0]]), logit(0))
    assert result.values.tolist() == [[6.0, 6.0]]


def test_refinement_beats_equal_steps_at_the_same_cost():
    model = tiny_model("mlp_relu6")
    x = 4 * inputs_for(model, 1)
    result = integrated_gradients(model, x, 1, tol=0, max_steps=65)
    alphas = torch.linspace(0, 1, 65, dtype=torch.float64)
    score, _, slope = model.gradient(alphas[:, None] * x, 1)
    along = (slope * x).sum(1)
    equal = (alphas.diff() * (along[1:] + along[:-1]) / 2 - score.diff()).abs().sum()
    assert result.extra["residual"].item() < 0.5 * equal


def test_a_wide_tolerance_stops_early_and_a_small_budget_warns():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    rough = integrated_gradients(model, x, 1, tol=0.5)
    assert rough.extra["steps"].item() < 30
    assert rough.checks["residual"].status == "ok"
    tight = integrated_gradients(model, x, 1, tol=1e-6, max_steps=20)
    assert tight.checks["residual"].status == "warn"
    assert "raise max_steps" in tight.checks["residual"]
    assert tight.checks["residual"].value == pytest.approx(float(tight.extra["residual"] / tight.extra["change"].abs()))


def test_an_input_alone_has_the_same_bits_as_among_others():
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    together = integrated_gradients(model, x, [0, 1, 2], max_steps=40)
    alone = integrated_gradients(model, x[1:2], 1, max_steps=40)
    assert torch.equal(together.values[1:2], alone.values)
    assert torch.equal(together.extra["steps"][1:2], alone.extra["steps"])


@pytest.mark.parametrize(("wrt", "rest"), [("first", lambda m, h: m.last(m.act(h))), ("act", lambda m, h: m.last(h))])
def test_a_layer_is_attributed_between_its_own_activations(wrt, rest):
    """Reference: the paper's equation with the rest of the network as the function."""
    model = tiny_model("mlp_tanh")
    x = inputs_for(model, 1)
    begin = model.run(torch.zeros_like(x), read=[wrt])[wrt]
    end = model.run(x, read=[wrt])[wrt]
    slow = riemann(lambda h: rest(model.module, h)[:, 1], end, begin)
    result = integrated_gradients(model, x, 1, wrt=wrt, **FINE)
    assert_close(result.values, slow, atol=1e-6, rtol=0)
    change = model.run(x).output[0, 1] - model.run(torch.zeros_like(x)).output[0, 1]
    assert result.values.sum().item() == pytest.approx(change.item(), rel=1e-9)


@pytest.mark.parametrize("wrt", ["conv1", "relu1", "pool", "conv2", "fc", "conv2:3", "conv1:2@4,5"])
def test_any_place_is_complete_in_the_change_that_it_causes(wrt):
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    result = integrated_gradients(model, x, 1, wrt=wrt, max_steps=200)
    begin = model.run(torch.zeros_like(x), read=[wrt.split(":")[0]])[wrt]
    end = model.run(x, read=[wrt.split(":")[0]])
    change = model.run(x).output[:, 1] - model.run(x, edit={wrt: begin}).output[:, 1]
    assert result.values.shape == end[wrt].shape
    assert_close(result.extra["change"], change, atol=1e-12, rtol=0)
    assert ((result.values.reshape(2, -1).sum(1) - change).abs() <= result.extra["residual"] + 1e-12).all()


def test_a_late_layer_runs_only_what_follows_it():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    counted = _CountConvolutions()
    with counted:
        integrated_gradients(model, x, 1, wrt="fc", max_steps=65, tol=0)
    assert counted.calls < 20


class _CountConvolutions(torch.overrides.TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += getattr(func, "__name__", "") == "conv2d"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "baseline",
    ["zero", "neutral", "mean", "constant:0.5", "constant:1,0,0.2", "blur:2", "noise", "gaussian:0.2", "farthest"],
)
def test_every_baseline_is_complete(baseline):
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    result = integrated_gradients(model, x, 1, baseline=baseline, max_steps=129)
    assert (result.extra["gap"].abs() <= result.extra["residual"] + 1e-12).all()
    assert result.provenance.options["baseline"] == baseline


def test_a_constant_baseline_is_blind_to_its_own_colour_and_says_so():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    x[:, :, :4] = 0
    black = integrated_gradients(model, x, 1)
    assert (black.values[:, :, :4] == 0).all()
    assert black.checks["baseline"].value == pytest.approx(0.25)
    farthest = integrated_gradients(model, x, 1, baseline="farthest")
    assert farthest.values[:, :, :4].abs().min() > 0
    assert "baseline" not in farthest.checks


def test_an_input_that_equals_its_baseline_gets_zero_and_a_caveat():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    x[1] = 0
    result = integrated_gradients(model, x, 1)
    assert (result.values[1] == 0).all()
    assert result.checks["baseline"].status == "warn"
    assert "equal the baseline" in result.checks["baseline"]
    assert result.extra["steps"][1] <= 9


def test_a_random_baseline_is_averaged_over_its_draws():
    model = tiny_model("mlp_tanh")
    model.space = rows(4, low=-3.0, high=3.0)
    x = inputs_for(model, 2)
    with limits(forwards=1e6):  # the most that so many steps could take is above the usual limit
        draws = integrated_gradients(model, x, 1, baseline="noise", samples=6, seed=3, **FINE)
    generator = torch.Generator().manual_seed(3)
    fills = [-3 + 6 * torch.rand((1, 4), generator=generator, dtype=torch.float64) for _ in range(6)]
    each = torch.stack([integrated_gradients(model, x[:1], 1, baseline=f, **FINE).values[0] for f in fills])
    assert_close(draws.values[0], each.mean(0), atol=1e-9, rtol=0)
    assert_close(draws.extra["standard_error"][0], each.std(0) / 6**0.5, atol=1e-9, rtol=0)
    mean_change = model.run(x[:1]).output[0, 1] - torch.stack([model.run(f).output[0, 1] for f in fills]).mean()
    assert draws.values[0].sum().item() == pytest.approx(mean_change.item(), abs=1e-8)


def test_baselines_can_be_other_examples():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    others = inputs_for(model, 5, seed=9)
    result = integrated_gradients(model, x, 1, baseline=sample(others), samples=3, max_steps=65)
    assert (result.extra["gap"].abs() <= result.extra["residual"] + 1e-12).all()
    assert not torch.equal(
        result.values, integrated_gradients(model, x, 1, baseline=sample(others), samples=3, seed=1).values
    )


def test_text_is_explained_from_zero_embeddings():
    model = tiny_model("text")
    result = integrated_gradients(model, ["very good film", "bad"], "good", tol=1e-9, max_steps=2000)
    assert result.values.shape == (2, 4, 8)
    assert result.checks["gap"].value == pytest.approx(0, abs=1e-9)


def test_a_layer_of_a_text_network_is_explained():
    model = tiny_model("text")
    result = integrated_gradients(model, ["very good film"], "good", wrt="encoder", tol=1e-9, max_steps=2000)
    assert abs(result.checks["gap"].value) < 1e-9


def test_a_constant_model_gets_zero_without_a_warning():
    class Constant(nn.Module):
        def forward(self, x):
            return 0 * x.sum((1, 2, 3))[:, None] + 2

    result = integrated_gradients(Model(Constant(), images(4)), torch.rand(1, 3, 4, 4), 0)
    assert (result.values == 0).all()
    assert result.checks["gap"].status == "note"
    assert "is the same" in result.checks["gap"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_steps": 2}, BadOption, "3 or more"),
        ({"tol": -0.1}, BadOption, "from 0 up"),
        ({"samples": 4}, BadOption, "always the same"),
        ({"samples": 0, "baseline": "noise"}, BadOption, "samples"),
        ({"baseline": "constant:7"}, BadShape, "bounds 0 to 1"),
        ({"baseline": torch.zeros(1, 3, 4, 4)}, BadShape, "fill of shape"),
    ],
)
def test_options_out_of_range_are_refused(options, error, words):
    model = tiny_model("conv")
    with pytest.raises(error, match=words):
        integrated_gradients(model, inputs_for(model, 1), 1, **options)


def test_single_precision_keeps_its_type_and_its_sum():
    model = tiny_model("mlp_tanh", torch.float32)
    result = integrated_gradients(model, inputs_for(model, 3), 1, tol=1e-4)
    assert result.values.dtype == torch.float32
    assert abs(result.checks["gap"].value) < 2e-4


@pytest.mark.peers
@pytest.mark.parametrize("name", ["mlp_tanh", "mlp_gelu"])
def test_agrees_with_captum_on_smooth_networks(name):
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = tiny_model(name)
    x = inputs_for(model)
    theirs = captum.IntegratedGradients(model.module).attribute(x, target=1, n_steps=64)
    assert_close(integrated_gradients(model, x, 1, **FINE).values, theirs, atol=1e-9, rtol=0)


@pytest.mark.peers
def test_agrees_with_captum_through_kinks():
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    net = captum.IntegratedGradients(lambda x: model.module(model.space.normalised(x)))
    theirs = net.attribute(x, target=1, n_steps=4000, method="riemann_middle", internal_batch_size=500)
    ours = integrated_gradients(model, x, 1, tol=1e-4, max_steps=2000).values
    assert_close(ours, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=0)


@pytest.mark.slow
def test_a_real_network_on_a_real_photo():
    efficientnet = pytest.importorskip("cutaway.zoo.efficientnet")
    skimage = pytest.importorskip("skimage")
    photo = skimage.transform.resize(skimage.data.chelsea(), (224, 224), anti_aliasing=True)
    x = torch.from_numpy(photo).float().permute(2, 0, 1)[None]
    model = efficientnet.load()
    early = integrated_gradients(model, x, 285, max_steps=65)
    late = integrated_gradients(model, x, 285, max_steps=65, wrt="_blocks.12")
    for result in (early, late):
        assert abs(result.checks["gap"].value) <= result.checks["residual"].value
        assert float(result.extra["change"]) == pytest.approx(10.46, abs=0.1)
    assert early.checks["residual"].value < 0.1
    assert late.provenance.cost.seconds < early.provenance.cost.seconds
