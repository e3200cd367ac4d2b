"""Results are data: they survive JSON, and say how they were made."""

import copy
import json
import pickle
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutaway.core import errors
from cutaway.core.checks import Check, shortest
from cutaway.core.errors import BadShape, CutawayError, unknown_name
from cutaway.core.result import (
    Attribution,
    Cost,
    Curve,
    Matrix,
    Pictures,
    Points,
    Provenance,
    Ranking,
    Result,
    Scores,
    Table,
    Tree,
)
from cutaway.testing.compare import same_result

MADE = Provenance(
    method="rise",
    options={"masks": 3, "fill": "zero", "low": None, "pair": [1, 2]},
    model="m",
    target="logit(1)",
    seed=0,
    versions={"torch": "2"},
    cost=Cost(3, 2, 0.5),
    created="2026-01-01T00:00:00+00:00",
)
CHECKS = {"gap": Check("The gap is 0.2 %.", "warn", 0.002), "done": Check("All done.")}
COMMON = {"title": "a <title>", "checks": CHECKS, "provenance": MADE}
RESULTS = [
    Attribution(
        values=torch.rand(2, 3),
        target="logit(1)",
        tokens=[["a", "b"], ["c", "d"]],
        extra={"error": torch.rand(2)},
        **COMMON,
    ),
    Scores(names=["a", "b"], values=torch.rand(2), low=torch.zeros(2), high=torch.ones(2), better="lower", **COMMON),
    Curve(
        x=torch.arange(3.0),
        y={"a": torch.rand(3), "b/c": torch.rand(3)},
        low={"a": torch.rand(3)},
        summary={"a": 0.5},
        **COMMON,
    ),
    Table(columns=["x", "y"], rows=[[1, "a"], [None, True], [0.5, ""]], **COMMON),
    Matrix(values=torch.tensor([[1.0, float("nan")]]), row_names=["r"], column_names=["a", "b"], **COMMON),
    Points(positions=torch.rand(2, 2), names=["a", "b"], groups=["g", "h"], axes=["x", "y"], **COMMON),
    Pictures(images=torch.rand(1, 3, 4, 4), captions=["one"], **COMMON),
    Ranking(names=["a", "b"], values=torch.tensor([2.0, 1.0]), site="conv3", **COMMON),
    Tree(
        names=["a", "b"],
        members=[[0], [1], [0, 1]],
        parents=[2, 2, -1],
        levels=[0, 0, 1],
        values=torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64),
        regions=torch.tensor([[0, 1]]),
        **COMMON,
    ),
]


@pytest.mark.parametrize("result", RESULTS, ids=lambda r: type(r).__name__)
def test_every_shape_survives_json(result):
    data, arrays = json.loads(json.dumps(result.as_json())), result.arrays()
    again = Result.from_parts(data, arrays)
    assert type(again) is type(result)
    same_result(again, result)
    assert "error" not in data.get("extra", {}), "from_parts changed what it was given"
    assert all(type(c) is Check for c in again.checks.values())


def test_all_nine_shapes_are_known():
    names = "Attribution Scores Curve Table Matrix Points Pictures Ranking Tree"
    assert set(Result.shapes) == set(names.split())


def test_a_tree_tells_which_groups_there_are_after_a_step():
    tree = RESULTS[-1]
    assert [tree.at(level) for level in (0, 1, 2)] == [[0, 1], [2], [2]]


@pytest.mark.parametrize(
    "change",
    [
        {"parents": [2, -1, -1]},
        {"members": [[0], [1], [0]]},
        {"members": [[1], [0], [0, 1]]},
        {"levels": [0, 0, 0]},
        {"values": torch.zeros(2)},
        {"names": []},
    ],
)
def test_a_tree_that_is_none_is_refused(change):
    with pytest.raises(BadShape, match="expected"):
        replace(RESULTS[-1], **change)


def test_a_name_gives_its_score():
    assert Scores(names=["a", "b"], values=torch.tensor([1.0, 2.0]))["b"] == 2


def test_checks_are_added_and_replaced():
    result = RESULTS[1].with_checks(gap=Check("The gap is 0.", "ok", 0.0), more=Check("More."))
    assert list(result.checks) == ["gap", "done", "more"]
    assert (result.checks["gap"].status, result.checks["gap"].value) == ("ok", 0.0)
    assert RESULTS[1].checks["gap"].status == "warn"


def test_rows_of_a_table_have_its_columns():
    with pytest.raises(BadShape, match=r"2 cells \(x, y\)"):
        Table(columns=["x", "y"], rows=[[1]])


def test_without_a_renderer_a_notebook_shows_the_checks_escaped(monkeypatch):
    monkeypatch.setattr("cutaway.core.result._renderer", [])
    monkeypatch.setitem(sys.modules, "cutaway.plot", None)  # as if it could not be imported
    html = RESULTS[1]._repr_html_()
    assert "a &lt;title&gt;" in html
    assert "The gap is 0.2 %." in html


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_check_keeps_status_and_number_when_copied(copied):
    check = copied(CHECKS["gap"])
    assert (check, check.status, check.value) == ("The gap is 0.2 %.", "warn", 0.002)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_shortest_text_of_a_number_reads_back(number):
    assert float(shortest(number)) == number
    assert shortest(0.5) == "0.5"
    assert shortest(5.0) == "5"


def test_errors_have_stable_codes_and_are_data():
    codes = {kind.__name__: kind.code for kind in CutawayError.__subclasses__()}
    assert codes == {"UnknownName": "CUT-101", "BadShape": "CUT-102", "BadOption": "CUT-103", "NotPossible": "CUT-104"}
    assert errors.BadOption("no").as_json() == {"code": "CUT-103", "kind": "BadOption", "message": "no"}


def test_an_unknown_name_lists_the_five_nearest():
    known = [f"conv{k}" for k in range(9)]
    assert (
        str(unknown_name("layer", "conv22", known, "More."))
        == "no layer 'conv22'; nearest: conv2, conv8, conv7, conv6, conv5. More."
    )
    assert str(unknown_name("layer", "zzz", ["a", "b"])) == "no layer 'zzz'; nearest: a, b."
    assert str(unknown_name("layer", "x", [])) == "no layer 'x'."
    assert len(str(unknown_name("layer", "x" * 10_000, known))) < 300
