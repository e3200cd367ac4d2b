"""As little as it takes: the smallest set of parts without which the answer is another."""

import torch
from torch import Tensor

from cutaway.attribution.erasure import games_of
from cutaway.attribution.erasure_search import Found, Search, most
from cutaway.core.batch import Batch, join, size, take
from cutaway.core.budget import afford, cut_short, fair_share
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption
from cutaway.core.features import Features
from cutaway.core.fill import Fill, neutral
from cutaway.core.game import Game, play
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.result import Attribution
from cutaway.core.site import INPUT, OUTPUT, Site
from cutaway.core.target import Target, logit, logprob, per_row, prob
from cutaway.core.trace import Trace

_NEUTRAL = neutral()
_NAMED = 12  # parts that a sentence names


@method(
    paper="li2016erasure",
    laws={"batch_independent", "same_for_equivalent_nets"},
    quick={"features": "auto:4", "tries": 200},
)
def smallest_flip(
    model: Model,
    x: Batch,
    target: Target,
    *,
    features: Features | str = "auto",
    wrt: Site = INPUT,
    fill: Fill = _NEUTRAL,
    tries: int = 2000,
    seed: int = 0,
) -> Attribution:
    """The smallest set of words, columns, cells or units without which the answer changes.

    S = argmin |S|  such that  margin(x without S) and margin(x) have different signs,
    margin = score of the class - highest score of another

    A set is built greedily and made smaller one by one; then all sets that are smaller still are tried, by size, as far
    as `tries` goes. A class that is not the answer is made the answer; a target of another kind, such as a difference
    of two logits, is its own margin.

    Args:
        features: What can be erased: words, groups of columns, cells or superpixels of an image, units of a layer.
        wrt: Where: the input, or a layer.
        fill: What is put in the place of what is erased.
        tries: Sets that are looked at for one input, at most, beyond those of the greedy search.
        seed: Draws a random fill; the same for each set and input.

    Returns:
        1 where a part of the set is, 0 elsewhere, and everywhere if no set was found. `extra["margin"]` has the margin
        without the set, (n,). The check `flip` names the set, and says whether it is the smallest.

    Raises:
        BadOption: Fewer than 0 tries.

    Source: Li, Monroe and Jurafsky 2016, section 5. Differs: searched instead of learned by reinforcement, and proved
    to be the smallest where all smaller ones can be tried.
    """
    if tries < 0:
        raise BadOption(f"expected 0 tries or more; got {tries}.")
    aims = [_margin(target.row(i), model) for i in range(size(x))]
    aim = per_row(aims) if target.rows else aims[0]
    maps, found, sentences, players, owners = [], [], [], [], []
    for i, game in enumerate(games_of(model, x, aim, features, wrt, fill, seed, "smallest_flip")):
        if not i:
            cost = game.forwards(most(len(game), tries)) * size(x)
            afford(cost, f"smallest_flip of {len(game)} parts", stops=True)
        with fair_share(size(x) - i):
            found.append(Search(game, tries).found())
        players.append(list(game.features.names))
        owners.append(game.owner[None])
        maps.append(game.lay_out(found[-1].erased.to(model.dtype)).to(model.device))
        row, both = take(x, slice(i, i + 1)), ("", "")
        if game.draws == 1 and aims[i] is not target.row(i):
            asked = play(model, row, _ANSWER, features=features, wrt=wrt, fill=fill, seed=seed)
            both = _answers(model, asked, found[-1])
        sentences.append(_told(game, found[-1], *both))
    return Attribution(
        values=join(maps),
        target=str(target),
        wrt=str(wrt),
        unit="erased or not",
        score=target(model.run(x, read=target.sites)),
        signed=False,
        players=players,
        extra={
            "player": join(owners),
            "margin": torch.tensor([f.after for f in found], dtype=model.dtype, device=model.device),
        },
        checks=_checks(found, sentences) | _cut(found, tries),
    )


def _margin(target: Target, model: Model) -> Target:
    """By how much a class wins over the best other one; another target as it is."""
    if len(target.classes) != 1 or str(target) not in {str(k(target.classes[0])) for k in (logit, prob, logprob)}:
        return target
    (which,) = target.classes

    def value(trace: Trace) -> Tensor:
        scores = trace.scores
        if scores.shape[1] == 1:
            return scores[:, 0]
        k = trace.class_index(which)
        others = torch.cat([scores[:, :k], scores[:, k + 1 :]], dim=1)
        return scores[:, k] - others.amax(1)

    return Target(f"margin({target})", (OUTPUT,), value, target.classes)


# Which class the network names, as a number.
_ANSWER = Target("answer", (OUTPUT,), lambda trace: trace.scores.argmax(1).double())


def _answers(model: Model, asked: Game, found: Found) -> tuple[str, str]:
    """The network's answer on the input and without the set."""
    before, after = asked(torch.stack([torch.ones_like(found.erased), ~found.erased])).long().tolist()
    return model.class_name(before), model.class_name(after)


def _told(game: Game, found: Found, before: str, after: str) -> Check:
    count, k = int(found.erased.sum()), len(game)
    what = "the answer" if before else "the sign of the target"
    if not count:
        if found.floor > k:
            return Check(f"No set of the {k} parts changes {what}: all of them were tried.", "note")
        text = (
            f"No set was found that changes {what}, among {found.tried:,} that were tried. None of fewer than "
            f"{found.floor} parts does; a larger one may."
        )
        return Check(text, "warn")
    names = [repr(game.features.names[i]) for i in found.erased.nonzero()[:_NAMED, 0].tolist()]
    more = f" and {count - _NAMED} more" if count > _NAMED else ""
    change = f"the answer is {after} instead of {before}" if before != after else "the target changes its sign"
    text = f"Without {', '.join(names)}{more}, {count} of {k} parts, {change}."
    if count <= found.floor:
        return Check(f"{text} No smaller set does that: all were tried.", "ok", count)
    text += f" No set of fewer than {found.floor} does that; sets of {found.floor} to {count - 1} were not all tried."
    return Check(text, "note", count)


def _cut(found: list[Found], tries: int) -> dict[str, Check]:
    """What the time limit left untried."""
    wanted = [max(f.tried, most(len(f.erased), tries)) if f.late else f.tried for f in found]
    return cut_short([f.tried for f in found], wanted, "sets", "The set named is the smallest that was found by then.")


def _checks(found: list[Found], sentences: list[Check]) -> dict[str, Check]:
    checks = {"flip": sentences[0]}
    if len(found) > 1:
        sizes = [int(f.erased.sum()) for f in found]
        reached = sorted(s for s in sizes if s)
        smallest = sum(s.status == "ok" for s in sentences)
        span = f"{reached[0]} to {reached[-1]}" if len(set(reached)) > 1 else f"{reached[0] if reached else 0}"
        sets = f", of {span} parts; {smallest} of these sets are proved to be the smallest" if reached else ""
        text = f"A set that changes the answer was found for {len(reached)} of {len(found)} inputs{sets}."
        checks["inputs"] = Check(text, "note", float(len(reached)))
    return checks
