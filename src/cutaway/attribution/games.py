"""Games of two players as explanations need them: who may play what, who won, and how the network sees a position.

Cells are named as in chess: a letter for the column, and a number for the row, counted from the bottom.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from cutaway.core.errors import BadOption, BadShape, NotPossible, unknown_name

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@runtime_checkable
class Game(Protocol):
    """A game of two players who move in turn; pass one of your own as the option `game`.

    A state is any hashable value; a move is a column of the network's output.
    """

    def legal(self, state: Any) -> Sequence[int]:
        """The moves of the player whose turn it is."""

    def play(self, state: Any, move: int) -> Any:
        """The state after a move, with the other player's turn."""

    def outcome(self, state: Any) -> int | None:
        """For the player whose turn it is: -1 if the game is lost, 1 if it is won, 0 if drawn, None if it goes on."""

    def threats(self, state: Any) -> Sequence[int]:
        """Moves with which the player who just moved would win at once, if it were their turn again."""

    def alike(self, state: Any) -> Any:
        """The same value for states that are mirror images of each other."""

    def name(self, move: int) -> str:
        """What a move is called."""

    def show(self, state: Any) -> str:
        """The state in a line of text."""

    def decode(self, x: Tensor) -> Any:
        """The state that one input of the network shows."""

    def encode(self, states: Sequence[Any]) -> Tensor:
        """The network's input for some states, in float64."""


class Stones(NamedTuple):
    """A board of stones: bits of the cells of the player whose turn it is and of the other, and the last move or -1."""

    own: int
    other: int
    last: int


class InARow:
    """Stones in turn on a board, until one player has `row` of them in a line: tic-tac-toe, gomoku.

    The network sees four planes with the top row first: stones of the player whose turn it is, stones of the other,
    the last move, and ones everywhere if the first player is to move. Its output has a column for each cell, from a1.

    Args:
        height, width: Of the board.
        row: Stones in a line, in any of the four directions, that win.

    Raises:
        BadOption: A board or a line that cannot be.
    """

    start = Stones(0, 0, -1)

    def __init__(self, height: int, width: int, row: int) -> None:
        if not (1 <= height <= 99 and 1 <= width <= len(_LETTERS)):
            raise BadOption(f"expected a board of at most 99 x {len(_LETTERS)} cells; got {height} x {width}.")
        if not 2 <= row <= max(height, width):
            raise BadOption(f"expected 2 to {max(height, width)} in a row on {height} x {width} cells; got {row}.")
        self.height, self.width, self.row = height, width, row
        self.names = tuple(f"{_LETTERS[c]}{r + 1}" for r in range(height) for c in range(width))
        self._full = (1 << height * width) - 1
        self._lines = tuple(self._all_lines())
        self._through = [[line for line in self._lines if line >> cell & 1] for cell in range(height * width)]
        self._turns = tuple(_turns(height, width))

    @property
    def text(self) -> str:
        """What is played, in words."""
        return f"{self.row} in a row on {self.height} x {self.width} cells"

    def _all_lines(self) -> Iterator[int]:
        for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
            for r in range(self.height):
                for c in range(self.width):
                    cells = [(r + k * down, c + k * across) for k in range(self.row)]
                    if all(0 <= y < self.height and 0 <= x < self.width for y, x in cells):
                        yield sum(1 << y * self.width + x for y, x in cells)

    def legal(self, state: Stones) -> tuple[int, ...]:
        """The empty cells."""
        return _cells(self._full & ~(state.own | state.other))

    def play(self, state: Stones, move: int) -> Stones:
        """The board with one more stone, seen by the other player."""
        return Stones(state.other, state.own | 1 << move, move)

    def outcome(self, state: Stones) -> int | None:
        """-1 if the last stone completed a line, 0 if the board is full."""
        lines = self._through[state.last] if state.last >= 0 else self._lines
        if any(state.other & line == line for line in lines):
            return -1
        return None if (state.own | state.other) != self._full else 0

    def threats(self, state: Stones) -> tuple[int, ...]:
        """Empty cells that would complete a line of the player who just moved."""
        gaps = 0
        for line in self._lines:
            gap = line & ~state.other
            if not gap & (gap - 1) and not gap & state.own:
                gaps |= gap
        return _cells(gaps)

    def alike(self, state: Stones) -> tuple[int, int]:
        """The first of the board's mirror images and turns, in some order."""
        own, other = _cells(state.own), _cells(state.other)
        return min((sum(1 << turn[c] for c in own), sum(1 << turn[c] for c in other)) for turn in self._turns)

    def name(self, move: int) -> str:
        """Column and row: c3."""
        return self.names[move]

    def read(self, text: str) -> Stones:
        """The position after some moves, such as "c3 d4 c4".

        Raises:
            UnknownName: No such cell.
            BadOption: A cell that is taken already, or a move after the end.
        """
        state = self.start
        for word in re.split(r"[\s,;]+", text.strip().lower()) if text.strip() else []:
            if word not in self.names:
                raise unknown_name("cell", word, self.names, f"The board has {self.names[0]} to {self.names[-1]}.")
            if self.outcome(state) is not None:
                raise BadOption(f"expected no move after the end of the game; got {word} in {text!r}.")
            if self.names.index(word) not in self.legal(state):
                raise BadOption(f"expected a free cell; {word} is taken already in {text!r}.")
            state = self.play(state, self.names.index(word))
        return state

    def show(self, state: Stones) -> str:
        """The rows from the top, x for the first player: .../.x./..o."""
        first, second = (state.own, state.other) if self._first_to_move(state) else (state.other, state.own)
        marks = ["x" if first >> c & 1 else "o" if second >> c & 1 else "." for c in range(self.height * self.width)]
        rows = ["".join(marks[r * self.width : (r + 1) * self.width]) for r in range(self.height)]
        return "/".join(reversed(rows))

    def encode(self, states: Sequence[Stones]) -> Tensor:
        """Planes (n, 4, height, width)."""
        planes = torch.zeros(len(states), 4, self.height * self.width, dtype=torch.float64)
        for plane, state in zip(planes, states, strict=True):
            plane[0, list(_cells(state.own))] = 1
            plane[1, list(_cells(state.other))] = 1
            if state.last >= 0:
                plane[2, state.last] = 1
            plane[3] = float(self._first_to_move(state))
        return planes.view(-1, 4, self.height, self.width).flip(2)

    def decode(self, x: Tensor) -> Stones:
        """The position that planes (4, height, width) show.

        Raises:
            BadShape: No position of this game.
        """
        if tuple(x.shape) != (4, self.height, self.width):
            raise BadShape(f"expected planes (4, {self.height}, {self.width}) of {self.text}; got {tuple(x.shape)}.")
        planes = x.detach().cpu().double().flip(1).flatten(1)
        own, other, last = (sum(1 << int(c) for c in plane.nonzero()[:, 0]) for plane in planes[:3])
        state = Stones(own, other, last.bit_length() - 1)
        balanced = other.bit_count() - own.bit_count() in (0, 1) and not own & other
        if not balanced or not torch.equal(self.encode([state])[0].flip(1).flatten(1), planes) or last & ~other:
            raise BadShape(
                "expected planes of ones and zeros: own stones, the other's, the last move, whose turn; got no "
                "position. `moves:c3 d4` makes them from moves."
            )
        return state

    @staticmethod
    def _first_to_move(state: Stones) -> bool:
        return state.own.bit_count() == state.other.bit_count()


def game_of(what: Game | str, shape: Sequence[int | None]) -> Game:
    """A game from its text, on the board that a network's input has.

    Args:
        what: "4-in-a-row"; "auto" for 3 on boards of up to 4 cells, 4 on up to 6, 5 on larger ones; or a game.
        shape: (4, height, width).

    Raises:
        NotPossible: The input is no board.
    """
    if not isinstance(what, str):
        return what
    if len(shape) != 3 or shape[0] != 4 or None in shape:
        raise NotPossible(
            f"expected a network that sees a board as planes (4, height, width); this one takes {tuple(shape)}. "
            "For another game, pass game=... with its rules."
        )
    _, height, width = (int(s or 0) for s in shape)
    match = re.fullmatch(r"(\d+)-in-a-row", what)
    if match is None and what != "auto":
        raise BadOption(f"expected a game such as 4-in-a-row, or auto; got {what!r}.")
    shorter = min(height, width)
    return InARow(height, width, int(match[1]) if match else 3 if shorter <= 4 else 4 if shorter <= 6 else 5)


def _cells(bits: int) -> tuple[int, ...]:
    found = []
    while bits:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return tuple(found)


def _turns(height: int, width: int) -> Iterator[list[int]]:
    """Where each cell goes under each symmetry of the board."""
    board = torch.arange(height * width).view(height, width)
    for turned in (board, board.T) if height == width else (board,):
        for axes in ((), (0,), (1,), (0, 1)):
            yield turned.flip(axes).flatten().tolist()
