"""tic-tac-toe: a small policy-value network that was taught what a full search knows of every position."""

from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional

from cutaway.attribution.games import InARow, Stones
from cutaway.attribution.search import Solver
from cutaway.core.dataset import Examples
from cutaway.core.recipe import Recipe
from cutaway.core.space import images
from cutaway.zoo.entries import Entry
from cutaway.zoo.gomoku import PolicyValueNet
from cutaway.zoo.train import trained

GAME = InARow(3, 3, 3)
CELLS = len(GAME.names)


@cache
def positions() -> Examples:
    """Every position that play can reach and that is not over, with each stone that may have been the last.

    The labels, (n, 10), are the shares of the moves, equal for all best ones (of wins the soonest, of losses the
    latest), and the result with best play for the player whose turn it is: 1, 0 or -1.
    """
    solver, found = Solver(GAME), dict[Stones, None]()
    waiting = [GAME.start]
    while waiting:
        state = waiting.pop()
        if state not in found and GAME.outcome(state) is None:
            found[state] = None
            waiting += [GAME.play(state, move) for move in GAME.legal(state)]
    labels = torch.zeros(len(found), CELLS + 1)
    for label, state in zip(labels, found, strict=True):
        after = {move: solver.score(GAME.play(state, move)) for move in GAME.legal(state)}
        best = [move for move, score in after.items() if score == min(after.values())]
        label[best] = 1 / len(best)
        label[CELLS] = (solver.score(state) > 0) - (solver.score(state) < 0)
    return Examples(
        x=GAME.encode(list(found)).float(),
        names=[GAME.show(state) for state in found],
        labels=labels,
        classes=GAME.names,
        source="tic-tac-toe",
    )


def loss(output: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of the moves, and of the result: a squared distance has no slope where it is sure and wrong."""
    moves = functional.cross_entropy(output["policy"], labels[:, :CELLS])
    chance, share = (1 + output["value"][:, 0]) / 2, (1 + labels[:, CELLS]) / 2
    return moves + functional.binary_cross_entropy(chance, share)


def right(output: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Is the first choice a best move, and the value nearest to the result?"""
    best = labels.gather(1, output["policy"].argmax(1, keepdim=True))[:, 0] > 0
    return best & (output["value"][:, 0].round() == labels[:, CELLS])


RECIPE = Recipe(
    name="tic-tac-toe",
    build=partial(PolicyValueNet, 3, (32, 48, 48)),
    # The game has no other positions, so nothing can be held out: the accuracy is that on all of them.
    train=positions,
    test=positions,
    space=images(3, channels=4),
    classes=GAME.names,
    epochs=60,
    rate=0.006,
    batch=256,
    varied=lambda x, generator: x,
    loss=loss,
    right=right,
    output="policy",
)

MODELS = (
    Entry("tic-tac-toe", "policy-value net that knows tic-tac-toe by full search", partial(trained, RECIPE), RECIPE),
)
