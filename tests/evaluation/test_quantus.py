"""Where the definitions agree, the numbers are those of Quantus 0.6."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.evaluation import moves
from cutaway.evaluation.foretold import _sets, sensitivity_n
from cutaway.evaluation.sanity import parameter_randomization
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import made

pytestmark = pytest.mark.peers
quantus = pytest.importorskip("quantus", reason="quantus is in requirements-peers.txt")
QUIET = {"disable_warnings": True, "display_progressbar": False, "abs": False, "normalise": False}


class Normalised(nn.Module):
    """The network with the normalisation that happens inside a `Model`, for a peer that takes modules."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.space = model.module, model.space

    def forward(self, x):
        return self.inner(self.space.normalised(x))


def asked(metric, net, x, values, **more):
    given = {"x_batch": x.numpy(), "y_batch": np.ones(len(x), dtype=int), "a_batch": values.numpy()}
    return metric(model=net.eval(), **given, channel_first=True, softmax=False, **more)


def slope_of(model, inputs, targets, **_):
    leaf = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
    score = model(leaf)[torch.arange(len(leaf)), torch.as_tensor(targets)].sum()
    return torch.autograd.grad(score, leaf)[0].numpy()


def test_sensitivity_n_is_its_faithfulness_correlation_for_the_same_sets(monkeypatch):
    """One size of sets, single pixels; Quantus is handed the sets that cutaway draws."""
    model = tiny_model("conv_grey", torch.float32)
    x = inputs_for(model, 2)
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    ours = sensitivity_n(model, x, made(values), cells=0, points=2, samples=20, seed=4)
    size, generator = int(ours.x[1]), torch.Generator().manual_seed(4)
    _sets(256, int(ours.x[0]), 20, generator)
    sets = [np.flatnonzero(row.numpy()) for row in _sets(256, size, 20, generator)]
    drawn = iter([one for one in sets for _ in range(2)])
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(drawn))
    metric = quantus.FaithfulnessCorrelation(nr_runs=20, subset_size=size, perturb_baseline=0.0, **QUIET)
    theirs = asked(metric, Normalised(model), x, values)
    assert float(ours.y["this map"][1]) == pytest.approx(float(np.mean(theirs)), abs=1e-4)


class Fixed(nn.Linear):
    """A layer whose initialiser does not depend on chance, so that two sides make the same network of it."""

    def reset_parameters(self):
        with torch.no_grad():
            steps = torch.arange(self.weight.numel(), dtype=self.weight.dtype).view_as(self.weight)
            self.weight.copy_(torch.sin(7 * steps) / self.in_features**0.5)
            self.bias.copy_(torch.cos(3 * torch.arange(len(self.bias), dtype=self.bias.dtype)))


def test_parameter_randomization_is_its_mprt_for_the_same_new_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), Fixed(64, 12), nn.Tanh(), Fixed(12, 8), nn.Tanh(), Fixed(8, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    model = Model(net, images(8, channels=1))
    x = inputs_for(model, 3)[..., :8, :8].contiguous()
    ours = parameter_randomization(model, x, "gradient", target=1, stages=50)
    values = torch.from_numpy(slope_of(net, x, [1, 1, 1]))
    theirs = asked(quantus.MPRT(**QUIET), net, x, values, explain_func=slope_of)
    means = torch.tensor([np.mean(row) for name, row in theirs.items() if name != "original"])
    assert len(means) == 3
    assert_close(ours.y["rank correlation"][1:], means.double(), atol=1e-5, rtol=0)


def test_max_sensitivity_is_its_max_sensitivity_for_the_same_noise():
    model = tiny_model("conv_grey", torch.float32)
    x = 0.3 + 0.4 * inputs_for(model, 2)  # away from the bounds: only cutaway clips
    noise = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = iter([(0.02 * (2 * one - 1)).float().numpy().reshape(1, -1) for one in noise])
    metric = quantus.MaxSensitivity(nr_samples=5, perturb_func=lambda arr, indices, **_: arr + next(steps), **QUIET)
    net = Normalised(model)
    values = torch.from_numpy(slope_of(net, x, [1, 1]))
    theirs = asked(metric, net, x, values, explain_func=slope_of)
    ours = moves.max_sensitivity(model, x, "gradient", target=1, radius=0.02, samples=5)
    assert ours["largest change"] == pytest.approx(float(np.mean(theirs)), rel=1e-4)
