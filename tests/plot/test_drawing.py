import io

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

import cutaway as ct
from cutaway import plot
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.result import Attribution, Result, Scores
from cutaway.plot import style
from cutaway.plot.attribution import per_place

SCORES = Scores(title="Stability", names=["a"], values=torch.ones(1))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_shape_has_a_drawing(plain, theme):
    figure = plot.draw(plain, theme=theme)
    assert isinstance(figure, Figure)
    picture = Image.open(io.BytesIO(plot.png_bytes(plain, theme=theme, dpi=60)))
    assert np.asarray(picture.convert("L")).std() > 2
    assert plot.describe(plain).endswith(".")


def test_odd_results_are_drawn(odd):
    assert plot.png_bytes(odd, dpi=40).startswith(b"\x89PNG")
    assert plot.describe(odd)
    assert plot.html(odd)


def test_labels_are_drawn_as_text_whatever_they_hold(hostile):
    """S33: no mathematics, no missing glyphs (a warning would be an error here), no endless pictures."""
    picture = Image.open(io.BytesIO(plot.png_bytes(hostile, dpi=40)))
    assert max(picture.size) < 4000
    plot.describe(hostile)


def test_every_shape_is_found_by_its_name():
    for shape in Result.shapes.values():
        if shape.__module__ == "cutaway.core.result":
            assert hasattr(plot.drawing.module_of(shape.__new__(shape)), "draw")


def test_a_shape_without_a_drawing_takes_that_of_its_parent(monkeypatch):
    monkeypatch.setattr(Result, "shapes", dict(Result.shapes))

    class Narrow(Scores):
        pass

    class Other(Result):
        pass

    assert plot.drawing.module_of(Narrow(names=[], values=torch.empty(0))).__name__ == "cutaway.plot.scores"
    with pytest.raises(BadOption, match="got Other"):
        plot.draw(Other())


def test_the_global_state_of_matplotlib_stays(plain):
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "text.usetex": True, "figure.dpi": 31}):
        before = dict(matplotlib.rcParams)
        inside = plot.png_bytes(plain)
        assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []
    assert inside == plot.png_bytes(plain), "a user's style must not change the drawing"


def test_an_unknown_theme_is_named():
    with pytest.raises(BadOption, match="light, dark"):
        plot.draw(SCORES, theme="pink")


def test_the_package_itself_can_be_called():
    assert isinstance(plot(SCORES), Figure)


def test_png_is_written_whole(tmp_path):
    path = plot.png(SCORES, tmp_path / "a.png", dpi=50)
    assert b"cutaway" in path.read_bytes()[:4096]
    with pytest.raises(NotPossible, match="exists"):
        plot.png(SCORES, path, overwrite=False)


def test_the_result_shows_itself_in_a_notebook():
    assert "data:image/png;base64," in SCORES._repr_html_()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (1, "1"),
        (0.1234567, "0.123"),
        (-1234.5, "−1234"),
        (99999.0, "99999"),
        (1e-5, "1.00×10⁻⁵"),
        (-2.5e12, "−2.50×10¹²"),
        (0.00012, "1.20×10⁻⁴"),
        (0.0012, "0.0012"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_are_written_as_people_write_them(value, text):
    assert style.number(value) == text


def test_text_on_any_colour_can_be_read():
    for rgb in np.random.default_rng(0).random((500, 3)):
        ink = matplotlib.colors.to_rgb(style.ink_on(rgb))
        assert style.contrast(rgb, ink) >= 4.5


def test_contrast_of_black_and_white_is_21():
    assert style.contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)


def test_the_descriptions_name_the_extremes():
    values = torch.zeros(1, 3, 9, 9)
    values[0, :, 8, 0] = 1
    sentence = plot.describe(Attribution(values=values, target="logit(3)", unit="logit"))
    assert "from 0 to 3 logit" in sentence
    assert "lower left" in sentence


def test_a_map_of_players_shows_each_players_whole_value():
    model, x = ct.load("shapes-cnn"), ct.data("shapes/test[0]")
    found = ct.run("exact_shapley", model, x, target=0, features="cells:2")
    shown = per_place(found, 0)
    assert torch.allclose(shown, found.extra["whole"][0, 0].double())
    assert float(shown.abs().max()) > 100 * float(found.values.abs().max())  # of 576 pixels each
