"""Why this move and not that one: "because if I played y, they would reply z and, in that case, ..."."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from cutaway.attribution.games import Game, game_of
from cutaway.attribution.refutation import because, better
from cutaway.attribution.search import Evaluate, Found, Solver, TooLarge, grow
from cutaway.core.budget import afford, cut_short, fair_share, time_is_up
from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.method import method
from cutaway.core.model import Model
from cutaway.core.overflow import first_overflow
from cutaway.core.progress import report
from cutaway.core.result import Table
from cutaway.core.site import OUTPUT, Site
from cutaway.core.target import Target, logit, prob

_VALUE = Site("value")
# With as many free cells, a full search takes about a second.
_SOLVABLE = 10
_COLUMNS = [
    "position",
    "move",
    "instead",
    "value of the move",
    "value instead",
    "proved",
    "share of the move",
    "share instead",
    "line instead",
]


class _Position(NamedTuple):
    """A position whose move is explained: the move, others to compare it with, and the network's shares of all."""

    state: Any
    move: int
    others: list[int]
    shares: dict[int, float]


@method(paper="silver2017", laws={"batch_independent"}, needs={"board"}, quick={"evaluations": 16, "alternatives": 1})
def move_contrast(
    model: Model,
    x: Tensor,
    target: Target,
    *,
    game: Game | str = "auto",
    alternatives: int = 3,
    evaluations: int = 400,
    search: Literal["auto", "full", "network"] = "auto",
    value: Site = _VALUE,
) -> Table:
    """Why this move and not that one: what the other side would reply, and how play would go on.

    value(m) = -value for the other side of the position after m, with best play from there

    A full search tries every continuation to its end, so that values and lines are exact. Where a game is too large for
    that, a tree search with the network's own policy and value grows after each move, with the same number of
    evaluations for the move and for each alternative. One forward for the position, and for each move `evaluations`.

    Args:
        game: "4-in-a-row" or another number; "auto" is 3 on boards of up to 4 cells along a side, 4 on up to 6, else 5.
            In Python also an object with the rules of a game of your own (`cutaway.attribution.games.Game`).
        alternatives: How many other moves, the network's first choices, where the target names none. Mirror images of
            a move are passed over.
        evaluations: Positions that the network evaluates after each move, at most.
        search: "full" goes to the end of the game, "network" never does; "auto" does where few moves are left.
        value: Place of the network's value: the expected result of the player whose turn it is, from -1 to 1.

    Returns:
        A line for each alternative: values from -1 (lost) to 1 (won) for the player whose turn it is, whether both are
        proved, the network's shares of the legal moves, and how play would go on after the alternative. The check
        `because` says it in a sentence.

    Raises:
        BadOption: A target that is not a legal move, or the difference of two.

    Source: Silver et al. 2017 for the search (equation in "Methods", select). Differs: wins and losses that are certain
    are passed up the tree as such, leaves are evaluated four at a time, and nothing is random.
    """
    if evaluations < 1 or alternatives < 1:
        raise BadOption(f"expected evaluations and alternatives of at least 1; got {evaluations} and {alternatives}.")
    afford(len(x) * (1 + evaluations * (1 + alternatives)), f"move_contrast of {len(x)} positions", stops=True)
    rules = game_of(game, model.space.shape)
    states = [_running(rules, rules.decode(row)) for row in x]
    network = _Network(model, rules, value)
    shares = network.shares(x, states)
    rows: list[list[Any]] = []
    checks: dict[str, Check] = {}
    spent: list[int] = []
    for i, state in enumerate(states):
        moves = _moves(model, rules, state, target.row(i), shares[i])
        position = (
            _Position(state, *moves, shares[i])
            if moves[1]
            else _chosen(rules, state, moves[0], shares[i], alternatives)
        )
        with fair_share(len(states) - i):
            found, cut = _look(network, position, evaluations, search, i, len(states))
        spent.append(evaluations if cut is None else cut)
        for y in position.others:
            checks[f"because_{len(rows) + 1}" if rows else "because"] = _sentence(rules, position, y, found)
            rows.append(_row(rules, position, y, found))
        checks["search" if not i else f"search_{i + 1}"] = _searched(found, evaluations)
    checks["game"] = Check(f"The game is {getattr(rules, 'text', type(rules).__name__)}.", "note")
    checks |= cut_short(spent, evaluations, "evaluations after each move")
    return Table(columns=list(_COLUMNS), rows=rows, checks=checks)


# -- which moves -------------------------------------------------------------------------------------------------------


def _running(game: Game, state: Any) -> Any:
    if game.outcome(state) is not None or not game.legal(state):
        raise NotPossible(f"the game is over in the position {game.show(state)}: there is no move to explain.")
    return state


def _moves(model: Model, game: Game, state: Any, target: Target, shares: dict[int, float]) -> tuple[int, list[int]]:
    """The move, and the one to compare it with, if the target names it."""
    named = [model.class_index(name) for name in target.classes]
    forms = [kind(which) for which in target.classes[:1] for kind in (logit, prob)]
    single = len(named) == 1 and str(target) in {str(form) for form in forms}
    pair = len(named) == 2 and str(target) == str(logit(target.classes[0]) - logit(target.classes[1]))
    if not (single or pair):
        raise BadOption(f"expected a move, or the difference of two such as logit(3) - logit(5); got {target}.")
    legal = list(game.legal(state))
    first = max(shares, key=lambda m: (shares[m], -m))
    for move in named:
        if move not in legal:
            raise BadOption(
                f"{_name(game, move)} is no legal move in {game.show(state)}; the network's first choice among those "
                f"that are is {game.name(first)}. Name the move: target={game.name(first)!r}."
            )
    if len(set(named)) < len(named):
        raise BadOption(f"expected two different moves; got {target}.")
    return named[0], named[1:]


def _name(game: Game, move: int) -> str:
    try:
        return game.name(move)
    except IndexError:
        return f"output {move}"


def _chosen(game: Game, state: Any, move: int, shares: dict[int, float], count: int) -> _Position:
    """The network's first choices, no two of them mirror images of each other or of the move."""
    seen, others = {game.alike(game.play(state, move))}, list[int]()
    for m in sorted(shares, key=lambda m: (-shares[m], m)):
        image = game.alike(game.play(state, m))
        if image not in seen and len(others) < count:
            seen.add(image)
            others.append(m)
    if not others:
        raise NotPossible(
            f"no other move to compare {game.name(move)} with in {game.show(state)}: all are forced or mirror images."
        )
    return _Position(state, move, others, shares)


# -- what comes after them ---------------------------------------------------------------------------------------------


class _Network:
    """A policy-value network, asked about states of a game."""

    def __init__(self, model: Model, game: Game, value: Site) -> None:
        self.model, self.game, self._value = model, game, value

    def shares(self, x: Tensor, states: Sequence[Any]) -> list[dict[int, float]]:
        """The network's shares of the legal moves of each state."""
        logs = self.model.run(x).log_probabilities.double().cpu()
        return [self._legal(log, state) for log, state in zip(logs, states, strict=True)]

    def _legal(self, logs: Tensor, state: Any) -> dict[int, float]:
        legal = list(self.game.legal(state))
        if max(legal) >= len(logs):
            raise BadShape(
                f"expected an output with a column for each move, {max(legal) + 1} or more; got {len(logs)}."
            )
        if not torch.isfinite(logs[legal]).all():
            x = self.model.inputs(self.game.encode([state]))
            raise NotPossible(f"the network's shares of the moves are not finite: {first_overflow(self.model, x)}.")
        return dict(zip(legal, torch.softmax(logs[legal], 0).tolist(), strict=True))

    def __call__(self, states: Sequence[Any]) -> list[tuple[list[float], float]]:
        """Shares of the legal moves, and the expected result, of each state."""
        x = self.game.encode(states).to(device=self.model.device, dtype=self.model.dtype)
        trace = self.model.run(x, read=[OUTPUT, self._value])
        values = trace[self._value].double().cpu().reshape(len(states), -1)
        if values.shape[1] != 1 or not bool((values.abs() <= 1 + 1e-6).all()):
            raise BadShape(
                f"expected one value from -1 to 1 for each position at {self._value}; got {tuple(values.shape[1:])} "
                f"from {float(values.min()):.3g} to {float(values.max()):.3g}. Name its place: value=..."
            )
        logs = trace.log_probabilities.double().cpu()
        shares = [list(self._legal(log, state).values()) for log, state in zip(logs, states, strict=True)]
        return list(zip(shares, values[:, 0].tolist(), strict=True))


def _look(
    network: _Network, position: _Position, budget: int, search: str, number: int, total: int
) -> tuple[dict[int, Found], int | None]:
    """What is known of the position after each move, for the player whose turn it is then.

    And the evaluations that the move with fewest got, if the time limit ended the search.
    """
    game, moves = network.game, [position.move, *position.others]
    states = [game.play(position.state, m) for m in moves]
    if search == "full" or (search == "auto" and len(game.legal(position.state)) <= _SOLVABLE):
        try:
            solver = Solver(game)
            return {m: solver.found(s) for m, s in zip(moves, states, strict=True)}, None
        except TooLarge:
            if search == "full":
                why = " in the time that is left" if time_is_up() else ""
                text = f"{game.show(position.state)} has too many continuations for a full search{why}"
                raise NotPossible(f"{text}; pass search='network'.") from None
    size = budget * len(moves)
    evaluate: Evaluate = network
    grown = grow(game, states, evaluate, budget, lambda n: report("move_contrast", number * size + n, total * size))
    return dict(zip(moves, grown.found, strict=True)), grown.cut


# -- what to say -------------------------------------------------------------------------------------------------------


def _sentence(game: Game, position: _Position, y: int, found: dict[int, Found]) -> Check:
    x = position.move
    verdict = better(found[x], found[y])
    status: Literal["ok", "note", "warn"] = "ok" if verdict > 0 else "warn" if verdict < 0 else "note"
    text = because(game, position.state, x, y, found[x], found[y])
    return Check(text, status, found[y].value - found[x].value)


def _row(game: Game, position: _Position, y: int, found: dict[int, Found]) -> list[Any]:
    x, shares = position.move, position.shares
    return [
        game.show(position.state),
        game.name(x),
        game.name(y),
        -float(found[x].value),
        -float(found[y].value),
        found[x].proved and found[y].proved,
        shares[x],
        shares[y],
        " ".join(game.name(m) for m in (y, *found[y].line)),
    ]


def _searched(found: dict[int, Found], budget: int) -> Check:
    """How the values were found, and how far they can be relied on."""
    proved = sum(f.proved for f in found.values())
    if proved == len(found):
        return Check("The values are proved: no other play can change them.", "ok")
    text = (
        f"The network evaluated at most {budget} positions after each move, fewer where the end was certain. The "
        f"values of {len(found) - proved} of {len(found)} moves are its estimates, not proved: a longer search may "
        "change them."
    )
    return Check(text, "note", float(budget))
