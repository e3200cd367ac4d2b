"""Convolutions fused with what follows give what the network gives, also where it does something unforeseen."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cutaway.core.fingerprint import StateHash
from cutaway.core.fused import Fusion, Misfit
from cutaway.core.model import Model
from cutaway.core.pace import Widest
from cutaway.core.space import images
from cutaway.core.trace import Trace


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation that does something."""
    layer = nn.BatchNorm2d(channels)
    for tensor in (layer.weight, layer.bias, layer.running_mean):
        nn.init.uniform_(tensor, -1, 1)
    nn.init.uniform_(layer.running_var, 0.3, 3)
    return layer.eval()


class Net(nn.Module):
    """A convolution, its normalisation, and a function of both modules and the input."""

    def __init__(self, forward: Callable[["Net", Tensor], Tensor], **how: int) -> None:
        """Three channels to four."""
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, **({"kernel_size": 3} | how))
        self.bn, self.act = norm(4), nn.ReLU(inplace=True)
        self.later = nn.Conv2d(4, 4, 1)
        self.does = forward
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Whatever was given."""
        return self.does(self, x).mean((2, 3))


def pictures(count: int = 3) -> Tensor:
    """Some noise."""
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(1))


@contextlib.contextmanager
def known(model: Model) -> Iterator[None]:
    """As inside a method, which has hashed the weights: from there on it pays to run fused."""
    with model.borrow():
        assert model.fingerprint
        yield


def run(model: Model, x: Tensor, **how: Any) -> Trace:
    """One run in such a place."""
    with known(model):
        return model.run(x, **how)


def learned(net: nn.Module) -> Fusion:
    """What one forward teaches about a network."""
    fusion = Fusion(net, StateHash(net))
    with torch.no_grad():
        learner = fusion.learner()
        with learner:
            net(pictures(1))
        fusion.learn(learner)
    return fusion


FUSED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "modules, in place": lambda net, x: net.act(net.bn(net.conv(x))),
    "functional": lambda net, x: F.relu(net.bn(net.conv(x))),
    "relu6": lambda net, x: F.relu6(net.bn(net.conv(x))),
    "hardtanh": lambda net, x: F.hardtanh(net.bn(net.conv(x)), -0.3, 0.7),
    "silu": lambda net, x: F.silu(net.bn(net.conv(x))),
    "torch.relu": lambda net, x: torch.relu(net.bn(net.conv(x))),
    "method in place": lambda net, x: net.bn(net.conv(x)).relu_(),
    "no norm": lambda net, x: net.conv(x).relu(),
    "no activation": lambda net, x: net.bn(net.conv(x)).sigmoid(),
    "residual in place": lambda net, x: net.bn(net.conv(x)).add_(F.avg_pool2d(x, 3, 1).mean(1, keepdim=True)).relu_(),
    "asked for its shape": lambda net, x: (lambda y: net.bn(y) if y.shape[1] == y.size(1) else y)(net.conv(x)),
    "two in a row": lambda net, x: net.later(net.act(net.bn(net.conv(x)))).relu(),
    "padded": lambda net, x: net.act(net.bn(net.conv(F.pad(x, (1, 2, 0, 1), value=0.5)))),
    "the same one twice": lambda net, x: net.act(net.bn(net.conv(x))) + net.act(net.bn(net.conv(-x))),
}
NOT_FUSED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "used beside the norm": lambda net, x: (lambda y: net.bn(y) + y)(net.conv(x)),
    "used before the norm": lambda net, x: (lambda y: y.sum() + net.bn(y))(net.conv(x)),
    "changed in place": lambda net, x: net.bn(net.conv(x).add_(1)),
    "norm of the batch": lambda net, x: F.batch_norm(net.conv(x), None, None, training=True),
    "another follower": lambda net, x: net.act(net.conv(x)) + net.bn(net.conv(-x)),
    "kept": lambda net, x: (net.kept.append(net.conv(x)), net.bn(net.kept[-1]))[1],
    "made on the way": lambda net, x: F.relu(F.conv2d(x, net.conv.weight / net.conv.weight.norm())),
}


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_is_the_network(name: str, layout: torch.memory_format) -> None:
    """All chains that can be fused are, and the result is the same."""
    net = Net(FUSED[name]).eval()
    fusion, x = learned(net), pictures().contiguous(memory_format=layout)
    fused = fusion.run(layout == torch.channels_last, many=True)
    assert hasattr(fused, "_chains"), "nothing was fused"
    with torch.no_grad():
        expected = net(x)
        with fused:
            found = net(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NOT_FUSED)
def test_what_cannot_be_fused_is_left_alone(name: str) -> None:
    """A value that is needed between the steps is computed."""
    net = Net(NOT_FUSED[name]).eval()
    with learned(net).run(False, many=True) as fused, torch.no_grad():
        found = net(pictures())
    assert fused is None
    with torch.no_grad():
        torch.testing.assert_close(found, net(pictures()))


@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    affine=st.booleans(),
    rows=st.integers(1, 4),
)
def test_any_geometry(
    kernel: int, stride: int, padding: int, dilation: int, bias: bool, affine: bool, rows: int
) -> None:
    """The law: fused equals unfused to rounding, whatever the shape of the convolution."""
    how = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    net = Net(FUSED["relu6"], **how)
    if not affine:
        net.bn = nn.BatchNorm2d(4, affine=False)
    net.eval()
    with torch.no_grad():
        expected = net(pictures(rows))
        with learned(net).run(False, many=True):
            found = net(pictures(rows))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


UNFORESEEN: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "used beside": lambda net, x: (lambda y: net.bn(y) + (y if len(x) > 1 else 0))(net.conv(x)),
    "kept by the network": lambda net, x: (net.kept.extend([y := net.conv(x)] * (len(x) - 1)), net.bn(y))[1],
    "another activation": lambda net, x: (F.relu if len(x) > 1 else F.relu6)(net.bn(net.conv(x))),
    "no norm": lambda net, x: (lambda y: y if len(x) > 1 else net.bn(y))(net.conv(x)).sigmoid(),
    "read out": lambda net, x: (lambda y: net.bn(y) * (y.max().item() if len(x) > 1 else 1))(net.conv(x)),
}


@pytest.mark.parametrize("name", UNFORESEEN)
def test_a_network_that_does_something_else_later(name: str) -> None:
    """What was seen with one row does not hold with more: it is noticed, and the answer is right."""
    net = Net(UNFORESEEN[name]).eval()
    with pytest.raises(Misfit), learned(net).run(False, many=True), torch.no_grad():
        net(pictures())
    net = Net(UNFORESEEN[name]).eval()
    model, many = Model(net, space=images(9)), pictures(3).sigmoid()
    with torch.no_grad():
        expected = net(many)
    teach(net, model)
    assert model.spent["forwards"] == 0
    torch.testing.assert_close(run(model, many).output, expected)
    assert model.spent["forwards"] == 3, "a forward that is run again counts once"
    torch.testing.assert_close(run(model, many).output, expected)


def teach(net: nn.Module, model: Model) -> None:
    """Let a model learn from one row."""
    runner = model._runner
    with torch.no_grad(), runner.fusion.learner() as learner:
        net(pictures(1))
    runner.fusion.learn(learner)


@pytest.mark.parametrize("site", ["conv", "bn", "act"])
def test_places_inside_a_chain_are_read_and_changed(site: str) -> None:
    """What a layer gives is what it gives, also where a later one was done with it."""
    net = Net(FUSED["functional"] if site != "act" else lambda net, x: net.act(net.bn(net.conv(x))).clone()).eval()
    model, x = Model(net, space=images(9)), pictures(3).sigmoid()
    before = run(model, x, read=[site, "output"])
    edited = run(model, x, edit={site: lambda act: act + 1}).output
    model.is_steady(x)
    for _ in range(2):
        after = run(model, x, read=[site, "output"])
        torch.testing.assert_close(after[site], before[site])
        torch.testing.assert_close(after.output, before.output)
        torch.testing.assert_close(run(model, x, edit={site: lambda act: act + 1}).output, edited)
        torch.testing.assert_close(run(model, x).output, before.output)


@pytest.mark.parametrize("site", ["conv", "bn", "act", "later"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_of_others_see_what_they_always_saw(site: str, kind: str) -> None:
    """Once for each forward, with the values of the network."""
    net = Net(lambda net, x: net.later(net.act(net.bn(net.conv(x))))).eval()
    model, x = Model(net, space=images(9)), pictures(3).sigmoid()
    model.is_steady(x)
    run(model, x)
    seen: list[Tensor] = []
    getattr(net.get_submodule(site), kind)(lambda module, args, *output: seen.append((*output, *args)[0].clone()))
    run(model, x)
    assert len(seen) == 1
    with torch.no_grad():
        net(x)
    torch.testing.assert_close(seen[0], seen[1])


def test_somebody_who_counts_operations_sees_all() -> None:
    """A mode around a run is not told about fused operations, so there are none."""
    net = Net(FUSED["functional"]).eval()
    model, x = Model(net, space=images(9)), pictures().sigmoid()
    before = [op.name for op in model.census(x)]
    model.is_steady(x)
    with Widest() as widest:
        run(model, x)
    assert widest.bytes
    assert [op.name for op in model.census(x)] == before


def test_weights_that_change_are_seen() -> None:
    """Also through `.data`, which no version counts."""
    net = Net(FUSED["functional"]).eval()
    model, x = Model(net, space=images(9)), pictures().sigmoid()
    model.is_steady(x)
    run(model, x)
    for tensor in (net.conv.weight, net.bn.weight, net.bn.running_var):
        tensor.data.mul_(2)
        with torch.no_grad():
            torch.testing.assert_close(run(model, x).output, net(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e30, float("nan"), float("inf")])
def test_an_overflow_is_not_hidden(scale: float) -> None:
    """The kernel's own activation would make a number of what is none; so it is not used where that could be."""
    net = Net(lambda net, x: F.relu6(net.bn(net.conv(x * net.factor * net.factor))))
    net.factor = torch.ones(())
    net.eval()
    fusion = learned(net)
    net.factor = torch.tensor(scale)
    with torch.no_grad():
        expected = net(pictures())
        with fusion.run(False, many=True):
            found = net(pictures())
    assert expected.isnan().any()
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_an_overflow_on_the_way_is_not_hidden() -> None:
    """Bounds grow from layer to layer, through sums and changes in place."""

    def grows(net: Net, x: Tensor) -> Tensor:
        y = F.relu(net.bn(net.conv(x)))
        for _ in range(9):
            y = F.relu(net.later(y))
            y += y
            y[0].mul_(net.factor)
        return y

    net = Net(grows).eval()
    net.factor = torch.ones(())
    fusion = learned(net)
    net.factor = torch.tensor(-1e9)
    net.later.weight.data.mul_(20)
    with torch.no_grad():
        expected = net(pictures())
        with fusion.run(False, many=True):
            found = net(pictures())
    torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-4, atol=1e-6)
    assert not expected.isfinite().all()


def test_double_precision_is_not_fused() -> None:
    """The kernel is for single precision."""
    net = Net(FUSED["functional"]).double().eval()
    with torch.no_grad():
        learner = (fusion := Fusion(net, StateHash(net))).learner()
        with learner:
            net(pictures().double())
        fusion.learn(learner)
    with fusion.run(False, many=True) as fused:
        assert fused is None


def test_gradients_are_the_networks_own() -> None:
    """Where a graph is made nothing is fused; before it, everything is."""
    net = Net(FUSED["two in a row"]).eval()
    model, x = Model(net, space=images(9)), pictures().sigmoid()
    before = [model.gradient(x, 0, wrt=place).slope for place in ("input", "later")]
    model.is_steady(x)
    with known(model):
        after = [model.gradient(x, 0, wrt=place).slope for place in ("input", "later")]
    assert torch.equal(before[0], after[0])
    torch.testing.assert_close(before[1], after[1])
