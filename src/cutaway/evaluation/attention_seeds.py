"""Would the network attend to the same words had it begun with other weights? Train all of it again."""

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.budget import partial, time_is_up
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Points
from cutaway.core.site import Site
from cutaway.core.text import pieces_of
from cutaway.evaluation.attention_subject import PEAKED, few, left_out
from cutaway.evaluation.attention_training import FAR, Class, Watched, between, judged, mean_of, watched
from cutaway.evaluation.retraining import RecipeLike, known_labels


@method(paper="wiegreffe2019", needs={"tokens", "attention"}, quick={"trainings": 1, "epochs": 1})
def attention_seeds(
    model: Model,
    x: Batch,
    *,
    trainings: int = 4,
    labels: Tensor | None = None,
    recipe: RecipeLike = None,
    examples: int = 0,
    epochs: int = 0,
    attention: Site | None = None,
    seed: int = 0,
) -> Points:
    """Train the network again from other weights, and compare where it looks.

    y = mean over trainings of JSD(a', a),  a' the attention of the network trained again, a the network's own

    Attention that changes with the seed is chance, and not what the texts or the labels ask for; how far it changes is
    also the measure for other changes of attention: see attention_adversarial_training. JSD is the Jensen-Shannon
    divergence in nats, at most ln 2 = 0.693. One training by the network's own recipe for each seed.

    Args:
        trainings: How many, with seeds that follow `seed`, which is that of cutaway's own networks.
        labels: The class of each text, for accuracies; examples bring theirs.
        recipe: How the network is trained: a `cutaway.core.recipe.Recipe`, or a function that makes one from the model.
            cutaway's own networks bring theirs.
        examples: Training examples taken, the first ones; 0 for all.
        epochs: Passes over them; 0 for the recipe's own number.
        attention: The place of attention; the only place whose values look like it, if not given.
        seed: The seeds of the trainings are the numbers after it.

    Returns:
        A point for each text: its highest attention weight, and the mean divergence from 0 to 0.693 nats. Means over
        texts, the change of the output and accuracies are checks.

    Raises:
        BadOption: No recipe.
        NotPossible: The network has no attention of that kind, no text has two tokens, or the time limit came first.

    Source: Wiegreffe and Pinter 2019, section 3.3. Differs: the mean over seeds, where the paper draws each.
    """
    if trainings < 1:
        raise BadOption(f"expected one training or more; got trainings={trainings}.")
    texts = Class.of(model, x, attention, "attention_seeds", recipe, examples, epochs)
    truth, notes = known_labels(model, x, labels)
    label = texts.school.afford(trainings, "attention_seeds")
    found: list[Watched] = []
    for k in track(range(trainings), label):
        if time_is_up():
            break
        found.append(watched(texts.again(seed + 1 + k), texts.x, texts.site))
    if not found:
        raise NotPossible("the time limit came before the first training; give it more, or ask for fewer epochs.")
    far = torch.stack([texts.own.divergence(one) for one in found])
    highest = texts.own.weights.max(1).values
    small = few(len(highest)) | left_out(x, len(highest))
    names = [p.text or " ".join(p.names) for p in pieces_of(texts.x, model.tokenizer)]
    cut = {"partial": partial(len(found), trainings, "trainings")} if len(found) < trainings else {}
    return Points(
        title="Attention of other seeds",
        positions=torch.stack([highest, far.mean(0)], 1),
        names=names or [f"text {k}" for k in texts.numbers.tolist()],
        groups=[model.class_name(k) for k in texts.own.classes.tolist()],
        axes=["highest attention", f"divergence (JSD, nats) over {len(found)} seeds"],
        checks=_checks(texts, found, far, truth[texts.numbers]) | notes | cut | small,
    )


def _checks(texts: Class, found: list[Watched], far: Tensor, truth: Tensor) -> dict[str, Check]:
    apart, ends = mean_of(far.mean(0))
    moved, _ = mean_of(torch.stack([texts.own.change(one) for one in found]).mean(0))
    several = "another seed" if len(found) == 1 else f"{len(found)} other seeds"
    text = (
        f"Trained again with {several}, the network attends differently by a divergence of {apart:.3f} "
        f"on average over {far.shape[1]} texts (JSD, at most 0.693{between(ends, '.3f')}), and its output "
        f"changes by {moved:.3f} (TVD)."
    )
    checks = {"verdict": Check(text, judged(apart), apart, ends)}
    rights = [float((one.classes == truth).double().mean()) for one in (texts.own, *found)]
    again = f"{min(rights[1:]):.1%} to {max(rights[1:]):.1%}"
    text = f"The network is right for {rights[0]:.1%}, trained again for {again}."
    checks["accuracy"] = Check(text, "note", sum(rights[1:]) / len(found))
    each = ", ".join(f"{float(one.mean()):.3f}" for one in far)
    checks["seeds"] = Check(f"The mean divergence of each seed: {each}.", "note", float(far.mean(1).max()))
    peaked = texts.own.weights.max(1).values >= PEAKED
    if peaked.any():
        share = float((far.mean(0)[peaked] > FAR).double().mean())
        text = (
            f"Of {int(peaked.sum())} texts where one token has at least half of the attention, {share:.0%} have quite "
            f"another one with other seeds (JSD above {FAR})."
        )
        checks["peaked"] = Check(text, "note", share)
    if any(torch.equal(one.probabilities, texts.own.probabilities) for one in found):
        text = "One of the networks answers exactly as this one: was it trained with that seed? Choose another seed."
        checks["same"] = Check(text, "warn")
    return checks
