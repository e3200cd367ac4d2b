"""Tests of explanations beside Quantus 0.6, on 8 photos, and beside the bare passes that the numbers need.

    python benchmarks/evaluation.py [resnet18] [efficientnet-lite0] [flipping] [foretelling] [randomising] [moving]

`flipping` and `foretelling` take gradients of one channel, all but the first seen through noise, so that their orders
differ. `randomising` and `moving` make maps again: one by one, and five that can be had from one pass.
"""

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import quantus
import torch

import cutaway as ct
from cutaway.attribution.cam import grad_cam, grad_cam_plus_plus, layer_cam
from cutaway.attribution.coarse import site_of
from cutaway.attribution.gradient import gradient, input_x_gradient
from cutaway.core.call import made_by
from cutaway.core.result import Attribution
from cutaway.core.site import Site
from cutaway.core.target import Target
from cutaway.evaluation.flipping import MOST, pixel_flipping
from cutaway.evaluation.foretold import sensitivity_n
from cutaway.evaluation.moves import max_sensitivity
from cutaway.evaluation.sanity import parameter_randomization
from cutaway.evaluation.together import together
from harness import RESULTS, Contender, equal, figures, race, save

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


# How Quantus makes the maps: a function for each, of bare torch, which does not go back farther than it must.
def slopes_of(model: torch.nn.Module, inputs: Any, targets: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The input, and the slope of the explained scores."""
    leaf = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_()
    score = model(leaf)[torch.arange(len(leaf)), torch.as_tensor(targets)].sum()
    return leaf.detach(), torch.autograd.grad(score, leaf)[0]


def slope_of(model: torch.nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray[Any, Any]:
    """The gradient, three channels added up."""
    return slopes_of(model, inputs, targets)[1].sum(1, keepdim=True).numpy()


def product_of(model: torch.nn.Module, inputs: Any, targets: Any, **_: Any) -> np.ndarray[Any, Any]:
    """Input times gradient, three channels added up."""
    value, slope = slopes_of(model, inputs, targets)
    return (value * slope).sum(1, keepdim=True).numpy()


def coarse(site: Site, weigh: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """A coarse map from the activations and slopes of one layer."""

    def explain(model: Any, inputs: Any, targets: Any, **_: Any) -> np.ndarray[Any, Any]:
        acts: list[torch.Tensor] = []

        def keep(module: torch.nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
            acts.append(output)
            return output.clone()  # what follows may work in place

        handle = model.net.get_submodule(site.module).register_forward_hook(keep)
        x = torch.as_tensor(np.asarray(inputs), dtype=torch.float32)
        score = model(x)[torch.arange(len(x)), torch.as_tensor(targets)].sum()
        handle.remove()
        act = acts[site.call or 0]
        (slope,) = torch.autograd.grad(score, act)
        grid = weigh(act.detach(), slope).sum(1, keepdim=True)
        large = torch.nn.functional.interpolate(grid, size=x.shape[2:], mode="bilinear", align_corners=False)
        return large.numpy()

    return explain


def theirs_of(s: Setting) -> list[Callable[..., Any]]:
    """Quantus's side of `FIVE`."""
    where = (2, 3)
    site = site_of(s.model, s.x, Target.of(s.classes.tolist(), s.model), None)
    return [
        slope_of,
        product_of,
        coarse(site, lambda act, g: g.mean(where, keepdim=True) * act),
        coarse(
            site,
            lambda act, g: (g.clamp(min=0) / (2 + g * act.sum(where, keepdim=True))).sum(where, keepdim=True) * act,
        ),
        coarse(site, lambda act, g: g.clamp(min=0) * act),
    ]


def signed(method: Callable[..., Attribution]) -> Callable[..., Attribution]:
    """A coarse map that keeps what speaks against the class: with random weights nothing else may be left."""
    return lambda model, x, target: method(model, x, target, relu=False)


FIVE = (gradient, input_x_gradient, signed(grad_cam), signed(grad_cam_plus_plus), signed(layer_cam))


def flipping(s: Setting) -> Figures:
    """The score while pixels go, most relevant first.

    Quantus wants a step that divides the number of pixels, a third of one of ours: every third of its points is ours.
    """
    many, third = 3 * POINTS, SIDE * SIDE // POINTS

    def theirs() -> torch.Tensor:
        metric = quantus.PixelFlipping(features_in_step=third, perturb_baseline=0.0, **QUIET)
        return torch.tensor(np.stack([s.ask(metric, a_batch=m.values.numpy()) for m in s.maps])).double()

    def ours(points: int, controls: bool) -> torch.Tensor:
        model, options = s.fresh(), {"fills": "zero", "cells": 0, "share": 1.0, "orders": 2}
        found = [pixel_flipping(model, s.x, m, **options, steps=points, controls=controls) for m in s.maps]
        return torch.stack([one.y[MOST] for one in found])

    found = race(
        f"{s.name}: pixel flipping, {MAPS} maps",
        [
            Contender(f"the bare forwards of one map, {many} points", s.forwards(many)),
            Contender(f"quantus, {many} points", theirs),
            Contender(f"cutaway, {many} points", lambda: ours(many, False)),
            Contender(f"cutaway, {POINTS} points", lambda: ours(POINTS, False)),
            Contender(f"cutaway, {POINTS} points, opposite order, 4 controls", lambda: ours(POINTS, True)),
        ],
        rounds=1,
        warm_up=False,
    )
    fall, same, few, beside = (one.answer for one in list(found.values())[1:])
    fall = torch.cat([torch.zeros(MAPS, 1, dtype=torch.float64), (s.before[None, :, None] - fall).mean(1)], 1)
    equal(few, fall[:, ::3], tolerance=1e-3, what=f"the {POINTS} points in common")
    equal(beside, few, tolerance=1e-3, what="the curve with and without controls, in other batches")
    equal(same, fall, tolerance=1e-2, what=f"{many} points, at most of which a pixel's channels go apart in Quantus")
    areas = [torch.trapezoid(f, torch.linspace(0, 1, f.shape[1], dtype=torch.float64)) for f in (fall, few)]
    error = float((areas[0] - areas[1]).abs().max() / areas[0].abs().max())
    print(f"  the areas of {POINTS} and {many} points differ by {error:.2%}")
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
    """The maps again at every layer, from the output down, and their rank correlations with the originals.

    Those of the coarse maps are of sizes: of a late layer of one network nothing may be below zero, of another all.
    """
    layers = sum(hasattr(m, "reset_parameters") for m in s.net.modules())
    maps = [explain(s.model, s.x, s.classes.tolist()) for explain in FIVE]
    explains = theirs_of(s)
    read = [lambda values: values] * 2 + [np.abs] * 3
    names = ["rank correlation"] * 2 + ["rank correlation of sizes"] * 3

    def theirs(count: int) -> torch.Tensor:
        found = []
        for one, explain, size in list(zip(maps, explains, read, strict=True))[:count]:

            def again(*given: Any, explain: Any = explain, size: Any = size, **more: Any) -> Any:
                return size(explain(*given, **more))

            values = size(one.values.sum(1, keepdim=True).numpy())
            scores = s.ask(quantus.MPRT(**QUIET), a_batch=values, explain_func=again)
            found.append([float(np.mean(row)) for name, row in scores.items() if name != "original"])
        return torch.tensor(found, dtype=torch.float64)

    def ours(count: int, stages: int = layers) -> torch.Tensor:
        with together(maps[:count]), drawn_as_by_quantus(s.net):
            curves = [parameter_randomization(s.model, s.x, one, stages=stages) for one in maps[:count]]
        return torch.stack([curve.y[name][1:] for curve, name in zip(curves, names, strict=False)])

    found = race(
        f"{s.name}: parameter randomisation, {layers} layers",
        [
            Contender("the bare forwards and backwards", s.slopes(layers)),
            Contender("quantus, one map", lambda: theirs(1)),
            Contender("cutaway, one map", lambda: ours(1)),
            Contender("quantus, five maps", lambda: theirs(5)),
            Contender("cutaway, five maps", lambda: ours(5)),
            Contender("cutaway, one map, 6 of these stages", lambda: ours(1, 6)),
        ],
        rounds=1,
        warm_up=False,
    )
    quantus_five, five = found["quantus, five maps"].answer, found["cutaway, five maps"].answer
    print("  correlation when all layers are random:", [round(float(v), 3) for v in five[:, -1]])
    print(f"  largest difference from Quantus's correlations: {float((five - quantus_five).abs().max()):.1e}")
    assert (five - quantus_five).abs().max() < 0.01, "the same new weights on both sides, and layouts that round apart"
    assert (five[0] - found["cutaway, one map"].answer[0]).abs().max() < 0.01
    return figures(found)


@contextlib.contextmanager
def drawn_as_by_quantus(net: torch.nn.Module) -> Iterator[None]:
    """Draw every layer's new weights with Quantus's one seed, so that both sides look at the same networks."""

    def seeded(reset: Callable[[Any], None]) -> Callable[[Any], None]:
        def again(module: torch.nn.Module) -> None:
            torch.manual_seed(43)
            reset(module)

        return again

    with contextlib.ExitStack() as patches:
        for kind in {type(module) for module in net.modules() if hasattr(module, "reset_parameters")}:
            patches.enter_context(patch.object(kind, "reset_parameters", seeded(kind.reset_parameters)))
        yield


def moving(s: Setting) -> Figures:
    """The largest relative change of the maps under uniform noise, the same on both sides."""
    target = Target.of(s.classes.tolist(), s.model)
    maps = [made_by(summed(explain), s.model, s.x, target) for explain in FIVE]
    explains = theirs_of(s)
    drawn = torch.rand(DRAWS, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    steps = (0.02 * (2 * drawn - 1)).float().flatten(1).numpy()

    def theirs(count: int) -> torch.Tensor:
        found = []
        for one, explain in list(zip(maps, explains, strict=True))[:count]:
            draws = iter(steps)
            metric = quantus.MaxSensitivity(
                nr_samples=DRAWS, perturb_func=lambda arr, draws=draws, **_: (arr + next(draws)).clip(0, 1), **QUIET
            )
            found.append(s.ask(metric, a_batch=one.values.numpy(), explain_func=explain))
        return torch.tensor(np.array(found)).mean(1)

    def ours(count: int) -> torch.Tensor:
        with together(maps[:count]):
            found = [max_sensitivity(s.model, s.x, one, samples=DRAWS) for one in maps[:count]]
        return torch.tensor([float(one.values[0]) for one in found])

    found = race(
        f"{s.name}: max-sensitivity, {DRAWS} draws",
        [
            Contender("the bare forwards and backwards", s.slopes(DRAWS)),
            Contender("quantus, one map", lambda: theirs(1)),
            Contender("cutaway, one map", lambda: ours(1)),
            Contender("quantus, five maps", lambda: theirs(5)),
            Contender("cutaway, five maps", lambda: ours(5)),
        ],
        rounds=1,
        warm_up=False,
    )
    five = found["cutaway, five maps"].answer
    print("  largest change on average:", [f"{float(v):.3g}" for v in five])
    off = (five / found["quantus, five maps"].answer - 1).abs().max()
    print(f"  largest difference from Quantus's changes: {float(off):.1e} of each")
    assert off < 0.01
    equal(found["cutaway, one map"].answer, five[:1], tolerance=1e-3, what="the first, alone and with the others")
    return figures(found)


def summed(explain: Any) -> Callable[..., torch.Tensor]:
    """A method whose maps have their channels added up."""
    return lambda model, x, target: explain(model, x, target).values.sum(1, keepdim=True)


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
