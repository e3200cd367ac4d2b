"""`cutaway.run`: methods, models and data by name, and results taken from a study."""

import pytest
import torch

import cutaway as ct
from cutaway.core.errors import BadOption, UnknownName
from cutaway.core.fill import sample
from cutaway.core.result import Attribution


@pytest.fixture(scope="module")
def digits():
    return ct.load("digits-cnn")


def test_takes_model_data_target_and_options_as_text(digits):
    by_text = ct.run("input-x-gradient", "digits-cnn", "digits/test[0:2]", target="logit(3) - logit(5)", wrt="input")
    x = ct.data("digits/test[0:2]")
    by_object = ct.run(
        "input_x_gradient", digits, x, target=ct.run("gradient", digits, x, target="3").target + " - logit(5)"
    )
    assert torch.equal(by_text.values, by_object.values)
    assert by_text.provenance.input == "digits/test[0:2]"


def test_explains_the_predicted_class_of_each_input_by_default(digits):
    x = ct.data("digits/test[0:3]")
    classes = digits.predict(x).argmax(1).tolist()
    assert ct.run("gradient", digits, x).target == "[" + ", ".join(f"logit({c})" for c in classes) + "]"


def test_one_input_and_several_targets_give_one_map_each(digits):
    both = ct.run("gradient", digits, "digits/test[0]", target=[2, 7])
    alone = ct.run("gradient", digits, "digits/test[0]", target=7)
    assert len(both.values) == 2
    assert torch.allclose(both.values[1:], alone.values, atol=1e-6)


def test_a_second_request_is_answered_from_the_study(digits, tmp_path, monkeypatch):
    first = ct.run("gradient", digits, "digits/test[0]", study=tmp_path)
    before = dict(digits.spent)
    again = ct.run("gradient", digits, "digits/test[0]", target=int(first.target[6:-1]), study=tmp_path)
    assert isinstance(again, Attribution)
    assert torch.equal(again.values, first.values)
    assert again.provenance == first.provenance
    assert digits.spent["backwards"] == before["backwards"]


def test_another_option_is_another_result(digits, tmp_path):
    a = ct.run("smoothgrad", digits, "digits/test[0]", study=tmp_path, samples=2, seed=1)
    b = ct.run("smoothgrad", digits, "digits/test[0]", study=tmp_path, samples=2, seed=2)
    assert not torch.equal(a.values, b.values)


def test_unknown_names_come_with_their_neighbours(digits):
    with pytest.raises(UnknownName, match="nearest: gradient"):
        ct.run("gradiant", digits, "digits/test[0]")
    with pytest.raises(UnknownName, match="nearest: .*samples"):
        ct.run("smoothgrad", digits, "digits/test[0]", sampels=3)
    with pytest.raises(UnknownName, match="nearest: digits-cnn"):
        ct.run("gradient", "digit-cnn", "digits/test[0]")


def test_an_attribution_cannot_be_given_to_a_method_that_makes_one(digits):
    why = ct.run("gradient", digits, "digits/test[0]")
    with pytest.raises(BadOption, match="does not examine"):
        ct.run("gradient", digits, "digits/test[0]", why)


def test_a_bare_module_is_refused_with_what_is_missing(digits):
    with pytest.raises(BadOption, match="space="):
        ct.run("gradient", digits.module, "digits/test[0]")


def test_methods_is_a_table_of_the_catalogue():
    table = ct.methods(room="attribution")
    assert "gradient" in [row[0] for row in table.rows]
    with pytest.raises(BadOption, match="attribution"):
        ct.methods(room="nowhere")


def test_a_baseline_is_drawn_from_a_data_set_by_name(digits):
    options = {"baseline": "sample:digits/train[0:20]", "samples": 3, "max_steps": 9}
    why = ct.run("integrated_gradients", digits, "digits/test[0]", target=3, **options)
    assert why.provenance.options["baseline"] == "sample:digits/train[0:20]"
    again = ct.run("integrated_gradients", digits, "digits/test[0]", target=3, **why.provenance.options)
    assert torch.equal(again.values, why.values)
    given = sample(ct.data("digits/train[0:20]").x)
    same = ct.run("integrated_gradients", digits, "digits/test[0]", target=3, **options | {"baseline": given})
    assert torch.allclose(same.values, why.values)
    with pytest.raises(UnknownName, match="no data set"):
        ct.run("integrated_gradients", digits, "digits/test[0]", baseline="sample:nothing")
