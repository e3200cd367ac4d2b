"""Sentences about moves. Each clause says something of the game that can be checked, and stands only where it holds."""

from collections.abc import Sequence
from typing import Any

from cutaway.attribution.games import Game
from cutaway.attribution.search import Found

# Estimated results closer than this are called equal.
_CLOSE = 0.05


def better(x: Found, y: Found) -> int:
    """1 if the move that leads to `x` is the better one, -1 if that to `y` is, 0 if there is nothing between them.

    Both are seen by the other side. Of two exact results that are alike, a sooner win and a later loss is better.
    """
    gap = y.value - x.value
    if x.proved and y.proved and not gap and x.exact and y.exact:
        later = (x.end or 0) - (y.end or 0)
        gap = later * x.value
    elif not (x.proved and y.proved) and abs(gap) <= _CLOSE:
        gap = 0.0
    return (gap > 0) - (gap < 0)


def because(game: Game, state: Any, x: int, y: int, after_x: Found, after_y: Found) -> str:
    """Why x and not y, in a sentence or two, from the mouth of the player whose turn it is.

    Args:
        game: The rules.
        state: The position.
        x, y: The move played, and the other one.
        after_x, after_y: What is known of the positions after them, for the other side.
    """
    one, other, verdict = game.name(x), game.name(y), better(after_x, after_y)
    if verdict == 0:
        return f"Playing {one} is no better than {other}: {_both(game, state, x, y, after_x, after_y)}."
    if verdict > 0:
        refuted, good = _refuted(game, game.play(state, y), after_y), _good(game, state, x, after_x)
        return f"I play {one} because, if I played {other}, {refuted}. {good}."
    refuted, good = _refuted(game, game.play(state, x), after_x), _good(game, state, y, after_y)
    return f"I should play {other} and not {one}: if I play {one}, {refuted}. {good}."


def _refuted(game: Game, after: Any, found: Found) -> str:
    """What happens after the worse of two moves: the reply, and what it leads to."""
    expected = f"I would expect {_number(-found.value)}"
    if game.outcome(after) is not None:
        return "the game would end in a draw"
    if not found.line:
        return expected
    reply = game.name(found.line[0])
    verb = "block at" if found.line[0] in game.threats(after) else "reply"
    if found.proved and found.value < 0:
        return f"I would win only after {found.end} more moves"
    if found.proved and found.value == 0:
        return f"they would {verb} {reply} and hold the draw"
    told, ends = _told(game, after, found.line)
    if found.proved:
        return f"they would reply {told}" + ("" if ends else f" and win {_within(found.end, 'their')}")
    then = (
        ""
        if ends or len(found.line) < 2
        else f" and, in that case, we would go on with {_names(game, found.line[1:4])}"
    )
    return f"they would {'reply' if ends else verb} {told}{then}; {expected}"


def _told(game: Game, after: Any, line: Sequence[int]) -> tuple[str, bool]:
    """The reply with what it threatens, and whether that already says how the game ends."""
    reply, state = game.name(line[0]), game.play(after, line[0])
    if game.outcome(state) == -1:
        return f"{reply} and win at once", True
    if game.outcome(state) is not None or _can_win(game, state):
        return reply, False
    threats = tuple(game.threats(state))
    then = f"{reply} and, in that case,"
    if len(threats) > 1:
        return f"{then} threaten {_names(game, threats)} at once, of which I could stop only one", True
    if len(threats) == 1 and line[1:2] == threats and len(line) > 2:
        told, ends = _told(game, game.play(state, threats[0]), line[2:])
        if ends:
            return f"{then} I would have to answer {game.name(threats[0])}; then they would play {told}", True
    return reply, False


def _good(game: Game, state: Any, move: int, found: Found) -> str:
    """What the better of two moves leads to."""
    name = game.name(move)
    if not found.proved:
        return f"After {name} I would expect {_number(-found.value)}, on the scale from -1 (lost) to 1 (won)"
    if found.value < 0:
        return f"With {name} I win {_within((found.end or 0) + 1, 'my') if found.end else 'at once'}"
    if found.value > 0:
        return f"With {name} I lose as well" + (f", but only after {found.end} more moves" if found.exact else "")
    return f"With {name} I hold the draw"


def _both(game: Game, state: Any, x: int, y: int, after_x: Found, after_y: Found) -> str:
    """What two moves have in common that are worth the same."""
    line = _names(game, after_y.line[:3])
    if not (after_x.proved and after_y.proved):
        went = f", where we would go on with {line}" if line else ""
        values = [_number(-found.value) for found in (after_x, after_y)]
        return f"I would expect {values[0]} after {game.name(x)} and {values[1]} after {game.name(y)}{went}"
    if after_x.value == 0:
        return "with best play, the game is drawn after either"
    if after_x.value < 0:
        return f"either wins {'by force' if after_x.end or after_y.end else 'at once'}"
    told, _ = _told(game, game.play(state, y), after_y.line)
    return f"they win by force after either; after {game.name(y)} they would reply {told}"


def _can_win(game: Game, state: Any) -> bool:
    """Can the player whose turn it is win at once?"""
    return any(game.outcome(game.play(state, m)) == -1 for m in game.legal(state))


def _within(end: int | None, whose: str) -> str:
    """How soon a side wins that makes the first and the last of so many moves."""
    count = ((end or 0) + 1) // 2
    return f"within {count} of {whose} moves" if count > 1 else "at once"


def _number(value: float) -> str:
    return f"{value + 0.0:.2f}"


def _names(game: Game, moves: Sequence[int]) -> str:
    names = [game.name(m) for m in moves]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
