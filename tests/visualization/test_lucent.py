"""The same objectives, colours and waves as torch-lucent, whose search is another in the details."""

import sys
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from cutaway.core.target import Target
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.visualization.canvas import coloured, easel, falloff
from cutaway.visualization.diversity import Diverse

pytestmark = pytest.mark.peers


@pytest.fixture
def lucent(monkeypatch):
    # It imports a notebook to show pictures in, which nothing here asks for.
    for name in ("IPython", "IPython.display"):
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
    optvis = pytest.importorskip("lucent.optvis", reason="torch-lucent is not installed")
    for name in ("objectives", "param.color", "param.spatial"):
        pytest.importorskip(f"lucent.optvis.{name}", reason="something that torch-lucent imports is not installed")
    return optvis


@pytest.mark.filterwarnings("ignore")
def test_objectives_have_the_same_values(lucent):
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    act = model.run(x, read=["conv2"])["conv2"]
    theirs = lucent.objectives
    for k in range(3):
        ours = Target.of(f'unit("conv2:{k}")')(model.run(x, read=["conv2"]))
        assert_close(ours.mean(), -theirs.channel("conv2", k)(lambda layer: act))
        one = Target.of(f'unit("conv2:{k}@2,1")')(model.run(x, read=["conv2"]))
        assert_close(one.mean(), -theirs.neuron("conv2", k, x=1, y=2)(lambda layer: act))


@pytest.mark.filterwarnings("ignore")
def test_likeness_is_the_same_and_only_its_weight_differs(lucent):
    model = tiny_model("conv")
    x, aim = inputs_for(model, 3), Target.of('unit("conv2:1")')
    trace = model.run(x, read=["conv2"])
    diverse = Diverse([aim], copies=3, weight=0.5)
    diverse.aims()(trace)  # what each looks like, for the next step
    lost = aim(trace) - diverse.aims()(trace)
    # Theirs is the mean over pictures of the sum over the others, and has a minus: it is to be made small there, too.
    theirs = lucent.objectives.diversity("conv2")(lambda layer: trace["conv2"]).abs()
    assert_close((lost / aim(trace).abs()).mean(), 2 * 0.5 * theirs / 2)


def test_colours_are_mixed_alike(lucent):
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert_close(coloured(x), lucent.param.color._linear_decorrelate_color(x), rtol=1e-5, atol=1e-6)


def test_waves_begin_with_the_same_power(lucent):
    side, count = 16, 400
    _, paint = lucent.param.spatial.fft_image((count, 1, side, side))
    theirs = torch.fft.fft2(paint().detach(), norm="ortho").abs().square().mean((0, 1))
    ours = (0.01 * falloff(side, side).float()).square()
    inside = torch.ones(side, side, dtype=torch.bool)
    inside[:, [0, side // 2]] = False  # there their transform drops half of the numbers
    assert float((theirs / ours)[inside].mean()) == pytest.approx(1.0, abs=0.05)
    start = easel("fourier", 1, count, (1, side, side), torch.Generator().manual_seed(0), torch.empty(0))
    drawn = torch.fft.fft2(torch.logit(start.paint(start.parameters)), norm="ortho").abs().square().mean((0, 1))
    assert float((drawn / ours)[inside].mean()) == pytest.approx(1.0, abs=0.05)
