"""Attention beside other measures, shuffled, made uniform, and replaced by its farthest equal."""

import itertools
import math
import os

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.site import Site
from cutaway.core.space import tokens
from cutaway.evaluation.attention import attention_correlation, kendall
from cutaway.evaluation.attention_adversary import attention_adversary
from cutaway.evaluation.attention_flat import attention_uniform
from cutaway.evaluation.attention_replacement import attention_permutation
from cutaway.evaluation.attention_subject import change, divergence, subjects
from cutaway.testing.models import text_model, tiny_model
from cutaway.testing.sequences import WORDS, AttentiveText, ToyTokenizer

ALL = [attention_correlation, attention_permutation, attention_adversary, attention_uniform]
TEXTS = ["the film was very good", "dull plot", "a great film but not fun"]


def attentive(**options):
    return text_model(name="text_attention", **options)


def ids_of(text):
    return ToyTokenizer()([text])["input_ids"]


@torch.no_grad()
def by_hand(module, ids, weights=None):
    """Reference: probabilities and attention of one text, from the layers; attention may be given."""
    h = module.rnn(module.embedding(ids))[0]
    own = module.score(torch.tanh(h))[..., 0].softmax(1)
    used = own if weights is None else weights
    return module.fc((used[..., None] * h).sum(1)).softmax(1)[0], own[0]


class Bag(nn.Module):
    """Words with a score, which attention follows, and a value, which the output sums: two numbers each, known."""

    def __init__(self, table, *, dimension=1, hidden=False):
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(table, dtype=torch.float64), freeze=False)
        self.attention = nn.Softmax(dim=dimension)
        self.hidden = hidden

    def forward(self, input_ids, attention_mask=None):
        words = self.embedding(input_ids)
        scores, values = words[..., 0], words[..., 1]
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask == 0, -torch.inf)
        weights = self.attention(scores)
        total = (weights * values).sum(1)
        total = total.tanh() ** 3 if self.hidden else total
        return torch.stack([-total, total], 1)


def bag(scores, values, **options):
    """A model of known words from [PAD] on, with a space between them as tokenizer."""
    rest = len(WORDS) - len(scores) - 3
    table = [[0.0, 0.0]] * 3 + [list(pair) for pair in zip(scores, values, strict=True)] + [[0.0, 0.0]] * rest
    return Model(Bag(table, **options), tokens(), name="bag", embedding="embedding")


# -- correlation -------------------------------------------------------------------------------------------------------


def tau_b(a, b):
    """Reference: concordant less discordant pairs, over pairs that are no ties on either side."""
    pairs = [
        (math.copysign(x, p - q) if p != q else 0, math.copysign(x, r - s) if r != s else 0)
        for x, ((p, r), (q, s)) in ((1, pair) for pair in itertools.combinations(list(zip(a, b, strict=True)), 2))
    ]
    scale = sum(x != 0 for x, _ in pairs) * sum(y != 0 for _, y in pairs)
    return sum(x * y for x, y in pairs) / math.sqrt(scale) if scale else math.nan


def test_correlation_matches_a_loop_over_the_words():
    model = attentive()
    found = attention_correlation(model, TEXTS, 2)
    for k, text in enumerate(TEXTS):
        ids, module = ids_of(text), model.module
        whole, own = by_hand(module, ids)
        leaf = module.embedding(ids).detach().requires_grad_()
        h = module.rnn(leaf)[0]
        p = module.fc((own.detach()[None, :, None] * h).sum(1)).softmax(1)[0, 2]
        slope = (torch.autograd.grad(p, leaf)[0] * leaf)[0].sum(-1).abs().tolist()
        falls = []
        for word in range(1, ids.shape[1]):
            less = torch.cat([ids[:, :word], ids[:, word + 1 :]], 1)
            falls.append(float((by_hand(module, less)[0] - whole).abs().sum() / 2))
        words = own[1:].tolist()  # the first token is [CLS], which is no word
        assert float(found.positions[k, 0]) == pytest.approx(tau_b(words, slope[1:]), abs=1e-12)
        assert float(found.positions[k, 1]) == pytest.approx(tau_b(words, falls), abs=1e-12)
    assert found.names == TEXTS


@pytest.mark.parametrize(("steepness", "tau"), [(-0.5, 1.0), (-2.0, -1.0)])
def test_attention_that_agrees_or_disagrees_by_construction(steepness, tau):
    """|slope * embedding| is a_i e^(s * steepness) with a_i ~ e^s: the same order, or the reverse."""
    scores = [0.1, 0.5, 0.9, 1.4]
    model = bag(scores, [math.exp(steepness * s) for s in scores])
    found = attention_correlation(model, torch.tensor([[3, 6, 4, 5]]), 1)
    assert float(found.positions[0, 0]) == pytest.approx(tau)
    assert found.checks["attention_and_gradient"].value == pytest.approx(tau)


def test_kendall_knows_ties():
    a, b = torch.tensor([1.0, 1.0, 2.0, 3.0, 2.5]), torch.tensor([2.0, 1.0, 1.0, 3.0, 3.0])
    assert kendall(a, b)[0] == pytest.approx(tau_b(a.tolist(), b.tolist()))
    assert math.isnan(kendall(torch.ones(3), a[:3])[0])


def test_texts_without_an_order_are_left_out_and_counted():
    model = bag([0.0, 1.0], [1.0, 2.0])
    found = attention_correlation(model, torch.tensor([[3, 3], [3, 4]]), 1)
    assert len(found.positions) == 1
    assert found.checks["undefined"].value == 1
    with pytest.raises(NotPossible, match="all tokens of the text are alike"):
        attention_correlation(model, torch.tensor([[3, 3, 3]]), 1)


# -- replacement -------------------------------------------------------------------------------------------------------


def test_permutation_matches_a_loop():
    model = attentive()
    found = attention_permutation(model, TEXTS, samples=7, seed=3)
    for k, text in enumerate(TEXTS):
        whole, own = by_hand(model.module, ids_of(text))
        chance = torch.Generator().manual_seed(3)
        orders = torch.rand(7, len(own), generator=chance, dtype=torch.float64).argsort(1)
        moved = [
            float((by_hand(model.module, ids_of(text), own[order][None])[0] - whole).abs().sum() / 2)
            for order in orders
        ]
        assert found.positions[k].tolist() == pytest.approx([float(own.max()), sorted(moved)[3]], abs=1e-12)


def test_a_uniform_attention_cannot_be_shuffled():
    model = bag([0.0, 0.0, 0.0], [1.0, 2.0, -4.0])
    assert not attention_permutation(model, torch.tensor([[3, 4, 5]])).positions[:, 1].any()
    uniform = attention_uniform(model, torch.tensor([[3, 4, 5]]))
    assert uniform["change of output"] == pytest.approx(0, abs=1e-12)
    assert uniform["entropy of attention"] == pytest.approx(1)
    assert uniform.checks["verdict"].status == "warn"


def test_uniform_attention_on_a_network_that_lives_by_it():
    """Attention e^5 : 1 : 1 on the only good word; the mean of the three values has the other sign."""
    model = bag([5.0, 0.0, 0.0], [3.0, -3.0, -3.0])
    found = attention_uniform(model, torch.tensor([[3, 4, 5]]))
    share = math.exp(5) / (math.exp(5) + 2)
    before, after = (torch.tensor(2 * t).sigmoid() for t in (3 * share - 3 * (1 - share), -1.0))
    assert found["change of output"] == pytest.approx(float(before - after), abs=1e-6)
    assert found["predictions changed"] == 1
    assert found.checks["verdict"].status == "ok"


# -- adversary ---------------------------------------------------------------------------------------------------------


def exact(scores, values, eps):
    """Reference for two classes and a linear end: the farthest corner of the attentions that keep the output.

    The divergence is convex, so its maximum over a polytope is at a corner: all on one word that keeps the output, or
    on two words of which one gives more than is allowed and one less.
    """
    own = torch.tensor(scores, dtype=torch.float64).softmax(0)
    v = torch.tensor(values, dtype=torch.float64)
    p = float((2 * own @ v).sigmoid())
    ends = [math.log(q / (1 - q)) / 2 for q in (max(p - eps, 1e-300), min(p + eps, 1 - 1e-16))]
    corners = [torch.eye(len(v), dtype=torch.float64)[i] for i in range(len(v)) if ends[0] <= v[i] <= ends[1]]
    for i, j in itertools.permutations(range(len(v)), 2):
        for end in ends:
            share = (end - v[j]) / (v[i] - v[j]) if v[i] != v[j] else torch.tensor(-1.0)
            if 0 <= share <= 1:
                corner = torch.zeros(len(v), dtype=torch.float64)
                corner[i], corner[j] = share, 1 - share
                corners.append(corner)
    return max(float(divergence(corner, own)) for corner in corners)


@pytest.mark.parametrize("seed", range(4))
def test_the_adversary_reaches_the_farthest_corner(seed):
    chance = torch.Generator().manual_seed(seed)
    scores, values = (torch.randn(9, generator=chance) * torch.tensor([[1.0], [2.0]])[k] for k, _ in enumerate("ab"))
    scores, values = scores.tolist(), (values + torch.randn(9, generator=chance)).tolist()
    found = attention_adversary(bag(scores, values), torch.arange(3, 12)[None], eps=0.01)
    best = exact(scores, values, 0.01)
    assert 0.999 * best <= float(found.positions[0, 1]) <= best + 1e-9
    assert found.checks["search"].status == "ok"


def test_no_other_attention_where_every_word_counts_otherwise():
    """Two words on either side: the output says how attention is shared, so nothing else gives it."""
    found = attention_adversary(bag([0.3, 0.0], [3.0, -3.0]), torch.tensor([[3, 4]]), eps=1e-4)
    assert float(found.positions[0, 1]) < 1e-6
    assert found.checks["verdict"].status == "ok"


def test_words_that_say_the_same_can_be_exchanged():
    found = attention_adversary(bag([3.0, 0.0, 0.0], [1.0, 1.0, 1.001]), torch.tensor([[3, 4, 5]]))
    own = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64).softmax(0)
    farthest = divergence(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), own)
    assert float(found.positions[0, 1]) == pytest.approx(float(farthest), rel=0.01)
    assert float(found.positions[0, 1]) <= math.log(2)
    assert found.checks["verdict"].status == "warn"
    assert found.checks["peaked"].value == 1


def test_an_end_that_is_not_linear_is_noted_and_the_output_still_kept():
    model = bag([1.0, 0.0, 0.5, 0.2], [1.0, -2.0, 0.7, 0.1], hidden=True)
    found = attention_adversary(model, torch.tensor([[3, 4, 5, 6]]), eps=0.02)
    assert found.checks["search"].status == "note"
    assert 0 < float(found.positions[0, 1]) <= math.log(2)


def test_more_classes_are_climbed():
    found = attention_adversary(attentive(), TEXTS, eps=0.05)
    assert (found.positions[:, 1] >= 0).all()
    assert float(found.positions[:, 1].max()) > 0.2
    assert "climb" in found.checks["search"]
    assert (attention_adversary(attentive(), TEXTS, eps=0.01).positions[:, 1] < found.positions[:, 1]).all()


def test_measures_at_their_ends():
    one, other = torch.eye(2, dtype=torch.float64)
    assert float(divergence(one, other)) == pytest.approx(math.log(2))
    assert float(divergence(one, one)) == 0
    assert float(change(one, other)) == 1


# -- the place, and what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL)
def test_a_text_does_not_depend_on_its_batch_or_its_padding(method):
    texts = [*TEXTS, "bad"]
    together = method(attentive(), texts)
    alone = [method(attentive(), text) for text in texts if not (method is attention_correlation and text == "bad")]
    if method is attention_uniform:
        assert_close(together.values, torch.stack([one.values for one in alone]).mean(0))
    else:
        assert_close(together.positions, torch.cat([one.positions for one in alone]))


@pytest.mark.parametrize("method", ALL)
def test_one_token_is_no_choice(method):
    ids = torch.tensor([[3], [4]])
    with pytest.raises(NotPossible, match="two tokens or more"):
        method(bag([0.0, 1.0], [1.0, 2.0]), ids, **({"target": 1} if method is attention_correlation else {}))
    padded = {"input_ids": torch.tensor([[3, 4, 5], [4, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])}
    found = method(bag([0.0, 1.0, 2.0], [1.0, 2.0, 5.0]), padded)
    assert found.checks["left_out"].value == 1


@pytest.mark.parametrize("method", ALL)
def test_networks_and_inputs_without_such_attention_are_refused(method):
    with pytest.raises(NotPossible, match="no place with one weight for each token"):
        method(tiny_model("text"), TEXTS)
    with pytest.raises(NotPossible, match="works on text"):
        method(tiny_model("conv"), torch.rand(1, 3, 16, 16))
    with pytest.raises(BadShape, match="expected attention at rnn/0"):
        method(attentive(), TEXTS, attention="rnn/0")


def test_softmax_over_the_wrong_axis_is_not_attention():
    with pytest.raises(NotPossible, match="no place"):
        attention_uniform(bag([0.0, 1.0], [1.0, 2.0], dimension=0), torch.tensor([[3, 4], [4, 3]]))


def test_three_classes_are_not_three_words():
    """A softmax over classes sums to 1 as well; the text without its last word tells them apart."""

    class Ends(AttentiveText):
        def __init__(self):
            super().__init__()
            self.end = nn.Softmax(dim=1)

        def forward(self, input_ids, attention_mask=None):
            return self.end(super().forward(input_ids, attention_mask))

    model = Model(Ends().double().eval(), tokens(), scores="probabilities", embedding="embedding")
    x = torch.tensor([[2, 3, 4]])
    with model.borrow():
        assert next(iter(subjects(model, x, None, "a test"))).site == Site("attention")


def test_a_copy_of_attention_is_refused():
    class Beside(AttentiveText):
        def __init__(self):
            super().__init__()
            self.shown = nn.Identity()

        def forward(self, input_ids, attention_mask=None):
            self.shown(self.score(torch.tanh(self.rnn(self.embedding(input_ids))[0]))[..., 0].softmax(1))
            return super().forward(input_ids, attention_mask)

    model = Model(Beside().double().eval(), tokens(), embedding="embedding", name="beside")
    with pytest.raises(NotPossible, match="a copy beside the way"):
        attention_permutation(model, torch.tensor([[2, 3, 4]]), attention="shown")


def test_attention_on_padding_is_refused():
    class Moved(AttentiveText):
        """Attention stands at the front, wherever the words are."""

        def forward(self, input_ids, attention_mask=None):
            order = attention_mask.argsort(dim=1, descending=True, stable=True)
            return super().forward(input_ids.gather(1, order), attention_mask.gather(1, order))

    model = Model(Moved().double().eval(), tokens(), embedding="embedding", name="moved")
    x = {"input_ids": torch.tensor([[0, 0, 3, 4, 5]]), "attention_mask": torch.tensor([[0, 0, 1, 1, 1]])}
    with pytest.raises(BadShape, match="on padding"):
        attention_uniform(model, x)


def test_a_column_of_weights_is_attention_as_well():
    """(n, t, 1), as many write it."""

    class Column(AttentiveText):
        def forward(self, input_ids, attention_mask=None):
            h = self.rnn(self.embedding(input_ids))[0]
            return self.fc((self.attention(self.score(torch.tanh(h))) * h).sum(1))

    net = Column().double().eval()
    plain = AttentiveText().double().eval()
    plain.load_state_dict(net.state_dict())
    x = torch.tensor([[2, 3, 4, 9]])
    one, other = (
        attention_permutation(Model(m, tokens(), embedding="embedding"), x, samples=5).positions for m in (net, plain)
    )
    assert_close(one, other)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (attention_permutation, {"samples": 0}),
        (attention_adversary, {"eps": 0.0}),
        (attention_adversary, {"eps": 1.0}),
        (attention_adversary, {"candidates": 0}),
        (attention_adversary, {"steps": 0}),
    ],
)
def test_options_out_of_range_are_refused(method, options):
    with pytest.raises(BadOption, match=next(iter(options))):
        method(attentive(), TEXTS, **options)


# -- trained networks --------------------------------------------------------------------------------------------------

needs_data = pytest.mark.skipif(not os.environ.get("CUTAWAY_DATA"), reason="needs SST-2 (set CUTAWAY_DATA)")


@needs_data
def test_a_trained_lstm_has_other_attention_with_the_same_output():
    """Jain and Wallace 2019, on SST: most sentences have a divergence above 0.4 for a change of up to 0.05."""
    found = attention_adversary(ct.load("sentiment-lstm"), ct.data("sst2/dev")[:40].x, eps=0.05)
    far = found.positions[:, 1]
    assert float((far > 0.4).double().mean()) > 0.75
    assert float(far.max()) <= math.log(2)


@needs_data
@pytest.mark.slow
def test_attention_agrees_with_the_gradient_more_where_words_do_not_mix():
    """Jain and Wallace 2019, table 2, SST: 0.35 for the bi-LSTM, 0.61 for the average encoder."""
    x = ct.data("sst2/dev")[:100].x
    lstm, plain = (attention_correlation(ct.load(name), x) for name in ("sentiment-lstm", "sentiment-average"))
    assert plain.checks["attention_and_gradient"].value == pytest.approx(0.606, abs=0.1)
    assert plain.checks["attention_and_leaving_out"].value == pytest.approx(0.623, abs=0.1)
    assert plain.checks["attention_and_gradient"].value > lstm.checks["attention_and_gradient"].value + 0.1
