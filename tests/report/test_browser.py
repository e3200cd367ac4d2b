"""Pages in a real browser, driven by its command line: no attack runs, nothing is refused, the buttons work."""

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from cutaway.report import write, write_explanation

from ..plot.cases import HOSTILE, results

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run --enable-logging=stderr --virtual-time-budget=2000 --dump-dom"
).split()

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(NAMES)} on the path"),
]


def opened(page: Path, profile: Path) -> tuple[BeautifulSoup, list[str]]:
    """The page as it is after its scripts ran, and what the browser had to say."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return BeautifulSoup(done.stdout, "html.parser"), said


def with_script(page: Path, script: str) -> Path:
    """A copy of the page without its policy that runs one more script and shows what it returns."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    code = f"<script>document.body.dataset.out = JSON.stringify((() => {{{script}}})())</script></body>"
    copy = page.with_name("with_script.html")
    copy.write_text(text.replace("</body>", code), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def explained(explanation, tmp_path_factory) -> Path:
    photo = replace(explanation.inputs[0], maps=explanation.inputs[0].maps[:3])
    return write_explanation(replace(explanation, inputs=[photo]), tmp_path_factory.mktemp("page") / "why.html")


def test_attacks_do_not_run_and_read_as_they_came(tmp_path):
    """S33."""
    page = write(list(results(HOSTILE).values()), tmp_path / "all.html", title="Harmless", intro=HOSTILE[0])
    soup, said = opened(page, tmp_path / "profile")
    assert said == []
    assert soup.title.string == "Harmless"
    assert soup.find("p", class_="lead").get_text() == HOSTILE[0]
    assert {th.get_text() for th in soup.select("table.bars th[scope=row]")} >= set(HOSTILE[:3])
    assert soup.select("table.sortable button"), "the page's own script did not run"


def test_a_script_that_got_in_would_be_refused(explained, tmp_path):
    page = tmp_path / "page.html"
    text = explained.read_text(encoding="utf-8")
    page.write_text(text.replace("<main", "<script>document.title='run'</script><main", 1), encoding="utf-8")
    soup, said = opened(page, tmp_path / "profile")
    assert soup.title.string != "run"
    assert any("Content Security Policy" in line for line in said)


def test_the_table_sorts(explained, tmp_path):
    script = """
    const button = document.querySelectorAll("table.sortable thead button")[3];
    const rows = () => [...document.querySelectorAll("table.sortable tbody tr")];
    const column = () => rows().map(row => parseFloat(row.cells[3].textContent)).filter(isFinite);
    button.click(); const up = column();
    button.click(); return [up, column(), document.querySelector("[aria-sort]").getAttribute("aria-sort")];
    """
    soup, said = opened(with_script(explained, script), tmp_path / "profile")
    assert said == []
    assert soup.body["data-out"] == '[[0.04,0.18],[0.18,0.04],"descending"]'


def test_maps_can_be_hidden_weakened_and_smoothed(explained, tmp_path):
    script = """
    const seen = () => getComputedStyle(document.querySelector(".card .film")).visibility;
    const press = () => document.dispatchEvent(new KeyboardEvent("keydown", {key: "m", bubbles: true}));
    const out = [document.querySelector("form.controls").hidden, seen()];
    document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "m", bubbles: true})); out.push(seen());
    document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "m", bubbles: true})); out.push(seen());
    const form = document.querySelector("form.controls");
    form.elements.strength.value = 40; form.elements.smooth.checked = true;
    form.dispatchEvent(new Event("input"));
    const film = getComputedStyle(document.querySelector(".card .film"));
    return [...out, film.opacity, film.imageRendering];
    """
    soup, said = opened(with_script(explained, script), tmp_path / "profile")
    assert said == []
    assert soup.body["data-out"] == '[false,"visible","hidden","visible","0.4","auto"]'


@pytest.mark.parametrize("width", [400, 1300])
def test_the_page_is_not_wider_than_its_window(explained, tmp_path, width):
    frame = explained.with_name(f"frame{width}.html")
    inside = with_script(explained, "return document.documentElement.scrollWidth")
    frame.write_text(
        f'<iframe src="{inside.name}" style="border:0;width:{width}px;height:900px"></iframe>'
        "<script>addEventListener('message', e => document.body.dataset.out = e.data)</script>"
    )
    text = inside.read_text(encoding="utf-8")
    inside.write_text(
        text.replace("</body>", "<script>parent.postMessage(document.body.dataset.out, '*')</script></body>")
    )
    soup, _ = opened(frame, tmp_path / "profile")
    assert int(soup.body["data-out"]) <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(explained, tmp_path, scheme):
    script = """
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (c) => { const v = c / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
    const ground = (e) => { for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return rgb(c); } return [255, 255, 255]; };
    const low = new Set();
    for (const e of document.querySelectorAll("main *, footer")) {
      if (e.closest("svg, .unseen") || ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
      const [a, b] = [luminance(rgb(getComputedStyle(e).color)), luminance(ground(e))].sort((x, y) => y - x);
      if ((a + 0.05) / (b + 0.05) < 4.5) low.add(e.tagName + "." + e.className);
    }
    return [matchMedia("(prefers-color-scheme: dark)").matches, [...low]];
    """
    FLAGS.append(f"--blink-settings=preferredColorScheme={'0' if scheme == 'dark' else '1'}")
    try:
        soup, _ = opened(with_script(explained, script), tmp_path / "profile")
    finally:
        FLAGS.pop()
    assert soup.body["data-out"] == f"[{'true' if scheme == 'dark' else 'false'},[]]"
