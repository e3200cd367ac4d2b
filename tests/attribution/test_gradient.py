import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.attribution.gradient import first_derivative, gradient, input_x_gradient, variance_saliency
from cutaway.attribution.noise import smoothgrad
from cutaway.core.errors import BadOption
from cutaway.core.model import Model
from cutaway.core.space import images, rows, tokens
from cutaway.core.target import logit, prob
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model

SLOPES = [gradient, input_x_gradient, smoothgrad]


def central_differences(model, x, target, *, step=1e-6):
    """Reference: the definition of a derivative, entry by entry."""
    flat = x.flatten()
    slopes = torch.empty_like(flat)
    for i in range(len(flat)):
        moved = flat.repeat(2, 1)
        moved[0, i] += step
        moved[1, i] -= step
        up, down = (target(model.run(row.view_as(x))).item() for row in moved)
        slopes[i] = (up - down) / (2 * step)
    return slopes.view_as(x)


@pytest.mark.parametrize("target", [logit(1), prob(2), logit(0) - 2 * logit(1)], ids=str)
def test_gradient_is_the_limit_of_differences(target):
    model = tiny_model("mlp_tanh")
    x = inputs_for(model, 1)
    assert_close(gradient(model, x, target).values, central_differences(model, x, target), atol=1e-8, rtol=0)


def test_gradient_of_a_linear_model_is_its_weight_in_input_units():
    weight = torch.tensor([[2.0, -1.0], [0.0, 3.0]], dtype=torch.float64)
    model = Model(nets.linear(weight), rows(2, std=4.0))
    x = torch.tensor([[1.0, 5.0]], dtype=torch.float64)
    assert gradient(model, x, 0).values.tolist() == [[0.5, -0.25]]
    assert input_x_gradient(model, x, 1).values.tolist() == [[0.0, 3.75]]


def test_products_sum_to_the_target_without_biases():
    """Such a network is homogeneous: f(ax) = a f(x), so Euler's theorem holds."""
    model = tiny_model("mlp_without_bias")
    x = inputs_for(model, 5)
    result = input_x_gradient(model, x, 1)
    scale = result.values.abs().sum(1)
    assert ((result.values.sum(1) - result.score).abs() / scale).max() < 1e-13
    assert abs(result.checks["sum"].value) < 1e-12


def test_products_do_not_sum_to_the_target_with_biases_and_say_so():
    model = tiny_model("mlp")
    result = input_x_gradient(model, inputs_for(model, 1), 1)
    assert abs(result.checks["sum"].value) > 1e-3
    assert "need not agree" in result.checks["sum"]


@pytest.mark.parametrize("explain", SLOPES)
@pytest.mark.parametrize("wrt", ["relu1", "conv2:3", "conv2:3@1,2", "input"])
def test_any_place_can_be_attributed(explain, wrt):
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    result = explain(model, x, 1, wrt=wrt)
    assert result.values.shape == model.run(x, read=[wrt.split(":")[0]])[wrt].shape
    assert result.wrt == wrt


@pytest.mark.parametrize("explain", SLOPES)
def test_text_is_attributed_at_its_embedding(explain):
    model = tiny_model("text")
    result = explain(model, ["very good film", "bad"], "good")
    assert result.values.shape == (2, 4, 8)
    assert result.tokens[0] == ["[CLS]", "very", "good", "film"]


@pytest.mark.parametrize("explain", SLOPES)
def test_each_input_has_its_own_target(explain):
    model = tiny_model("mlp_gelu")
    x = inputs_for(model, 3)
    together = explain(model, x, [2, 0, 1]).values
    alone = torch.cat([explain(model, x[i : i + 1], k).values for i, k in enumerate([2, 0, 1])])
    assert_close(together, alone, atol=1e-12, rtol=0)


def test_smoothgrad_without_noise_is_the_gradient():
    model = tiny_model("mlp_tanh")
    x = inputs_for(model)
    smooth = smoothgrad(model, x, 1, noise=0, samples=7)
    assert_close(smooth.values, gradient(model, x, 1).values, atol=1e-12, rtol=0)
    assert "plain gradient" in smooth.checks["sigma"]
    assert smooth.extra["standard_error"].abs().max() < 1e-12


def test_smoothgrad_of_a_linear_model_is_its_weight_at_any_noise():
    model = tiny_model("linear")
    x = inputs_for(model, 2)
    smooth = smoothgrad(model, x, 1, noise=3.0, samples=5)
    assert_close(smooth.values, model.module.weight[1].detach().expand(2, 4), atol=1e-12, rtol=0)


def test_smoothgrad_is_the_mean_of_gradients_at_noisy_inputs():
    """Reference: one input after the other, in plain torch."""
    net = nets.seeded(lambda: nets.Mlp("tanh", inputs=12))
    model = Model(nn.Sequential(nn.Flatten(), net), images((2, 2), low=-1.0, high=3.0))
    x = torch.rand((1, 3, 2, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.randn((6, 3, 2, 2), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    slopes = []
    for step in noise:
        point = (x[0] + 0.25 * 4.0 * step).flatten()[None].requires_grad_()
        slopes.append(torch.autograd.grad(net(point)[0, 1], point)[0].view(3, 2, 2))
    result = smoothgrad(model, x, 1, samples=6, noise=0.25, seed=5)
    assert_close(result.values[0], torch.stack(slopes).mean(0), atol=1e-12, rtol=0)
    assert_close(result.extra["standard_error"][0], torch.stack(slopes).std(0) / 6**0.5, atol=1e-12, rtol=0)
    assert "1 in units of the place" in result.checks["sigma"]


def test_noise_of_rows_and_layers_is_a_share_of_their_own_range():
    model = tiny_model("mlp")
    x = torch.tensor([[0.0, 1.0, 2.0, 4.0]], dtype=torch.float64)
    assert smoothgrad(model, x, 0, noise=0.5).checks["sigma"].value == pytest.approx(2.0)
    act = model.run(x, read=["first"])["first"]
    at_layer = smoothgrad(model, x, 0, noise=0.5, wrt="first").checks["sigma"].value
    assert at_layer == pytest.approx(0.5 * float(act.max() - act.min()))


def test_noise_depends_on_the_seed_and_on_nothing_else():
    x = inputs_for(tiny_model("conv"), 3)
    whole = smoothgrad(tiny_model("conv"), x, 1, samples=40).values
    pieces = smoothgrad(tiny_model("conv", batch_size=3), x[1:2], 1, samples=40).values
    assert_close(pieces, whole[1:2], atol=1e-12, rtol=0)
    assert not torch.equal(smoothgrad(tiny_model("conv"), x, 1, samples=40, seed=1).values, whole)


def test_error_of_the_mean_falls_with_the_root_of_the_samples():
    model = tiny_model("mlp")
    x = inputs_for(model, 1)
    few, many = (smoothgrad(model, x, 1, samples=n, noise=0.5).checks["error"].value for n in (100, 1600))
    assert few / many == pytest.approx(4, rel=0.2)


def test_a_map_that_is_mostly_chance_is_called_so():
    model = tiny_model("conv")
    result = smoothgrad(model, inputs_for(model, 1), 1, samples=2, noise=3.0)
    assert result.checks["error"].status == "warn"
    assert "standard error" in smoothgrad(model, inputs_for(model, 1), 1, samples=1).checks["error"]


@pytest.mark.parametrize(
    ("options", "words"), [({"samples": 0}, "at least one sample"), ({"noise": -0.1}, "from 0 up")]
)
def test_smoothgrad_refuses_options_out_of_range(options, words):
    model = tiny_model("mlp")
    with pytest.raises(BadOption, match=words):
        smoothgrad(model, inputs_for(model, 1), 1, **options)


@pytest.mark.parametrize("wrt", ["input", "conv2:3"])
def test_the_first_derivative_is_the_size_of_the_slope(wrt):
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    result = first_derivative(model, x, 1, wrt=wrt)
    assert_close(result.values, gradient(model, x, 1, wrt=wrt).values.abs())
    assert not result.signed


def test_a_planted_word_has_the_largest_first_derivative():
    """Planted: the class is told by the first dimension of the word in the middle, whatever the others are."""

    class Middle(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(9, 5)

        def forward(self, input_ids):
            return self.embedding(input_ids)[:, 2, :2] * torch.tensor([3.0, 0.0])

    model = Model(nets.seeded(Middle, dtype=torch.float32), tokens(5), embedding="embedding")
    values = first_derivative(model, torch.tensor([[1, 2, 3, 2, 1]]), 0).values[0]
    assert values[2].tolist() == [3, 0, 0, 0, 0]
    assert values.sum() == 3


def test_variance_saliency_is_the_squared_distance_from_the_mean_word():
    model = tiny_model("text")
    texts = ["the film was very good", "bad"]
    words = model.run(texts, read=["input"])["input"]
    mask = model.inputs(texts)["attention_mask"].bool()
    values = variance_saliency(model, texts, "good").values
    for k in range(2):
        real = words[k][mask[k]]
        assert_close(values[k][mask[k]], (real - real.mean(0)).square(), atol=1e-14, rtol=0)
        assert not values[k][~mask[k]].any()


def test_a_word_that_comes_twice_has_a_value_at_each_position():
    model = tiny_model("text")
    values = variance_saliency(model, ["good film good"], "good").values[0]
    words = variance_saliency(model, ["good film good"], "good").tokens[0]
    first, second = (k for k, word in enumerate(words) if word == "good")
    assert_close(values[first], values[second])
    assert first != second


def test_variance_saliency_of_images_rows_and_layers():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    assert_close(variance_saliency(model, x, 1).values, (x - x.mean((2, 3), keepdim=True)).square())
    act = model.run(x, read=["conv2"])["conv2"]
    at_layer = variance_saliency(model, x, 1, wrt="conv2:3").values
    assert_close(at_layer, (act - act.mean((2, 3), keepdim=True)).square()[:, 3])
    row = inputs_for(tiny_model("mlp"), 2)
    assert_close(variance_saliency(tiny_model("mlp"), row, 0).values, (row - row.mean(1, keepdim=True)).square())


def test_variance_saliency_says_that_it_does_not_ask_the_network():
    model = tiny_model("text")
    one, other = (variance_saliency(model, ["good film"], name) for name in ("good", "bad"))
    assert_close(one.values, other.values)
    assert "do not depend on the network" in one.checks["blind"]


def test_a_dead_unit_gets_exactly_zero():
    model = tiny_model("dead_branch")
    x = inputs_for(model, 2)
    for explain in SLOPES:
        assert (explain(model, x, 1, wrt="live").values[:, 0] == 0).all()


@pytest.mark.peers
@pytest.mark.parametrize("name", ["mlp", "mlp_functional", "conv", "residual", "concatenation"])
def test_agrees_with_captum(name):
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = tiny_model(name)
    x = inputs_for(model)

    def net(x):
        return model.module(model.space.normalised(x))

    slope = captum.Saliency(net).attribute(x.clone().requires_grad_(), target=1, abs=False)
    product = captum.InputXGradient(net).attribute(x.clone().requires_grad_(), target=1)
    assert_close(gradient(model, x, 1).values, slope, atol=1e-12, rtol=0)
    assert_close(input_x_gradient(model, x, 1).values, product, atol=1e-12, rtol=0)


@pytest.mark.peers
def test_smoothgrad_agrees_with_captums_noise_tunnel_within_chance():
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    ours = smoothgrad(model, x, 1, samples=1000)
    tunnel = captum.NoiseTunnel(captum.Saliency(lambda x: model.module(model.space.normalised(x))))
    theirs = tunnel.attribute(x, nt_type="smoothgrad", nt_samples=1000, stdevs=0.15, target=1, abs=False)
    sigmas = (ours.values - theirs) / (2**0.5 * ours.extra["standard_error"]).clamp_min(1e-12)
    assert sigmas.square().mean() < 1.5
    assert sigmas.abs().max() < 6


@pytest.mark.slow
def test_a_real_network_is_explained_and_restored():
    """Reference: the change along one direction, in double precision."""
    found = pytest.importorskip("cutaway.zoo.efficientnet").load()
    model = Model(found.module.double(), found.space)
    x = 0.1 + 0.8 * torch.rand((1, 3, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = model.fingerprint
    slope = gradient(model, x, 5).values
    up, down = model.run(torch.cat([x + 1e-7 * step, x - 1e-7 * step])).output[:, 5]
    assert float(up - down) / 2e-7 == pytest.approx(float((slope * step).sum()), rel=1e-4)
    assert model.fingerprint == before
