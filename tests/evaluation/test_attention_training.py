"""Networks trained again under a condition on their attention."""

import math
import os

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.budget import limits
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.model import Model
from cutaway.core.recipe import Recipe, follow, through
from cutaway.core.site import Site
from cutaway.core.space import tokens
from cutaway.evaluation import attention_adversarial
from cutaway.evaluation.attention import attention_correlation
from cutaway.evaluation.attention_adversarial import EACH, SEEDS, TRAINED, UNIFORM, attention_adversarial_training
from cutaway.evaluation.attention_flat import attention_uniform
from cutaway.evaluation.attention_guide import attention_guide
from cutaway.evaluation.attention_seeds import attention_seeds
from cutaway.evaluation.attention_training import Class, Watched, equal, watched
from cutaway.evaluation.retraining import School
from cutaway.testing.models import text_model, tiny_model, with_recipe

ALL = [attention_seeds, attention_guide, attention_adversarial_training]
LEARNING = [*ALL, attention_uniform]
TEXTS = ["the film was very good", "dull plot", "a great film but not fun"]
SIGNS = 2  # words 1 and 2 decide the class, all others are noise
WORDS = 12


def attentive():
    return text_model(name="text_attention")


class Chosen(nn.Module):
    """Attention over single words, whose values are added up: only attention can find the one word that decides."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS + 1, 8)
        self.score = nn.Embedding(WORDS + 1, 1)
        self.attention = nn.Softmax(dim=1)
        self.fc = nn.Linear(8, 2)

    def forward(self, ids, attention_mask=None):
        weights = self.attention(self.score(ids)[..., 0].masked_fill(ids == 0, -torch.inf))
        return self.fc((weights[..., None] * self.embedding(ids)).sum(1))


def sentences(count, seed, width=8):
    """One word of two says the class, among words that say nothing."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, WORDS + 1, (count, width), generator=generator)
    labels = torch.randint(2, (count,), generator=generator)
    where = torch.randint(width, (count,), generator=generator)
    ids[torch.arange(count), where] = 1 + labels
    return Examples(x=ids, names=[str(i) for i in range(count)], labels=labels, classes=("no", "yes"))


RECIPE = Recipe(build=Chosen, train=lambda: sentences(512, 1), space=tokens(), epochs=8, rate=0.1, name="chosen")


@pytest.fixture(scope="module")
def chosen():
    model = Model(
        follow(RECIPE, RECIPE.train(), seed=0), tokens(), classes=("no", "yes"), name="chosen", embedding="embedding"
    )
    model.recipe = RECIPE
    return model


# -- known answers -----------------------------------------------------------------------------------------------------


def test_attention_that_the_task_asks_for_comes_back_with_every_seed(chosen):
    x = sentences(60, 2)
    found = attention_seeds(chosen, x, trainings=3)
    assert found.positions.shape == (60, 2)
    assert found.checks["accuracy"].value > 0.95
    assert found.checks["verdict"].value < 0.25
    assert found.checks["peaked"].value == 0
    assert (found.positions[:, 1] <= math.log(2)).all()


def test_attention_that_is_needed_guides_a_network_that_sees_words_alone(chosen):
    found = attention_guide(chosen, sentences(200, 2), trainings=1, strength=0.5, size=8, epochs=3)
    assert found["the network's"] >= found["uniform"]
    assert found["the network's"] > found["an adversary's"]
    assert found.checks["adversary"].value > 0.2
    assert (found.low <= found.values).all()
    assert (found.values <= found.high).all()


def test_the_curve_climbs_with_the_strength(chosen):
    found = attention_adversarial_training(chosen, sentences(60, 2), strengths=(0, 0.02, 1), seeds=1)
    apart = [float(p[0]) for p, g in zip(found.positions, found.groups, strict=True) if g == TRAINED]
    assert apart[0] < 0.2 < apart[-1] <= math.log(2)
    assert found.groups == [SEEDS, TRAINED, TRAINED, TRAINED, UNIFORM, EACH]
    assert found.names[1:4] == ["λ = 0", "λ = 0.02", "λ = 1"]
    assert found.joined == [TRAINED]
    assert (found.positions >= 0).all()


def test_training_without_a_choice_is_compared_with_training_with_one(chosen):
    found = attention_uniform(chosen, sentences(100, 2), trainings=1)
    assert found["accuracy"] > 0.95
    assert found["accuracy, trained again"] > 0.95
    assert found["accuracy, trained with uniform attention"] <= found["accuracy, trained again"]
    assert "trained" in found.checks
    plain = attention_uniform(chosen, sentences(100, 2).x)
    assert plain.names == found.names[:3]
    assert_close(plain.values, found.values[:3])


# -- slow references ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_adversary_is_taught_by_the_formula(chosen, monkeypatch):
    """Reference: one step on TVD - strength * KL(a' | a), written out text by text."""
    seen = []
    texts = Class.of(chosen, sentences(12, 5).x, None, "a test", RECIPE, 16, 1)
    taught = texts.taught()
    monkeypatch.setattr(School, "train", lambda school, seed, *, x=None, lesson=None: seen.append(lesson) or chosen)
    texts.adversary(0.3, 1, taught)
    net = Chosen()
    rows = torch.arange(4)
    loss = float(seen[0](net, rows))
    expected = 0.0
    for row in rows.tolist():
        ids = texts.school.data.x[row : row + 1]
        logits, read = through(net, ids, read=[Site("attention")])
        p, a = logits.softmax(1)[0], read[Site("attention")][0]
        q, b = taught.probabilities[row], taught.weights[row]
        tvd = sum(abs(float(p[k] - q[k])) for k in range(2)) / 2
        kl = sum(float(a[k]) * math.log(float(a[k]) / float(b[k])) for k in range(8))
        expected += (tvd - 0.3 * kl) / 4
    assert loss == pytest.approx(expected, rel=1e-4)


def test_distances_of_networks_are_those_of_the_definition():
    one = Watched(torch.tensor([[0.5, 0.5, 0.0]]).double(), torch.tensor([[0.9, 0.1]]).double())
    other = Watched(torch.tensor([[1.0, 0.0, 0.0]]).double(), torch.tensor([[0.6, 0.4]]).double())
    middle = [0.75, 0.25]
    jsd = (0.5 * math.log(0.5 / middle[0]) + 0.5 * math.log(0.5 / middle[1]) + math.log(1 / middle[0])) / 2
    assert float(one.divergence(other)) == pytest.approx(jsd)
    assert float(one.change(other)) == pytest.approx(0.3)
    assert float(one.divergence(one)) == 0


def test_equal_attention_is_shared_by_words_and_not_by_padding():
    weights = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.2, 0.6]])
    assert_close(equal(weights), torch.tensor([[0.5, 0.5, 0.0], [1 / 3] * 3]))
    assert_close(equal(weights[:, None]), equal(weights)[:, None])


def test_uniform_training_leaves_the_scores_alone(chosen):
    """Nothing flows back into attention that is held."""
    texts = Class.of(chosen, sentences(8, 5).x, None, "a test", RECIPE, 64, 1)
    seen = texts.uniform(3)
    assert_close(seen.weights, torch.full_like(seen.weights, 1 / 8))
    whole = watched(chosen, texts.x, texts.site, equal)
    assert_close(whole.weights, seen.weights)


def test_between_two_networks_the_curve_is_a_line():
    def network(apart, moved):
        return attention_adversarial._Network(TRAINED, "", apart, moved, 1.0)

    line = [network(0.0, 0.1), network(0.4, 0.3), network(0.6, 0.9)]
    assert attention_adversarial._along(line, 0.2) == pytest.approx(0.2)
    assert attention_adversarial._along(line, 0.6) == pytest.approx(0.5)
    assert attention_adversarial._along(line, 1.0) == pytest.approx(0.6)
    assert attention_adversarial._along(line, 0.05) is None


def test_a_network_that_does_the_task_as_well_counts_though_it_answers_otherwise():
    def network(group, name, apart, moved, right):
        return attention_adversarial._Network(group, name, apart, moved, right)

    seed = network(SEEDS, "seed 1", 0.06, 0.12, 0.80)
    imitating = network(TRAINED, "λ = 0", 0.06, 0.13, 0.79)
    far = network(TRAINED, "λ = 1", 0.6, 0.2, 0.78)
    found = attention_adversarial._verdict([imitating, far], [seed])["verdict"]
    assert (found.status, found.value) == ("warn", 0.6)
    assert "no network that was trained to attend otherwise keeps the output so well" in found
    assert "λ = 1: 78.0%, other seeds 80.0%" in found
    lost = attention_adversarial._verdict([imitating, far._replace(right=0.6)], [seed])["verdict"]
    assert (lost.status, lost.value) == ("ok", 0.06)


# -- laws, time and refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL)
def test_the_same_seed_gives_the_same_and_the_network_stays(method):
    model = attentive()
    before = model.fingerprint
    options = method.method.quick | {"recipe": with_recipe}
    one, other = (method(attentive(), TEXTS, **options) for _ in range(2))
    for name, values in one.arrays().items():
        assert torch.equal(values, other.arrays()[name])
    different = method(model, TEXTS, **options | {"seed": 9})
    assert any(not torch.equal(v, one.arrays()[name]) for name, v in different.arrays().items())
    assert model.fingerprint == before


@pytest.mark.parametrize("method", LEARNING)
def test_what_has_no_attention_or_no_choice_is_refused(method):
    options = {"recipe": with_recipe} | ({"trainings": 1} if method is attention_uniform else {})
    with pytest.raises(NotPossible, match="no place with one weight for each token"):
        method(tiny_model("text"), TEXTS, **options)
    with pytest.raises(NotPossible, match="two tokens or more"):
        method(attentive(), torch.tensor([[3], [4]]), **options)
    with pytest.raises(NotPossible, match="works on text"):
        method(tiny_model("conv"), torch.rand(1, 3, 16, 16), **options)
    with pytest.raises(BadOption, match="expected recipe="):
        method(attentive(), TEXTS, **options | {"recipe": None})
    with pytest.raises(NotPossible, match="all tokens of the text are alike"):
        method(attentive_constant(), torch.tensor([[3, 3, 3]]), **options)


def attentive_constant():
    """The same word three times on a network without order: whatever the attention, the output is the same."""
    torch.manual_seed(0)
    return Model(Chosen().double().eval(), tokens(), embedding="embedding", name="constant")


@pytest.mark.parametrize("method", [m for m in LEARNING if m is not attention_seeds])
def test_a_loop_of_ones_own_cannot_learn_another_loss(method):
    def own(model):
        made = with_recipe(model)
        return Recipe(build=made.build, train=made.train, space=made.space, fit=lambda module, examples, seed: None)

    options = {"trainings": 1} if method is attention_uniform else {}
    with pytest.raises(NotPossible, match="a loss of its own"):
        method(attentive(), TEXTS, recipe=own, **options)
    assert len(attention_seeds(attentive(), TEXTS, recipe=own, trainings=1).positions) == 3


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (attention_seeds, {"trainings": 0}),
        (attention_guide, {"trainings": 0}),
        (attention_guide, {"size": 0}),
        (attention_guide, {"strength": -1.0}),
        (attention_uniform, {"trainings": -1}),
        (attention_adversarial_training, {"strengths": ()}),
        (attention_adversarial_training, {"strengths": ("much",)}),
        (attention_adversarial_training, {"strengths": (-1.0,)}),
        (attention_adversarial_training, {"seeds": -1}),
    ],
)
def test_options_out_of_range_are_refused(method, options):
    with pytest.raises(BadOption, match=next(iter(options))):
        method(attentive(), TEXTS, recipe=with_recipe, **options)


def test_labels_must_be_as_many_as_texts():
    with pytest.raises(BadShape, match="a label for each of 3"):
        attention_seeds(attentive(), TEXTS, recipe=with_recipe, trainings=1, labels=torch.tensor([0]))


def test_one_text_and_one_training_are_an_answer(chosen):
    found = attention_seeds(chosen, sentences(1, 4), trainings=1, epochs=1)
    assert found.positions.shape == (1, 2)


@pytest.mark.parametrize("count", [1, 4, 5])
def test_fewer_than_five_texts_have_no_interval_and_say_so(chosen, count):
    x, quick = sentences(count, 4), {"trainings": 1, "epochs": 1}
    uniform, guide = attention_uniform(chosen, x), attention_guide(chosen, x, size=4, **quick)
    seeds, tau = attention_seeds(chosen, x, **quick), attention_correlation(chosen, x, 1)
    for found in (uniform, guide, seeds, tau):
        assert ("few" in found.checks) == (count < 5)
    for found in (uniform, guide):
        assert len(found.low) == len(found.high) == (0 if count < 5 else len(found.values))
    assert (seeds.checks["verdict"].interval is None) == (count < 5)
    assert ("(mean" in tau.checks["attention_and_gradient"]) == (count == 5)


def test_the_time_limit_keeps_what_there_is(monkeypatch, chosen):
    calls = iter([False, True])
    monkeypatch.setattr("cutaway.evaluation.attention_seeds.time_is_up", lambda: next(calls))
    found = attention_seeds(chosen, sentences(5, 4), trainings=3, epochs=1)
    assert found.checks["partial"].value == 1
    monkeypatch.setattr("cutaway.evaluation.attention_seeds.time_is_up", lambda: True)
    with pytest.raises(NotPossible, match="before the first training"):
        attention_seeds(chosen, sentences(5, 4), trainings=3, epochs=1)
    monkeypatch.setattr("cutaway.evaluation.attention_adversarial.time_is_up", lambda: True)
    found = attention_adversarial_training(chosen, sentences(5, 4), epochs=1)
    assert found.checks["partial"].value == 1
    assert found.groups == [SEEDS, EACH]


def test_the_cost_is_said_first(chosen):
    with limits(forwards=100), pytest.raises(NotPossible, match=r"attention_seeds with 4 trainings of 8 passes"):
        attention_seeds(chosen, sentences(5, 4))


# -- trained networks --------------------------------------------------------------------------------------------------

needs_data = pytest.mark.skipif(not os.environ.get("CUTAWAY_DATA"), reason="needs SST-2 (set CUTAWAY_DATA)")


@needs_data
@pytest.mark.slow
def test_seeds_and_uniform_attention_on_an_average_encoder():
    """A short training: seeds agree more than an adversary, and uniform attention costs some accuracy at most."""
    x = ct.data("sst2/dev[0:200]")
    with limits(forwards=math.inf):
        found = attention_adversarial_training(
            ct.load("sentiment-average"), x, strengths=(0.05,), seeds=1, epochs=3, examples=3000
        )
    apart = dict(zip(found.groups, found.positions[:, 0].tolist(), strict=True))
    assert apart[SEEDS] < apart[TRAINED] <= math.log(2)
    assert apart[EACH] <= math.log(2)
