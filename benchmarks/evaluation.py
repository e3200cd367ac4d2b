"""Tests of explanations beside Quantus 0.6, on 8 photos, and beside the bare passes that the numbers need.

    python benchmarks/evaluation.py [resnet18] [efficientnet-lite0] [flipping] [foretelling] [randomising] [moving]

The maps are gradients of one channel; all but the first are seen through noise, so that their orders differ.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import quantus
import torch

import cutaway as ct
from cutaway.attribution.gradient import gradient
from cutaway.core.result import Attribution
from cutaway.evaluation.flipping import MOST, pixel_flipping
from cutaway.evaluation.foretold import sensitivity_n
from cutaway.evaluation.moves import max_sensitivity
from cutaway.evaluation.sanity import parameter_randomization
from harness import RESULTS, Contender, figures, race, save

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import networks

warnings.filterwarnings("ignore")
MAPS, POINTS, SETS, DRAWS, SIDE = 4, 16, 50, 10, 224
QUIET = {"disable_warnings": True, "display_progressbar": False, "abs": False, "normalise": False}
Figures = dict[str, dict[str, float]]


class Normalised(torch.nn.Module):
    """The network with its normalisation inside, as Quantus wants it."""

    def __init__(self, model: ct.Model) -> None:
        super().__init__()
        self.net, self.space = model.module, model.space

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.net(self.space.normalised(pixels))


class Setting:
    """One network, 8 photos, and some maps."""

    def __init__(self, name: str) -> None:
        self.name, self.x = name, ct.data("imagenet-samples[0:400:50]").x
        self.model = self.fresh()
        self.net = Normalised(self.model).eval()
        self.classes = self.model.run(self.x).scores.argmax(1)
        self.before = self.model.run(self.x).scores[torch.arange(8), self.classes].double()
        why = gradient(self.model, self.x, self.classes.tolist())
        slope, noise = why.values.sum(1, keepdim=True), torch.Generator().manual_seed(0)
        spread = slope.flatten(1).std(1).view(-1, 1, 1, 1)
        values = [slope + k * spread * torch.randn(slope.shape, generator=noise) for k in range(MAPS)]
        self.maps = [Attribution(values=v, target=why.target) for v in values]

    def fresh(self) -> ct.Model:
        """The network, with nothing remembered of earlier calls."""
        if self.name == "resnet18":
            return ct.Model(networks.resnet18(), ct.images(SIDE), name=self.name)
        return ct.load(self.name)

    def forwards(self, passes: int) -> Callable[[], None]:
        """Bare forwards of the 8 photos."""

        def run() -> None:
            with torch.no_grad():
                for _ in range(passes):
                    self.net(self.x)

        return run

    def slopes(self, passes: int) -> Callable[[], None]:
        """Bare forwards and backwards of the 8 photos."""

        def run() -> None:
            for _ in range(passes):
                leaf = self.x.clone().requires_grad_()
                torch.autograd.grad(self.net(leaf)[torch.arange(8), self.classes].sum(), leaf)

        return run

    def ask(self, metric: Any, **more: Any) -> Any:
        """Quantus's answer."""
        given = {"x_batch": self.x.numpy(), "y_batch": self.classes.numpy(), "channel_first": True, "softmax": False}
        return metric(model=self.net, **given, **more)


def slope_of(model: torch.nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray[Any, Any]:
    """The gradient, for Quantus: three channels added up."""
    leaf = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
    score = model(leaf)[torch.arange(len(leaf)), torch.as_tensor(targets)].sum()
    return torch.autograd.grad(score, leaf)[0].sum(1, keepdim=True).numpy()


def flipping(s: Setting) -> Figures:
    """The score while pixels go, most relevant first.

    Quantus wants a step that divides the number of pixels, a third of one of ours: every third of its points is ours.
    """
    third = SIDE * SIDE // POINTS

    def theirs() -> torch.Tensor:
        metric = quantus.PixelFlipping(features_in_step=third, perturb_baseline=0.0, **QUIET)
        return torch.tensor(np.stack([s.ask(metric, a_batch=m.values.numpy()) for m in s.maps])).double()

    def ours() -> torch.Tensor:
        model = s.fresh()
        found = [pixel_flipping(model, s.x, m, fills="zero", cells=0, share=1.0, orders=2) for m in s.maps]
        return torch.stack([one.y[MOST] for one in found])

    mine = f"cutaway, {POINTS} points, with the opposite order and 4 controls"
    found = race(
        f"{s.name}: pixel flipping, {MAPS} maps",
        [
            Contender(f"the bare forwards of one map, {3 * POINTS} points", s.forwards(3 * POINTS)),
            Contender(f"quantus, {3 * POINTS} points", theirs),
            Contender(mine, ours),
        ],
        rounds=1,
        warm_up=False,
    )
    fall = (s.before[None, :, None] - found[f"quantus, {3 * POINTS} points"].answer).mean(1)
    fall, ours_fall = torch.cat([torch.zeros(MAPS, 1, dtype=torch.float64), fall], 1), found[mine].answer
    off = float((ours_fall - fall[:, ::3]).abs().max() / fall.abs().max())
    areas = [torch.trapezoid(f, torch.linspace(0, 1, f.shape[1], dtype=torch.float64)) for f in (fall, ours_fall)]
    error = float((areas[0] - areas[1]).abs().max() / areas[0].abs().max())
    print(f"  common points differ by {off:.1e} of the largest, the area of {POINTS} and {3 * POINTS} by {error:.2%}")
    assert off < 1e-3
    return figures(found) | {"area": {"difference": error}}


def foretelling(s: Setting) -> Figures:
    """Correlation of sums with falls over random sets: theirs of 224 entries, ours of 75 pixels, which are as many."""

    def theirs() -> torch.Tensor:
        np.random.seed(0)  # noqa: NPY002  # Quantus draws from the global generator
        metric = quantus.FaithfulnessCorrelation(nr_runs=SETS, subset_size=224, perturb_baseline=0.0, **QUIET)
        return torch.tensor(np.stack([s.ask(metric, a_batch=m.values.numpy()) for m in s.maps]))

    def ours() -> torch.Tensor:
        model = s.fresh()
        found = [sensitivity_n(model, s.x, m, cells=28, points=1, samples=SETS) for m in s.maps]
        return torch.stack([one.y["this map"][0] for one in found])

    found = race(
        f"{s.name}: faithfulness correlation, {MAPS} maps",
        [
            Contender("the bare forwards of one map", s.forwards(SETS)),
            Contender("quantus", theirs),
            Contender("cutaway", ours),
        ],
        rounds=1,
        warm_up=False,
    )
    return figures(found)


def randomising(s: Setting) -> Figures:
    """The map again at every layer, from the output down, and its rank correlation with the original."""
    layers = sum(hasattr(m, "reset_parameters") for m in s.net.modules())

    def theirs() -> float:
        metric = quantus.MPRT(**QUIET)
        found = s.ask(metric, a_batch=s.maps[0].values.numpy(), explain_func=slope_of)
        return float(np.mean(list(found.values())[-1]))

    def ours(stages: int) -> float:
        curve = parameter_randomization(s.model, s.x, gradient(s.model, s.x, s.classes.tolist()), stages=stages)
        assert stages < layers or len(curve.x) == layers + 1
        return float(curve.y["rank correlation"][-1])

    found = race(
        f"{s.name}: parameter randomisation, {layers} layers",
        [
            Contender("the bare forwards and backwards", s.slopes(layers)),
            Contender("quantus", theirs),
            Contender("cutaway, every layer", lambda: ours(layers)),
            Contender("cutaway, 6 of these stages", lambda: ours(6)),
        ],
        rounds=1,
        warm_up=False,
    )
    last = [one.answer for one in found.values()][1:]
    print("  correlation when all layers are random:", [round(v, 3) for v in last])
    assert max(map(abs, last)) < 0.2, "nothing is left of the gradient, whichever weights were drawn"
    assert last[1] == last[2], "how layers are grouped does not change what is drawn"
    return figures(found)


def moving(s: Setting) -> Figures:
    """The largest relative change of the gradient under uniform noise."""

    def theirs() -> torch.Tensor:
        np.random.seed(0)  # noqa: NPY002  # Quantus draws from the global generator
        metric = quantus.MaxSensitivity(nr_samples=DRAWS, lower_bound=0.02, **QUIET)
        return torch.tensor(s.ask(metric, a_batch=s.maps[0].values.numpy(), explain_func=slope_of))

    found = race(
        f"{s.name}: max-sensitivity, {DRAWS} draws",
        [
            Contender("the bare forwards and backwards", s.slopes(DRAWS)),
            Contender("quantus", theirs),
            Contender(
                "cutaway", lambda: max_sensitivity(s.model, s.x, summed, samples=DRAWS, target=s.classes.tolist())
            ),
        ],
        rounds=1,
        warm_up=False,
    )
    ours, mean = float(found["cutaway"].answer.values[0]), float(found["quantus"].answer.mean())
    print(f"  largest change on average: {ours:.3f}, quantus {mean:.3f}")
    assert abs(ours - mean) < 0.1 * mean, "other draws of the same noise"
    return figures(found)


def summed(model: ct.Model, x: torch.Tensor, target: Any) -> torch.Tensor:
    """The gradient with its channels added up."""
    return model.gradient(x, target).slope.sum(1, keepdim=True)


TASKS = {f.__name__: f for f in (flipping, foretelling, randomising, moving)}

if __name__ == "__main__":
    known = RESULTS / "evaluation.json"
    everything = json.loads(known.read_text())["figures"] if known.exists() else {}
    asked = sys.argv[1:]
    for network in [name for name in asked if name not in TASKS] or ("resnet18", "efficientnet-lite0"):
        setting = Setting(network)
        for task in [name for name in asked if name in TASKS] or TASKS:
            everything.setdefault(network, {})[task] = TASKS[task](setting)
            save(__file__, everything)
