"""Does it matter which words a network attends to? Put another attention in place and look at the output."""

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check, Status
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Points, Scores
from cutaway.core.site import Site
from cutaway.evaluation.attention_subject import PEAKED, Subject, change, left_out, subjects
from cutaway.maths.statistics import bootstrap_interval

_SMALL = 0.05  # a change of probability that is taken for none


@method(paper="jain2019", needs={"tokens", "attention"}, quick={"samples": 5})
def attention_permutation(
    model: Model, x: Batch, *, samples: int = 100, attention: Site | None = None, seed: int = 0
) -> Points:
    """Shuffle a text's attention among its tokens, and look how far the output moves.

    y = median over permutations of TVD(p(x; permuted attention), p(x; attention)),  TVD(p, q) = sum |p_c - q_c| / 2

    If the tokens with most attention were what the output rests on, shuffling would move it, and most where one token
    has most of the attention. Only what follows attention runs again: one forward for each permutation.

    Args:
        samples: Permutations of each text.
        attention: The place of attention; the only place whose values look like it, if not given.
        seed: Draws the permutations, alike for each text.

    Returns:
        A point for each text: its highest attention weight, and the median change of its class probabilities, from 0
        to 1.

    Raises:
        NotPossible: The network has no attention of that kind, or no text has two tokens.

    Source: Jain and Wallace 2019, section 4.2.1, algorithm 2.
    """
    if samples < 1:
        raise BadOption(f"expected at least one permutation; got samples={samples}.")
    points, names, groups = [], [], []
    for subject in subjects(model, x, attention, "attention_permutation"):
        found = change(subject.answers(_shuffled(subject.weights, samples, seed)).exp(), subject.probabilities)
        points.append([float(subject.weights.max()), float(found.median())])
        names.append(subject.name)
        groups.append(subject.decision)
    positions = torch.tensor(points, dtype=torch.float64)
    return Points(
        title="Output change under shuffled attention",
        positions=positions,
        names=names,
        groups=groups,
        axes=["highest attention", "median change of output (TVD)"],
        checks=_moved(positions) | left_out(x, len(points)),
    )


def _shuffled(weights: Float[Tensor, " k"], samples: int, seed: int) -> Float[Tensor, "samples k"]:
    generator = torch.Generator().manual_seed(seed)
    return weights[torch.rand(samples, len(weights), generator=generator, dtype=torch.float64).argsort(1)]


def _moved(positions: Float[Tensor, "n 2"]) -> dict[str, Check]:
    highest, moved = positions.T
    small = float((moved < _SMALL).double().mean())
    status: Status = "ok" if small < 0.25 else "note" if small < 0.5 else "warn"
    text = (
        f"Shuffled attention changes the output by {float(moved.mean()):.3f} on average over {len(moved)} texts; in "
        f"{small:.0%} of them by less than {_SMALL}."
    )
    peaked = highest >= PEAKED
    checks = {"verdict": Check(text, status, float(moved.mean()))}
    if peaked.any():
        few = float((moved[peaked] < _SMALL).double().mean())
        text = (
            f"Of {int(peaked.sum())} texts where one token has at least half of the attention, {few:.0%} change by "
            f"less than {_SMALL}."
        )
        checks["peaked"] = Check(text, "note", few)
    return checks


@method(paper="wiegreffe2019", needs={"tokens", "attention"})
def attention_uniform(model: Model, x: Batch, *, attention: Site | None = None) -> Scores:
    """Give all tokens of a text the same attention, and look what becomes of the output.

    change = mean of TVD(p(x; 1/k each), p(x; attention)),  TVD(p, q) = sum |p_c - q_c| / 2

    Where nothing changes, the network does not need its attention, and what its weights say explains nothing. One
    forward for each text and one for what follows attention; nothing is trained again.

    Args:
        attention: The place of attention; the only place whose values look like it, if not given.

    Returns:
        Mean change of the class probabilities, the share of texts whose predicted class changes, and how uniform the
        attention was to begin with (its entropy over that of the uniform one), each of 1, with a 95 % bootstrap
        interval. Accuracy changes by no more than the share of predictions.

    Raises:
        NotPossible: The network has no attention of that kind, or no text has two tokens.

    Source: Wiegreffe and Pinter 2019, section 3.2. Differs: uniform attention is put into the trained network, which
    is not trained again with it.
    """
    found = [_flattened(subject) for subject in subjects(model, x, attention, "attention_uniform")]
    rows = torch.tensor(found, dtype=torch.float64)
    low, high = bootstrap_interval(rows, generator=torch.Generator().manual_seed(0))
    moved, flipped, _ = rows.mean(0).tolist()
    needless = moved < _SMALL and flipped < _SMALL
    text = (
        f"With uniform attention the output changes by {moved:.3f} on average over {len(rows)} texts, and the "
        f"predicted class of {flipped:.1%} of them: the network {'hardly needs' if needless else 'uses'} its attention."
    )
    checks = {"verdict": Check(text, "warn" if needless else "ok", moved)}
    return Scores(
        title="Uniform attention",
        names=["change of output", "predictions changed", "entropy of attention"],
        values=rows.mean(0),
        low=low,
        high=high,
        unit="of 1",
        checks=checks | left_out(x, len(rows)),
    )


def _flattened(subject: Subject) -> list[float]:
    """Change, whether the class is another, and the entropy of the text's own attention over the highest possible."""
    count = len(subject.weights)
    found = subject.answers(torch.full((1, count), 1 / count, dtype=torch.float64)).exp()[0]
    entropy = -torch.xlogy(subject.weights, subject.weights).sum() / torch.tensor(count).log()
    flipped = found.argmax() != subject.probabilities.argmax()
    return [float(change(found, subject.probabilities)), float(flipped), float(entropy)]
