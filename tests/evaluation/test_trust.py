"""Which maps to believe: the verdicts, their order, what they cost, and what is refused."""

import math

import pytest
import torch
from sklearn.tree import DecisionTreeClassifier
from torch import nn

import cutaway as ct
from cutaway.core import budget
from cutaway.core.checks import Check
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.result import Attribution, Cost, Curve, Provenance, Scores
from cutaway.evaluation import trust_cases
from cutaway.evaluation.agreement import span
from cutaway.evaluation.trust import trust
from cutaway.evaluation.trust_table import COST
from cutaway.evaluation.trust_tests import TESTS, chosen_tests, named_test
from cutaway.evaluation.trust_words import figure, verdict
from cutaway.report import compose
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import box_model, bright, made, oracle, row_model

COUNT = 6
BOX = "0,12,4,16"
QUICK = {"rough": True, "tests": ("parameter_randomization", "deletion")}


def noise(like):
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def verdicts(table):
    return {row[0]: table.checks[row[0]].status for row in table.rows}


def without_cost(table):
    return [row[: -len(COST)] for row in table.rows]


# -- the truth wins ----------------------------------------------------------------------------------------------------


def test_oracle_beats_random_on_a_model_whose_reason_is_known():
    truth = oracle(COUNT) * bright(COUNT)
    maps = [made(noise(truth)), made(torch.ones_like(truth)), made(truth), made(1 - oracle(COUNT))]
    table = trust(box_model(), bright(COUNT), 1, methods=maps, region=BOX)
    names = [row[0] for row in table.rows]
    assert names[0] == "given map #3", table.rows
    found = verdicts(table)
    assert found["given map #3"] == "ok"
    assert [found[name] for name in ("given map", "given map #2", "given map #4")] == ["fail"] * 3
    assert "one value everywhere" in table.checks["given map #2"]


def test_oracle_beats_random_on_pictures_with_masks():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:8]")
    mask = x.masks[:, None].float()
    target = [f"logit({k})" for k in model.run(x).scores.argmax(1).tolist()]
    text = str(ct.run("gradient", model, x).target)
    maps = [Attribution(values=v, target=text) for v in (noise(mask).float(), mask, torch.full_like(mask, 2.0))]
    assert len(target) == 8
    table = trust(model, x, methods=maps)
    assert table.rows[0][0] == "given map #2"
    found = verdicts(table)
    assert found["given map #2"] in ("ok", "note")
    assert found["given map"] == found["given map #3"] == "fail"


def test_the_gradient_times_the_input_of_a_linear_model_passes_everything_that_is_true_of_it():
    weights = [0.0, 3.0, -2.0, 0.5, 1.0, -4.0, 2.5, 0.0]
    x = torch.rand(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4 - 2
    table = trust(row_model(weights), x, 1, methods=("input_x_gradient", "occlusion"))
    for row in table.rows:
        values = dict(zip(table.columns, row, strict=True))
        assert values["sums, foretell falls"].startswith("✓ 1.00")
        assert values["deletion, below chance"].startswith("✓")


# -- what the table says -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    return trust(
        ct.load("shapes-cnn"), ct.data("shapes/test[0:6]"), methods=("gradient", "guided_backprop", "grad_cam")
    )


def test_a_row_and_a_sentence_for_each_method_the_best_first(table):
    order = ("ok", "note", "warn", "fail")
    found = [order.index(table.checks[row[0]].status) for row in table.rows]
    assert found == sorted(found)
    for row in table.rows:
        said = table.checks[row[0]]
        assert said.endswith(".")
        assert said.count(". ") == 0


def test_each_number_has_an_interval_over_inputs(table):
    value, low, high = (table.extra[name] for name in ("value", "low", "high"))
    assert value.shape == (3, len(table.columns) - 2 - len(COST))
    known = ~value.isnan()
    assert (low[known] <= value[known] + 1e-9).all()
    assert (value[known] <= high[known] + 1e-9).all()


def test_evidence_shows_its_cost(table):
    for row in table.rows:
        inputs, forwards, backwards, seconds = row[-len(COST) :]
        assert inputs == 6
        assert forwards > 0
        assert backwards > 0
        assert seconds > 0
    spent = table.provenance.cost
    assert sum(row[-3] for row in table.rows) <= spent.forwards
    assert sum(row[-2] for row in table.rows) == spent.backwards


def test_guided_backprop_is_found_out(table):
    assert table.checks["guided_backprop"].status == "fail"
    assert "hardly changes when what the model learned is wiped out" in table.checks["guided_backprop"]


def test_one_input_is_said_to_be_too_few():
    x = ct.data("shapes/test[0]")
    found = trust(ct.load("shapes-cnn"), x, methods=("grad_cam",), **QUICK)
    assert found.checks["few"].startswith("One input is too few")


def test_the_same_seed_gives_the_same_verdicts():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:3]")
    first, second = (trust(model, x, methods=("rise", "gradient"), rough=True, seed=4) for _ in range(2))
    assert without_cost(first) == without_cost(second)
    assert verdicts(first) == verdicts(second)


def test_maps_share_the_curves_of_controls_and_the_falls_of_sets():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[10:12]")
    alone = {
        name: trust(ct.load("shapes-cnn"), x, methods=(name,)).provenance.cost.forwards
        for name in ("gradient", "input_x_gradient", "grad_cam")
    }
    together = trust(model, x, methods=tuple(alone)).provenance.cost.forwards
    assert together < 0.5 * sum(alone.values())


def test_maps_of_a_logit_and_of_its_probability_share_the_falls_of_sets():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[12:14]")
    maps = [ct.run("gradient", model, x, target=target) for target in ("prob(1)", "logit(1)")]
    alone, beside = (ct.run("sensitivity_n", model, x, one, points=6, samples=40) for one in maps)
    assert beside.provenance.cost.forwards <= 2 < alone.provenance.cost.forwards
    again = ct.run("sensitivity_n", ct.load("shapes-cnn"), x, maps[1], points=6, samples=40)
    assert torch.allclose(beside.y["this map"], again.y["this map"], atol=1e-6)


def test_texts_and_rows_get_the_tests_that_fit_them():
    for name, expected, missing in (("text", "word_deletion", "stability"), ("mlp", "stability", "word_deletion")):
        model = tiny_model(name)
        found = trust(model, inputs_for(model, 2), 1, rough=True)
        heads = [named_test(test).head for test in (expected, missing)]
        assert heads[0] in found.columns
        assert heads[1] not in found.columns
        assert "regions" not in " ".join(found.checks.values())


def test_a_method_that_the_model_does_not_allow_is_listed_with_the_reason():
    rows = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)).numpy()
    tree = DecisionTreeClassifier(random_state=0).fit(rows, rows[:, 0] > 0.5)
    found = trust(ct.load(tree), torch.tensor(rows[:6]), methods=("gradient", "occlusion"))
    assert [row[0] for row in found.rows] == ["occlusion", "gradient"]
    assert found.rows[1][1] == "not examined"
    assert found.checks["gradient"].startswith("Not examined: ")
    assert "parameter_randomization" in found.checks["not_applicable"]


def test_a_function_of_the_users_own_is_examined_and_made_again():
    def mine(model, x, target):
        return x * model.gradient(x, target).slope

    found = trust(tiny_model("conv"), inputs_for(tiny_model("conv"), 2), 1, methods=(mine, "input_x_gradient"), **QUICK)
    value = dict(zip([row[0] for row in found.rows], found.extra["value"].tolist(), strict=True))
    assert value["mine"] == pytest.approx(value["input_x_gradient"])


def test_explain_and_trust_say_the_same():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0]")
    ((page, _),) = compose.inputs(model, x, compose.chosen("gradient,occlusion"))
    table = trust(model, x, methods=("gradient", "occlusion"))
    assert {m.attribution.provenance.method: str(m.sentence) for m in page.maps} == {
        name: str(table.checks[name]) for name in ("gradient", "occlusion")
    }
    assert without_cost(page.trust) == without_cost(table)


# -- the budget --------------------------------------------------------------------------------------------------------


class Clock:
    """Time passes only while the model runs: a second for each forward of one input."""

    def __init__(self, model):
        self.model = model

    def __call__(self):
        return float(self.model.spent["forwards"] + 2 * self.model.spent["backwards"])


def spent_with(seconds, monkeypatch, methods=("gradient", "grad_cam", "smoothgrad")):
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[20:23]")
    clock = Clock(model)
    monkeypatch.setattr(budget, "clock", clock)
    before = clock()
    found = trust(model, x, methods=methods, budget=seconds)
    return found, clock() - before


# About what all maps and tests of these methods take, in passes of one input.
WHOLE = {
    ("gradient", "grad_cam", "smoothgrad"): 3400,
    ("integrated_gradients", "smoothgrad", "expected_gradients", "rise"): 12_500,
    ("extremal_perturbation", "exact_shapley", "gradient", "score_cam"): 8600,
}


@pytest.mark.parametrize("methods", WHOLE)
def test_a_budget_is_held_and_what_it_left_out_is_named(methods, monkeypatch):
    done = []
    for share in (0.1, 0.3, 0.7):
        seconds = share * WHOLE[methods]
        found, took = spent_with(seconds, monkeypatch, methods)
        assert took <= 1.2 * seconds, f"{took} of {seconds}"
        assert found.checks["partial"].status == "warn"
        assert found.checks["partial"].startswith(f"The budget of {seconds:g} s was not enough. ")
        done.append(int((~found.extra["value"].isnan()).sum()))
    assert done == sorted(done)
    assert done[0] < done[-1]


def test_a_budget_that_is_enough_leaves_nothing_out(monkeypatch):
    found, _ = spent_with(1e9, monkeypatch)
    assert "partial" not in found.checks
    assert all("no time" not in row for row in found.rows)


def test_what_tells_most_is_done_first_for_every_map(monkeypatch):
    found, _ = spent_with(1200, monkeypatch)
    column = found.columns.index(named_test("parameter_randomization").head)
    assert all(row[column] not in ("–", "no time") for row in found.rows if row[1] != "not examined")
    late = found.checks["partial"]
    assert "sensitivity_n" in late
    assert "parameter_randomization" not in late
    tested = [row for row in found.rows if row[1] != "not examined"]
    assert tested
    for name, said, *_ in tested:
        assert "; there was no time for " in found.checks[name]
        assert found.checks[name].status != "ok"
        assert said == "• passed so far" or found.checks[name].status in ("warn", "fail")


def test_of_many_methods_some_are_left_out_and_not_the_later_tests_of_all(monkeypatch):
    names = ("gradient", "input_x_gradient", "smoothgrad", "guided_backprop", "grad_cam", "vargrad", "layer_cam")
    found, _ = spent_with(1100, monkeypatch, names)
    examined = [row for row in found.rows if row[1] != "not examined"]
    assert 1 < len(examined) < len(names)
    later = [found.columns.index(named_test(name).head) for name in ("insertion", "deletion", "stability")]
    more = [row for row in examined if any(row[column] not in ("–", "no time") for column in later)]
    assert len(more) > len(examined) / 2
    assert f"Not examined, {len(names) - len(examined)} of {len(names)} methods: " in found.checks["partial"]


def test_a_map_has_its_share_of_the_time_and_says_so(monkeypatch):
    names = ("integrated_gradients", "smoothgrad", "grad_cam")
    found, _ = spent_with(2500, monkeypatch, names)
    assert all(row[1] != "not examined" for row in found.rows)
    cut = [name for name in names if "for lack of time, the map is " in found.checks[name]]
    assert cut
    told = found.checks["partial"].partition("Maps ")[2]
    assert all(name in told for name in cut)
    assert "completeness" not in "".join(row[2] for row in found.rows)


def test_a_budget_for_nothing_at_all_names_the_maps_that_were_not_made(monkeypatch):
    ticks = iter([0.0] + [1e6 * k for k in range(1, 1000)])
    monkeypatch.setattr(budget, "clock", lambda: next(ticks))
    with pytest.raises(NotPossible, match="no time left"):
        trust(ct.load("shapes-cnn"), ct.data("shapes/test[0]"), methods=("gradient",), budget=1.0)


def test_a_map_whose_quick_form_does_not_fit_is_not_begun(monkeypatch):
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[20]")
    clock = Clock(model)
    monkeypatch.setattr(budget, "clock", clock)
    before = clock()
    found = trust(model, x, methods=("gradient", "rise"), tests=("parameter_randomization",), budget=150)
    assert clock() - before < 150  # the quick form of RISE has 100 masks, and the test makes three such maps
    assert [row[1] for row in found.rows if row[0] == "rise"] == ["not examined"]
    assert "rise" in found.checks["partial"]


def test_correlations_that_round_alike_are_one_number():
    assert span((0.161, "a", "b"), (0.158, "a", "c")) == "of 0.16"
    assert span((-0.001, "a", "b"), (0.004, "a", "c")) == "of 0.00"
    assert span((0.1, "a", "b"), (0.2, "a", "c")) == "between 0.10 (a and b) and 0.20 (a and c)"


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_makes_no_sense_is_refused_with_the_way_out():
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 2)
    with pytest.raises(NotPossible, match="word_deletion is no test for images; it fits text"):
        trust(model, x, 1, tests=("word_deletion",))
    with pytest.raises(NotPossible, match="stability is no test for text; it fits images and rows"):
        trust(tiny_model("text"), inputs_for(tiny_model("text"), 1), 1, tests=("stability",))
    with pytest.raises(BadOption, match="tests that examine a map"):
        trust(model, x, 1, tests=("gradient",))
    with pytest.raises(BadOption, match="explain a prediction; deletion gives Curve"):
        trust(model, x, 1, methods=("deletion",))
    with pytest.raises(BadOption, match="gradient came twice"):
        trust(model, x, 1, methods=("gradient", "grad_cam", "gradient"))
    with pytest.raises(UnknownName, match="gradient"):
        trust(model, x, 1, methods=("gradeint",))
    with pytest.raises(BadOption, match="budget above 0"):
        trust(model, x, 1, budget=0)
    with pytest.raises(BadOption, match="names of methods, maps or functions"):
        trust(model, x, 1, methods=(3,))
    with pytest.raises(NotPossible, match="none of these methods has a map here; guided_backprop: "):
        trust(tiny_model("mlp_tanh"), inputs_for(tiny_model("mlp_tanh"), 1), 1, methods=("guided_backprop",))


def test_a_map_of_the_wrong_shape_is_refused():
    wrong = Attribution(values=torch.rand(2, 3, 5, 7), target="logit(1)")
    with pytest.raises(BadShape):
        trust(box_model(), bright(3), 1, methods=(wrong,))
    odd = Attribution(values=torch.rand(3, 11), target="logit(1)")
    with pytest.raises((BadShape, NotPossible)):
        trust(box_model(), bright(3), 1, methods=(odd,), tests=("deletion",))


def test_a_map_with_ties_says_so_in_its_verdict():
    halves = torch.zeros(COUNT, 3, 16, 16, dtype=torch.float64)
    halves[..., :8, :] = 1.0
    found = trust(box_model(), bright(COUNT), 1, methods=(made(halves),), tests=("deletion", "insertion"))
    assert found.checks["given map"].status == "fail"


class Hermit(nn.Module):
    """Answers 1 for one picture alone, and 0 for everything else, however near."""

    def __init__(self, home):
        super().__init__()
        self.register_buffer("home", home)

    def forward(self, x):
        far = 1e9 * (x - self.home).square().flatten(1).sum(1)
        return torch.stack([torch.full_like(far, 0.5), 1 - far], dim=1)


def test_a_model_whose_prediction_flips_under_tiny_noise_is_named_as_the_reason():
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = ct.Model(Hermit(x), ct.images(8), name="hermit")
    found = trust(model, x, methods=("occlusion",), tests=("stability", "deletion"))
    assert "stability: no input kept its prediction" in found.checks["not_applicable"]
    assert "the model itself is not stable here" in found.checks["not_applicable"]


def test_an_interrupt_goes_through():
    def stop(model, x, target):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trust(box_model(), bright(1), 1, methods=("gradient", stop))


# -- the sentence ------------------------------------------------------------------------------------------------------


def curve(status, value=0.1, **summary):
    return Curve(x=torch.zeros(2), y={}, summary=summary, checks={"verdict": Check("said", status, value)})


def test_the_verdict_is_as_good_as_the_worst_test():
    good = Scores(names=["r"], values=torch.ones(1), checks={"verdict": Check("stable", "ok", 0.9)})
    bad = curve("warn", **{"map": 0.5, "random order": 0.4})
    assert (
        str(verdict({"stability": good}))
        == "Passed the one test: small noise leaves it as it is (rank correlation 0.90)."
    )
    both = verdict({"deletion": bad, "stability": good})
    assert both.status == "warn"
    assert (
        str(both) == "Read with care: removing its top regions does little more than chance (area 0.5, at random 0.4); "
        "it passed the other test."
    )
    worst = verdict({"parameter_randomization": curve("fail", 0.95), "stability": good})
    assert worst.status == "fail"
    assert worst.startswith("Do not rely on this map: it hardly changes")


def test_a_map_that_no_test_of_use_tells_from_chance_fails_as_a_whole():
    lost = {"deletion": curve("warn"), "insertion": curve("warn"), "parameter_randomization": curve("ok")}
    assert verdict(lost).status == "fail"
    assert verdict(lost | {"insertion": curve("note")}).status == "warn"


def test_chance_that_a_few_inputs_cannot_rule_out_is_no_reason_to_refuse_a_map():
    lost = {"deletion": curve("warn"), "insertion": curve("warn"), "parameter_randomization": curve("ok")}
    said = verdict(lost, few=True)
    assert said.status == "warn"
    assert said.startswith("Read with care: removing its top regions does little more than chance")


def test_a_test_in_which_the_answer_does_not_move_is_no_evidence():
    still = curve("warn").with_checks(range=Check("nothing moves", "warn", 1.0))
    good = Scores(names=["r"], values=torch.ones(1), checks={"verdict": Check("stable", "ok", 0.9)})
    said = verdict({"deletion": still, "insertion": still, "stability": good}, "words")
    assert said.status == "ok"
    assert "chance" not in said
    assert said.endswith("; deletion and insertion cannot tell, as the answer stays when all words are replaced.")
    assert verdict({"deletion": still}).startswith("Not tested")
    half = curve("warn").with_checks(range=Check("one fill of two", "warn", 0.5))
    assert verdict({"deletion": half, "stability": good}).status == "warn"


def test_a_map_that_not_all_tests_had_time_for_has_passed_only_so_far():
    good = {"stability": Scores(names=["r"], values=torch.ones(1), checks={"verdict": Check("stable", "ok", 0.9)})}
    said = verdict(good, late=2)
    assert said.status == "note"
    assert said.startswith("Passed so far: small noise leaves it as it is")
    assert said.endswith("; there was no time for 2 tests.")
    bad = verdict({"parameter_randomization": curve("fail", 0.95)}, late=1)
    assert bad.status == "fail"
    assert bad.endswith("; there was no time for a test.")


def test_nothing_tested_is_no_pass():
    assert verdict({}).status == "warn"
    assert verdict({}).startswith("Not tested")


def test_a_figure_is_the_better_the_larger_also_for_deletion():
    found = figure("deletion", Curve(x=torch.zeros(2), y={}, checks={"verdict": Check("x", "ok", -0.2, (-0.3, -0.1))}))
    assert found == (0.2, 0.1, 0.3)
    assert math.isnan(figure("insertion", curve("ok", 0.5)).low)


def test_every_test_says_something_for_every_status_and_every_kind_has_some():
    for test in TESTS:
        assert set(test.said) == {"ok", "note", "warn", "fail"}
    for kind in ("image", "tokens", "row"):
        assert len(chosen_tests((), kind)) >= 5


def test_a_check_keeps_its_interval_in_json():
    check = Check("text", "ok", 0.5, (0.4, 0.6))
    assert Check.from_json(check.as_json()).interval == (0.4, 0.6)
    assert "interval" not in Check("text").as_json()


def test_the_cost_of_a_case_counts_a_map_once():
    one = Attribution(values=torch.ones(1, 2), target="", provenance=Provenance(cost=Cost(3, 1, 0.5)))
    case = trust_cases.Case("x", one, map=one, rough=one)
    assert case.cost == Cost(3, 1, 0.5)


def test_examples_bring_their_regions():
    x = ct.data("shapes/test[0:2]")
    assert isinstance(x, Examples)
    found = trust(ct.load("shapes-cnn"), x, methods=("grad_cam",), tests=("energy_in_region",))
    assert named_test("energy_in_region").head in found.columns
