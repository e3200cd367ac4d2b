import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.batch import take
from cutaway.core.budget import afford, limits, time_is_up
from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.features import Features, columns
from cutaway.core.fill import Fill
from cutaway.core.game import play
from cutaway.core.players import features_of
from cutaway.core.site import Site
from cutaway.core.target import Target
from cutaway.maths.shapley import all_coalitions
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import row_model


def game_of(name="conv", features="auto:4", fill="neutral", wrt="input", row=0, **more):
    model = tiny_model(name)
    x = take(model.inputs(inputs_for(model, 3)), slice(row, row + 1))
    return (
        play(model, x, Target.of(1, model), features=features, fill=Fill.of(fill), wrt=Site.of(wrt), **more),
        model,
        x,
    )


@pytest.mark.parametrize("fill", ["neutral", "mean", "blur:2", "farthest", "constant:0.3"])
def test_a_coalition_has_the_target_of_the_picture_pasted_together_by_hand(fill):
    game, model, x = game_of(fill=fill)
    gone = Fill.of(fill)(x, model.space)
    coalitions = all_coalitions(4)
    by_hand = torch.stack([torch.where(game.features.mask(c[None])[:, None], x, gone)[0] for c in coalitions])
    assert_close(game(coalitions), model.run(by_hand).output[:, 1], rtol=1e-9, atol=1e-12)
    assert game.full == pytest.approx(float(model.run(x).output[0, 1]), rel=1e-12)


def test_units_of_a_layer_are_switched_behind_it_only():
    game, model, x = game_of(features="units", wrt="conv1")
    act = model.run(x, read=["conv1"])["conv1"]
    for coalition in ([True] * 4, [False, True, True, False]):
        on = torch.tensor(coalition)
        edited = model.run(x, edit={"conv1": act * on[None, :, None, None]}).output[0, 1]
        assert_close(game(on[None])[0], edited, rtol=1e-9, atol=1e-12)
    assert game.spread(torch.ones(4).double()).shape == act.shape


def test_positions_of_one_unit_are_players_too():
    game, model, x = game_of(features="cells:2", wrt="conv1:1")
    act = model.run(x, read=["conv1"])["conv1"].clone()
    act[:, 1, :8, :8] = 0
    expected = model.run(x, edit={"conv1": act}).output[0, 1]
    assert_close(game(torch.tensor([[False, True, True, True]]))[0], expected, rtol=1e-9, atol=1e-12)
    assert game.lay_out(torch.arange(4).double()).shape == (1, 16, 16)


def test_a_random_fill_is_averaged_over_the_same_draws_for_each_coalition():
    game, model, x = game_of(fill="noise", draws=3, seed=7)
    draws = Fill.of("noise")(x.expand(3, -1, -1, -1), model.space, torch.Generator().manual_seed(7))
    assert_close(torch.tensor(game.empty).double(), model.run(draws).output[:, 1].mean())
    assert game.forwards(10) == 30
    assert game.full == pytest.approx(float(model.run(x).output[0, 1]))


@pytest.mark.parametrize("name", ["text"])
def test_absent_words_are_masked_hidden_or_deleted(name):
    some = torch.tensor([[True, False, True, True, False]])
    for fill in ("mask", "pad", "remove"):
        game, model, x = game_of(name, fill=fill, features="words")
        ids, mask = x["input_ids"], x["attention_mask"]
        off = torch.tensor([[False, False, True, False, False, True, *[False] * (ids.shape[1] - 6)]])
        if fill == "mask":
            batch = {"input_ids": torch.where(off, model.tokenizer.mask_token_id, ids), "attention_mask": mask}
        elif fill == "pad":
            batch = {"input_ids": torch.where(off, 0, ids), "attention_mask": mask * ~off}
        else:
            keep = (~off & mask.bool())[0]
            batch = {"input_ids": ids[:, keep], "attention_mask": mask[:, keep]}
        assert_close(game(some)[0], model.run(batch).output[0, 1], rtol=1e-9, atol=1e-12)


def test_special_pieces_and_padding_play_no_part():
    game, _, x = game_of("text", row=1)  # "dull plot", padded to the longest of three
    assert game.features.names == ("dull", "plot")
    assert game.features.ids.tolist() == [-1, 0, 1, *[-1] * (x["input_ids"].shape[1] - 3)]
    assert game.features.mask(torch.tensor([[False, False]]))[0].tolist()[0]
    assert game.spread(torch.tensor([2.0, 3.0]))[0].tolist()[:4] == [0, 2, 3, 0]


@pytest.mark.parametrize("fill", ["remove", "pad"])
def test_a_text_without_anything_is_one_unknown_word(fill):
    model = tiny_model("text")
    bare = model.inputs(torch.tensor([[5, 6, 7]]))  # no special pieces
    game = play(model, bare, Target.of(1, model), features="tokens", fill=Fill.of(fill))
    unknown = [[1]] if fill == "remove" else [[1, 0, 0]]
    assert game.empty == pytest.approx(float(model.run(torch.tensor(unknown)).output[0, 1]))


def test_spreading_keeps_sums_and_laying_out_repeats():
    game, _, _ = game_of(features=Features(torch.tensor([[0] * 16] * 15 + [[1] * 16]), ("large", "small")))
    values = torch.tensor([3.0, -1.0]).double()
    assert game.spread(values).sum() == pytest.approx(2.0)
    assert game.lay_out(values)[0, 0, 15].tolist() == [-1.0] * 16


def test_few_players_are_never_run_twice():
    game, model, _ = game_of()
    game(all_coalitions(4))
    before = model.spent["forwards"]
    assert len(game(all_coalitions(4).flip(0))) == 16
    assert (game.full, game.empty) == (
        float(game(torch.ones(1, 4).bool())[0]),
        float(game(torch.zeros(1, 4).bool())[0]),
    )
    assert model.spent["forwards"] == before


def test_of_many_players_the_values_of_all_and_of_nobody_are_run_once():
    game = game_of(features="cells:5")[0]
    wanted = game.full, game.empty
    again = game_of(features="cells:5")[0]
    coalitions = torch.rand(8, len(again), generator=torch.Generator().manual_seed(0)) < 0.5
    again(torch.cat([coalitions, torch.ones(1, 25).bool(), torch.zeros(1, 25).bool()]))
    before = again.place.model.spent["forwards"]
    assert_close((again.full, again.empty), wanted, rtol=1e-12, atol=1e-12)
    assert again.place.model.spent["forwards"] == before


def test_one_hot_columns_toggle_together():
    names = ("age", "race=A", "race=B", "sex_f", "sex_m", "income")
    assert columns(names, "").ids.tolist() == [0, 1, 1, 2, 3, 4]
    found = columns(names, "sex,age+income")
    assert found.names == ("age+income", "race=A", "race=B", "sex")
    assert found.ids.tolist() == [0, 1, 2, 3, 3, 0]
    model = row_model([1.0, 2.0, 3.0])
    model.space = ct.rows(["a=1", "a=2", "b"], low=-10, high=10)
    x = torch.ones(1, 3).double()
    assert features_of("auto", model, x).names == ("a", "b")
    assert features_of("columns", model, x).names == ("a=1", "a=2", "b")


@pytest.mark.parametrize(
    ("features", "error", "match"),
    [
        ("cell:4", UnknownName, "nearest: cells"),
        ("cells:0", BadOption, "such as auto:9"),
        ("cells:x", BadOption, "such as auto:9"),
        ("cells:40", BadOption, "1 to 16 cells"),
        ("words", NotPossible, "parts of a text"),
        ("columns", NotPossible, "row of a table"),
        (3, BadOption, "as a text"),
        (torch.zeros(4, 4).long(), BadShape, r"features of shape \(16, 16\)"),
        (torch.full((16, 16), -1), BadShape, "at least one player"),
    ],
)
def test_players_that_an_image_does_not_have_are_refused(features, error, match):
    with pytest.raises(error, match=match):
        game_of(features=features)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fill": "mask"}, "changes the tokens of a text"),
        ({"wrt": "conv1", "fill": "noise"}, "fits an activation"),
        ({"draws": 0, "fill": "noise"}, "1 draw"),
    ],
)
def test_fills_that_do_not_fit_are_refused(options, match):
    with pytest.raises(BadOption, match=match):
        game_of(**options)


def test_a_single_number_has_no_players():
    with pytest.raises(NotPossible, match="single number"):
        game_of(wrt="conv1:1@3,4")


def test_a_text_of_padding_alone_is_refused():
    model = tiny_model("text")
    with pytest.raises(BadShape, match="at least one word"):
        features_of("words", model, torch.zeros(1, 4, dtype=torch.long))


def test_a_group_without_columns_and_a_column_in_two_groups_are_refused():
    with pytest.raises(BadOption, match="there are none"):
        columns(("a", "b"), "c")
    with pytest.raises(BadOption, match="in two"):
        columns(("a", "b"), "a,a+b")


def test_a_million_players_are_named_and_shown_without_trouble():
    model = ct.Model(nn.Sequential(nn.Flatten(), nn.Linear(10**6, 2)), ct.images(1000, channels=1))
    game = play(model, torch.rand(1, 1, 1000, 1000), Target.of(0, model), features="pixels")
    assert len(game) == 10**6
    assert game.spread(torch.ones(10**6).double()).sum() == 10**6
    assert math.isfinite(game.full - game.empty)


def test_what_is_too_dear_is_refused_before_the_first_forward():
    with limits(forwards=100):
        afford(100, "this")
        with pytest.raises(NotPossible, match="this would take about 101 forwards; the limit is 100.*--yes"):
            afford(101, "this")
    with limits(forwards=math.inf):
        afford(1e30, "anything")
    with pytest.raises(NotPossible, match="1e"):
        afford(1e30, "anything")
    with pytest.raises(BadOption, match="above 0"), limits(seconds=0):
        pass


def test_the_time_limit_ends_with_its_block():
    assert not time_is_up()
    with limits(seconds=1e-9):
        assert time_is_up()
    assert not time_is_up()
