import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from cutaway.attribution.cam import grad_cam
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model


def by_hand(act, score, size=None):
    """Reference: equations 1 and 2 of the paper, channel by channel."""
    (slope,) = torch.autograd.grad(score.sum(), act)
    maps = []
    for a, g in zip(act.detach(), slope, strict=True):
        total = torch.zeros_like(a[0])
        for channel, channel_slope in zip(a, g, strict=True):
            total += channel_slope.sum() / channel_slope.numel() * channel
        maps.append(total.clamp(min=0))
    grid = torch.stack(maps)
    return grid if size is None else F.interpolate(grid[:, None], size, mode="bilinear", align_corners=False)


class Block(nn.Module):
    """A residual block whose rectifier comes after the sum and is used twice."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv2(self.relu(self.conv1(x)))
        y += x
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.layer4 = nn.Sequential(Block(4), Block(4))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.avgpool(self.layer4(self.conv1(x))).flatten(1))


class Vgg(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(24, 3))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class Vit(nn.Module):
    """Patches, two encoder blocks with the norm first, and a class token, or the mean of the patches."""

    def __init__(self, *, class_token=True):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8)) if class_token else None
        self.blocks = nn.ModuleList([VitBlock(), VitBlock()])
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        h = self.embed(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            h = torch.cat([self.token.expand(len(h), -1, -1), h], dim=1)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        return self.head(h[:, 0] if self.token is not None else h.mean(1))


class VitBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def model_of(build, size=16):
    return Model(nets.seeded(build), images(size))


def test_matches_the_equations_by_hand():
    model = tiny_model("conv")
    x = inputs_for(model)
    net = model.module
    h = net.pool(net.relu1(net.bn1(net.conv1(model.space.normalised(x))))).detach()
    act = net.conv2(h).requires_grad_()
    score = net.fc(F.avg_pool2d(F.relu(act), 2).flatten(1))[:, 1]
    result = grad_cam(model, x, 1, layer="conv2")
    slow = by_hand(act, score)
    assert_close(result.extra["grid"], slow, atol=1e-13, rtol=0)
    wide = F.interpolate(slow[:, None], (16, 16), mode="bilinear", align_corners=False)
    assert_close(result.values, wide, atol=1e-13, rtol=0)


def test_is_the_class_activation_map_of_a_network_that_ends_in_an_average():
    """Then the slope is w_k / positions everywhere, so the map is CAM, up to the ReLU and that factor."""
    model = tiny_model("gap_linear")
    x = inputs_for(model)
    act = torch.relu(model.run(x, read=["conv"])["conv"])
    cam = torch.einsum("k,nkhw->nhw", model.module.fc.weight[2].detach(), act) / 256

    class Rectified(nn.Module):
        def __init__(self, twin):
            super().__init__()
            self.conv, self.relu, self.fc = twin.conv, nn.ReLU(), twin.fc

        def forward(self, x):
            return self.fc(self.relu(self.conv(x)).mean((2, 3)))

    result = grad_cam(Model(Rectified(model.module), model.space), x, 2, relu=False)
    assert "made at relu" in result.checks["layer"]
    assert_close(result.extra["grid"], cam, atol=1e-13, rtol=0)
    assert_close(result.extra["grid"].sum((1, 2)) + model.module.fc.bias[2].detach(), result.score, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (ResNet, "layer4"),
        (Vgg, "features.3"),
        (nets.ConvNet, "relu2"),
        (nets.Residual, "act"),
        (lambda: Vit(class_token=True), "blocks.1.norm1"),
        (lambda: Vit(class_token=False), "norm"),
    ],
    ids=["resnet", "vgg", "conv", "residual", "vit", "vit with mean"],
)
def test_the_last_place_with_positions_is_chosen(build, layer):
    model = model_of(build)
    x = inputs_for(model, 2)
    chosen = grad_cam(model, x, 1)
    assert f"made at {layer} (chosen" in chosen.checks["layer"]
    assert torch.equal(chosen.values, grad_cam(model, x, 1, layer=layer).values)


def test_a_rectifier_that_runs_often_is_taken_at_its_last_call():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU6()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.act(self.conv2(self.act(self.conv1(x)))).mean((2, 3)))

    model = model_of(Shared)
    result = grad_cam(model, inputs_for(model, 1), 1)
    assert "made at act#1" in result.checks["layer"]
    assert result.extra["grid"].shape == (1, 12, 12)


@pytest.mark.parametrize("class_token", [True, False])
def test_tokens_are_laid_out_row_by_row(class_token):
    model = model_of(lambda: Vit(class_token=class_token))
    x = inputs_for(model, 2)
    result = grad_cam(model, x, 1, layer="blocks.1.norm1", relu=False)
    _, act, slope = model.gradient(x, 1, wrt="blocks.1.norm1")
    if class_token:
        act, slope = act[:, 1:], slope[:, 1:]
    slow = (act * slope.mean(1, keepdim=True)).sum(2).view(2, 4, 4)
    assert_close(result.extra["grid"], slow, atol=1e-13, rtol=0)
    assert ("class token" in result.checks["tokens"]) == class_token


def test_a_layer_after_the_last_attention_is_warned_about():
    model = model_of(Vit)
    result = grad_cam(model, inputs_for(model, 2), 1, layer="blocks.1")
    assert (result.values == 0).all()
    assert result.checks["slope"].status == "warn"
    assert "earlier layer" in result.checks["slope"]


def test_without_upsampling_the_map_stays_at_the_layer():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    small = grad_cam(model, x, 1, upsample=False)
    assert small.values.shape == (2, 1, 8, 8)
    assert small.wrt == "relu2"
    assert torch.equal(small.values[:, 0], small.extra["grid"])
    wide = grad_cam(model, x, 1)
    assert wide.values.shape == (2, 1, 16, 16)
    assert wide.wrt == "input"


def test_the_rectified_map_has_no_sign_and_the_other_has_both():
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    with_relu, without = grad_cam(model, x, 1, upsample=False), grad_cam(model, x, 1, relu=False, upsample=False)
    assert not with_relu.signed
    assert without.signed
    assert without.values.min() < 0
    assert torch.equal(with_relu.values, without.values.clamp(min=0))


def test_a_map_of_zeros_is_explained():
    model = tiny_model("gap_linear")
    x = inputs_for(model, 1)
    with torch.no_grad():
        model.module.conv.bias += 10
        model.module.fc.weight[0] = -1
    result = grad_cam(model, x, 0)
    assert (result.values == 0).all()
    assert "relu=False" in result.checks["empty"]


def test_the_choice_is_made_once_for_each_model():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    grad_cam(model, x, 1)
    assert grad_cam(model, x, 1).provenance.cost.forwards == 1


def test_the_backward_ends_at_the_layer():
    """What lies before the layer runs without a graph, so it may be anything."""

    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(F.relu(self.conv(torch.round(4 * x))).mean((2, 3)))

    model = model_of(Hard)
    assert grad_cam(model, inputs_for(model, 1), 1).values.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("mlp", {}, NotPossible, "works on images"),
        ("text", {}, NotPossible, "works on images"),
        ("conv", {"layer": "fc"}, BadShape, "layer with positions"),
        ("conv", {"layer": "conv2:3"}, BadOption, "whole layer"),
    ],
)
def test_what_has_no_map_is_refused(name, options, error, words):
    model = tiny_model(name)
    with pytest.raises(error, match=words):
        grad_cam(model, inputs_for(model, 1), 1, **options)


def test_a_network_without_positions_is_refused():
    model = model_of(lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 3)))
    with pytest.raises(NotPossible, match="no place with at least 2 x 2 positions"):
        grad_cam(model, inputs_for(model, 1), 1)


@pytest.mark.peers
@pytest.mark.parametrize("layer", ["conv1", "conv2", "relu1"])
def test_agrees_with_captum(layer):
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = tiny_model("conv")
    x = inputs_for(model)
    net = captum.LayerGradCam(model.module, model.module.get_submodule(layer))
    theirs = net.attribute(model.space.normalised(x), target=1, relu_attributions=True)
    assert_close(grad_cam(model, x, 1, layer=layer).extra["grid"], theirs[:, 0].detach(), atol=1e-13, rtol=0)


@pytest.mark.slow
def test_a_real_network_finds_the_cat():
    efficientnet = pytest.importorskip("cutaway.zoo.efficientnet")
    skimage = pytest.importorskip("skimage")
    photo = skimage.transform.resize(skimage.data.chelsea(), (224, 224), anti_aliasing=True)
    x = torch.from_numpy(photo).float().permute(2, 0, 1)[None]
    result = grad_cam(efficientnet.load(), x, 285)
    assert "7 x 7" in result.checks["layer"]
    face = result.values[0, 0, 60:190, 60:160]
    assert face.mean() > 1.3 * result.values.mean()
