import pytest

from cutaway.core.progress import Progress, report, reporting, track
from cutaway.testing.models import inputs_for, tiny_model


def test_without_a_listener_nothing_happens(capsys):
    assert list(track([1, 2], "work")) == [1, 2]
    report("work", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_listener_hears_every_step():
    heard = []
    with reporting(heard.append):
        assert list(track(iter("ab"), "work", total=2)) == ["a", "b"]
        assert list(track([], "nothing")) == []
    list(track([1], "after"))
    assert heard == [Progress("work", k, 2) for k in range(3)] + [Progress("nothing", 0, 0)]


def _fails_inside(reporter):
    with reporting(reporter):
        report("inside", 1)
        raise ZeroDivisionError


def test_listeners_nest_and_come_back_after_an_error():
    outer, inner = [], []
    with reporting(outer.append):
        with pytest.raises(ZeroDivisionError):
            _fails_inside(inner.append)
        report("outside", 1)
    assert [p.label for p in inner] == ["inside"]
    assert [p.label for p in outer] == ["outside"]


def test_a_listener_stops_the_work_by_raising():
    class Stopped(Exception):
        pass

    def stop(progress):
        if progress.done == 2:
            raise Stopped

    done = []
    model = tiny_model("conv")
    model.module.train()

    def work():
        with reporting(stop), model.borrow():
            for item in track(range(5), "work"):
                model.run(inputs_for(model, 1))
                done.append(item)

    with pytest.raises(Stopped):
        work()
    assert done == [0, 1]
    assert model.module.training


def test_an_unknown_length_is_said_to_be_unknown():
    heard = []
    with reporting(heard.append):
        list(track((i for i in range(1)), "work"))
    assert {p.total for p in heard} == {None}
