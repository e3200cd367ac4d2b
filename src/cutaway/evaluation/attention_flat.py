"""Does a network need to choose where to look? Give all tokens the same attention, after training or during it."""

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.budget import partial, time_is_up
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Scores
from cutaway.core.site import Site
from cutaway.evaluation.attention_subject import Subject, change, few, left_out, over_texts, subjects
from cutaway.evaluation.attention_training import Class, between, mean_of, watched
from cutaway.evaluation.retraining import RecipeLike, known_labels
from cutaway.maths.proportions import wilson

_SMALL = 0.05  # a change of probability that is taken for none
_COUNTED = ("predictions", "accuracy")  # what is a share of texts
FREE, FROZEN = "accuracy, trained again", "accuracy, trained with uniform attention"


@method(paper="wiegreffe2019", needs={"tokens", "attention"})
def attention_uniform(
    model: Model,
    x: Batch,
    *,
    labels: Tensor | None = None,
    trainings: int = 0,
    recipe: RecipeLike = None,
    examples: int = 0,
    epochs: int = 0,
    attention: Site | None = None,
    seed: int = 0,
) -> Scores:
    """Give all tokens of a text the same attention, and look what becomes of the output.

    change = mean of TVD(p(x; 1/k each), p(x; attention)),  TVD(p, q) = sum |p_c - q_c| / 2

    Where nothing changes, the network does not need its attention, and what its weights say explains nothing. One
    forward for each text and one for what follows attention. On request, the network is trained again as well, with
    uniform attention from the start and, from the same first weights, with its own.

    Args:
        labels: The class of each text, for accuracies; examples bring theirs.
        trainings: How often the network is trained again, in both ways; 0 for not at all.
        recipe: How the network is trained: a `cutaway.core.recipe.Recipe`, or a function that makes one from the model.
            cutaway's own networks bring theirs.
        examples: Training examples taken, the first ones; 0 for all.
        epochs: Passes over them; 0 for the recipe's own number.
        attention: The place of attention; the only place whose values look like it, if not given. Without trainings,
            a layer of a transformer, or a head of it, is taken as well.
        seed: The seeds of the trainings are the numbers after it.

    Returns:
        Mean change of the class probabilities, the share of texts whose predicted class changes, and how uniform the
        attention was to begin with (its entropy over that of the uniform one), each of 1; where labels are known, the
        accuracy before and after; after trainings, the accuracies of both ways, means over the seeds. Over five
        texts or more, with 95 % intervals: by bootstrap, and Wilson's of shares.

    Raises:
        BadOption: Trainings are asked for and there is no recipe.
        NotPossible: The network has no attention of that kind, or no text has two tokens.

    Source: Wiegreffe and Pinter 2019, section 3.2. Differs: uniform attention is also put into the trained network,
    which is the default; accuracy in place of F1.
    """
    if trainings < 0:
        raise BadOption(f"expected trainings of 0 or more; got {trainings}.")
    texts = list(subjects(model, x, attention, "attention_uniform", pairs=not trainings))
    truth, notes = known_labels(model, x, labels)
    known = labels is not None
    found = torch.tensor([_flattened(text, truth, known) for text in texts], dtype=torch.float64)
    names = ["change of output", "predictions changed", "entropy of attention"]
    names += ["accuracy", "accuracy with uniform attention"] if known else []
    checks = _verdict(found, texts[0].whose)
    if trainings:
        room = Class.of(model, x, attention, "attention_uniform", recipe, examples, epochs)
        both, done = _trained(room, truth, trainings, seed)
        found, names = torch.cat([found, both], 1), [*names, FREE, FROZEN]
        checks |= notes | _without(both, done)
        checks |= {"partial": partial(2 * done, 2 * trainings, "trainings")} if done < trainings else {}
    low, high = _intervals(found, names)
    return Scores(
        title="Uniform attention",
        names=names,
        values=found.mean(0),
        low=low,
        high=high,
        unit="of 1",
        checks=checks | few(len(found)) | left_out(x, len(found)),
    )


def _flattened(subject: Subject, truth: Tensor, known: bool) -> list[float]:
    """Change, whether the class is another, the entropy of the attention over the highest; whether both are right."""
    count = len(subject.weights)
    found = subject.even().exp()
    entropy = -torch.xlogy(subject.weights, subject.weights).sum() / torch.tensor(count).log()
    before, after, label = subject.probabilities.argmax(), found.argmax(), truth[subject.number]
    rights = [float(before == label), float(after == label)] if known else []
    return [float(change(found, subject.probabilities)), float(after != before), float(entropy), *rights]


def _intervals(found: Float[Tensor, "n columns"], names: list[str]) -> tuple[Tensor, Tensor]:
    """Over texts. Of shares Wilson's: where no prediction changed, there is no spread to draw from."""
    ends = over_texts(found)
    if ends is None:
        return torch.empty(0), torch.empty(0)
    counted = torch.tensor([name.startswith(_COUNTED) for name in names])
    low, high = wilson(found.sum(0), torch.full_like(found[0], len(found)))
    return torch.where(counted, low, ends[0]), torch.where(counted, high, ends[1])


def _verdict(found: Float[Tensor, "n columns"], whose: str) -> dict[str, Check]:
    moved, flipped = found.mean(0)[:2].tolist()
    needless = moved < _SMALL and flipped < _SMALL
    text = (
        f"With uniform attention{whose} the output changes by {moved:.3f} on average over {len(found)} texts, and the "
        f"predicted class of {flipped:.1%} of them: the network {'hardly needs' if needless else 'uses'} "
        f"{'that' if whose else 'its'} attention."
    )
    return {"verdict": Check(text, "warn" if needless else "ok", moved)}


def _trained(texts: Class, truth: Tensor, trainings: int, seed: int) -> tuple[Float[Tensor, "n 2"], int]:
    """How often each text is right after training with its own attention and with uniform one; trainings done."""
    texts.lessons()
    label = texts.school.afford(2 * trainings, "attention_uniform")
    truth, rows = truth[texts.numbers], []
    for k in track(range(trainings), label):
        if time_is_up():
            break
        free = watched(texts.again(seed + 1 + k), texts.x, texts.site)
        frozen = texts.uniform(seed + 1 + k)
        rows.append(torch.stack([(one.classes == truth).double() for one in (free, frozen)], 1))
    if not rows:
        raise NotPossible("the time limit came before the first training; give it more, or ask for fewer epochs.")
    return torch.stack(rows).mean(0), len(rows)


def _without(both: Float[Tensor, "n 2"], done: int) -> dict[str, Check]:
    """What training without a choice costs, over texts."""
    mean, ends = mean_of(both[:, 0] - both[:, 1])
    sure = ends is not None and ends[0] > 0
    text = (
        f"Trained {2 * done} times again, the network is right for {float(both[:, 0].mean()):.1%} with its own "
        f"attention and for {float(both[:, 1].mean()):.1%} with uniform attention "
        f"({mean:+.1%}{between(ends, '+.1%')})"
    )
    text += "." if sure else ": the task does not need attention, so its weights need not explain anything."
    return {"trained": Check(text, "ok" if sure else "warn", mean, ends)}
