"""Does it matter which words a network attends to? Put another attention in place and look at the output."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check, Status
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Points
from cutaway.core.site import Site
from cutaway.evaluation.attention_subject import PEAKED, change, left_out, subjects

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
        attention: The place of attention; the only place whose values look like it, if not given. A layer of a
            transformer, or a head of it, is taken as well: all its tokens are shuffled alike.
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
    points, names, groups, whose = [], [], [], ""
    for subject in subjects(model, x, attention, "attention_permutation", pairs=True):
        orders = _orders(len(subject.weights), samples, seed)
        found = change(subject.permuted(orders).exp(), subject.probabilities)
        points.append([float(subject.weights.max()), float(found.median())])
        names.append(subject.name)
        groups.append(subject.decision)
        whose = subject.whose
    positions = torch.tensor(points, dtype=torch.float64)
    return Points(
        title="Output change under shuffled attention",
        positions=positions,
        names=names,
        groups=groups,
        axes=["highest attention", "median change of output (TVD)"],
        checks=_moved(positions, whose) | left_out(x, len(points)),
    )


def _orders(count: int, samples: int, seed: int) -> Int[Tensor, "samples k"]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(samples, count, generator=generator, dtype=torch.float64).argsort(1)


def _moved(positions: Float[Tensor, "n 2"], whose: str) -> dict[str, Check]:
    highest, moved = positions.T
    small = float((moved < _SMALL).double().mean())
    status: Status = "ok" if small < 0.25 else "note" if small < 0.5 else "warn"
    text = (
        f"Shuffled attention{whose} changes the output by {float(moved.mean()):.3f} on average over {len(moved)} "
        f"texts; in {small:.0%} of them by less than {_SMALL}."
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
