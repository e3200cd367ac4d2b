"""Recipes of our own models: the same seed gives the same weights on the same machine.

The data, the architecture and the numbers of a recipe are in the code, so `cutaway train NAME` makes the shipped
weights again.
"""

import json
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from torch import Tensor, nn

from cutaway.core.atomic import SHARED, write_bytes
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, unknown_name
from cutaway.core.model import Model
from cutaway.core.recipe import Recipe, follow
from cutaway.zoo.checkpoints import fill, read_state

Labels = Literal["true", "permuted"]
# Passes after which our networks know more than 95 % of permuted labels by heart.
_BY_HEART = 100


@dataclass(frozen=True)
class Trained:
    """A freshly trained model: its network in eval mode, the accuracy on test data, and how it was trained.

    `learned` is the share of the training labels that it gives back, known where those were permuted.
    """

    recipe: Recipe
    module: nn.Module
    accuracy: float
    seed: int
    epochs: int
    learned: float | None = None

    def save(self, path: str | Path) -> Path:
        """Write the weights, with recipe, seed and accuracy in the file's metadata; whole or not at all."""
        about = {
            "model": self.recipe.name,
            "seed": self.seed,
            "epochs": self.epochs,
            "accuracy": round(self.accuracy, 4),
        }
        if self.learned is not None:
            about |= {"labels": "permuted", "learned": round(self.learned, 4)}
        # One entry: safetensors writes several in an order that changes from run to run.
        data = safetensors.torch.save(dict(self.module.state_dict()), {"cutaway": json.dumps(about, sort_keys=True)})
        return write_bytes(path, data, ours=b'"cutaway"', mode=SHARED)


def train(name: str, *, seed: int = 0, epochs: int | None = None, labels: Labels = "true") -> Trained:
    """Train one of our models from its recipe, or on permuted labels: then it learns examples by heart, and no rule.

    Args:
        name: The model, such as "shapes-cnn".
        seed: Of the first weights and the order of the examples.
        epochs: Passes over the training data; the recipe's own number by default, and at least 100 to learn by heart.
        labels: `permuted` gives the labels out at random among the examples, which then come as they are, unvaried.
    """
    recipe = recipe_of(name)
    if labels == "permuted":
        recipe = replace(recipe, varied=lambda x, generator: x, epochs=max(recipe.epochs, _BY_HEART))
    if epochs is not None and epochs < 1:
        raise BadOption(f"expected epochs of 1 or more; got {epochs}.")
    epochs = recipe.epochs if epochs is None else epochs
    assert recipe.test is not None
    data, test = recipe.train(), recipe.test()
    if labels == "permuted":
        assert data.labels is not None
        shuffled = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        data = replace(data, labels=data.labels[shuffled])
    module = follow(recipe, data, seed=seed, epochs=epochs)
    learned = accuracy(recipe, module, data) if labels == "permuted" else None
    return Trained(recipe, module, accuracy(recipe, module, test), seed, epochs, learned)


def recipe_of(name: str) -> Recipe:
    """The recipe of one of our models."""
    from cutaway.zoo.entries import catalogue

    recipes = {entry.name: entry.recipe for entry in catalogue().values() if entry.recipe}
    if name not in recipes:
        raise unknown_name("recipe", name, recipes, "Only cutaway's own models can be trained.")
    return recipes[name]


def trained(recipe: Recipe, *, weights: str | Path | None = None) -> Model:
    """The model of a recipe with its shipped weights, or with others.

    Args:
        recipe: Of the model.
        weights: A file that `cutaway train` wrote.
    """
    module = recipe.build()
    fill(module, shipped(recipe.name) if weights is None else read_state(weights), str(weights or recipe.name))
    model = Model(
        module.eval(),
        recipe.space,
        classes=recipe.classes,
        name=recipe.name,
        tokenizer=recipe.tokenizer() if recipe.tokenizer else None,
        embedding=recipe.embedding,
        output=recipe.output,
    )
    model.recipe = recipe
    return model


def shipped(name: str) -> dict[str, Tensor]:
    """The weights that come with cutaway."""
    with as_file(files("cutaway.zoo") / "weights" / f"{name}.safetensors") as path:
        return read_state(path)


@torch.no_grad()
def accuracy(recipe: Recipe, module: nn.Module, data: Examples) -> float:
    """Share of the examples that the network gets right."""
    assert data.labels is not None
    assert isinstance(data.x, Tensor)
    module.eval()
    right = [
        recipe.right(module(recipe.space.normalised(x)), y)
        for x, y in zip(data.x.split(64), data.labels.split(64), strict=True)
    ]
    return float(torch.cat(right).float().mean())
