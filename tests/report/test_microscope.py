"""The site of all units: whole pages that load nothing from elsewhere, true numbers, and a stopped run goes on."""

import json
import re
import shutil
import subprocess

import pytest
import torch
from bs4 import BeautifulSoup
from torch import nn

import cutaway as ct
from cutaway.core import atomic
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadOption, NotPossible, UnknownName
from cutaway.report.microscope import begun, microscope
from cutaway.report.microscope import pages as pages_of
from cutaway.report.microscope import units as found_out
from cutaway.report.microscope.survey import chosen_units
from cutaway.report.microscope.units import folder_name

from .test_browser import BROWSER, opened

EVIL = '<img src=x onerror="alert(1)">'
QUICK = {"layers": ["1"], "steps": 2, "size": 12, "k": 2}


def small() -> tuple[ct.Model, Examples]:
    """A network of six units in two layers, one of them dead, and examples with a name that is no markup."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    nn.init.constant_(net[0].bias[3:], -100.0)
    x = torch.rand(5, 3, 12, 12, dtype=torch.float64)
    names, labels = [EVIL, *map(str, range(4))], torch.tensor([1, 0, 1, 0, 1])
    data = Examples(x=x, names=names, labels=labels, classes=("good", EVIL))
    return ct.Model(net.double().eval(), ct.images(12), classes=["good", EVIL], name=f"small {EVIL}"), data


def pages(folder):
    return {p.relative_to(folder).as_posix(): p.read_text("utf-8") for p in sorted(folder.rglob("*.html"))}


def records(folder):
    return {p.name: json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("0*.json"))}


def counted(monkeypatch, stop_at: int = -1) -> list[list[str]]:
    """The aims of every search from now on; the one of number `stop_at` is interrupted."""
    made, ascended = [], found_out.ascended

    def count(model, aims, **options):
        made.append([str(aim) for aim in aims])
        if len(made) - 1 == stop_at:
            raise KeyboardInterrupt
        return ascended(model, aims, **options)

    monkeypatch.setattr(found_out, "ascended", count)
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units") / "site"
    assert microscope(*small(), folder, **{**QUICK, "layers": ["1", "4"]}) == folder / "index.html"
    return folder


def test_every_unit_has_a_page_and_every_link_and_picture_is_there(site):
    found = pages(site)
    assert list(found) == sorted(
        [
            "index.html",
            "1/index.html",
            "4/index.html",
            *(f"1/{u:05d}.html" for u in range(4)),
            "4/00000.html",
            "4/00001.html",
        ]
    )
    for name, page in found.items():
        soup = BeautifulSoup(page, "html.parser")
        policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
        assert policy.startswith("default-src 'none'; img-src data: 'self' file:; ")
        targets = [a["href"] for a in soup.find_all(href=True)] + [i["src"] for i in soup.find_all(src=True)]
        assert len(targets) > 1
        for target in targets:
            assert target.startswith("#") or ((site / name).parent / target).resolve().is_file(), target
        ids = [tag["id"] for tag in soup.find_all(id=True)]
        assert len(ids) == len(set(ids))


def test_pages_lead_to_the_unit_before_and_the_next(site):
    seen, name = [], "00000.html"
    while name:
        seen.append(name)
        soup = BeautifulSoup((site / "1" / name).read_text("utf-8"), "html.parser")
        if len(seen) > 1:
            assert soup.find("a", rel="prev")["href"] == seen[-2]
        name = link["href"] if (link := soup.find("a", rel="next")) else ""
    assert seen == [f"{u:05d}.html" for u in range(4)]


def test_names_from_outside_are_text(site):
    read = {name: BeautifulSoup(page, "html.parser") for name, page in pages(site).items()}
    for name, soup in read.items():
        assert not soup.find_all(onerror=True)
        assert EVIL not in pages(site)[name]
    assert read["index.html"].title.string == f"Units of small {EVIL}"
    assert f"labelled {EVIL}" in " ".join(soup.get_text() for soup in read.values())


def test_the_examples_are_those_of_the_catalogues_method(site):
    model, data = small()
    table = ct.run("dataset_examples", model, data, sites=("1",), k=2)
    kept = [(r["unit"], e["number"], e["activation"]) for r in records(site / "1").values() for e in r["examples"]]
    assert kept == [(row[1], row[3], row[4]) for row in table.rows if row[4] > 0]
    act = model.run(data.x, read=["1"])["1"]
    for unit, number, activation in kept:
        assert float(act[number, unit].max()) == pytest.approx(activation)


def test_the_frame_is_where_the_unit_is_strongest(site):
    """Reference: outside of the three by three pixels that a position of the first layer sees, nothing matters."""
    model, data = small()
    example = records(site / "1")["00001.json"]["examples"][0]
    left, top, width, height = example["sees"]
    assert (left, top, width, height) == (example["position"][1], example["position"][0], 3, 3)
    x = data.x[example["number"]][None].clone()
    rest = torch.rand_like(x)
    rest[..., int(top) : int(top + height), int(left) : int(left + width)] = x[
        ..., int(top) : int(top + height), int(left) : int(left + width)
    ]
    y, column = example["position"]
    assert float(model.run(rest, read=["1"])["1"][0, 1, y, column]) == pytest.approx(example["activation"])
    soup = BeautifulSoup((site / "1" / "00001.html").read_text("utf-8"), "html.parser")
    assert soup.select_one("svg.part")["viewbox"] == f"{left - 0.5:g} {top - 0.5:g} 3 3"


def test_what_a_unit_adds_to_classes_is_what_removing_it_takes(site):
    """Reference: a linear layer over means of channels, so a unit adds its weight times its mean."""
    model, data = small()
    act = model.run(data.x, read=["1"])["1"]
    for record in records(site / "1").values():
        rows = [e["number"] for e in record["examples"]]
        if not rows:
            continue
        mean = act[rows, record["unit"]].mean((1, 2)).mean()
        expected = model.module[4].weight.detach()[:, record["unit"]] * mean
        for name, value in record["effects"]:
            assert value == pytest.approx(float(expected[model.classes.index(name)]), abs=1e-5)
        assert len(record["effects"]) == 2


def test_the_class_of_most_examples_is_named_also_where_others_gain_more(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 9))
    nn.init.ones_(net[0].weight)
    net[4].weight.data, net[4].bias.data = torch.arange(-4.0, 5.0)[:, None], torch.eye(9)[3] * 99
    model = ct.Model(net.eval(), ct.images(8), classes=list("abcdefghi"))
    microscope(model, Examples(x=torch.full((1, 3, 8, 8), 0.5), names=["0"]), tmp_path, layers=["1"], steps=0)
    (record,) = records(tmp_path / "1").values()
    assert [name for name, _ in record["effects"]] == ["i", "h", "g", "c", "b", "a", "d"]
    page = BeautifulSoup((tmp_path / "1" / "00000.html").read_text("utf-8"), "html.parser")
    assert [th.get_text() for th in page.select("th[scope=row]")] == list("ihgdcba")


def test_a_unit_that_never_fires_is_said_so(site):
    page = BeautifulSoup((site / "1" / "00003.html").read_text("utf-8"), "html.parser").get_text()
    assert "never above 0 on any example" in page
    assert "found no picture that raises the unit above 0" in page
    assert "1 of them never above 0" in pages(site)["1/index.html"]
    assert "1 of them never above 0" in pages(site)["index.html"]
    assert "never above 0" not in pages(site)["1/00000.html"]


def test_a_stopped_run_keeps_whole_pages_and_goes_on_to_the_same_site(tmp_path, monkeypatch, site):
    monkeypatch.setattr(found_out, "TOGETHER", 1)
    made = counted(monkeypatch, stop_at=2)
    with pytest.raises(KeyboardInterrupt):
        microscope(*small(), tmp_path / "site", **QUICK)
    assert [len(aims) for aims in made] == [1, 1, 1]
    assert list(pages(tmp_path / "site")) == ["1/00000.html", "1/00001.html", "1/index.html", "index.html"]
    assert "2 of 4 units" in pages(tmp_path / "site")["index.html"]
    microscope(*small(), tmp_path / "site", **QUICK)
    assert [aims[0] for aims in made] == [f'unit("1:{u}")' for u in (0, 1, 2, 2, 3)]
    before = pages(tmp_path / "site")
    microscope(*small(), tmp_path / "site", **QUICK)
    assert len(made) == 5
    assert pages(tmp_path / "site") == before
    assert not list((tmp_path / "site").rglob(".tmp-*"))
    # Made one by one or all together, stopped or not: the same, to the digits that a page shows.
    assert {name: page for name, page in before.items() if name[0] == "1"} == {
        name: page for name, page in pages(site).items() if name[0] == "1"
    }
    for u in range(4):
        assert (tmp_path / "site" / "1" / f"{u:05d}.png").read_bytes() == (site / "1" / f"{u:05d}.png").read_bytes()


def test_units_and_layers_can_be_added(tmp_path, monkeypatch):
    made = counted(monkeypatch)
    out = tmp_path / "site"
    microscope(*small(), out, **QUICK, units="0:2")
    assert 'rel="next"' not in pages(out)["1/00001.html"]
    microscope(*small(), out, **QUICK, units="3,1")
    microscope(*small(), out, **{**QUICK, "layers": ["4"]})
    assert made == [['unit("1:0")', 'unit("1:1")'], ['unit("1:3")'], ['unit("4:0")', 'unit("4:1")']]
    assert 'rel="next" href="00003.html"' in pages(out)["1/00001.html"]
    index = BeautifulSoup(pages(out)["index.html"], "html.parser")
    assert [h.get_text() for h in index.select("h2 a")] == ["1", "4"]
    assert "3 of 4 units" in index.get_text()


def test_another_network_or_other_options_are_not_mixed_in(tmp_path):
    model, data = small()
    out = tmp_path / "site"
    microscope(model, data, out, **QUICK)
    for changed in ({"k": 1}, {"steps": 1}, {"size": 8}, {"seed": 1}):
        with pytest.raises(BadOption, match=f"differs in {next(iter(changed))};"):
            microscope(model, data, out, **{**QUICK, **changed})
    with pytest.raises(BadOption, match="differs in data;"):
        microscope(model, data[:4], out, **QUICK)
    with pytest.raises(BadOption, match="differs in input;"):
        microscope(ct.Model(model.module, ct.images(12, mean=0.5), name=model.name), data, out, **QUICK)
    with torch.no_grad():
        model.module[0].weight += 1
    with pytest.raises(BadOption, match="differs in weights;"):
        microscope(model, data, out, **QUICK)


def test_a_record_that_cannot_be_read_is_made_again(tmp_path, monkeypatch):
    out = tmp_path / "site"
    microscope(*small(), out, **QUICK)
    before, made = records(out / "1"), counted(monkeypatch)
    (out / "1" / "00001.json").write_text('{"unit": 1, "pict')
    (out / "1" / "00002.png").unlink()
    microscope(*small(), out, **QUICK)
    assert made == [['unit("1:1")', 'unit("1:2")']]
    assert records(out / "1") == before


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BadOption, match="holds other files"):
        microscope(*small(), tmp_path, **QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(NotPossible, match=r"notes\.txt"):
        microscope(*small(), tmp_path / "notes.txt", **QUICK)


def test_a_full_disk_is_said_in_a_sentence_and_what_was_finished_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(found_out, "TOGETHER", 1)
    fill, left = atomic._fill_temporary, [1]

    def full(path, data, mode, *, sync):
        if path.suffix == ".png" and path.parent.name == "1" and not left:
            raise OSError(28, "No space left on device")
        if path.suffix == ".png" and path.parent.name == "1":
            left.pop()
        return fill(path, data, mode, sync=sync)

    monkeypatch.setattr(atomic, "_fill_temporary", full)
    with pytest.raises(NotPossible, match=r"could not write .*00001\.png .*the disk is full"):
        microscope(*small(), tmp_path / "site", **QUICK)
    monkeypatch.setattr(atomic, "_fill_temporary", fill)
    made = counted(monkeypatch)
    microscope(*small(), tmp_path / "site", **QUICK)
    assert made == [[f'unit("1:{u}")'] for u in (1, 2, 3)]


def test_without_data_there_are_pictures_alone(tmp_path):
    out = tmp_path / "site"
    microscope(small()[0], None, out, **QUICK, units="0")
    assert records(out / "1")["00000.json"].keys() == {"unit", "picture"}
    assert "strongest examples" not in pages(out)["1/00000.html"]
    assert not (out / "jobs").exists()


def test_a_network_that_is_no_classifier_has_no_classes_but_its_labels(tmp_path):
    model, data = small()
    dense = ct.Model(model.module[:2], ct.images(12))
    microscope(dense, data, tmp_path / "site", **{**QUICK, "steps": 0})
    record = records(tmp_path / "site" / "1")["00000.json"]
    assert "effects" not in record
    assert "predicted" not in record["examples"][0]
    assert record["examples"][0]["label"] in data.classes


def test_the_input_and_the_output_are_layers_too(tmp_path):
    microscope(*small(), tmp_path / "site", **{**QUICK, "layers": ["input", "output"]})
    assert [len(records(tmp_path / "site" / name)) for name in ("input", "output")] == [3, 2]
    assert "effects" not in records(tmp_path / "site" / "output")["00000.json"]


def test_layers_whose_names_look_alike_have_folders_of_their_own():
    names = ["relu3", "a.b", "a-b", "A-b", "a_b", "x" * 60, "x" * 61]
    assert len({folder_name(name) for name in names}) == len(names)
    assert all(re.fullmatch(r"[a-z0-9-]+", folder_name(name)) for name in names)
    assert folder_name("relu3") == "relu3"


def test_only_classes_that_come_more_than_once_stand_for_a_unit():
    def shown(labels, predicted):
        examples = [{"label": a, "predicted": b} for a, b in zip(labels, predicted, strict=True)]
        return [(t["title"], t["classes"], t["rest"]) for t in pages_of._classes({"examples": examples})]

    assert shown("aab", "aab") == [("Its examples are labelled, and taken for", [("a", 2)], "and 1 other once")]
    assert shown("abb", "abc") == [
        ("Its examples are labelled", [("b", 2)], "and 1 other once"),
        ("The network takes its examples for", [], "3 classes, each once"),
    ]
    assert shown("a", [""]) == [("Its examples are labelled", [], "a")]
    assert shown(["", ""], ["", ""]) == []


def test_units_are_named_by_numbers_and_ranges():
    assert chosen_units("", 4, "1") == [0, 1, 2, 3]
    assert chosen_units("0:2; 3", 4, "1") == [0, 1, 3]
    assert chosen_units(":9,1", 4, "1") == [0, 1, 2, 3]
    for text in ("4", "x", "0:2:1", "-1", "7:", ",", "1.5"):
        with pytest.raises(BadOption, match="units of 1 from 0 to 3"):
            chosen_units(text, 4, "1")


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    model, data = small()
    out = tmp_path / "site"
    with pytest.raises(UnknownName):
        begun(model, data, out, layers=["relu9"])
    with pytest.raises(BadOption, match="whole layers"):
        begun(model, data, out, layers=["1:2"])
    for bad in ({"k": 0}, {"steps": -1}, {"size": 7}):
        with pytest.raises(BadOption, match="k from 1"):
            begun(model, data, out, **bad)
    with pytest.raises(BadOption, match="nothing to show"):
        begun(model, None, out, steps=0)
    with pytest.raises(BadOption, match="units of 1"):
        begun(model, data, out, layers=["1"], units="9")
    with pytest.raises(NotPossible, match="networks of images"):
        begun(ct.Model(nn.Linear(4, 2), ct.rows(4)), Examples(x=torch.zeros(1, 4), names=["0"]), out)
    assert not out.exists()


@pytest.mark.browser
@pytest.mark.skipif(BROWSER is None, reason="needs a browser on the path")
def test_a_browser_shows_the_pictures_from_the_disk_and_refuses_nothing(site, tmp_path):
    _, said = opened(site / "1" / "00000.html", tmp_path / "profile")
    assert said == []
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shot = tmp_path / "page.png"
    shutil.copytree(site, tmp_path / "moved")
    (tmp_path / "moved" / "1" / "00000.png").unlink()
    sizes = []
    for folder in (site, tmp_path / "moved"):
        page = (folder / "1" / "00000.html").as_uri()
        subprocess.run([*command, f"--screenshot={shot}", page], capture_output=True, timeout=90, check=True)
        sizes.append(len(shot.read_bytes()))
    assert sizes[0] != sizes[1], "the picture was not drawn"
