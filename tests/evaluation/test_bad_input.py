"""Maps that fit nothing, sets of one, ties and networks that cannot decide: an answer that says so, or a refusal."""

import pytest
import torch
from torch import nn

from cutaway.core.catalogue import catalogue, find
from cutaway.core.errors import BadOption, BadShape, CutawayError, NotPossible
from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.testing.models import inputs_for, tiny_model, with_other_weights, with_recipe
from cutaway.testing.planted import made, trigger_model, triggers

BOX = {"region": "6,4,12,10"}
OPTIONS = {
    "pointing_game": BOX,
    "energy_in_region": BOX,
    "fragility_targeted": BOX,
    "label_randomization": {"other": with_other_weights},
    "remove_and_retrain": {"recipe": with_recipe},
}
# What takes a map that was made before; the others make their own.
TAKE_MAPS = (
    "deletion insertion pixel_flipping sensitivity_n infidelity pointing_game energy_in_region completeness "
    "parameter_randomization label_randomization stability max_sensitivity fragility_top_k fragility_mass_center "
    "fragility_targeted remove_and_retrain"
).split()
MADE_AGAIN = TAKE_MAPS[8:]


def run(name, model, x, *explain, **options):
    entry = find(name)
    return entry.function(model, x, *explain, **{**entry.quick, **OPTIONS.get(name, {}), **options})


def test_the_list_is_complete():
    taking = {name for name, entry in catalogue().items() if "attribution" in entry.positional}
    images_only = {name for name in taking if not {"tokens", "attention", "board"} & set(catalogue()[name].needs)}
    assert set(TAKE_MAPS) <= images_only


WRONG = {
    "too few rows": lambda x: torch.rand(1, *x.shape[1:], dtype=x.dtype),
    "too many rows": lambda x: torch.rand(5, *x.shape[1:], dtype=x.dtype),
    "no pixels": lambda x: torch.rand(len(x), dtype=x.dtype),
    "nan": lambda x: torch.full_like(x, torch.nan),
    "infinite": lambda x: torch.full_like(x, torch.inf),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("name", TAKE_MAPS)
def test_a_map_that_does_not_fit_is_refused(name, what):
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    wrong = made(WRONG[what](x)) if name not in MADE_AGAIN else lambda model, x, target: WRONG[what](x)
    with pytest.raises(CutawayError):
        run(name, model, x, wrong)


@pytest.mark.parametrize("what", ["too few texts", "too few words", "no words", "nan", "infinite"])
def test_a_map_that_does_not_fit_a_text_is_refused(what):
    model, texts = trigger_model(), ["a good film but slow", "slow but good film a"]
    right = triggers(model, texts)
    wrong = {"too few texts": right[:1], "too few words": right[:, :3], "no words": right.sum(1)}
    wrong |= {"nan": right * torch.nan, "infinite": right + torch.inf}
    with pytest.raises(CutawayError):
        run("word_deletion", model, texts, made(wrong[what]))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", TAKE_MAPS)
def test_a_constant_map_is_never_praised(name, count):
    model = tiny_model("conv")
    x = inputs_for(model, count)

    def constant(model, x, target):
        return torch.ones_like(x)

    verdict = run(name, model, x, constant).checks["verdict"]
    if name in ("fragility_top_k", "fragility_mass_center", "fragility_targeted", "max_sensitivity"):
        return  # it does not move, which is all that these ask
    assert verdict.status != "ok"


@pytest.mark.parametrize("name", TAKE_MAPS)
def test_a_set_of_one_is_answered_without_an_interval_over_inputs(name):
    model = tiny_model("conv")
    found = run(name, model, inputs_for(model, 1), "gradient", target=1)
    assert found.checks["verdict"]
    low = found.arrays().get("low")
    assert low is None or not low.numel() or name == "stability", "the copies of one input have an interval"


class Undecided(nn.Module):
    """The class changes with the last bits of the input; the scores hardly do."""

    def forward(self, x):
        total = x.flatten(1).sum(1)
        flip = torch.sin(1e9 * total.detach()) > 0
        return torch.stack([total + 1e-3 * flip, total + 1e-3 * ~flip], dim=1)


@pytest.mark.parametrize("name", ["stability", "fragility_top_k", "fragility_mass_center", "fragility_targeted"])
def test_a_network_that_cannot_decide_is_said_or_refused(name):
    model = Model(Undecided(), images(16), name="undecided")
    x = inputs_for(model, 1)

    def slopes(model, x, target):
        return x

    found = run(name, model, x, slopes, **({"samples": 20} if name == "stability" else {}))
    assert found.checks["kept"].value < 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("stability", "text"),
        ("max_sensitivity", "text"),
        ("infidelity", "text"),
        ("fragility_top_k", "text"),
        ("fragility_mass_center", "mlp"),
        ("fragility_targeted", "mlp"),
        ("pointing_game", "mlp"),
        ("energy_in_region", "text"),
        ("word_deletion", "conv"),
        ("remove_and_retrain", "text"),
        ("attention_correlation", "conv"),
        ("attention_permutation", "mlp"),
        ("attention_adversary", "conv"),
        ("attention_uniform", "conv"),
        ("attention_seeds", "mlp"),
        ("attention_guide", "conv"),
        ("attention_adversarial_training", "conv"),
    ],
)
def test_a_test_that_does_not_fit_the_kind_of_input_is_refused(name, kind):
    model = tiny_model(kind)
    given = () if name.startswith("attention") else ("gradient",)
    with pytest.raises(NotPossible):
        run(name, model, inputs_for(model, 1), *given, **({} if name.startswith("attention") else {"target": 1}))


def test_one_target_for_three_maps_is_no_target_for_two():
    model = tiny_model("conv")
    x = inputs_for(model, 3)
    with pytest.raises(BadShape):
        run("deletion", model, x, made(x, target="[logit(0), logit(1)]"))
    with pytest.raises(BadOption, match="expected a region"):
        find("pointing_game").function(model, x, made(x))
