"""Whatever happens inside a call, the network comes back as it was."""

import random
import threading
import time
from collections import Counter, deque

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.core.borrow import borrowed
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.parts import parts
from cutaway.core.space import images, rows
from cutaway.testing import nets, sequences
from cutaway.testing.models import inputs_for, text_model, tiny_model
from cutaway.testing.state import differences, state_of
from cutaway.testing.troubled import Stateful, Tripwire, WritesParameter

ERRORS = [RuntimeError("tripped"), KeyboardInterrupt(), MemoryError("out of memory"), SystemExit(3)]


def used():
    """A network in the middle of somebody's training: mixed modes, gradients, hooks, frozen parameters."""
    net = nets.seeded(nets.ConvNet)
    net.train()
    net.bn1.eval()
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    net.conv1.weight.requires_grad_(False)
    net.conv2.register_forward_hook(lambda m, a, o: None)
    net.conv2.register_forward_pre_hook(lambda m, a: None)
    net.fc.register_full_backward_hook(lambda m, a, o: None)
    return Tripwire(net)


def calls(model, x):
    """All that a method can ask of a model."""
    model.run(x, read=["inner.conv2", "output"], edit={"inner.relu1:1": 0.0})
    model.gradient(x, 1, wrt="inner.conv1", rules={"relu": lambda call: NotImplemented})
    model.layers(x)
    model.census(x)


def test_a_success_leaves_nothing_behind():
    net = used()
    model, x = Model(net, images(16)), torch.rand(3, 3, 16, 16, dtype=torch.float64)
    before = state_of(net, x)
    calls(model, x)
    prefix = model.prefix(x[:1], "inner.conv2")
    model.run(None, prefix=prefix, edit={"inner.conv2": prefix.value})
    assert differences(before, state_of(net, x)) == []
    assert len(net.tally) > 5


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("at", range(1, 5))
def test_an_error_at_any_forward_leaves_nothing_behind(error, at):
    net = used()
    model, x = Model(net, images(16), batch_size=1), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    net.plan.at, net.plan.error = at, error
    before = state_of(net, x)
    with pytest.raises((type(error), NotPossible)) as caught:
        calls(model, x)
    assert caught.value is error or caught.value.__cause__ is error
    assert differences(before, state_of(net, x)) == []


def test_random_states_survive():
    net = used()
    model, x = Model(net, images(16)), torch.rand(1, 3, 16, 16, dtype=torch.float64)

    class Draws(nn.Module):
        def forward(self, inner):
            torch.rand(3)
            np.random.rand(3)  # noqa: NPY002 what the forward of a user may do
            random.random()
            return inner

    net.inner.drop = Draws()
    before = state_of(net, x)
    model.run(x)
    assert differences(before, state_of(net, x)) == []


def test_what_a_forward_remembers_is_forgotten():
    net = nets.seeded(Stateful)
    before = state_of(net)
    Model(net, rows(4)).run(torch.zeros(20, 4))
    assert differences(before, state_of(net)) == []
    assert (net.hidden, net.log, int(net.calls), float(net.seen)) == (None, [], 0, 0)
    assert not hasattr(net, "fresh")


def test_containers_are_filled_again_as_they_were():
    class Collects(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.empty, self.queue, self.counts = {}, deque([1, 2], maxlen=2), Counter("aab")
            self.shared, self.names, self.order = shared, {"b", "a"}, {"second": 2, "first": 1}

        def forward(self, x):
            self.empty["x"] = x
            self.queue.append(3)
            self.counts.update("abc")
            self.shared += [x]
            self.names.discard("a")
            self.order["second"] = self.order.pop("second")
            self.renamed = self.__dict__.pop("names")
            return x

    shared = [1, 2]
    first, second = Collects(shared), Collects(shared)
    held = [first.empty, first.queue, first.counts, first.shared, first.names, first.order]
    Model(nn.Sequential(first, second), rows(4)).run(torch.zeros(2, 4))
    assert held == [{}, deque([1, 2]), Counter("aab"), [1, 2], {"a", "b"}, {"first": 1, "second": 2}]
    assert list(first.order) == ["second", "first"]
    now = [first.empty, first.queue, first.counts, first.shared, first.names, first.order]
    assert all(a is b for a, b in zip(held, now, strict=True))
    assert first.shared is second.shared
    assert first.queue.maxlen == 2
    assert not hasattr(first, "renamed")


@pytest.mark.parametrize("touched", [["count"], ["mean"], ["plain"], ["turned"], ["replaced"], ["count", "replaced"]])
def test_buffers_and_plain_tensors_changed_through_data_are_put_back(touched):
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.tensor(0))
            self.register_buffer("mean", torch.zeros(3))
            self.plain = torch.ones(2, 2)
            self.turned = torch.arange(6.0).view(2, 3).t()
            self.replaced = torch.arange(6.0).view(2, 3)

        def forward(self, x):
            for t in [getattr(self, name) for name in touched]:
                t.data.add_(1)
            if "replaced" in touched:
                self.replaced.data = self.replaced.data.flip(0)
            return x

    net = Writes()
    before = state_of(net)
    Model(net, rows(4)).run(torch.zeros(2, 4))
    assert differences(before, state_of(net)) == []


def test_parts_are_those_that_torch_lists():
    for net in (nets.seeded(nets.ConvNet), nn.MultiheadAttention(8, 2), nn.ModuleList([None, nn.ReLU()])):
        net.again = next(net.children())  # one module at two places
        assert parts(net) == list(net.modules())


def test_what_a_forward_adds_to_the_module_tree_is_removed():
    class Grows(nn.Module):
        def forward(self, x):
            self.extra = nn.Linear(4, 4).to(x.dtype)
            self.register_buffer("cache", x.mean())
            self.extra.register_forward_hook(lambda m, a, o: None)
            self.register_forward_hook(lambda m, a, o: None)
            return self.extra(x)

    net = Grows()
    before = state_of(net)
    Model(net, rows(4)).run(torch.zeros(2, 4))
    assert differences(before, state_of(net)) == []
    assert not list(net.children())


@pytest.mark.parametrize("batch_first", [True, False])
def test_frozen_and_eval_networks_stay_frozen_and_eval(batch_first):
    net = nets.seeded(lambda: sequences.Encoder(batch_first=batch_first)).requires_grad_(False)
    x = torch.rand(2, 3, 16, 16)
    before = state_of(net, x)
    Model(net, images(16)).gradient(x, 1)
    assert differences(before, state_of(net, x)) == []


def test_a_forward_that_writes_into_a_parameter_is_refused_by_name():
    model = Model(WritesParameter(), rows(4))
    with pytest.raises(NotPossible, match=r"parameter 'fc\.weight'.*make it a buffer"):
        model.run(torch.zeros(2, 4))


@pytest.mark.parametrize(
    "caller", [torch.no_grad, torch.inference_mode, torch.enable_grad, lambda: torch.autocast("cpu")]
)
def test_the_callers_mode_neither_matters_nor_changes(caller):
    model = tiny_model("conv", torch.float32)
    x = inputs_for(model)
    expected = model.gradient(x, 1)
    with caller():
        inside = x * 1.0
        before = state_of(model.module)
        found = model.gradient(inside, 1, edit={"conv1:0": torch.zeros(3, 16, 16)})
        plain = model.gradient(inside, 1)
        assert differences(before, state_of(model.module)) == []
    assert_close(plain.slope, expected.slope)
    assert not torch.equal(found.slope, plain.slope)
    assert not found.slope.is_inference()


def test_text_works_in_inference_mode():
    model = text_model()
    expected = model.gradient("a good film", 1).slope
    with torch.inference_mode():
        assert_close(model.gradient("a good film", 1).slope, expected)


def test_the_default_dtype_of_the_caller_does_not_matter():
    model = tiny_model("conv")
    x = inputs_for(model)
    expected = model.gradient(x, "0.1 * prob(1)").slope
    torch.set_default_dtype(torch.float16)
    try:
        assert_close(model.gradient(x, "0.1 * prob(1)").slope, expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_module_compiled_in_place_is_run_as_written():
    net = nets.seeded(nets.Mlp)
    net.compile(backend="eager")
    impl = net._compiled_call_impl
    model = Model(net, rows(4))
    assert [op.name for op in model.census()] == ["linear", "relu", "linear"]
    assert model.run(torch.zeros(1, 4), read=["first"])["first"].shape == (1, 8)
    assert net._compiled_call_impl is impl


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_module_is_run_and_differentiated_but_not_looked_into():
    net = nets.seeded(nets.GapLinear)
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    scripted = torch.jit.trace(net, x, check_trace=False)
    model, plain = Model(scripted, images(16), name="scripted"), Model(net, images(16))
    assert_close(model.run(x).output, plain.run(x).output)
    assert_close(model.gradient(x, 1).slope, plain.gradient(x, 1).slope)
    for ask in (
        lambda: model.run(x, read=["conv"]),
        model.layers,
        model.census,
        lambda: model.gradient(x, 1, wrt="conv"),
    ):
        with pytest.raises(NotPossible, match="scripted is a scripted module.*what works: .*occlusion"):
            ask()


def test_nested_borrowing_restores_once_at_the_end():
    net = nets.seeded(nets.ConvNet).train()
    model = Model(net, images(16))
    with model.borrow():
        with model.borrow():
            assert not net.training
        assert not net.training
        assert model.was_training
    assert net.training


def test_hooks_of_the_user_keep_their_place():
    net = nets.seeded(nets.Mlp)
    order = []
    kept = [net.first.register_forward_hook(lambda m, a, o, k=k: order.append(k)) for k in range(3)]
    Model(net, rows(4)).run(torch.zeros(1, 4), read=["first"])
    assert order == [0, 1, 2]
    assert [h.id for h in kept] == list(net.first._forward_hooks)


def test_a_generator_that_is_closed_gives_the_network_back():
    net = nets.seeded(nets.ConvNet).train()

    def work():
        with borrowed(net):
            yield 1
            yield 2

    before = state_of(net)
    steps = work()
    next(steps)
    assert not net.training
    steps.close()
    assert differences(before, state_of(net)) == []


def test_a_second_thread_waits():
    net = nets.seeded(nets.Mlp).train()
    model, inside, errors = Model(net, rows(4)), [], []

    class Slow(nn.Module):
        def forward(self, h):
            inside.append(threading.get_ident())
            time.sleep(0.02)
            if inside[-1] != threading.get_ident() or net.training:
                errors.append("another thread was inside")
            return h.relu()

    net.act = Slow()
    x = torch.randn(4, 4, dtype=torch.float64)
    expected = model.gradient(x, 1, edit={"first:0": 0.0}).slope
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(model.gradient(x, 1, edit={"first:0": 0.0}).slope))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(found) == 4
    assert all(torch.equal(f, expected) for f in found)
    assert net.training


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "tied"])
@pytest.mark.parametrize("training", [True, False])
def test_parametrised_and_tied_weights_are_unchanged(name, training):
    model = tiny_model(name)
    model.module.train(training)
    before = state_of(model.module)
    model.gradient(inputs_for(model), 1)
    assert differences(before, state_of(model.module)) == []


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_old_weight_norm_is_unchanged():
    net = nets.seeded(lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3))))
    before = state_of(net)
    Model(net, rows(4)).gradient(torch.zeros(1, 4), 1)
    assert differences(before, state_of(net)) == []
