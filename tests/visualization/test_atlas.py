"""An activation atlas: what is alike lies together, cells are means, icons go where they should; and the probe."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.model import Model
from cutaway.core.space import images
from cutaway.engine.execution import Execution, executing
from cutaway.visualization import atlas as atlases
from cutaway.visualization import atlas_layout
from cutaway.visualization.atlas import activation_atlas, class_atlas
from cutaway.visualization.atlas_layout import in_cells, laid_out, whitened
from cutaway.visualization.probe import patch_probe

QUICK = {"steps": 2, "size": 8, "cells": 4, "least": 1, "levels": 2, "layout": "pca", "positions": 2}


class Colours(nn.Module):
    """Three channels that answer to red, green and blue; the class is the commonest colour."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Conv2d(3, 3, 1, bias=False)
        self.see.weight.data = (2 * torch.eye(3) - 0.7)[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, 3)."""
        return 9 * self.see(x).relu().mean((2, 3))


def model() -> Model:
    return Model(Colours().eval(), images(16), classes=["red", "green", "blue"], name="colours")


def coloured(each: int = 10) -> Examples:
    """Pictures of one colour each, a little uneven."""
    noise = 0.2 * torch.rand(3 * each, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    x = noise + 0.75 * torch.eye(3).repeat_interleave(each, 0)[:, :, None, None]
    return Examples(x=x, names=[str(i) for i in range(3 * each)], source="coloured")


@pytest.mark.parametrize("layout", ["pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_planted_clusters_lie_apart(layout):
    if layout == "umap":
        pytest.importorskip("umap", reason="the extra `atlas` is not installed")
    kinds = torch.arange(240) % 3
    noise = 0.1 * torch.rand(240, 12, generator=torch.Generator().manual_seed(0))
    points = noise + torch.nn.functional.one_hot(kinds, 12)
    places = laid_out(points, layout, 0)
    assert float(places.min()) >= 0
    assert float(places.max()) <= 1
    centres = torch.stack([places[kinds == k].mean(0) for k in range(3)])
    nearest = torch.cdist(places, centres).argmin(1)
    assert float((nearest == kinds).double().mean()) > 0.98
    assert torch.equal(places, laid_out(points, layout, 0))


def test_cells_are_means_of_their_points():
    generator = torch.Generator().manual_seed(1)
    places, rows = torch.rand(200, 2, generator=generator), torch.rand(200, 3, generator=generator)
    grid = in_cells(places, 4, least=9)
    seen = set()
    for number, (row, column) in enumerate(grid.places.tolist()):
        inside = (places[:, 0] * 4).long().eq(column) & (places[:, 1] * 4).long().eq(row)
        assert int(grid.counts[number]) == int(inside.sum()) >= 9
        assert_close(grid.mean(rows)[number], rows[inside].double().mean(0))
        assert torch.equal(grid.members == number, inside)
        seen.add((row, column))
    for row in range(4):
        for column in range(4):
            inside = (places[:, 0] * 4).long().eq(column) & (places[:, 1] * 4).long().eq(row)
            assert ((row, column) in seen) == (int(inside.sum()) >= 9)


def test_whitening_undoes_the_second_moment():
    points = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6)
    inverse, rank = whitened(points)
    assert rank == 5
    moment = points.double().T @ points.double() / len(points)
    assert_close(inverse @ moment, torch.eye(5, dtype=torch.float64), atol=0.02, rtol=0)
    inverse, rank = whitened(torch.cat([points, points], 1))  # half of the dimensions are copies
    assert rank == 5
    assert torch.isfinite(inverse).all()


def test_an_atlas_of_colours_has_a_place_for_each():
    result = activation_atlas(model(), coloured(), **{**QUICK, "steps": 24, "positions": 4})
    icons, about, classes = (result.extra[k] for k in ("icons", "cells", "classes"))
    first = about[:, 0] == 0
    assert int(about[first, 3].sum()) == int(about[~first, 3].sum()) == len(result.extra["layout"]) == 120
    assert result.images.shape == (2, 3, 64, 64)
    assert set(classes[:, 0].tolist()) == {0, 1, 2}
    # The planted colour is what the icon of its cell shows.
    shown = icons.mean((2, 3)).argmax(1)
    assert float((shown == classes[:, 0]).double().mean()) == 1


def test_attributions_are_the_mean_over_all_points_of_a_cell():
    net, data = model(), coloured(4)
    result = activation_atlas(net, data, **{**QUICK, "cells": 1, "levels": 1, "positions": 14 * 14})
    pairs = []
    for x in data.x:
        act = net.run(x[None], read=["see"])["see"][0]
        # d logit_k / d act_k = 9 / 256 where the unit is on, and only class k depends on channel k.
        pairs.append((act.clamp(min=0) * 9 / 256)[:, 1:-1, 1:-1].flatten(1))
    want = torch.cat(pairs, 1).mean(1).double().sort(descending=True)
    assert_close(result.extra["attributions"][0], want.values, rtol=1e-5, atol=1e-6)
    assert result.extra["classes"][0].tolist() == want.indices.tolist()


def test_a_class_atlas_holds_what_adds_most_to_it():
    net, data = model(), coloured()
    result = class_atlas(net, data, classes=("green",), activations=50, layout="pca", steps=2, size=8, cells=3, least=1)
    acts = torch.cat([net.run(x[None], read=["see"])["see"][0][:, 1:-1, 1:-1].flatten(1).T for x in data.x])
    want = acts[acts[:, 1].argsort(descending=True)[:50]]
    assert_close(result.extra["activations"].sort(0).values, want.sort(0).values)
    both = class_atlas(
        net, data, classes=("green", "0"), activations=50, layout="pca", steps=2, size=8, cells=3, least=1
    )
    assert len(both.extra["activations"]) == 100
    assert set(both.extra["classes"][:, 0].tolist()) == {0, 1}


def test_the_same_seed_gives_the_same_atlas_however_the_work_is_cut(monkeypatch):
    import cutaway.engine.work as work

    one = activation_atlas(model(), coloured(), **QUICK)
    monkeypatch.setattr(work, "BATCH", 7)
    again = activation_atlas(model(), coloured(), **QUICK)
    for name, tensor in one.extra.items():
        assert_close(again.extra[name], tensor, rtol=1e-4, atol=1e-4)
    other = activation_atlas(model(), coloured(), **QUICK, seed=1)
    assert not torch.equal(other.extra["activations"], one.extra["activations"])


def test_an_atlas_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(atlases, "_TOGETHER", 2)
    made, original = [], atlases.ascended

    def ascended(model, aims, **options):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(len(aims))
        return original(model, aims, **options)

    monkeypatch.setattr(atlases, "ascended", ascended)
    with executing(Execution(folder=tmp_path)), pytest.raises(KeyboardInterrupt):
        activation_atlas(model(), coloured(), **QUICK)
    kept = sorted(tmp_path.glob("icons-*.safetensors"))
    assert len(kept) == 2
    kept[0].write_bytes(b"torn")
    count = []
    monkeypatch.setattr(atlases, "ascended", lambda m, a, **o: (count.append(len(a)), original(m, a, **o))[1])
    with executing(Execution(folder=tmp_path)):
        resumed = activation_atlas(model(), coloured(), **QUICK)
    monkeypatch.setattr(atlases, "ascended", original)
    whole = activation_atlas(model(), coloured(), **QUICK)
    assert sum(count) == len(whole.extra["icons"]) - 2  # one file of two was whole
    assert_close(resumed.images, whole.images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": 0}, "expected cells of 1 or more; got 0"),
        ({"levels": 0}, "expected levels of 1 or more"),
        ({"levels": 7}, "at most 128 cells"),
        ({"least": 1000}, "no cell has 1000 of the 60 activations"),
        ({"steps": -1}, "expected 0 steps or more"),
        ({"layer": "see:1"}, "expected a whole layer, such as see"),
        ({"size": 4}, "at least 8 pixels"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(BadOption, match=message):
        activation_atlas(model(), coloured(), **{**QUICK, **options})


def test_a_layer_that_never_fires_has_no_atlas():
    net = model()
    net.module.see.weight.data.fill_(-1)
    silent = nn.Sequential(net.module.see, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(BadShape, match="at least 3 activations that are not 0; got 0"):
        activation_atlas(Model(silent, images(16)), coloured(), **QUICK, layer="1")


def test_without_umap_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(NotPossible, match=r"pip install 'cutaway\[atlas\]', or choose layout=pca"):
        laid_out(torch.rand(atlas_layout.FEW, 4), "umap", 0)


def test_few_dimensions_and_few_points_are_told():
    result = activation_atlas(model(), coloured(1), **{**QUICK, "layout": "umap", "positions": 1})
    assert result.checks["layout"].startswith("3 activations are too few for UMAP")


def test_classes_are_checked():
    with pytest.raises(BadOption, match="one class, or two to compare; got 3"):
        class_atlas(model(), coloured(), classes=("0", "1", "2"))
    with pytest.raises(UnknownName, match="no class 'yellow'"):
        class_atlas(model(), coloured(), classes=("yellow",))


# -- the probe ---------------------------------------------------------------------------------------------------------


def test_a_patch_counts_by_its_area():
    data = coloured(1)
    photo, sizes = data.x[:1], (0.0, 0.25, 0.5, 0.75, 1.0)
    found = patch_probe(model(), photo, data, number=2, sizes=sizes, at=(0.5, 0.5))
    for size, red, blue in zip(sizes, found.y["red"].tolist(), found.y["blue"].tolist(), strict=True):
        side = round(16 * size)
        mixed = photo.clone()
        low = (16 - side) // 2
        if side:
            small = torch.nn.functional.interpolate(data.x[2:3], (side, side), mode="bilinear", antialias=True)
            mixed[:, :, low : low + side, low : low + side] = small
        want = model().predict(mixed)[0].double()
        assert math.isclose(red, want[0], abs_tol=1e-6)
        assert math.isclose(blue, want[2], abs_tol=1e-6)
    assert found.y["blue"][-1] > 0.9 > 0.1 > found.y["blue"][0]
    assert found.checks["change"].value == 0.75
    assert "plain patch alone" in found.checks["hiding"]  # these pictures are nothing but a colour


def test_a_photo_that_stays_what_it_is():
    data = coloured(1)
    found = patch_probe(model(), data.x[:1], data, number=1, sizes=(0.0, 0.1))
    assert found.checks["change"] == "No patch of these sizes takes the photo from red."


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"number": 9}, BadShape),
        ({"sizes": ()}, BadOption),
        ({"sizes": (1.5,)}, BadOption),
        ({"crop": 0.0}, BadOption),
        ({"at": (0.5, 2.0)}, BadOption),
    ],
)
def test_bad_probes_are_refused(options, kind):
    data = coloured(1)
    with pytest.raises(kind, match="expected"):
        patch_probe(model(), data.x[:1], data, **options)
    with pytest.raises(BadShape, match="expected one photo; got 2"):
        patch_probe(model(), data.x[:2], data)


def test_both_sets_can_be_named():
    found = ct.run("patch_probe", "shapes-cnn", "shapes/test[0]", data="shapes/test[1]", sizes=(0.0, 0.5))
    assert found.x.tolist() == [0.0, 0.5]
