"""A network trained again, as tests need it: by its recipe, several times, at a cost that is said before."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from scipy.special import stdtrit
from torch import Tensor
from torch.nn import functional

from cutaway.core.batch import Batch, select, size
from cutaway.core.budget import afford
from cutaway.core.checks import Check
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.model import Model
from cutaway.core.recipe import Lesson, Recipe, follow
from cutaway.core.result import Cost

RecipeLike = Recipe | Callable[[Model], Recipe] | None
_BACKWARD = 2  # in forwards
_NOTHING = Cost()


class School(NamedTuple):
    """A network's recipe, ready to be followed.

    Attributes:
        model: The network that was trained so.
        recipe: How.
        data: The training examples, inputs as the model takes them.
        epochs: Passes over them.
    """

    model: Model
    recipe: Recipe
    data: Examples
    epochs: int

    @classmethod
    def of(cls, model: Model, recipe: RecipeLike, *, examples: int = 0, epochs: int = 0) -> "School":
        """A school by a recipe: the one that is given, made from the model, or known of it.

        Args:
            model: The network.
            recipe: Its recipe.
            examples: Training examples taken, the first ones; 0 for all.
            epochs: Passes over them; 0 for the recipe's own number.

        Raises:
            BadOption: There is no recipe, or a number is negative.
            BadShape: The training data have no labels, or do not fit the model.
        """
        if examples < 0 or epochs < 0:
            raise BadOption(f"expected examples and epochs of 0 or more; got examples={examples}, epochs={epochs}.")
        recipe = recipe or model.recipe
        if callable(recipe):
            recipe = recipe(model)
        if not isinstance(recipe, Recipe):
            raise BadOption(
                f"expected recipe=, how {model.name} is trained, since it is trained again: a "
                "cutaway.core.recipe.Recipe with build, train and space. cutaway's own networks bring theirs."
            )
        data = recipe.train()
        data = data[:examples] if examples else data
        x = model.inputs(data.x)
        if data.labels is None or not isinstance(x, Tensor) or len(x) < 2:
            raise BadShape(
                f"expected two training examples or more with labels for {model.name}, inputs in one tensor; got "
                f"{len(data)} with {'no labels' if data.labels is None else type(x).__name__}."
            )
        # As the model sees and computes, whatever the recipe was written for.
        build = recipe.build
        recipe = replace(recipe, space=model.space, build=lambda: build().to(model.dtype))
        if recipe.loss is functional.cross_entropy:
            recipe = replace(recipe, loss=lambda found, labels: _loss(model, found, labels))
        plain = Examples(x=x.cpu(), names=data.names, labels=data.labels, classes=data.classes)
        return cls(model, recipe, plain, epochs or recipe.epochs)

    def afford(self, trainings: int, what: str, beside: Cost = _NOTHING) -> str:
        """Refuse what is above the limit before the first training; else the words in which progress is told.

        Args:
            trainings: How many.
            what: Who asks.
            beside: What it costs beside the trainings.
        """
        count = len(self.data)
        passes = f"{self.epochs} pass{'es' if self.epochs > 1 else ''} over {count:,} examples"
        each = "one training" if trainings == 1 else f"{trainings} trainings"
        seconds = trainings * self._seconds() + beside.seconds
        about = f", about {seconds:,.0f} s on this machine," if seconds >= 1 else ""
        forwards = (1 + _BACKWARD) * trainings * self.epochs * count + beside.forwards + _BACKWARD * beside.backwards
        afford(forwards, f"{what} with {each} of {passes}{about}")
        return f"{what}: {each}{about.rstrip(',')}"

    def _seconds(self) -> float:
        """What one training takes, by two of its steps; 0 where the user's own loop is not made of steps."""
        if self.recipe.fit is not None:
            return 0.0
        batch = min(self.recipe.batch, len(self.data))
        few = self.data[:batch]
        follow(self.recipe, few, seed=0, epochs=2)  # pays for what torch sets up once
        times = [_timed(partial(follow, self.recipe, few, seed=0, epochs=n)) for n in (1, 4)]
        return max(times[1] - times[0], 0.0) / 3 * self.epochs * (len(self.data) // batch)

    def train(self, seed: int, *, x: Tensor | None = None, lesson: Lesson | None = None) -> Model:
        """A network trained from fresh weights, as a model like the original.

        Args:
            seed: Of weights and order.
            x: Training inputs in place of the recipe's.
            lesson: What a step lowers, in place of the recipe's loss.
        """
        data = self.data if x is None else replace(self.data, x=x)
        device = self.model.device
        module = follow(self.recipe, data, seed=seed, epochs=self.epochs, lesson=lesson, device=device)
        steps = self.epochs * (len(data) - len(data) % min(self.recipe.batch, len(data)))
        self.model.spent["forwards"] += steps
        self.model.spent["backwards"] += steps
        return self.model.with_module(module)


def log_probabilities(model: Model, found: Any) -> Float[Tensor, "n classes"]:
    """What the network gives in training, as logarithms of class probabilities; see `Trace.log_probabilities`."""
    output = select(found, tuple(filter(None, model.output.split("/"))), model.name)
    output = output[:, None] if output.ndim == 1 else output
    if model.scores == "probabilities":
        return output.clamp_min(torch.finfo(output.dtype).tiny).log()
    if output.shape[1] == 1:
        return functional.logsigmoid(torch.cat([-output, output], 1))
    return output.log_softmax(1)


def _loss(model: Model, found: Any, labels: Tensor) -> Tensor:
    return functional.nll_loss(log_probabilities(model, found), labels)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def known_labels(model: Model, x: Batch, labels: Tensor | str | None) -> tuple[Tensor, dict[str, Check]]:
    """The class of each input: as it is known, else as the network sees it, which is then said.

    Raises:
        BadOption: Labels that are no tensor.
        BadShape: Another number of labels than inputs.
    """
    if labels is None:
        text = f"The inputs have no labels, so accuracy is agreement with the classes that {model.name} gives them."
        return model.run(x).scores.argmax(1).cpu(), {"labels": Check(text, "note")}
    if not isinstance(labels, Tensor):
        raise BadOption(f"expected labels= as whole numbers in a tensor; got {labels!r}. A data set brings its own.")
    if labels.shape != (size(x),):
        raise BadShape(f"expected a label for each of {size(x)} inputs; got shape {tuple(labels.shape)}.")
    return labels.long().cpu(), {}


def right(model: Model, x: Batch, labels: Tensor) -> Float[Tensor, " n"]:
    """1 for each input whose class the network knows, else 0."""
    return (model.run(x).scores.argmax(1).cpu() == labels).double()


def over_seeds(values: Float[Tensor, "seeds *rest"]) -> tuple[Tensor, Tensor]:
    """The 95 % interval of the mean over trainings, by Student's t: they are too few to be drawn again.

    Source: Student 1908.
    """
    n = len(values)
    half = float(stdtrit(n - 1, 0.975)) * values.std(0) / math.sqrt(n)
    return values.mean(0) - half, values.mean(0) + half
