import pytest
import torch
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.errors import BadOption, NotPossible
from cutaway.evaluation.words import word_deletion
from cutaway.testing.models import tiny_model
from cutaway.testing.planted import box_model, bright, made, oracle

MOST, LEAST = "most relevant first", "least relevant first"
TEXT = "a good film but slow"
_PIECES = tiny_model("text").inputs("good")
GOOD = int(_PIECES["input_ids"][0, _PIECES.pieces[0].words.index(0)])


def trigger_model():
    """The logit of class 1 is the number of times that `good` occurs, times 3: every other word is ignored."""
    model = tiny_model("text")

    class Counts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(64, 1).double()
            with torch.no_grad():
                self.embedding.weight.zero_()
                self.embedding.weight[GOOD] = 3.0

        def forward(self, input_ids, attention_mask=None):
            values = self.embedding(input_ids)[..., 0]
            values = values if attention_mask is None else values * attention_mask
            return torch.stack([0 * values.sum(1), values.sum(1)], dim=1)

    return ct.Model(Counts(), model.space, name="trigger", tokenizer=model.tokenizer, embedding="embedding")


def truth(model, text):
    x = model.inputs(text)
    pieces = x.pieces[0].tokens
    return torch.tensor([[1.0 if piece == "good" else 0.0 for piece in pieces]], dtype=torch.float64)


@pytest.mark.parametrize("fill", ["remove", "zero"])
def test_the_planted_word_decides_at_once_or_at_the_very_end(fill):
    model = trigger_model()
    found = word_deletion(model, TEXT, made(truth(model, TEXT)), fills=fill, steps=5, score="target")
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
    flat = word_deletion(model, TEXT, made(torch.ones_like(truth(model, TEXT))), fills="zero", score="target")
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
