"""Inputs, players and limits at their worst, for every method: an answer that says so, or a refusal with a reason."""

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.budget import TooMuch, limits
from cutaway.core.catalogue import catalogue
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.result import Matrix
from cutaway.testing.models import inputs_for, text_model, tiny_model
from cutaway.testing.planted import row_model

METHODS = [name for name, entry in catalogue().items() if entry.room == "attribution"]
OPTIONS = {name: {option.name for option in catalogue()[name].options} for name in METHODS}
PLAYERS = [name for name in METHODS if "features" in OPTIONS[name]]
PAIRS = [name for name in PLAYERS if catalogue()[name].result == "Matrix"]
ANYWHERE = [name for name in METHODS if "wrt" in OPTIONS[name]]
# One or two passes for each input, whatever the options.
CHEAP = (
    "cam deconvnet deeplift first_derivative grad_cam grad_cam_plus_plus gradient guided_backprop guided_grad_cam "
    "input_x_gradient layer_cam lrp variance_saliency"
).split()
# An image has none of it: a place on a board, or the values of one unit alone.
ON_BOARDS = ["move_contrast"]
TEXTS = [name for name in ANYWHERE if name not in ON_BOARDS]
# These change the place and look at the target; the others follow the computation.
BY_CHANGING = (
    "erasure exact_shapley kernel_shapley leave_one_out lime occlusion owen_shapley permutation_shapley "
    "shapley_interaction smallest_flip"
).split()
# These say which area is enough, or how far words lie apart: no target can make them zero.
OF_THE_INPUT = [
    "extremal_channels",
    "extremal_perturbation",
    "meaningful_perturbation",
    "score_cam",
    "variance_saliency",
]


def run(name, model, x, target=1, **options):
    """A method with its quick options, as far as nothing else is said."""
    return ct.run(name, model, x, target=target, **{**catalogue()[name].quick, **options})


def sizes(result):
    return torch.as_tensor(result.values).abs().nan_to_num(0.0)


def is_flat(result):
    return float(sizes(result).max()) < 1e-12


def warnings(result):
    return [name for name, check in result.checks.items() if check.status == "warn"]


# -- players -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAYERS)
def test_gaps_between_the_numbers_of_players_are_closed(name):
    model = tiny_model("mlp")
    x = inputs_for(model, 1)
    with_gaps, without = (run(name, model, x, features=torch.tensor(ids)) for ids in ([0, 2, 2, 7], [0, 1, 1, 2]))
    assert torch.equal(sizes(with_gaps), sizes(without))
    named = with_gaps.row_names if name in PAIRS else getattr(with_gaps, "names", None) or with_gaps.players[0]
    assert named[:3] == ["feature 0", "feature 2", "feature 7"]


@pytest.mark.parametrize("name", PLAYERS)
def test_one_player_has_the_whole_change_and_no_pair(name):
    model, x = row_model([2.0]), torch.full((1, 1), 3.0).double()
    if name in PAIRS:
        with pytest.raises(BadShape, match="at least two parts"):
            run(name, model, x)
        return
    result = run(name, model, x, **({"fill": "zero"} if "fill" in OPTIONS[name] else {}))
    if name not in ("erasure", "lime", "smallest_flip", "c_shapley"):
        assert float(result.values.flatten()[-1]) == pytest.approx(6.0)
    assert torch.isfinite(result.values).all()


@pytest.mark.parametrize("name", PLAYERS)
def test_a_million_players_are_refused_before_the_first_forward(name):
    net = nn.Sequential(nn.Flatten(), nn.Linear(10**6, 2))
    model = ct.Model(net.eval(), ct.images(1000, channels=1))
    x = torch.zeros(1, 1, 1000, 1000)
    model.is_steady(x)
    before = model.spent["forwards"]
    with pytest.raises((TooMuch, BadOption)) as refused:
        ct.run(name, model, x, target=1, features="pixels")
    assert "expected" in str(refused.value) or "--yes" in str(refused.value)
    assert model.spent["forwards"] == before


# -- text --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_padding_alone_is_refused(name):
    with pytest.raises(BadShape, match="padding"):
        run(name, tiny_model("text"), torch.zeros(1, 4).long())


@pytest.mark.parametrize("name", TEXTS)
def test_words_that_the_network_never_met_are_explained_and_named(name):
    result = run(name, tiny_model("text"), ["qzxv film zzyx was"])
    assert bool(sizes(result).isfinite().all())
    assert result.checks["unknown"].value == 2
    assert "4 words" in result.checks["unknown"]


@pytest.mark.parametrize("name", TEXTS)
def test_without_offsets_each_piece_is_a_word_and_the_result_says_so(name):
    """The tokenizer of this network tells neither offsets nor words."""
    result = run(name, text_model(), ["the film was very good"])
    assert "each piece is taken for a word" in result.checks["pieces"]


# -- nothing to explain ------------------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A network that looks at its input and answers the same."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Linear(4, 3)

    def forward(self, x):
        return 0 * self.fc(self.act(self.conv(x)).mean((2, 3))) + torch.tensor([1.0, 2.0, 0.0], dtype=x.dtype)


@pytest.mark.parametrize("name", [n for n in METHODS if n not in (*ON_BOARDS, *OF_THE_INPUT, "cam")])
def test_a_network_that_always_answers_the_same_has_a_flat_map(name):
    model = ct.Model(Constant().double().eval(), ct.images(16))
    result = run(name, model, inputs_for(tiny_model("conv"), 1))
    assert is_flat(result)
    if name in PLAYERS and name not in ("shapley_interaction", "integrated_hessians", "smallest_flip"):
        assert {"idle", "fidelity"} & set(warnings(result))


FILLED = [n for n in METHODS if {"fill", "baseline"} & OPTIONS[n] and n not in (*OF_THE_INPUT, "expected_gradients")]


@pytest.mark.parametrize("name", FILLED)
def test_an_input_that_is_the_baseline_has_a_flat_map(name):
    model = tiny_model("gap_linear")
    result = run(
        name, model, torch.zeros(1, 3, 16, 16).double(), **{("fill" if "fill" in OPTIONS[name] else "baseline"): "zero"}
    )
    assert is_flat(result)
    if name not in ("shapley_interaction", "integrated_hessians", "smallest_flip"):
        assert {"idle", "baseline", "fidelity", "agreement"} & set(warnings(result))


@pytest.mark.parametrize("name", [n for n in ANYWHERE if n != "variance_saliency"])
def test_a_target_before_the_place_is_refused_or_flat(name):
    model = tiny_model("gap_linear")
    what = (name, model, inputs_for(model, 1), 'unit("conv:1@2,2")')
    if name not in BY_CHANGING:
        with pytest.raises(NotPossible, match="depend|neighbours"):
            run(*what, wrt="fc")
        return
    result = run(*what, wrt="fc")
    assert is_flat(result)
    if name not in ("shapley_interaction", "smallest_flip"):
        assert {"idle", "fidelity"} & set(warnings(result))


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in METHODS if n not in CHEAP])
def test_what_costs_more_than_the_limit_is_refused_with_the_estimate(name):
    model = tiny_model("board" if name in ON_BOARDS else "gap_linear")
    x = model.inputs(inputs_for(model, 1))
    model.is_steady(x)
    before = model.spent["forwards"]
    with limits(forwards=1), pytest.raises(TooMuch, match="would take about .* the limit is 1"):
        ct.run(name, model, x, target=1)
    assert model.spent["forwards"] <= before + 2  # to find the place that is meant


@pytest.mark.parametrize("name", [n for n in METHODS if n in CHEAP])
def test_cheap_methods_need_no_limit(name):
    model = tiny_model("gap_linear")
    x = inputs_for(model, 1)
    with limits(forwards=1, seconds=1e-6):
        cost = ct.run(name, model, x, target=1).provenance.cost
    assert cost.forwards <= 4
    assert cost.backwards <= 2


MORE = {
    "move_contrast": {"search": "network"},
    "integrated_hessians": {"features": "cells:4"},
    "shapley_interaction": {"features": "cells:4"},
    "l_shapley": {"features": "cells:7"},
}


def many_channels():
    """A layer with more channels than are asked for between two looks at the clock."""
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3)]
    return ct.Model(nn.Sequential(*layers).double().eval(), ct.images(16))


TIMED = [n for n in METHODS if n not in (*CHEAP, "exact_shapley")]


@pytest.mark.parametrize("name", TIMED)
def test_the_time_limit_hands_back_the_best_estimate_and_says_so(name):
    if name in ON_BOARDS:
        model = ct.load("tic-tac-toe")
        x = ct.data("moves:b2", space=model.space)
    else:
        model = many_channels() if name == "score_cam" else tiny_model("gap_linear")
        x = inputs_for(model, 1)
    with limits(seconds=1e-6):
        short = ct.run(name, model, x, target=0, **MORE.get(name, {}))
    assert short.checks["partial"].status == "warn"
    assert "The time limit of" in short.checks["partial"]
    if not isinstance(short, Matrix) and hasattr(short, "values"):
        assert bool(torch.as_tensor(short.values).isfinite().all())
