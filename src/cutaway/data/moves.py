"""Positions of board games, from the moves that led to them: `moves:c3 d4 c4`."""

from cutaway.attribution.games import InARow, game_of
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption
from cutaway.core.space import Space

PREFIX = "moves:"


def position(text: str, space: Space | None) -> Examples:
    """The position after some moves, on the board that the network sees.

    Args:
        text: `moves:` and the cells in turn, such as "moves:c3 d4 c4"; nothing behind it is the empty board.
        space: Of the network: its planes say how large the board is.
    """
    if space is None:
        raise BadOption(f"{text!r}: expected a network with it, whose input says how large the board is.")
    game = game_of("auto", space.shape)
    assert isinstance(game, InARow)
    moves = text.removeprefix(PREFIX).strip()
    # How many in a row win does not matter for where the stones are; with `auto`, moves after a win are refused.
    return Examples(x=game.encode([game.read(moves)]).float(), names=[moves or "empty board"], source=text)
