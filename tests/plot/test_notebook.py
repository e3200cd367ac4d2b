from bs4 import BeautifulSoup

from cutaway import plot
from cutaway.core.result import Table

from .cases import HOSTILE


def test_every_text_is_escaped(hostile):
    soup = BeautifulSoup(plot.html(hostile), "html.parser")
    assert not soup.find_all(["script", "svg", "iframe", "object", "link"])
    for tag in soup.find_all(True):
        assert not [name for name in tag.attrs if name.startswith("on")], tag.name
        assert tag.get("src", "data:image/png").startswith("data:image/png")
    for check in hostile.checks.values():
        assert str(check).split("\x00")[0].strip("\n") in soup.get_text()


def test_a_status_is_told_by_a_word(plain):
    text = BeautifulSoup(plot.html(plain), "html.parser").get_text()
    for word in ("ok", "note", "careful"):
        assert word in text


def test_a_table_is_a_table():
    table = Table(columns=HOSTILE[:2], rows=[[HOSTILE[2], 1.5]] * 130)
    soup = BeautifulSoup(plot.html(table), "html.parser")
    assert [th.get_text() for th in soup.find_all("th")] == HOSTILE[:2]
    assert soup.find("td").get_text() == HOSTILE[2]
    assert len(soup.find_all("tr")) == 101
    assert "30 more rows" in soup.caption.get_text()
