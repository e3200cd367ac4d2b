"""What an answer loses without its parts, and how few it takes to change it."""

import itertools
import warnings

import pytest
import torch
from torch import Tensor, nn

import cutaway as ct
from cutaway.attribution.erasure import erasure, leave_one_out
from cutaway.attribution.erasure_flip import smallest_flip
from cutaway.attribution.occlusion import occlusion
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.features import of_ids
from cutaway.core.fill import Fill
from cutaway.core.game import play
from cutaway.core.model import Model
from cutaway.core.space import rows, tokens
from cutaway.core.target import logit
from cutaway.testing.models import inputs_for, tiny_model
from cutaway.testing.planted import row_model
from cutaway.testing.sequences import WORDS, ToyTokenizer


class Trigger(nn.Module):
    """Class 1 wins by 2 if the word `awful` is there, and loses by 1 if not; other words do a little."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 4)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.embedding.weight.copy_(0.02 * torch.randn(len(WORDS), 4, generator=generator))
            self.embedding.weight[WORDS.index("awful")] = torch.tensor([3.0, 0.0, 0.0, 0.0])
            self.embedding.weight[:3] = 0
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        total = (self.embedding(input_ids) * attention_mask[..., None]).sum((1, 2))
        return torch.stack([torch.zeros_like(total), total - 1], dim=1)


def trigger_model():
    return Model(
        Trigger().eval(),
        tokens(),
        classes=("fine", "trigger"),
        tokenizer=ToyTokenizer(),
        embedding="embedding",
        name="trigger",
    )


def tanh_model(columns=7, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(columns, 9), nn.Tanh(), nn.Linear(9, classes)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return Model(net, rows(columns, low=-10, high=10)), torch.randn(1, columns, generator=generator).double()


# -- one at a time -----------------------------------------------------------------------------------------------------


def test_leave_one_out_is_the_fall_of_the_target_part_by_part():
    """Reference: each part is zeroed by hand, one forward for each."""
    model, x = tanh_model()
    groups = torch.tensor([0, 0, 1, 2, 1, 3, 3])
    values = leave_one_out(model, x, 2, features=of_ids(groups), fill="zero").values
    for part in range(4):
        gone = torch.where(groups == part, 0.0, x)
        fall = float(model.run(x).output[0, 2] - model.run(gone).output[0, 2])
        assert values[0, groups == part] == pytest.approx(fall, abs=1e-12)


def test_erasure_is_the_share_of_the_log_likelihood():
    """Reference: equation 1 of the paper, by hand, with |S| below."""
    model, x = tanh_model(5)
    values = erasure(model, x, 1).values
    whole = float(torch.log_softmax(model.run(x).output, 1)[0, 1])
    for i in range(5):
        gone = x.clone()
        gone[0, i] = 0
        without = float(torch.log_softmax(model.run(gone).output, 1)[0, 1])
        assert float(values[0, i]) == pytest.approx((whole - without) / abs(whole), abs=1e-12)
    nats = erasure(model, x, 1, relative=False)
    assert torch.allclose(nats.values, values * abs(whole))
    assert nats.target == "logprob(1)"
    assert float(nats.score) == pytest.approx(whole)


def test_on_a_linear_model_a_part_is_worth_its_weight_times_its_value():
    model = row_model([2.0, -1.0, 0.5])
    assert leave_one_out(model, torch.tensor([[3.0, 5.0, 0.0]]).double(), 1).values.tolist() == [[6.0, -5.0, 0.0]]


def test_leave_one_out_of_single_entries_is_occlusion():
    for name in ("mlp_tanh", "text"):
        model = tiny_model(name)
        x = inputs_for(model, 2)
        a, b = leave_one_out(model, x, 1, features="auto"), occlusion(model, x, 1)
        assert torch.allclose(a.values[:, 1:], b.values[:, 1:], atol=1e-12)


def test_a_dimension_of_the_embedding_is_erased_in_all_words():
    model = tiny_model("text")
    text = "a very good film"
    values = erasure(model, text, 2, wrt="embedding", features="units", relative=False).values
    act = model.run(text, read=["embedding"])["embedding"]
    whole = model.run(text).log_probabilities[0, 2]
    for d in range(act.shape[2]):
        gone = act.clone()
        gone[..., d] = 0
        without = model.run(text, edit={"embedding": gone}).log_probabilities[0, 2]
        assert values[0, :, d].tolist() == pytest.approx([float(whole - without)] * act.shape[1], abs=1e-12)


def test_units_of_a_layer_are_erased_one_by_one():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    values = leave_one_out(model, x, 1, wrt="conv1").values
    act = model.run(x, read=["conv1"])["conv1"]
    for unit in range(act.shape[1]):
        gone = act.clone()
        gone[:, unit] = 0
        fall = model.run(x).output[0, 1] - model.run(x, edit={"conv1": gone}).output[0, 1]
        assert torch.allclose(values[0, unit], fall.expand_as(values[0, unit]), atol=1e-12)


def test_a_planted_trigger_word_comes_first_in_every_text():
    model = trigger_model()
    for text in ("the film was awful fun", "awful", "not very good and awful but fine"):
        for method in (leave_one_out, erasure):
            for fill in ("neutral", "remove", "pad"):
                result = method(model, text, "trigger", fill=fill)
                k = int(result.values[0].argmax())
                assert result.tokens[0][k] == "awful"
                others = torch.cat([result.values[0, :k], result.values[0, k + 1 :]])
                assert result.values[0, k] > 5 * others.abs().max()


def test_the_mean_over_examples_finds_the_planted_dimension():
    model = trigger_model()
    result = erasure(model, ["awful film", "the awful plot"], "trigger", wrt="embedding", features="units")
    assert "most is lost without 0 (" in result.checks["mean"]


def test_a_shape_is_found_by_superpixels():
    """shapes-cnn with the exact masks of its pictures: the best superpixel lies on the shape in most of them."""
    model, test = ct.load("shapes-cnn"), ct.data("shapes/test[0:20]")
    hits = 0
    for k in range(len(test)):
        one = test[k]
        why = leave_one_out(model, one.x, int(one.labels), features="superpixels:40", fill="mean")
        best = why.values[0, 0] == why.values.max()
        hits += float(test.masks[k][best].float().mean()) > 0.3
    assert hits >= 16


def test_many_parts_run_in_pieces_and_give_the_same():
    model = tiny_model("conv")
    x = inputs_for(model, 1)
    values = leave_one_out(model, x, 1, features="pixels").values[0, 0]
    for y, column in ((0, 0), (7, 3), (15, 15)):
        gone = x.clone()
        gone[..., y, column] = model.space.mean[0]
        fall = float(model.run(x).output[0, 1] - model.run(gone).output[0, 1])
        assert float(values[y, column]) == pytest.approx(fall, abs=1e-12)


@pytest.mark.parametrize("features", ["superpixels:12", "cells:3", "scattered", "halves"])
def test_pieces_of_any_form_give_what_the_whole_computation_gives(features):
    """Boxes around parts, where only those are run again, against whole images by hand."""
    model = tiny_model("residual")
    x = inputs_for(model, 1)
    scattered = torch.randint(5, (16, 16), generator=torch.Generator().manual_seed(0))
    halves = (torch.arange(16) >= 8).long()[:, None].expand(16, 16)
    given = {"scattered": of_ids(scattered), "halves": of_ids(halves)}.get(features, features)
    game = play(model, x, logit(1), features=given, fill=Fill.of("blur:2"))
    values = leave_one_out(model, x, 1, features=given, fill="blur:2").values[0, 0]
    blurred = Fill.of("blur:2")(x, model.space)
    for part in range(len(game)):
        on = game.features.ids == part
        without = model.run(torch.where(on, blurred, x)).output[0, 1]
        fall = float(model.run(x).output[0, 1] - without)
        assert values[on].tolist() == pytest.approx([fall] * int(on.sum()), abs=1e-12)


def test_a_target_at_zero_has_no_shares_and_says_so():
    net = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[50.0, 0.0], [0.0, 0.0]]))
    sure = erasure(Model(net, rows(2, low=-9, high=9)), torch.ones(1, 2).double(), 0)
    assert sure.checks["sure"].status == "warn"


def test_parts_that_change_nothing_are_reported():
    result = leave_one_out(row_model([1.0, 2.0]), torch.zeros(1, 2).double(), 1)
    assert result.checks["idle"].status == "warn"


def test_too_many_parts_are_refused_before_any_work():
    from cutaway.core.budget import limits

    model = tiny_model("conv")
    spent = model.spent["forwards"]
    with limits(forwards=100), pytest.raises(NotPossible, match="leave_one_out of 256 parts"):
        leave_one_out(model, inputs_for(model, 1), 1, features="pixels")
    assert model.spent["forwards"] - spent < 10


@pytest.mark.peers
def test_captum_gives_the_same_for_columns_words_and_units():
    captum = pytest.importorskip("captum.attr", reason="captum is a peer, not a dependency")
    model, x = tanh_model()
    groups = torch.tensor([0, 0, 1, 2, 1, 3, 3])
    theirs = captum.FeatureAblation(model.module).attribute(x, target=2, feature_mask=groups[None])
    assert torch.allclose(leave_one_out(model, x, 2, features=of_ids(groups), fill="zero").values, theirs, atol=1e-12)

    text = tiny_model("text")
    batch = text.inputs("a very good film")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = captum.FeatureAblation(lambda ids, mask: text.module(input_ids=ids, attention_mask=mask)).attribute(
            batch["input_ids"],
            baselines=ToyTokenizer.mask_token_id,
            target=2,
            additional_forward_args=(batch["attention_mask"],),
        )
    ours = leave_one_out(text, "a very good film", 2, fill="mask").values
    assert torch.allclose(ours[:, 1:], theirs[:, 1:].double(), atol=1e-6)

    conv = tiny_model("conv")
    image = inputs_for(conv, 1)
    units = torch.arange(conv.module.conv1.out_channels)[None, :, None, None]
    seen = conv.space.normalised(image)
    theirs = captum.LayerFeatureAblation(conv.module, conv.module.conv1).attribute(seen, target=1, layer_mask=units)
    assert torch.allclose(leave_one_out(conv, image, 1, wrt="conv1").values, theirs, atol=1e-9)


# -- as few as it takes ------------------------------------------------------------------------------------------------


def smallest_by_brute_force(model, x, k):
    """How many columns must at least be zeroed to change whether class k is the answer; None if none do."""

    def wins(z):
        return int(model.run(z).output.argmax()) == k

    for count in range(1, x.shape[1] + 1):
        for some in itertools.combinations(range(x.shape[1]), count):
            gone = x.clone()
            gone[0, list(some)] = 0
            if wins(gone) != wins(x):
                return count
    return None


def test_the_smallest_set_is_that_of_brute_force():
    """30 random networks, with answers that few, many, or no columns hold up; sets that greed misses among them."""
    sizes = []
    for seed in range(30):
        model, x = tanh_model(6, seed)
        k = int(model.run(x).output.argmax())
        result = smallest_flip(model, x, k, fill="zero")
        wanted = smallest_by_brute_force(model, x, k)
        assert int(result.values.sum()) == (wanted or 0)
        if wanted:
            assert int(model.run(torch.where(result.values > 0, 0.0, x)).output.argmax()) != k
            assert result.checks["flip"].status == "ok"
            assert float(result.extra["margin"]) <= 0
        else:
            assert "No set of the 6 parts changes the answer: all of them were tried." in result.checks["flip"]
        sizes.append(wanted)
    assert {1, 2, 3, None} <= set(sizes)


def test_a_pair_that_only_acts_together_is_found():
    """Either of two columns holds the answer up; each alone costs nothing, and a third costs most and leads astray."""

    class Either(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            held = torch.maximum(x[:, 0], x[:, 1])
            return torch.stack([torch.zeros_like(held), held - 0.5 + 0.2 * x[:, 2:].sum(1)], dim=1)

    model = Model(Either(), rows(8, low=0, high=1), name="either")
    x = torch.ones(1, 8).double()
    result = smallest_flip(model, x.float(), 1, fill="zero")
    assert result.values.sum() == smallest_by_brute_force(model, x.float(), 1)
    assert result.values[0, :2].tolist() == [1.0, 1.0]


def test_a_class_that_is_not_the_answer_is_made_the_answer():
    model, x = tanh_model(6, 3)
    order = model.run(x).output[0].argsort()
    result = smallest_flip(model, x, int(order[1]), fill="zero")
    wanted = smallest_by_brute_force(model, x, int(order[1]))
    assert int(result.values.sum()) == (wanted or 0)


def test_the_planted_word_alone_flips_the_answer():
    result = smallest_flip(trigger_model(), "the film was awful fun", "trigger")
    assert result.checks["flip"].startswith("Without 'awful', 1 of 5 parts, the answer is fine instead of trigger.")
    assert result.values[0].tolist() == [0, 0, 0, 0, 1, 0]


def test_a_difference_of_two_logits_is_its_own_margin():
    model = row_model([2.0, -1.0, 0.5])
    result = smallest_flip(model, torch.tensor([[1.0, 1.0, 1.0]]).double(), "logit(1) - logit(0)")
    assert result.values.tolist() == [[1, 0, 0]]
    assert "the target changes its sign" in result.checks["flip"]


def test_where_not_all_smaller_sets_were_tried_it_says_so():
    """60 equal columns of which 21 must go: far more sets than can be tried."""
    net = nn.Linear(60, 2).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0] * 60, [1.0] * 60]))
        net.bias.copy_(torch.tensor([0.0, -39.5]))
    result = smallest_flip(Model(net, rows(60, low=-9, high=9)), torch.ones(1, 60).double(), 1, tries=2000)
    assert int(result.values.sum()) == 21
    assert result.checks["flip"].status == "note"
    assert result.checks["flip"].endswith("No set of fewer than 3 does that; sets of 3 to 20 were not all tried.")


def test_an_answer_that_nothing_found_can_change_says_what_was_tried():
    net = nn.Linear(30, 2).double()
    with torch.no_grad():
        net.weight.zero_()
        net.bias.copy_(torch.tensor([0.0, 1.0]))
    result = smallest_flip(Model(net, rows(30, low=-9, high=9)), torch.ones(1, 30).double(), 1, tries=500)
    assert not result.values.any()
    assert result.checks["flip"].status == "warn"
    assert "None of fewer than 3 parts does" in result.checks["flip"]


def test_surplus_parts_of_a_greedy_set_are_put_back():
    """With no tries beyond the greedy search, a set is still minimal: none of its parts can be spared."""
    for seed in range(20):
        model, x = tanh_model(12, 100 + seed)
        k = int(model.run(x).output.argmax())
        erased = smallest_flip(model, x, k, fill="zero", tries=0).values[0] > 0
        for member in erased.nonzero()[:, 0].tolist():
            fewer = erased.clone()
            fewer[member] = False
            if fewer.any():
                assert int(model.run(torch.where(fewer, 0.0, x)).output.argmax()) == k


def test_negative_tries_are_refused():
    with pytest.raises(BadOption, match="0 tries or more"):
        smallest_flip(tiny_model("mlp"), torch.zeros(1, 4).double(), 0, tries=-1)


@pytest.mark.parametrize("method", [leave_one_out, erasure])
@pytest.mark.parametrize("text", ["the qzxv film was great", "qzxv zzyx"])
def test_words_that_the_network_never_met_are_parts_too(method, text):
    result = method(ct.load("sentiment-lstm"), text, "positive")
    assert result.values.shape == (1, len(text.split()))
    assert result.values.isfinite().all()
