"""The page of `cutaway explain` for a text and for a row."""

import json

import pytest
import torch
from bs4 import BeautifulSoup
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.evaluation.trust_tests import METHODS
from cutaway.report import Explanation, compose, write, write_explanation

TEXT = "A gripping, <b>funny</b> film — but the ending is a mess."


def page_of(model, examples, methods, folder):
    done = list(compose.inputs(model, examples, compose.chosen(methods, compose.kind_of(model))))
    explanation = Explanation(
        inputs=[explained for explained, _ in done],
        model=model.name,
        limits=list(compose.LIMITS[compose.kind_of(model)]),
    )
    path = write_explanation(explanation, folder / "why.html")
    return done, BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser"), path


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return page_of(ct.load("sentiment-lstm"), ct.data(f"text:{TEXT}"), None, tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    space = ct.rows(["age", "job=a", "job=b", "<i>x</i>"], low=0, high=99)
    model = ct.Model(net, space, classes=["no", "yes"], name="small")
    examples = Examples(torch.tensor([[30.0, 0, 1, 2], [50, 1, 0, 3]]), ["first", "second"])
    return page_of(model, examples, "integrated_gradients,occlusion", tmp_path_factory.mktemp("rows"))


def test_a_text_is_shown_as_it_was_given_once_for_each_method(text):
    ((one, notes),), soup, _ = text
    assert notes == []
    assert [m.attribution.provenance.method for m in one.maps] == list(METHODS["tokens"])
    assert soup.h1.get_text() == "What sentiment-lstm read in “A gripping, <b>funny</b> film — but the…”"
    assert soup.blockquote.get_text() == TEXT
    marked = [p.get_text() for p in soup.select("article.map p.ct-tokens")]
    assert marked == [TEXT] * len(METHODS["tokens"])
    assert not soup.select("main img")
    assert "which words mattered for" in soup.main.get_text()


def test_the_tests_of_a_text_are_those_that_fit(text):
    ((one, _),), _, _ = text
    for shown in one.maps:
        wanted = {"deletion", "insertion", "parameter_randomization", "word_deletion", "sensitivity_n"}
        complete = shown.attribution.provenance.method in ("integrated_gradients", "kernel_shapley")
        assert set(shown.evidence) == wanted | ({"completeness"} if complete else set())
        assert "regions" not in shown.sentence
        assert shown.attribution.provenance.input == f"text:{TEXT}"


def test_a_text_can_be_explained_again_from_the_page(text):
    _, soup, path = text
    shell = next(code.get_text() for code in soup.select("code") if "cutaway run" in code.get_text())
    assert "--model sentiment-lstm --text 'A gripping" in shell
    data = json.loads(path.with_suffix(".json").read_text())
    assert data["explanation"]["inputs"][0]["text"] == TEXT
    assert len(list((path.parent / "why_pictures").glob("*.png"))) == len(METHODS["tokens"])


def test_a_row_is_shown_with_its_choices_and_steps(rows):
    done, soup, _ = rows
    assert len(done) == 2
    assert soup.h1.get_text() == "What small made of 2 rows"
    hero = soup.select_one("#input-1 dl.subject")
    pairs = [(d.dt.get_text(), d.dd.get_text()) for d in hero.select("div")]
    assert pairs == [("age", "30"), ("job", "b"), ("<i>x</i>", "2")]
    heads = [th.get_text() for th in soup.select_one("article.map table.bars").select("tbody th")]
    assert (heads[0], heads[-1]) == ("on the baseline", "on this row")
    assert "job = b" in heads
    assert "Which columns mattered" in soup.main.get_text()


def test_what_a_page_cannot_tell_depends_on_the_kind(text, rows):
    assert "There is no neutral word" in text[1].main.get_text()
    assert "what causes what" in rows[1].main.get_text()
    assert all(limits[-1] == compose.LIMITS["image"][-1] for limits in compose.LIMITS.values())


def test_a_report_on_results_marks_text_in_place(tmp_path):
    model = ct.load("sentiment-cnn")
    made = [ct.run(name, model, [TEXT, "dull"], target="positive") for name in ("gradient", "integrated_gradients")]
    soup = BeautifulSoup(write(made, tmp_path / "r.html").read_text(encoding="utf-8"), "html.parser")
    assert [p.get_text() for p in soup.select("p.ct-tokens")] == [TEXT, "dull"] * 2
    assert soup.get_text().count("size of the slope over each piece") == 2
