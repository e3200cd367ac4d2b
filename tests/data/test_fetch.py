"""Fetching, against a server on this machine."""

import hashlib
import http.server
import threading
from collections import Counter

import pytest

from cutaway.core.errors import BadShape, NotPossible
from cutaway.data import fetch
from cutaway.data.fetch import Collection

CONTENT = b"known bytes " * 1000
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def pages():
    """What the server has beside CONTENT."""
    return {}


@pytest.fixture
def server(pages):
    """Serves CONTENT as good.bin, something else as bad.bin, and breaks off flaky.bin in the middle the first time."""
    asked = Counter()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rsplit("/", 1)[-1]
            asked[name] += 1
            if name not in ("good.bin", "bad.bin", "flaky.bin", *pages):
                self.send_error(404)
                return
            body = pages.get(name, CONTENT if name != "bad.bin" else b"something else")
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:100] if name == "flaky.bin" and asked[name] == 1 else body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", asked
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """An empty cache, no CUTAWAY_DATA, and no waiting between attempts."""
    monkeypatch.setattr(fetch, "cache", lambda: tmp_path / "cache")
    monkeypatch.delenv("CUTAWAY_DATA", raising=False)
    monkeypatch.setattr("time.sleep", lambda _: None)
    return tmp_path


def toy(*homes, file="good.bin", known=SUM):
    return Collection("toy", homes, {file: known})


def test_is_fetched_once(server):
    home, asked = server
    path = toy(home).path("good.bin")
    assert path.read_bytes() == CONTENT
    assert toy(home).path("good.bin") == path
    assert asked["good.bin"] == 1


def test_a_wrong_checksum_is_refused_and_leaves_nothing(server, folders):
    home, _ = server
    with pytest.raises(NotPossible, match=r"bad.bin: its checksum is wrong.*CUTAWAY_DATA"):
        toy(home, file="bad.bin").path("bad.bin")
    assert not [path for path in (folders / "cache").rglob("*") if path.is_file()]


def test_a_broken_connection_is_tried_again(server, folders):
    home, asked = server
    assert toy(home, file="flaky.bin").path("flaky.bin").read_bytes() == CONTENT
    assert asked["flaky.bin"] == 2
    assert [path.name for path in (folders / "cache").rglob("*") if path.is_file()] == ["flaky.bin"]


def test_a_damaged_file_in_the_cache_is_fetched_again(server):
    home, asked = server
    path = toy(home).path("good.bin")
    path.write_bytes(b"bit rot")
    assert toy(home).path("good.bin").read_bytes() == CONTENT
    assert asked["good.bin"] == 2


def test_the_next_home_is_tried(server):
    home, _ = server
    assert toy(home + "missing/nothing.bin?", home).path("good.bin").read_bytes() == CONTENT


def test_without_network_it_is_said_what_to_do(server):
    home, _ = server
    nobody = "http://127.0.0.1:9/"
    with pytest.raises(NotPossible, match=r"toy needs good.bin.*127.0.0.1:9.*Put it into toy/ in a folder"):
        toy(nobody).path("good.bin")
    with pytest.raises(NotPossible, match="404"):
        toy(home, file="absent.bin").path("absent.bin")


class TestWithoutAKnownSum:
    """The content is looked at when it is fetched, and its sum is kept."""

    @pytest.fixture
    def looked(self):
        return []

    @pytest.fixture
    def files(self, server, looked):
        def fault(file, path):
            looked.append(file)
            return "" if path.read_bytes() == CONTENT else f"{file} says something else"

        return Collection("toy", (server[0],), {"good.bin": None, "bad.bin": None, "flaky.bin": None}, fault)

    def test_is_looked_at_once(self, server, files, looked, folders):
        path = files.path("good.bin")
        assert files.path("good.bin") == path == folders / "cache" / "toy" / "good.bin"
        assert (looked, server[1]["good.bin"]) == (["good.bin"], 1)
        assert sorted(p.name for p in path.parent.iterdir()) == ["good.bin", "good.bin.sha256"]
        assert (path.parent / "good.bin.sha256").read_text() == f"{SUM}  good.bin\n"

    def test_another_content_is_refused_and_leaves_nothing(self, files, folders):
        with pytest.raises(NotPossible, match=r"bad.bin: bad.bin says something else, so it was thrown away.*CUTAWAY_"):
            files.path("bad.bin")
        assert not list((folders / "cache" / "toy").iterdir())

    def test_a_broken_connection_is_tried_again(self, server, files):
        assert files.path("flaky.bin").read_bytes() == CONTENT
        assert server[1]["flaky.bin"] == 2

    def test_a_change_on_disk_is_noticed_and_fetched_again(self, server, files):
        path = files.path("good.bin")
        path.write_bytes(b"bit rot")
        assert files.path("good.bin").read_bytes() == CONTENT
        assert server[1]["good.bin"] == 2

    def test_another_file_at_the_publisher_is_refused_with_what_to_do(self, pages, files):
        path = files.path("good.bin")
        path.unlink()
        pages["good.bin"] = CONTENT + b"more"
        with pytest.raises(NotPossible, match=r"not what was fetched at first.*remove .*good.bin.sha256 to take it"):
            files.path("good.bin")
        assert not path.exists()

    @pytest.mark.parametrize("record", ["", "no sum", None])
    def test_a_file_that_nobody_vouched_for_is_fetched_again(self, server, files, folders, record):
        path = folders / "cache" / "toy" / "good.bin"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"from an interrupted run")
        if record is not None:
            path.with_name("good.bin.sha256").write_text(record)
        assert files.path("good.bin").read_bytes() == CONTENT

    def test_in_the_own_folder_it_is_looked_at_each_time(self, files, looked, folders, monkeypatch):
        monkeypatch.setenv("CUTAWAY_DATA", str(folders / "own"))
        path = folders / "own" / "toy" / "good.bin"
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
        assert files.path("good.bin") == files.path("good.bin") == path
        assert len(looked) == 2
        path.write_bytes(b"bit rot")
        with pytest.raises(BadShape, match=r"good.bin: good.bin says something else\. Remove it or copy it again"):
            files.path("good.bin")


class TestOwnFolder:
    """CUTAWAY_DATA is read first."""

    @pytest.fixture(autouse=True)
    def _own(self, folders, monkeypatch):
        (folders / "own" / "toy").mkdir(parents=True)
        monkeypatch.setenv("CUTAWAY_DATA", str(folders / "own"))

    def test_needs_no_network(self, folders):
        (folders / "own" / "toy" / "good.bin").write_bytes(CONTENT)
        assert toy().path("good.bin") == folders / "own" / "toy" / "good.bin"

    def test_is_checked(self, folders):
        (folders / "own" / "toy" / "good.bin").write_bytes(b"another file")
        with pytest.raises(BadShape, match=r"not that of the known good.bin \(SHA-256 differs\)"):
            toy().path("good.bin")

    def test_what_it_lacks_is_fetched(self, server):
        home, asked = server
        assert toy(home).path("good.bin").read_bytes() == CONTENT
        assert asked["good.bin"] == 1
