"""Kernel Shapley against shap and captum: the error for the same forwards, and the time of a forward.

    python benchmarks/shapley.py          all of it
    python benchmarks/shapley.py seconds  only one part: astronaut, chelsea, seconds

Figures of parts that are not run stay what they were.
"""

import json
import os
import sys
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import shap
import torch
from captum.attr import KernelShap
from torch import Tensor, nn

import cutaway as ct
from cutaway.attribution.shapley_kernel import kernel_shapley
from cutaway.core.game import play
from cutaway.core.model import Model
from cutaway.core.target import Target
from cutaway.maths.shapley import all_coalitions, shapley
from harness import RESULTS, Contender, figures, race, save

PLAYERS, FORWARDS, SEEDS = 12, 480, 20
BATCHES = (1, 4, 8, 16)


class Table(nn.Module):
    """A game whose coalitions are known, as a network of rows of zeros and ones."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, x: Tensor) -> Tensor:
        """(n, players) to (n, 1)."""
        return self.values[(x > 0.5).long() @ (1 << torch.arange(x.shape[1]))][:, None]


class Normalised(nn.Module):
    """A network with its normalisation inside, as captum wants it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.net, self.space = model.module.eval().requires_grad_(False), model.space

    def forward(self, pixels: Tensor) -> Tensor:
        """Scores of images in [0, 1]."""
        return self.net(self.space.normalised(pixels))


def patches(height: int, width: int) -> Tensor:
    """Three rows of four patches."""
    return (torch.arange(height) * 3 // height)[:, None] * 4 + torch.arange(width) * 4 // width


def errors(values: Tensor) -> dict[str, float]:
    """Mean squared error over the mean square of the exact values, by contender."""
    model = Model(Table(values).eval(), ct.rows(PLAYERS, low=0, high=1), scores="values")
    truth, ones = shapley(values), torch.ones(1, PLAYERS, dtype=torch.float64)

    def lookup(rows: np.ndarray) -> np.ndarray:
        return values.numpy()[((np.asarray(rows) > 0.5) @ (1 << np.arange(PLAYERS))).astype(int)]

    def cutaway(how: str) -> Callable[[int], Tensor]:
        options = {"features": "columns", "forwards": FORWARDS, "within": 0.0, "estimate": how}
        return lambda seed: kernel_shapley(model, ones, 0, seed=seed, **options).values[0]

    def shap_with(**options: object) -> Callable[[int], Tensor]:
        def run(seed: int) -> Tensor:
            np.random.seed(seed)  # noqa: NPY002 shap draws from the global state
            explainer = shap.KernelExplainer(lookup, np.zeros((1, PLAYERS)))
            return torch.from_numpy(explainer.shap_values(ones.numpy(), nsamples=FORWARDS, silent=True, **options)[0])

        return run

    def captum(seed: int) -> Tensor:
        np.random.seed(seed)  # noqa: NPY002 captum draws from both global states
        torch.manual_seed(seed)
        game = KernelShap(lambda rows: torch.from_numpy(lookup(rows.numpy())))
        return game.attribute(ones, n_samples=FORWARDS, perturbations_per_eval=64)[0]

    contenders = {
        "cutaway": cutaway("smooth"),
        "cutaway, regression": cutaway("regression"),
        "shap KernelExplainer, default": shap_with(),
        "shap KernelExplainer, l1_reg=0": shap_with(l1_reg=0),
        "captum KernelShap": captum,
    }
    square = float(truth.square().mean())
    return {
        name: sum(float((run(seed).double() - truth).square().mean()) for seed in range(SEEDS)) / SEEDS / square
        for name, run in contenders.items()
    }


def times(model: Model, x: Tensor, target: int) -> dict[str, dict[str, float]]:
    """The same number of forwards by each."""
    net, ids, forwards = Normalised(model), patches(*x.shape[2:]), 120
    mask = ids[None, None]

    def captum(batch: int) -> Tensor:
        options = {"n_samples": forwards, "perturbations_per_eval": batch, "feature_mask": mask}
        return KernelShap(net).attribute(x, baselines=0, target=target, **options)

    def cutaway(wrt: str, features: object) -> Tensor:
        options = {"forwards": forwards, "within": 0.0, "fill": "zero", "wrt": wrt, "features": features}
        return kernel_shapley(model, x, target, **options).values

    with torch.no_grad():
        return figures(
            race(
                f"kernel Shapley, {PLAYERS} patches, {forwards} forwards, efficientnet-lite0, 224 x 224",
                [
                    Contender("captum KernelShap, default", lambda: captum(1)),
                    *(Contender(f"captum KernelShap, {b} at once", lambda b=b: captum(b)) for b in BATCHES[1:]),
                    Contender("cutaway", lambda: cutaway("input", ids)),
                    Contender("cutaway, 4 x 4 cells of _blocks.10", lambda: cutaway("_blocks.10", "cells:4")),
                ],
                rounds=3,
            )
        )


def compared(model: Model, photo: str) -> dict[str, float]:
    """The errors of all on the game of a photo."""
    x = model.inputs(ct.data(f"photos/{photo}", space=model.space))
    game = play(model, x, Target.of(top_of(model, x), model), features=patches(*x.shape[2:]))
    found = errors(game(all_coalitions(PLAYERS)))
    print(f"\nmean squared error, {photo}, {FORWARDS} forwards, {SEEDS} seeds, over the mean square of the values")
    for name, error in found.items():
        print(f"  {name:44}{error:10.5f}{error / found['cutaway']:10.1f}")
    return found


def top_of(model: Model, x: Tensor) -> int:
    """The class that the network finds."""
    return int(model.run(x).output.argmax())


if __name__ == "__main__":
    model = ct.load("efficientnet-lite0")
    chelsea = model.inputs(ct.data("photos/chelsea", space=model.space))
    parts = {
        "astronaut": lambda: compared(model, "astronaut"),
        "chelsea": lambda: compared(model, "chelsea"),
        "seconds": lambda: times(model, chelsea, top_of(model, chelsea)),
    }
    path = RESULTS / "shapley.json"
    found = json.loads(path.read_text())["figures"] if path.is_file() else {}
    for name in sys.argv[1:] or parts:
        found[name] = parts[name]()
        save(__file__, found)
