"""CAM, Grad-CAM++, LayerCAM, Score-CAM and guided Grad-CAM: equations by hand, planted truth, and peers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.cam import grad_cam, grad_cam_plus_plus, guided_grad_cam, layer_cam
from cutaway.attribution.cam_linear import cam
from cutaway.attribution.cam_score import score_cam
from cutaway.attribution.rules import guided_backprop
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.model import Model
from cutaway.core.progress import Progress, reporting
from cutaway.core.space import images
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model


def peer(name):
    pytest.importorskip("pytorch_grad_cam", reason="grad-cam is in requirements-peers.txt")
    import pytorch_grad_cam

    return getattr(pytorch_grad_cam, name)


def slopes(model, x, layer, target=1):
    _, act, slope = model.gradient(x, target, wrt=layer)
    return act, slope


class Tokens(nn.Module):
    """Patches, and the mean of their normalised embeddings."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


class Sequence(nn.Module):
    """Ends in one of several ways after a convolution."""

    def __init__(self, end):
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 6, 3, padding=1), end

    def forward(self, x):
        return self.end(self.conv(x))


def ending(*layers):
    return Model(nets.seeded(lambda: Sequence(nn.Sequential(*layers))), images(16))


# -- CAM ---------------------------------------------------------------------------------------------------------------


def test_cam_is_the_weight_of_each_channel_times_the_channel():
    """Reference: equation 2 of the paper, from the weights of the linear layer."""
    model = tiny_model("gap_linear")
    x = inputs_for(model)
    act = torch.relu(model.run(x, read=["conv"])["conv"])
    fc = model.module.fc
    slow = torch.zeros(3, 16, 16, dtype=x.dtype)
    for channel in range(5):
        slow += fc.weight[2, channel].detach() * act[:, channel]
    found = cam(model, x, 2)
    assert_close(found.extra["grid"], slow, atol=1e-12, rtol=0)
    assert_close(found.extra["bias"], fc.bias[2].detach().expand(3), atol=1e-12, rtol=0)


@pytest.mark.parametrize("target", [1, "logit(0) - logit(2)", [0, 2, 1], "0.5 * logit(1) + 3"])
@pytest.mark.parametrize("name", ["gap_linear", "residual"])
def test_the_mean_of_the_map_and_the_bias_are_the_score(name, target):
    model = tiny_model(name, batch_size=2)
    found = cam(model, inputs_for(model), target)
    assert_close(found.extra["grid"].mean((1, 2)) + found.extra["bias"], found.score, atol=1e-12, rtol=0)
    assert found.signed
    assert found.checks["sum"].status == "ok"


@pytest.mark.parametrize(
    "end",
    [
        (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(6, 3)),
        (nn.ReLU(), nn.AvgPool2d(16), nn.Conv2d(6, 3, 1), nn.Flatten()),
        (nn.Conv2d(6, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
    ids=["pool and linear", "pool and 1 x 1 convolution", "one channel for each class"],
)
def test_every_spelling_of_the_end_is_recognised(end):
    model = ending(*end)
    x = inputs_for(model, 2)
    found = cam(model, x, 1)
    assert_close(found.extra["grid"].mean((1, 2)) + found.extra["bias"], found.score, atol=1e-12, rtol=0)


def test_cam_takes_tokens_that_are_averaged():
    model = Model(nets.seeded(Tokens), images(16))
    x = inputs_for(model, 2)
    found = cam(model, x, 1)
    tokens = model.run(x, read=["norm"])["norm"]
    slow = (tokens @ model.module.head.weight[1].detach()).view(2, 4, 4)
    assert_close(found.extra["grid"], slow, atol=1e-12, rtol=0)


def test_cam_without_its_negative_part_is_grad_cam_up_to_the_number_of_positions():
    model = tiny_model("residual")
    x = inputs_for(model)
    assert_close(cam(model, x, 1).extra["grid"].clamp(min=0) / 256, grad_cam(model, x, 1).extra["grid"])


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ((nn.ReLU(), nn.Flatten(), nn.Linear(6 * 256, 3)), "it takes no mean"),
        ((nn.AvgPool2d(4), nn.Flatten(), nn.Linear(6 * 16, 3)), "mean over all positions"),
        ((nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), "linear, relu, linear"),
        ((nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3), nn.Softmax(1)), "linear, softmax"),
    ],
    ids=["flattened", "a mean of parts", "two layers", "softmax"],
)
def test_cam_refuses_other_ends_and_names_grad_cam(end, words):
    model = ending(*end)
    with pytest.raises(NotPossible, match=words) as error:
        cam(model, inputs_for(model, 1), 1)
    assert "Use grad_cam" in str(error.value)


@pytest.mark.parametrize("target", ["prob(1)", "logprob(1)", "logit(0) * logit(1)"])
def test_cam_refuses_a_score_that_is_not_linear(target):
    model = tiny_model("gap_linear")
    with pytest.raises(NotPossible, match="linear in the logits"):
        cam(model, inputs_for(model, 2), target)


# -- Grad-CAM++, LayerCAM, guided Grad-CAM -----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["relu1", "relu2"])
def test_grad_cam_plus_plus_is_equations_7_and_19(layer):
    """Reference: with alpha as the paper writes it, for the class score exp(target)."""
    model = tiny_model("conv")
    x = inputs_for(model)
    act, slope = slopes(model, x, layer)
    slow = torch.zeros(len(x), *act.shape[2:], dtype=x.dtype)
    for i in range(len(x)):
        for a, g in zip(act[i], slope[i], strict=True):
            alpha = torch.where(g != 0, g**2 / (2 * g**2 + a.sum() * g**3), 0)
            slow[i] += (alpha * g.clamp(min=0)).sum() * a
    found = grad_cam_plus_plus(model, x, 1, layer=layer)
    assert_close(found.extra["grid"], slow.clamp(min=0), atol=1e-12, rtol=0)


def test_grad_cam_plus_plus_says_where_its_weights_are_not_defined():
    model = ending(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 3))
    with torch.no_grad():
        model.module.conv.bias -= 40
    found = grad_cam_plus_plus(model, inputs_for(model, 1), 1, layer="conv")
    assert found.checks["negative"].status == "warn"
    assert "negative" not in grad_cam_plus_plus(tiny_model("conv"), inputs_for(model, 1), 1).checks


def test_layer_cam_weighs_each_position():
    model = tiny_model("conv")
    x = inputs_for(model)
    act, slope = slopes(model, x, "relu1")
    slow = sum(slope[:, c].clamp(min=0) * act[:, c] for c in range(4)).clamp(min=0)
    assert_close(layer_cam(model, x, 1, layer="relu1").extra["grid"], slow, atol=1e-13, rtol=0)


@pytest.mark.parametrize("explain", [grad_cam, grad_cam_plus_plus, layer_cam, score_cam])
def test_tokens_are_a_grid_for_each_of_them(explain):
    model = Model(nets.seeded(Tokens), images(16))
    found = explain(model, inputs_for(model, 2), 1, layer="norm", relu=False)
    assert found.extra["grid"].shape == (2, 4, 4)
    assert "4 x 4 patches" in found.checks["tokens"]


def test_guided_grad_cam_is_the_product_of_both():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    found = guided_grad_cam(model, x, 1, layer="conv2")
    expected = guided_backprop(model, x, 1).values * grad_cam(model, x, 1, layer="conv2").values
    assert torch.equal(found.values, expected)
    assert {"layer", "rectifiers", "lines"} <= set(found.checks)


# -- Score-CAM ---------------------------------------------------------------------------------------------------------


def slow_score_cam(model, x, layer, target):
    """Reference: algorithm 1 of the paper for one image, channel by channel."""
    act = model.run(x, read=[layer])[layer][0]
    hidden = torch.tensor(model.space.mean, dtype=x.dtype).view(1, -1, 1, 1).expand_as(x)
    scores = []
    for channel in act:
        wide = F.interpolate(channel[None, None], x.shape[2:], mode="bilinear", align_corners=False)[0, 0]
        spread = wide.max() - wide.min()
        mask = (wide - wide.min()) / spread if spread > 0 else torch.zeros_like(wide)
        seen = hidden + mask * (x - hidden)
        scores.append(model.run(seen).output[0, target] - model.run(hidden).output[0, target])
    weights = torch.stack(scores).softmax(0)
    return sum(w * channel for w, channel in zip(weights, act, strict=True)).clamp(min=0), weights


@pytest.mark.parametrize("layer", ["conv1", "relu1", "relu2"])
def test_score_cam_is_algorithm_1(layer):
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    grid, weights = slow_score_cam(model, x, layer, 1)
    found = score_cam(model, x, 1, layer=layer)
    assert_close(found.extra["grid"][0], grid, atol=1e-12, rtol=0)
    assert_close(found.extra["weights"][0], weights, atol=1e-12, rtol=0)


def test_channels_that_are_the_same_everywhere_share_a_forward():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    with torch.no_grad():
        model.module.bn1.bias[1:3] = -100
    grid, weights = slow_score_cam(model, x, "relu1", 1)
    found = score_cam(model, x, 1, layer="relu1")
    assert_close(found.extra["weights"][0], weights, atol=1e-12, rtol=0)
    assert_close(found.extra["grid"][0], grid, atol=1e-12, rtol=0)
    whole = score_cam(model, x, 1, layer="conv1").provenance.cost.forwards
    assert found.provenance.cost.forwards == whole - 1


def test_several_targets_share_the_forwards():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    one, three = score_cam(model, x, 1), score_cam(model, x, [0, 1, 2])
    assert three.provenance.cost.forwards <= one.provenance.cost.forwards + 6
    assert_close(three.values[1], one.values[0], atol=1e-12, rtol=0)


def test_fewer_channels_are_those_with_most_activation_and_the_rest_is_said():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    found = score_cam(model, x, 1, most=2)
    size = model.run(x, read=["relu2"])["relu2"][0].flatten(1).sum(1)
    kept = size.topk(2).indices.sort().values
    assert found.extra["weights"][0].nonzero()[:, 0].tolist() == kept.tolist()
    left_out = 1 - float(size[kept].sum() / size.sum())
    assert found.checks["channels"].value == pytest.approx(left_out)
    assert found.checks["channels"].status == "warn"
    assert torch.equal(score_cam(model, x, 1, most=99).values, score_cam(model, x, 1).values)


def test_weights_that_one_channel_has_alone_are_warned_about():
    model = ending(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    with torch.no_grad():
        model.module.end[3].weight *= 10_000
    assert score_cam(model, inputs_for(model, 1), 1).checks["weights"].status == "warn"


def test_score_cam_tells_its_progress_and_refuses_no_channels():
    model = tiny_model("conv")
    seen: list[Progress] = []
    with reporting(seen.append):
        score_cam(model, inputs_for(model, 1), 1)
    assert seen[-1].done == seen[-1].total
    with pytest.raises(BadOption, match="1 channel or more"):
        score_cam(model, inputs_for(model, 1), 1, most=0)
    with limits(forwards=3), pytest.raises(NotPossible, match="score_cam of . channels would take"):
        score_cam(model, inputs_for(model, 1), 1)


# -- planted truth -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes():
    model, data = ct.load("shapes-cnn"), ct.data("shapes/test[0:48]")
    right = model.predict(data.x).argmax(1) == data.labels
    return model, data.x[right], data.labels[right].tolist(), data.masks[right]


@pytest.mark.parametrize("explain", [cam, grad_cam, grad_cam_plus_plus, layer_cam, score_cam, guided_grad_cam])
def test_the_shape_is_found(explain, shapes):
    """The largest value lies in the shape, grown by half a cell of the map; by chance it would in 3 of 10 pictures."""
    model, x, labels, masks = shapes
    x, labels, masks = (x[:16], labels[:16], masks[:16]) if explain is score_cam else (x, labels, masks)
    values = explain(model, x, labels).values.abs().sum(1)
    grown = F.max_pool2d(masks[:, None].float(), 9, stride=1, padding=4)[:, 0]
    inside = grown.flatten(1).gather(1, values.flatten(1).argmax(1, keepdim=True)).mean()
    assert inside >= 0.95


# -- peers -------------------------------------------------------------------------------------------------------------


def like_peer(grid, x):
    """The map as pytorch-grad-cam hands it over: scaled to [0, 1], enlarged, scaled again."""
    for _ in range(2):
        grid = grid - grid.amin((1, 2), keepdim=True)
        grid = grid / (1e-7 + grid.amax((1, 2), keepdim=True))
        if grid.shape[1:] != x.shape[2:]:
            grid = F.interpolate(grid[:, None], x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return grid.numpy()


def theirs(name, model, x, layer, target=1):
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net = model.module
    with peer(name)(model=net, target_layers=[net.get_submodule(layer)]) as explain:
        return explain(model.space.normalised(x), targets=[ClassifierOutputTarget(target)] * len(x))


@pytest.mark.peers
@pytest.mark.parametrize("layer", ["relu1", "bn1", "relu2"])
@pytest.mark.parametrize(("name", "ours"), [("GradCAM", grad_cam), ("LayerCAM", layer_cam)])
def test_agrees_with_pytorch_grad_cam(name, ours, layer):
    model = tiny_model("conv", torch.float32)
    x = inputs_for(model)
    found = like_peer(ours(model, x, 1, layer=layer).extra["grid"], x)
    assert_close(theirs(name, model, x, layer), found, atol=2e-5, rtol=0)


@pytest.mark.peers
def test_pytorch_grad_cam_sees_what_a_rectifier_in_place_left_of_a_layer():
    """It keeps a reference to the activation, which the next layer overwrites; here that layer is read as it was."""
    model = tiny_model("conv", torch.float32)
    x = inputs_for(model)
    act, slope = slopes(model, x, "conv2")
    overwritten = (slope.mean((2, 3), keepdim=True) * act.relu()).sum(1).clamp(min=0)
    found = theirs("GradCAM", model, x, "conv2")
    assert_close(found, like_peer(overwritten, x), atol=2e-5, rtol=0)
    assert abs(found - like_peer(grad_cam(model, x, 1, layer="conv2").extra["grid"], x)).max() > 0.1


@pytest.mark.peers
def test_grad_cam_plus_plus_agrees_with_pytorch_grad_cam_where_slopes_are_large():
    """It adds 1e-6 to the denominator, of slopes squared: no matter for slopes of 1, all for slopes of 1e-3."""
    model = tiny_model("conv", torch.float32)
    x = inputs_for(model)
    with torch.no_grad():
        model.module.fc.weight *= 100
    found = like_peer(grad_cam_plus_plus(model, x, 1, layer="relu2").extra["grid"], x)
    assert_close(theirs("GradCAMPlusPlus", model, x, "relu2"), found, atol=1e-3, rtol=0)
    with torch.no_grad():
        model.module.fc.weight *= 1e-6
    ours = like_peer(grad_cam_plus_plus(model, x, 1, layer="relu2").extra["grid"], x)
    assert abs(theirs("GradCAMPlusPlus", model, x, "relu2") - ours).max() > 0.05


@pytest.mark.peers
def test_score_cam_agrees_with_pytorch_grad_cam_where_nothing_is_enlarged():
    """It enlarges channels from corner to corner (align_corners=True), which differs from the centre of a cell to that
    of the next; at the resolution of the input there is no difference."""
    model = tiny_model("conv", torch.float32)
    x = inputs_for(model)
    found = like_peer(score_cam(model, x, 1, layer="relu1").extra["grid"], x)
    assert_close(theirs("ScoreCAM", model, x, "relu1"), found, atol=2e-5, rtol=0)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_guided_grad_cam_agrees_with_captum(layer):
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = tiny_model("conv")
    x = inputs_for(model)

    class Normalised(nn.Module):
        """A network with its normalisation inside, so that captum differentiates by the same input."""

        def __init__(self):
            super().__init__()
            self.net = model.module

        def forward(self, x):
            return self.net(model.space.normalised(x))

    net = Normalised()
    explain = captum.GuidedGradCam(net, net.net.get_submodule(layer))
    found = explain.attribute(x.clone().requires_grad_(), target=1, interpolate_mode="bilinear").detach()
    assert_close(guided_grad_cam(model, x, 1, layer=layer).values, found, atol=1e-12, rtol=0)


def test_math_of_the_effective_number_of_channels():
    model = tiny_model("conv")
    found = score_cam(model, inputs_for(model, 1), 1)
    weights = found.extra["weights"][0]
    assert found.checks["weights"].value == pytest.approx(math.exp(-(weights * weights.log()).sum()))
