"""LRP on whole networks: what is conserved, what each operation does, and what is refused."""

import itertools
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.gradient import input_x_gradient
from cutaway.attribution.relevance.lrp import lrp
from cutaway.attribution.relevance.tensors import Keeper
from cutaway.core.errors import BadOption, NotPossible, UnknownName
from cutaway.testing import nets, sequences
from cutaway.testing.models import inputs_for, tiny_model, tiny_models
from networks import bilstm, resnet18

RULES = ("epsilon:0.01", "epsilon:0.001,1", "epsilon_plus", "epsilon_alpha2_beta1", "gamma", "wsquare")


def small(module, columns=4, **more):
    return ct.Model(module.double().eval(), ct.rows(columns, low=-10, high=10), scores="values", **more)


class Written(nn.Module):
    """A network from a function of x."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        return self.function(self, x)


def linear(inputs=4, outputs=3, seed=0, bias=True):
    return nets.seeded(lambda: nn.Linear(inputs, outputs, bias=bias), seed=seed)


def rows_of(count=3, columns=4, seed=0):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- conservation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", sorted(tiny_models()))
def test_all_relevance_is_accounted_for_on_every_kind_of_network(name, rule):
    """Values, biases and losses are measured separately, and make up the target."""
    model = tiny_model(name)
    check = lrp(model, inputs_for(model), 1, rule=rule).checks["conservation"]
    assert check.value < 1e-9


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus", "zplus", "gamma", "flat", "epsilon:0,1"])
def test_without_biases_each_row_sums_to_its_target(rule):
    model = tiny_model("mlp_without_bias")
    x = inputs_for(model, 5)
    result = lrp(model, x, 1, rule=rule)
    assert_close(result.values.sum(1), result.score)


def test_on_a_relu_network_without_biases_lrp_is_input_times_gradient():
    model = tiny_model("mlp_without_bias")
    x = inputs_for(model, 5)
    assert_close(lrp(model, x, 1, rule="epsilon").values, input_x_gradient(model, x, 1).values)


def test_the_target_may_be_a_difference_or_differ_by_row():
    model, x = tiny_model("conv"), inputs_for(tiny_model("conv"), 3)
    for rule in ("epsilon_plus", "flat"):
        a, b = (lrp(model, x, k, rule=rule).values for k in (0, 1))
        assert_close(lrp(model, x, "2 * logit(0) - logit(1)", rule=rule).values, 2 * a - b)
        assert_close(lrp(model, x, [0, 1, 0], rule=rule).values, torch.stack([a[0], b[1], a[2]]))


def test_a_probability_is_said_to_be_no_sum_of_relevance():
    model = tiny_model("mlp")
    result = lrp(model, inputs_for(model), "prob(1)", rule="epsilon")
    assert result.checks["conservation"].value < 1e-12
    assert "not linear" in result.checks["start"]


def test_relevance_is_counted_once_when_inputs_run_in_chunks():
    x = inputs_for(tiny_model("conv"), 5)
    whole = lrp(tiny_model("conv"), x, 1)
    parts = lrp(tiny_model("conv", batch_size=2), x, 1)
    assert_close(whole.values, parts.values)
    assert parts.checks["conservation"].value < 1e-9


def test_memory_goes_with_the_graph_of_each_chunk():
    """Values that the backward pass needs are not kept for longer: many inputs take no more memory than a few."""
    keeper = Keeper()
    kept = keeper.keep(tensor := torch.ones(3))
    keeper.will_be_overwritten(tensor)
    assert kept.value is not tensor
    assert kept.value.data_ptr() != tensor.data_ptr()
    alive = weakref.ref(keeper.keep(tensor))
    assert alive() is None


def test_relevance_at_a_layer_sums_to_what_reaches_it():
    model = tiny_model("mlp_without_bias")
    x = inputs_for(model, 3)
    result = lrp(model, x, 1, rule="epsilon", wrt="act")
    assert_close(result.values.sum(1), result.score)
    unit = lrp(model, x, 1, rule="epsilon", wrt="act:2")
    assert_close(unit.values.flatten(), result.values[:, 2])


def test_the_networks_own_normalisation_hands_relevance_to_the_pixel():
    """The network sees (x - mean) / std; the pixel gets what that gets, with nothing for the mean."""
    net = nets.seeded(nets.GapLinear)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inside = ct.Model(net, ct.images(16, mean=0.4, std=0.5), scores="values")
    outside = ct.Model(net, ct.images(16, low=-0.8, high=1.2), scores="values")
    for rule in ("epsilon", "epsilon_gamma_box"):
        assert_close(lrp(inside, x, 1, rule=rule).values, lrp(outside, (x - 0.4) / 0.5, 1, rule=rule).values)


# -- operations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function", [F.silu, F.gelu, F.hardswish, torch.tanh, F.relu6, F.elu, F.leaky_relu, F.softplus]
)
@pytest.mark.parametrize("in_place", [False, True])
def test_an_activation_hands_relevance_to_the_entry_it_was_made_from(function, in_place):
    if in_place and function in (torch.tanh, F.gelu, F.softplus):
        pytest.skip("It has no form in place.")
    a, b = linear(4, 6, 1), linear(6, 3, 2)
    more = {"inplace": True} if in_place else {}
    model, x = small(Written(lambda n, t: b(function(a(t), **more)), a=a, b=b)), rows_of()
    result = lrp(model, x, 1, rule="epsilon")
    before = a(x).detach()
    multiplier = b.weight[1].detach() * function(before.clone()) / before
    assert_close(result.values, x * (multiplier @ a.weight.detach()))
    assert result.checks["conservation"].value < 1e-12


def test_a_sum_splits_in_proportion_and_a_constant_takes_its_share():
    a, b = linear(4, 3, 1, bias=False), linear(4, 3, 2, bias=False)
    shift = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    model, x = small(Written(lambda n, t: a(t) + b(t) + shift, a=a, b=b)), rows_of()
    result = lrp(model, x, 1, rule="epsilon")
    assert_close(result.values, x * (a.weight + b.weight)[1].detach())
    assert_close(result.values.sum(1) - 1.0, result.score)
    assert "biases and constants -3" in result.checks["conservation"]


def test_a_gate_takes_nothing_and_what_it_gates_takes_all():
    a, b = linear(4, 3, 1), linear(4, 3, 2, bias=False)
    for gate in (lambda t: torch.sigmoid(a(t)), lambda t: torch.softmax(a(t), -1), lambda t: 1 - torch.sigmoid(a(t))):
        for product in (lambda g, s: g * s, lambda g, s: s * g, lambda g, s: torch.einsum("ni,ni->ni", g, s)):
            net = Written(lambda n, t, g=gate, p=product: p(g(t), b(t)), a=a, b=b)
            values = lrp(small(net), x := rows_of(), 1, rule="epsilon").values
            assert_close(values, (gate(x)[:, 1:2] * x * b.weight[1]).detach())


def test_a_gate_of_a_constant_leaves_the_relevance_with_the_constant():
    """As an initial state behind a forget gate: nothing flows into the gate."""
    a, b = linear(4, 3, 1), linear(4, 3, 2, bias=False)
    state = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    model, x = small(Written(lambda n, t: torch.sigmoid(a(t)) * state + b(t), a=a, b=b)), rows_of()
    result = lrp(model, x, 1, rule="epsilon")
    assert_close(result.values, (x * b.weight[1]).detach())
    assert result.checks["conservation"].value < 1e-12


def test_two_signals_that_are_multiplied_get_half_each():
    a, b = linear(4, 3, 1, bias=False), linear(4, 3, 2, bias=False)
    model, x = small(Written(lambda n, t: a(t) * b(t), a=a, b=b)), rows_of()
    result = lrp(model, x, 1, rule="epsilon")
    expected = x * (a(x)[:, 1:2] * b.weight[1] + b(x)[:, 1:2] * a.weight[1]) / 2
    assert_close(result.values, expected.detach())
    assert "half" in result.checks["products"]


@pytest.mark.parametrize("norm", [nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(2, affine=True)])
def test_a_normalisation_is_linear_with_its_spread_held(norm):
    norm = norm.double()
    with torch.no_grad():
        for number, parameter in enumerate(norm.parameters()):
            parameter.copy_(rows_of(1, parameter.numel(), seed=number).flatten())
    shaped = (lambda t: t.view(-1, 2, 2)) if isinstance(norm, nn.InstanceNorm1d) else (lambda t: t)
    model = small(Written(lambda n, t: norm(shaped(t)).flatten(1), norm=norm))
    x = rows_of()
    result = lrp(model, x, 1, rule="epsilon")
    view = {nn.LayerNorm: (3, 1, 4), nn.GroupNorm: (3, 2, 2), nn.InstanceNorm1d: (3, 2, 2)}[type(norm)]
    inside = x.view(view)
    spread = (inside.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt().expand(view)[:, 0, 0]
    size = view[2]  # entry 1 lies in the first group
    expected = torch.zeros_like(x)
    expected[:, :size] = -x[:, :size] / size
    expected[:, 1] += x[:, 1]
    scale = norm.weight[0 if isinstance(norm, nn.InstanceNorm1d) else 1].detach()
    assert_close(result.values, expected * (scale / spread)[:, None])
    assert result.checks["conservation"].value < 1e-12


def test_a_normalisation_written_by_hand_is_the_same_as_the_layer():
    norm = nn.LayerNorm(4).double()

    def by_hand(n, t):
        centred = t - t.mean(-1, keepdim=True)
        return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + norm.eps)

    def by_root(n, t):
        centred = t - t.mean(-1, keepdim=True)
        return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + norm.eps)

    x, end = rows_of(), linear(4, 3)
    expected = lrp(small(nn.Sequential(norm, end)), x, 1, rule="epsilon").values
    for form in (by_hand, by_root):
        net = nn.Sequential(Written(form), end)
        assert_close(lrp(small(net), x, 1, rule="epsilon").values, expected)


def test_attention_weights_are_held_however_attention_is_written():
    q, k, v = (linear(4, 4, seed, bias=False) for seed in (1, 2, 3))

    def fused(n, t):
        t = t.view(-1, 2, 4)
        return F.scaled_dot_product_attention(q(t), k(t), v(t)).flatten(1)

    def by_hand(n, t):
        t = t.view(-1, 2, 4)
        weights = torch.softmax(q(t) @ k(t).transpose(1, 2) / 2, -1)
        return (F.dropout(weights, 0.1, training=False) @ v(t)).flatten(1)

    x = rows_of(3, 8)
    t = x.view(3, 2, 4)
    weights = torch.softmax(q(t) @ k(t).transpose(1, 2) / 2, -1).detach()
    expected = t * weights[:, 0, :, None] * v.weight[1].detach()
    for form in (fused, by_hand):
        model = small(Written(form, q=q, k=k, v=v), 8)
        assert_close(lrp(model, x, 1, rule="epsilon").values, expected.flatten(1))


def test_an_lstm_follows_the_recurrence_written_out():
    """Signal takes all: relevance of the cell goes to the old cell and to the new values, never to a gate."""
    net = nets.seeded(lambda: nn.LSTM(2, 3, batch_first=True))
    model = small(Written(lambda n, t: net(t.view(-1, 2, 2))[0][:, -1], net=net))
    x = rows_of(1)
    values = lrp(model, x, 1, rule="epsilon").values
    w, u, b = net.weight_ih_l0.detach(), net.weight_hh_l0.detach(), (net.bias_ih_l0 + net.bias_hh_l0).detach()
    h = c = torch.zeros(3, dtype=torch.float64)
    steps = []
    for t in x[0].view(2, 2):
        i, f, g, o = (w @ t + u @ h + b).view(4, 3)
        before = c
        gates = torch.sigmoid(i), torch.sigmoid(f)
        c = gates[1] * before + gates[0] * torch.tanh(g)
        h_before, h = h, torch.sigmoid(o) * torch.tanh(c)
        steps.append((t, h_before, before, gates, g, c))
    r_h = torch.zeros(3, dtype=torch.float64)
    r_h[1] = h[1]
    r_c, expected = torch.zeros_like(r_h), []
    for t, h_before, before, (i, f), g, c_now in reversed(steps):
        r_c = r_c + r_h
        r_g = i * torch.tanh(g) / c_now * r_c
        expected.insert(0, (w[6:9] * t * (r_g / g)[:, None]).sum(0))
        r_h = (u[6:9] * h_before * (r_g / g)[:, None]).sum(0)
        r_c = f * before / c_now * r_c
    assert_close(values[0], torch.cat(expected))


@pytest.mark.parametrize("bias", [True, False])
def test_a_bidirectional_lstm_conserves_its_target(bias):
    net = bilstm(bias=bias)
    model = ct.Model(net, ct.tokens(), embedding="embedding", scores="values")
    ids = torch.tensor([[3, 8, 1, 40], [5, 5, 9, 2]])
    result = lrp(model, ids, 1, rule="epsilon")
    assert result.values.shape == (2, 4, 6)
    assert result.checks["conservation"].value < 1e-12
    assert "products" not in result.checks
    if not bias:
        assert_close(result.values.sum((1, 2)), result.score)


def test_sharing_biases_equally_leaves_only_the_initial_state_with_relevance():
    model = ct.Model(bilstm(), ct.tokens(), embedding="embedding", scores="values")
    result = lrp(model, torch.tensor([[3, 8, 1, 40]]), 1, rule="epsilon:0.001,1")
    assert result.checks["conservation"].value < 1e-8
    without = lrp(model, torch.tensor([[3, 8, 1, 40]]), 1, rule="epsilon:0.001")
    assert abs(result.values.sum() - result.score) < abs(without.values.sum() - result.score)


# -- whole networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus", "gamma", "epsilon_gamma_box"])
def test_a_residual_network_with_reused_relus_in_place_is_conserved(rule):
    model = ct.Model(resnet18(width=8, classes=10, dtype=torch.float64), ct.images(64), scores="values")
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = lrp(model, x, 3, rule=rule)
    assert result.checks["conservation"].value < 1e-9
    assert "conv2d" in result.checks["rules"]
    if rule == "epsilon_plus":  # only the last layer has a bias that takes something
        assert_close(result.values.sum((1, 2, 3)), result.score - model.module.fc.bias[3].detach())


@pytest.mark.parametrize("rule", ["epsilon", "epsilon_plus"])
def test_what_leaves_each_layer_is_what_reaches_the_next(rule):
    """In a chain, each module gets what the one after it was given, less what biases took there or was lost."""
    model = tiny_model("conv")
    places = lrp(model, inputs_for(model, 2), 1, rule=rule).extra
    rows = [places[f"place/{name}"][0].tolist() for name in ("fc", "conv2", "conv1")]
    for (came, biases, lost), (next_came, _, _) in itertools.pairwise(rows):
        assert next_came == pytest.approx(came - biases - lost, abs=1e-9)
    assert rows[0][0] == pytest.approx(float(lrp(model, inputs_for(model, 2), 1, rule=rule).score.sum()))


def test_efficientnet_is_conserved_and_says_what_biases_took():
    model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x
    result = lrp(model, x, "tiger cat", rule="epsilon")
    assert result.checks["conservation"].value < 1e-4
    assert result.checks["conservation"].status == "warn"
    assert "outweighs" in result.checks["conservation"]
    assert "conv2d by epsilon 49 times" in result.checks["rules"]


def test_a_real_encoder_of_text_is_conserved():
    pytest.importorskip("transformers")
    try:
        model = ct.load("minilm")
    except NotPossible as missing:
        pytest.skip(str(missing))
    result = lrp(model, ["a great film but not fun"], 1)
    assert result.checks["conservation"].value < 1e-4
    assert "softmax" in result.checks["held"] or "matmul" in result.checks["held"]
    assert "products" not in result.checks


def test_a_text_classifier_of_encoder_layers_and_its_unpadded_twin_agree():
    model = tiny_model("text")
    alone = lrp(model, ["awful"], 1).values
    padded = lrp(model, ["awful", "the film was very good"], 1).values
    assert_close(padded[:1, : alone.shape[1]], alone)
    assert not padded[0, alone.shape[1] :].any()


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_an_operation_without_a_rule_is_refused_by_name_and_place():
    model = small(nn.Sequential(linear(4, 4), Written(lambda n, t: torch.fft.fft(t).real), linear(4, 3)))
    with pytest.raises(NotPossible, match=r"fft_fft in 1.*fft_fft = gradient"):
        lrp(model, rows_of(), 1)


def test_an_operation_without_a_rule_may_be_given_one():
    net = nn.Sequential(linear(4, 4), Written(lambda n, t: torch.special.i0(t)), linear(4, 3))
    model, x = small(net), rows_of()
    name = next(o.name for o in model.census(x) if "i0" in o.name)
    passed = lrp(model, x, 1, rule=f"epsilon; {name} = pass").values
    h = net[0](x).detach()
    c = net[2].weight[1].detach() * torch.special.i0(h) / h
    assert_close(passed, x * (c @ net[0].weight.detach()))
    slope = lrp(model, x, 1, rule=f"epsilon; {name} = gradient").values
    assert_close(slope, x * ((net[2].weight[1] * torch.special.i1(h)).detach() @ net[0].weight.detach()))
    with pytest.raises(NotPossible):
        lrp(model, x, 1, rule=f"epsilon; {name} = hold")


def test_an_operation_off_the_way_needs_no_rule():
    last = linear(4, 3)

    def forward(n, t):
        n.aside = torch.fft.fft(t).real.sum()
        return last(t)

    assert lrp(small(Written(forward, last=last)), rows_of(), 1).values.shape == (3, 4)


def test_batch_statistics_are_refused():
    net = nn.Sequential(
        linear(4, 4), nn.Unflatten(1, (2, 2)), nn.BatchNorm1d(2, track_running_stats=False), nn.Flatten()
    )
    with pytest.raises(NotPossible, match="batch_norm in 2"):
        lrp(small(nn.Sequential(*net, linear(4, 3))), rows_of(), 1)


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("epsilom", UnknownName, "epsilon"),
        ("gamma:x", BadOption, "gamma"),
        ("gamma:-1", BadOption, "0 or more"),
        ("alpha_beta:2,2", BadOption, "alpha - beta"),
        ("alpha_beta", BadOption, "ALPHA,BETA"),
        ("epsilon:1,2", BadOption, "at most 1"),
        ("epsilon; first", BadOption, "PLACE = RULE"),
        ("epsilon; frist = flat", UnknownName, "first"),
        ("epsilon; conv2d = flat", UnknownName, "conv2d"),
        ("zbox", NotPossible, "bounds"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(text, error, match):
    model = ct.Model(nets.seeded(nets.Mlp), ct.rows(4), scores="values")
    with pytest.raises(error, match=match):
        lrp(model, rows_of(), 1, rule=text)


def test_exceptions_by_place_hold_for_what_lies_inside():
    net = nn.Sequential(nn.Sequential(linear(4, 6, 1), nn.ReLU(), linear(6, 6, 2)), nn.ReLU(), linear(6, 3, 3))
    model, x = small(net), rows_of()
    inside = lrp(model, x, 1, rule="epsilon; 0 = zplus").values
    assert_close(inside, lrp(model, x, 1, rule="zplus; 2 = epsilon").values)
    nearest = lrp(model, x, 1, rule="epsilon; 0 = zplus; 0.0 = epsilon").values
    assert_close(nearest, lrp(model, x, 1, rule="epsilon; 0.2 = zplus").values)
    assert_close(lrp(model, x, 1, rule="flat; linear = zplus").values, lrp(model, x, 1, rule="zplus").values)


def test_nothing_to_hand_down_is_refused():
    model = tiny_model("mlp")
    with pytest.raises(NotPossible, match="mixes entries"):
        lrp(model, inputs_for(model), 'unit("act:1")', wrt="first")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_conserve(kind):
    net = nets.seeded(lambda: sequences.Recurrent(kind))
    model = ct.Model(net, ct.images(16), scores="values")
    assert lrp(model, inputs_for(model), 1).checks["conservation"].value < 1e-9
