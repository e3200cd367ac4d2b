"""Our own tokenizer."""

import json

import pytest
import torch

from cutaway.core.errors import BadOption
from cutaway.zoo.words import WordTokenizer, split


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A gripping, funny film.", ["a", "gripping", ",", "funny", "film", "."]),
        ("it doesn't work; CAN'T", ["it", "does", "n't", "work", ";", "ca", "n't"]),
        ("ca n't do n't wo n't", ["ca", "n't", "do", "n't", "wo", "n't"]),
        ("O'Brien’s we’ll it 's", ["o", "'", "brien", "'s", "we", "'ll", "it", "'s"]),
        ("3.5 stars", ["3", ".", "5", "stars"]),
        ("naïve 日本 — …", ["naïve", "日本", "—", "…"]),
        ("", []),
        (" \n", []),
    ],
)
def test_words_and_signs(text, words):
    assert [word for word, _, _ in split(text)] == words


def test_every_letter_is_in_one_piece_or_is_space():
    text = "The «film», 2 hours\tlong, ISN'T bad… 🐈!"
    covered = [text[a:b] for _, a, b in split(text)]
    assert "".join(covered) == "".join(text.split())


def test_the_most_frequent_words_come_first_then_by_the_alphabet():
    made = WordTokenizer.of(["b a c", "c a", "b c d"], least=2)
    assert made.words == ("[PAD]", "[UNK]", "[MASK]", "c", "a", "b")
    assert made(["c d"])["input_ids"].tolist() == [[3, 1]]


def test_texts_are_padded_and_cut_as_asked():
    made = WordTokenizer(["a", "b"], longest=2)
    found = made(["a b a", "b"], truncation=True, return_offsets_mapping=True)
    assert found["input_ids"].tolist() == [[3, 4], [4, 0]]
    assert found["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert found["offset_mapping"].tolist() == [[[0, 1], [2, 3]], [[0, 1], [0, 0]]]
    assert found.word_ids(1) == [0, None]
    assert made("a b a")["input_ids"].shape == (1, 3), "cut only if asked"
    assert made.convert_ids_to_tokens(torch.tensor([0, 1, 2, 4])) == ["[PAD]", "[UNK]", "[MASK]", "b"]


def test_a_list_is_stored_and_read(tmp_path):
    made = WordTokenizer(["naïve", "film"], longest=7)
    again = WordTokenizer.read(made.save(tmp_path / "w.json").read_text(encoding="utf-8"))
    assert (again.words, again.model_max_length, len(again)) == (made.words, 7, 5)
    assert json.loads((tmp_path / "w.json").read_text(encoding="utf-8"))["words"] == ["naïve", "film"]


def test_a_word_twice_is_refused():
    with pytest.raises(BadOption, match="twice"):
        WordTokenizer(["a", "a"])
