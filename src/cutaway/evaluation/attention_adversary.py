"""Other attention with the same output: if there is much of it, the network's own is not the reason."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check, Status
from cutaway.core.errors import BadOption
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Points
from cutaway.core.site import Site
from cutaway.evaluation.attention_subject import PEAKED, Subject, change, divergence, left_out, subjects

_PENALTY = 500.0  # for a change of output beyond what is allowed
_RATE = 0.1
_INSIDE = 1 - 1e-3  # rounding must not carry a corner out of what is allowed
# Shares of the way from the network's attention to the one that was found; the farthest that keeps the output counts.
_WAY = (1.0, 0.995, 0.98, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1)
_LINEAR = 1e-3  # largest miss of a mixture of single tokens that is taken for rounding
_FAR, _NEAR = 0.4, 0.1  # divergences, of at most ln 2


class _Found(NamedTuple):
    """The farthest attention with the same output: its divergence, its weights, and how far the search was off."""

    divergence: float
    weights: Tensor
    gap: float


@method(paper="jain2019", needs={"tokens", "attention"}, quick={"steps": 5, "candidates": 3})
def attention_adversary(
    model: Model,
    x: Batch,
    *,
    eps: float = 0.01,
    candidates: int = 20,
    steps: int = 200,
    attention: Site | None = None,
    seed: int = 0,
) -> Points:
    """Look for attention that is as different as possible and leaves the output as it is.

    y = max JSD(b, a) over attentions b with TVD(p(x; b), p(x; a)) <= eps,  a the network's own

    JSD is the Jensen-Shannon divergence in nats, at most ln 2 = 0.693. The search runs on what single tokens would
    give, with all attention on one: log p(b) = sum over tokens of b_t log p(x; all on t), up to a constant, which is
    exact where the logits are linear in attention. With two classes, the attentions allowed are then a polytope, the
    farthest is one of its corners (the divergence is convex), and a corner has one token or two: all are looked at.
    With more classes Adam climbs. What is found is put into the network, and counts only as far as the output really
    stays, so every value is reached. For each text one forward for each token and ten for each candidate, of what
    follows attention.

    Args:
        eps: Largest change of the class probabilities (TVD).
        candidates: How many attentions of each text are put into the network; with more than two classes also the
            starting points of the climb.
        steps: Steps of the climb.
        attention: The place of attention; the only place whose values look like it, if not given.
        seed: Draws the starting points, alike for each text.

    Returns:
        A point for each text: its highest attention weight, and the divergence reached, from 0 to 0.693 nats.

    Raises:
        NotPossible: The network has no attention of that kind, or no text has two tokens.

    Source: Jain and Wallace 2019, section 4.2.2, algorithm 3. Differs: corners, where the paper climbs with Adam; Adam
    climbs on the model above, without a term that keeps candidates apart. The paper keeps what changes the output by
    0.05 though 0.01 is asked for; here `eps` holds for each text.
    """
    if not 0 < eps < 1 or candidates < 1 or steps < 1:
        raise BadOption(
            "expected eps between 0 and 1, and at least one candidate and step; "
            f"got eps={eps:g}, candidates={candidates}, steps={steps}."
        )
    texts, found = [], []
    for subject in subjects(model, x, attention, "attention_adversary"):
        found.append(_farthest(subject, eps, candidates, steps, seed))
        texts.append(subject)
    points = [[float(s.weights.max()), f.divergence] for s, f in zip(texts, found, strict=True)]
    return Points(
        title="Other attention with the same output",
        positions=torch.tensor(points, dtype=torch.float64),
        names=[subject.name for subject in texts],
        groups=[subject.decision for subject in texts],
        axes=["highest attention", f"divergence (JSD, nats) at TVD <= {eps:g}"],
        checks=_checks(texts, found, eps) | left_out(x, len(texts)),
    )


def _farthest(subject: Subject, eps: float, candidates: int, steps: int, seed: int) -> _Found:
    own, count = subject.weights, len(subject.weights)
    singles = subject.answers(torch.eye(count, dtype=torch.float64))
    if singles.shape[1] == 2:
        odds = singles[:, 1] - singles[:, 0]
        ends = _corners(own, odds, float(subject.probabilities[1]), eps, candidates)
    else:
        ends = _climbed(own, singles, subject.probabilities, eps, _starts(count, candidates, seed), steps)
    way = torch.tensor(_WAY, dtype=torch.float64)[:, None, None]
    tried = torch.cat([own[None], (own + way * (ends - own)).flatten(0, 1)])
    answers = subject.answers(tried).exp()
    gap = float(change((tried @ singles).softmax(1), answers).max())
    kept = tried[change(answers, subject.probabilities) <= eps]
    if not len(kept):  # rounding alone moves the output by more than eps
        return _Found(0.0, own, gap)
    far = divergence(kept, own)
    best = int(far.argmax())
    return _Found(float(far[best]), kept[best], gap)


def _starts(count: int, candidates: int, seed: int) -> Float[Tensor, "candidates k"]:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(candidates, count, generator=generator, dtype=torch.float64)


def _corners(
    own: Float[Tensor, " k"], odds: Float[Tensor, " k"], answer: float, eps: float, count: int
) -> Float[Tensor, "corners k"]:
    """The farthest corners of what is allowed: all on one token, or on two, so that their mean is at an end of it.

    Args:
        own: The network's attention.
        odds: Log odds of the second class with all attention on each token.
        answer: Its probability.
        eps: How far that may move.
        count: Corners wanted.
    """
    ends = torch.tensor([answer - _INSIDE * eps, answer + _INSIDE * eps], dtype=torch.float64).clamp(0, 1).logit()
    alone = ((odds >= ends[0]) & (odds <= ends[1])).nonzero()[:, 0]
    found = [(alone, (alone + 1) % len(own), torch.ones(len(alone), dtype=torch.float64))]
    for end in ends:
        below, above = torch.cartesian_prod((odds < end).nonzero()[:, 0], (odds > end).nonzero()[:, 0]).view(-1, 2).T
        found.append((below, above, (odds[above] - end) / (odds[above] - odds[below])))
    one, other, share = (torch.cat(parts) for parts in zip(*found, strict=True))
    # Token by token, since there are as many corners as pairs of tokens: all other tokens lose what they had.
    far = _gain(own[one], share) + _gain(own[other], 1 - share)
    best = far.topk(min(count, len(far))).indices
    corners = torch.zeros(len(best), len(own), dtype=torch.float64)
    corners[torch.arange(len(best)), one[best]] = share[best]
    corners[torch.arange(len(best)), other[best]] = 1 - share[best]
    return corners


def _gain(own: Tensor, given: Tensor) -> Tensor:
    """A token's part of the divergence, less what it would be with no attention at all."""
    middle = (own + given) / 2
    parts = sum(torch.xlogy(p, p) - torch.xlogy(p, middle) for p in (own, given)) / 2
    return parts - own * math.log(2) / 2


def _climbed(
    own: Float[Tensor, " k"],
    singles: Float[Tensor, "k classes"],
    answer: Float[Tensor, " classes"],
    eps: float,
    starts: Float[Tensor, "candidates k"],
    steps: int,
) -> Float[Tensor, "candidates k"]:
    """Attentions after climbing in divergence, where leaving the allowed output costs more than it gains."""
    with torch.enable_grad():
        scores = starts.clone().requires_grad_()
        climber = torch.optim.Adam([scores], lr=_RATE)
        for _ in range(steps):
            weights = scores.softmax(1)
            moved = change((weights @ singles).softmax(1), answer)
            cost = _PENALTY * (moved - eps).clamp_min(0) - divergence(weights, own)
            (scores.grad,) = torch.autograd.grad(cost.sum(), scores)
            climber.step()
    return scores.detach().softmax(1)


def _checks(texts: list[Subject], found: list[_Found], eps: float) -> dict[str, Check]:
    far = torch.tensor([f.divergence for f in found], dtype=torch.float64)
    share, middle = float((far > _FAR).double().mean()), float(far.median())
    status: Status = "ok" if middle < _NEAR else "note" if middle < _FAR else "warn"
    text = (
        f"In {share:.0%} of {len(far)} texts a very different attention (JSD above {_FAR}) changes the output by no "
        f"more than {eps:g}; the median divergence is {middle:.2f} of at most 0.69."
    )
    return {
        "verdict": Check(text, status, middle),
        **_peaked(texts, far),
        "search": _search(max(f.gap for f in found), len(texts[0].probabilities)),
        "example": _example(texts[int(far.argmax())], found[int(far.argmax())]),
    }


def _peaked(texts: list[Subject], far: Float[Tensor, " n"]) -> dict[str, Check]:
    """Flat attention has many equals; the question is harder where one token has most of it."""
    peaked = torch.tensor([float(subject.weights.max()) >= PEAKED for subject in texts])
    if not peaked.any():
        return {}
    share = float((far[peaked] > _FAR).double().mean())
    text = (
        f"Of {int(peaked.sum())} texts where one token has at least half of the attention, {share:.0%} have such "
        "another one."
    )
    return {"peaked": Check(text, "note", share)}


def _search(gap: float, classes: int) -> Check:
    """How good the search was."""
    if gap >= _LINEAR:
        text = (
            f"The search took the output for a mixture of single tokens, which misses it by up to {gap:.2g}: each "
            "divergence was reached, but there may be attention farther away."
        )
        return Check(text, "note", gap)
    if classes > 2:
        text = "Each divergence was reached by a climb from several starts: there may be attention farther away."
        return Check(text, "note", gap)
    return Check(
        "All corners of what is allowed were compared: but for rounding, no attention is farther away.", "ok", gap
    )


def _example(subject: Subject, found: _Found) -> Check:
    def top(weights: Tensor) -> str:
        at = int(weights.argmax())
        return f"{subject.tokens[at]!r} ({float(weights[at]):.2f})"

    name = subject.name if len(subject.name) <= 80 else f"{subject.name[:80]} ..."
    text = (
        f"In {name!r} most attention is on {top(subject.weights)}; with most of it on {top(found.weights)}, the output "
        f"stays (JSD {found.divergence:.2f})."
    )
    return Check(text, "note", found.divergence)
