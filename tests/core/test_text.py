"""Texts at the door: their pieces, where these lie in the original, and which make up a word."""

import pytest
import torch

from cutaway.core.batch import repeat, take
from cutaway.core.errors import BadShape
from cutaway.core.text import Encoded, encoded, notes_on, pieces_of
from cutaway.testing.models import text_model
from cutaway.testing.sequences import ToyTokenizer
from cutaway.zoo.words import WordTokenizer

WORDS = WordTokenizer(["a", "film", "n't", "bore", "does", ","])
TEXTS = ["A film, doesn't\n bore", "dull"]


class Marking:
    """A tokenizer that knows neither offsets nor words, but marks its pieces."""

    pad_token_id, unk_token_id, all_special_ids = 0, None, (0, 1)

    def __init__(self, *pieces):
        self.pieces = ("[PAD]", "[CLS]", *pieces)

    def convert_ids_to_tokens(self, ids):
        return [self.pieces[i] for i in ids]


def test_pieces_lie_where_they_stand_in_the_original():
    for piece, text in zip(encoded(TEXTS, WORDS).pieces, TEXTS, strict=True):
        assert piece.text == text
        shown = [text[a:b] for a, b in piece.offsets[: len(piece)]]
        assert list(piece.names) == shown
    assert encoded(TEXTS, WORDS).pieces[0].names == ("A", "film", ",", "does", "n't", "bore")


def test_padding_belongs_to_no_word():
    short = encoded(TEXTS, WORDS).pieces[1]
    assert (len(short), len(short.tokens), short.padding) == (1, 6, 5)
    assert short.words == (0, -1, -1, -1, -1, -1)
    assert short.offsets[1:] == ((0, 0),) * 5


def test_slices_and_repeats_keep_pieces_and_tensors_together():
    batch = encoded([*TEXTS, "bore"], WORDS)
    chosen = (slice(1, 3), torch.tensor([2, 1]), torch.tensor([False, True, True]))
    for rows, wanted in zip(chosen, (["dull", "bore"], ["bore", "dull"], ["dull", "bore"]), strict=True):
        part = take(batch, rows)
        assert isinstance(part, Encoded)
        assert [p.text for p in part.pieces] == wanted
        assert part["input_ids"].shape == (2, 6)
    many = repeat(batch, 2)
    assert [p.text for p in many.pieces] == [text for text in (*TEXTS, "bore") for _ in range(2)]
    assert torch.equal(many["input_ids"][::2], batch["input_ids"])


@pytest.mark.parametrize(
    ("pieces", "ids", "words", "names"),
    [
        (("un", "##happ", "##ily", "so"), [1, 2, 3, 4, 5, 0], (-1, 0, 0, 0, 1, -1), ("unhappily", "so")),
        (("Ġun", "happily", "Ġso"), [1, 2, 3, 4], (-1, 0, 0, 1), ("unhappily", "so")),
        (("▁un", "happily", "▁so"), [2, 3, 4, 0], (0, 0, 1, -1), ("unhappily", "so")),
    ],
)
def test_bare_ids_have_words_by_the_marks_of_their_pieces(pieces, ids, words, names):
    (found,) = pieces_of(torch.tensor([ids]), Marking(*pieces))
    assert found.words == words
    assert found.names == names
    assert found.marked
    assert not found.offsets


def test_a_tokenizer_without_offsets_makes_each_piece_a_word_and_says_so():
    batch = encoded(["the film was xyz"], ToyTokenizer())
    assert batch.pieces[0].words == (-1, 0, 1, 2, 3)
    notes = notes_on(batch.pieces)
    assert "each piece is taken for a word" in notes["pieces"]
    assert notes["unknown"].value == 1


def test_unknown_words_are_named_as_they_stand():
    notes = notes_on(encoded(["A film, UTTERLY superb"], WORDS).pieces)
    assert "2 of 5 words ('UTTERLY', 'superb')" in notes["unknown"]
    assert notes["unknown"].status == "note"
    assert notes_on(encoded(["superb film superb"], WORDS).pieces)["unknown"].status == "warn"
    assert notes_on(encoded(["a film"], WORDS).pieces) == {}


@pytest.mark.parametrize("empty", ["", "   ", "\n\t"])
def test_a_text_without_a_word_is_refused_by_its_number(empty):
    with pytest.raises(BadShape, match="number 1 has no word"):
        encoded(["a film", empty], WORDS)


def test_ids_that_are_all_padding_are_refused():
    model = text_model()
    with pytest.raises(BadShape, match="number 1 is all padding"):
        model.predict(torch.tensor([[2, 3], [0, 0]]))
    with pytest.raises(BadShape, match="empty or all padding"):
        model.predict({"input_ids": torch.tensor([[2, 3]]), "attention_mask": torch.tensor([[0, 0]])})


def test_embeddings_have_no_pieces():
    assert pieces_of({"inputs_embeds": torch.zeros(1, 3, 4)}, WORDS) == []
    assert pieces_of({"input_ids": torch.zeros(1, 3, 4)}, WORDS) == []
    assert pieces_of(torch.tensor([[1, 2]]), None) == []
