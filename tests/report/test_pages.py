"""What holds for every page: it is complete in itself, escapes what comes from outside, and is well formed."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image

from cutaway.core.checks import Check
from cutaway.core.errors import BadOption, NotPossible
from cutaway.core.result import Curve, Provenance, Ranking, Scores
from cutaway.report import Explanation, charts, write, write_explanation

from ..plot.cases import HOSTILE, ODD, results

VOID = {"meta", "img", "input", "source", "br", "link", "hr"}
STRANGE = HOSTILE[0]


@pytest.fixture(scope="module")
def explained(explanation, tmp_path_factory) -> Path:
    return write_explanation(explanation, tmp_path_factory.mktemp("explained") / "why.html")


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    made = Provenance(
        method="rise", options={"steps": 3}, model="m", input="x", target="logit(1)", seed=0, created="2026"
    )
    every = [replace(r, provenance=made) for r in results(["first", "second", "third"]).values()]
    return write(every, tmp_path_factory.mktemp("listed") / "all.html", title="All shapes")


@pytest.fixture(scope="module")
def hostile_list(tmp_path_factory) -> Path:
    """S33: every word that can come from outside is an attack."""
    made = Provenance(
        method=STRANGE,
        options={STRANGE: HOSTILE[1]},
        model=HOSTILE[2],
        input=HOSTILE[4],
        target=HOSTILE[3],
        versions={STRANGE: HOSTILE[5]},
        created=HOSTILE[6],
    )
    every = [replace(r, provenance=made) for r in results(HOSTILE).values()]
    return write(every, tmp_path_factory.mktemp("hostile") / "all.html", title=HOSTILE[1], intro=STRANGE)


@pytest.fixture(scope="module")
def hostile_explanation(explanation, tmp_path_factory) -> Path:
    photo = explanation.inputs[0]
    strange = {name[:30]: r for name, r in zip(HOSTILE, results(HOSTILE).values(), strict=False)}
    first = replace(
        photo.maps[0],
        attribution=replace(
            photo.maps[0].attribution, title=STRANGE, target=HOSTILE[1], unit=HOSTILE[2], wrt=HOSTILE[3]
        ),
        sentence=Check(HOSTILE[1], "fail"),
        evidence=strange,
        python=HOSTILE[1],
        shell=STRANGE,
    )
    unit = Ranking(title=STRANGE, names=HOSTILE, values=photo.maps[0].attribution.score.repeat(len(HOSTILE)))
    page = Explanation(
        inputs=[
            replace(
                photo,
                name=STRANGE,
                predictions=[(word, 0.1) for word in HOSTILE],
                target=HOSTILE[1],
                maps=[first],
                units=[unit],
                summary=word,
            )
            for word in HOSTILE[:3]
        ],
        model=HOSTILE[1],
        limits=HOSTILE,
        provenance={STRANGE: HOSTILE[1]},
        python=HOSTILE[2],
        shell=HOSTILE[3],
        notes=HOSTILE,
    )
    return write_explanation(page, tmp_path_factory.mktemp("hostile") / "why.html")


@pytest.fixture(params=["explained", "listed", "hostile_list", "hostile_explanation"])
def page(request) -> Path:
    return request.getfixturevalue(request.param)


def soup_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


class Balanced(HTMLParser):
    """Fails on an end tag that does not close what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()} closes something else"


def test_the_html_is_balanced_and_its_ids_are_unique(page):
    parser = Balanced()
    parser.feed(page.read_text(encoding="utf-8"))
    assert parser.open == []
    soup = soup_of(page)
    ids = [tag["id"] for tag in soup.find_all(id=True)]
    assert len(ids) == len(set(ids))
    for link in soup.find_all("a"):
        assert link["href"].removeprefix("#") in ids
    for tag in soup.find_all(attrs={"aria-labelledby": True}):
        assert tag["aria-labelledby"] in ids


def test_the_policy_allows_its_own_style_and_script_alone(page):
    """S34."""
    soup = soup_of(page)
    policy = soup.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert "unsafe" not in policy
    for name, kind in (("style", "style-src"), ("script", "script-src")):
        (tag,) = [t for t in soup.find_all(name) if t.get("type") != "application/json"]
        digest = base64.b64encode(hashlib.sha256(tag.string.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy


def test_nothing_is_loaded_and_nothing_runs_by_itself(page):
    soup = soup_of(page)
    for tag in soup.find_all(True):
        for name, value in tag.attrs.items():
            assert not name.startswith("on"), f"{tag.name} {name}"
            assert name != "style", f"{tag.name} has a style that the policy forbids"
            if name in ("src", "srcset", "poster", "data", "action", "background"):
                assert value.startswith("data:image/"), value[:80]
    assert not soup.find_all(["iframe", "object", "embed", "link", "base", "audio", "video"])
    assert len(soup.find_all("script")) == 2
    style = soup.style.string
    assert "@import" not in style
    assert "url(" not in style
    code = next(t.string for t in soup.find_all("script") if t.get("type") != "application/json")
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|eval\(|innerHTML", code)


def test_a_reader_who_does_not_see_gets_the_same(page):
    soup = soup_of(page)
    assert soup.html["lang"] == "en"
    assert soup.find("a", class_="skip")["href"] == "#main"
    for image in soup.find_all("img"):
        assert image.has_attr("alt")
    for chart in soup.find_all("svg"):
        assert chart.get("aria-hidden") == "true" or chart.get("aria-label")
    for badge in soup.find_all(class_="badge"):
        assert badge.get_text().split()[-1] in ("ok", "note", "careful", "fails")
    for table in soup.find_all("table"):
        assert table.caption is not None
        assert table.find("th", scope="col") is not None
    headings = [int(tag.name[1]) for tag in soup.find_all(re.compile("^h[1-4]$"))]
    assert headings[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(headings)), "a heading level is skipped"


def test_the_data_inside_equals_the_file_beside(page):
    inside = soup_of(page).find("script", type="application/json").string
    assert not set("<>&") & set(inside)
    beside = json.loads(page.with_suffix(".json").read_text(), parse_constant=pytest.fail)
    assert json.loads(inside) == beside
    assert beside["made_by"] == "cutaway report"


def test_pictures_lie_beside(page):
    pictures = list((page.parent / f"{page.stem}_pictures").iterdir())
    assert pictures
    for path in pictures:
        assert re.fullmatch(r"[a-z0-9-]+\.png", path.name)
        Image.open(path).verify()


def test_pictures_inside_are_small(explained):
    sources = re.findall(r'data:image/(?:png|jpeg);base64,([^"]+)', explained.read_text())
    sizes = [len(base64.b64decode(source)) for source in sources]
    assert max(sizes) < 60_000
    assert explained.stat().st_size < 3_000_000


def test_maps_have_the_exact_colours_of_their_scale(explained):
    film = soup_of(explained).find("img", class_="film")["src"].partition(",")[2]
    picture = Image.open(io.BytesIO(base64.b64decode(film)))
    assert picture.mode == "P"
    assert picture.getpalette()[127 * 3 : 128 * 3] == [255, 255, 255]


def test_attacks_are_shown_as_text(hostile_list, hostile_explanation):
    """What the reader sees equals what came in."""
    shown = [re.sub(r"\s+", " ", soup_of(p).get_text()) for p in (hostile_list, hostile_explanation)]
    for word in HOSTILE[:7]:
        expected = re.sub(r"\s+", " ", word)
        assert all(expected in text or expected.replace("_", " ") in text for text in shown), word


def test_the_explanation_says_what_the_reader_needs(explained, explanation):
    text = re.sub(r"\s+", " ", soup_of(explained).main.get_text())
    assert "space shuttle with a probability of 62 %, then missile (11 %)" in text
    assert "8 methods asked which parts of the photo mattered for space shuttle" in text
    assert "4 passed every test, 1 passed with a note, 2 call for care, 1 failed" in text
    for heading in ("What in the photo mattered", "How far the maps can be trusted", "What this cannot tell you"):
        assert heading in text
    for shown in explanation.inputs[0].maps:
        assert str(shown.sentence) in text
        assert shown.python in text
        assert shown.shell in text
    for limit in explanation.limits:
        assert limit in text
    assert "supports space shuttle" in text
    assert "opposes space shuttle" in text


def test_the_table_gives_each_number_with_its_mark_and_interval_the_most_trustworthy_first(explained):
    table = soup_of(explained).find("table", class_="sortable")
    heads = [th.get_text(" ", strip=True) for th in table.thead.find_all("th")]
    assert heads[:4] == ["Method", "Verdict", "kept when weights are random", "deletion below chance"]
    assert heads[-2:] == ["Passes of one example", "Seconds"]
    rows = [[cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])] for row in table.tbody("tr")]
    assert rows[0] == ["SmoothGrad", "✓ ok", "0.31 ✓ 0.22 to 0.40", "0.18 ✓ 0.10 to 0.26", "736", "7.34"]
    assert [row[0] for row in rows[1:]] == ["Gradient", "Guided backprop", "Lime"]
    assert rows[2][2:4] == ["0.98 ✕", "no time"]
    assert rows[3][1:4] == ["not examined", "–", "–"]
    assert "The budget of 9 s left out" in soup_of(explained).main.get_text()


def test_a_page_of_every_kind_of_result_names_how_each_was_made(listed):
    text = soup_of(listed).get_text()
    assert "cutaway.run('rise', model, x, target='logit(1)', steps=3, seed=0)" in text
    assert "cutaway run rise --model m --x x --target 'logit(1)' --steps 3 --seed 0" in text


def test_one_result_an_empty_list_and_a_folder(tmp_path):
    scores = Scores(title="Stability", names=["a"], values=results(["a", "b"])["scores"].arrays()["values"][:1])
    page = write(scores, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    assert soup_of(page).h1.string == "Stability"
    assert "There are no results" in write([], tmp_path / "empty.html").read_text()


def test_a_report_replaces_its_own_files_and_no_others(tmp_path, explanation):
    """S23."""
    page = write([], tmp_path / "a.html")
    write([], page)
    page.with_suffix(".json").write_text("my notes")
    with pytest.raises(NotPossible, match=r"a\.json exists and was not written by cutaway"):
        write([], page)
    assert page.with_suffix(".json").read_text() == "my notes"
    write([], page, overwrite=True)
    write_explanation(replace(explanation, inputs=[replace(explanation.inputs[0], maps=[], units=[])]), page)


def test_what_cannot_be_reported_is_said(tmp_path, explanation):
    with pytest.raises(BadOption, match=r"got int"):
        write([3], tmp_path / "a.html")
    with pytest.raises(BadOption, match=r"ends in \.html"):
        write([], tmp_path / "a.pdf")
    with pytest.raises(BadOption, match="at least one"):
        write_explanation(replace(explanation, inputs=[]), tmp_path)
    shown = explanation.inputs[0].maps[0]
    flat = replace(shown, attribution=replace(shown.attribution, values=shown.attribution.values.flatten(1)))
    with pytest.raises(BadOption, match="maps over a photo"):
        write_explanation(replace(explanation, inputs=[replace(explanation.inputs[0], maps=[flat])]), tmp_path)


def test_odd_results_have_a_page(tmp_path):
    assert len(soup_of(write(ODD, tmp_path / "odd.html")).find_all("section")) == len(ODD)


def test_a_chart_draws_no_two_series_with_the_same_stroke():
    many = Curve(x=torch.arange(3.0), y={f"series {k}": torch.arange(3.0) * k for k in range(9)})
    svg = charts.curve(many, "nine series")
    assert svg.count('class="line') == charts.SERIES
    assert 'class="line' not in charts.swatch(charts.SERIES)
