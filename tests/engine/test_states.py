"""States: their laws on any way of cutting a data set, and equality with the statistic computed at once."""

import importlib
import itertools
import math
import pkgutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import cutaway
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.engine.counts import Counts, Sums
from cutaway.engine.extremes import Best, Highest, Sample
from cutaway.engine.moments import Covariance
from cutaway.engine.state import State, fold, merged
from cutaway.engine.stored import Rows
from cutaway.engine.tails import LogHistogram, Tail, room_for

UNITS, N = 3, 60


def values(seed: int = 0, ties: bool = False) -> torch.Tensor:
    x = torch.randn(N, UNITS, generator=torch.Generator().manual_seed(seed))
    return (x * 2).round() / 2 if ties else x


def tail(rows):
    state = Tail.empty(UNITS, 20)
    if len(rows):
        state.update(values(ties=True)[rows].T)
    return state


def histogram(rows):
    state = LogHistogram.empty(UNITS, error=0.05)
    state.update(values()[rows].T)
    return state


def best(rows):
    state = Best.empty(UNITS, 5)
    state.update(values(ties=True)[rows], torch.as_tensor(rows), (values()[rows] > 0).long())
    return state


def highest(rows):
    state = Highest.empty(6, UNITS)
    found = values(ties=True)[rows]
    state.update(found[:, 0], torch.as_tensor(rows, dtype=torch.long), found)
    return state


def sample(rows):
    state = Sample.empty(7, UNITS, seed=3)
    state.update(torch.as_tensor(rows, dtype=torch.long), values()[rows])
    return state


def counts(rows):
    state = Counts.empty(UNITS)
    state.update((values()[rows] > 0).sum(0))
    return state


def sums(rows):
    state = Sums.empty(UNITS)
    state.update(values()[rows])
    return state


def covariance(rows):
    state = Covariance.empty(UNITS, 2)
    state.update(values()[rows], values(1)[rows][:, :2])
    return state


def rows(chosen):
    state = Rows.empty(UNITS)
    state.update(torch.as_tensor(chosen, dtype=torch.long), values()[chosen])
    return state


MAKERS = {f.__name__: f for f in (tail, histogram, best, highest, sample, counts, sums, covariance, rows)}
EXACT = {"tail", "histogram", "best", "highest", "sample", "counts", "rows"}
cuts = st.lists(st.integers(0, N), max_size=5).map(lambda inner: [0, *sorted(inner), N])


def same(a: State, b: State, exact: bool) -> None:
    for name, tensor in a.arrays().items():
        other = b.arrays()[name]
        if exact:
            assert torch.equal(tensor, other), name
        else:
            assert_close(tensor, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", MAKERS)
@given(cut=cuts, order=st.randoms(use_true_random=False))
def test_any_partition_in_any_order_equals_a_single_pass(kind, cut, order):
    make = MAKERS[kind]
    parts = [{"it": make(list(range(a, b)))} for a, b in itertools.pairwise(cut)]
    order.shuffle(parts)
    same(fold(parts)["it"], make(list(range(N))), kind in EXACT)


@pytest.mark.parametrize("kind", MAKERS)
def test_merging_is_associative_and_commutative_and_an_empty_state_changes_nothing(kind):
    make = MAKERS[kind]
    a, b, c, nothing = make(list(range(20))), make(list(range(20, 27))), make(list(range(27, N))), make([])
    same(a.merge(b).merge(c), a.merge(b.merge(c)), kind in EXACT)
    same(a.merge(b), b.merge(a), kind in EXACT)
    same(a.merge(nothing), a, True)
    same(nothing.merge(a), a, True)


def test_every_kind_of_state_is_held_to_these_laws():
    for module in pkgutil.walk_packages(cutaway.__path__, "cutaway."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    own = {name for name, kind in State.kinds.items() if kind.__module__.startswith("cutaway.")}
    made = {type(make([])).__name__: name in EXACT for name, make in MAKERS.items()}
    assert own == set(made)
    assert made == {name: kind.exact for name, kind in State.kinds.items() if name in own}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_state_is_its_arrays(kind):
    state = MAKERS[kind](list(range(30)))
    again = type(state).of(state.arrays())
    same(again, state, True)
    same(again.merge(MAKERS[kind](list(range(30, N)))), MAKERS[kind](list(range(N))), kind in EXACT)
    assert State.kinds[type(state).__name__] is type(state)


@given(n=st.integers(1, 400), q=st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.995, 1.0]), seed=st.integers(0, 99))
def test_a_tail_has_numpys_quantile_to_the_last_bit(n, q, seed):
    x = torch.randn(2, n, generator=torch.Generator().manual_seed(seed))
    state = Tail.empty(2, room_for(q, n))
    for part in x.split(37, dim=1):
        state.update(part)
    assert np.array_equal(state.quantile(q).numpy(), np.quantile(x.double().numpy(), q, axis=1))


@given(n=st.integers(2, 300), room=st.integers(1, 40), kind=st.sampled_from(["rising", "falling", "equal", "mixed"]))
def test_a_tail_keeps_the_largest_whatever_the_order_and_however_few_wait(n, room, kind):
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(n)).mul(4).round()
    x = {"rising": x.sort(1).values, "falling": -(-x).sort(1).values, "equal": 0 * x, "mixed": x}[kind]
    x[0] = 0  # a unit that is silent beside others
    whole, parts = Tail.empty(3, room), []
    for part in x.split(17, dim=1):
        whole.update(part)
        parts.append(Tail.empty(3, room))
        parts[-1].update(part)
    largest = x.sort(1).values[:, -room:]
    for state in (whole, fold({"it": part} for part in parts)["it"], Tail.of(whole.arrays())):
        assert torch.equal(state.arrays()["kept"][:, -largest.shape[1] :], largest)
        assert int(state.seen) == n


def test_a_quantile_outside_the_tail_is_refused():
    state = Tail.empty(1, 3)
    state.update(torch.arange(100.0)[None])
    with pytest.raises(NotPossible, match=r"needs the 51 largest; 3 were kept"):
        state.quantile(0.5)
    with pytest.raises(NotPossible, match="no values"):
        Tail.empty(1, 3).quantile(0.5)


def test_a_tail_refuses_what_is_not_finite_and_names_the_unit():
    with pytest.raises(BadShape, match="unit 1"):
        Tail.empty(2, 3).update(torch.tensor([[0.0], [math.nan]]))


def test_a_histogram_keeps_its_promised_error():
    x = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)).exp() * torch.tensor(
        [[1], [-1], [1e3], [1e-3]]
    )
    state = LogHistogram.empty(4, error=0.01)
    state.update(x)
    for q in (0.01, 0.3, 0.5, 0.99, 0.995):
        truth = torch.from_numpy(np.quantile(x.double().numpy(), q, axis=1, method="lower"))
        assert ((state.quantile(q) - truth).abs() <= 0.01 * truth.abs() * (1 + 1e-9)).all()


def test_a_histogram_of_zeros_says_zero():
    state = LogHistogram.empty(1)
    state.update(torch.zeros(1, 10))
    assert state.quantile(0.5).item() == 0
    with pytest.raises(BadShape, match="of one error"):
        state.merge(LogHistogram.empty(1, error=0.2))
    with pytest.raises(BadOption):
        LogHistogram.empty(1, error=1.0)


def test_covariance_is_numpys():
    state = covariance(list(range(N)))
    both = np.cov(values().double().numpy().T, values(1)[:, :2].double().numpy().T)
    assert_close(state.value(), torch.from_numpy(both[:UNITS, UNITS:]), atol=1e-12, rtol=0)


def test_covariance_far_from_zero_keeps_its_digits():
    """The mean of squares minus the square of the mean would leave nothing here."""
    x = values().double()
    state = Covariance.empty(UNITS)
    for part in (x + 1e8).split(7):
        state.update(part)
    assert_close(state.value(), torch.from_numpy(np.cov(x.numpy().T)), atol=1e-6, rtol=0)


def test_equals_go_to_the_smaller_number():
    state = Best.empty(1, 2)
    state.update(torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([9, 4, 7]))
    assert state.ids.tolist() == [[4, 7]]


def test_an_example_that_was_seen_twice_counts_once():
    a = best(list(range(10)))
    assert torch.equal(a.merge(best(list(range(5)))).ids, a.ids)


def test_a_sample_is_fair():
    """Each of 40 examples is among 10 in a quarter of the seeds."""
    chosen = torch.zeros(40)
    for seed in range(400):
        state = Sample.empty(10, seed=seed)
        state.update(torch.arange(40))
        chosen[state.chosen] += 1
    assert (chosen / 400 - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / 400)


def test_a_sample_of_more_than_there_are_is_all_of_them():
    state = Sample.empty(10)
    state.update(torch.tensor([5, 2]))
    assert state.chosen.tolist() == [2, 5]
    assert int(state.seen) == 2


def test_counts_are_whole():
    with pytest.raises(BadShape, match="whole numbers"):
        Counts.empty(1).update(torch.tensor([0.5]))


def test_groups_of_different_states_do_not_merge():
    with pytest.raises(BadShape, match="same names"):
        merged({"a": counts([0])}, {"b": counts([0])})
    with pytest.raises(BadShape, match="at least one"):
        fold([])
