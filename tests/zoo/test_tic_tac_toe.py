"""tic-tac-toe: the network knows every position, and its recipe teaches the truth."""

from functools import cache

import pytest
import torch

import cutaway as ct
from cutaway.zoo import tic_tac_toe
from cutaway.zoo.tic_tac_toe import positions
from cutaway.zoo.train import accuracy, train

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))


@cache
def worth(board):
    """Reference: result and moves to the end for the side to move, of a board as text from the top row."""
    mine, other = ("x", "o") if board.count("x") == board.count("o") else ("o", "x")
    if any(all(board[c] == other for c in line) for line in LINES):
        return -1, 0
    if "." not in board:
        return 0, 0
    after = [worth(board[:c] + mine + board[c + 1 :]) for c in range(9) if board[c] == "."]
    return max(((-v, n + 1) for v, n in after), key=lambda r: (r[0], -r[1] if r[0] > 0 else r[1]))


def best(board):
    """The best cells: of wins the soonest, of losses the latest."""
    mine = "x" if board.count("x") == board.count("o") else "o"
    after = {c: worth(board[:c] + mine + board[c + 1 :]) for c in range(9) if board[c] == "."}
    value, end = worth(board)
    return {c for c, (v, n) in after.items() if (-v, n + 1) == (value, end)}


def cells(names):
    """Places in the text, from the top row, of cells named from the bottom."""
    return {(3 - int(name[1])) * 3 + "abc".index(name[0]) for name in names}


def test_the_recipe_teaches_what_a_second_search_finds():
    found = positions()
    assert len(found) == 13306
    assert len(set(found.names)) == 4520
    for name, label in zip(found.names, found.labels, strict=True):
        board = name.replace("/", "")
        taught = {found.classes[k] for k in range(9) if label[k] > 0}
        assert cells(taught) == best(board), name
        assert float(label[9]) == worth(board)[0], name
    assert torch.allclose(found.labels[:, :9].sum(1), torch.ones(len(found)))


def test_the_network_is_right_in_every_position():
    model, found = ct.load("tic-tac-toe"), positions()
    assert accuracy(tic_tac_toe.RECIPE, model.module, found) == 1.0
    trace = model.run(found.x, read=["output", "value"])
    chosen = trace.output.argmax(1, keepdim=True)
    assert (found.labels.gather(1, chosen) > 0).all()
    assert (trace["value"][:, 0] - found.labels[:, 9]).abs().max() < 0.2


def test_the_same_seed_teaches_the_same(tmp_path):
    first, again = (train("tic-tac-toe", epochs=1) for _ in range(2))
    assert first.save(tmp_path / "a.safetensors").read_bytes() == again.save(tmp_path / "b.safetensors").read_bytes()
    assert first.accuracy > 0.15


def test_a_move_is_explained_without_a_download():
    why = ct.run("move_contrast", "tic-tac-toe", "moves:b2", target="a1")
    assert why.checks["because"].startswith("I play a1 because, if I played b1, they would reply")
    assert why.checks["because"].endswith("With a1 I hold the draw.")


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "occlusion"])
def test_attribution_asks_why_this_move(method):
    found = ct.run(method, "tic-tac-toe", "moves:b2 b1", target='logit("c1") - logit("b3")')
    assert found.values.shape[-2:] == (3, 3)
    assert found.values.abs().sum() > 0


@pytest.mark.parametrize("search", ["full", "network"])
def test_both_searches_agree_on_the_value(search):
    why = ct.run("move_contrast", "tic-tac-toe", "moves:b2 b1", target='logit("c1") - logit("b3")', search=search)
    one = dict(zip(why.columns, why.rows[0], strict=True))
    assert one["value of the move"] == 1.0
    assert one["value instead"] < 0.2
