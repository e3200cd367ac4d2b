"""Attribution between layers against sums written out, and removals against edited networks."""

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.errors import BadOption, NotPossible
from cutaway.testing import nets
from cutaway.visualization.between import channel_attribution, spatial_attribution
from tensorflow_js import needs, tiny_vgg

X = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def tiny() -> ct.Model:
    return ct.Model(nets.seeded(nets.ConvNet), ct.images(16))


def slopes(model, x, k, site="relu1"):
    """Activation and gradient, by autograd on the network itself."""
    net, kept = model.module, {}

    def keep(module, args, out):
        kept["act"] = out.detach().clone().requires_grad_()
        return kept["act"]

    handle = net.get_submodule(site).register_forward_hook(keep)
    out = net(x)
    handle.remove()
    (slope,) = torch.autograd.grad(out[:, k].sum(), kept["act"])
    return kept["act"].detach(), slope


def test_positions_and_channels_are_sums_of_activation_times_slope():
    model = tiny()
    act, slope = slopes(model, X, 1)
    spatial = spatial_attribution(model, X, 1, layer="relu1")
    channels = channel_attribution(model, X, 1, layer="relu1", k=2)
    for i in range(2):
        for y in range(0, 16, 5):
            for x in range(0, 16, 5):
                expected = sum(float(act[i, c, y, x] * slope[i, c, y, x]) for c in range(4))
                assert float(spatial.values[i, 0, y, x]) == pytest.approx(expected, abs=1e-12)
        for c in range(4):
            assert float(channels.extra["values"][i, c]) == pytest.approx(
                float((act[i, c] * slope[i, c]).sum()), abs=1e-12
            )
    assert spatial.wrt == "relu1"


def edited(model, x, k, site, cut):
    """The network's output with its activation changed by a hook of the test's own."""
    handle = model.module.get_submodule(site).register_forward_hook(lambda m, a, out: cut(out.clone()))
    out = model.module(x)[:, k]
    handle.remove()
    return out.detach()


def test_removals_are_what_the_network_gives_without_that_part():
    model = tiny()
    found = spatial_attribution(model, X, 2, layer="relu1", removals=5)
    clean = model.module(X)[:, 2].detach()
    for i in range(2):
        for place, lost in zip(found.extra["places"][i].tolist(), found.extra["lost"][i].tolist(), strict=True):

            def cut(out, place=place):
                out.flatten(2)[:, :, place] = 0
                return out

            assert lost == pytest.approx(float(clean[i] - edited(model, X[i : i + 1], 2, "relu1", cut)), abs=1e-12)
    table = channel_attribution(model, X, 2, layer="relu1", k=4, removals=3)
    assert {row[2] for row in table.rows if row[0] == 0} <= set(range(4))
    for number, _, channel, mean, value, lost in table.rows:

        def cut(out, channel=channel):
            out[:, channel] = 0
            return out

        after = edited(model, X[number : number + 1], 2, "relu1", cut)
        assert lost == pytest.approx(float(clean[number] - after), abs=1e-12)
        act, slope = slopes(model, X[number : number + 1], 2)
        assert mean == pytest.approx(float(act[0, channel].mean()))
        assert value == pytest.approx(float((act * slope)[0, channel].sum()))


def test_behind_the_layer_all_is_linear_so_the_estimate_is_exact():
    """After the last rectifier comes a mean and a linear layer: removing does what the slope foretells."""
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:2]").x
    for found in (spatial_attribution(model, x, 3, layer="relu5"), channel_attribution(model, x, 3, layer="relu5")):
        assert found.checks["ablation"].value > 0.99
        assert "stood for 1 of the loss" in found.checks["ablation"]


class Crossed(nn.Module):
    """Three units at b: twice unit 0 of a, unit 1 less unit 2, and unit 2 where unit 0 is."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Identity(), nn.Identity()

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.stack([2 * x[:, 0], x[:, 1] - x[:, 2], x[:, 2] * x[:, 0]], 1)).mean((2, 3))


def test_units_of_a_later_layer_are_targets_too():
    model, x = ct.Model(Crossed(), ct.images(16), scores="values"), X[:1].float()
    found = channel_attribution(model, x, ["unit('b:0')", "unit('b:1')", "unit('b:2')"], layer="a", k=3)
    mean = x[0].mean((1, 2))
    expected = torch.zeros(3, 3)
    expected[0, 0], expected[1, 1], expected[1, 2] = 2 * mean[0], mean[1], -mean[2]
    expected[2, 0] = expected[2, 2] = (x[0, 0] * x[0, 2]).mean()
    assert torch.allclose(found.extra["values"], expected)
    assert [row[2] for row in found.rows if row[0] == 1] == [1, 2]
    at = spatial_attribution(model, x, "unit('b:2@3,4')", layer="a", removals=256)
    assert at.values.nonzero().tolist() == [[0, 0, 3, 4]]
    # A product of two units counts twice in first order, and is lost once.
    assert float(at.values[0, 0, 3, 4]) == pytest.approx(2 * float(x[0, 0, 3, 4] * x[0, 2, 3, 4]))
    assert float(at.extra["lost"].max()) == pytest.approx(float(x[0, 0, 3, 4] * x[0, 2, 3, 4]), abs=1e-6)


@needs("tiny-vgg")
def test_a_real_network_loses_what_the_estimate_foretells_in_about_that_order():
    model = tiny_vgg()
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = channel_attribution(model, x, "ladybug", layer="relu_2_2", removals=10, k=10)
    assert found.checks["ablation"].value > 0.6
    assert len(found.rows) == int((found.extra["values"] != 0).sum())


def test_bad_input_is_refused():
    model = tiny()
    with pytest.raises(BadOption, match="removals from 0"):
        spatial_attribution(model, X, 1, removals=-1)
    with pytest.raises(BadOption, match="at least one channel"):
        channel_attribution(model, X, 1, k=0)
    with pytest.raises(BadOption, match="whole layer"):
        channel_attribution(model, X, 1, layer="relu1:2")
    with pytest.raises(NotPossible, match="comes after|does not depend"):
        spatial_attribution(model, X, "unit('conv1:0')", layer="relu2")


def test_without_removals_nothing_is_claimed_about_them():
    found = channel_attribution(tiny(), X, 1, layer="relu1", removals=0)
    assert "ablation" not in found.checks
    assert {row[5] for row in found.rows} == {None}
