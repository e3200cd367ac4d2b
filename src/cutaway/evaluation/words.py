"""Delete word after word of a text: most relevant first against least relevant first."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.core.batch import Batch, size, take
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.fill import Fill
from cutaway.core.game import Game, play
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.progress import track
from cutaway.core.result import Attribution, Curve
from cutaway.core.target import Target
from cutaway.evaluation.curves import watched
from cutaway.evaluation.flipping import LEAST, MOST, Found, curve_of
from cutaway.evaluation.orders import explained, over_input, random_ranks, ranks

Score = Literal["probability", "target"]


@method(
    paper="deyoung2020",
    laws={"oracle_beats_random"},
    needs={"tokens"},
    quick={"fills": ("zero",), "orders": 2, "steps": 4},
)
def word_deletion(
    model: Model,
    x: Batch,
    attribution: Attribution,
    *,
    fills: tuple[str, ...] = ("remove", "zero"),
    steps: int = 10,
    orders: int = 4,
    score: Score = "probability",
    seed: int = 0,
) -> Curve:
    """Delete the words of a text in the map's order, and add up how far the score falls.

    AOPC = mean over k = 0..L of score(x) - score(x without its first k words)

    The same with the least relevant words first is drawn beside: the comprehensiveness of a rationale is the first
    curve at its share of words, its sufficiency the second curve at the share that is left.

    Args:
        fills: What stands for a deleted word, each with numbers of its own: remove, mask or pad change the tokens, zero
            the embedding. The first one is drawn, and is in the verdict.
        steps: Points of a curve after the first; the last has no word left.
        orders: Random orders to compare with.
        score: The probability of the explained class, or the explained target itself.
        seed: Of the random orders, and of ties.

    Returns:
        How far the score has fallen over the share of words deleted, in the unit of the score, with a 95 % bootstrap
        band over texts. The summary has the area over each curve (AOPC): the most relevant words first, the least
        relevant first, and random orders, for each fill.

    Raises:
        BadOption: Options out of range.
        NotPossible: A text of one word; or a fill that the tokenizer has no token for.

    Source: DeYoung et al. 2020, section 4.2; the areas as in Samek et al. 2017. Differs: whole words, both orders over
    all shares, controls, several fills.
    """
    if steps < 2 or orders < 2:
        raise BadOption(f"expected steps and orders of 2 or more; got steps={steps}, orders={orders}.")
    if not fills:
        raise BadOption("expected a fill or more, such as remove;zero; got none.")
    watch, words = watched(model, explained(model, x, attribution), score)
    maps = over_input(model, x, attribution)
    shares = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    found, pooled = {}, []
    for text in fills:
        games = [_game(model, take(x, slice(i, i + 1)), watch.row(i), text, seed) for i in range(size(x))]
        pooled = [_pooled(game, values) for game, values in zip(games, maps, strict=True)]
        rows = torch.stack(
            [
                _falls(game, scores, shares, orders, seed)
                for game, scores in track(list(zip(games, pooled, strict=True)), f"word deletion, {text}")
            ]
        )
        found[text] = Found(own={MOST: rows[:, 0], LEAST: rows[:, 1]}, random=rows[:, 2:], controls={})
    return curve_of("Word deletion", "share of words deleted", found, shares, words, pooled)


def _game(model: Model, row: Batch, target: Target, fill: str, seed: int) -> Game:
    game = play(model, row, target, features="words", fill=Fill.of(fill), seed=seed)
    if len(game) < 2:
        raise NotPossible(f"expected texts of two words or more; one has only {game.features.names[0]!r}.")
    return game


def _pooled(game: Game, values: Float[Tensor, " tokens"]) -> Float[Tensor, " words"]:
    """Each word's value: the sum over its pieces."""
    owner = game.owner.flatten().cpu()
    total = torch.zeros(len(game), dtype=torch.float64)
    return total.index_add_(0, owner[owner >= 0], values.double().cpu()[owner >= 0])


def _falls(game: Game, scores: Tensor, shares: Tensor, orders: int, seed: int) -> Float[Tensor, "o points"]:
    """By order: most relevant first, least relevant first, then random ones."""
    chance = torch.Generator().manual_seed(seed + 1)
    places = [ranks(sign * scores, torch.Generator().manual_seed(seed)) for sign in (1, -1)]
    places += [random_ranks(len(game), chance) for _ in range(orders)]
    gone = (shares * len(game)).round().long()
    left = torch.stack([place[None] >= gone[:, None] for place in places])  # (orders, points, words)
    return game.full - game(left.flatten(0, 1)).view(left.shape[:2])
