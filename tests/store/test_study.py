import contextlib
import errno
import json
import math
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutaway.core import atomic
from cutaway.core.errors import BadOption, CutawayError, NotPossible, UnknownName
from cutaway.core.result import Curve, Provenance, Result, Table
from cutaway.store import DamagedResult, Study, folder


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path / "study")


def same(a: Result, b: Result) -> bool:
    arrays = a.arrays(), b.arrays()
    return (
        list(arrays[0]) == list(arrays[1])
        and all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(*map(dict.values, arrays), strict=True))
        and folder.plain(a.as_json()) == folder.plain(b.as_json())
    )


def test_a_result_comes_back_as_it_was(study, make):
    result = make()
    back = study.get(study.put(result))
    assert same(back, result)
    assert back.checks["finite"].value == 12.0
    assert math.isnan(back.checks["gap"].value)


def test_every_shape_keeps_names_order_and_odd_numbers(study):
    y = {"b/β": torch.ones(3), "a": torch.zeros(3)}
    curve = Curve(x=torch.arange(3.0), y=y, summary={"b/β": math.inf, "a": 1.0}, x_names=["é", "\udcff", "\u202e"])
    table = Table(columns=["a", "b"], rows=[[None, True], [math.nan, 2**70], [-math.inf, "</script>"]])
    for result in (curve, table):
        assert same(study.get(study.put(result)), result)
    assert list(study.get(study.put(curve)).y) == ["b/β", "a"]


def test_the_key_depends_on_the_making_alone(study, make):
    key = study.key_of(make().provenance)
    assert len(key) == 32
    assert set(key) <= set("0123456789abcdef")
    assert study.key_of(make(created="2030", input="another name").provenance) == key
    assert study.key_of(make(seed=1).provenance) != key
    for part in ("method", "model_fingerprint", "input_fingerprint", "target"):
        assert study.key_of(make(**{part: "other"}).provenance) != key
    with pytest.raises(BadOption, match="method name"):
        study.key_of(Provenance())


def test_a_unique_beginning_is_enough(study, make):
    keys = [study.put(make(seed=s)) for s in range(20)]
    assert len(study) == 20
    assert same(study.get(keys[3][:8]), make(seed=3))
    shared = next(k[0] for k in keys if sum(other[0] == k[0] for other in keys) > 1)
    with pytest.raises(UnknownName, match=r"begins .* keys"):
        study.get(shared)
    for unknown in ("zzzz", "", "../study", "/etc/passwd", "0" * 32):
        with pytest.raises(UnknownName, match="no result"):
            study.get(unknown)
        assert not study.has(unknown)


def test_putting_again_replaces(study, make):
    key = study.put(make())
    assert study.put(make(scale=2.0)) == key
    assert same(study.get(key), make(scale=2.0))
    assert len(study) == 1
    assert not list(study.path.glob(".tmp*"))


def test_find_by_columns(study, make):
    keys = [study.put(make(seed=s)) for s in range(3)]
    other = study.put(make(method="rise"))
    assert [e.key for e in study.find(method="gradient")] == keys[::-1]
    assert [e.key for e in study.find(method="rise", status="warn")] == [other]
    assert study.find(seed=7) == []
    assert study.find(key=other)[0].shape == "Attribution"
    with pytest.raises(UnknownName, match="nearest: method"):
        study.find(methd="rise")


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"no database" * 500)])
def test_a_lost_or_damaged_index_is_made_again(study, make, damage):
    keys = {study.put(make(seed=s)) for s in range(3)}
    assert len(study.find()) == 3
    damage(study.path / "index.sqlite")
    assert {e.key for e in study.find()} == keys


def test_an_index_of_another_version_is_made_again(study, make):
    study.put(make())
    with sqlite3.connect(study.path / "index.sqlite") as database:
        database.execute("CREATE TABLE results (key, other)")
    database.close()
    assert len(study.find()) == 1


def test_the_index_follows_the_files(study, make):
    keys = [study.put(make(seed=s)) for s in range(2)]
    assert len(study.find()) == 2
    shutil.rmtree(study.path / keys[0])
    assert [e.key for e in study.find()] == keys[1:]
    assert [e.key for e in Study(study.path).find()] == keys[1:]


def test_files_are_private(study, make):
    key = study.put(make())
    study.find()
    for path in [study.path, *study.path.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert (study.path / key).is_dir()


def test_the_picture_is_kept_beside(tmp_path, make):
    study = Study(tmp_path / "s", draw=lambda result: b"PNG of " + result.title.encode())
    key = study.put(make())
    assert study.picture(key[:10]) == b"PNG of Gradient"
    assert Study(tmp_path / "t").picture(Study(tmp_path / "t").put(make())) == b""


@pytest.mark.parametrize("name", ["result.json", "arrays.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "removed"])
def test_damage_is_found_and_set_aside(study, make, name, damage):
    """F51: truncated or bit-flipped files."""
    key = study.put(make())
    path = study.path / key / name
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    changed = {"truncated": bytes(data[: len(data) // 2]), "flipped": bytes(data), "emptied": b"", "removed": b""}
    path.write_bytes(changed[damage])
    if damage == "removed":
        path.unlink()
    if damage == "removed" and name == "result.json":
        assert not study.has(key)
        return
    with pytest.raises(DamagedResult, match=r"is damaged: .*Make it again") as raised:
        study.get(key)
    assert "quarantined" in str(raised.value)
    assert not study.has(key)
    assert study.find() == []
    assert study.put(make()) == key
    assert same(study.get(key), make())


def test_any_flipped_bit_is_found(study, make):
    key = study.put(make())
    for name in ("result.json", "arrays.safetensors"):
        path = study.path / key / name
        whole = path.read_bytes()
        for place in range(0, len(whole), 13):
            flipped = bytearray(whole)
            flipped[place] ^= 0x10
            path.write_bytes(bytes(flipped))
            with contextlib.suppress(folder.Damaged, NotPossible):
                # Only white space may change without notice.
                assert same(folder.unpack(study.path / key, key), make()), f"{name} {place}"
        path.write_bytes(whole)


def test_a_result_under_another_key_is_refused(study, make):
    key = study.put(make())
    (study.path / key).rename(study.path / ("0" * 32))
    with pytest.raises(NotPossible, match="holds the result"):
        study.get("0" * 32)


def test_a_newer_format_is_named_and_left_alone(study, make):
    """F54."""
    key = study.put(make())
    path = study.path / key / "result.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "format": 2, "made_by": {"cutaway": "9.0"}}))
    with pytest.raises(NotPossible, match=r"format 2 of \{'cutaway': '9.0'\}; this version reads format 1"):
        study.get(key)
    assert path.exists()
    assert study.find() == []


def hostile(study, make, arrays: bytes) -> str:
    """A stored result with these bytes as arrays and checksums that agree."""
    key = study.put(make())
    path = study.path / key
    data = json.loads((path / "result.json").read_text())
    data["files"]["arrays.safetensors"] = {"bytes": len(arrays), "sha256": folder._sha(arrays)}
    (path / "result.json").write_text(json.dumps(data))
    (path / "arrays.safetensors").write_bytes(arrays)
    return key


def safetensors_bytes(header: object, payload: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + payload


def tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "arrays",
    [
        b"",
        b"1234",
        safetensors_bytes(b"{}", length=2**63),
        safetensors_bytes(b" " * 2**21),
        safetensors_bytes({"values": tensor(0, 8, [2]), "score": tensor(4, 12, [2])}, bytes(12)),
        safetensors_bytes({"values": tensor(0, 4, [1]), "score": tensor(8, 12, [1])}, bytes(12)),
        safetensors_bytes({"values": tensor(0, 400, [100])}, bytes(8)),
        safetensors_bytes({"values": tensor(0, 8, [2**62, 2**62])}, bytes(8)),
        safetensors_bytes({"values": tensor(0, 8, [2], "X99")}, bytes(8)),
        safetensors_bytes(b'{"values":' + b"[" * 100_000),
        safetensors_bytes({f"extra/{i}": tensor(0, 0, [0]) for i in range(30_000)}),
        safetensors_bytes({"other": tensor(0, 8, [2])}, bytes(8)),
    ],
    ids=[
        "empty",
        "short",
        "endless-header",
        "long-header",
        "overlap",
        "gap",
        "beyond",
        "overflow",
        "dtype",
        "deep",
        "many",
        "other",
    ],
)
def test_malformed_arrays_are_refused(study, make, arrays):
    """S26, with checksums that agree, as an attacker would write them."""
    with pytest.raises(NotPossible, match="is damaged"):
        study.get(hostile(study, make, arrays))


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"format": 1}', '{"format": 1, "body": {}, "files": 3}', "[" * 100_000, "1" * 10_000, "\x00"]
)
def test_malformed_descriptions_are_refused(study, make, text):
    key = study.put(make())
    (study.path / key / "result.json").write_text(text)
    with pytest.raises(CutawayError, match="is damaged"):
        study.get(key)


def test_a_link_in_place_of_a_file_is_not_followed(study, make, tmp_path):
    """S22."""
    key = study.put(make())
    path = study.path / key / "result.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(NotPossible, match="symbolic link"):
        study.get(key)


def test_a_link_in_place_of_a_result_is_replaced_not_written_through(study, make, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (study.path / study.key_of(make().provenance)).symlink_to(victim)
    key = study.put(make())
    assert list(victim.iterdir()) == []
    assert same(study.get(key), make())
    assert study.clean() == []


def test_a_folder_with_other_files_is_no_study(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(NotPossible, match=r"holds 'thesis.tex' and no study.json"):
        Study(tmp_path)


def test_a_full_disk_leaves_the_previous_version(study, make, monkeypatch):
    """F46."""
    key = study.put(make())

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NotPossible, match=r"arrays.safetensors \([\d,]+ bytes\): the disk is full"):
            study.put(make(scale=3.0))
    assert same(study.get(key), make())
    assert not list(study.path.glob(".tmp*"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder_says_so_and_can_be_read(study, make, monkeypatch, code):
    """F47. The system call is replaced, since an administrator may write anywhere."""
    key = study.put(make())
    real = os.open

    def read_only(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(code, "refused")
        return real(path, flags, *args, **kwargs)

    def refuse(*args, **kwargs):
        raise OSError(code, "refused")

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(NotPossible, match=r"could not keep the result .* Choose another folder"):
        study.put(make(seed=1))
    assert same(Study(study.path).get(key), make())
    assert [e.key for e in study.find()] == [key]


SCRIPT = """
import os, signal, sys, time
import torch
from cutaway.core.result import Provenance, Scores
from cutaway.core import atomic
from cutaway.store import Study

def scores(value):
    return Scores(names=["a"], values=torch.full((1,), value), provenance=Provenance(method="m", created=str(value)))
"""


def run(code: str, *args: object, wait: bool = True) -> subprocess.Popen[str]:
    source = str(Path(atomic.__file__).parents[2])
    command = [sys.executable, "-c", SCRIPT + textwrap.dedent(code), *map(str, args)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": source}, stderr=subprocess.PIPE, text=True)
    if wait:
        process.communicate(timeout=100)
    return process


def test_killed_in_the_middle_of_a_write(study):
    """F50: the third sync of the second write is the kill; readers see the first version."""
    process = run(
        """
        study = Study(sys.argv[1])
        study.put(scores(1.0))
        real, calls = os.fsync, []
        def killing(handle):
            calls.append(handle)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            real(handle)
        os.fsync = killing
        study.put(scores(2.0))
        """,
        study.path,
    )
    assert process.returncode == -9
    assert len(list(study.path.glob(".tmp-*"))) == 1
    assert len(study) == 1
    (entry,) = study.find()
    assert study.get(entry.key)["a"] == 1.0
    assert len(study.clean()) == 1
    assert not list(study.path.glob(".tmp-*"))
    assert study.get(entry.key)["a"] == 1.0


def test_killed_between_the_two_renames(study):
    """The previous version has been moved away, the new one is not yet in place: `clean` puts the previous one back."""
    process = run(
        """
        from pathlib import Path
        study = Study(sys.argv[1])
        study.put(scores(1.0))
        real = Path.rename
        def killing(path, target):
            real(path, target)
            if "old" in str(target):
                os.kill(os.getpid(), signal.SIGKILL)
        Path.rename = killing
        study.put(scores(2.0))
        """,
        study.path,
    )
    assert process.returncode == -9
    study.clean()
    (entry,) = study.find()
    assert study.get(entry.key)["a"] == 1.0


def test_two_processes_write_the_same_key(study):
    """F52: both finish, no reader ever sees a torn result."""
    code = """
    study = Study(sys.argv[1])
    for i in range(40):
        key = study.put(scores(float(sys.argv[2])))
        assert study.get(key)["a"] in (1.0, 2.0)
        study.find()
    """
    processes = [run(code, study.path, value, wait=False) for value in (1.0, 2.0)]
    for process in processes:
        _, error = process.communicate(timeout=100)
        assert process.returncode == 0, error
    assert len(study) == 1
    assert not (study.path / "quarantined").exists()
    assert not list(study.path.glob(".tmp-*"))


def test_temporary_names_cannot_be_guessed(tmp_path, monkeypatch):
    seen = set()
    real = os.open

    def watch(path, flags, *args, **kwargs):
        if Path(path).name.startswith(atomic.TEMPORARY):
            assert flags & os.O_EXCL
            seen.add(path)
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", watch)
    for _ in range(3):
        atomic.write_text(tmp_path / "a", "text", overwrite=True)
    assert len(seen) == 3


def test_a_replaced_result_keeps_no_stale_entry(study, make):
    study.put(make())
    study.find()
    study.put(replace(make(), title="Second"))
    assert [e.title for e in study.find()] == ["Second"]
