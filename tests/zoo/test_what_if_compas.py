"""The What-If Tool's COMPAS network and its rows: published agreement, error rates, and the effect of race."""

import os
from pathlib import Path

import pytest
import torch

from cutaway import zoo
from cutaway.core.errors import BadShape
from cutaway.data import load
from cutaway.data.what_if import COLUMNS
from cutaway.session.run import run

pytestmark = pytest.mark.skipif(
    not Path(os.environ.get("CUTAWAY_DATA", "-"), "what-if-compas").is_dir(),
    reason="needs CUTAWAY_DATA with the folder what-if-compas",
)


@pytest.fixture(scope="module")
def model():
    return zoo.load("what-if-compas")


@pytest.fixture(scope="module")
def rated(model):
    people = load("what-if-compas")
    return people, model.predict(people)[:, 1] > 0.5


def test_rows_have_named_columns_and_groups(model, rated):
    people, _ = rated
    assert model.space.names == COLUMNS
    assert people.x.shape == (3496, 12)
    assert people.x[:, 5:7].sum(1).eq(1).all()
    assert people.x[:, 7:].sum(1).eq(0).sum() == 11, "the race that has no column"
    assert "11 of 3496" in people.notes[0]
    assert load("what-if-compas[0:3]").notes == []


def test_agreement_is_as_published(rated):
    people, high = rated
    again = load("what-if-compas/recidivism").labels
    assert (high == people.labels).float().mean() == pytest.approx(0.7351, abs=5e-5)
    assert (high == again).float().mean() == pytest.approx(0.6565, abs=5e-5)


@pytest.mark.parametrize(("race", "wrongly_high", "wrongly_low"), [(7, 0.528, 0.214), (8, 0.169, 0.553)])
def test_error_rates_by_race_are_as_published(rated, race, wrongly_high, wrongly_low):
    people, high = rated
    again, group = load("what-if-compas/recidivism").labels, people.x[:, race] == 1
    assert high[group & (again == 0)].float().mean() == pytest.approx(wrongly_high, abs=1e-3)
    assert (~high[group & (again == 1)]).float().mean() == pytest.approx(wrongly_low, abs=1e-3)


def test_the_race_alone_changes_as_many_answers_as_published(model, rated):
    people, high = rated
    group = people.x[:, 7] == 1
    other = people.x[group].clone()
    other[:, 7], other[:, 8] = 0, 1
    after = model.predict(other)[:, 1]
    assert group.sum() == 1904
    assert ((after > 0.5) != high[group]).float().mean() == pytest.approx(0.1387, abs=1e-4)
    assert (after - model.predict(people.x[group])[:, 1]).mean() == pytest.approx(-0.068, abs=5e-4)


def test_a_row_is_explained_by_its_columns(model):
    made = run("integrated_gradients", model, "what-if-compas[3]", target="high risk")
    assert made.tokens == [list(COLUMNS)]
    assert float(made.values.sum()) == pytest.approx(float(made.extra["change"]), rel=0.01)
    assert torch.equal(made.input, load("what-if-compas[3]").x)


def test_rows_from_a_file_are_those_of_the_set(model, tmp_path):
    file = tmp_path / "people.csv"
    file.write_text(
        "name,race,sex,age,juv_fel_count,juv_misd_count,juv_other_count,priors_count\n"
        "Ann, Caucasian ,Female,30,0,0,0,0\nBob,Asian,Male,40,0,0,0,2\n"
    )
    found = load(f"{file}[0]", space=model.space)
    assert torch.equal(found.x, load("what-if-compas[0]").x)
    assert "name" in found.notes[0]
    with pytest.raises(BadShape, match=r"row 1: expected race as one of African-American.*got 'Asian'"):
        load(str(file), space=model.space)
