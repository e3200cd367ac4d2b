import contextlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.model import Model
from cutaway.core.site import Site
from cutaway.core.space import images, rows
from cutaway.core.target import Target, constant, direction, energy, log_odds, logit, logprob, loss, per_row, prob, unit
from cutaway.testing.models import inputs_for, tiny_model

few = settings(max_examples=15)
MODEL = tiny_model("mlp")
X = inputs_for(MODEL, 4)

leaf = st.one_of(
    st.builds(lambda f, k: f(k), st.sampled_from([logit, prob, logprob, log_odds, loss]), st.integers(0, 2)),
    st.sampled_from(["act:3", "first:0", "act"]).map(unit),
    st.lists(st.floats(-2, 2, width=32), min_size=8, max_size=8).filter(any).map(lambda v: direction("act", v)),
    st.lists(st.floats(-2, 2, width=32), min_size=8, max_size=8).filter(any).map(lambda v: direction("act", v, 1.5)),
    st.sampled_from(["act:3", "first"]).map(energy),
)
scale = st.floats(-9, 9).filter(lambda v: abs(v) > 1e-3) | st.integers(1, 5)


def _joined(inner):
    pair = st.tuples(inner, inner)
    return st.one_of(
        pair.map(lambda p: p[0] + p[1]),
        pair.map(lambda p: p[0] - p[1]),
        pair.map(lambda p: p[0] * p[1]),
        st.tuples(scale, inner).map(lambda p: p[0] * p[1]),
        st.tuples(scale, inner).map(lambda p: p[0] - p[1]),
        st.tuples(scale, inner).map(lambda p: p[1] / p[0]),
        inner.map(lambda t: -t),
    )


targets = st.recursive(leaf, _joined, max_leaves=5)


def value(target, model=MODEL, x=X):
    return target(model.run(x, read=[*target.sites, "output"]))


@few
@given(targets)
def test_text_round_trips(target):
    again = Target.of(str(target), MODEL)
    assert str(again) == str(target)
    assert set(again.sites) == set(target.sites)
    assert_close(value(again), value(target), rtol=1e-9, atol=1e-9)


@few
@given(st.lists(targets, min_size=4, max_size=4))
def test_a_list_gives_each_row_its_own(chosen):
    both = Target.of(chosen, MODEL)
    expected = torch.stack([value(t)[i] for i, t in enumerate(chosen)])
    assert_close(value(both), expected)
    assert str(Target.of(str(both))) == str(both)
    assert [str(both.row(i)) for i in range(4)] == [str(t) for t in chosen]
    assert_close(value(both.take(slice(1, 3)), x=X[1:3]), expected[1:3])


@few
@given(st.text(max_size=20))
def test_any_text_is_a_target_or_refused(text):
    with contextlib.suppress(BadOption, UnknownName):
        Target.of(text, MODEL)


def test_named_targets_are_their_formulas():
    z = MODEL.run(X).output
    p = z.softmax(1)
    assert_close(value(logit(1)), z[:, 1])
    assert_close(value(prob(1)), p[:, 1])
    assert_close(value(logprob(1)), p[:, 1].log())
    assert_close(value(log_odds(1)), (p[:, 1] / (1 - p[:, 1])).log())
    assert_close(value(loss(1)), nn.functional.cross_entropy(z, torch.ones(4, dtype=torch.long), reduction="none"))


def test_algebra_is_arithmetic():
    a, b = value(logit(0)), value(logit(1))
    for target, expected in [
        (logit(0) - logit(1), a - b),
        (2 * logit(0) + 1, 2 * a + 1),
        (1 - logit(0), 1 - a),
        (1 + logit(0), 1 + a),
        (logit(0) * logit(1), a * b),
        (logit(0) / 4, a / 4),
        (4 / logit(0), 4 / a),
        (-logit(0), -a),
        (logit(0) - (logit(1) - 3), a - (b - 3)),
        (logit(0) * (logit(1) - 3), a * (b - 3)),
        (logit(0) / (logit(1) * 3), a / (b * 3)),
    ]:
        assert_close(value(target), expected, rtol=1e-13, atol=1e-13)
        assert_close(value(Target.of(str(target))), expected, rtol=1e-13, atol=1e-13)


def test_numbers_keep_all_their_digits():
    third = 1 / 3
    assert_close(value(Target.of(str(third * logit(0)))), third * value(logit(0)), rtol=1e-15, atol=0)


def test_log_odds_do_not_saturate():
    sure = Model(nn.Linear(1, 2), rows(1))
    with torch.no_grad():
        sure.module.weight.copy_(torch.tensor([[100.0], [-100.0]]))
        sure.module.bias.zero_()
    found = sure.gradient(torch.ones(1, 1), log_odds(0))
    assert float(found.score) == 200
    assert float(found.slope) == 200


@pytest.mark.parametrize("what", [2, "2", np.int64(2), torch.tensor(2), "logit(2)", logit(2)])
def test_a_class_stands_for_its_logit(what):
    assert str(Target.of(what, MODEL)) == "logit(2)"


@pytest.mark.parametrize(
    "what", [[0, 2], (0, 2), np.array([0, 2]), torch.tensor([0, 2]), "[logit(0), logit(2)]", ["0", logit(2)]]
)
def test_a_sequence_is_one_for_each_row(what):
    assert str(Target.of(what, MODEL)) == "[logit(0), logit(2)]"


@pytest.mark.parametrize(
    "what",
    [
        -1,
        "-1",
        True,
        1.5,
        None,
        [],
        [1.5],
        [True],
        [[0]],
        "logit(-1)",
        "logit(1.5)",
        "logit()",
        "logit(1, 2)",
        "prob(logit(1))",
        "direction('act', 3)",
        "direction('act', [0, 0])",
        "unit(3)",
        "-'a' * logit(0)",
        "logit(0) % 2",
        "logit(0).real",
        3,
        "logit(7)",
    ],
)
def test_what_is_no_target_is_refused(what):
    model = Model(MODEL.module, MODEL.space, classes=("a", "b", "c"))
    with pytest.raises((BadOption, UnknownName)):
        Target.of(what, model)


def test_a_class_outside_the_output_is_refused_with_the_range():
    with pytest.raises(BadOption, match="from 0 to 2; got 3"):
        MODEL.gradient(X, 3)


def test_the_wrong_number_of_targets_is_refused():
    with pytest.raises(BadShape, match="4 inputs; got 2"):
        value(Target.of([0, 1]))
    with pytest.raises(BadShape, match="2 and 3"):
        Target.of([0, 1]) + Target.of([0, 1, 2])


def test_class_names_win_over_expressions_and_synonyms_count():
    module = nn.Linear(4, 3)
    model = Model(module, rows(4), classes=("crane (bird)", "tabby, tabby cat", "7"))
    assert str(Target.of("crane (bird)", model)) == 'logit("crane (bird)")'
    assert model.class_index("Tabby Cat") == 1
    assert str(Target.of('logit("tabby") - logit("7")', model)) == 'logit("tabby") - logit("7")'
    with pytest.raises(UnknownName, match="nearest: tabby"):
        Target.of("taby", model)


@pytest.mark.parametrize("name", ['say "hi"', "back\\slash", "new\nline", "ünïcode", "a'b"])
def test_odd_class_names_survive_the_text_form(name):
    model = Model(nn.Linear(4, 2), rows(4), classes=(name, "other"))
    assert model.class_index(Target.of(str(Target.of(f"{name}", model)), model).classes[0]) == 0


def test_a_single_logit_is_two_classes():
    module = nn.Linear(4, 1).double()
    model, x = Model(module, rows(4), classes=("no", "yes")), X
    z = module(x)[:, 0].detach()
    assert_close(model.predict(x), torch.stack([1 - z.sigmoid(), z.sigmoid()], 1))
    assert_close(value(logit("yes"), model), z)
    assert_close(value(logit("no"), model), -z)
    assert_close(value(prob("yes"), model), z.sigmoid())
    assert_close(value(log_odds("yes"), model), z)
    nameless = Model(module, rows(4))
    assert_close(value(logit(0), nameless), z)
    assert_close(value(prob(1), nameless), z.sigmoid())


def test_probabilities_are_taken_as_they_are():
    model = Model(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)).double(), rows(4), scores="probabilities")
    assert str(Target.of(1, model)) == "prob(1)"
    assert_close(value(prob(1), model), model.run(X).output[:, 1])
    assert_close(value(logprob(1), model), model.run(X).output[:, 1].log())


def test_values_have_no_probability():
    model = Model(nn.Linear(4, 3).double(), rows(4), scores="values")
    with pytest.raises(NotPossible, match="logit"):
        value(prob(1), model)


def test_a_unit_is_averaged_over_positions_and_a_direction_has_unit_length():
    model = tiny_model("conv")
    x = inputs_for(model)
    act = model.run(x, read=["conv2"])["conv2"]
    assert_close(value(unit("conv2:1"), model, x), act[:, 1].mean((1, 2)))
    assert_close(value(unit("conv2:1@2,3"), model, x), act[:, 1, 2, 3])
    v = torch.arange(1.0, 7.0, dtype=torch.float64)
    along = torch.einsum("nchw,c->nhw", act, v / v.norm()).mean((1, 2))
    assert_close(value(direction("conv2", v), model, x), along)
    with pytest.raises(BadShape, match="length 6"):
        value(direction("conv2", [1.0, 2.0]), model, x)


@pytest.mark.parametrize("number", [True, "3", math.nan, math.inf])
def test_only_finite_numbers_join_the_algebra(number):
    with pytest.raises(BadOption, match="number"):
        constant(number)


def test_a_direction_with_a_power_counts_positions_by_their_cosine():
    model = tiny_model("conv")
    x, v = inputs_for(model, 2), torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0, 1.0]).double()
    act = model.run(x, read=["conv2"])["conv2"]
    expected = torch.zeros(2, dtype=torch.float64)
    for i in range(2):
        for y in range(act.shape[2]):
            for z in range(act.shape[3]):
                a = act[i, :, y, z]
                along = float(a @ v / v.norm())
                expected[i] += along * max(0.1, along / float(a.norm())) ** 4 / act[0, 0].numel()
    assert_close(value(direction("conv2", v, 4), model, x), expected)
    one = direction("conv2@1,2", v, 4)(model.run(x, read=["conv2"]))
    along = act[:, :, 1, 2] @ v / v.norm()
    assert_close(one, along * (along / act[:, :, 1, 2].norm(dim=1)).clamp(min=0.1) ** 4)
    with pytest.raises(BadOption, match="power"):
        direction("conv2", v, -1)


def test_a_direction_has_a_slope_where_nothing_is_active():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1, bias=False)).double()
    model = Model(net, images(4, channels=1), scores="values")
    slope = model.gradient(torch.zeros(1, 1, 4, 4).double(), direction("0", [1.0, 0.5], 4)).slope
    assert torch.isfinite(slope).all()


def test_energy_is_the_mean_square():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    act = model.run(x, read=["conv2"])["conv2"]
    assert_close(value(energy("conv2"), model, x), act.square().mean((1, 2, 3)))
    assert_close(value(energy("conv2:1"), model, x), act[:, 1].square().mean((1, 2)))


def test_many_targets_are_each_computed_on_their_own_row():
    seen = []

    def spy(k):
        def look(trace):
            seen.append((k, len(trace["act"])))
            return trace["act"][:, k]

        return Target(f"spy {k}", (Site.of("act"),), look)

    found = per_row([spy(k) for k in range(4)])(MODEL.run(X, read=["act"]))
    assert seen == [(k, 1) for k in range(4)]
    assert_close(found, MODEL.run(X, read=["act"])["act"].diagonal())
