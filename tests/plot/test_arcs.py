import torch
from matplotlib.patches import PathPatch

from cutaway import plot
from cutaway.core.result import Matrix
from cutaway.plot import arcs
from cutaway.plot.matrix import _short

WORDS = "the film was not good".split()


def matrix(*, sequence=True, words=WORDS, **more):
    values = torch.full((len(words), len(words)), 0.01, dtype=torch.float64)
    values[3, 4] = values[4, 3] = 1.0
    values[1, 4] = values[4, 1] = -0.5
    values.fill_diagonal_(torch.nan)
    return Matrix(values=values, row_names=words, column_names=words, sequence=sequence, unit="target", **more)


def drawn(result):
    return [a for ax in plot.draw(result).axes for a in ax.patches if isinstance(a, PathPatch)]


def test_words_have_an_arc_for_each_strong_pair_above_or_below():
    up, down = sorted(drawn(matrix()), key=lambda arc: arc.get_path().vertices[:, 1].min())
    assert up.get_path().vertices[1, 1] < up.get_path().vertices[0, 1]  # the axis points down
    assert down.get_path().vertices[1, 1] > down.get_path().vertices[0, 1]
    assert up.get_linewidth() > down.get_linewidth()
    assert (up.get_linestyle(), down.get_linestyle()) != ("solid", "solid")


def test_columns_and_long_texts_have_only_the_matrix():
    assert not drawn(matrix(sequence=False))
    assert not drawn(matrix(words=[f"word{i}" for i in range(60)]))


def test_an_estimate_whose_interval_holds_zero_has_no_arc():
    values = matrix().values
    assert len(drawn(matrix(low=values - 0.6, high=values + 0.6))) == 1
    assert not drawn(matrix(low=values - 2, high=values + 2))


def test_no_interaction_is_said_in_words():
    flat = Matrix(values=torch.zeros(2, 2), row_names=["a", "b"], column_names=["a", "b"], sequence=True)
    assert not drawn(flat)
    assert "no two words interact" in {t.get_text() for ax in plot.draw(flat).axes for t in ax.texts}


def test_words_that_mean_something_to_matplotlib_are_drawn_as_they_stand():
    plot.png_bytes(matrix(words=["$x$", "", "\u202e", "a" * 40, "good"]))
    assert arcs.fits(matrix())


def test_numbers_in_cells_share_their_decimals():
    assert [_short(v, 1.4) for v in (1.4, -0.333, -0.001, 0.0)] == ["1.40", "−0.33", "0.00", "0.00"]
    assert [_short(v, 140) for v in (140, -46.7)] == ["140", "−47"]
    assert _short(1.5e-4, 2e-4) == "1.5×10⁻⁴"
