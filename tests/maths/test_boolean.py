"""The shortest forms: against every function of four variables, against other libraries, and planted ones."""

import itertools
from functools import cache

import numpy as np
import pytest

from cutaway.maths.boolean import covers, minimised

NAMES = [f"v{i}" for i in range(64)]


def all_patterns(n):
    return np.array(list(itertools.product((False, True), repeat=n)))


@cache
def least_costs(n):
    """By brute force, for each function of n variables as a number: the fewest terms, and with those, variables."""
    patterns = all_patterns(n)
    bits = 1 << np.arange(len(patterns), dtype=np.int64)
    terms = np.array(list(itertools.product((-1, 0, 1), repeat=n)), dtype=np.int8)
    truth, length = covers(terms, patterns) @ bits, (terms >= 0).sum(1)
    never = 10**6
    best = np.full(2 ** len(patterns), never)
    best[0] = 0
    reached = np.array([0])
    for count in range(1, len(patterns) + 1):
        # All functions that are an OR of so many terms; 1000 for each term, 1 for each variable in it.
        cost = np.full(len(best), never)
        for function, extra in zip(truth, length, strict=True):
            np.minimum.at(cost, reached | function, best[reached] + extra + 1000)
        reached = np.nonzero((cost < best) & (cost >= 1000 * count))[0]
        best[reached] = cost[reached]
        if not len(reached):
            break
    return best


def classes(n):
    """One function of each class that renaming and negating variables makes."""
    patterns = all_patterns(n)
    place = {tuple(row): k for k, row in enumerate(patterns.tolist())}
    moves = []
    for order in itertools.permutations(range(n)):
        for flips in patterns:
            moves.append(
                [place[tuple(bool(row[i]) ^ bool(f) for i, f in zip(order, flips, strict=True))] for row in patterns]
            )
    functions = np.arange(2 ** len(patterns), dtype=np.int64)
    smallest = functions.copy()
    for move in moves:
        moved = sum(((functions >> source & 1) << k for k, source in enumerate(move)), np.zeros_like(functions))
        smallest = np.minimum(smallest, moved)
    return np.unique(smallest)


def table(function, n):
    return np.array([bool(function >> k & 1) for k in range(2**n)])


def check(function, n):
    patterns, truth = all_patterns(n), table(function, n)
    form = minimised(patterns[truth], patterns[~truth])
    assert form.least
    assert (form(patterns) == truth).all()
    assert 1000 * len(form.terms) + form.literals == least_costs(n)[function]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_every_function_of_up_to_three_variables_has_its_shortest_form(n):
    for function in range(2 ** (2**n)):
        check(function, n)


def test_every_function_of_four_variables_has_its_shortest_form_up_to_names_and_signs():
    found = classes(4)
    assert len(found) == 402  # a known number: Harrison 1963
    for function in found.tolist():
        check(function, 4)


def test_what_was_not_seen_may_come_out_either_way_and_the_cheapest_way_is_taken():
    """All functions of three variables with holes: the best over all ways of filling them."""
    draw, patterns, costs = np.random.default_rng(0), all_patterns(3), least_costs(3)
    for _ in range(300):
        kind = draw.integers(0, 3, 8)  # 0 false, 1 true, 2 not seen
        form = minimised(patterns[kind == 1], patterns[kind == 0])
        fits = [f for f in range(256) if all((f >> k & 1) == kind[k] for k in range(8) if kind[k] < 2)]
        assert 1000 * len(form.terms) + form.literals == min(costs[f] for f in fits)
        assert (form(patterns)[kind == 1]).all()
        assert not (form(patterns)[kind == 0]).any()


def test_a_map_of_karnaugh_from_a_textbook():
    """Minterms 4, 8, 10, 11, 12, 15 of four variables, 9 and 14 free: three terms."""
    patterns = all_patterns(4)
    form = minimised(patterns[[4, 8, 10, 11, 12, 15]], patterns[[0, 1, 2, 3, 5, 6, 7, 13]])
    assert (len(form.terms), form.literals) == (3, 7)


@pytest.mark.parametrize("n", [5, 12, 20, 40])
def test_a_planted_formula_comes_back(n):
    draw = np.random.default_rng(n)
    patterns = np.unique(draw.random((1500, n)) < 0.5, axis=0)
    truth = patterns[:, 0] & patterns[:, 3] | patterns[:, 1] & ~patterns[:, 2]
    form = minimised(patterns[truth], patterns[~truth])
    assert form.text(NAMES) == "v0 AND v3 OR v1 AND NOT v2"
    assert form.least == (n <= 12)


def test_the_search_above_twelve_variables_is_near_the_exact_answer():
    draw, worse = np.random.default_rng(1), []
    for _ in range(6):
        patterns = np.unique(draw.random((120, 12)) < 0.5, axis=0)
        truth = draw.random(len(patterns)) < 0.3
        exact = minimised(patterns[truth], patterns[~truth])
        # A thirteenth variable that is always false changes nothing but the way.
        wide = np.concatenate([patterns, np.zeros((len(patterns), 1), dtype=bool)], 1)
        searched = minimised(wide[truth], wide[~truth])
        assert exact.least
        assert not searched.least
        assert (searched(wide) == truth).all()
        worse.append(len(searched.terms) / len(exact.terms))
    assert np.mean(worse) < 1.15


def test_forms_are_never_longer_than_those_of_sympy():
    sympy = pytest.importorskip("sympy", reason="needs sympy")
    from sympy.logic.boolalg import SOPform

    draw = np.random.default_rng(2)
    symbols = sympy.symbols("v0:5")
    for _ in range(6):
        patterns, kind = all_patterns(5), draw.integers(0, 3, 32)
        on, free = (patterns[kind == k].astype(int).tolist() for k in (1, 2))
        theirs = SOPform(symbols, on, free)
        ours = minimised(patterns[kind == 1], patterns[kind == 0])
        parts = theirs.args if theirs.func.__name__ == "Or" else (theirs,)
        assert len(ours.terms) <= len(parts)
        for row, k in zip(patterns.tolist(), kind.tolist(), strict=True):
            if k < 2:
                assert bool(theirs.subs(dict(zip(symbols, row, strict=True)))) == bool(k)


@pytest.mark.peers
def test_forms_are_no_longer_than_those_of_espresso():
    pyeda = pytest.importorskip("pyeda.inter", reason="pyeda is not installed; it builds from source")
    draw = np.random.default_rng(3)
    names = [pyeda.exprvar(f"v{i}") for i in range(8)]
    for _ in range(4):
        patterns, truth = all_patterns(8), draw.random(256) < 0.3
        (theirs,) = pyeda.espresso_tts(pyeda.truthtable(names, [int(t) for t in truth_in_their_order(patterns, truth)]))
        ours = minimised(patterns[truth], patterns[~truth])
        assert ours.least
        assert len(ours.terms) <= len(theirs.xs)


def truth_in_their_order(patterns, truth):
    """Their tables count the first variable fastest."""
    number = (patterns * 2 ** np.arange(patterns.shape[1])).sum(1)
    return truth[np.argsort(number)]


def test_ends_without_a_choice():
    patterns, nothing = all_patterns(2), np.zeros((0, 2), dtype=bool)
    assert minimised(patterns, nothing).text(NAMES) == "always"
    assert minimised(nothing, patterns).text(NAMES) == "never"
    with pytest.raises(ValueError, match="in both lists"):
        minimised(patterns, patterns[:1])
