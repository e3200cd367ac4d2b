"""Leave-one-out and LIME against captum's FeatureAblation and Lime: at their defaults, and at their best batch size.

    python benchmarks/erasure.py                  all of it
    python benchmarks/erasure.py "words minilm"   only one part: words lstm, words minilm, cells, units, lime

Both get a text as its tokens.
"""

import json
import sys
import warnings
from collections.abc import Callable

import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import FeatureAblation, LayerFeatureAblation, Lime
from torch import nn

import cutaway as ct
from cutaway.attribution.erasure import leave_one_out
from cutaway.attribution.lime import lime
from cutaway.attribution.lime_fit import kernel
from cutaway.core.model import Model
from harness import RESULTS, Contender, equal, figures, race, save

BATCHES = (4, 16, 32)
SAMPLES = 200
TEXT = (
    "it is not a great film , and the plot is thin and at times silly , but the actors are charming , the music is "
    "lovely and the last scene alone is worth the price of the ticket"
)


class Normalised(nn.Module):
    """A network with its normalisation inside, as captum wants it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.net, self.space = model.module.eval().requires_grad_(False), model.space

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores of images in [0, 1]."""
        return self.net(self.space.normalised(pixels))


def compare(
    title: str,
    theirs: Callable[[int], torch.Tensor],
    ours: Callable[[], torch.Tensor],
    tolerance: float,
    rounds: int = 3,
    batches: tuple[int, ...] = BATCHES,
) -> dict[str, dict[str, float]]:
    """One piece at a time, in batches, and cutaway; the answers must agree."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = race(
            title,
            [
                Contender("captum, default (1 at once)", lambda: theirs(1)),
                *(Contender(f"captum, {b} at once", lambda b=b: theirs(b)) for b in batches),
                Contender("cutaway", ours),
            ],
            rounds=rounds,
        )
    equal(runs["cutaway"].answer, runs["captum, default (1 at once)"].answer, tolerance=tolerance, what="values")
    return figures(runs)


def words(model: Model, rounds: int) -> dict[str, dict[str, float]]:
    batch = model.inputs(TEXT)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    blank = model.tokenizer.mask_token_id

    def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return model.module(input_ids=ids, attention_mask=mask)

    def theirs(at_once: int) -> torch.Tensor:
        ablation = FeatureAblation(forward)
        return ablation.attribute(
            ids, baselines=blank, target=1, additional_forward_args=(mask,), perturbations_per_eval=at_once
        ).float()[inner]

    model.module.eval().requires_grad_(False)
    inner = torch.tensor(batch.pieces[0].words)[None] >= 0
    return compare(
        f"leave one out, {int(inner.sum())} tokens, {model.name}",
        theirs,
        lambda: leave_one_out(model, batch, 1, features="tokens", fill="mask").values[inner],
        1e-4,
        rounds=rounds,
        batches=(*BATCHES, 64),
    )


def cells(model: Model, x: torch.Tensor) -> dict[str, dict[str, float]]:
    net, players = Normalised(model), _squares(x.shape[2])

    def theirs(at_once: int) -> torch.Tensor:
        ablation = FeatureAblation(net)
        return ablation.attribute(x, target=281, feature_mask=players, perturbations_per_eval=at_once)[:, :1]

    def ours() -> torch.Tensor:
        return leave_one_out(model, x, 281, features="cells:7", fill="zero").values

    return compare("leave one out, 49 cells, efficientnet-lite0, 224 x 224", theirs, ours, 1e-4)


def units(model: Model, x: torch.Tensor, place: str) -> dict[str, dict[str, float]]:
    net = Normalised(model)
    layer = net.net.get_submodule(place)
    count = model.run(x, read=[place])[place].shape[1]
    players = torch.arange(count)[None, :, None, None]

    def theirs(at_once: int) -> torch.Tensor:
        ablation = LayerFeatureAblation(net, layer)
        return ablation.attribute(x, target=281, layer_mask=players, perturbations_per_eval=at_once)

    def ours() -> torch.Tensor:
        return leave_one_out(model, x, 281, wrt=place, fill="zero").values

    return compare(f"leave one out, {count} units of {place}, efficientnet-lite0", theirs, ours, 1e-4, rounds=1)


def surrogate(model: Model, x: torch.Tensor) -> dict[str, dict[str, float]]:
    """The same samples, kernel and ridge for both."""
    net, players = Normalised(model), _squares(x.shape[2])
    z = torch.rand(SAMPLES, 49, generator=torch.Generator().manual_seed(0), dtype=torch.float64) < 0.5
    z[0] = True

    def perturb(original: torch.Tensor, **more: object) -> object:
        yield from z[:, None].float()

    def theirs(at_once: int) -> torch.Tensor:
        method = Lime(
            net,
            interpretable_model=SkLearnRidge(alpha=1.0),
            similarity_func=lambda original, changed, mask, **more: kernel(mask.bool(), "cosine", 0.25)[0],
            perturb_func=perturb,
        )
        return method.attribute(x, target=281, feature_mask=players, n_samples=SAMPLES, perturbations_per_eval=at_once)[
            :, :1
        ]

    def ours() -> torch.Tensor:
        return lime(model, x, 281, features="cells:7", fill="zero", samples=SAMPLES).values

    return compare(f"LIME, 49 cells, {SAMPLES} samples, efficientnet-lite0, 224 x 224", theirs, ours, 1e-3, rounds=1)


def _squares(side: int) -> torch.Tensor:
    row = torch.arange(side) * 7 // side
    return (row[:, None] * 7 + row)[None, None]


def photo() -> tuple[Model, torch.Tensor]:
    """The network for images, and one of them."""
    return ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x


if __name__ == "__main__":
    parts = {
        "words lstm": lambda: words(ct.load("sentiment-lstm"), 51),
        "words minilm": lambda: words(ct.load("minilm"), 7),
        "cells": lambda: cells(*photo()),
        "units": lambda: units(*photo(), "_blocks.14"),
        "lime": lambda: surrogate(*photo()),
    }
    path = RESULTS / "erasure.json"
    found = json.loads(path.read_text())["figures"] if path.is_file() else {}
    for name in sys.argv[1:] or parts:
        found[name] = parts[name]()
        save(__file__, found)
