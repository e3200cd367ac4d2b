"""Contextual decomposition: the part of a score that comes from a word, a region, a column, or a group of them.

At every operation, each activation is the sum of what comes from the group and the rest; `core.decomposed.rules` says
how an operation passes both on. What two groups have together and neither has alone is their interaction.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cutaway.attribution.decomposition_groups import Bias, Groups, Rectifier, adding, group_of, idle, law
from cutaway.core.batch import Batch, join, primary, size, take
from cutaway.core.budget import afford, cut_short, fair_share
from cutaway.core.checks import Check
from cutaway.core.errors import BadShape
from cutaway.core.features import Features
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.players import features_of
from cutaway.core.result import Attribution, Matrix
from cutaway.core.site import INPUT, Site
from cutaway.core.target import Target

_SHARED = "They came in random order; the others were taken together, and share what comes from all of them equally."
_BLANK = "The pairs of players that have most alone came first; the others are left undefined."


@method(paper="murdoch2018", laws={"batch_independent", "dummy", "linear_in_target"}, quick={"features": "auto:4"})
def contextual_decomposition(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    features: Features | str = "auto",
    group: str | None = None,
    bias: Bias | None = None,
    rectifier: Rectifier = "averaged",
) -> Attribution:
    """The part of a score that comes from each word, region or column, in the context of the others.

    value of a player = target(part), where at every operation part + rest is what the network computes

    Two forwards for each player: one for the part and one for the rest.

    Args:
        wrt: Where the players are: the input, a layer, or one unit of it. Only what comes after is decomposed.
        features: The players: words, cells:7, superpixels:50, columns; `auto` takes what is natural.
        group: Players that are taken together, by their numbers ("3-5", "0,2"): only their common part is computed.
        bias: Share a bias between part and rest in proportion to their sizes, or leave it to the rest. If not given,
            `rest` for a network with a recurrent layer, else `shared`.
        rectifier: What a ReLU gives the part: the mean of its effect alone and beside the rest, or its effect alone.

    Returns:
        Parts of the target, a player's in equal shares on its entries; undivided in `extra["whole"]`. They need not sum
        to the target: two players can have more together than each has alone. Players that the time limit leaves out
        are taken together.

    Raises:
        NotPossible: An operation has no rule, or the target is no sum of scores.

    Source: Murdoch et al. 2018; Singh et al. 2019 for convolutions. Differs: ReLU averages both orders, as tanh does;
    `rectifier="alone"` is that of Singh et al. The rules for attention, layer normalisation and gates other than an
    LSTM's are ours.
    """
    found: list[tuple[Groups, Tensor]] = []
    done = []
    for i in range(size(x)):
        row = take(x, slice(i, i + 1))
        players = features_of(features, model, row, wrt)
        players = players if group is None else group_of(group, players)
        cost = 2 * (len(players) + 2) * size(x)
        afford(cost, f"contextual_decomposition of {len(players)} players", stops=True)
        with fair_share(size(x) - i):
            groups = Groups(model, row, target.row(i), players, bias, rectifier, "contextual_decomposition", wrt)
            each, reached = groups.each()
        found.append((groups, each))
        done.append(reached)
    like = primary(x) if primary(x).is_floating_point() else torch.empty(0, dtype=model.dtype)
    return Attribution(
        values=join([_shares(groups, each) for groups, each in found]).to(like),
        target=str(target),
        wrt=str(wrt),
        unit="target",
        score=torch.tensor([groups.whole for groups, _ in found], dtype=torch.float64).to(like),
        players=[list(groups.features.names) for groups, _ in found],
        extra={
            "player": join([_shown(groups, groups.owner) for groups, _ in found]),
            "whole": join([_laid_out(groups, each) for groups, each in found]).to(like),
        },
        checks=_checks([groups for groups, _ in found], [each for _, each in found], model.dtype)
        | cut_short(done, [len(groups) for groups, _ in found], "players", _SHARED),
    )


@method(paper="murdoch2018", needs={"one_input"}, quick={"features": "auto:4"})
def decomposition_interaction(
    model: Model,
    x: Batch,
    target: Target,
    *,
    wrt: Site = INPUT,
    features: Features | str = "auto:25",
    bias: Bias = "rest",
    rectifier: Rectifier = "averaged",
) -> Matrix:
    """What two words, regions or columns have together and neither has alone, for every pair.

    entry (i, j) = part of the target from i and j together - part from i - part from j

    For k players, k (k + 1) / 2 groups of two forwards each.

    Args:
        wrt: As in contextual_decomposition.
        features: The players: words, cells:4, superpixels:20, columns; `auto:25` takes what is natural.
        bias: As in contextual_decomposition. A shared bias depends on how large a group is, and so looks like an
            interaction of all with all; left to the rest, an additive model has none.
        rectifier: As in contextual_decomposition.

    Returns:
        A symmetric matrix in the target's unit; its diagonal is undefined, and where the time limit ends it, so are
        pairs of players that have little alone.

    Raises:
        BadShape: More than one input, or one player alone.

    Source: the pair terms of Murdoch et al. 2018. Differs: for any network whose operations have rules.
    """
    if size(x) != 1:
        raise BadShape(f"expected one input, since the matrix is about its parts; got {size(x)}.")
    players = features_of(features, model, x, wrt)
    k = len(players)
    if k < 2:
        raise BadShape("expected at least two parts, to compare them together and apart; got one.")
    afford(k * (k + 1) + 4, f"decomposition_interaction of {k} players", stops=True)
    groups = Groups(model, x, target.row(0), players, bias, rectifier, "decomposition_interaction", wrt)
    one = torch.eye(k, dtype=torch.bool)
    each = groups(one)
    first, second = _pairs(each)
    both = groups(one[first] | one[second], least=1)
    count, wanted = len(both), len(first)
    first, second = first[:count], second[:count]
    pairs = both - each[first] - each[second]
    values = torch.full((k, k), torch.nan, dtype=torch.float64)
    values[first, second] = values[second, first] = pairs
    names = list(players.names)
    return Matrix(
        values=values,
        row_names=names,
        column_names=names,
        unit="target",
        sequence=groups.is_text,
        checks={"law": law(groups.gap, model.dtype), **_pair_checks(groups, each, pairs)}
        | idle(each)
        | cut_short([count], wanted, "pairs", _BLANK),
    )


def _pairs(each: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of players, those first that have most alone."""
    first, second = torch.triu_indices(len(each), len(each), 1)
    order = (each[first].abs() + each[second].abs()).argsort(descending=True, stable=True)
    return first[order], second[order]


def _shown(groups: Groups, entries: Tensor) -> Tensor:
    """Entries as the result has them, (1, ...): a text has one for each token."""
    return entries[..., 0][None] if groups.is_text else entries[groups.index][None]


def _laid_out(groups: Groups, each: Tensor) -> Tensor:
    """A player's value at each of its entries; 0 where nobody is."""
    return _shown(groups, torch.cat([each, each.new_zeros(1)])[groups.owner])


def _shares(groups: Groups, each: Tensor) -> Tensor:
    """A player's value in equal parts on its entries."""
    owner = groups.owner[groups.owner >= 0].flatten()
    return _laid_out(groups, each / torch.bincount(owner, minlength=len(each)))


def _checks(found: Sequence[Groups], each: Sequence[Tensor], dtype: torch.dtype) -> dict[str, Check]:
    """Whether the parts obey their law, and how the players' parts add up."""
    worst = max((groups.gap for groups in found), key=lambda gap: gap.size)
    of_first = "" if len(found) == 1 else f" For the first of {len(found)} inputs."
    checks = {"law": law(worst, dtype), "sum": adding(found[0], each[0], of_first)}
    return checks | idle(torch.cat(list(each)))


def _pair_checks(groups: Groups, each: Tensor, pairs: Tensor) -> dict[str, Check]:
    """How large the interactions are beside what the players have alone."""
    largest, alone = float(pairs.abs().max()), float(each.abs().max())
    text = (
        f"Of {len(pairs)} pairs, the largest interaction is {largest:.3g} in size; what single players have is at most "
        f"{alone:.3g}, and the target is {groups.whole:.3g}."
    )
    return {"pairs": Check(text, "note", largest)}
