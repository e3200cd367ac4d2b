import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.fill import Fill
from cutaway.core.model import Model
from cutaway.core.space import images, rows
from cutaway.core.target import Target
from cutaway.data import load as load_data
from cutaway.evaluation.fragility import centres, fragility_mass_center, fragility_targeted, fragility_top_k
from cutaway.evaluation.fragility_attack import sizes_of
from cutaway.evaluation.fragility_slopes import Differences, Second, Smooth
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.zoo import load

EPSILON = 8 / 255


class Softplus(nn.Module):
    """What the surrogate makes of a tiny network, written by hand."""

    def __init__(self, mlp, sharpness):
        super().__init__()
        self.mlp, self.sharpness = mlp, sharpness

    def forward(self, x):
        return self.mlp.last(nn.functional.softplus(self.mlp.first(x), self.sharpness))


@pytest.mark.parametrize("name", ["mlp", "mlp_functional", "mlp_clamp", "mlp_inplace"])
@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("kind", ["gradient", "smoothgrad", "input_x_gradient", "integrated_gradients"])
def test_slopes_of_a_map_are_those_of_the_network_with_softplus(name, kind, batch_size):
    """Reference: the map as one formula on a network written with softplus, differentiated by torch at once."""
    model = tiny_model(name, batch_size=batch_size)
    x, weights = inputs_for(model, 1), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    base = Fill.of("zero")(x, model.space)
    around = torch.zeros(1, 4, dtype=torch.float64)
    if kind == "smoothgrad":
        around = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slopes = Second(model, Target.of(1, model), Smooth(5.0), kind, base, around)
    found = slopes(x, lambda maps: (maps.square() * weights).sum(1))

    smooth, leaf = Softplus(model.module, 5.0), x.clone().requires_grad_()

    def gradient(at):
        return torch.autograd.grad(smooth(at)[:, 1].sum(), at, create_graph=True)[0]

    if kind in ("gradient", "smoothgrad"):
        values = sum(gradient(leaf + step) for step in around) / len(around)
    elif kind == "input_x_gradient":
        values = leaf * gradient(leaf)
    else:
        values = sum(leaf * gradient(leaf * (k + 0.5) / 10) for k in range(10)) / 10
    (expected,) = torch.autograd.grad((values.square() * weights).sum(), leaf)
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (nn.ReLU6(), lambda z: z.clamp(0, 6)),
        (nn.Hardtanh(-1, 2), lambda z: z.clamp(-1, 2)),
        (lambda z: z.clamp(max=1), lambda z: z.clamp(max=1)),
        (lambda z: torch.clamp(z, -1, 1), lambda z: z.clamp(-1, 1)),
    ],
    ids=["relu6", "hardtanh", "clamp above", "clamp"],
)
def test_a_sharp_surrogate_is_the_rectifier(operation, expected):
    class Net(nn.Module):
        def forward(self, x):
            return operation(x)

    model = Model(Net(), rows(4, low=-10, high=10))
    x = torch.tensor([[-3.0, 0.5, 1.5, 8.0]])
    for k in range(4):
        score = model.gradient(x, k, rules=Smooth(300.0)).score
        assert_close(score, expected(x)[:, k], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("explain", "says", "weak"),
    [
        ("gradient", "in place of rectifiers.", False),
        ("smoothgrad", "in place of rectifiers.", False),
        ("deeplift", "of integrated gradients, to which this map is close", True),
        ("grad_cam", "differences along 8 random directions", True),
    ],
)
def test_the_table_says_where_its_slopes_came_from(explain, says, weak):
    model = tiny_model("conv")
    check = fragility_top_k(model, inputs_for(model, 1), explain, steps=2).checks["slopes"]
    assert says in check
    assert ("a weak attack" in check) == weak


def test_differences_point_the_way_that_the_loss_rises():
    x = torch.zeros(1, 5, dtype=torch.float64)
    way = torch.tensor([[1.0, -2.0, 3.0, -4.0, 5.0]], dtype=torch.float64)
    estimate = Differences(lambda points: points * way, torch.tensor(0.1), torch.Generator().manual_seed(0))
    mean = sum(estimate(x, lambda maps: maps.sum(1)) for _ in range(500)) / 500
    assert_close(mean, way, atol=0.5, rtol=0)


@pytest.mark.parametrize("explain", ["gradient", "integrated_gradients", "input_x_gradient", "grad_cam"])
@pytest.mark.parametrize("attack", [fragility_top_k, fragility_mass_center])
def test_the_attacked_input_is_in_the_ball_and_in_its_class(attack, explain):
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    found = attack(model, x, explain, steps=4)
    near = found.extra["attacked"]
    assert near.shape == x.shape
    assert float((near - x).abs().max()) <= EPSILON + 1e-12
    assert float(near.min()) >= 0
    assert float(near.max()) <= 1
    assert torch.equal(model.run(near).scores.argmax(1), model.run(x).scores.argmax(1))
    assert found.checks["inside"].value <= 1 + 1e-9


def test_the_table_repeats_what_the_attacked_inputs_show():
    """Reference: the maps of the returned inputs, made again, and counted by hand."""
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    found = fragility_top_k(model, x, "gradient", target=1, steps=6, top=0.1)
    for i, row in enumerate(found.rows):
        maps = [model.gradient(v[i : i + 1], 1).slope.sum(1).abs().flatten() for v in (x, found.extra["attacked"])]
        k = round(0.1 * 256)
        highest = [set(m.topk(k).indices.tolist()) for m in maps]
        assert row[1] == pytest.approx(len(highest[0] & highest[1]) / k)
    assert [row[0] for row in found.rows] == [0, 1]


def test_inputs_are_attacked_alone():
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    together = fragility_top_k(model, x, "gradient", target=1, steps=5)
    alone = fragility_top_k(model, x[1:2], "gradient", target=1, steps=5)
    assert torch.equal(together.extra["attacked"][1:2], alone.extra["attacked"])
    assert together.rows[1][1:] == alone.rows[0][1:]


def test_an_attack_that_leaves_its_class_is_drawn_back_into_it():
    """The class changes halfway through the ball: the best input is at that border, and not the original."""

    class Border(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 48, dtype=torch.float64))

        def forward(self, x):
            flat = x.flatten(1)
            total = (flat**3 * self.weight).sum(1)
            out = (flat - 0.5).abs().amax(1) > 0.5 * EPSILON
            return torch.stack([total, total + 100.0 * out - 50.0], 1)

    model, x = Model(Border(), images(4)), torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    found = fragility_top_k(model, x, "gradient", target=0, steps=4, top=0.25)
    moved = float((found.extra["attacked"] - x).abs().max())
    assert 0.4 * EPSILON < moved <= 0.5 * EPSILON
    assert found.checks["kept"].value < 1
    assert model.run(found.extra["attacked"]).scores.argmax(1).item() == 0


def test_an_attack_of_which_nothing_keeps_the_class_leaves_the_input_as_it_is():
    class Needle(nn.Module):
        def forward(self, x):
            assert len(x), "an empty batch"
            total = x.flatten(1).square().sum(1)
            return torch.stack([total, total + 1e6 * (x.flatten(1) - 0.5).abs().amax(1) - 1e-6], 1)

    x = torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    found = fragility_top_k(Model(Needle().double(), images(4)), x, "gradient", target=0, steps=3)
    assert torch.equal(found.extra["attacked"], x)
    assert found.checks["kept"].value == 0


def test_a_random_neighbour_is_kept_where_the_attack_is_no_better():
    model = tiny_model("conv")
    x, calls = inputs_for(model, 1), []

    def explain(model, x, target):
        """Maps that depend on nothing: every input has another one."""
        calls.append(len(x))
        return torch.rand(x.shape, generator=torch.Generator().manual_seed(len(calls)), dtype=x.dtype)

    found = fragility_top_k(model, x, explain, steps=1)
    assert found.rows[0][1] < 0.5
    assert not torch.equal(found.extra["attacked"], x)


def test_the_map_of_a_linear_network_cannot_be_moved():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).double()
    model = Model(net, images(8))
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fragility_top_k(model, x, "gradient", target=1, steps=3)
    assert torch.equal(found.extra["attacked"], x)
    assert found.rows[0][1] == 1.0
    assert found.checks["verdict"].status == "note"
    assert found.checks["control"].status == "warn", "nothing can beat chance here"


def test_centres_are_weighted_means_of_positions():
    maps = torch.zeros(2, 5, 7, dtype=torch.float64)
    maps[0, 3, 2] = 4.0
    maps[1, 0, 0], maps[1, 4, 6] = 1.0, 3.0
    assert_close(centres(maps), torch.tensor([[3.0, 2.0], [3.0, 4.5]], dtype=torch.float64))
    assert_close(sizes_of(maps[1:] * -7).mean(), torch.tensor(1.0, dtype=torch.float64))


def test_what_cannot_be_attacked_is_refused():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    with pytest.raises(BadOption, match="epsilon and sharpness above 0"):
        fragility_top_k(model, x, "gradient", epsilon=0)
    with pytest.raises(BadOption, match="share between 0 and 1"):
        fragility_top_k(model, x, "gradient", top=1.5)
    with pytest.raises(BadOption, match="expected a region"):
        fragility_targeted(model, x, "gradient")
    with pytest.raises(NotPossible, match="text cannot be changed a little"):
        fragility_top_k(tiny_model("text"), "a good film", "gradient")

    def coarse(model, x, target):
        return nn.functional.avg_pool2d(model.gradient(x, target).slope, 4)

    with pytest.raises(NotPossible, match="coarser than the picture"):
        fragility_targeted(model, x, coarse, region="0,0,4,4", steps=1)
    regressor = Model(model.module, model.space, scores="values")
    with pytest.raises(NotPossible, match="no classes"):
        fragility_top_k(regressor, x, "gradient", target=1)


@pytest.mark.slow
def test_what_the_paper_found_on_a_network_that_was_trained():
    """Ghorbani et al. 2019: most of the gradient's highest entries go under attack; under random signs fewer do."""
    model, x = load("shapes-cnn"), load_data("shapes/test")[:3].x
    found = fragility_top_k(model, x, "gradient")
    for row in found.rows:
        assert row[1] < 0.3 < 0.3 + 0.05 < row[2]
    assert found.checks["verdict"].status == "fail"
    assert found.checks["control"].value == 1.0
    moved = fragility_mass_center(model, x, "gradient")
    assert moved.checks["verdict"].status == "fail"
    aimed = fragility_targeted(model, x, "gradient", region="0,0,16,16")
    assert all(after > before for *_, before, after in aimed.rows)
    assert aimed.checks["control"].value == 1.0
