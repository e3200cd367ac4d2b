"""Does a network's attention help another one that cannot mix words by itself?"""

from functools import partial as bound

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.core.batch import Batch, primary
from cutaway.core.checks import Check, Status
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.recipe import Recipe, follow
from cutaway.core.result import Scores
from cutaway.core.site import Site
from cutaway.evaluation.attention_subject import few, left_out, over_texts
from cutaway.evaluation.attention_training import Class, Watched, between, equal, mean_of, watched
from cutaway.evaluation.retraining import RecipeLike, known_labels

UNIFORM, OWN, GUIDED, AGAINST = "uniform", "its own, trained with it", "the network's", "an adversary's"
_RATE = 0.01  # for fresh embeddings, with a rise and a fall


class Guided(nn.Module):
    """Words alone: embedding, a projection, and a sum weighted from outside or by an additive attention of its own."""

    def __init__(self, words: int, classes: int, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, size)
        self.encoder = nn.Linear(size, size)
        self.hidden, self.score = nn.Linear(size, size), nn.Linear(size, 1, bias=False)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(size, classes)

    def forward(self, ids: Tensor, weights: Tensor, own: bool = False) -> Tensor:
        """Logits of the classes from ids and weights, each (n, tokens); 0 is the weight of padding."""
        states = torch.tanh(self.encoder(self.dropout(self.embedding(ids))))
        if own:
            scores = self.score(torch.tanh(self.hidden(states)))[..., 0]
            weights = scores.masked_fill(weights == 0, -torch.inf).softmax(1)
        return self.fc(self.dropout((weights[..., None] * states).sum(1)))


@method(paper="wiegreffe2019", needs={"tokens", "attention"}, quick={"trainings": 1, "epochs": 1, "size": 4})
def attention_guide(
    model: Model,
    x: Batch,
    *,
    trainings: int = 3,
    strength: float = 0.02,
    size: int = 64,
    labels: Tensor | None = None,
    recipe: RecipeLike = None,
    examples: int = 0,
    epochs: int = 0,
    attention: Site | None = None,
    seed: int = 0,
) -> Scores:
    """Hand the network's attention to a simple network that sees each word alone, and see what it is worth there.

    p = softmax(W sum over words of a_i tanh(V e_i)),   a given from outside, V, W and the embedding e trained

    If attention finds the words that matter, a network that knows nothing of their neighbours should do better with it
    than with the mean of all words. It is trained with four attentions: uniform; one that it learns itself; the
    network's; and that of a network which was trained to answer alike and attend otherwise. They begin with the same
    weights. One training of the simple network for each attention and seed, and one adversary.

    Args:
        trainings: Seeds of the simple network.
        strength: Of the adversary; see `attention_adversarial_training`.
        size: Numbers of an embedding.
        labels: The class of each text; examples bring theirs. Without, the model's own classes count as right.
        recipe: How the network is trained, whose training texts are used: a `cutaway.core.recipe.Recipe`, or a function
            that makes one from the model. cutaway's own networks bring theirs.
        examples: Training examples taken, the first ones; 0 for all.
        epochs: Passes over them; 0 for the recipe's own number.
        attention: The place of attention; the only place whose values look like it, if not given.
        seed: The seeds of the trainings are the numbers after it.

    Returns:
        Accuracy of the simple network with each attention, from 0 to 1, mean over the seeds; over five texts or
        more, with a 95 % bootstrap interval.

    Raises:
        BadOption: No recipe; options out of range.
        NotPossible: The network has no attention of that kind, no text has two tokens, or the recipe trains by a loop
            of its own.

    Source: Wiegreffe and Pinter 2019, section 4.1. Differs: accuracy in place of F1, several seeds, intervals.
    """
    if trainings < 1 or size < 1 or strength < 0:
        raise BadOption(
            "expected trainings and size of 1 or more and strength of 0 or more; "
            f"got trainings={trainings}, size={size}, strength={strength:g}."
        )
    texts = Class.of(model, x, attention, "attention_guide", recipe, examples, epochs)
    texts.lessons()
    truth, notes = known_labels(model, x, labels)
    truth = truth[texts.numbers]
    label = texts.school.afford(1 + 4 * trainings, "attention_guide")
    taught = texts.taught()
    adversary = texts.adversary(strength, seed + 1, taught)
    inputs = texts.school.data.x
    assert isinstance(inputs, Tensor)
    against = watched(adversary, texts.x, texts.site)
    guides = {
        UNIFORM: (equal(taught.weights), equal(texts.own.weights)),
        OWN: (taught.weights, texts.own.weights),
        GUIDED: (taught.weights, texts.own.weights),
        AGAINST: (watched(adversary, inputs, texts.site).weights, against.weights),
    }
    found = torch.zeros(len(truth), len(guides), dtype=torch.float64)
    jobs = [(k, name) for k in range(trainings) for name in guides]
    for k, name in track(jobs, label):
        correct = _taught(texts, *guides[name], size, seed + 1 + k, name == OWN, truth)
        found[:, list(guides).index(name)] += correct / trainings
    return _scores(found, list(guides), _unlike(texts, against) | notes | left_out(x, len(truth)))


def _taught(
    texts: Class, weights: Tensor, shown: Tensor, size: int, seed: int, own: bool, truth: Tensor
) -> Float[Tensor, " n"]:
    """Train the simple network with an attention; 1 for each text whose class it then knows."""
    model, school = texts.school.model, texts.school
    inputs, labels = school.data.x, school.data.labels
    assert isinstance(inputs, Tensor)
    assert labels is not None
    ids = primary(texts.x).cpu()
    words = 1 + int(max(inputs.max(), ids.max()))
    classes = texts.own.probabilities.shape[1]
    generator = torch.Generator().manual_seed(seed)
    held, right = weights.to(model.dtype), labels

    def lesson(module: nn.Module, rows: Tensor) -> Tensor:
        seen = school.recipe.varied(inputs[rows], generator)
        given = held[rows][:, : seen.shape[1]].to(model.device)
        return nn.functional.cross_entropy(module(seen.to(model.device), given, own), right[rows].to(model.device))

    build = bound(Guided, words, classes, size)
    recipe = Recipe(
        name="a simple network",
        build=lambda: build().to(model.dtype),
        train=lambda: school.data,
        space=model.space,
        epochs=school.epochs,
        batch=school.recipe.batch,
        rate=_RATE,
    )
    module = follow(recipe, school.data, seed=seed, lesson=lesson, device=model.device)
    with torch.no_grad():
        given = shown.to(model.dtype).to(model.device)
        return (module(ids.to(model.device), given, own).argmax(1).cpu() == truth).double()


def _scores(found: Float[Tensor, "n guides"], names: list[str], more: dict[str, Check]) -> Scores:
    column = {name: found[:, k] for k, name in enumerate(names)}
    helps, ends = mean_of(column[GUIDED] - column[UNIFORM])
    status: Status = "warn" if ends is None else "ok" if ends[0] > 0 else "fail" if ends[1] < 0 else "warn"
    how = {"ok": "helps", "fail": "harms", "warn": "makes no sure difference to"}[status]
    text = (
        f"The network's attention {how} a network that sees words alone: it is right for "
        f"{float(column[GUIDED].mean()):.1%} with it and for {float(column[UNIFORM].mean()):.1%} with uniform "
        f"attention ({helps:+.1%}{between(ends, '+.1%')}). With an adversary's it is right for "
        f"{float(column[AGAINST].mean()):.1%}."
    )
    low, high = over_texts(found) or (torch.empty(0), torch.empty(0))
    return Scores(
        title="Attention as a guide",
        names=names,
        values=found.mean(0),
        low=low,
        high=high,
        unit="accuracy",
        better="higher",
        checks={"verdict": Check(text, status, helps, ends)} | few(len(found)) | more,
    )


def _unlike(texts: Class, against: Watched) -> dict[str, Check]:
    """How far the adversary is, without which its row says nothing."""
    apart, moved = float(texts.own.divergence(against).mean()), float(texts.own.change(against).mean())
    text = f"The adversary attends differently by {apart:.3f} (JSD) and answers differently by {moved:.3f} (TVD)."
    return {"adversary": Check(text, "note", apart)}
