"""Is there a network that answers alike and attends otherwise? Train one for that, and see how far it comes."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.budget import partial, time_is_up
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Points
from cutaway.core.site import Site
from cutaway.evaluation.attention_adversary import attention_adversary
from cutaway.evaluation.attention_subject import left_out
from cutaway.evaluation.attention_training import Class, Watched, judged, watched
from cutaway.evaluation.retraining import RecipeLike, known_labels

TRAINED, SEEDS, UNIFORM, EACH = "trained to differ", "other seeds", "uniform attention", "each text's farthest"

_AS_GOOD = 0.03  # how much less accurate than other seeds a network may be that does the task as well


class _Network(NamedTuple):
    """One network beside the original: its group, its name, mean JSD, mean TVD, and its accuracy."""

    group: str
    name: str
    apart: float
    moved: float
    right: float


@method(
    paper="wiegreffe2019",
    needs={"tokens", "attention"},
    quick={"strengths": (0.0, 0.01), "seeds": 1, "epochs": 1},
)
def attention_adversarial_training(
    model: Model,
    x: Batch,
    *,
    strengths: tuple[float | str, ...] = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05),
    seeds: int = 3,
    eps: float = 0.01,
    labels: Tensor | None = None,
    recipe: RecipeLike = None,
    examples: int = 0,
    epochs: int = 0,
    attention: Site | None = None,
    seed: int = 0,
) -> Points:
    """Train networks that answer as this one does and attend otherwise, and draw what that costs.

    sum over training texts of TVD(p', p) - strength * KL(a' | a),   a the network's own attention, a' the new one's

    What `attention_adversary` finds for each text by itself, a network may not be able to compute for all texts. The
    curve over the strengths says how far attention can be moved (JSD, in nats, at most ln 2 = 0.693) for how much
    change of the output (TVD, from 0 to 1). It is drawn beside networks trained with other seeds, one trained with
    uniform attention, and the mean of `attention_adversary`. A steep curve means that this attention is hard to
    replace; one that runs along the bottom, that it is one of many. One training for each strength and seed, and one
    for uniform attention.

    Args:
        strengths: What a nat of divergence is worth, for a network each.
        seeds: Networks trained by the recipe with other seeds.
        eps: Largest change of the output allowed to the farthest attention of each text; see `attention_adversary`.
        labels: The class of each text, for accuracies; examples bring theirs.
        recipe: How the network is trained: a `cutaway.core.recipe.Recipe`, or a function that makes one from the model.
            cutaway's own networks bring theirs.
        examples: Training examples taken, the first ones; 0 for all.
        epochs: Passes over them; 0 for the recipe's own number.
        attention: The place of attention; the only place whose values look like it, if not given.
        seed: The seeds of the trainings are the numbers after it.

    Returns:
        A point for each network: mean divergence of attention, and mean change of the output, over the texts.

    Raises:
        BadOption: No recipe; options out of range.
        NotPossible: The network has no attention of that kind, no text has two tokens, or the recipe trains by a loop
            of its own.

    Source: Wiegreffe and Pinter 2019, section 4.2 and figure 5. Differs: means over texts in place of sums, which is
    the same weighing; the recipe's optimiser and passes without early stopping.
    """
    values = _values(strengths, seeds)
    texts = Class.of(model, x, attention, "attention_adversarial_training", recipe, examples, epochs)
    texts.lessons()
    truth, notes = known_labels(model, x, labels)
    trainings = len(values) + seeds + 1
    label = texts.school.afford(trainings, "attention_adversarial_training")
    found: list[_Network] = []
    for network in track(_networks(texts, values, seeds, seed, truth[texts.numbers]), label, total=trainings):
        found.append(network)
        if time_is_up():
            break
    each = attention_adversary(model, texts.x, eps=eps, attention=texts.site, seed=seed)
    farthest = float(each.positions[:, 1].mean())
    cut = {"partial": partial(len(found), trainings, "trainings")} if len(found) < trainings else {}
    checks = _checks(texts, found, farthest, eps, truth[texts.numbers])
    places = [[n.apart, n.moved] for n in found] + [[farthest, eps]]
    return Points(
        title="Attention and output of networks trained again",
        positions=torch.tensor(places, dtype=torch.float64),
        names=[*(n.name for n in found), f"farthest, TVD <= {eps:g}"],
        groups=[*(n.group for n in found), EACH],
        axes=["divergence of attention (JSD, nats)", "change of output (TVD)"],
        joined=[TRAINED],
        checks=checks | notes | cut | left_out(x, len(texts.numbers)),
    )


def _values(strengths: tuple[float | str, ...], seeds: int) -> list[float]:
    try:
        values = sorted({float(strength) for strength in strengths})
    except ValueError:
        values = []
    if not values or not 0 <= values[0] <= values[-1] < float("inf") or seeds < 0:
        raise BadOption(
            "expected strengths of 0 or more, and seeds of 0 or more; "
            f"got strengths={';'.join(map(str, strengths))}, seeds={seeds}."
        )
    return values


def _networks(texts: Class, strengths: list[float], seeds: int, seed: int, truth: Tensor) -> Iterator[_Network]:
    """All networks, those first that the comparison needs most."""

    def beside(group: str, name: str, seen: Watched) -> _Network:
        apart, moved = texts.own.divergence(seen).mean(), texts.own.change(seen).mean()
        return _Network(group, name, float(apart), float(moved), float((seen.classes == truth).double().mean()))

    for k in range(seeds):
        yield beside(SEEDS, f"seed {seed + 1 + k}", watched(texts.again(seed + 1 + k), texts.x, texts.site))
    taught = texts.taught()
    for strength in strengths:
        other = texts.adversary(strength, seed + 1, taught)
        yield beside(TRAINED, f"λ = {strength:g}", watched(other, texts.x, texts.site))
    yield beside(UNIFORM, "uniform", texts.uniform(seed + 1))


def _checks(texts: Class, found: list[_Network], farthest: float, eps: float, truth: Tensor) -> dict[str, Check]:
    checks = _verdict([n for n in found if n.group == TRAINED], [n for n in found if n.group == SEEDS])
    text = (
        f"For each text by itself, the farthest attention that changes the output by at most {eps:g} has a divergence "
        f"of {farthest:.3f}, whether or not a network could compute it."
    )
    checks["each"] = Check(text, "note", farthest)
    own = float((texts.own.classes == truth).double().mean())
    rights = ", ".join(f"{n.name} {n.right:.1%}" for n in found)
    checks["accuracy"] = Check(f"The network is right for {own:.1%}; trained again: {rights}.", "note", own)
    return checks


def _verdict(trained: list[_Network], seeds: list[_Network]) -> dict[str, Check]:
    """How far attention moves while the output moves no more than with another seed, or is right about as often."""
    if not trained or not seeds:
        return {"verdict": Check("There is no training with another seed and one to differ to compare.", "note")}
    moved, apart = (sum(values) / len(seeds) for values in zip(*((n.moved, n.apart) for n in seeds), strict=True))
    reached = _along(trained, moved)
    text = f"Other seeds change the output by {moved:.3f} (TVD) and attention by {apart:.3f} (JSD); "
    if reached is None:
        text += "no network that was trained to attend otherwise keeps the output so well."
    else:
        text += f"at that change of the output, training for it moves attention by {reached:.3f}, of at most 0.693."
    right = sum(n.right for n in seeds) / len(seeds)
    others = [n for n in trained if n.right >= right - _AS_GOOD and n.apart > apart]
    far = max(others, key=lambda n: n.apart, default=None)
    if far is not None:
        text += (
            f" The farthest that is right about as often ({far.name}: {far.right:.1%}, other seeds {right:.1%}) moves "
            f"attention by {far.apart:.3f}, and the output by {far.moved:.3f}."
        )
    value = max(reached or apart, far.apart if far else apart)
    return {"verdict": Check(text, judged(value) if others or reached is not None else "ok", value)}


def _along(trained: list[_Network], moved: float) -> float | None:
    """The farthest divergence on the curve at a change of output, between two networks by a straight line."""
    inside = [n.apart for n in trained if n.moved <= moved]
    for a, b in pairwise(trained):
        if min(a.moved, b.moved) <= moved < max(a.moved, b.moved):
            inside.append(a.apart + (moved - a.moved) / (b.moved - a.moved) * (b.apart - a.apart))
    return max(inside, default=None)
