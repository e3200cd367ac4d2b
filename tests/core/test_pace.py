"""What makes runs fast changes no answer: batch sizes, memory layout, recorded prefixes."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.core.model import Model
from cutaway.core.pace import Widest, keep_freed_memory, rows_at_once
from cutaway.core.space import images
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.nets import seeded

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("largest", "rows"), [(0, 8), (1000, 64), (2**16, 16), (2**17, 8), (5 * 2**20, 4), (20 * 2**20, 1), (2**40, 1)]
)
def test_fewer_inputs_at_once_where_an_activation_is_large(largest, rows):
    assert rows_at_once(CPU, largest) == rows


def test_a_given_batch_size_is_kept():
    model = tiny_model("conv", batch_size=3)
    x, seen = inputs_for(model, 7), []
    model.is_steady(x)
    model.module.conv1.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    model.run(x)
    assert seen == [3, 3, 1]


def test_the_largest_result_of_a_forward_is_seen():
    with Widest() as widest:
        (torch.ones(10) * torch.ones(30, 1)).sum()
    assert widest.bytes == 10 * 30 * 4


def test_keeping_memory_is_harmless():
    keep_freed_memory()


class ViewingBack(torch.autograd.Function):
    """The square, whose backward pass takes only one layout of memory."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, signal):
        (x,) = ctx.saved_tensors
        return (2 * x.view(-1) * signal.reshape(-1)).view(x.shape)


class Viewing(nn.Module):
    """Flattens with `view`, which takes only one layout of memory."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 14 * 14, 2)
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv(x)
        return self.fc(h.reshape(len(h), -1) if len(h) == self.size else h.view(len(h), -1))


@pytest.mark.parametrize("size", [None, 2])
def test_a_network_that_takes_only_one_layout_of_memory_gets_it(size):
    """With 2, the first look at a pair succeeds, and only a larger batch shows the difference."""
    model = Model(seeded(lambda: Viewing(size)).float(), images(16))
    x = inputs_for(model, 5)
    with torch.no_grad():
        expected = model.module(x)
    slope = model.gradient(x, 1).slope
    assert model.is_steady(x)
    assert model._runner.channels_last == (size == 2)
    assert_close(model.run(x).output, expected)
    assert_close(model.run(x).output, expected)
    model._runner.channels_last = model._runner.layouts_agree = size == 2
    assert_close(model.gradient(x, 1).slope, slope)


def test_a_backward_pass_that_takes_only_one_layout_of_memory_gets_it():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return ViewingBack.apply(self.conv(x)).mean((2, 3))

    model = Model(seeded(Net).float(), images(16))
    x = inputs_for(model, 3)
    expected = model.gradient(x, 1).slope
    assert model.is_steady(x)
    assert model._runner.channels_last
    model._runner.layouts_agree = True
    assert_close(model.gradient(x, 1).slope, expected)
    assert not model._runner.channels_last


@pytest.mark.parametrize(("name", "first"), [("conv", "conv1"), ("residual", "stem")])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("agree", [True, False])
def test_the_layout_of_memory_does_not_show_in_what_is_read(name, first, count, agree):
    model = tiny_model(name, torch.float32)
    x, inner_layout = inputs_for(model, count), []
    plain, slopes = model.run(x, read=[first, "output"]), model.gradient(x, 1, wrt=first)
    model.is_steady(x)
    model._runner.layouts_agree = agree
    model.module.get_submodule(first).register_forward_pre_hook(
        lambda module, args: inner_layout.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    again, sloped = model.run(x, read=[first, "output"]), model.gradient(x, 1, wrt=first)
    assert inner_layout == [agree or count > 1, agree]
    for a, b in [*((again[site], plain[site]) for site in plain), *zip(sloped, slopes, strict=True)]:
        assert a.is_contiguous()
        assert_close(a, b)


@pytest.mark.parametrize("agree", [True, False])
def test_gradients_are_laid_out_anew_only_where_no_bit_changes(agree):
    class Nudged(torch.autograd.Function):
        """Nothing, but for a rounding error in one layout."""

        @staticmethod
        def forward(ctx, x):
            ctx.usual = x.is_contiguous()
            return x.clone()

        @staticmethod
        def backward(ctx, signal):
            return signal if ctx.usual or agree else signal * (1 + 1e-6)

    class Net(nn.Module):
        def forward(self, x):
            return Nudged.apply(x).amax((2, 3))

    model = Model(Net(), images(8))
    assert model.is_steady(torch.rand(1, 3, 8, 8))
    assert (model._runner.channels_last, model._runner.layouts_agree) == (True, agree)


def test_in_double_precision_the_usual_layout_is_the_faster_one():
    model = tiny_model("conv")
    assert model.is_steady(inputs_for(model, 1))
    assert not model._runner.channels_last


def test_a_prefix_keeps_only_what_is_used_after_the_place():
    model = tiny_model("conv")
    prefix = model.prefix(inputs_for(model, 1), "relu2")
    assert prefix.calls is not None
    kept = [call for call in prefix.calls if call.depends and call.needed]
    assert len(kept) <= 1
    assert len(prefix.calls) > 5
