import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution import shapley_owen
from cutaway.attribution.shapley import exact_shapley, permutation_shapley
from cutaway.attribution.shapley_kernel import kernel_shapley
from cutaway.attribution.shapley_local import c_shapley, connected_weight, l_shapley
from cutaway.attribution.shapley_owen import owen_shapley
from cutaway.core.budget import limits
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.game import play
from cutaway.core.target import Target
from cutaway.maths.shapley import all_coalitions, shapley
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import box_model, bright, row_model

ALL = [exact_shapley, permutation_shapley, kernel_shapley, owen_shapley, l_shapley]
SAMPLED = [permutation_shapley, kernel_shapley, owen_shapley]


class Game(nn.Module):
    """A row model whose output for zeros and ones is a game's table."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, x):
        codes = (x > 0.5).long() @ (1 << torch.arange(x.shape[1]))
        return torch.stack([self.table[codes], x.sum(1)], dim=1)


def game_model(k, seed=0):
    weights = torch.randn(k, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    table = torch.relu(all_coalitions(k).double() @ weights - 0.3).sum(1)
    return ct.Model(Game(table).eval(), ct.rows(k, low=0, high=1), scores="values"), table


@pytest.mark.parametrize("method", ALL)
def test_a_linear_model_gives_weight_times_distance_from_the_fill(method):
    weights = [2.0, -1.0, 0.5, 0.0, 3.0]
    x = torch.tensor([[1.0, 2, 3, 4, 5], [0, 1, 0, -1, 2]]).double()
    result = method(row_model(weights), x, 1, features="columns", fill=ct.core.fill.Fill.of("constant:1"))
    assert_close(result.values, torch.tensor(weights).double() * (x - 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [exact_shapley, permutation_shapley, kernel_shapley])
def test_eight_players_by_the_table(method):
    model, table = game_model(8)
    result = method(model, torch.ones(1, 8).double(), 0, features="columns")
    assert_close(result.values[0], shapley(table), rtol=0, atol=1e-12)
    assert result.checks["interval"].value == 0


@pytest.mark.parametrize("method", SAMPLED)
def test_more_players_are_estimated_within_the_intervals_and_sum_exactly(method):
    model, table = game_model(10, seed=3)
    result = method(model, torch.ones(1, 10).double(), 0, features="columns", forwards=400)
    assert float(result.values.sum()) == pytest.approx(float(table[-1] - table[0]), rel=1e-12)
    if method is not owen_shapley:  # without families by name, each column is its own: the Shapley value
        inside = (result.extra["low"][0] <= shapley(table)) & (shapley(table) <= result.extra["high"][0])
        assert inside.double().mean() >= 0.7
    assert result.provenance.cost.forwards <= 400 + 10
    assert (result.extra["low"] < result.extra["high"]).all()


def test_nine_in_ten_intervals_of_orders_hold_the_truth():
    model, table = game_model(10, seed=1)
    truth, inside = shapley(table), []
    for seed in range(40):
        options = {"features": "columns", "forwards": 300, "within": 0.0, "seed": seed}
        result = permutation_shapley(model, torch.ones(1, 10).double(), 0, **options)
        inside.append(((result.extra["low"][0] <= truth) & (truth <= result.extra["high"][0])).double().mean())
    assert torch.stack(inside).mean() >= 0.9


@pytest.mark.parametrize("method", [permutation_shapley, kernel_shapley])
def test_sampling_stops_once_the_intervals_are_narrow(method):
    model, _ = game_model(12)
    x = torch.ones(1, 12).double()
    options = {"features": "columns", "forwards": 4000}
    rough, fine = (method(model, x, 0, within=w, **options).provenance.cost.forwards for w in (0.5, 0.0))
    assert rough < 800 < 1500 < fine


def test_a_player_is_shown_on_its_pixels_in_equal_parts():
    result = exact_shapley(box_model(), bright(), 1, features="cells:4", fill=ct.core.fill.Fill.of("zero"))
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[12:16, 0:4] = True
    assert_close(result.extra["whole"][0, 0][inside], torch.full((16,), float(result.values.sum())).double())
    assert result.values[0, 0][~inside].abs().max() < 1e-12
    assert result.players[0][int(result.extra["player"][0, 0, 14, 1])] == "3,0"
    assert float(result.values.sum()) == pytest.approx(float(result.score - 0), rel=1e-9)


def test_one_hot_columns_share_their_group_s_value():
    model = row_model([1.0, 2.0, 4.0])
    model.space = ct.rows(["race=A", "race=B", "age"], low=-10, high=10)
    result = exact_shapley(model, torch.tensor([[1.0, 0.0, 2.0]]).double(), 1)
    assert result.players == [["race", "age"]]
    assert result.values[0].tolist() == pytest.approx([0.5, 0.5, 8.0])
    assert result.extra["whole"][0].tolist() == pytest.approx([1.0, 1.0, 8.0])


@pytest.mark.parametrize("method", [*ALL, c_shapley])
def test_a_constant_model_and_an_input_that_is_the_fill_have_no_values(method):
    model = row_model([0.0, 0.0, 0.0])
    assert "idle" in method(model, torch.ones(1, 3).double(), 1).checks
    result = method(row_model([1.0, 2.0, 3.0]), torch.zeros(1, 3).double(), 1)
    assert not result.values.any()
    assert "fill already" in result.checks["idle"]


@pytest.mark.parametrize("method", ALL)
def test_one_player_gets_everything(method):
    x = torch.tensor([[1.0, 2.0]]).double()
    result = method(row_model([3.0, 4.0]), x, 1, features=torch.zeros(2, dtype=torch.long))
    assert float(result.values.sum()) == pytest.approx(11.0)


def test_a_target_that_the_players_cannot_reach_gives_nothing_and_says_so():
    model = tiny_model("conv")
    result = exact_shapley(model, inputs_for(model, 1), 'unit("conv1:0")', wrt="fc")
    assert not result.values.any()
    assert "nothing depend on them" in result.checks["idle"]


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        (exact_shapley, {"features": "cells:5"}, "at most 16 players"),
        (permutation_shapley, {"forwards": 100}, "194 forwards or more for 49 players"),
        (kernel_shapley, {"forwards": 80}, "100 forwards or more for 49 players"),
        (kernel_shapley, {"within": 1.0}, "below 1"),
        (kernel_shapley, {"forwards": 0}, "1 forward"),
        (owen_shapley, {"families": "a,b"}, "families=auto"),
        (l_shapley, {"radius": 3}, "at most 16 players"),
        (c_shapley, {"radius": 0}, "radius of 1"),
        (kernel_shapley, {"features": "cels:4"}, "nearest: cells"),
    ],
)
def test_what_cannot_be_done_is_refused(method, options, match):
    model = tiny_model("conv")
    with pytest.raises((BadOption, ct.core.errors.UnknownName), match=match):
        method(model, inputs_for(model, 1), 1, **options)


def test_units_have_no_neighbours():
    model = tiny_model("conv")
    with pytest.raises(NotPossible, match="no neighbours"):
        l_shapley(model, inputs_for(model, 1), 1, wrt="conv1")


@pytest.mark.parametrize("method", [*SAMPLED, exact_shapley, l_shapley])
def test_work_above_the_limit_is_refused_before_the_first_variant(method):
    model = tiny_model("conv")
    x = model.inputs(inputs_for(model, 1))
    model.is_steady(x)
    before = model.spent["forwards"]
    with limits(forwards=10), pytest.raises(NotPossible, match="--yes"):
        method(model, x, 1, features="cells:4")
    assert model.spent["forwards"] == before


@pytest.mark.parametrize("method", SAMPLED)
def test_the_time_limit_hands_back_what_there_is(method):
    model = tiny_model("conv")
    with limits(seconds=1e-6):
        result = method(model, inputs_for(model, 1), 1, features="cells:5", forwards=250)
    assert result.checks["partial"].status == "warn"
    assert result.provenance.cost.forwards < 400
    assert (result.extra["low"] <= result.extra["high"]).all()


# -- neighbours --------------------------------------------------------------------------------------------------------


def test_the_weights_of_connected_sets_are_the_published_ones():
    assert [connected_weight(n) for n in (1, 2, 3)] == pytest.approx([1 / 3, 1 / 12, 1 / 30])


def chain_reference(table, k, radius, connected):
    """The paper's sums, written out for a sentence of k words."""
    found = []
    for i in range(k):
        around = range(max(0, i - radius), min(k, i + radius + 1))
        total = 0.0
        for size in range(1, len(around) + 1):
            for chosen in itertools.combinations(around, size):
                if i not in chosen or (connected and chosen[-1] - chosen[0] != size - 1):
                    continue
                code = sum(1 << p for p in chosen)
                gain = float(table[code] - table[code & ~(1 << i)])
                n = len(around)
                weight = 2 / ((size + 2) * (size + 1) * size) if connected else 1 / (n * math.comb(n - 1, size - 1))
                total += weight * gain
        found.append(total)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("method", [l_shapley, c_shapley])
def test_neighbours_of_a_series_by_the_definition(method, radius):
    model, table = game_model(7, seed=2)
    result = method(model, torch.ones(1, 7).double(), 0, features="columns", radius=radius)
    assert_close(result.values[0], chain_reference(table, 7, radius, method is c_shapley), rtol=0, atol=1e-12)
    assert result.checks["order"].status == "warn"


def test_l_shapley_with_all_neighbours_is_the_shapley_value():
    model, table = game_model(6)
    result = l_shapley(model, torch.ones(1, 6).double(), 0, features="columns", radius=5)
    assert_close(result.values[0], shapley(table), rtol=0, atol=1e-12)


def test_l_shapley_is_exact_where_only_neighbours_interact():
    k = 7
    on = all_coalitions(k).double()
    table = on @ torch.arange(k).double() + 2 * (on[:, :-1] * on[:, 1:]).sum(1)
    model = ct.Model(Game(table).eval(), ct.rows(k, low=0, high=1), scores="values")
    result = l_shapley(model, torch.ones(1, k).double(), 0, features="columns", radius=1)
    assert_close(result.values[0], shapley(table), rtol=0, atol=1e-12)


def test_c_shapley_shrinks_an_additive_model_by_a_known_factor():
    """Runs through a word in the middle: n of each length n up to 3, weighing 2 / ((n + 1) (n + 2)) in sum."""
    result = c_shapley(row_model([1.0] * 9), torch.ones(1, 9).double(), 1, features="columns", radius=2)
    full = sum(2 / ((n + 1) * (n + 2)) for n in (1, 2, 3))
    runs = full + 2 * connected_weight(4) + connected_weight(5)
    assert result.values[0, 4] == pytest.approx(runs)
    assert result.checks["sum"].value == pytest.approx(float(result.values.sum()) - 9)


def test_present_surroundings_are_the_released_code_s_way():
    model, table = game_model(5)
    result = l_shapley(model, torch.ones(1, 5).double(), 0, features="columns", radius=1, outside="present")
    beyond, around = 0b11100, (0, 1)
    expected = 0.0
    for other in (0, 1 << 1):
        gain = table[beyond | other | 1] - table[beyond | other]
        expected += float(gain) / (len(around) * math.comb(1, other.bit_count()))
    assert result.values[0, 0] == pytest.approx(expected)


def test_cells_of_an_image_have_four_neighbours():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    game = play(model, x, Target.of(1, model), features="cells:3")
    from cutaway.attribution.shapley_local import neighbours, within

    touching = neighbours(game)
    assert (touching[4], touching[0]) == ({1, 3, 5, 7}, {1, 3})
    assert within(0, touching, 2) == {0, 1, 2, 3, 4, 6}


def touch(a, b):
    """Side by side in three rows of three."""
    return abs(a // 3 - b // 3) + abs(a % 3 - b % 3) == 1


def is_connected(chosen):
    found, left = {chosen[0]}, set(chosen[1:])
    while near := {b for b in left if any(touch(a, b) for a in found)}:
        found, left = found | near, left - near
    return not left


def plane_reference(table, radius, connected, present):
    """The paper's sums over three rows of three, written out."""
    found = []
    for i in range(9):
        around = [j for j in range(9) if abs(j // 3 - i // 3) + abs(j % 3 - i % 3) <= radius]
        beyond = sum(1 << j for j in range(9) if present and j not in around)
        total, n = 0.0, len(around)
        for size in range(1, n + 1):
            for chosen in itertools.combinations(around, size):
                if i not in chosen or (connected and not is_connected(chosen)):
                    continue
                code = beyond + sum(1 << p for p in chosen)
                weight = 2 / ((size + 2) * (size + 1) * size) if connected else 1 / (n * math.comb(n - 1, size - 1))
                total += weight * float(table[code] - table[code & ~(1 << i)])
        found.append(total)
    return torch.tensor(found, dtype=torch.float64).view(1, 1, 3, 3)


@pytest.mark.parametrize("outside", ["absent", "present"])
@pytest.mark.parametrize("radius", [None, 2])
@pytest.mark.parametrize("method", [l_shapley, c_shapley])
def test_neighbours_in_a_plane_by_the_definition(method, radius, outside):
    _, table = game_model(9, seed=4)
    net = nn.Sequential(nn.Flatten(), Game(table))
    model = ct.Model(net.eval(), ct.images(3, channels=1), scores="values")
    x = torch.ones(1, 1, 3, 3).double()
    result = method(model, x, 0, features="pixels", fill="zero", radius=radius, outside=outside)
    expected = plane_reference(table, radius or 1, method is c_shapley, outside == "present")
    assert_close(result.values, expected, rtol=0, atol=1e-12)
    assert ("weights" in result.checks) == (method is c_shapley and radius == 2)


@pytest.mark.parametrize(("method", "radius"), [(l_shapley, 1), (c_shapley, 2)])
def test_nine_in_ten_intervals_of_neighbours_that_time_cut_short_hold_the_truth(method, radius):
    model = tiny_model("gap_linear")
    x, options = inputs_for(model, 1), {"features": "cells:5", "radius": radius}
    truth, held = method(model, x, 1, **options).extra["whole"], []
    for seed in range(20):
        with limits(seconds=1e-6):
            short = method(model, x, 1, seed=seed, **options)
        assert short.checks["partial"].value == 128
        held.append(((short.extra["low"] <= truth) & (truth <= short.extra["high"])).double().mean())
    assert torch.stack(held).mean() > 0.85


def test_neighbours_without_a_time_limit_have_no_interval():
    model = tiny_model("gap_linear")
    result = l_shapley(model, inputs_for(model, 1), 1, features="cells:3")
    assert "partial" not in result.checks
    assert "low" not in result.extra


@pytest.mark.parametrize("method", [l_shapley, c_shapley])
def test_neighbourhoods_without_end_are_refused_before_they_are_listed(method):
    model = ct.Model(nn.Sequential(nn.Flatten(), nn.Linear(2500, 2)).double(), ct.images(50, channels=1))
    with pytest.raises(NotPossible, match="of 2500 players, for the first"), limits(forwards=10_000):
        method(model, torch.zeros(1, 1, 50, 50).double(), 1, features="pixels", radius=2)


# -- families ----------------------------------------------------------------------------------------------------------


def orders(tree):
    if isinstance(tree, int):
        return [[tree]]
    return [
        list(itertools.chain(*parts))
        for perm in itertools.permutations(tree)
        for parts in itertools.product(*[orders(p) for p in perm])
    ]


@pytest.mark.parametrize("tree", [((0, 1), (2, 3, 4)), ((0, (1, 2)), 3, (4,)), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("forwards", [2048, 24])
def test_families_by_all_orders_that_keep_them_together(tree, forwards, monkeypatch):
    monkeypatch.setattr(shapley_owen, "tree_of", lambda game, families: tree)
    model, table = game_model(5)
    found = torch.zeros(5, dtype=torch.float64)
    for order in orders(tree):
        code = 0
        for i in order:
            found[i] += float(table[code | 1 << i] - table[code]) / len(orders(tree))
            code |= 1 << i
    result = owen_shapley(model, torch.ones(1, 5).double(), 0, features="columns", forwards=forwards)
    if forwards == 2048:
        assert_close(result.values[0], found, rtol=0, atol=1e-12)
    assert float(result.values.sum()) == pytest.approx(float(table[-1] - table[0]))


def test_families_follow_the_names_of_columns_the_colours_of_images_and_the_order_of_words():
    model = row_model([1.0, 2.0, 4.0, 1.0])
    model.space = ct.rows(["a=1", "a=2", "b", "c"], low=-10, high=10)
    x = torch.ones(1, 4).double()
    assert shapley_owen.tree_of(play(model, x, Target.of(1, model), features="columns"), "auto") == ((0, 1), 2, 3)
    assert shapley_owen.tree_of(play(model, x, Target.of(1, model), features="columns"), "a,b+c") == ((0, 1), (2, 3))
    picture = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    picture[..., 8:] = 1
    image = tiny_model("conv")
    left, right = shapley_owen.tree_of(play(image, picture, Target.of(1, image), features="cells:4"), "auto")
    assert sorted(map(sorted, map(shapley_owen.members, (left, right)))) == [
        [0, 1, 4, 5, 8, 9, 12, 13],
        [2, 3, 6, 7, 10, 11, 14, 15],
    ]
    text = tiny_model("text")
    row = text.inputs("the film was very good")
    assert shapley_owen.tree_of(play(text, row, Target.of(1, text)), "auto") == ((0, 1), (2, (3, 4)))


# -- peers -------------------------------------------------------------------------------------------------------------


def table_function(table):
    return lambda rows: table.numpy()[((np.asarray(rows) > 0.5) @ (1 << np.arange(rows.shape[1]))).astype(int)]


@pytest.mark.peers
def test_exact_values_agree_with_shap_and_captum():
    shap = pytest.importorskip("shap", reason="shap is not installed")
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, table = game_model(6, seed=4)
    mine = exact_shapley(model, torch.ones(1, 6).double(), 0, features="columns").values[0]
    exact = shap.explainers.Exact(table_function(table), np.zeros((1, 6)))(np.ones((1, 6))).values[0]
    assert_close(torch.from_numpy(exact), mine, rtol=0, atol=1e-9)
    sampled = attr.ShapleyValues(lambda x: torch.from_numpy(table_function(table)(x.numpy())))
    found = sampled.attribute(torch.ones(1, 6).double())[0].double()
    assert_close(found, mine, rtol=0, atol=1e-4)  # it adds up in float32


@pytest.mark.peers
def test_kernel_shapley_has_at_most_a_quarter_of_the_peers_error_for_the_same_forwards():
    """A trained network, 12 patches, 480 forwards each; the exact values are from all 4,096 coalitions."""
    shap = pytest.importorskip("shap", reason="shap is not installed")
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0:1]").x
    patches = (torch.arange(48) * 3 // 48)[:, None] * 4 + torch.arange(48) * 4 // 48
    table = play(model, model.inputs(x), Target.of(0, model), features=patches)(all_coalitions(12))
    truth, ones = shapley(table), torch.ones(1, 12)
    error = dict.fromkeys(("mine", "shap", "captum"), 0.0)
    for seed in range(4):
        options = {"features": patches, "forwards": 480, "within": 0.0, "seed": seed}
        found = kernel_shapley(model, x, 0, **options)
        owners = found.extra["player"].flatten()
        mine = torch.stack([found.extra["whole"].flatten()[owners == i][0] for i in range(12)])
        np.random.seed(seed)  # noqa: NPY002 the peers draw from the global state
        torch.manual_seed(seed)
        other = shap.KernelExplainer(table_function(table), np.zeros((1, 12)))
        shaps = torch.from_numpy(other.shap_values(np.ones((1, 12)), nsamples=480, silent=True)[0])
        game = attr.KernelShap(lambda rows: torch.from_numpy(table_function(table)(rows.numpy())))
        captums = game.attribute(ones, n_samples=480, perturbations_per_eval=64)[0]
        for name, values in (("mine", mine), ("shap", shaps), ("captum", captums)):
            error[name] += float((values.double() - truth).square().sum())
    assert error["mine"] <= min(error["shap"], error["captum"]) / 4


@pytest.mark.peers
def test_owen_values_agree_with_shap_s_partition_explainer():
    shap = pytest.importorskip("shap", reason="shap is not installed")
    model, table = game_model(4, seed=6)
    model.space = ct.rows(["a=1", "a=2", "b=1", "b=2"], low=0, high=1)
    mine = owen_shapley(model, torch.ones(1, 4).double(), 0, features="columns").values[0]
    # Two families of two, joined last.
    clusters = np.array([[0.0, 1, 0.1, 2], [2, 3, 0.2, 2], [4, 5, 1.0, 4]])
    masker = shap.maskers.Partition(np.zeros((1, 4)), clustering=clusters)
    other = shap.explainers.Partition(table_function(table), masker)(np.ones((1, 4)), max_evals=1000).values[0]
    assert_close(torch.from_numpy(other), mine, rtol=0, atol=1e-9)
