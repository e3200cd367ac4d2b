import errno
import os
import stat

import pytest

from cutaway.core import atomic
from cutaway.core.errors import NotPossible


def test_writes_and_refuses_to_overwrite(tmp_path):
    """S23."""
    path = atomic.write_text(tmp_path / "räport.html", "<p>é</p>")
    assert path.read_text(encoding="utf-8") == "<p>é</p>"
    with pytest.raises(NotPossible, match="exists and was not written by cutaway"):
        atomic.write_text(path, "other")
    assert path.read_text(encoding="utf-8") == "<p>é</p>"
    atomic.write_text(path, "other", overwrite=True)
    assert path.read_text() == "other"
    assert len(list(tmp_path.iterdir())) == 1


def test_its_own_files_are_recognised(tmp_path):
    path = atomic.write_bytes(tmp_path / "a", b"made by cutaway: 1")
    atomic.write_bytes(path, b"made by cutaway: 2", ours=b"made by cutaway")
    assert path.read_bytes() == b"made by cutaway: 2"
    path.write_bytes(b"a letter")
    with pytest.raises(NotPossible, match="exists"):
        atomic.write_bytes(path, b"made by cutaway: 3", ours=b"made by cutaway")


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", refuse)
    path = atomic.write_text(tmp_path / "a", "1")
    with pytest.raises(NotPossible, match="exists"):
        atomic.write_text(path, "2")
    assert path.read_text() == "1"


@pytest.mark.parametrize("mode", [atomic.PRIVATE, 0o640])
def test_permissions(tmp_path, mode):
    path = atomic.write_text(tmp_path / "a", "1", mode=mode)
    assert stat.S_IMODE(path.stat().st_mode) == mode & ~_umask()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no/such/folder", "does not exist"),
        ("", "is a folder"),
        ("file/below", "part of the path"),
        ("x" * 300, "long"),
    ],
)
def test_bad_places_are_explained(tmp_path, name, reason):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotPossible, match=reason):
        atomic.write_bytes(tmp_path / name, b"12345")


@pytest.mark.parametrize(
    ("code", "reason"), [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota"), (errno.EIO, "I")]
)
def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, code, reason):
    """F46: path and bytes in the message, the previous version intact."""
    path = atomic.write_text(tmp_path / "a", "before")

    def fail(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(NotPossible, match=rf"a \(5 bytes\): .*{reason}"):
        atomic.write_bytes(path, b"12345", overwrite=True)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic.write_bytes(tmp_path / "a", b"12345")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_replaced_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a").symlink_to(victim)
    atomic.write_text(tmp_path / "a", "new", overwrite=True)
    assert victim.read_text() == "mine"
    assert (tmp_path / "a").read_text() == "new"


def test_half_a_surrogate_pair_does_not_stop_a_report(tmp_path):
    assert atomic.write_text(tmp_path / "a", "x\udcffy").read_text() == "x?y"
