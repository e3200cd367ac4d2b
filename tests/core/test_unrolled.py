"""Calls that hide many operations: the same answer from elementary operations, which rules then see."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from cutaway.core.model import Model
from cutaway.core.operations import Places, UnderRules
from cutaway.core.space import Space, rows
from cutaway.core.unrolled import UNROLLED
from cutaway.testing import nets

RECURRENT = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": lambda *args, **options: nn.RNN(*args, nonlinearity="relu", **options),
}


def seen_in(module, run):
    """Run something under a rule for everything: its result, and what the rules met."""
    met = []

    class All(dict):
        def get(self, name, default=None):
            return lambda call: met.append((call.name, call.site)) or NotImplemented

    with UnderRules(All(), Places(module)):
        result = run()
    return result, met


def assert_same(module, run):
    expected = run()
    found, met = seen_in(module, run)
    for a, b in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        assert_close(a, b, atol=1e-12, rtol=0)
    assert "linear" in {name for name, _ in met}
    return met


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("both", [False, True], ids=["one_way", "both_ways"])
def test_a_recurrent_network_gives_what_the_fused_one_gives(kind, first, both):
    for layers, bias, given in itertools.product([1, 2], [True, False], [True, False]):
        options = {"num_layers": layers, "bias": bias, "bidirectional": both, "batch_first": first}
        net = nets.seeded(lambda options=options: RECURRENT[kind](3, 4, **options))
        torch.manual_seed(1)
        x = torch.randn(2, 5, 3).double() if first else torch.randn(5, 2, 3).double()
        state = torch.randn(layers * (1 + both), 2, 4).double()
        hx = ((state, state.flip(0)) if kind == "lstm" else state) if given else None
        x.requires_grad_()
        met = assert_same(net, lambda net=net, x=x, hx=hx: net(x, hx))
        assert {site for _, site in met} == {""}


def test_an_lstm_with_projection_gives_what_the_fused_one_gives():
    net = nets.seeded(lambda: nn.LSTM(3, 5, 2, proj_size=2, bidirectional=True))
    x = torch.randn(4, 2, 3).double().requires_grad_()
    assert_same(net, lambda: net(x))


@pytest.mark.parametrize("kind", RECURRENT)
@pytest.mark.parametrize("sort", [False, True], ids=["sorted", "unsorted"])
def test_packed_sequences_end_and_begin_where_they_should(kind, sort):
    net = nets.seeded(lambda: RECURRENT[kind](3, 4, 2, bidirectional=True, batch_first=True))
    x = torch.randn(4, 6, 3).double().requires_grad_()
    lengths = torch.tensor([2, 6, 1, 4] if sort else [6, 4, 4, 1])

    def run():
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=not sort)
        out, state = net(packed)
        return nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0], state

    assert_same(net, run)


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_gives_what_the_fused_one_gives(kind, bias):
    net = nets.seeded(lambda: getattr(nn, kind)(3, 4, bias=bias))
    x = torch.randn(2, 3).double().requires_grad_()
    assert_same(net, lambda: net(x))


def test_gradients_through_the_elementary_operations_are_the_same():
    net = nets.seeded(lambda: nn.LSTM(3, 4, 2, bidirectional=True))
    x = torch.randn(5, 2, 3).double().requires_grad_()
    (expected,) = torch.autograd.grad(net(x)[0].square().sum(), x)
    found, _ = seen_in(net, lambda: net(x)[0].square().sum())
    assert_close(torch.autograd.grad(found, x)[0], expected, atol=1e-12, rtol=0)


def heads(**options):
    return nets.seeded(lambda: nn.MultiheadAttention(8, 2, **options))


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"kdim": 5, "vdim": 6}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"dropout": 0.3}],
    ids=str,
)
@pytest.mark.parametrize("weights", [False, True, "each"])
def test_attention_gives_what_the_fused_one_gives(options, weights):
    net = heads(**options)
    torch.manual_seed(1)
    query = torch.randn(4, 3, 8).double().requires_grad_()
    key, value = (torch.randn(5, 3, options.get(name, 8)).double() for name in ("kdim", "vdim"))
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    barred = torch.randn(6, 4, 5) > 0
    barred[..., 0] = False  # a query that may look at nothing has no weights
    for mask, pad in itertools.product([None, torch.randn(4, 5).double(), barred], [None, padding]):
        if mask is not None and mask.is_floating_point() and pad is not None:
            pad = torch.zeros(3, 5).double().masked_fill(pad, -torch.inf)
        say = {"need_weights": bool(weights), "average_attn_weights": weights != "each"}
        assert_same(
            net, lambda mask=mask, pad=pad, say=say: net(query, key, value, attn_mask=mask, key_padding_mask=pad, **say)
        )


def test_attention_to_the_past_without_a_batch():
    net = heads()
    x = torch.randn(5, 8).double().requires_grad_()
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    for weights in (False, True):
        assert_same(net, lambda weights=weights: net(x, x, x, attn_mask=mask, is_causal=True, need_weights=weights))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.randn(4, 4).double()},
        {"attn_mask": torch.ones(4, 4, dtype=torch.bool).tril(-1)},
    ],
    ids=["plain", "causal", "scale", "added", "bool_with_an_empty_row"],
)
def test_scaled_dot_products_give_what_the_fused_ones_give(options):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 3, 4, 6).double().requires_grad_()
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    assert_close(UNROLLED["scaled_dot_product_attention"](q, k, v, **options), expected, atol=1e-12, rtol=0)


def test_groups_of_queries_share_a_key():
    q, k, v = torch.randn(2, 4, 3, 6), torch.randn(2, 2, 5, 6), torch.randn(2, 2, 5, 6)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert_close(UNROLLED["scaled_dot_product_attention"](q, k, v, enable_gqa=True), expected)


def test_a_gated_linear_unit_is_a_gate_times_a_signal():
    x = torch.randn(3, 8).double()
    assert_close(UNROLLED["glu"](x, 1), F.glu(x, 1), atol=1e-15, rtol=0)


class Encoder(nn.Module):
    """A transformer encoder, whose evaluation torch would fuse into one call."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x).mean(1))


def test_rules_see_inside_an_encoder_at_the_place_of_each_layer():
    net = nets.seeded(Encoder).eval()
    model = Model(net, Space("latent", (5, 8), -3.0, 3.0))
    seen = []
    plain = model.gradient(torch.zeros(2, 5, 8) + 0.1, 0)
    rules = {name: lambda call: seen.append((call.name, call.site)) or NotImplemented for name in ("softmax", "relu")}
    ruled = model.gradient(torch.zeros(2, 5, 8) + 0.1, 0, rules=rules)
    assert_close(ruled.slope, plain.slope)
    places = [f"body.layers.{k}" for k in range(2)]
    assert seen == [e for p in places for e in (("softmax", f"{p}.self_attn"), ("relu", p))]


def test_a_rule_for_the_whole_call_comes_first():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.GRU(3, 4, batch_first=True)

        def forward(self, x):
            return self.net(x[:, None])[0][:, -1]

    model = Model(nets.seeded(Last), rows(3))
    met = []
    whole = {"gru": lambda call: met.append(call.name) or call.run(), "tanh": lambda call: met.append(call.name)}
    model.gradient(torch.zeros(2, 3), 0, rules=whole)
    assert met == ["gru"]


def test_what_no_gradient_flows_through_stays_fused():
    net = nn.LSTM(3, 4).requires_grad_(False)
    for wanted in (True, False):
        x = torch.zeros(5, 2, 3, requires_grad=wanted)
        _, met = seen_in(net, lambda x=x: net(x))
        assert ("linear" in {name for name, _ in met}) == wanted
