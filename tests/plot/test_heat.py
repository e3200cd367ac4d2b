import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab

from cutaway.core.result import Attribution
from cutaway.plot import heat, tokens
from cutaway.plot.style import contrast

SIGNED = heat.Scale(limit=2.0, signed=True, percentile=99.5, clipped=0.0)
PLAIN = heat.Scale(limit=2.0, signed=False, percentile=99.5, clipped=0.0)


def test_zero_is_exactly_the_middle_and_the_limits_are_equal():
    levels = heat.levels(torch.tensor([-9.0, -2.0, 0.0, 2.0, 9.0, float("nan")]), SIGNED)
    assert levels.tolist() == [0, 0, 127, 254, 254, 255]
    assert heat.palette(True)[127].tolist() == [255, 255, 255]
    assert heat.levels(torch.tensor([-1.0, 0.0, 1.0, 2.0]), PLAIN).tolist() == [0, 0, 127, 254]


def test_opposite_values_get_levels_at_equal_distance():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0))
    up, down = heat.levels(values, SIGNED).astype(int), heat.levels(-values, SIGNED).astype(int)
    assert (up + down == 254).all()


def test_supports_is_orange_and_opposes_is_purple():
    red, _, blue = heat.colour(1.5, SIGNED)
    assert red > blue
    red, _, blue = heat.colour(-1.5, SIGNED)
    assert blue > red


def test_the_unsigned_scale_only_darkens():
    light = heat.palette(False)[: heat.LEVELS].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light) <= 0.5).all()


def deuteranopia(rgb: np.ndarray) -> np.ndarray:
    """Colours as someone without green cones sees them, in CIE Lab (Machado et al. 2009, on linear light)."""
    matrix = np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    )
    seen = ((rgb / 255) ** 2.2 @ matrix.T).clip(0, 1) ** (1 / 2.2)
    return rgb2lab(seen[None])[0]


def test_both_signs_differ_for_colour_blind_readers():
    """2.3 is a just noticeable difference."""
    palette = heat.palette(True).astype(float)
    for step in (20, 40, 80, 127):
        up, down = deuteranopia(palette[[127 + step, 127 - step]])
        assert np.linalg.norm(up - down) > 10, step


def test_the_scale_ends_at_a_percentile_and_counts_what_is_beyond():
    values = torch.arange(1, 1001).double()
    scale = heat.scale_of(values, signed=True, percentile=99.0, unit="logit")
    assert scale.limit == 991
    assert scale.clipped == pytest.approx(0.009)
    assert scale.text == "scale ±991 logit, clipped at the 99th percentile (0.9\u00a0% of values beyond)"
    assert heat.scale_of(-values, signed=True, percentile=99.0) == heat.Scale(991.0, True, 99.0, scale.clipped, "")


def test_a_map_of_few_cells_has_none_clipped():
    scale = heat.scale_of(torch.randn(7, 7), signed=True)
    assert scale.clipped == 0
    assert scale.text.endswith("nothing clipped")


def test_a_map_of_one_spike_is_not_lost():
    values = torch.zeros(100, 100)
    values[3, 4] = 5
    assert heat.scale_of(values, signed=True).limit == 5


def test_channels_are_summed():
    values = torch.tensor([[[1.0]], [[-3.0]], [[0.5]]])
    assert heat.spatial(values).tolist() == [[-1.5]]


def test_cells_keep_their_true_size():
    cells = np.arange(6).reshape(2, 3)
    assert (heat.enlarged(cells, 4, 6) == np.kron(cells, np.ones((2, 2)))).all()
    assert heat.enlarged(cells, 5, 7).shape == (5, 7)


def test_the_photo_is_unchanged_where_nothing_mattered():
    image = torch.rand(3, 8, 8)
    film = heat.overlay(image, torch.zeros(2, 2), SIGNED)
    assert (film == heat.grey(heat.photo(image))[..., None]).all()


def test_photos_of_any_range_and_channels():
    assert heat.photo(torch.tensor([[[0.0, 0.5, 1.0]]])).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]
    assert heat.photo(torch.tensor([[[-1.0, 1.0]]])).tolist() == [[[0] * 3, [255] * 3]]
    assert heat.photo(torch.full((7, 2, 2), float("nan"))).shape == (2, 2, 3)


def test_averaging_keeps_the_sign_and_the_mean():
    values = torch.randn(1, 90, 60)
    small, block = heat.smaller(values, 30)
    assert (small.shape, block) == ((1, 30, 20), 3)
    assert float(small.mean()) == pytest.approx(float(values.mean()), abs=1e-6)
    assert heat.smaller(values, 90)[1] == 1


def test_the_indexed_picture_has_the_exact_colours():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = Image.open(io.BytesIO(heat.indexed_png(levels, True))).convert("RGB")
    assert (np.asarray(picture).reshape(-1, 3) == heat.palette(True)).all()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ('logit("tabby")', "tabby"),
        ("logit(3)", "class 3"),
        ('prob("a (b)")', "a (b)"),
        ("logit(3) - logit(5)", "logit(3) - logit(5)"),
        ('unit("conv3:12")', 'unit("conv3:12")'),
        ("", "the target"),
    ],
)
def test_targets_in_words(target, words):
    assert heat.subject(target) == words


def test_the_ends_are_named_by_what_the_values_are():
    def ends(**kind: object) -> tuple[str, str]:
        return heat.ends(Attribution(values=torch.zeros(1, 1), target='logit("tabby")', **kind))

    assert ends(unit="logit") == ("supports tabby", "opposes tabby")
    each = Attribution(values=torch.zeros(2, 1), target='[logit(0), logit("a, b")]')
    assert [heat.ends(each, i)[0] for i in (0, 1, None)] == [
        "supports class 0",
        "supports a, b",
        "supports the target of each input",
    ]
    assert heat.ends(replace(each, target="[logit(1), logit(1)]"))[0] == "supports class 1"
    assert ends(unit="logit per input unit") == ("more here raises tabby", "more here lowers tabby")
    assert ends(signed=False) == ("matters for tabby", "")


def test_every_token_colour_has_enough_contrast():
    for line in tokens.css().splitlines():
        if "background:rgb" in line:
            ground = [int(v) / 255 for v in line.split("rgb(")[1].split(")")[0].split(",")]
            ink = (0.0,) * 3 if "color:#000000" in line else (1.0,) * 3
            assert contrast(ground, ink) >= 4.5, line


def test_token_signs_differ_by_more_than_colour():
    result = Attribution(values=torch.tensor([[1.0, -1.0, 0.0]]), target="t", tokens=[["a", "b", "[SEP]"]])
    html = tokens.marked(result, 0)
    assert '<span class="ct-p10 ct-plus" title="1">a</span>' in html
    assert "ct-m10 ct-minus" in html
    assert "ct-special" in html


def test_padding_is_not_drawn_and_dimensions_are_summed():
    values = torch.tensor([[[1.0, 2.0], [0.0, -1.0], [9.0, 9.0]]])
    result = Attribution(values=values, target="t", tokens=[["a", "b"]])
    assert tokens.per_token(result, 0).tolist() == [3.0, -1.0]
