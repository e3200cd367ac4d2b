import pytest
import torch
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.errors import BadOption, NotPossible
from cutaway.evaluation.words import word_deletion
from cutaway.testing.models import tiny_model
from cutaway.testing.planted import GOOD, box_model, bright, made, oracle, trigger_model, triggers

MOST, LEAST = "most relevant first", "least relevant first"
TEXT = "a good film but slow"


@pytest.mark.parametrize("fill", ["remove", "zero"])
def test_the_planted_word_decides_at_once_or_at_the_very_end(fill):
    model = trigger_model()
    found = word_deletion(model, TEXT, made(triggers(model, TEXT)), fills=fill, steps=5, score="target")
    assert_close(found.y[MOST], torch.tensor([0.0, 3, 3, 3, 3, 3], dtype=torch.float64))
    assert_close(found.y[LEAST], torch.tensor([0.0, 0, 0, 0, 0, 3], dtype=torch.float64))
    assert found.summary[MOST] == pytest.approx(2.5)
    assert found.summary[MOST] > found.summary["random"] > found.summary[LEAST]
    assert found.checks["verdict"].status == "ok"


def test_removing_is_the_text_without_the_words():
    model = tiny_model("text")
    pieces = model.inputs(TEXT).pieces[0]
    assert len(pieces.names) == len(TEXT.split())
    of_words = [0.1, 0.9, 0.5, -0.2, 0.3]
    values = torch.tensor([[of_words[word] if word >= 0 else 7.0 for word in pieces.words]], dtype=torch.float64)
    found = word_deletion(model, TEXT, made(values), fills="remove", steps=5, score="target")
    order = [1, 2, 4, 0, 3]
    words, full = TEXT.split(), float(model.run(model.inputs(TEXT)).scores[0, 1])
    for gone in range(5):
        left = " ".join(w for i, w in enumerate(words) if i not in order[:gone])
        assert float(found.y[MOST][gone]) == pytest.approx(full - float(model.run(model.inputs(left)).scores[0, 1]))


def test_the_opposite_of_the_reason_fails_and_a_constant_map_says_so():
    model = trigger_model()
    texts = ["good film a but slow", "film good slow a but", "a good film", "slow but good", "good a", "film a good"]
    opposite = word_deletion(
        model, texts, lambda model, x, target: -(x["input_ids"] == GOOD).double(), fills="zero", score="target"
    )
    assert opposite.checks["verdict"].status == "fail"
    flat = word_deletion(model, TEXT, made(torch.ones_like(triggers(model, TEXT))), fills="zero", score="target")
    assert flat.checks["ties"].status == "warn"
    assert flat.checks["verdict"].status == "warn"


def test_several_texts_of_different_lengths():
    model = trigger_model()
    found = word_deletion(model, [TEXT, "good film"], "gradient", target=1)
    assert set(found.summary) == {f"{o}, {f} fill" for o in (MOST, LEAST, "random") for f in ("remove", "zero")}
    assert found.low[MOST].shape == found.x.shape


def test_what_does_not_fit_is_refused():
    model = tiny_model("text")
    for wrong in ({"steps": 1}, {"orders": 1}, {"fills": ()}):
        with pytest.raises(BadOption):
            word_deletion(model, TEXT, **wrong)
    with pytest.raises(NotPossible, match="two words"):
        word_deletion(model, "good")
    with pytest.raises(NotPossible, match="text"):
        word_deletion(box_model(), bright(), made(oracle()))


def test_over_several_texts_the_verdict_has_an_interval_around_its_number():
    model, texts = ct.load("sentiment-cnn"), ["a gripping , funny film", "a dull mess", "what a lovely day"]
    several = ct.run("word_deletion", model, texts, "gradient", fills=("zero",), steps=4, orders=2).checks["verdict"]
    assert several.interval is not None
    low, high = several.interval
    assert low <= several.value <= high
    one = ct.run("word_deletion", model, texts[:1], "gradient", fills=("zero",), steps=4, orders=2).checks["verdict"]
    assert one.interval is None
