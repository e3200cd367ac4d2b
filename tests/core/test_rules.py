"""Rules see operations, however they are written."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from cutaway.core.model import Model
from cutaway.core.operations import Call, operation_name
from cutaway.core.space import rows
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model


class Guided(torch.autograd.Function):
    """max(x, 0), whose backward passes positive gradients only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad.clamp(min=0) * (x > 0)


def guided(call):
    if call.name == "clamp" and call.argument("min", call.kwargs.get("min")) != 0:
        return NotImplemented
    return call.deliver(Guided.apply(call.args[0].clone()))


RULES = {"relu": guided, "clamp": guided}


@pytest.mark.parametrize("style", ["module", "functional", "clamp", "inplace"])
def test_every_spelling_of_relu_is_under_the_rule(style):
    net = nets.seeded(lambda: nets.Mlp(style))
    model = Model(net, rows(4))
    x = inputs_for(model, 5)
    h = net.first(x)
    expected = (net.last.weight[1].clamp(min=0) * (h > 0)) @ net.first.weight
    assert_close(model.gradient(x, 1, rules=RULES).slope, expected.detach())
    assert not torch.allclose(model.gradient(x, 1).slope, expected)


def test_a_reused_module_is_under_the_rule_at_each_call():
    seen = []
    model = tiny_model("reused")

    def note(call):
        seen.append(call.site)
        return NotImplemented

    plain = model.gradient(inputs_for(model), 0)
    ruled = model.gradient(inputs_for(model), 0, rules={"relu": note})
    assert seen == ["act", "act"]
    assert_close(plain.slope, ruled.slope)


def test_products_and_sums_are_seen_as_operators():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.eye(4)[:, :3].clone())

        def forward(self, x):
            y = x @ self.w
            y += 1
            return (1 - y) * 2 / 3

    seen = []

    def note(call):
        seen.append((call.name, call.in_place))
        return NotImplemented

    names = ("matmul", "add", "sub", "rsub", "mul", "div")
    Model(Plain(), rows(4)).gradient(torch.ones(2, 4), 0, rules=dict.fromkeys(names, note))
    assert seen == [("matmul", False), ("add", True), ("rsub", False), ("mul", False), ("div", False)]


def test_rules_only_act_where_a_gradient_is_taken():
    def never(call):
        raise AssertionError("a rule was asked without a gradient")

    model = tiny_model("mlp")
    model.run(inputs_for(model), rules={"relu": never})


def test_rules_do_not_reach_what_lies_before_the_place():
    model = tiny_model("conv")
    x = inputs_for(model)
    seen = []
    model.gradient(x, 0, wrt="relu1", rules={"relu": lambda call: seen.append(call.site) or NotImplemented})
    # The graph begins at relu1; its own relu has no gradient to change.
    assert seen[-1] == "relu2"


def test_a_result_in_place_lands_in_the_argument():
    x = torch.tensor([-1.0, 2.0])
    call = Call("relu", "", torch.relu_, (x,), {})
    assert call.in_place
    assert call.run().tolist() == [0, 2]
    assert x.tolist() == [-1, 2]
    assert call.deliver(torch.tensor([5.0, 6.0])) is x
    assert x.tolist() == [5, 6]


@pytest.mark.parametrize(
    ("func", "name", "in_place"),
    [
        (F.relu, "relu", False),
        (torch.relu, "relu", False),
        (torch.Tensor.relu_, "relu", True),
        (torch.Tensor.__iadd__, "add", True),
        (torch.Tensor.__add__, "add", False),
        (torch.Tensor.__rsub__, "rsub", False),
        (torch.Tensor.__invert__, "invert", False),
        (torch.Tensor.clamp_min, "clamp", False),
        (torch.bmm, "matmul", False),
        (torch.Tensor.size, "", False),
    ],
)
def test_operations_have_one_name(func, name, in_place):
    assert operation_name(func) == name
    assert Call(name, "", func, (torch.zeros(1),), {}).in_place == in_place


def test_an_option_for_in_place_is_found_by_name_and_by_position():
    x = torch.zeros(1)
    assert Call("relu", "", F.relu, (x, True), {}).in_place
    assert Call("relu", "", F.relu, (x,), {"inplace": True}).in_place
    assert not Call("relu", "", F.relu, (x,), {}).in_place
