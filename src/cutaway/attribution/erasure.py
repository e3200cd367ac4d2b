"""What an answer loses without some of its parts: one at a time, or as few as it takes to change it."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cutaway.attribution.erasure_parts import without_each
from cutaway.attribution.taken import Taken, left_out
from cutaway.core.batch import Batch, join, size, take
from cutaway.core.budget import afford, fair_share
from cutaway.core.checks import Check
from cutaway.core.features import Features
from cutaway.core.fill import Fill, neutral
from cutaway.core.game import Game, play
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target, logit, logprob, per_row, prob

_NEUTRAL = neutral()
# A log-probability so close to 0 that shares of it say nothing: the network is surer than 0.999.
_SURE = 1e-3


@method(
    paper="li2016erasure",
    laws={"batch_independent", "linear_in_target", "same_for_equivalent_nets"},
    quick={"features": "auto:4"},
)
def leave_one_out(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    wrt: Site = INPUT,
    fill: Fill = _NEUTRAL,
    seed: int = 0,
) -> Attribution:
    """Take away one part after the other: a word, a group of columns, a superpixel, a unit.

    values_i = target(x) - target(x without part i)

    One forward for each part, in batches; of an image only what can see the part is run again, and at a layer only what
    comes after it.

    Args:
        features: The parts: words, groups of columns, cells or superpixels of an image, units of a layer.
        wrt: Where they are: the input, or a layer.
        fill: What is put in the place of a part; `remove` really deletes words.
        seed: Draws a random fill, the same for each part and input, and the order in which parts are taken away.

    Returns:
        Falls in the target's unit. Each entry of a part has the part's whole value.

    Source: Li, Monroe and Jurafsky 2016, equation 1 without the division. The same as feature ablation.
    """
    return _erased(model, x, target, features, wrt, fill, seed, "leave_one_out", relative=False)


@method(paper="li2016erasure", laws={"batch_independent", "same_for_equivalent_nets"}, quick={"features": "auto:4"})
def erasure(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    wrt: Site = INPUT,
    fill: Fill = _NEUTRAL,
    relative: bool = True,
    seed: int = 0,
) -> Attribution:
    """How much of a class's log-likelihood goes with one word, embedding dimension or unit of a layer.

    values_i = (S(x) - S(x without i)) / |S(x)|,  S = log p(class)

    A value of 1 doubles the loss. With `wrt` at the embedding and features="units", i is a dimension of all words.

    Args:
        features: What is erased, one at a time: words, columns, cells of an image, units of a layer.
        wrt: Where: the input, the embedding by its name, or another layer.
        fill: What is put in the place of what is erased; `neutral` is 0 for words and units, as in the paper.
        relative: Divide by |S(x)|; without it, values are in nats.
        seed: Draws a random fill, the same for each part and input, and the order in which parts are erased.

    Returns:
        Shares of the log-likelihood (or nats) that are lost. Each entry of a part has the part's whole value.

    Source: Li, Monroe and Jurafsky 2016, equation 1. Differs: divided by |S|, so that what speaks for the class is
    positive (S is negative); one map for each input, and the paper's mean over examples as a check, where all have the
    same parts.
    """
    scored = [_log_likelihood(target.row(i), model) for i in range(size(x))]
    aims = per_row(scored) if target.rows else scored[0]
    return _erased(model, x, aims, features, wrt, fill, seed, "erasure", relative=relative)


def _log_likelihood(target: Target, model: Model) -> Target:
    """The log-probability of the class that is named; any other target stays what it is."""
    single = len(target.classes) == 1 and model.scores != "values"
    forms = [kind(which) for which in target.classes for kind in (logit, prob)] if single else []
    return logprob(target.classes[0]) if str(target) in map(str, forms) else target


def _erased(
    model: Model,
    x: Batch,
    target: Target,
    features: Features | str,
    wrt: Site,
    fill: Fill,
    seed: int,
    name: str,
    *,
    relative: bool,
) -> Attribution:
    games, taken = [], []
    for i, game in enumerate(games_of(model, x, target, features, wrt, fill, seed, name)):
        row, aim = take(x, slice(i, i + 1)), target.row(i)
        with fair_share(size(x) - i):
            rest, asked = without_each(game, model, row, aim, fill, seed, f"{name} {i + 1} of {size(x)}")
        fall = game.full - rest  # after them: where it can, the whole input runs in a batch with its parts
        taken.append(Taken(fall / abs(game.full) if relative and game.full else fall, asked))
        games.append(game)
    falls = [one.every for one in taken]
    laid = [game.lay_out(fall).to(model.dtype).to(model.device) for game, fall in zip(games, falls, strict=True)]
    return Attribution(
        values=join(laid),
        target=str(target),
        wrt=str(wrt),
        unit="share of the target" if relative else "target",
        score=torch.tensor([game.full for game in games], dtype=model.dtype, device=model.device),
        players=[list(game.features.names) for game in games],
        extra={"player": join([game.owner[None] for game in games])},
        checks=_checks(games, falls, relative=relative) | left_out(taken, "parts"),
    )


def games_of(
    model: Model, x: Batch, target: Target, features: Features | str, wrt: Site, fill: Fill, seed: int, name: str
) -> Iterator[Game]:
    """The game of each input, after the first has told what it will cost to ask each of its players."""
    for i in range(size(x)):
        game = play(model, take(x, slice(i, i + 1)), target.row(i), features=features, fill=fill, wrt=wrt, seed=seed)
        if not i:
            afford(game.forwards(len(game)) * size(x), f"{name} of {len(game)} parts", stops=True)
        yield game


def _checks(games: Sequence[Game], falls: Sequence[Tensor], *, relative: bool) -> dict[str, Check]:
    """Who was taken away, what all of them make together, and where a share has no meaning."""
    first = games[0]
    checks = {"parts": Check(first.describe(), "note", float(len(first)))}
    if len(games) == 1:
        change, fall = first.full - first.empty, falls[0] * (abs(first.full) if relative and first.full else 1)
        text = (
            f"Single parts take at most {float(fall.max()):.3g} from the target; all of them together take "
            f"{change:.3g}, from {first.full:.3g} to {first.empty:.3g}."
        )
        checks["together"] = Check(text, "note", change)
    idle = sum(not bool(fall.any()) for fall in falls)
    if idle:
        text = f"No part changes the target of {idle} of {len(games)} inputs: is each the fill already?"
        checks["idle"] = Check(text, "warn", float(idle))
    sure = sum(abs(game.full) < _SURE for game in games)
    if relative and sure:
        text = (
            f"The target is within {_SURE:g} of 0 on {sure} of {len(games)} inputs, so that shares of it are huge or "
            "undefined; relative=False gives nats."
        )
        checks["sure"] = Check(text, "warn", float(sure))
    names = {game.features.names for game in games}
    if len(games) > 1 and len(names) == 1:
        means = torch.stack(list(falls)).mean(0)
        top = means.argsort(descending=True, stable=True)[:5].tolist()
        told = ", ".join(f"{first.features.names[k]} ({float(means[k]):.3g})" for k in top)
        checks["mean"] = Check(f"On the mean of {len(games)} inputs, most is lost without {told}.", "note")
    return checks
