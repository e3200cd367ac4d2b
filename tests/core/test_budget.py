"""Limits on time and cost, by a clock that only the test moves."""

import math

import pytest

from cutaway.core import budget
from cutaway.core.budget import (
    TooMuch,
    afford,
    at_once,
    cut_short,
    fair_share,
    in_time,
    limits,
    tighter,
    time_is_up,
)


class Clock:
    """Stands still until it is moved."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(budget, "clock", clock)
    return clock


def test_steps_go_on_until_the_time_is_up_and_the_first_are_always_done(clock):
    with limits(seconds=5):
        done = []
        for step in in_time(range(10)):
            done.append(step)
            clock.now += 2
        assert done == [0, 1, 2]
        assert time_is_up()
        assert list(in_time(range(10))) == [0]
        assert list(in_time(range(10), least=4)) == [0, 1, 2, 3]
    assert list(in_time(range(10))) == list(range(10))


def test_pieces_share_the_time_and_what_one_leaves_goes_to_the_others(clock):
    with limits(seconds=12):
        with fair_share(3):
            clock.now += 3.9
            assert not time_is_up()
            clock.now += 0.2
            assert time_is_up()
        with fair_share(2):
            clock.now += 1
        with fair_share(1):
            clock.now += 6.8
            assert not time_is_up()
            clock.now += 0.2
            assert time_is_up()
        with fair_share(2):
            assert time_is_up()
    with fair_share(3):
        assert not time_is_up()


def test_a_share_ends_with_its_block_also_when_that_fails(clock):
    with limits(seconds=10):
        with pytest.raises(KeyboardInterrupt), fair_share(10):
            raise KeyboardInterrupt
        clock.now += 5
        assert not time_is_up()


def test_a_tighter_limit_keeps_what_holds_outside(clock):
    with limits(forwards=100, seconds=10):
        with tighter(seconds=100, forwards=1000):
            clock.now += 11
            assert time_is_up()
            with pytest.raises(TooMuch, match="the limit is 100"):
                afford(101, "this")
        with tighter(fitting=50):
            afford(60, "this", stops=True)
            with pytest.raises(TooMuch, match="the limit is 50"):
                afford(60, "this")


def test_a_backward_pass_counts_as_two_forwards():
    with limits(forwards=300):
        afford(100, "this", backwards=100)
        with pytest.raises(TooMuch, match="about 101 forwards and 101 backwards, as long as 303 forwards; the limit"):
            afford(101, "this", backwards=101)


def test_less_is_asked_for_at_once_where_there_is_a_limit():
    assert at_once(256) == 256
    with limits(seconds=9):
        assert (at_once(256), at_once(256, 64), at_once(4)) == (8, 64, 4)


def test_what_was_cut_short_is_told_for_the_input_that_got_least():
    assert cut_short([5, 5], 5, "steps") == {}
    assert cut_short([5, 3], [5, 3], "steps") == {}
    with limits(seconds=math.pi):
        (one,) = cut_short([5, 2000], [5, 4000], "steps", "The rest is unknown.").values()
        (same,) = cut_short([3, 3], 5, "steps").values()
    assert one == (
        "The time limit of 3.14 s ended this after 2,000 of up to 4,000 steps for the input, of 2, that got least. "
        "The rest is unknown."
    )
    assert (one.status, one.value) == ("warn", 2000)
    assert same == "The time limit of 3.14 s ended this after 3 of up to 5 steps."
