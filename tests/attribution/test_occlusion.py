"""Occlusion: one piece away at a time, against an explicit loop, known answers and captum."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from cutaway.attribution.occlusion import occlusion
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.fill import Fill, neutral
from cutaway.core.model import Model
from cutaway.core.progress import Progress, reporting
from cutaway.core.space import images, rows
from cutaway.core.target import logit, prob
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.nets import seeded


def slow(model, x, target, window, stride, gone):
    """Reference: cover one window after the other, and average the falls over the windows of each pixel."""
    total, count = torch.zeros_like(x[:1, :1]), torch.zeros_like(x[:1, :1])
    whole = target(model.run(x))
    height, width = x.shape[2:]
    for top in sorted({*range(0, height - window + 1, stride), height - window}):
        for left in sorted({*range(0, width - window + 1, stride), width - window}):
            covered = x.clone()
            covered[:, :, top : top + window, left : left + window] = gone[
                :, :, top : top + window, left : left + window
            ]
            total[:, :, top : top + window, left : left + window] += whole - target(model.run(covered))
            count[:, :, top : top + window, left : left + window] += 1
    return total / count


class Sum(nn.Module):
    """The weighted sum of all entries."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight).flatten(1).sum(1, keepdim=True)


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conv", "residual", "concatenation", "gap_linear", "encoder", "attention", "lstm"])
@pytest.mark.parametrize(("window", "stride"), [(4, 4), (5, 3), (1, 1), (3, 2)])
def test_equals_covering_one_window_after_the_other(name, window, stride):
    model = tiny_model(name)
    x = inputs_for(model, 1)
    found = occlusion(model, x, 1, window=window, stride=stride, fill="zero")
    expected = slow(model, x, logit(1), window, stride, torch.zeros_like(x))
    assert_close(found.values, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("fill", ["neutral", "mean", "constant:0.2", "blur:2", "noise", "farthest"])
def test_what_stands_in_the_window_is_the_fill(fill):
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    gone = Fill.of(fill)(x, model.space, torch.Generator().manual_seed(3))
    found = occlusion(model, x, 1, window=4, stride=2, fill=fill, seed=3)
    assert_close(found.values, slow(model, x, logit(1), 4, 2, gone), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_window_as_large_as_the_image_gives_the_whole_change_exactly(dtype):
    model = tiny_model("conv", dtype)
    x = inputs_for(model, 1)
    black = torch.zeros_like(x)
    found = occlusion(model, x, 2, window=16, fill="zero").values
    with model.borrow():
        assert model.fingerprint  # known, as in a method: so the passes are the same to the last bit
        change = model.run(x).output - model.run(black).output
    assert found.unique().tolist() == change[:, 2].tolist()


def test_a_sum_of_pixels_gives_the_mean_over_windows_of_what_they_hide():
    weight = torch.zeros(1, 6, 6, dtype=torch.float64)
    weight[0, 1, 2] = 3.0
    model = Model(Sum(weight), images(6, channels=1))
    x = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64)
    tiles = occlusion(model, x, 0, window=3, stride=3, fill="zero").values[0, 0]
    assert tiles[:3, :3].unique().tolist() == [1.5]
    assert tiles[3:].unique().tolist() == [0.0]
    overlapping = occlusion(model, x, 0, window=2, stride=1, fill="zero").values[0, 0]
    # Pixel (0, 3) lies in two windows, columns 2-3 and 3-4 of rows 0-1; the first of them hides the weight.
    assert float(overlapping[0, 3]) == pytest.approx(0.75)


def test_the_last_windows_end_at_the_border():
    model = Model(Sum(torch.eye(7, dtype=torch.float64)[6].view(1, 1, 7)), images((7, 7), channels=1))
    x = torch.ones(1, 1, 7, 7, dtype=torch.float64)
    values = occlusion(model, x, 0, window=3, stride=3, fill="zero").values[0, 0]
    assert (values[:, 6] > 0).all()
    assert values[:, :4].abs().max() == 0


def test_a_target_at_a_layer_is_explained_in_whole_images():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    found = occlusion(model, x, 'unit("conv2:1")', window=4, stride=4, fill="zero")
    target = found.target
    assert target == 'unit("conv2:1")'
    whole = model.run(x, read=["conv2"])["conv2:1"].mean()
    covered = x.clone()
    covered[:, :, :4, :4] = 0
    fall = whole - model.run(covered, read=["conv2"])["conv2:1"].mean()
    assert_close(found.values[0, 0, 0, 0], fall, atol=1e-12, rtol=0)


def test_each_input_has_its_own_target_and_is_explained_as_if_alone():
    model = tiny_model("residual")
    x = inputs_for(model, 3)
    together = occlusion(model, x, [2, 0, 1], window=4)
    for i, target in enumerate([2, 0, 1]):
        alone = occlusion(model, x[i : i + 1], target, window=4)
        assert_close(together.values[i], alone.values[0], atol=1e-12, rtol=0)
        assert_close(together.score[i], alone.score[0])


def test_defaults_are_sevenths_that_overlap_by_half():
    model = tiny_model("conv")
    found = occlusion(model, inputs_for(model, 1), 1)
    assert found.values.shape == (1, 1, 16, 16)
    assert "64 windows of 3 × 3 pixels" in found.checks["pieces"]
    assert found.unit == "target"


def test_images_need_not_be_square():
    model = Model(Sum(torch.ones(1, 5, 9, dtype=torch.float64)), images((5, 9), channels=1))
    x = torch.ones(1, 1, 5, 9, dtype=torch.float64)
    values = occlusion(model, x, 0, window=5, stride=4, fill="zero").values
    assert_close(values, torch.full_like(x, 25.0))


def test_an_image_that_is_the_fill_already_is_said_to_be_idle():
    model = tiny_model("conv")
    found = occlusion(model, torch.full((1, 3, 16, 16), 0.4, dtype=torch.float64), 1, fill="constant:0.4")
    assert found.values.abs().max() < 1e-15
    assert found.checks["idle"].status == "warn"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "a window of 1 pixel or more"),
        ({"window": 17}, "at most 16 pixels, the image's shorter side; got 17"),
        ({"window": 4, "stride": 5}, "a stride from 1 to the window's 4 pixels"),
        ({"window": 4, "stride": 0}, "a stride from 1 to the window's 4 pixels"),
        ({"parts": 0}, "1 part or more"),
    ],
)
def test_windows_that_do_not_fit_are_refused(options, message):
    model = tiny_model("conv")
    with pytest.raises(BadOption, match=message):
        occlusion(model, inputs_for(model, 1), 1, **options)


def test_a_fill_outside_the_space_is_refused():
    model = tiny_model("conv")
    with pytest.raises(BadShape, match="inside the input.s bounds 0 to 1; got 3 to 3"):
        occlusion(model, inputs_for(model, 1), 1, fill="constant:3")


def test_progress_is_told_for_each_part():
    seen: list[Progress] = []
    model = tiny_model("conv")
    with reporting(seen.append):
        occlusion(model, inputs_for(model, 2), 1, window=2, stride=1)
    assert seen[0].done == 0
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == 450


def test_more_windows_than_the_limit_allows_are_refused():
    model = tiny_model("conv")
    with limits(forwards=400), pytest.raises(NotPossible, match="225 windows of 2 × 2 pixels would take about 454"):
        occlusion(model, inputs_for(model, 2), 1, window=2, stride=1)
    with limits(forwards=500):
        occlusion(model, inputs_for(model, 2), 1, window=2, stride=1)


# -- columns, tokens, units --------------------------------------------------------------------------------------------


def test_a_linear_model_gives_weight_times_distance_from_the_fill():
    net = nn.Linear(3, 1, bias=True).double()
    net.weight.data = torch.tensor([[2.0, -1.0, 0.0]], dtype=torch.float64)
    model = Model(net, rows(["age", "height", "idle"]))
    x = torch.tensor([[3.0, 5.0, 7.0]], dtype=torch.float64)
    assert_close(occlusion(model, x, 0).values.tolist(), [[6.0, -5.0, 0.0]])
    assert_close(occlusion(model, x, 0, fill="constant:1").values.tolist(), [[4.0, -4.0, 0.0]])
    assert "3 columns" in occlusion(model, x, 0).checks["pieces"]


def test_a_token_is_taken_away_at_its_embedding_and_padding_counts_nothing():
    model = tiny_model("text")
    texts = ["the film was very good", "dull plot"]
    found = occlusion(model, texts, "good")
    assert found.values.shape == (2, len(found.tokens[0]))
    alone = occlusion(model, texts[1:], "good")
    short = alone.values.shape[1]
    assert_close(found.values[1, :short], alone.values[0], atol=1e-10, rtol=0)
    assert not found.values[1, short:].any()

    embedded = model.run(texts[1:], read=["input"])["input"]
    embedded[0, 1] = 0
    fall = model.run(texts[1:]).output - model.run(texts[1:], edit={"input": embedded}).output
    assert float(alone.values[0, 1]) == pytest.approx(float(fall[0, 2]))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("conv", "conv1"),
        ("conv", "relu2"),
        ("residual", "stem"),
        ("encoder", "layer"),
        ("lstm", "rnn/0"),
        ("mlp", "first"),
    ],
)
def test_units_of_a_layer_equal_one_edit_after_the_other(name, place):
    model = tiny_model(name)
    x = inputs_for(model, 2)
    found = occlusion(model, x, 1, wrt=place)
    act = model.run(x, read=[place])[place]
    assert found.values.shape == act.shape
    axis = 2 if act.ndim == 3 else 1
    whole = model.run(x).output[:, 1]
    for unit in range(act.shape[axis]):
        fall = whole - model.run(x, edit={f"{place}:{unit}": 0.0}).output[:, 1]
        at = found.values.select(axis, unit).reshape(2, -1)
        assert_close(at, fall[:, None].expand_as(at), atol=1e-10, rtol=1e-10)


def test_one_unit_can_be_named():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    found = occlusion(model, x, 1, wrt="conv1:2")
    assert_close(found.values, occlusion(model, x, 1, wrt="conv1").values[:, 2])
    assert found.wrt == "conv1:2"


def test_a_unit_can_be_held_at_its_mean():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    mean = model.run(x, read=["conv1"])["conv1:1"].mean()
    fall = model.run(x).output - model.run(x, edit={"conv1:1": mean}).output
    found = occlusion(model, x, 2, wrt="conv1:1", fill="mean")
    assert_close(found.values, fall[:, 2].view(1, 1, 1).expand_as(found.values), atol=1e-10, rtol=0)


@pytest.mark.parametrize("fill", ["noise", "farthest", "gaussian:0.1"])
def test_fills_that_ask_for_bounds_are_refused_at_a_layer(fill):
    model = tiny_model("conv")
    with pytest.raises(BadOption, match="fits an activation"):
        occlusion(model, inputs_for(model, 1), 1, wrt="conv1", fill=fill)


def test_a_single_position_of_a_layer_is_refused():
    model = tiny_model("conv")
    with pytest.raises(BadOption, match="one unit of it such as conv3:12"):
        occlusion(model, inputs_for(model, 1), 1, wrt="conv1:2@3,4")


class Rows(TorchFunctionMode):
    """Counts the rows that really pass through each kind of operation."""

    def __init__(self) -> None:
        super().__init__()
        self.count = {"conv2d": 0, "linear": 0}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func.__name__ in self.count:
            self.count[func.__name__] += len(args[0])
        return func(*args, **(kwargs or {}))


def test_only_what_comes_after_the_layer_is_run_for_each_unit():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    model.is_steady(x)
    units = model.run(x, read=["relu2"])["relu2"].shape[1]
    with Rows() as rows_run:
        occlusion(model, x, 1, wrt="relu2")
    assert rows_run.count["linear"] >= units
    # One forward each for the recording, the reading of the layer, and the first look whether the recording holds.
    assert rows_run.count["conv2d"] <= 2 * 3


# -- against captum, and on the real network ---------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize(("window", "stride"), [(4, 4), (4, 2), (8, 4)])
def test_agrees_with_captum(window, stride):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    net = nn.Sequential(_Normalised(model), model.module)
    theirs = attr.Occlusion(net).attribute(
        x, target=1, sliding_window_shapes=(3, window, window), strides=(3, stride, stride), baselines=0.0
    )
    ours = occlusion(model, x, 1, window=window, stride=stride, fill="zero").values
    # captum adds up in single precision.
    assert_close(ours.to(theirs).expand_as(theirs), theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.peers
def test_agrees_with_captums_feature_ablation():
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model = tiny_model("mlp")
    x = inputs_for(model, 4)
    theirs = attr.FeatureAblation(model.module).attribute(x, target=2)
    assert_close(occlusion(model, x, 2).values.to(theirs), theirs, atol=1e-6, rtol=1e-6)

    model = tiny_model("residual")
    x = inputs_for(model, 1)
    line = torch.arange(16) // 4
    net = nn.Sequential(_Normalised(model), model.module)
    theirs = attr.FeatureAblation(net).attribute(x, target=0, feature_mask=(line[:, None] * 4 + line)[None, None])
    ours = occlusion(model, x, 0, window=4, stride=4, fill="zero").values
    # captum adds up in single precision.
    assert_close(ours.to(theirs).expand_as(theirs), theirs, atol=1e-6, rtol=1e-6)


class _Normalised(nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.space = model.space

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.space.normalised(x)


@pytest.mark.slow
def test_the_real_network_gives_the_same_from_boxes_as_from_whole_images():
    import cutaway as ct

    model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x
    found = occlusion(model, x, 281, window=56, stride=56)
    gone = neutral()(x, model.space)
    covered = x.repeat(16, 1, 1, 1)
    for k in range(16):
        y, x0 = 56 * (k // 4), 56 * (k % 4)
        covered[k, :, y : y + 56, x0 : x0 + 56] = gone[0, :, y : y + 56, x0 : x0 + 56]
    falls = model.run(x).output[:, 281] - model.run(covered).output[:, 281]
    assert_close(found.values[0, 0, ::56, ::56].flatten(), falls, atol=1e-4, rtol=1e-4)
    middle, edge = found.values[0, 0, 56:168, 56:168].mean(), found.values[0, 0, :, 168:].mean()
    assert middle > edge  # the cat's face, and the blanket behind it


@pytest.mark.slow
def test_probabilities_can_be_occluded_too():
    import cutaway as ct

    model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x
    found = occlusion(model, x, prob(281), parts=2)
    assert found.values.abs().max() <= 1


def test_equivalent_networks_have_the_same_map():
    conv = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)))
    other = nn.Sequential(conv[0], nn.Threshold(0.0, 0.0), nn.Flatten(), conv[3])
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    maps = [occlusion(Model(net, images(8)), x, 1, window=2).values for net in (conv, other)]
    assert_close(maps[0], maps[1], atol=1e-12, rtol=0)
