"""Why this move and not that one: every sentence held against a search of its own, on all of tic-tac-toe."""

import functools
import os
import random
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.attribution.contrast import move_contrast
from cutaway.attribution.games import InARow, game_of
from cutaway.attribution.refutation import because, better
from cutaway.attribution.search import Solver, grow
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.method import catalogue
from cutaway.core.model import Model
from cutaway.core.space import images, rows
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.subjects import Trial

needs_net = pytest.mark.skipif(
    not Path(os.environ.get("CUTAWAY_DATA", "-"), "gomoku").is_dir(), reason="needs CUTAWAY_DATA with the folder gomoku"
)
TIC = InARow(3, 3, 3)


class Judge:
    """Tic-tac-toe and four in a row, written a second time and slowly: a board is a tuple of x, o and '.', from a1."""

    def __init__(self, side, row):
        self.side, self.row = side, row
        steps = ((0, 1), (1, 0), (1, 1), (1, -1))
        self.lines = []
        for r in range(side):
            for c in range(side):
                for dy, dx in steps:
                    line = [(r + k * dy, c + k * dx) for k in range(row)]
                    if all(0 <= y < side and 0 <= x < side for y, x in line):
                        self.lines.append([y * side + x for y, x in line])

    def cell(self, name):
        return (int(name[1:]) - 1) * self.side + "abcdefgh".index(name[0])

    def board(self, shown):
        return tuple("".join(reversed(shown.split("/"))))

    def turn(self, board):
        return "x" if board.count("x") == board.count("o") else "o"

    def put(self, board, cell):
        assert board[cell] == "."
        return (*board[:cell], self.turn(board), *board[cell + 1 :])

    def won(self, board, who):
        return any(all(board[c] == who for c in line) for line in self.lines)

    def free(self, board):
        return [c for c, mark in enumerate(board) if mark == "."]

    def completing(self, board, who):
        return {c for c in self.free(board) if self.won((*board[:c], who, *board[c + 1 :]), who)}

    @functools.cache  # noqa: B019 lives as long as the test session
    def worth(self, board):
        """For the side to move: 1, 0, -1, and the moves until the end with best play."""
        other = "o" if self.turn(board) == "x" else "x"
        if self.won(board, other):
            return -1, 0
        if not self.free(board):
            return 0, 0
        after = [(-v, n + 1) for v, n in (self.worth(self.put(board, c)) for c in self.free(board))]
        return max(after, key=lambda r: (r[0], -r[1] if r[0] > 0 else r[1]))


def positions(game):
    """All positions that can be reached and are not over."""
    seen, front = {game.start}, [game.start]
    while front:
        state = front.pop()
        for move in game.legal(state):
            after = game.play(state, move)
            if game.outcome(after) is None and after not in seen:
                seen.add(after)
                front.append(after)
    return seen


def check_reply(judge, told, after):
    """A clause about what they would reply, and what that leads to; `after` is the board with them to move."""
    start = re.match(r"(?:they would (?:reply|block at) |)([a-h]\d+)(.*)$", told, re.DOTALL)
    cell, rest = judge.cell(start[1]), start[2]
    they = judge.turn(after)
    me = "x" if they == "o" else "o"
    board = judge.put(after, cell)
    value, end = judge.worth(after)
    best = judge.worth(board)
    assert -best[0] == value, "the reply is not a best one"
    assert value <= 0 or best[1] + 1 == end, "there is a quicker win"
    if "block at" in told:
        assert cell in judge.completing(after, me), "nothing was blocked"
    if rest.startswith(" and win at once"):
        assert judge.won(board, they)
    elif match := re.match(r" and win within (\d+) of their moves$", rest):
        assert (value, (end + 1) // 2) == (1, int(match[1]))
    elif rest == " and hold the draw":
        assert value == 0
    elif match := re.match(r" and, in that case, threaten (.*) at once, of which I could stop only one$", rest):
        assert {judge.cell(c) for c in re.split(r", | and ", match[1])} == judge.completing(board, they)
        assert not judge.completing(board, me)
        assert (value, end) == (1, 3)
    elif match := re.match(r" and, in that case, I would have to answer (\w+); then they would play (.*)$", rest):
        assert {judge.cell(match[1])} == judge.completing(board, they)
        assert not judge.completing(board, me)
        check_reply(judge, match[2], judge.put(board, judge.cell(match[1])))
    else:
        assert not rest, f"unknown clause: {rest!r}"


def check_good(judge, told, board):
    """A sentence about what the better move leads to."""
    if match := re.fullmatch(r"With (\w+) I win (at once|within (\d+) of my moves)", told):
        value, end = judge.worth(judge.put(board, judge.cell(match[1])))
        assert (value, end // 2 + 1) == (-1, int(match[3] or 1))
    elif match := re.fullmatch(r"With (\w+) I lose as well, but only after (\d+) more moves", told):
        assert judge.worth(judge.put(board, judge.cell(match[1]))) == (1, int(match[2]))
    else:
        match = re.fullmatch(r"With (\w+) I hold the draw", told)
        assert match, f"unknown sentence: {told!r}"
        assert judge.worth(judge.put(board, judge.cell(match[1])))[0] == 0


def check_sentence(judge, text, board, x, y):
    """Every statement of an exact sentence, one by one."""
    after = {name: judge.put(board, judge.cell(name)) for name in (x, y)}
    value = {name: -judge.worth(b)[0] for name, b in after.items()}
    end = {name: judge.worth(b)[1] for name, b in after.items()}
    order = {n: (value[n], -end[n] if value[n] > 0 else end[n] if value[n] < 0 else 0) for n in (x, y)}
    if match := re.fullmatch(rf"Playing {x} is no better than {y}: (.*)\.", text):
        said = match[1]
        assert order[x] == order[y]
        if said.startswith("they win by force after either; "):
            assert value[x] == -1
            told = re.fullmatch(rf"they win by force after either; after {y} (they would reply .*)", said)[1]
            check_reply(judge, told, after[y])
        elif said == "with best play, the game is drawn after either":
            assert value[x] == 0
        else:
            assert said == ("either wins by force" if end[x] else "either wins at once")
            assert value[x] == 1
        return
    match = re.fullmatch(rf"I play {x} because, if I played {y}, (.*)\. (With .*)\.", text)
    good, bad = (x, y) if match else (y, x)
    match = match or re.fullmatch(rf"I should play {y} and not {x}: if I play {x}, (.*)\. (With .*)\.", text)
    assert match, f"unknown sentence: {text!r}"
    assert order[good] > order[bad]
    check_good(judge, match[2], board)
    if later := re.fullmatch(r"I would win only after (\d+) more moves", match[1]):
        assert (value[bad], end[bad]) == (1, int(later[1]))
    elif match[1] == "the game would end in a draw":
        assert (value[bad], end[bad]) == (0, 0)
    else:
        check_reply(judge, match[1], after[bad])


# -- exact: tic-tac-toe ------------------------------------------------------------------------------------------------


def test_tic_tac_toe_has_the_known_number_of_positions():
    boards = {(s.own, s.other) for s in positions(TIC)}
    assert len(boards) == 4520


@pytest.mark.slow
def test_every_sentence_about_tic_tac_toe_is_true():
    """All positions, all pairs of moves; each clause is checked by a search that shares no code with the method's."""
    judge, solver = Judge(3, 3), Solver(TIC)
    told, seen = 0, set()
    for state in sorted(positions(TIC)):
        if (state.own, state.other) in seen:
            continue  # the same board by another last move
        seen.add((state.own, state.other))
        board = judge.board(TIC.show(state))
        found = {m: solver.found(TIC.play(state, m)) for m in TIC.legal(state)}
        for x in found:
            for y in found:
                if x != y:
                    text = because(TIC, state, x, y, found[x], found[y])
                    check_sentence(judge, text, board, TIC.name(x), TIC.name(y))
                    told += 1
    assert told == 49_584


def test_the_solver_agrees_with_a_plain_minimax():
    judge, solver = Judge(3, 3), Solver(TIC)
    for state in random.Random(0).sample(sorted(positions(TIC)), 500):
        found = solver.found(state)
        value, end = judge.worth(judge.board(TIC.show(state)))
        assert found.value == value
        assert value == 0 or found.end == end


def test_a_corner_answers_the_centre():
    """After x in the centre, an edge loses and a corner holds: the textbook case."""
    model = tiny_model("board")
    x = ct.data("moves:b2", space=model.space)
    classes = {name: k for k, name in enumerate(TIC.names)}
    result = move_contrast(model, x, f"logit({classes['a1']}) - logit({classes['b1']})")
    assert result.checks["because"].startswith("I play a1 because, if I played b1, they would reply ")
    assert result.checks["because"].endswith("With a1 I hold the draw.")
    assert result.checks["because"].status == "ok"
    assert result.checks["because"].value == 1.0
    assert result.checks["search"].status == "ok"
    assert result.rows[0][:6] == [".../.x./...", "a1", "b1", 0.0, -1.0, True]
    check_sentence(Judge(3, 3), result.checks["because"], Judge(3, 3).board(".../.x./..."), "a1", "b1")


def test_the_worse_move_is_called_worse():
    model = tiny_model("board")
    result = move_contrast(model, ct.data("moves:b2", space=model.space), "logit(1) - logit(0)")
    assert result.checks["because"].startswith("I should play a1 and not b1: ")
    assert result.checks["because"].status == "warn"


def test_a_tree_that_grew_to_the_end_agrees_with_the_full_search():
    """With a network that knows nothing, what the tree proves is what minimax says; and enough is proved."""
    solver, proved = Solver(TIC), 0

    def ignorant(states):
        return [([1 / len(TIC.legal(s))] * len(TIC.legal(s)), 0.0) for s in states]

    for state in random.Random(1).sample(sorted(positions(TIC)), 60):
        (found,) = grow(TIC, [state], ignorant, 400, lambda n: None).found
        if found.proved:
            proved += 1
            exact = solver.found(state)
            assert found.value == exact.value
            assert found.value == 0 or found.end >= exact.end
    assert proved > 50


# -- the network for four in a row -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    return ct.load("gomoku")


@needs_net
def test_the_published_numbers_of_the_gomoku_network(net):
    """Centre mass .957 (.249 .243 .228 .237, from the published arrays) and value +.275 on the empty board."""
    trace = net.run(ct.data("moves:", space=net.space), read=["output", "value"])
    centre = torch.softmax(trace.output, 1)[0].view(6, 6)[2:4, 2:4].flatten()
    assert torch.allclose(centre, torch.tensor([0.249, 0.243, 0.228, 0.237]), atol=5e-4)
    assert abs(float(centre.sum()) - 0.957) < 1e-3
    assert abs(float(trace["value"]) - 0.275) < 5e-4


@needs_net
def test_the_gomoku_network_knows_where_the_stones_are(net):
    """Seen the right way up it hardly wants taken cells, and takes a win; upside down it does neither."""
    game, generator, states = InARow(6, 6, 4), random.Random(0), []
    while len(states) < 100:
        state = game.start
        for _ in range(generator.randrange(4, 12)):
            if game.outcome(state) is None:
                shares = torch.softmax(net.run(game.encode([state]).float()).output[0], 0)
                legal = game.legal(state)
                state = game.play(state, generator.choices(legal, [float(shares[m]) + 0.01 for m in legal])[0])
        if game.outcome(state) is None:
            states.append(state)
    x = game.encode(states).float()
    taken = [[m for m in range(36) if m not in game.legal(s)] for s in states]
    for seen, low, high in ((x, 0.0, 0.01), (x.flip(2), 0.1, 1.0), (x.flip(3), 0.1, 1.0)):
        shares = torch.softmax(net.run(seen).output, 1)
        wasted = sum(float(row[cells].sum()) for row, cells in zip(shares, taken, strict=True)) / len(states)
        assert low <= wasted <= high


@needs_net
def test_gomoku_finds_the_double_threat_that_refutes_a_move(net):
    """x has c3 c4 with open ends; if o plays away, x makes three with both ends open."""
    result = ct.run("move_contrast", net, "moves:c3 a1 c4", target='logit("c2") - logit("f6")')
    text = result.checks["because"]
    assert re.match(r"I play c2 because, if I played f6, they would reply (c2|c5) and, in that case, threaten ", text)
    assert result.rows[0][4] == -1.0
    judge = Judge(6, 4)
    after = judge.put(judge.board(result.rows[0][0]), judge.cell("f6"))
    reply, threats = re.search(r"reply (\w+) and, in that case, threaten (.*) at once", text).groups()
    board = judge.put(after, judge.cell(reply))
    assert {judge.cell(c) for c in threats.split(" and ")} == judge.completing(board, judge.turn(after))
    assert not judge.completing(board, judge.turn(board))


def forced(judge, board, depth):
    """The value for the side to move if it can be settled within so many moves, else None. A plain alpha-beta."""
    other = "o" if judge.turn(board) == "x" else "x"
    if judge.won(board, other):
        return -1
    if depth == 0 or not judge.free(board):
        return 0 if not judge.free(board) else None
    values = []
    mine, theirs = judge.completing(board, judge.turn(board)), judge.completing(board, other)
    for cell in mine or (theirs if len(theirs) == 1 else judge.free(board)):
        value = forced(judge, judge.put(board, cell), depth - 1)
        if value == -1:
            return 1
        values.append(value)
    return -1 if all(v == 1 for v in values) else None


@needs_net
def test_what_the_tree_proves_in_few_moves_is_confirmed_by_alpha_beta(net):
    """Wins and losses within three moves on 6 x 6 cells, in positions from games between the network and chance."""
    from cutaway.attribution.contrast import _Network
    from cutaway.core.site import Site

    game, judge, generator = InARow(6, 6, 4), Judge(6, 4), random.Random(3)
    network, states = _Network(net, game, Site("value")), []
    while len(states) < 12:
        state = game.start
        for turn in range(generator.randrange(5, 11)):
            if game.outcome(state) is None:
                ((shares, _),) = network([state])
                legal = game.legal(state)
                state = game.play(state, generator.choices(legal, shares if turn % 2 else None)[0])
        if game.outcome(state) is None:
            states.append(state)
    confirmed = 0
    for state, found in zip(states, grow(game, states, network, 200, lambda n: None).found, strict=True):
        if found.proved and found.value and found.end <= 3:
            assert forced(judge, judge.board(game.show(state)), found.end) == found.value
            confirmed += 1
    assert confirmed >= 4


@needs_net
def test_the_answer_does_not_depend_on_the_company_of_a_position(net):
    both = torch.cat([ct.data(f"moves:{m}", space=net.space).x for m in ("c3 a1", "d4 d3 c3")])
    together = move_contrast(net, both, ["c4", "b2"], evaluations=60)
    alone = move_contrast(net, both[1:], "b2", evaluations=60)
    assert [row[:3] for row in together.rows[3:]] == [row[:3] for row in alone.rows]
    for a, b in zip(together.rows[3:], alone.rows, strict=True):
        assert a[3:5] == pytest.approx(b[3:5], abs=1e-3)


@needs_net
def test_more_evaluations_than_needed_are_not_spent(net):
    x = ct.data("moves:c3 a1 c4 a2 c5 b6", space=net.space)
    result = move_contrast(net, x, 'logit("c2") - logit("c6")', evaluations=10_000)
    assert result.provenance.cost.forwards < 20
    assert result.checks["because"] == "Playing c2 is no better than c6: either wins at once."


def test_a_search_that_time_cuts_short_gives_estimates_and_says_so():
    model = ct.load("tic-tac-toe")
    x = torch.cat([ct.data(f"moves:{m}", space=model.space).x for m in ("b2", "a1 b2")])
    with limits(seconds=1e-6):
        short = move_contrast(model, x, alternatives=2, evaluations=300)
    assert short.checks["partial"].value == 1
    assert "1 of up to 300 evaluations after each move" in short.checks["partial"]
    assert "estimates, not proved" in short.checks["search"]
    assert short.provenance.cost.forwards < 20
    assert all(-1 <= value <= 1 for row in short.rows for value in row[3:5])
    assert "partial" not in move_contrast(model, x, alternatives=2).checks
    with limits(seconds=1e-6), pytest.raises(NotPossible, match="for a full search in the time that is left"):
        move_contrast(model, x, search="full")


@needs_net
def test_few_moves_before_the_end_the_search_is_full(net):
    """A full board but for eight cells, in four in a row: exact, and no evaluation but that of the position."""
    game, generator = InARow(6, 6, 4), random.Random(5)
    while True:
        moves, state = [], game.start
        while len(moves) < 28 and game.outcome(state) is None:
            quiet = [m for m in game.legal(state) if game.outcome(game.play(state, m)) is None]
            if not quiet:
                break
            moves.append(generator.choice(quiet))
            state = game.play(state, moves[-1])
        if len(moves) == 28:
            break
    x = game.encode([state]).float()
    move, other = game.legal(state)[:2]
    result = move_contrast(net, x, f"logit({move}) - logit({other})")
    check_sentence(Judge(6, 4), result.checks["because"], Judge(6, 4).board(game.show(state)), *result.rows[0][1:3])
    assert result.checks["search"].status == "ok"


@needs_net
def test_the_estimate_is_called_an_estimate(net):
    result = move_contrast(net, ct.data("moves:", space=net.space), "c3", evaluations=30, alternatives=2)
    assert result.checks["search"].status == "note"
    assert "estimates, not proved" in result.checks["search"]
    assert len(result.rows) == 2


# -- games, positions, refusals ----------------------------------------------------------------------------------------


def test_planes_and_positions_are_one_to_one():
    game, generator = InARow(4, 5, 3), random.Random(0)
    for _ in range(30):
        state = game.start
        for _ in range(generator.randrange(8)):
            if game.outcome(state) is None:
                state = game.play(state, generator.choice(game.legal(state)))
        assert game.decode(game.encode([state])[0]) == state


def test_the_first_row_of_a_plane_is_the_top_of_the_board():
    planes = TIC.encode([TIC.read("a1 c3")])[0]
    assert planes[0].tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert planes[1].tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert TIC.show(TIC.read("a1 c3")) == "..o/.../x.."


def test_mirror_images_are_alike_and_others_are_not():
    corners = {TIC.alike(TIC.read(c)) for c in ("a1", "a3", "c1", "c3")}
    edges = {TIC.alike(TIC.read(c)) for c in ("a2", "b1", "b3", "c2")}
    assert len(corners) == len(edges) == 1
    assert len(corners | edges | {TIC.alike(TIC.read("b2"))}) == 3
    assert InARow(2, 3, 2).alike(InARow(2, 3, 2).read("a1")) == InARow(2, 3, 2).alike(InARow(2, 3, 2).read("c2"))


def test_alternatives_are_no_mirror_images():
    model = tiny_model("board")
    result = move_contrast(model, ct.data("moves:", space=model.space), "0", alternatives=9)
    assert len(result.rows) == 2


def test_a_game_of_ones_own_needs_rules_alone():
    """Nim with one heap: take 1 or 2, who takes the last wins. A loss where the heap is a multiple of 3."""

    class Nim:
        text = "nim"

        def legal(self, heap):
            return [m for m in (0, 1) if m < heap]

        def play(self, heap, move):
            return heap - move - 1

        def outcome(self, heap):
            return -1 if heap == 0 else None

        def threats(self, heap):
            return []

        def alike(self, heap):
            return heap

        def name(self, move):
            return f"take {move + 1}"

        def show(self, heap):
            return f"{heap} left"

        def decode(self, x):
            return int(x[0])

        def encode(self, heaps):
            return torch.tensor(heaps, dtype=torch.float64)[:, None]

    model = Model(nn.Linear(1, 2).double(), rows(1, low=0, high=20))
    result = move_contrast(model, torch.tensor([[7.0]]).double(), 0, game=Nim())
    assert result.rows[0][:6] == ["7 left", "take 1", "take 2", 1.0, -1.0, True]


@pytest.mark.parametrize(
    ("moves", "error", "said"),
    [
        ("b2 b2", BadOption, "taken already"),
        ("b2 z9", UnknownName, "nearest"),
        ("a1 b1 a2 b2 a3 c3", BadOption, "after the end"),
    ],
)
def test_moves_that_cannot_be_are_refused(moves, error, said):
    with pytest.raises(error, match=said):
        ct.data(f"moves:{moves}", space=tiny_model("board").space)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("logit(4)", "no legal move in .../.x./...; the network's first choice"),
        ("logit(0) - logit(0)", "two different moves"),
        ("2 * logit(0)", "the difference of two"),
        ("logit(0) + logit(1)", "the difference of two"),
    ],
)
def test_targets_that_are_no_moves_are_refused(target, said):
    model = tiny_model("board")
    with pytest.raises(BadOption, match=re.escape(said).replace(re.escape("..."), "...")):
        move_contrast(model, ct.data("moves:b2", space=model.space), target)


def test_planes_that_are_no_position_are_refused():
    model = tiny_model("board")
    x = inputs_for(model, 1)
    for broken in (x * 0.5, x.flip(1), torch.zeros_like(x), torch.ones_like(x)):
        with pytest.raises(BadShape, match="no position"):
            move_contrast(model, broken, 0)


def test_a_game_that_is_over_is_refused():
    model = tiny_model("board")
    with pytest.raises(NotPossible, match="the game is over"):
        move_contrast(model, ct.data("moves:a1 a2 b1 b2 c1", space=model.space), 8)


def test_networks_that_see_no_board_are_refused():
    with pytest.raises(NotPossible, match="planes"):
        move_contrast(tiny_model("conv"), torch.rand(1, 3, 16, 16), 0)
    with pytest.raises(BadOption, match="4-in-a-row"):
        game_of("chess", (4, 6, 6))
    with pytest.raises(BadOption, match="in a row"):
        game_of("7-in-a-row", (4, 6, 6))


def test_a_network_without_a_value_is_refused_where_one_is_needed():
    model = tiny_model("board")
    x = ct.data("moves:", space=model.space)
    with pytest.raises(UnknownName, match="value"):
        move_contrast(model, x, 0, search="network")
    with pytest.raises(BadShape, match="one value from -1 to 1"):
        move_contrast(model, x, 0, search="network", value="1")


def test_shares_that_are_not_finite_are_refused():
    model = tiny_model("board")
    with torch.no_grad():
        model.module[3].weight.fill_(torch.inf)
    with pytest.raises(NotPossible, match="not finite"):
        move_contrast(model, ct.data("moves:b2", space=model.space), 0)


def test_estimates_are_compared_with_some_slack_and_proofs_without():
    from cutaway.attribution.search import Found

    def estimate(value):
        return Found(value, None, ())

    assert better(estimate(-0.5), estimate(0.5)) == 1
    assert better(estimate(0.02), estimate(0.0)) == 0
    assert better(Found(1.0, 4, (), exact=True), Found(1.0, 2, (), exact=True)) == 1
    assert better(Found(-1.0, 4, (), exact=True), Found(-1.0, 2, (), exact=True)) == -1
    assert better(Found(1.0, 4, ()), Found(1.0, 2, ())) == 0


# -- the contrast of two outputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, entry in catalogue().items() if "target" in entry.positional])
def test_every_method_takes_the_difference_of_two_outputs_as_a_target(name):
    entry = catalogue()[name]
    trial = Trial.of(entry, {})
    model = trial.model()
    result = trial(model, trial.inputs(model, 1), "logit(0) - logit(1)")
    assert result.provenance.target == "logit(0) - logit(1)"


@needs_net
def test_a_move_is_a_class_so_attribution_asks_why_this_move_and_not_that(net):
    x = ct.data("moves:c3 a1 c4", space=net.space)
    why = ct.run("gradient", net, x, target='logit("c2") - logit("f6")')
    apart = [ct.run("gradient", net, x, target=cell).values for cell in ("c2", "f6")]
    assert torch.allclose(why.values, apart[0] - apart[1], atol=1e-5)


def test_images_of_four_planes_are_boards_of_any_size():
    assert game_of("auto", images(6, channels=4).shape).row == 4
    assert game_of("auto", images(15, channels=4).shape).row == 5
    assert game_of("5-in-a-row", images((6, 7), channels=4).shape).text == "5 in a row on 6 x 7 cells"
