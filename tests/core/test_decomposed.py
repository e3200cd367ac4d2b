"""Activations as part and rest: the law at every operation, one by one, on whole networks, and refusals by name."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.decomposed.tensor import How
from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.players import place_of, players_at
from cutaway.testing.models import inputs_for, tiny_model, tiny_models
from cutaway.testing.strategies import batch, counts, memory_formats, plans
from networks import bilstm, resnet18

HOWS = [How(shares, averages) for shares in (True, False) for averages in (True, False)]


def masks_for(model, x, features="auto"):
    """Single players, random groups, all, and nobody."""
    place = place_of(model, x)
    players = players_at(features, place)
    k = len(players)
    random = torch.rand(4, k, generator=torch.Generator().manual_seed(0)) > 0.5
    groups = torch.cat([torch.eye(k).bool()[:6], random, torch.ones(1, k).bool(), torch.zeros(1, k).bool()])
    return torch.cat([groups, torch.zeros(len(groups), 1).bool()], 1)[:, place.owner(players)]


class Row(nn.Module):
    """A function of rows of 6 as a network."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.LazyLinear(3)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)).flatten(1))


def row_model(function):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Row(function).double().eval()
        net(torch.zeros(2, 6).double())
    return ct.Model(net, ct.rows(6, low=-9, high=9), scores="values")


def inside(h):
    h[:, :2] = h[:, 2:4] * 2
    h[:, 5] = 0.7
    return h


def in_place(h):
    h = h + 0
    view = h[:, :3]
    view.relu_()
    h += 1
    h *= 2
    h.sub_(h[:, :1].clone()).div_(3.0)
    return F.leaky_relu(h, 0.1, inplace=True)


SIX, FIFTH = torch.arange(6).double(), torch.tensor(0.2).double()
OPERATIONS = {
    "sums": lambda h: 1 - h + h.flip(1) - 2 * h + torch.sub(h, h[:, :1], alpha=0.5) + SIX,
    "products": lambda h: h * h.roll(1, 1) + h * SIX + h / 3,
    "matrix products": lambda h: (
        h.view(-1, 2, 3) @ h.view(-1, 3, 2) + torch.ones(2, 2).double() @ h.view(-1, 2, 3)[..., :2]
    ),
    "einsum": lambda h: (
        torch.einsum("ni,nj->nij", h, h) + torch.einsum("ni,ij->nj", h, torch.ones(6, 6).double())[:, None]
    ),
    "addmm": lambda h: torch.addmm(SIX, h, torch.eye(6).double()),
    "joined": lambda h: torch.cat([h, torch.ones_like(h[:, :2]), torch.stack([h, h], 2).flatten(1)], 1),
    "chunks": lambda h: (
        sum(a - b for a, b in zip(h.chunk(2, 1), h.split(3, 1)[::-1], strict=True)) + h.unbind(1)[0][:, None]
    ),
    "moved": lambda h: (
        h.view(-1, 2, 3).mT.permute(0, 2, 1).movedim(1, 2).unsqueeze(1).squeeze(1).expand(-1, 3, 2).repeat(1, 2, 1)
    ),
    "gathered": lambda h: (
        h.gather(1, torch.tensor([[0, 3]]).expand(len(h), -1)) + h[:, [1, 2]] + h.index_select(1, torch.tensor([4, 5]))
    ),
    "padded": lambda h: F.pad(h, (1, 2), value=0.5) + F.pad(h[:, None], (1, 2), mode="circular")[:, 0],
    "chosen": lambda h: torch.where(h > 0, h, 0.3) + torch.where(h > 0.1, FIFTH, h),
    "masked": lambda h: h.masked_fill(h < 0, -1.0) + h.masked_fill(SIX > 3, 0.0),
    "largest": lambda h: (
        h.max(1, keepdim=True).values + h.topk(2, 1).values + h.amax(1)[:, None] + h.sort(1).values[:, :1]
    ),
    "smallest": lambda h: h.view(-1, 2, 3).amin((1, 2))[:, None] + h.min(1)[0][:, None] + torch.minimum(h, h.flip(1)),
    "bounded": lambda h: torch.maximum(h, FIFTH) + h.clamp(-0.5, 0.5) + F.relu6(h) + F.hardtanh(h),
    "rectified": lambda h: F.relu(h) + F.leaky_relu(h) + F.threshold(h, 0.1, 0.2) + h * (h > 0),
    "curves": lambda h: (
        F.gelu(h) + F.silu(h) + torch.sigmoid(h) + h.tanh() + F.elu(h) + F.softplus(h) + F.hardswish(h) + h.exp()
    ),
    "powers": lambda h: h**2 + h.pow(3) + h.square() + h.abs() + h.sin() + h.cos(),
    "means": lambda h: h.mean(1, keepdim=True) + h.sum(1)[:, None] + h.cumsum(1) - h,
    "attention": lambda h: torch.softmax(h.view(-1, 2, 3) @ h.view(-1, 3, 2), -1) @ h.view(-1, 2, 3),
    "sdpa": lambda h: F.scaled_dot_product_attention(*[h.view(-1, 1, 2, 3)] * 3),
    "layer norm": lambda h: F.layer_norm(h, (6,)) + F.layer_norm(h, (6,), SIX, torch.ones(6).double()),
    "group norm": lambda h: F.group_norm(h[..., None], 2, SIX, torch.ones(6).double()),
    "glu": lambda h: F.glu(h, 1),
    "assigned": inside,
    "in place": in_place,
    "dropped": lambda h: F.dropout(h, 0.5, training=False) + F.dropout1d(h[:, None], training=False)[:, 0],
    "convolved": lambda h: (
        F.conv1d(h[:, None], torch.ones(2, 1, 3).double(), torch.ones(2).double(), padding=1)
        + F.conv_transpose1d(h[:, None], torch.ones(1, 2, 1).double(), torch.ones(2).double())
    ),
    "pooled": lambda h: torch.cat(
        [
            F.max_pool1d(h[:, None], 2),
            F.avg_pool1d(h[:, None], 2),
            F.adaptive_max_pool1d(h[:, None], 3),
            F.adaptive_avg_pool1d(h[:, None], 3),
        ],
        1,
    ),
    "pooled images": lambda h: (
        F.max_pool2d(h.view(-1, 1, 2, 3), 2, 1) + F.interpolate(h.view(-1, 1, 2, 3), size=(1, 2))
    ),
    "asked": lambda h: (
        h.view(h.size(0), -1) + h.new_zeros(h.shape) + torch.zeros_like(h) + h.argmax(1)[:, None] + h.shape[1]
    ),
}


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_part_and_rest_sum_to_the_value_after(name, how):
    model = row_model(OPERATIONS[name])
    x = torch.randn(1, 6, generator=torch.Generator().manual_seed(1)).double()
    parts, whole = model.decomposed(x, masks_for(model, x), how=how), model.run(x).output
    assert_close(parts.whole.output, whole.expand_as(parts.whole.output), rtol=1e-12, atol=1e-12)
    assert_close(parts.part.output + parts.rest.output, parts.whole.output, rtol=1e-9, atol=1e-12)
    assert parts.gap.size < 1e-9
    assert not parts.part.output[-1].any(), "nobody has a part"


@pytest.mark.parametrize("how", HOWS, ids=str)
@pytest.mark.parametrize("name", tiny_models())
def test_the_law_holds_on_every_tiny_network(name, how):
    model = tiny_model(name)
    x = model.inputs(inputs_for(model, 1))
    parts = model.decomposed(x, masks_for(model, x), how=how)
    assert_close(parts.whole.output[:1], model.run(x).output, rtol=1e-12, atol=1e-12)
    assert_close(parts.part.output + parts.rest.output, parts.whole.output, rtol=1e-9, atol=1e-12)
    assert parts.gap.size < 1e-9
    assert not parts.part.output[-1].any()


@settings(max_examples=40)
@given(plans, counts, memory_formats, st.sampled_from(HOWS))
def test_the_law_holds_on_networks_that_nobody_chose(plan, chunk, layout, how):
    model, x = plan.model(batch_size=chunk), batch(1).contiguous(memory_format=layout)
    masks = masks_for(model, x, "cells:3")
    parts = model.decomposed(x, masks, how=how)
    assert_close(parts.whole.output[:1], model.run(x).output, rtol=1e-9, atol=1e-12)
    assert_close(parts.part.output + parts.rest.output, parts.whole.output, rtol=1e-9, atol=1e-12)
    assert parts.gap.size < 1e-9
    alone = model.decomposed(x, masks[2:3], how=how)
    assert_close(parts.part.output[2:3], alone.part.output, rtol=1e-9, atol=1e-12)


def test_with_shared_biases_all_players_have_everything():
    model = tiny_model("residual")
    x = inputs_for(model, 1)
    parts = model.decomposed(x, torch.ones(1, 1, 16, 16).bool())
    assert_close(parts.part.output, parts.whole.output)


@pytest.mark.parametrize("make", [resnet18, lambda dtype: resnet18(dtype=dtype, seed=1)])
def test_the_law_holds_on_an_unmodified_residual_network(make):
    space = ct.images(32, mean=0.4, std=0.5)
    model = ct.Model(make(dtype=torch.float64), space)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = model.decomposed(x, masks_for(model, x, "cells:2"))
    assert parts.gap.size < 1e-9
    assert_close(parts.part.output + parts.rest.output, model.run(x).output.expand(len(parts.part.output), -1))


def test_packed_sequences_have_parts_too():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.full((len(x),), 3), batch_first=True)
            out, _ = self.rnn(packed)
            padded, _ = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)
            return self.fc(padded.mean(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Packed().double().eval()
    model = ct.Model(nn.Sequential(nn.Unflatten(1, (3, 4)), net), ct.rows(12, low=-9, high=9))
    x = torch.randn(1, 12, generator=torch.Generator().manual_seed(0)).double()
    parts = model.decomposed(x, masks_for(model, x))
    assert parts.gap.size < 1e-9
    assert_close(parts.whole.output[:1], model.run(x).output)


def test_a_layer_can_be_read():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    parts = model.decomposed(x, masks_for(model, x, "cells:2"), read=["relu1", "output"])
    assert_close(parts.part["relu1"] + parts.rest["relu1"], parts.whole["relu1"])
    assert_close(parts.whole["relu1"][:1], model.run(x, read=["relu1"])["relu1"])


UNKNOWN = {
    "log": (lambda h: h.abs().log(), "log in the top"),
    "div": (lambda h: 1 / h, "rdiv"),
    "normalize": (lambda h: F.normalize(h), "norm"),
    "log_softmax": (lambda h: F.log_softmax(h, 1), "log_softmax"),
    "item": (lambda h: h * h.sum().item(), "item"),
    "branch": (lambda h: h if h.sum().item() > 0 else -h, "item"),
    "sqrt": (lambda h: h.abs().sqrt(), "sqrt"),
    "into a plain tensor": (lambda h: torch.zeros(h.shape, dtype=h.dtype).add_(h), "in place"),
    "batch statistics": (lambda h: F.batch_norm(h, None, None, training=True), "batch_norm"),
    "dropout": (lambda h: F.dropout(h, 0.5, training=True), "dropout"),
    "own power": (lambda h: h.abs() ** 0.5, "pow"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_operation_without_a_rule_is_refused_by_name(name):
    function, said = UNKNOWN[name]
    model = row_model(function)
    with pytest.raises(NotPossible, match=said):
        model.decomposed(torch.ones(1, 6).double(), torch.ones(1, 6).bool())


def test_the_place_of_a_refused_operation_is_named():
    class Strange(nn.Module):
        def forward(self, x):
            return torch.log1p(x)

    net = nn.Sequential(nn.Linear(6, 6), Strange(), nn.Linear(6, 2)).double().eval()
    with pytest.raises(NotPossible, match="log1p in 1"):
        ct.Model(net, ct.rows(6)).decomposed(torch.ones(1, 6).double(), torch.ones(1, 6).bool())


def test_an_output_behind_a_softmax_is_refused():
    net = nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)).double().eval()
    model = ct.Model(net, ct.rows(6), scores="probabilities")
    with pytest.raises(NotPossible, match="before the softmax"):
        model.decomposed(torch.ones(1, 6).double(), torch.ones(1, 6).bool())


def test_one_input_at_a_time():
    with pytest.raises(BadShape, match="one input"):
        tiny_model("mlp").decomposed(torch.zeros(2, 4).double(), torch.ones(1, 4).bool())


# -- an independent, slow LSTM in the words of the paper ---------------------------------------------------------------


def slow_lstm(cell, xs, inside):
    """Contextual decomposition of a one-way LSTM, one scalar product after the other, from the published equations."""
    size = cell.hidden_size
    w_ih, w_hh = cell.weight_ih_l0.detach(), cell.weight_hh_l0.detach()
    bias = (cell.bias_ih_l0 + cell.bias_hh_l0).detach()
    zero = torch.zeros(size).double()
    beta, gamma, beta_c, gamma_c, found = zero, zero, zero, zero, []
    for x, ours in zip(xs, inside, strict=True):
        contributions = {}
        for k, gate in enumerate("ifgo"):
            rows = slice(k * size, (k + 1) * size)
            relevant, irrelevant = w_hh[rows] @ beta, w_hh[rows] @ gamma
            if ours:
                relevant = relevant + w_ih[rows] @ x
            else:
                irrelevant = irrelevant + w_ih[rows] @ x
            f, b = (torch.tanh if gate == "g" else torch.sigmoid), bias[rows]
            alone = f(b)
            of_relevant = 0.5 * ((f(relevant + b) - alone) + (f(relevant + irrelevant + b) - f(irrelevant + b)))
            of_irrelevant = 0.5 * ((f(irrelevant + b) - alone) + (f(relevant + irrelevant + b) - f(relevant + b)))
            contributions[gate] = (of_relevant, of_irrelevant, alone)
        (ri, ii, bi), (rf, jf, bf), (rg, ig, bg), (ro, io, bo) = (contributions[g] for g in "ifgo")
        new_beta = ri * (rg + bg) + bi * rg + (rf + bf) * beta_c
        new_gamma = ii * (rg + ig + bg) + (ri + bi) * ig + (rf + jf + bf) * gamma_c + jf * beta_c
        if ours:
            new_beta = new_beta + bi * bg
        else:
            new_gamma = new_gamma + bi * bg
        beta_c, gamma_c = new_beta, new_gamma
        out, tanh = ro + io + bo, torch.tanh
        beta = out * 0.5 * (tanh(beta_c) + tanh(beta_c + gamma_c) - tanh(gamma_c))
        gamma = out * 0.5 * (tanh(gamma_c) + tanh(beta_c + gamma_c) - tanh(beta_c))
        found.append((beta, gamma))
    return found


@settings(max_examples=15)
@given(st.integers(0, 99), st.lists(st.booleans(), min_size=1, max_size=6))
def test_an_lstm_is_decomposed_as_published(seed, inside):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cell = nn.LSTM(3, 4, batch_first=True).double()
        xs = torch.randn(1, len(inside), 3).double()
    model = ct.Model(
        nn.Sequential(nn.Unflatten(1, (len(inside), 3)), cell).eval(), ct.rows(3 * len(inside)), output="0"
    )
    mask = torch.tensor(inside).repeat_interleave(3)[None]
    parts = model.decomposed(xs.flatten(1), mask)
    for t, (beta, gamma) in enumerate(slow_lstm(cell, xs[0], inside)):
        assert_close(parts.part.output[0, t], beta, rtol=1e-10, atol=1e-12)
        assert_close(parts.rest.output[0, t], gamma, rtol=1e-10, atol=1e-12)


def test_both_directions_of_an_lstm_are_decomposed():
    net = bilstm()
    model = ct.Model(net, ct.tokens(), embedding="embedding")
    ids, inside = torch.tensor([[3, 7, 1, 20, 5]]), [False, True, True, False, False]
    parts = model.decomposed(ids, torch.tensor(inside)[None, :, None], how=How(shares_bias=False))
    xs = net.embedding.weight[ids[0]].detach()
    forwards = slow_lstm(net.lstm, xs, inside)[-1]
    one_way = nn.LSTM(6, 5).double()
    one_way.load_state_dict(
        {k.removesuffix("_reverse"): v for k, v in net.lstm.state_dict().items() if k.endswith("_reverse")}
    )
    backwards = slow_lstm(one_way, xs.flip(0), inside[::-1])[-1]
    weight = net.fc.weight.detach()
    assert_close(parts.part.output[0], weight @ torch.cat([forwards[0], backwards[0]]), rtol=1e-10, atol=1e-12)
    rest = weight @ torch.cat([forwards[1], backwards[1]]) + net.fc.bias.detach()
    assert_close(parts.rest.output[0], rest, rtol=1e-10, atol=1e-12)


def test_relevant_and_irrelevant_sum_to_the_logits_without_the_output_bias():
    net = bilstm()
    model = ct.Model(net, ct.tokens(), embedding="embedding")
    parts = model.decomposed(
        torch.tensor([[3, 7, 1, 20, 5]]), torch.tensor([0, 1, 1, 0, 0]).bool()[None, :, None], how=How(False)
    )
    logits = model.run(torch.tensor([[3, 7, 1, 20, 5]])).output
    assert_close(parts.part.output + (parts.rest.output - net.fc.bias), logits - net.fc.bias)


# -- an independent, slow convolutional network ------------------------------------------------------------------------


def slow_conv(net, x, mask, averages):
    """A convolution, batch normalisation, ReLU, max pooling and a linear end, by the published rules and loops."""

    def shared(part, rest, bias):
        size = part.abs() + rest.abs()
        share = torch.where(size > 0, part.abs() / size, torch.zeros_like(size))
        return part + share * bias, rest + (1 - share) * bias

    conv, bn, fc = net[0], net[1], net[5]
    part, rest = shared(
        F.conv2d(x * mask, conv.weight, padding=1),
        F.conv2d(x * ~mask, conv.weight, padding=1),
        conv.bias.view(1, -1, 1, 1),
    )
    factor = (bn.weight / (bn.running_var + bn.eps).sqrt()).view(1, -1, 1, 1)
    part, rest = shared(part * factor, rest * factor, (bn.bias - bn.running_mean * factor.flatten()).view(1, -1, 1, 1))
    both = part + rest
    if averages:
        first = 0.5 * (part.relu() + both.relu() - rest.relu())
        part, rest = first, 0.5 * (rest.relu() + both.relu() - part.relu())
    else:
        part, rest = part.relu(), both.relu() - part.relu()
    n, c, h, w = both.shape
    pooled = torch.zeros(2, n, c, h // 2, w // 2).double()
    for channel in range(c):
        for i in range(h // 2):
            for j in range(w // 2):
                window = (part + rest)[0, channel, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten().argmax()
                a, b = 2 * i + int(window) // 2, 2 * j + int(window) % 2
                pooled[0, 0, channel, i, j], pooled[1, 0, channel, i, j] = (
                    part[0, channel, a, b],
                    rest[0, channel, a, b],
                )
    return shared(pooled[0].flatten(1) @ fc.weight.T, pooled[1].flatten(1) @ fc.weight.T, fc.bias)


@pytest.mark.parametrize("averages", [True, False])
def test_a_convolutional_network_is_decomposed_as_published(averages):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 2)
        )
        nn.init.normal_(net[1].running_mean)
        nn.init.uniform_(net[1].running_var, 0.5, 2)
        net = net.double().eval()
        x = torch.rand(1, 2, 8, 8).double()
    model = ct.Model(net, ct.images(8, channels=2))
    mask = torch.zeros(1, 1, 8, 8).bool()
    mask[..., 2:5, 3:7] = True
    parts = model.decomposed(x, mask, how=How(averages=averages))
    part, rest = slow_conv(net, x, mask, averages)
    assert_close(parts.part.output, part, rtol=1e-10, atol=1e-12)
    assert_close(parts.rest.output, rest, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "masks", [torch.ones(2, 16, 16).bool(), torch.ones(1, 1, 16, 16), torch.ones(1, 1, 15, 16).bool()]
)
def test_masks_of_another_shape_are_refused(masks):
    with pytest.raises(BadShape, match="masks as booleans"):
        tiny_model("conv").decomposed(inputs_for(tiny_model("conv"), 1), masks)
