import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from cutaway.attribution.gradient import gradient
from cutaway.attribution.rules import deconvnet, guided_backprop
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.space import images, rows
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model

METHODS = [guided_backprop, deconvnet]


class Spelled(nn.Module):
    """Three layers with two rectifiers, written in one way."""

    def __init__(self, rectify, *, nonnegative=False):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)])
        self.rectify = rectify
        if nonnegative:
            for layer in self.layers:
                layer.weight.data.abs_()

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = self.rectify(layer(x))
        return self.layers[-1](x)


def spelled(rectify, **options):
    return Model(nets.seeded(lambda: Spelled(rectify, **options)), rows(6, low=-10, high=10))


def times_mask_in_place(x):
    x *= x > 0
    return x


RELUS = {
    "F.relu": F.relu,
    "F.relu in place": lambda x: F.relu(x, inplace=True),
    "torch.relu_": lambda x: torch.relu_(x),
    "method": lambda x: x.relu(),
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "clamp_": lambda x: x.clamp_(0),
    "clip": lambda x: torch.clip(x, min=0.0),
    "threshold": nn.Threshold(0, 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "maximum of a number tensor": lambda x: torch.maximum(torch.tensor(0.0, dtype=x.dtype), x),
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "fmax": lambda x: torch.fmax(x, torch.zeros_like(x)),
    "product": lambda x: x * (x > 0),
    "product of floats": lambda x: (x > 0).to(x.dtype) * x,
    "product with a detached mask": lambda x: x * (x.detach() >= 0),
    "product in place": times_mask_in_place,
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "where with a number": lambda x: torch.where(x > 0, x, 0.0),
    "where reversed": lambda x: torch.where(x <= 0, 0.0, x),
    "where as a method": lambda x: x.where(x > 0, torch.zeros((), dtype=x.dtype)),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "leaky with slope 0": nn.LeakyReLU(0.0),
    "hardtanh without an end": nn.Hardtanh(0.0, 1e6),
}

FAMILY = {
    "relu6": (nn.ReLU6(), lambda x: ((x > 0) & (x < 6)).to(x)),
    "F.relu6": (F.relu6, lambda x: ((x > 0) & (x < 6)).to(x)),
    "hardtanh": (nn.Hardtanh(0, 1), lambda x: ((x > 0) & (x < 1)).to(x)),
    "clamp at both ends": (lambda x: x.clamp(0, 1), lambda x: ((x > 0) & (x < 1)).to(x)),
    "leaky_relu": (nn.LeakyReLU(0.1), lambda x: torch.where(x > 0, 1.0, 0.1 * torch.ones_like(x))),
    "prelu": (nn.PReLU(), lambda x: torch.where(x > 0, 1.0, 0.25)),
    "elu": (nn.ELU(), lambda x: torch.where(x > 0, 1.0, x.exp())),
    "selu": (nn.SELU(), None),
    "celu": (nn.CELU(), None),
    "gelu": (nn.GELU(), None),
    "silu": (nn.SiLU(), None),
    "silu in place": (nn.SiLU(inplace=True), None),
    "hardswish": (nn.Hardswish(), None),
    "mish": (nn.Mish(), None),
    "softplus": (nn.Softplus(), torch.sigmoid),
}


def by_hand(model, x, k, slope, *, guided):
    """Reference: the published rule, matrix by matrix, in plain torch."""
    layers, h, signs = model.module.layers, x, []
    for layer in layers[:-1]:
        z = F.linear(h, layer.weight, layer.bias)
        signs.append(slope(z))
        h = model.module.rectify(z.clone())
    signal = layers[-1].weight[k].expand(len(x), -1)
    for layer, sign in zip(reversed(layers[:-1]), reversed(signs), strict=True):
        signal = signal.clamp(min=0) * (sign if guided else 1)
        signal = signal @ layer.weight
    return signal.detach()


def own_slope(function):
    """The derivative of a function of one number, by autograd."""

    def slope(z):
        z = z.detach().clone().requires_grad_()
        return torch.autograd.grad(function(z.clone()).sum(), z)[0]

    return slope


@pytest.mark.parametrize("explain", METHODS)
@pytest.mark.parametrize("name", RELUS)
def test_every_spelling_of_relu_gives_the_same_bits(name, explain):
    x = inputs_for(Model(nn.Linear(6, 1).double(), rows(6)), 4)
    usual = explain(spelled(F.relu), x, 1)
    other = explain(spelled(RELUS[name]), x, 1)
    assert torch.equal(other.values, usual.values)
    assert torch.equal(other.score, usual.score)
    assert other.checks["rectifiers"].value == 2


@pytest.mark.parametrize("name", [*RELUS, *FAMILY])
def test_guided_matches_the_rule_by_hand(name):
    rectify, slope = FAMILY.get(name, (RELUS.get(name), lambda x: (x > 0).to(x)))
    model = spelled(rectify)
    x = inputs_for(model, 4)
    slow = by_hand(model, x, 2, slope or own_slope(rectify), guided=True)
    assert_close(guided_backprop(model, x, 2).values, slow, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", [*RELUS, *FAMILY])
def test_deconvnet_matches_the_rule_by_hand(name):
    rectify, _ = FAMILY.get(name, (RELUS.get(name), None))
    model = spelled(rectify)
    x = inputs_for(model, 4)
    slow = by_hand(model, x, 2, torch.ones_like, guided=False)
    assert_close(deconvnet(model, x, 2).values, slow, atol=1e-12, rtol=0)


@pytest.mark.parametrize("explain", METHODS)
@pytest.mark.parametrize("name", FAMILY)
def test_the_forward_is_that_of_the_network(name, explain):
    model = spelled(FAMILY[name][0])
    x = inputs_for(model, 3)
    assert_close(explain(model, x, 1).score, model.run(x).output[:, 1], atol=1e-14, rtol=0)


def test_all_three_coincide_without_negative_weights():
    """Then every signal is positive; with positive inputs and biases all rectifiers are open too."""
    model = spelled(F.relu, nonnegative=True)
    for layer in model.module.layers:
        layer.bias.data.abs_()
    x = inputs_for(model, 3).abs()
    slope = gradient(model, x, 1).values
    for explain in METHODS:
        assert_close(explain(model, x, 1).values, slope, atol=1e-12, rtol=0)


@pytest.mark.parametrize("explain", METHODS)
def test_a_single_neuron_sees_nothing_outside_its_receptive_field(explain):
    """conv2 at (4, 4) sees pooled rows 3 to 5, so conv1 rows 6 to 11, so pixels 5 to 12."""
    model = tiny_model("conv")
    model.module.relu1 = nn.Softplus()  # no dead positions
    for unit in range(6):
        values = explain(model, inputs_for(model, 2), f'unit("conv2:{unit}@4,4")').values
        inside = values[:, :, 5:13, 5:13].abs().sum()
        assert inside > 0
        values[:, :, 5:13, 5:13] = 0
        assert not values.any()


def test_only_rectifiers_that_the_signal_passes_are_counted():
    model = tiny_model("conv")
    x = inputs_for(model, 9)
    assert guided_backprop(model, x, 1).checks["rectifiers"].value == 2
    assert guided_backprop(model, x, 'unit("conv2:3")').checks["rectifiers"].value == 1
    assert deconvnet(model, x, 'unit("relu2:3")').checks["rectifiers"].value == 2
    assert guided_backprop(model, x, 1, wrt="pool").checks["rectifiers"].value == 1


def test_a_target_before_the_first_rectifier_is_the_plain_gradient_and_says_so():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    result = guided_backprop(model, x, 'unit("conv1:2")')
    assert torch.equal(result.values, gradient(model, x, 'unit("conv1:2")').values)
    assert result.checks["rectifiers"].status == "note"
    assert "plain gradient" in result.checks["rectifiers"]


@pytest.mark.parametrize("explain", METHODS)
@pytest.mark.parametrize("name", ["linear", "mlp_tanh", "lstm"])
def test_a_network_without_rectifiers_is_refused_with_its_operations(name, explain):
    model = tiny_model(name)
    with pytest.raises(NotPossible, match=f"{explain.__name__} .*; it has .*l") as refusal:
        explain(model, inputs_for(model, 1), 1)
    assert ("tanh" if name == "mlp_tanh" else name) in str(refusal.value)


@pytest.mark.parametrize(
    "look_alike",
    [
        lambda x: x.clamp(min=-1),
        lambda x: x.clamp(max=2),
        lambda x: torch.maximum(x, torch.ones_like(x)),
        lambda x: x * (x > 1),
        lambda x: torch.where(x > 0, x, 0.5),
        nn.Hardtanh(-1, 1),
        nn.Threshold(0.5, 0),
    ],
)
def test_what_only_looks_like_a_rectifier_is_left_alone(look_alike):
    model = spelled(lambda x: F.relu(look_alike(x)))
    result = guided_backprop(model, inputs_for(model, 2), 1)
    assert (
        result.checks["rectifiers"]
        == "2 operations were treated as rectifiers: relu 2 times. All others differentiate as usual."
    )


def test_smooth_rectifiers_are_named_as_such():
    model = tiny_model("mlp_gelu")
    result = guided_backprop(model, inputs_for(model, 1), 1)
    assert result.checks["smooth"].status == "warn"
    assert "gelu is smooth" in result.checks["smooth"]
    assert "smooth" not in guided_backprop(tiny_model("mlp"), inputs_for(model, 1), 1).checks


def test_rectifiers_inside_a_recurrent_network_are_treated():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNN(4, 5, nonlinearity="relu", batch_first=True)
            self.fc = nn.Linear(5, 3)

        def forward(self, x):
            return self.fc(self.rnn(x[:, 0])[0][:, -1])

    class Written(Recurrent):
        def forward(self, x):
            h = torch.zeros(len(x), 5).to(x)
            for step in x[:, 0].unbind(1):
                h = F.relu(F.linear(step, *self._part("ih")) + F.linear(h, *self._part("hh")))
            return self.fc(h)

        def _part(self, which):
            return (getattr(self.rnn, f"{kind}_{which}_l0") for kind in ("weight", "bias"))

    model, written = (Model(nets.seeded(kind), images(4, channels=1)) for kind in (Recurrent, Written))
    x = inputs_for(model, 2)
    result = guided_backprop(model, x, 1)
    assert "relu 4 times" in result.checks["rectifiers"]
    assert_close(result.values, guided_backprop(written, x, 1).values)


def test_one_function_written_in_two_ways_gets_two_maps():
    """relu(x) = x + relu(-x): the rule belongs to the graph, not to the function. So this law is not claimed."""
    one, other = spelled(F.relu), spelled(lambda x: x + F.relu(-x))
    x = inputs_for(one, 2)
    assert_close(one.run(x).output, other.run(x).output)
    assert_close(gradient(one, x, 1).values, gradient(other, x, 1).values)
    assert (guided_backprop(one, x, 1).values - guided_backprop(other, x, 1).values).abs().max() > 1e-3
    assert "same_for_equivalent_nets" not in guided_backprop.method.laws


@pytest.mark.parametrize("explain", METHODS)
def test_batches_chunks_and_targets_do_not_mix(explain):
    x = inputs_for(tiny_model("residual"), 5)
    whole = explain(tiny_model("residual"), x, [0, 1, 2, 0, 1])
    pieces = explain(tiny_model("residual", batch_size=2), x[3:], [0, 1])
    assert_close(pieces.values, whole.values[3:], atol=1e-13, rtol=0)
    assert whole.checks["rectifiers"] == pieces.checks["rectifiers"]


@pytest.mark.parametrize("explain", METHODS)
def test_max_pooling_sends_the_signal_to_the_maximum(explain):
    class Pooled(nn.Module):
        def forward(self, x):
            return F.relu(F.max_pool2d(x, 2)).flatten(1)

    x = torch.tensor([[[[0.1, 0.9], [0.3, 0.2]]]])
    assert explain(Model(Pooled(), images(2, channels=1)), x, 0).values.tolist() == [[[[0.0, 1.0], [0.0, 0.0]]]]


@pytest.mark.peers
@pytest.mark.parametrize("wrt", ["input", "layer"])
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_agrees_with_captum(wrt):
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = tiny_model("conv")
    model.module.relu2.inplace = False
    x = inputs_for(model)
    z = model.space.normalised(x)
    std = torch.tensor(model.space.std, dtype=x.dtype)
    for ours, theirs in ((guided_backprop, captum.GuidedBackprop), (deconvnet, captum.Deconvolution)):
        slow = theirs(model.module).attribute(z.clone().requires_grad_(), target=1) / std
        assert_close(ours(model, x, 1).values, slow, atol=1e-12, rtol=0)
    if wrt == "layer":
        slow = captum.LayerActivation(model.module, model.module.conv2).attribute(z)
        assert guided_backprop(model, x, 1, wrt="conv2").values.shape == slow.shape


@pytest.mark.slow
def test_a_real_network_counts_its_rectifiers():
    model = pytest.importorskip("cutaway.zoo.efficientnet").load()
    x = torch.rand((1, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    for explain in METHODS:
        result = explain(model, x, 285)
        assert "relu6 33 times" in result.checks["rectifiers"]
        neuron = explain(model, x, 'unit("_blocks.0:3@50,60")').values
        neuron[:, :, 90:115, 110:135] = 0
        assert not neuron.any()
