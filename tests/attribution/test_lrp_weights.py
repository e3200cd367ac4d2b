"""The rules for operations with weights, against their equations written out entry by entry."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fusion
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.relevance.lrp import lrp
from cutaway.testing import nets

RULES = (
    "epsilon",
    "epsilon:0.3",
    "epsilon:0.3,1",
    "epsilon:0.1,0.4",
    "zplus",
    "alpha_beta:1,0",
    "alpha_beta:2,1",
    "gamma:0.25",
    "flat",
    "wsquare",
)


def sign(y: float) -> float:
    return -1.0 if y < 0 else 1.0


def slowly(rule: str, x: Tensor, w: Tensor, b: Tensor, relevance: Tensor, there: Tensor) -> Tensor:
    """R_i of one dense layer, from loops; `there` says which inputs an output has."""
    name, _, given = rule.partition(":")
    numbers = [float(n) for n in given.split(",")] if given else []
    out = torch.zeros_like(x)
    for j in range(len(w)):
        z = x * w[j]
        y = float(z.sum() + b[j])
        count = int(there[j].sum())
        if name == "epsilon":
            size, factor = ([*numbers, 0.0, 0.0])[:2]
            spread = (size * sign(y) + factor * b[j]) / count if factor else 0.0
            share = (z + spread * there[j]) / (y + size * sign(y))
        elif name == "zplus":
            share = z.clamp(min=0) / z.clamp(min=0).sum()
        elif name == "alpha_beta":
            alpha, beta = numbers
            up, down = z.clamp(min=0), z.clamp(max=0)
            share = alpha * torch.nan_to_num(up / (up.sum() + b[j].clamp(min=0)))
            share = share - beta * torch.nan_to_num(down / (down.sum() + b[j].clamp(max=0)))
        elif name == "gamma":
            tilt = (lambda t: t.clamp(min=0)) if y > 0 else (lambda t: t.clamp(max=0))
            tilted = z + numbers[0] * tilt(z)
            share = tilted / (tilted.sum() + b[j] + numbers[0] * tilt(b[j]))
        elif name == "flat":
            share = there[j] / count
        else:
            share = w[j] ** 2 / (w[j] ** 2).sum()
        out += torch.nan_to_num(share) * relevance[j]
    return out


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rule", RULES)
def test_one_dense_layer_follows_its_equation(rule):
    net = nn.Linear(5, 3).double()
    with torch.no_grad():
        net.weight.copy_(random(3, 5, seed=1))
        net.bias.copy_(random(3, seed=2))
    model = ct.Model(net, ct.rows(5), scores="values")
    x = random(4, 5, seed=3)
    values = lrp(model, x, 1, rule=rule).values
    for row in range(4):
        start = torch.zeros(3, dtype=torch.float64)
        start[1] = net(x[row])[1].detach()
        expected = slowly(rule, x[row], net.weight.detach(), net.bias.detach(), start, torch.ones(3, 5))
        assert_close(values[row], expected)


@pytest.mark.parametrize("rule", RULES)
def test_two_layers_with_a_relu_follow_their_equations(rule):
    """Also rules that hand relevance to inactive units, above the first layer."""
    net = nets.seeded(lambda: nets.Mlp(inputs=4, hidden=6))
    model = ct.Model(net, ct.rows(4), scores="values")
    x = random(3, 4, seed=5)
    values = lrp(model, x, 2, rule=rule).values
    for row in range(3):
        hidden = F.relu(net.first(x[row])).detach()
        start = torch.zeros(3, dtype=torch.float64)
        start[2] = net(x[row])[2].detach()
        middle = slowly(rule, hidden, net.last.weight.detach(), net.last.bias.detach(), start, torch.ones(3, 6))
        expected = slowly(rule, x[row], net.first.weight.detach(), net.first.bias.detach(), middle, torch.ones(6, 4))
        assert_close(values[row], expected)


@pytest.mark.parametrize("rule", [*RULES, "zbox"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_is_the_dense_layer_that_it_abbreviates(rule, groups):
    """With stride and padding: a border pixel has fewer neighbours, also under the flat rule."""
    conv = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=groups).double()
    with torch.no_grad():
        conv.weight.copy_(random(*conv.weight.shape, seed=7))
        conv.bias.copy_(random(4, seed=8))
    model = ct.Model(nn.Sequential(conv, nn.Flatten()), ct.images(5, channels=2), scores="values")
    x = random(1, 2, 5, 5, seed=9).sigmoid()
    outputs = 4 * 3 * 3
    dense = torch.autograd.functional.jacobian(lambda t: conv(t).flatten(), x, create_graph=False).reshape(outputs, 50)
    bias = conv.bias.detach().repeat_interleave(9)
    ones = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=groups, bias=False).double()
    nn.init.ones_(ones.weight)
    there = torch.autograd.functional.jacobian(lambda t: ones(t).flatten(), x).reshape(outputs, 50)
    unit = 13
    start = torch.zeros(outputs, dtype=torch.float64)
    start[unit] = conv(x).flatten()[unit].detach()
    if rule == "zbox":
        above = x.flatten() * dense[unit] - dense[unit].clamp(max=0)  # low is 0 and high is 1
        expected = above / above.sum() * start[unit]
    else:
        expected = slowly(rule, x.flatten(), dense, bias, start, there)
    assert_close(lrp(model, x, unit, rule=rule).values.flatten(), expected)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_rules_hold_for_other_convolutions(kind):
    conv = kind(3, 2, 2).double()
    net = nn.Sequential(conv, nn.Flatten())
    model = ct.Model(nn.Sequential(nn.Unflatten(1, (3, 4)), net), ct.rows(12), scores="values")
    x = random(2, 12, seed=1)
    dense = torch.autograd.functional.jacobian(lambda t: net(t.view(1, 3, 4)).flatten(), x[0])
    for rule in ("zplus", "alpha_beta:2,1", "gamma:0.5"):
        bias = conv.bias.detach().repeat_interleave(len(dense) // 2)
        start = torch.zeros(len(dense), dtype=torch.float64)
        start[4] = net(x[:1].view(1, 3, 4)).flatten()[4].detach()
        expected = slowly(rule, x[0], dense, bias, start, torch.ones_like(dense))
        assert_close(lrp(model, x, 4, rule=rule).values[0], expected)


@pytest.mark.parametrize("order", ["matmul", "einsum", "addmm", "kwargs"])
def test_a_matrix_product_with_a_parameter_is_a_dense_layer(order):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(random(4, 3, seed=2))
            self.bias = nn.Parameter(random(3, seed=3))

        def forward(self, x):
            match order:
                case "matmul":
                    return x @ self.weight + self.bias
                case "einsum":
                    return torch.einsum("ni,ij->nj", x, self.weight) + self.bias
                case "addmm":
                    return torch.addmm(self.bias, x, self.weight)
            return torch.matmul(input=x, other=self.weight) + self.bias

    net = Net()
    plain = nn.Linear(4, 3).double()
    with torch.no_grad():
        plain.weight.copy_(net.weight.T)
        plain.bias.copy_(net.bias)
    x = random(3, 4, seed=1)
    ours = lrp(ct.Model(net, ct.rows(4), scores="values"), x, 1, rule="epsilon")
    assert_close(ours.values, lrp(ct.Model(plain, ct.rows(4), scores="values"), x, 1, rule="epsilon").values)
    assert ours.checks["conservation"].value < 1e-12


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", ["linear", "conv", "transposed"])
def test_batch_normalisation_is_folded_into_the_weights_before_it(rule, first):
    """Also where its scale is negative, and what was a positive weight is none."""
    build = {"linear": nn.Linear(4, 6), "conv": nn.Conv1d(2, 3, 1), "transposed": nn.ConvTranspose1d(2, 3, 1)}
    layer = build[first].double()
    norm = nn.BatchNorm1d(6 if first == "linear" else 3).double().eval()
    with torch.no_grad():
        for number, tensor in enumerate((norm.weight, norm.bias, norm.running_mean)):
            tensor.copy_(random(*tensor.shape, seed=number))
        norm.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0))
    shape = (2, 2) if first != "linear" else (4,)
    last = nn.Linear(6, 3).double()
    net = nn.Sequential(nn.Unflatten(1, shape), layer, norm, nn.ReLU(), nn.Flatten(), last).eval()
    if first == "transposed":
        folded = fusion.fuse_conv_bn_eval(layer, norm, transpose=True)
    else:
        fuse = (
            torch.nn.utils.fusion.fuse_linear_bn_eval if first == "linear" else torch.nn.utils.fusion.fuse_conv_bn_eval
        )
        folded = fuse(layer, norm)
    twin = nn.Sequential(nn.Unflatten(1, shape), folded, nn.ReLU(), nn.Flatten(), last).eval()
    x = random(5, 4, seed=4)
    a, b = (ct.Model(n, ct.rows(4), scores="values") for n in (net, twin))
    assert_close(lrp(a, x, 1, rule=rule).values, lrp(b, x, 1, rule=rule).values)


def test_batch_normalisation_before_the_weights_is_a_scale_whose_shift_is_a_bias():
    norm = nn.BatchNorm1d(4).double()
    with torch.no_grad():
        norm.running_mean.copy_(random(4, seed=1))
        norm.weight.copy_(random(4, seed=2))
    net = nn.Sequential(norm, nn.Linear(4, 3).double()).eval()
    model = ct.Model(net, ct.rows(4), scores="values")
    x = random(2, 4, seed=3)
    result = lrp(model, x, 0, rule="epsilon")
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    assert_close(result.values, (x * scale * net[1].weight[0]).detach())
    assert result.checks["conservation"].value < 1e-12
