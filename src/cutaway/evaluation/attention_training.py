"""Networks trained again under a condition on their attention, and how far they are from the original.

The distance of two networks on a text is a pair: how differently they attend (JSD, in nats, at most 0.693), and how
differently they answer (TVD, from 0 to 1).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.core.batch import Batch, take
from cutaway.core.checks import Status
from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.recipe import through
from cutaway.core.site import Site
from cutaway.evaluation.attention_subject import change, divergence, over_texts, subjects
from cutaway.evaluation.retraining import RecipeLike, School, log_probabilities

FAR, NEAR = 0.4, 0.1  # divergences, of at most ln 2
_ROUNDING = 1e-3


class Watched(NamedTuple):
    """What a network attends to in each text, and what it answers.

    Attributes:
        weights: Attention of each token; 0 for padding, (n, tokens).
        probabilities: Of the classes, (n, classes).
    """

    weights: Float[Tensor, "n tokens"]
    probabilities: Float[Tensor, "n classes"]

    @property
    def classes(self) -> Tensor:
        """The class of each text, as the network sees it."""
        return self.probabilities.argmax(1)

    def divergence(self, other: "Watched") -> Float[Tensor, " n"]:
        """How differently two networks attend to each text."""
        return divergence(self.weights, other.weights)

    def change(self, other: "Watched") -> Float[Tensor, " n"]:
        """How differently they answer."""
        return change(self.probabilities, other.probabilities)


class Class(NamedTuple):
    """A network with attention, its recipe, and the texts that other networks are compared on.

    Attributes:
        school: The recipe, ready to be followed.
        site: Where attention is.
        x: The texts that have a choice of where to look.
        numbers: Which of all those are.
        own: What the network itself attends to and answers there.
    """

    school: School
    site: Site
    x: Batch
    numbers: Tensor
    own: Watched

    @classmethod
    def of(
        cls, model: Model, x: Batch, attention: Site | None, what: str, recipe: RecipeLike, examples: int, epochs: int
    ) -> "Class":
        """A network ready to be trained again.

        Raises:
            BadOption: No recipe.
            NotPossible: No attention of that kind, or no text has two tokens.
        """
        texts = list(subjects(model, x, attention, what))
        school = School.of(model, recipe, examples=examples, epochs=epochs)
        numbers = torch.tensor([text.number for text in texts])
        kept = take(x, numbers)
        return cls(school, texts[0].site, kept, numbers, watched(model, kept, texts[0].site))

    def lessons(self) -> None:
        """Refuse a training loop of the user's own, where a step must lower something else.

        Raises:
            NotPossible: The recipe has one.
        """
        if self.school.recipe.fit is not None:
            raise NotPossible(
                "this test trains with a loss of its own, so it needs a recipe with epochs and rate; got one with "
                "fit=, which it cannot look into. attention_seeds works with that."
            )

    def again(self, seed: int) -> Model:
        """The network trained again by its recipe."""
        return self.school.train(seed)

    def uniform(self, seed: int) -> Watched:
        """What the network answers that was trained with equal attention for all tokens of a text."""
        recipe, data = self.school.recipe, self.school.data
        inputs, labels = data.x, data.labels
        assert isinstance(inputs, Tensor)
        assert labels is not None
        generator = torch.Generator().manual_seed(seed)

        def lesson(module: nn.Module, rows: Tensor) -> Tensor:
            x = recipe.varied(inputs[rows], generator).to(self.school.model.device)
            found, _ = through(module, x, edit={self.site: equal})
            return recipe.loss(found, labels[rows].to(x.device))

        return watched(self.school.train(seed, lesson=lesson), self.x, self.site, equal)

    def adversary(self, strength: float, seed: int, taught: Watched) -> Model:
        """A network that answers as the original does, and attends differently.

        sum over texts of TVD(p', p) - strength * KL(a' | a)

        Args:
            strength: What a nat of divergence is worth.
            seed: Of weights and order.
            taught: What the original attends to and answers on the training texts.
        """
        model = self.school.model
        inputs = self.school.data.x
        assert isinstance(inputs, Tensor)

        def lesson(module: nn.Module, rows: Tensor) -> Tensor:
            own, answers = taught.weights[rows], taught.probabilities[rows]
            width = int((own > 0).any(0).nonzero().max()) + 1 if model.space.shape[0] is None else own.shape[1]
            x = inputs[rows][:, :width].to(model.device)
            found, read = through(module, x, read=[self.site])
            other = read[self.site].flatten(1)
            moved = change(log_probabilities(model, found).exp(), answers.to(other))
            return (moved - strength * _relative(other, own[:, :width].to(other))).mean()

        return self.school.train(seed, lesson=lesson)

    def taught(self) -> Watched:
        """What the original attends to and answers on the training texts."""
        inputs = self.school.data.x
        assert isinstance(inputs, Tensor)
        return watched(self.school.model, inputs, self.site)


Held = Callable[[Tensor], Tensor]


def watched(model: Model, x: Batch, site: Site, held: Held | None = None) -> Watched:
    """What a network attends to and answers; with other attention in place, if `held` makes that of its own.

    Raises:
        BadShape: Its attention is not on the tokens of the texts.
    """
    trace = model.run(x, read=[site, "output"], edit=None if held is None else {site: held})
    weights, probabilities = trace[site].double().cpu().flatten(1), trace.probabilities.double().cpu()
    if ((weights.sum(1) - 1).abs() > _ROUNDING).any() or (weights < 0).any():
        raise BadShape(f"expected attention at {site} whose weights sum to 1 in each text; {model.name} has others.")
    if not torch.isfinite(probabilities).all():
        raise NotPossible(f"{model.name}, trained again, gives probabilities that are not finite; lower the rate.")
    return Watched(weights, probabilities)


def equal(weights: Tensor) -> Tensor:
    """The same attention for each token that has any."""
    here = (weights.detach() > 0).to(weights)
    return here / here.flatten(1).sum(1).view(-1, *[1] * (here.ndim - 1))


def _relative(a: Tensor, b: Tensor) -> Float[Tensor, " n"]:
    """KL(a | b) in nats. Clamped, since the slope of a logarithm at the zeros of padding is infinite."""
    tiny = torch.finfo(a.dtype).tiny
    return (a * (a.clamp_min(tiny).log() - b.clamp_min(tiny).log())).sum(1)


def judged(divergence: float) -> Status:
    """`ok` for attention that stays, `note`, `warn` for quite another one."""
    return "ok" if divergence < NEAR else "note" if divergence < FAR else "warn"


def mean_of(values: Float[Tensor, " n"]) -> tuple[float, tuple[float, float] | None]:
    """The mean over texts and its 95 % interval; None over too few."""
    ends = over_texts(values)
    return float(values.mean()), None if ends is None else (float(ends[0]), float(ends[1]))


def between(ends: tuple[float, float] | None, digits: str) -> str:
    """An interval as a part of a sentence; nothing where there is none."""
    return "" if ends is None else f", 95 %: {ends[0]:{digits}} to {ends[1]:{digits}}"
