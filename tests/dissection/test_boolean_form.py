"""Boolean forms of classes and units whose rule is known."""

import numpy as np
import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, UnknownName
from cutaway.dissection.boolean_form import _information, boolean_form
from cutaway.maths.proportions import wilson
from cutaway.testing.models import text_model

WIDE, N = 24, 400


class Planted(nn.Module):
    """Class 1 if units 3 and 5 are on, or unit 8 is and unit 2 is not; `more` has a unit that says the same."""

    def __init__(self):
        super().__init__()
        self.units, self.more, self.fc = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        h = self.units(x)
        on = h > 0.5
        rule = (on[:, 3] & on[:, 5] | on[:, 8] & ~on[:, 2]).to(x)
        both = self.more(torch.stack([rule, 1 - rule], 1))
        return self.fc(torch.stack([1 - both[:, 0], both[:, 0]], 1))


def made(seed=0, rule=Planted):
    draw = torch.Generator().manual_seed(seed)
    x = (torch.rand(N, WIDE, generator=draw) < 0.5).float()
    return ct.Model(rule(), ct.rows(WIDE, low=0, high=1), classes=("no", "yes")), Examples(x=x, names=[""] * N)


def first(table, *columns):
    return [table.rows[0][table.columns.index(c)] for c in columns]


# Half of the values are 0 and half are 1: a quantile of 0.4 is 0, and what is above it is on.
CUT = {"site": "units", "quantile": 0.4}


def test_a_planted_rule_comes_back_with_its_variables_named():
    model, data = made()
    table = boolean_form(model, data, of=("yes",), units=("2", "3", "5", "8"), **CUT)
    form, shortest, accuracy, coverage = first(table, "form", "shortest", "accuracy", "coverage")
    assert form == "u3 AND u5 OR u8 AND NOT u2"
    assert (shortest, accuracy, coverage) == (True, 1.0, 1.0)
    assert table.checks["accuracy"].status == "ok"


def test_the_variables_of_the_rule_are_found_among_others():
    model, data = made()
    table = boolean_form(model, data, of=("yes",), **CUT)
    assert first(table, "form", "accuracy") == ["u3 AND u5 OR u8 AND NOT u2", 1.0]


def test_above_twelve_variables_the_form_is_searched_and_says_so():
    model, data = made()
    units = tuple(str(k) for k in range(14))
    table = boolean_form(model, data, of=("yes",), units=units, **CUT)
    assert first(table, "form", "shortest") == ["u3 AND u5 OR u8 AND NOT u2", False]
    assert table.checks["shortest"].status == "note"
    assert table.checks["coverage_of_patterns"].status == "warn"


def test_all_classes_are_explained_if_none_is_named():
    model, data = made()
    table = boolean_form(model, data, **CUT)
    assert [row[0] for row in table.rows] == ["no", "yes"]


def test_a_unit_is_explained_and_not_by_itself():
    model, data = made()
    table = boolean_form(model, data, of=("more:0",), units=("2", "3", "5", "8"), **CUT)
    assert first(table, "outcome", "form") == ["more:0", "u3 AND u5 OR u8 AND NOT u2"]
    own = boolean_form(model, data, of=("units:3",), units=("3", "5"), **CUT)
    assert "u3" not in first(own, "form")[0]


class Coin(Planted):
    """Class 1 for no reason that the units know."""

    def forward(self, x):
        h = self.units(x)
        coin = ((h * torch.arange(1, WIDE + 1) ** 2).sum(1) * 0.618 % 1 > 0.5).to(x)
        return self.fc(torch.stack([1 - coin, coin], 1))


def test_a_form_that_only_fits_what_it_has_seen_is_not_praised():
    model, data = made(rule=Coin)
    table = boolean_form(model, data, of=("yes",), units=tuple(str(k) for k in range(10)), **CUT)
    accuracy, fit, low, constant = first(table, "accuracy", "fit", "low", "always the same")
    assert fit > accuracy
    assert low < constant
    assert table.checks["accuracy"].status == "warn"


def test_numbers_are_those_of_a_table_written_out():
    """One variable: majority of each pattern on one half, tried on the other."""
    model, data = made()
    table = boolean_form(model, data, of=("yes",), units=("3",), seed=4, **CUT)
    split = torch.randperm(N, generator=torch.Generator().manual_seed(4)).tolist()
    on = [bool(v) for v in data.x[:, 3]]
    truth = [bool(v) for v in model.run(data.x).scores.argmax(1)]
    used, left = split[: N // 2], split[N // 2 :]
    votes = {value: [truth[i] for i in used if on[i] == value] for value in (False, True)}
    answer = {value: sum(seen) * 2 > len(seen) for value, seen in votes.items()}
    assert first(table, "accuracy")[0] == pytest.approx(np.mean([answer[on[i]] == truth[i] for i in left]))
    assert first(table, "fit")[0] == pytest.approx(np.mean([answer[on[i]] == truth[i] for i in used]))
    assert first(table, "always the same")[0] == pytest.approx(
        max(np.mean([truth[i] for i in left]), 1 - np.mean([truth[i] for i in left]))
    )


def test_information_is_what_the_outcome_has_less_what_chance_would_show():
    truth = np.arange(64) % 2 == 0
    assert _information(truth.astype(int), truth) == pytest.approx(np.log(2) - 1 / 128)
    assert _information(np.zeros(64, dtype=int), truth) == 0
    draws = np.random.default_rng(0)
    chance = [_information(draws.integers(0, 8, 400), draws.random(400) < 0.5) for _ in range(300)]
    assert abs(np.mean(chance)) < 0.001


def test_padding_of_other_texts_is_no_answer_of_a_unit():
    model = text_model()
    texts = ["the film was very good", "dull plot", "a great film but not fun", "awful", "was bad", "good fun"]
    whole = boolean_form(model, texts, of=("good",), variables=3)
    one_by_one = boolean_form(text_model(batch_size=1), texts, of=("good",), variables=3)
    assert whole.rows == one_by_one.rows


def test_processes_change_nothing(tmp_path):
    options = {"site": "relu5", "of": ("star",), "variables": 4}
    here = ct.run("boolean_form", "shapes-cnn", "shapes/test[0:64]", **options)
    there = ct.run("boolean_form", "shapes-cnn", "shapes/test[0:64]", study=tmp_path, workers=1, **options)
    assert here.rows == there.rows


def test_a_share_has_wilsons_interval():
    low, high = wilson(torch.tensor([0.0, 15.0, 50.0]).double(), torch.tensor([0.0, 50.0, 50.0]).double())
    assert low.tolist() == pytest.approx([0, 0.1910, 0.9286], abs=1e-4)
    assert high.tolist() == pytest.approx([1, 0.4375, 1.0], abs=1e-4)


def test_bad_requests_are_refused():
    model, data = made()
    with pytest.raises(BadOption, match="quantile"):
        boolean_form(model, data, quantile=0)
    with pytest.raises(BadOption, match="from 1 to 64"):
        boolean_form(model, data, variables=65)
    with pytest.raises(BadOption, match="two examples"):
        boolean_form(model, data[0:1])
    with pytest.raises(BadOption, match="from 0 to 23"):
        boolean_form(model, data, units=("24",), **CUT)
    with pytest.raises(BadOption, match="different units"):
        boolean_form(model, data, units=("2", "2"), **CUT)
    with pytest.raises(BadOption, match="whole numbers"):
        boolean_form(model, data, units=("two",), **CUT)
    with pytest.raises(UnknownName):
        boolean_form(model, data, of=("maybe",), **CUT)
    with pytest.raises(BadOption, match="unit from 0"):
        boolean_form(model, data, of=("units:99",), **CUT)
    with pytest.raises((BadOption, BadShape)):
        boolean_form(model, data[0:0])
