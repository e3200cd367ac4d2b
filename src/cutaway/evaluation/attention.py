"""Does a token's attention say how much it matters? Compared with what the network's own output says."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.checks import Check, Status
from cutaway.core.errors import NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Points
from cutaway.core.site import INPUT, OUTPUT, Site
from cutaway.core.target import Target, logit, logprob, prob
from cutaway.core.tokens import without_tokens
from cutaway.core.trace import Trace
from cutaway.evaluation.attention_subject import Subject, change, few, left_out, over_texts, subjects

# Three of four pairs of words in the same order, and five of eight.
_ALIKE, _PARTLY = 0.5, 0.25
_SURE = 0.05  # p-value below which a single text's correlation is called significant
_PAIRS = ("attention and gradient", "attention and leaving out", "gradient and leaving out")


@method(paper="jain2019", needs={"tokens", "attention"})
def attention_correlation(model: Model, x: Batch, target: Target, *, attention: Site | None = None) -> Points:
    """Compare the order that attention gives the words of a text with their weight in the prediction.

    tau(a, g) and tau(a, d),  g_i = |sum over d of e_id * d log p / d e_id|,  d_i = TVD(p(x), p(x without word i))

    tau is Kendall's rank correlation over the words of one text; e_i is a word's embedding. The gradient holds
    attention fixed; leaving a word out computes it anew. The agreement of gradient and leaving out with each other is
    the control: what two other answers to the same question have in common.

    One forward and one backward for each text, and one forward for each word.

    Args:
        attention: The place of attention; the only place whose values look like it, if not given. Of a layer of a
            transformer, or a head of it, the mean over heads and over the tokens that look is taken, and it is not
            held fixed.

    Returns:
        A point for each text: tau with the gradient, and tau with leaving out, from -1 to 1. Means, spreads and shares
        of significant texts are checks.

    Raises:
        NotPossible: The network has no attention of that kind, or no text has two words of different weight.

    Source: Jain and Wallace 2019, section 4.1. Differs: the gradient is that of the log-probability of the target's
    class, which gives the same order as that of its probability.
    """
    rows, names, groups, seen = [], [], [], 0
    for i, subject in enumerate(subjects(model, x, attention, "attention_correlation", pairs=True)):
        seen = i + 1
        found = _taus(subject, _of_probability(target.row(subject.number), model))
        if not found[..., 0].isnan().any():
            rows.append(found)
            names.append(subject.name)
            groups.append(subject.decision)
    if not rows:
        raise NotPossible("no text has two words of different attention, gradient and effect: there is no order.")
    table = torch.stack(rows)
    return Points(
        title="Attention beside gradient and leaving out",
        positions=table[:, :2, 0],
        names=names,
        groups=groups,
        axes=["tau of attention and gradient", "tau of attention and leaving out"],
        checks=_checks(table) | _undefined(seen, len(rows)) | left_out(x, seen),
    )


def _of_probability(target: Target, model: Model) -> Target:
    """A class, by its log-probability: with two classes, one logit alone says half of the answer."""
    forms = [str(kind(which)) for which in target.classes for kind in (logit, prob)]
    return logprob(target.classes[0]) if str(target) in forms else target


def _taus(subject: Subject, target: Target) -> Float[Tensor, "3 2"]:
    """Kendall's tau of the three pairs, each with its p-value."""
    words = subject.words
    own = subject.weights[words]
    slopes, falls = gradient_size(subject, target)[words], without_each(subject)
    found = [kendall(a, b) for a, b in ((own, slopes), (own, falls), (slopes, falls))]
    return torch.tensor(found, dtype=torch.float64)


def gradient_size(subject: Subject, target: Target) -> Float[Tensor, " k"]:
    """|gradient times embedding| of each shown token, with attention held as it is."""
    found = subject.model.gradient(subject.row, target, wrt=INPUT, edit=subject.held)
    return (found.slope * found.value)[0].double().sum(-1).abs().cpu()[subject.shown]


def without_each(subject: Subject) -> Float[Tensor, " words"]:
    """The change of output without each word in turn."""
    at = subject.shown.nonzero()[:, 0][subject.words]
    stay = torch.ones(len(at), len(subject.shown), dtype=torch.bool)
    stay[torch.arange(len(at)), at] = False
    own = subject.probabilities

    def moved(trace: Trace) -> Tensor:
        return change(trace.probabilities.double().cpu(), own)

    score = without_tokens(subject.model, subject.row, "remove")
    return score(stay, Target("output change", (OUTPUT,), moved)).double().cpu()


def kendall(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Kendall's tau-b, in which ties count for neither order, and its p-value; nan where one side is constant."""
    from scipy.stats import kendalltau  # takes half a second to import, which no other call should wait for

    if len(a) < 2:
        return math.nan, math.nan
    found = kendalltau(a.numpy(), b.numpy())
    return float(found.statistic), float(found.pvalue)


def _checks(table: Float[Tensor, "n 3 2"]) -> dict[str, Check]:
    means = table[..., 0].mean(0).tolist()
    shares = (table[..., 1] < _SURE).double().mean(0)
    worst = min(means[:2])
    how, status = _judged(worst)
    text = (
        f"Attention orders words {how} other measures of their weight: mean tau {means[0]:.2f} with the gradient, "
        f"{means[1]:.2f} with leaving words out; these two have {means[2]:.2f} with each other."
    )
    checks = {"verdict": Check(text, status, worst)}
    for k, (name, mean, share) in enumerate(zip(_PAIRS, means, shares.tolist(), strict=True)):
        text = f"Tau of {name}: {mean:.3f}{_spread(table[:, k, 0])}; p < {_SURE} in {share:.0%} of them."
        checks[name.replace(" ", "_")] = Check(text, "note", mean)
    return checks | few(len(table))


def _spread(values: Float[Tensor, " n"]) -> str:
    """How far texts lie apart, and where their mean does: " ± 0.24 over 872 texts (mean 0.17 to 0.21)"."""
    if len(values) == 1:
        return " over 1 text"
    said, ends = f" ± {float(values.std()):.3f} over {len(values)} texts", over_texts(values)
    return said if ends is None else f"{said} (mean {float(ends[0]):.3f} to {float(ends[1]):.3f})"


def _judged(tau: float) -> tuple[str, Status]:
    if tau >= _ALIKE:
        return "much as", "ok"
    return ("only in part as", "note") if tau >= _PARTLY else ("otherwise than", "warn")


def _undefined(seen: int, kept: int) -> dict[str, Check]:
    text = (
        f"{seen - kept} of {seen} texts have no order of words, since all of them weigh the same; they were left out."
    )
    return {"undefined": Check(text, "note", seen - kept)} if seen > kept else {}
