"""Outlined pictures: the right pictures, the right places, names that are only text."""

import re

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption
from cutaway.dissection.unit_pictures import outlined, unit_pictures
from cutaway.report import write

SIZE = 24


class Channels(nn.Module):
    def __init__(self):
        super().__init__()
        self.units = nn.Identity()

    def forward(self, x):
        return self.units(x).mean((2, 3))


def squares(n=6, **more):
    """A red square that grows from picture to picture, in another corner each time."""
    x = torch.full((n, 3, SIZE, SIZE), 0.2)
    for i in range(n):
        x[i, 0, : 4 + i, : 4 + i] = 0.5 + 0.05 * i
    names = [f"<script>alert({i})</script>" for i in range(n)]
    return ct.Model(Channels(), ct.images(SIZE)), Examples(x=x, names=names, source="squares", **more)


def test_the_strongest_pictures_come_first_and_are_outlined_where_the_unit_is_strong():
    model, data = squares()
    found = unit_pictures(model, data, site="units", units="0", k=2, quantile=0.95)
    assert found.columns == 2
    assert [caption.split(":")[0] for caption in found.captions] == [data.names[5], data.names[4]]
    assert found.headings[0].startswith("unit 0: ")
    scale = found.images.shape[-1] // SIZE
    assert scale == 8
    inside, outside = found.images[0][:, 8, 8], found.images[0][:, -1, -1]
    assert torch.allclose(inside, data.x[5, :, 0, 0])
    assert torch.allclose(outside, 0.3 * data.x[5, :, -1, -1])
    yellow = (found.images[0] == torch.tensor([1.0, 0.85, 0.0])[:, None, None]).all(0).nonzero()
    edge = 9 * scale  # the largest square has nine pixels
    assert edge - 2 * scale < int(yellow.max()) < edge + scale
    assert (found.images >= 0).all()
    assert (found.images <= 1).all()


def test_without_concepts_the_first_units_are_shown():
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 2))
    x = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    data = Examples(x=x, names=["a", "b", "c"])
    found = unit_pictures(ct.Model(net, ct.images(SIZE, channels=1)), data, site="0", k=9, quantile=0.9)
    assert found.columns == 3
    assert len(found.headings) == 3
    assert "without concepts" in found.checks["concepts"]


def test_numbers_with_gaps_lead_to_the_right_pictures():
    model, data = squares(ids=torch.tensor([10, 11, 12, 20, 21, 22]))
    found = unit_pictures(model, data, site="units", units="0", k=1, quantile=0.95)
    assert found.captions[0].startswith(data.names[5])


def test_bad_requests_are_refused():
    model, data = squares()
    with pytest.raises(BadOption, match="units from 0 to 2"):
        unit_pictures(model, data, site="units", units="0;3")
    with pytest.raises(BadOption, match="at least one picture"):
        unit_pictures(model, data, site="units", k=0)


def test_a_mask_that_is_everything_or_nothing_has_no_edge():
    picture = torch.rand(3, 30, 30)
    assert torch.equal(outlined(picture, torch.ones(30, 30, dtype=torch.bool)), picture)
    assert torch.equal(outlined(picture, torch.zeros(30, 30, dtype=torch.bool)), 0.3 * picture)


def test_the_page_shows_a_line_for_each_unit_and_no_name_becomes_code(tmp_path):
    model, data = squares()
    pictures = unit_pictures(model, data, site="units", k=2, quantile=0.95)
    table = ct.run("dissect", model, data, site="units", quantile=0.95)
    page = write([table, pictures], tmp_path / "page.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    for heading in pictures.headings:
        assert f"<h3>{heading}</h3>" in page
    assert "detectors by category" in page
    assert re.search(r"script-src &#39;sha256-|script-src 'sha256-", page)


def test_the_histogram_by_category_counts_detectors():
    model, data = squares()
    table = ct.run("dissect", model, data, site="units", quantile=0.95)
    assert sum(table.tally.values()) == sum(row[table.columns.index("detector")] for row in table.rows)
    assert "color" in table.tally
    assert "detectors by category: color" in ct.plot.describe(table)
