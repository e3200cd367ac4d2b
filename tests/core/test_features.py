import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutaway.core import features
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.features import Features


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_a_grid_is_a_partition_into_cells_of_nearly_equal_size(height, width, data):
    cells = data.draw(st.integers(1, min(height, width)))
    found = features.grid(height, width, cells=cells)
    assert len(found) == cells**2
    sizes = torch.bincount(found.ids.flatten())
    assert sizes.sum() == height * width
    assert sizes.min() >= (height // cells) * (width // cells)
    assert sizes.max() <= -(-height // cells) * -(-width // cells)


def test_a_mask_switches_on_what_its_players_own():
    found = features.grid(4, 4, cells=2)
    masks = found.mask(torch.tensor([[True, False, False, True], [False] * 4]))
    assert masks[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert not masks[1].any()


def test_pixels_words_and_columns_are_named():
    assert features.pixels(2, 3).names[4] == "1,1"
    assert features.columns(["age", "income"]).names == ("age", "income")
    found = features.words(["un", "##believ", "##able", "film"], [0, 0, 0, 1])
    assert found.names == ("un##believ##able", "film")
    assert found.ids.tolist() == [0, 0, 0, 1]
    assert len(features.words(["a", "b"])) == 2


def test_superpixels_follow_the_picture():
    picture = torch.zeros(3, 24, 24)
    picture[:, :, 12:] = 1
    found = features.superpixels(picture, pieces=4)
    assert found.ids.shape == (24, 24)
    assert not set(found.ids[:, :11].unique().tolist()) & set(found.ids[:, 13:].unique().tolist())


def test_gaps_are_closed_or_refused():
    assert features.of_ids(torch.tensor([7, 3, 7])).ids.tolist() == [1, 0, 1]
    with pytest.raises(BadShape, match="0 to 1 without gaps"):
        Features(torch.tensor([0, 2]), ("a", "b"))
    assert len(features.of_ids(torch.zeros(4, 4, dtype=torch.long))) == 1  # one group is a partition too


@pytest.mark.parametrize("cells", [0, 5, -1])
def test_more_cells_than_pixels_are_refused(cells):
    with pytest.raises(BadOption, match="1 to 4 cells"):
        features.grid(4, 6, cells=cells)
