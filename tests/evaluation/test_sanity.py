import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.space import images
from cutaway.data import load as load_data
from cutaway.evaluation.orders import edges
from cutaway.evaluation.sanity import parameter_randomization
from cutaway.evaluation.similarity import hog, overlap, similarities, ssim
from cutaway.evaluation.weights import blocks, reinitialise
from cutaway.testing.models import inputs_for, tiny_model, tiny_models
from cutaway.testing.planted import made
from cutaway.zoo import load


def edge_map(model, x, target):
    """What a map would be that looks at the picture and never at the model."""
    return torch.stack([edges(picture) for picture in x])[:, None].expand_as(x)


def weights_of(model):
    return {name: value.clone() for name, value in model.module.state_dict().items()}


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_an_edge_detector_never_changes_and_fails(order):
    model = tiny_model("conv")
    found = parameter_randomization(model, inputs_for(model, 2), edge_map, order=order, stages=4)
    for y in found.y.values():
        assert_close(y, torch.ones_like(y))
    assert found.checks["verdict"].status == "fail"
    assert "does not show what this model learned" in found.checks["verdict"]
    assert found.checks["edges"].value == pytest.approx(1.0)


def test_the_edges_of_the_picture_are_drawn_beside_as_a_control():
    """Reference: the rank correlation of the map's sizes with the edges, by SciPy."""
    from scipy.stats import spearmanr

    model = tiny_model("conv")
    x = inputs_for(model, 1)
    found = parameter_randomization(model, x, "gradient", target=1, stages=2)
    sizes = model.gradient(x, 1).slope[0].sum(0).abs().flatten()
    expected = spearmanr(sizes, edges(x[0]).flatten()).statistic
    drawn = found.y["rank correlation with the picture's edges"]
    assert float(drawn[0]) == pytest.approx(expected)
    assert found.checks["edges"].value == pytest.approx(expected)
    assert len(drawn) == 3
    assert not any("edges" in name for name in parameter_randomization(tiny_model("mlp"), torch.ones(2, 4)).y)


@pytest.mark.parametrize(
    ("explain", "status"),
    [("gradient", "ok"), ("grad_cam", "ok"), ("guided_backprop", "fail"), (edge_map, "fail")],
    ids=["gradient", "grad_cam", "guided_backprop", "edges"],
)
def test_what_the_paper_found_on_a_network_that_was_trained(explain, status):
    """Adebayo et al. 2018, section 4: gradients and Grad-CAM react, guided backprop and an edge detector do not."""
    x = load_data("shapes/test")[:8].x
    found = parameter_randomization(load("shapes-cnn"), x, explain)
    assert found.checks["verdict"].status == status
    assert ("hardly changes" in found.checks["verdict"]) == (status == "fail")
    assert set(found.low) == set(found.y), "several pictures have a band"


def test_the_gradient_reacts_to_the_output_layer():
    model = tiny_model("conv")
    found = parameter_randomization(model, inputs_for(model, 3), "gradient", target=1, stages=4)
    assert float(found.y["rank correlation"][1]) < 0.9
    assert found.checks["verdict"].status in ("ok", "warn")


def test_a_map_that_turns_over_has_not_forgotten():
    """The sign of the output layer decides the sign of the map, and nothing else changes: that is no reaction."""
    model = tiny_model("conv")
    x = inputs_for(model, 2)

    def signed_edges(model, x, target):
        sign = 1.0 if float(model.module.fc.weight.detach().sum()) == trained else -1.0
        centred = edge_map(model, x, target)
        return sign * (centred - centred.mean())

    trained = float(model.module.fc.weight.detach().sum())
    found = parameter_randomization(model, x, signed_edges, stages=3)
    assert_close(found.y["rank correlation"][1:], -torch.ones(3, dtype=torch.float64))
    assert found.checks["verdict"].status == "fail"


def test_layers_go_from_the_output_down_and_the_output_is_alone():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    every = blocks(model, x, 100)
    assert [len(part) for part in every.parts] == [1] * every.total
    assert every.parts[0] == ["fc"]
    assert every.parts[-1] == ["conv1"]
    few = blocks(model, x, 3)
    assert [path for part in few.parts for path in part] == [path for part in every.parts for path in part]
    assert few.parts[0] == ["fc"]
    assert len(few.parts) == 3
    assert len(blocks(model, x, 1).parts) == 1


def test_every_layer_with_weights_is_in_one_block():
    for name, model in tiny_models().items():
        found = blocks(model, model.inputs(inputs_for(model, 1)), 4)
        paths = [path for part in found.parts for path in part]
        held = [p for p, m in model.module.named_modules() if any(w is not None for w in m._parameters.values())]
        assert sorted(paths) == sorted(held), name


def test_cascading_follows_the_weights_exactly():
    """Reference: a copy whose layers are reset by hand, from the top, and its gradient."""
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    seen = []

    def watched(model, x, target):
        seen.append(weights_of(model))
        return model.gradient(x, target).slope

    parts = blocks(model, x, 3).parts
    before = weights_of(model)
    parameter_randomization(model, x, watched, stages=3)
    assert len(seen) == 4
    for k, state in enumerate(seen):
        random = {path for part in parts[:k] for path in part}
        for name, value in state.items():
            if name.rpartition(".")[0] not in random:
                assert torch.equal(value, before[name]), f"{name} at stage {k}"
            elif name.endswith("weight") and not name.startswith("bn"):
                assert not torch.equal(value, before[name]), f"{name} at stage {k}"
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())


def test_independent_makes_one_block_random_at_a_time():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    seen = []

    def watched(model, x, target):
        seen.append(weights_of(model))
        return model.gradient(x, target).slope

    parts = blocks(model, x, 3).parts
    before = weights_of(model)
    parameter_randomization(model, x, watched, stages=3, order="independent")
    for part, state in zip(parts, seen[1:], strict=True):
        changed = {name.rpartition(".")[0] for name, value in state.items() if not torch.equal(value, before[name])}
        assert changed <= set(part)
        assert changed


def test_how_layers_are_grouped_does_not_change_what_is_drawn():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    one = parameter_randomization(model, x, "gradient", stages=1, seed=3)
    many = parameter_randomization(model, x, "gradient", stages=50, seed=3)
    for name, y in one.y.items():
        assert_close(y[-1], many.y[name][-1])
    other = parameter_randomization(model, x, "gradient", stages=1, seed=4)
    assert float(one.y["rank correlation"][-1]) != float(other.y["rank correlation"][-1])


def test_a_module_uses_its_own_initialiser():
    layer, twin = (nn.Linear(300, 200).double() for _ in range(2))
    with torch.no_grad():
        layer.weight.fill_(7.0)
    state = torch.get_rng_state()
    assert reinitialise(layer, seed=1)
    assert float(layer.weight.detach().abs().max()) <= 300**-0.5
    assert reinitialise(twin, seed=1)
    assert torch.equal(layer.weight, twin.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_normalisation_forgets_its_statistics():
    layer = nn.BatchNorm2d(4)
    layer.running_mean += 3
    with torch.no_grad():
        layer.weight.mul_(2)
    assert reinitialise(layer, seed=0)
    assert not layer.running_mean.any()
    assert torch.equal(layer.weight, torch.ones(4))


class Scale(nn.Module):
    """Parameters, and no initialiser."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(3 + 0.1 * torch.randn(1000))
        self.still = nn.Parameter(torch.full((4,), 2.0))

    def forward(self, x):
        return x * self.scale[: x.shape[-1]]


def test_without_an_initialiser_mean_and_spread_are_kept():
    module = Scale()
    before = module.scale.clone()
    assert not reinitialise(module, seed=0)
    assert float(module.scale.detach().mean()) == pytest.approx(3.0, abs=0.02)
    assert float(module.scale.detach().std()) == pytest.approx(0.1, abs=0.01)
    assert not torch.equal(module.scale, before)
    assert torch.equal(module.still, torch.full((4,), 2.0)), "a constant has no spread to draw from"


def test_layers_without_an_initialiser_are_named():
    net = nn.Sequential(nn.Flatten(), Scale(), nn.Linear(192, 3)).double()
    model = Model(net, images(8), name="scaled")
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    check = parameter_randomization(model, x, "gradient").checks["initialiser"]
    assert "1 of 2 layers" in check
    assert "(1)" in check


def test_the_users_model_is_never_touched():
    model = tiny_model("residual")
    before, hooks = weights_of(model), [len(m._forward_hooks) for m in model.module.modules()]
    model.module.train()
    parameter_randomization(model, inputs_for(model, 1), "gradient")
    assert model.module.training
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())
    assert hooks == [len(m._forward_hooks) for m in model.module.modules()]
    assert all(p.requires_grad for p in model.module.parameters())


def test_a_stage_without_a_map_is_a_gap_and_is_said():
    model = tiny_model("conv")
    calls = []

    def fails_once(model, x, target):
        calls.append(1)
        if len(calls) == 3:
            raise NotPossible("no map here.")
        return model.gradient(x, target).slope

    found = parameter_randomization(model, inputs_for(model, 1), fails_once, stages=4)
    assert math.isnan(float(found.y["rank correlation"][2]))
    assert "no map here" in found.checks["refused"]
    assert math.isfinite(found.summary["rank correlation"])


def test_a_constant_map_has_no_similarity():
    model = tiny_model("conv")
    found = parameter_randomization(model, inputs_for(model, 1), lambda model, x, target: torch.ones_like(x))
    assert found.checks["verdict"].status == "note"
    assert found.y["rank correlation of sizes"].isnan().all()


def test_a_map_made_by_hand_cannot_be_made_again():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    with pytest.raises(NotPossible, match="or a function of"):
        parameter_randomization(model, x, made(x))


def test_a_users_function_may_give_an_attribution():
    model = tiny_model("conv")
    x = inputs_for(model, 2)

    def explain(model, x, target):
        return Attribution(values=model.gradient(x, target).slope, target=str(target))

    own = parameter_randomization(model, x, explain, target=1)
    ours = parameter_randomization(model, x, "gradient", target=1)
    for name, y in ours.y.items():
        assert_close(own.y[name], y)


def test_a_users_function_that_gives_something_else_is_refused():
    model = tiny_model("conv")
    with pytest.raises(BadShape, match="a row for each of 2 inputs; got shape"):
        parameter_randomization(model, inputs_for(model, 2), lambda model, x, target: torch.ones(1, 3))
    with pytest.raises(BadShape, match="got NoneType"):
        parameter_randomization(model, inputs_for(model, 2), lambda model, x, target: None)


NAMES = ("mlp", "weight_norm", "spectral_norm", "tied", "attention", "encoder", "lstm", "text")


@pytest.mark.parametrize("name", NAMES)
def test_all_kinds_of_networks(name):
    model = tiny_model(name)
    # Slopes of words are ranked by their size, and a few words can keep their ranks by chance.
    how = "input_x_gradient" if model.space.kind == "tokens" else "gradient"
    found = parameter_randomization(model, inputs_for(model, 2), how, target=1, stages=3)
    agreed = torch.stack(list(found.y.values()))
    assert torch.isfinite(agreed).all()
    assert (agreed[:, 1:] < 1).all(), "something changed at every stage"
    assert ("SSIM" in found.y) == (model.space.kind == "image")


def test_a_network_without_weights_is_refused():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    model = Model(Mean(), images(8))
    with pytest.raises(NotPossible, match="no weights"):
        parameter_randomization(model, torch.rand(1, 3, 8, 8), "gradient")
    with pytest.raises(BadOption, match="at least 1 stage"):
        parameter_randomization(tiny_model("conv"), inputs_for(tiny_model("conv"), 1), "gradient", stages=0)


def test_similarities_of_known_maps():
    a = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    same, turned = similarities(a, a, signed=True), similarities(a, -a, signed=True)
    assert all(torch.allclose(v, torch.ones(2, dtype=torch.float64)) for v in same.values())
    assert_close(turned["rank correlation"], -torch.ones(2, dtype=torch.float64))
    assert_close(turned["rank correlation of sizes"], torch.ones(2, dtype=torch.float64))
    assert_close(similarities(a, 3 * a, signed=False)["SSIM"], torch.ones(2, dtype=torch.float64))
    assert set(same) == {"rank correlation", "rank correlation of sizes", "SSIM", "HOG correlation"}
    assert set(similarities(a[:, :8, :8], a[:, :8, :8], signed=False)) == {"rank correlation of sizes", "SSIM"}
    assert hog(a).shape[0] == 2


def test_rank_correlations_are_those_of_scipy_with_and_without_sign():
    from scipy.stats import spearmanr

    a, b = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    b = (a + b).round(decimals=1)  # with ties
    found = similarities(a, b, signed=True)
    for i, (p, q) in enumerate(zip(a.flatten(1).numpy(), b.flatten(1).numpy(), strict=True)):
        assert float(found["rank correlation"][i]) == pytest.approx(spearmanr(p, q).statistic)
        assert float(found["rank correlation of sizes"][i]) == pytest.approx(spearmanr(abs(p), abs(q)).statistic)
    assert "rank correlation" not in similarities(a, b, signed=False)


@pytest.mark.parametrize("shape", [(16, 16), (50, 41)])
def test_histograms_of_gradients_are_those_of_scikit_image(shape):
    from skimage.feature import hog as histograms

    maps = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps[1, :9] = 0
    maps[2] = maps[2].round()
    expected = [histograms((m / m.abs().max()).numpy(), pixels_per_cell=(8, 8), cells_per_block=(1, 1)) for m in maps]
    assert_close(hog(maps), torch.stack([torch.from_numpy(one).double() for one in expected]), atol=1e-6, rtol=0)


def test_ssim_matches_its_formula_in_one_window():
    """Reference: the formula of Wang et al. 2004 for one uniform window."""
    a, b = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b = a / a.max(), b / b.max()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    p, q = a.flatten(), b.flatten()
    cov = ((p - p.mean()) * (q - q.mean())).sum() / (len(p) - 1)
    means = (2 * p.mean() * q.mean() + c1) / (p.mean() ** 2 + q.mean() ** 2 + c1)
    expected = float(means * (2 * cov + c2) / (p.var() + q.var() + c2))
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(40, 33), (12, 7), (3, 5)])
def test_ssim_is_that_of_scikit_image(shape):
    from skimage.metrics import structural_similarity

    a, b = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    a[1], b[2] = a[1] * (a[1] > 2), 0  # nearly and entirely empty
    window = min(11, *shape) - 1 + min(11, *shape) % 2
    more = {"gaussian_weights": True, "sigma": 1.5} if window == 11 else {}
    a_scaled, b_scaled = (m / m.abs().amax((1, 2), keepdim=True).clamp(min=1e-30) for m in (a, b))
    expected = [
        structural_similarity(p.numpy(), q.numpy(), data_range=2.0, win_size=window, **more)
        for p, q in zip(a_scaled, b_scaled, strict=True)
    ]
    assert_close(similarities(a, b, signed=False)["SSIM"], torch.tensor(expected, dtype=torch.float64))


def test_overlap_counts_the_highest():
    chance = torch.Generator().manual_seed(0)
    a = torch.arange(10.0, dtype=torch.float64)[None]
    assert overlap(a, a, share=0.3, generator=chance).tolist() == [1.0]
    assert overlap(a, -a, share=0.3, generator=chance).tolist() == [0.0]
    assert overlap(a, a.roll(1), share=0.3, generator=chance).tolist() == [pytest.approx(2 / 3)]
    flat = torch.zeros(1, 1000, dtype=torch.float64)
    assert float(overlap(flat, flat, share=0.1, generator=chance)) < 0.3, (
        "a constant map has no highest entries to keep"
    )
