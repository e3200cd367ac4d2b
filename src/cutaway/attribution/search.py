"""What a position is worth and how play would go on: exact for small games, by a policy-value network for others."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from cutaway.attribution.games import Game
from cutaway.core.budget import time_is_up

# A won game is worth this much, less one for each move until the end: sooner is better, and later is better if lost.
_WON = 1000
# Most positions and most moves ahead that a full search looks at.
_POSITIONS, _DEPTH = 400_000, 60
# How far priors pull the search: AlphaGo Zero's constant, at the value that the gomoku networks were trained with.
_CURIOSITY = 5.0
# Positions of one tree that are evaluated together. More would be faster and look at worse ones.
_WIDTH = 4
# A line is told as long as this, and as far as its positions were looked at this often.
_LONGEST, _SEEN = 9, 4

# For each state, the shares of its legal moves, in their order, and the expected result of the player whose turn it is.
Evaluate = Callable[[Sequence[Any]], list[tuple[list[float], float]]]


class Found(NamedTuple):
    """What is known of a position.

    Attributes:
        value: Expected result of the player whose turn it is: 1 won, 0 drawn, -1 lost.
        end: Moves until the end, where the value is proved; None where it is estimated.
        line: How play would go on.
        exact: True if `end` is the number with best play of both, and not only one that cannot be exceeded.
    """

    value: float
    end: int | None
    line: tuple[int, ...]
    exact: bool = False

    @property
    def proved(self) -> bool:
        """True if no play of the other side can change the value."""
        return self.end is not None


class TooLarge(Exception):
    """The game has too many positions for a full search, or for one in the time that is left."""


class Solver:
    """Full search: every continuation, to the end. Remembers what it has seen."""

    def __init__(self, game: Game) -> None:
        self.game = game
        self._scores: dict[Any, int] = {}

    def score(self, state: Any, depth: int = 0) -> int:
        """The value for the player whose turn it is, sooner wins and later losses counting more.

        Raises:
            TooLarge: There are too many positions, or the time is up.
        """
        known = self._scores.get(state)
        if known is not None:
            return known
        if len(self._scores) >= _POSITIONS or depth > _DEPTH or time_is_up():
            raise TooLarge
        outcome = self.game.outcome(state)
        if outcome is not None:
            score = _WON * outcome
        else:
            score = max(_before(self.score(self.game.play(state, m), depth + 1)) for m in self.game.legal(state))
        self._scores[state] = score
        return score

    def found(self, state: Any) -> Found:
        """The value of a position, and best play: the soonest win, the latest loss, among equals the most threats."""
        score, line = self.score(state), []
        after = state
        while self.game.outcome(after) is None:
            line.append(self._best(after))
            after = self.game.play(after, line[-1])
        return Found(float((score > 0) - (score < 0)), len(line), tuple(line), exact=True)

    def _best(self, state: Any) -> int:
        after = {m: self.game.play(state, m) for m in self.game.legal(state)}
        return max(after, key=lambda m: (_before(self.score(after[m])), len(self.game.threats(after[m])), -m))


def _before(score: int) -> int:
    """A position's score, for the player who moved into it."""
    return -score + (score > 0) - (score < 0)


class _Node:
    """A position in a tree, once it was evaluated or is the end of the game."""

    __slots__ = ("kids", "legal", "pending", "priors", "proof", "state", "totals", "value", "visits")

    def __init__(self, game: Game, state: Any) -> None:
        outcome = game.outcome(state)
        self.state = state
        self.proof = None if outcome is None else _WON * outcome
        self.legal = [] if outcome is not None else list(game.legal(state))
        self.priors: list[float] = []
        self.value = 0.0
        self.pending = False
        self.kids: list[_Node | None] = [None] * len(self.legal)
        self.visits = [0] * len(self.legal)
        self.totals = [0.0] * len(self.legal)

    def choose(self) -> int:
        """The move to look at next: a good one so far, or one that the network likes and was seldom looked at."""
        pull = _CURIOSITY * math.sqrt(sum(self.visits) + 1)
        best, highest = 0, -math.inf
        for k, (visits, kid) in enumerate(zip(self.visits, self.kids, strict=True)):
            if kid is not None and kid.proof is not None and kid.proof > 0:
                continue  # it loses by force, and at least one move does not: else this position would be proved
            worth = (self.totals[k] / visits if visits else 0.0) + pull * self.priors[k] / (1 + visits)
            if worth > highest:
                best, highest = k, worth
        return best

    def prove(self) -> None:
        """The score by force, where what comes after settles it."""
        proofs = [None if kid is None or kid.proof is None else _before(kid.proof) for kid in self.kids]
        known = [proof for proof in proofs if proof is not None]
        if known and (max(known) > 0 or len(known) == len(proofs)):
            self.proof = max(known)

    def best(self) -> int | None:
        """The place of the move that the search arrived at; None where it knows too little."""
        if self.proof is not None:
            return next(
                (
                    k
                    for k, kid in enumerate(self.kids)
                    if kid and kid.proof is not None and _before(kid.proof) == self.proof
                ),
                None,
            )
        k = max(range(len(self.legal)), key=lambda k: (self.visits[k], self.priors[k]), default=None)
        return k if k is not None and self.visits[k] >= _SEEN else None


class Tree:
    """A search that grows where the network sees promise, and keeps what it proves.

    Each descent ends in a new position, which the network evaluates, or in the end of a game. Ends are passed up: a
    position with a lost one after it is won by force, one with only won ones after it is lost by force.
    """

    def __init__(self, game: Game, state: Any, budget: int) -> None:
        self.game, self.budget = game, budget
        self.root = _Node(game, state)
        self.spent = self._descents = 0
        self._paths: list[list[tuple[_Node, int]]] = []
        self._leaves: list[_Node] = []

    @property
    def done(self) -> bool:
        """True if the value is proved, or the budget spent."""
        # Descents to ends of games cost no evaluation, but there must be a last one.
        return self.root.proof is not None or self.spent >= self.budget or self._descents >= 4 * self.budget

    def wanted(self) -> list[Any]:
        """The positions that the network should evaluate next; possibly none."""
        self._paths, self._leaves = [], []
        if self.done:
            return []
        for _ in range(min(_WIDTH, self.budget - self.spent)):
            if self.done or not self._descend():
                break
        return [leaf.state for leaf in self._leaves]

    def take(self, answers: Sequence[tuple[list[float], float]]) -> None:
        """Note what the network says of the wanted positions."""
        self.spent += len(answers)
        for leaf, path, (priors, value) in zip(self._leaves, self._paths, answers, strict=True):
            leaf.priors, leaf.value, leaf.pending = priors, value, False
            self._pass_up(path, value)

    def _descend(self) -> bool:
        node, path = self.root, []
        self._descents += 1
        while node.priors and node.proof is None:
            k = node.choose()
            path.append((node, k))
            node.visits[k] += 1
            node.totals[k] -= 1.0  # a loss until it is known, so that the next descent goes elsewhere
            kid = node.kids[k]
            if kid is None:
                kid = node.kids[k] = _Node(self.game, self.game.play(node.state, node.legal[k]))
            node = kid
        if node.proof is not None:
            self._pass_up(path, float((node.proof > 0) - (node.proof < 0)))
            return True
        if node.pending:
            for above, k in path:
                above.visits[k] -= 1
                above.totals[k] += 1.0
            return False
        node.pending = True
        self._leaves.append(node)
        self._paths.append(path)
        return True

    @staticmethod
    def _pass_up(path: list[tuple[_Node, int]], value: float) -> None:
        for node, k in reversed(path):
            value = -value
            node.totals[k] += 1.0 + value
            if node.proof is None:
                node.prove()

    def found(self) -> Found:
        """What the search arrived at."""
        root = self.root
        if root.proof is not None:
            value, end = float((root.proof > 0) - (root.proof < 0)), _WON - abs(root.proof) if root.proof else 0
        else:
            k = root.best()
            value, end = (root.totals[k] / root.visits[k] if k is not None else root.value), None
        line, node = list[int](), root
        while len(line) < _LONGEST and (k := node.best()) is not None:
            line.append(node.legal[k])
            kid = node.kids[k]
            assert kid is not None
            node = kid
        return Found(value, end, tuple(line))


class Grown(NamedTuple):
    """What trees found.

    Attributes:
        found: Of each position.
        cut: How many evaluations the unfinished tree with fewest had when the time was up; None if all were finished.
    """

    found: list[Found]
    cut: int | None = None


def grow(game: Game, states: Sequence[Any], evaluate: Evaluate, budget: int, told: Callable[[int], None]) -> Grown:
    """Search from several positions, with as many evaluations for each. Nothing is drawn at random.

    The time limit ends it after any round; each position itself is evaluated in any case.

    Args:
        game: The rules.
        states: The positions.
        evaluate: The network.
        budget: Evaluations for each position.
        told: Is called with the number of evaluations so far.
    """
    trees = [Tree(game, state, budget) for state in states]
    while True:
        wanted = [tree.wanted() for tree in trees]
        together = [state for few in wanted for state in few]
        answers = iter(evaluate(together) if together else [])
        for tree, few in zip(trees, wanted, strict=True):
            tree.take([next(answers) for _ in few])
        told(sum(tree.spent for tree in trees))
        open_still = [tree.spent for tree in trees if not tree.done]
        if not open_still or time_is_up():
            return Grown([tree.found() for tree in trees], min(open_still, default=None))
