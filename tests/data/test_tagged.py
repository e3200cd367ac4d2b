"""Sentences with marked words: a mark for each word, and the same whatever is read beside it."""

import os

import pytest
import torch

import cutaway as ct
from cutaway.data.tagged import OPINIONS, TAGS

pytestmark = pytest.mark.skipif(
    "CUTAWAY_DATA" not in os.environ, reason="needs CUTAWAY_DATA with ud-english, sst2, nltk"
)


def test_each_word_has_its_part_of_speech():
    data = ct.data("ud-english/dev[0:20]")
    for i, text in enumerate(data.x):
        tags = data.concepts["speech"][i, 0, 0]
        words = len(text.split())
        assert bool((tags[:words] > 0).all())
        assert bool((tags[words:] == 0).all())
    assert [
        TAGS[k - 1] for k in data.concepts["speech"][0, 0, 0, :7].tolist()
    ] == "ADP DET PROPN VERB DET NOUN PUNCT".split()
    assert len(ct.data("ud-english/train[12542:12543]").x) == 1


def test_words_of_praise_and_blame_are_marked():
    data = ct.data("sst2-opinions/dev[0:50]")
    assert data.concept_names["opinion"] == ("", *OPINIONS)
    marks = {
        word: int(data.concepts["opinion"][i, :, 0, k].amax())
        for i, t in enumerate(data.x)
        for k, word in enumerate(t.split())
    }
    assert {marks.get(w, 2) for w in ("good", "great", "fun")} == {2}
    assert {marks.get(w, 1) for w in ("bad", "dull", "worst")} == {1}
    assert marks["the"] == 0


def test_a_slice_knows_what_the_whole_knows():
    whole, part = ct.data("sst2-opinions/dev[0:8]"), ct.data("sst2-opinions/dev[3:5]")
    width = part.concepts["opinion"].shape[3]
    assert torch.equal(whole.concepts["opinion"][3:5, :, :, :width], part.concepts["opinion"])
    assert whole.x[3:5] == part.x
