"""The vocabulary of operations: every operation of the test networks has a kind, and rules can answer all of them."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.errors import NotPossible
from cutaway.core.rules import ForEveryOperation, kind_of, refused_when_reached, signals, where, with_backward
from cutaway.core.unrolled import UNROLLED
from cutaway.testing.models import inputs_for, tiny_model, tiny_models
from networks import bilstm, resnet18


@pytest.mark.parametrize("name", sorted(tiny_models()))
def test_every_operation_of_the_test_networks_has_a_kind(name):
    model = tiny_model(name)
    met = {operation.name for operation in model.census(inputs_for(model))}
    # Made from weights alone, or from nothing: no signal passes there.
    assert {n for n in met if kind_of(n) == "unknown"} <= {"weight_norm", "zeros"}


def test_the_kinds_are_what_a_reader_expects():
    kinds = {
        "conv2d": "linear",
        "add": "sum",
        "avg_pool2d": "sum",
        "max_pool2d": "winner",
        "matmul": "product",
        "gelu": "activation",
        "layer_norm": "normalisation",
        "softmax": "softmax",
        "lstm": "composite",
        "cat": "structural",
        "argmax": "silent",
        "fft_fft": "unknown",
    }
    assert {name: kind_of(name) for name in kinds} == kinds
    assert all(kind_of(name) == "composite" for name in UNROLLED)


def test_one_rule_answers_every_operation_and_sees_its_signals():
    seen = []

    def rule(call):
        seen.append((where(call), len(signals(call))))
        return NotImplemented

    model = tiny_model("mlp")
    x = inputs_for(model)
    rules = ForEveryOperation(rule)
    ruled = model.gradient(x, 1, rules=rules)
    assert_close(ruled.slope, model.gradient(x, 1).slope)
    assert ("linear in first", 1) in seen
    assert ("relu in act", 1) in seen
    assert len(rules) == len(list(rules))


def test_a_refusal_waits_for_the_signal():
    class Aside(nn.Module):
        def __init__(self, used):
            super().__init__()
            self.used = used

        def forward(self, x):
            odd = torch.cumsum(x, 1)
            return odd if self.used else x * 2

    def rule(call):
        if call.name == "cumsum":
            return refused_when_reached(call, call.run(), f"no rule for {where(call)}")
        return NotImplemented

    x = torch.ones(1, 3)
    ct.Model(Aside(False), ct.rows(3), scores="values").gradient(x, 1, rules=ForEveryOperation(rule))
    with pytest.raises(NotPossible, match="cumsum in the top of the network"):
        ct.Model(Aside(True), ct.rows(3), scores="values").gradient(x, 1, rules=ForEveryOperation(rule))


def test_an_operation_may_have_a_backward_pass_of_its_own():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = with_backward(lambda: x.detach() ** 3, lambda signal: (signal * 7,), x)
    assert_close(y.detach(), torch.tensor([1.0, 8.0]))
    assert_close(torch.autograd.grad(y.sum(), x)[0], torch.tensor([7.0, 7.0]))


def test_the_larger_test_networks_have_their_well_known_shapes():
    net = resnet18()
    assert sum(p.numel() for p in net.parameters()) == 11_689_512
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    assert bilstm()(torch.zeros(2, 5, dtype=torch.long)).shape == (2, 3)
