"""Linear layers by the faster library: the same products, in the runs for which it is meant, and in no other."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from cutaway.core import linear
from cutaway.core.linear import Linears
from cutaway.core.model import Model
from cutaway.core.operations import Census, Places
from cutaway.core.space import rows
from cutaway.testing.nets import seeded

has_kernel = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch was built without oneDNN"
)


class Net(nn.Module):
    """Two linear layers, large enough to be worth it with 64 rows; the second without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(192, 256)
        self.second = nn.Linear(256, 192, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rows to rows."""
        return self.second(self.first(x).tanh())


@pytest.fixture(name="faster")
def _faster(monkeypatch):
    """A machine on which it pays, whatever this one is; gives the shapes of the layers that ran by oneDNN."""
    ran = []
    real = torch.ops.mkldnn._linear_pointwise

    def noted(x, weight, *more):
        ran.append((tuple(x.shape), tuple(weight.shape)))
        return real(x, weight, *more)

    monkeypatch.setattr(linear, "is_faster", lambda: True)
    monkeypatch.setattr(linear, "_product", noted)
    return ran


def given(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@has_kernel
@pytest.mark.parametrize("shape", [(64, 192), (4, 16, 192), (2, 2, 16, 192)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_the_same_for_any_shape(faster, shape, bias):
    layer = seeded(lambda: nn.Linear(192, 256, bias=bias), seed=1).float()
    x = given(*shape)
    with torch.no_grad():
        wanted = layer(x)
        with Linears():
            found = layer(x)
    assert len(faster) == 1
    assert found.shape == wanted.shape
    assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@has_kernel
def test_tensors_that_are_not_in_a_row_are_taken(faster):
    weight, x = given(192, 256).T, given(64, 2, 192)[:, 1]
    with torch.no_grad(), Linears():
        assert_close(F.linear(x, weight), x @ weight.T, rtol=1e-5, atol=1e-4)
        assert_close(F.linear(x, weight.contiguous()), x @ weight.T, rtol=1e-5, atol=1e-4)
    assert len(faster) == 1  # a weight that is not in a row is left to torch


@has_kernel
def test_what_is_not_finite_stays_so(faster):
    x, weight = given(64, 192), given(256, 192)
    x[0, 0], x[1, 1], x[2, 2] = torch.nan, torch.inf, -torch.inf
    with torch.no_grad(), Linears():
        found = F.linear(x, weight)
    assert torch.equal(found.isfinite().all(1), x.isfinite().all(1))
    assert len(faster) == 1


@has_kernel
@pytest.mark.parametrize("kind", ["gradient", "double", "small", "keyword"])
def test_other_products_are_left_to_torch(faster, kind):
    x = given(2 if kind == "small" else 64, 192).to(torch.double if kind == "double" else torch.float)
    weight = given(256, 192).to(x.dtype).requires_grad_(kind == "gradient")
    with torch.set_grad_enabled(kind == "gradient"), Linears():
        found = F.linear(x, weight=weight) if kind == "keyword" else F.linear(x, weight)
    assert torch.equal(found, x @ weight.T) or kind == "small"
    assert_close(found, x @ weight.T)
    assert found.requires_grad == (kind == "gradient")
    assert faster == []


@has_kernel
def test_other_modes_see_the_operation_that_they_know(faster):
    net = seeded(Net, seed=2).float()
    with torch.no_grad(), Linears(), Census(Places(net)) as census:
        net(given(64, 192))
    assert [operation.name for operation in census.met].count("linear") == 2
    assert len(faster) == 2


def test_a_machine_without_the_gain_is_left_alone(monkeypatch):
    monkeypatch.setattr(linear, "is_faster", lambda: False)
    monkeypatch.setattr(linear, "_product", None)
    net, x = seeded(Net, seed=2).float(), given(64, 192)
    with torch.no_grad(), Linears() as linears:
        assert torch.equal(net(x), net(x))
    assert not linears.pays(64)


def test_it_pays_where_linear_layers_are_most_of_the_work(monkeypatch):
    monkeypatch.setattr(linear, "is_faster", lambda: True)
    net, x = seeded(Net, seed=2).float(), given(1, 192)
    with torch.no_grad(), Linears() as linears:
        net(x)
    assert linears.work == 2 * 192 * 256
    assert linears.pays(64)
    assert not linears.pays(8)
    with torch.no_grad(), linears:
        for _ in range(1000):
            x + 1
    assert not linears.pays(64)


@has_kernel
def test_a_model_runs_its_linear_layers_so_where_that_pays(faster):
    net, x = seeded(Net, seed=2).float(), given(64, 192).clamp(-1, 1)
    model = Model(net, rows(192, low=-1, high=1))
    assert not model.run(x).output.isnan().any()
    assert faster == []  # nothing is known of the network yet
    assert model.is_steady(x)
    model.run(x)
    ran = len(faster)
    assert ran > 0
    assert_close(model.run(x).output, net(x).detach(), rtol=1e-5, atol=1e-5)
    gradient = model.gradient(x, 0).slope
    leaf = x.clone().requires_grad_()
    net(leaf)[:, 0].sum().backward()
    assert_close(gradient, leaf.grad, rtol=1e-6, atol=1e-6)
    assert len(faster) == ran + ran  # none of them in the gradient


@has_kernel
def test_somebody_who_looks_at_operations_sees_all(faster):
    net, x = seeded(Net, seed=2).float(), given(64, 192).clamp(-1, 1)
    model = Model(net, rows(192, low=-1, high=1))
    model.is_steady(x)
    faster.clear()
    with Census(Places(net)) as census:
        model.run(x)
    assert [op.name for op in census.met].count("linear") == 2
    assert faster == []
