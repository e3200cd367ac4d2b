"""Network dissection on planted units, whose IoU is known, and against the sums written out slowly."""

import numpy as np
import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape
from cutaway.core.receptive import Axis
from cutaway.dissection.colours import NAMES, colours
from cutaway.dissection.concepts import Vocabulary
from cutaway.dissection.detectors import summary
from cutaway.dissection.dissect import dissect
from cutaway.dissection.exemplars import dataset_examples
from cutaway.dissection.units import above, below, spread

SIZE, N = 20, 12


class Planted(nn.Module):
    """Unit 0 is the red channel, unit 1 its smaller half, unit 2 never fires, unit 3 is the green channel."""

    def __init__(self):
        super().__init__()
        self.units = nn.Identity()

    def forward(self, x):
        red, green, blue = x.split(1, 1)
        return self.units(torch.cat([red, red * blue, 0 * red, green], 1)).mean((2, 3))


def make(share: float = 0.1, seed: int = 0) -> tuple[ct.Model, Examples, torch.Tensor]:
    """Pictures whose red channel is a concept; blue marks half of its pixels, green is noise that knows nothing."""
    draw = torch.Generator().manual_seed(seed)
    concept = torch.rand(N, SIZE, SIZE, generator=draw) < share
    half = concept & (torch.rand(N, SIZE, SIZE, generator=draw) < 0.5)
    green = torch.rand(N, SIZE, SIZE, generator=draw)
    x = torch.stack([concept.float(), green, half.float()], 1)
    labels = torch.zeros(N, 1, SIZE, SIZE, dtype=torch.int16)
    labels[:, 0][concept] = 1
    labels[:, 0][~concept & (green > 0.9)] = 2
    data = Examples(
        x=x,
        names=[str(i) for i in range(N)],
        source="planted",
        concepts={"thing": labels},
        concept_names={"thing": ("", "red", "green")},
    )
    return ct.Model(Planted(), ct.images(SIZE)), data, concept


def rows_of(table, *columns):
    return {row[0]: [row[table.columns.index(c)] for c in columns] for row in table.rows}


def test_planted_units_have_the_iou_that_follows_from_their_sizes():
    model, data, concept = make()
    # The concept covers just under a tenth: the 0.9 quantile lies below 1, so unit 0 is on exactly where it is.
    table = dissect(model, data, site="units", categories=("thing",), quantile=1 - float(concept.float().mean()) - 1e-3)
    found = rows_of(table, "concept", "IoU", "ceiling")
    assert found[0][0] == "red"
    assert found[0][1] == 1
    assert found[0][2] == 1


def test_a_unit_that_knows_nothing_has_the_iou_of_chance():
    model, data, _ = make(share=0.3)
    row = rows_of(dissect(model, data, site="units", categories=("thing",), quantile=0.7), "IoU", "chance")
    draws = []
    for seed in range(8):
        model, data, _ = make(share=0.3, seed=seed)
        data.concepts["thing"][data.concepts["thing"] == 2] = 0
        table = dissect(model, data, site="units", categories=("thing",), quantile=0.7)
        row = rows_of(table, "IoU", "chance")[3]
        draws.append(row)
    iou, chance = np.mean(draws, axis=0)
    a = b = 0.3
    assert chance == pytest.approx(a * b / (a + b - a * b), abs=0.01)
    assert iou == pytest.approx(chance, abs=0.01)


def slow(model, data, quantile):
    """The paper's sums, one pixel after the other, at the size of the picture."""
    act = model.run(data.x, read=["units"])["units"].double().numpy()
    labels = data.concepts["thing"][:, 0].numpy()
    found = np.zeros((act.shape[1], 2))
    for u in range(act.shape[1]):
        threshold = np.quantile(act[:, u], quantile)
        for c in (1, 2):
            both = either = 0
            for i in range(len(act)):
                for a, label in zip(act[i, u].ravel(), labels[i].ravel(), strict=True):
                    both += int(a > threshold and label == c)
                    either += int(a > threshold or label == c)
            found[u, c - 1] = both / either
    return found


def test_equals_the_sums_written_out():
    model, data, _ = make(share=0.2, seed=3)
    table = dissect(model, data, site="units", quantile=0.85, categories=("thing",))
    truth = slow(model, data, 0.85)
    for unit, (concept, iou) in rows_of(table, "concept", "IoU").items():
        if truth[unit].max() > 0:
            assert concept == ("red", "green")[truth[unit].argmax()]
        assert iou == pytest.approx(truth[unit].max(), abs=1e-12)


def test_a_unit_that_never_fires_is_said_to_be_dead():
    model, data, _ = make()
    table = dissect(model, data, site="units", categories=("thing",))
    assert table.checks["dead"].status == "warn"
    assert rows_of(table, "concept", "IoU")[2] == ["–", 0.0]


def test_pictures_where_nobody_looked_do_not_count():
    model, data, _ = make()
    whole = rows_of(dissect(model, data[0:6], site="units", categories=("thing",)), "concept", "threshold")
    blind = data[0:6].concepts["thing"].clone()
    more = ct.Model(Planted(), ct.images(SIZE))
    unlooked = Examples(
        x=torch.cat([data.x[:6]] * 2),
        names=[str(i) for i in range(12)],
        concepts={"thing": torch.cat([blind, torch.full_like(blind, -1)])},
        concept_names=data.concept_names,
    )
    doubled = dissect(more, unlooked, site="units", categories=("thing",))
    once = dissect(model, data[0:6], site="units", categories=("thing",))
    assert whole
    for unit in (0, 3):
        assert rows_of(doubled, "ceiling")[unit] == pytest.approx(rows_of(once, "ceiling")[unit], rel=0.2)


def test_the_sizes_at_which_pixels_are_counted_and_the_class_of_a_picture():
    model, _, _ = make()
    data = ct.data("shapes/test[0:16]")
    model = ct.load("shapes-cnn")
    table = dissect(model, data, site="relu4", resolution=24)
    assert {"best shape", "best texture", "best color", "best class"} <= set(table.columns)
    assert "detectors" in table.checks


def test_shards_and_processes_change_nothing(tmp_path):
    model, data = ct.load("shapes-cnn"), "shapes/test[0:40]"
    plain = ct.run("dissect", model, data, site="relu5", resolution=24)
    kept = ct.run("dissect", model, data, site="relu5", resolution=24, study=tmp_path, workers=1)
    # Another process may run the network with other threads and so other last digits; the counting is exact.
    for ours, theirs in zip(plain.rows, kept.rows, strict=True):
        assert ours[:3] == theirs[:3]
        assert ours[3] == pytest.approx(theirs[3], abs=1e-3)


def test_bad_requests_are_refused():
    model, data, _ = make()
    with pytest.raises(BadOption, match="quantile"):
        dissect(model, data, site="units", quantile=1.5)
    with pytest.raises(BadOption, match="categories out of thing"):
        dissect(model, data, site="units", categories=("smell",))
    with pytest.raises(BadOption, match="expected a data set"):
        dissect(model, "shapes/test", site="units")
    with pytest.raises(BadShape):
        dataset_examples(model, data[0:0])


def test_a_layer_is_enlarged_linearly_between_its_centres():
    """Two positions centred at pixels 2 and 6 of 9: constant outside, a straight line between."""
    matrix = spread(Axis(step=4, first=2, size=1), 2, 9, 9)
    values = matrix @ torch.tensor([0.0, 8.0], dtype=torch.float64)
    assert values.tolist() == [0, 0, 0, 2, 4, 6, 8, 8, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_places_above_a_threshold_are_those_of_the_whole_enlarged_map(dtype):
    draw = torch.Generator().manual_seed(0)
    act = torch.randn(40, 6, 5, generator=draw, dtype=dtype)
    act[3] = 0
    down, across = spread(Axis(4, 1.5, 1), 6, 21, 24).to(dtype), spread(Axis(4, 2, 1), 5, 17, 20).to(dtype)
    for thresholds in (act.flatten(1).double().quantile(0.9, dim=1), act.amax((1, 2)).double(), torch.zeros(40)):
        unit, pixel = above(act, below(thresholds.double(), dtype), down, across)
        found = torch.zeros(40, 21 * 17, dtype=torch.bool)
        found[unit, pixel] = True
        assert len(unit) == int(found.sum())
        assert torch.equal(found, ((down @ act @ across.T).double() > thresholds[:, None, None].double()).flatten(1))


def test_a_threshold_between_two_numbers_of_a_type_divides_them_as_before():
    x = torch.tensor([1.0, 1.0 + 2**-23, 1.0 + 2**-22])
    for share in (0.0, 0.3, 0.5, 0.7):
        thresholds = x[:2].double() + share * (x[1:] - x[:2]).double()
        for threshold in thresholds:
            assert torch.equal(x > below(threshold[None], torch.float32), x.double() > threshold)


def test_a_label_that_is_in_two_layers_counts_once():
    model, data, _ = make()
    doubled = Examples(
        x=data.x,
        names=data.names,
        concepts={"thing": data.concepts["thing"].repeat(1, 2, 1, 1)},
        concept_names=data.concept_names,
    )
    once = dissect(model, data, site="units", categories=("thing",))
    assert dissect(model, doubled, site="units", categories=("thing",)).rows == once.rows


PLAIN = {
    "red": (1, 0, 0),
    "black": (0, 0, 0),
    "white": (1, 1, 1),
    "grey": (0.5, 0.5, 0.5),
    "blue": (0.1, 0.3, 0.8),
    "yellow": (1, 1, 0),
    "brown": (0.45, 0.27, 0.1),
    "orange": (1, 0.55, 0),
    "green": (0, 0.6, 0),
}


@pytest.mark.parametrize(("name", "rgb"), PLAIN.items())
def test_plain_colours_have_their_names(name, rgb):
    assert NAMES[int(colours(torch.tensor(rgb).float().view(1, 3, 1, 1)))] == name


def test_the_summary_counts_different_concepts():
    found = summary([("object", "dog"), ("object", "dog"), ("color", "red"), ("part", "leg")], [0.1, 0.05, 0.2, 0.04])
    assert (found.units, found.detectors, found.unique) == (4, 3, 2)
    assert found.by_category == {"object": 2, "color": 1}
    assert len(Vocabulary(("a", "b"), (("x",), ("y", "z")))) == 3


def test_the_strongest_examples_are_those_of_a_sort():
    model, data = ct.load("shapes-cnn"), ct.data("shapes/test[0:30]")
    table = dataset_examples(model, data, sites=("relu5", "fc"), k=4)
    act = model.run(data, read=["relu5", "fc"])
    for site in ("relu5", "fc"):
        peaks = act[site].reshape(*act[site].shape[:2], -1).amax(2).double()
        for unit in range(peaks.shape[1]):
            mine = [row for row in table.rows if row[0] == site and row[1] == unit]
            order = sorted(range(30), key=lambda i, unit=unit, peaks=peaks: (-float(peaks[i, unit]), i))[:4]
            assert [row[3] for row in mine] == order
            assert [row[4] for row in mine] == pytest.approx([float(peaks[i, unit]) for i in order])


class Signed(nn.Module):
    """Unit 0 is the picture's mean brightness less a half, at every position; unit 1 the same, rectified."""

    def __init__(self):
        super().__init__()
        self.units = nn.Identity()

    def forward(self, x):
        mean = x.mean((1, 2, 3), keepdim=True).expand(-1, 1, 4, 4) - 0.5
        return self.units(torch.cat([mean, mean.relu()], 1)).mean((2, 3))


def test_the_spectrum_is_what_sorting_gives():
    """Each part against the peaks of all examples, written out."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(60, 1, 1, 1, generator=draw).expand(-1, 3, 8, 8).contiguous()
    model = ct.Model(Signed(), ct.images(8))
    table = dataset_examples(
        model, Examples(x=x, names=list(map(str, range(60)))), sites=("units",), k=3, spectrum=True
    )
    values = x[:, 0, 0, 0] - 0.5
    high, low = values.max() / 5, values.min() / 5
    slightly = [values.masked_fill((values <= 0) | (values > high), -9).topk(3).indices.tolist()]
    slightly += [(-values).masked_fill((values >= 0) | (values < low), -9).topk(3).indices.tolist()]
    expected = {
        "maximum": values.topk(3).indices.tolist(),
        "slightly positive": slightly[0],
        "slightly negative": slightly[1],
        "minimum": (-values).topk(3).indices.tolist(),
    }
    for part, ids in expected.items():
        found = [row for row in table.rows if row[1] == 0 and row[6] == part]
        assert [row[3] for row in found] == ids
        assert [row[4] for row in found] == pytest.approx(values[ids].tolist(), abs=1e-6)
    assert {row[6] for row in table.rows if row[1] == 1} == {"maximum", "slightly positive"}
    assert table.checks["negative"].value == 1
    assert [row[6] for row in table.rows if row[1] == 0][::3] == list(expected)
