"""Activations on disk: the same as in memory, after every fault of a job, read by slices."""

import os

import pytest
import torch
from PIL import Image

import cutaway as ct
from cutaway.core.errors import BadShape, NotPossible, UnknownName
from cutaway.core.progress import reporting
from cutaway.data.lazy import opened
from cutaway.engine import local
from cutaway.engine.execution import Execution, executing, here
from cutaway.engine.stored import Rows, stored
from looking import SHARD, N, make_data, make_model, parts

SITES = ("0", "2")


def kept(folder=None, executor=here, **how):
    model, data = make_model(), make_data()
    with executing(Execution(executor=executor, folder=folder, **how)):
        return model, stored(model, data, SITES, shard=SHARD)


def truth(site):
    model = make_model()
    return model.run(make_data(), read=[site])[site]


@pytest.mark.parametrize("executor", [here, local.processes(1)], ids=["here", "another_process"])
def test_they_are_those_of_one_run_in_any_slice(tmp_path, executor):
    _, found = kept(tmp_path, executor)
    assert len(found) == N
    assert found.ids.tolist() == list(range(N))
    for site in SITES:
        whole = truth(site)
        for start, stop in ((0, None), (3, 5), (7, 9), (0, 8), (8, 8), (-4, None), (20, 999)):
            part = found.read(site, start, stop)
            assert torch.allclose(part, whole[start:stop], atol=1e-6)
            assert len(part) == len(whole[start:stop])
    with pytest.raises(UnknownName, match="stored place"):
        found.read("1")


def test_they_are_found_again_and_go_when_nobody_keeps_them(tmp_path):
    kept(tmp_path)
    model, _ = kept(tmp_path)
    assert model.spent["forwards"] == 0
    _, found = kept()
    path = found._paths[0]
    assert path.is_file()
    del found
    assert not path.exists()


def test_a_set_that_was_cut_off_is_gone_on_with(tmp_path):
    def stop(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reporting(stop):
        kept(tmp_path)
    _, part = kept(tmp_path, partial=True)
    assert len(part) == 3 * SHARD
    assert part.checks["coverage"].status == "warn"
    model, found = kept(tmp_path)
    assert len(found) == N
    assert model.spent["forwards"] <= N - 3 * SHARD + 1 + len(range(3 * SHARD, N, SHARD))


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_done_again_and_that_is_said(tmp_path, harm):
    kept(tmp_path)
    path = parts(tmp_path)[2]
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-7] if harm == "truncate" else data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    _, found = kept(tmp_path)
    assert ("damaged" in found.checks) is (harm != "remove")
    assert torch.allclose(found.read("2"), truth("2"), atol=1e-6)


def test_a_file_that_changes_while_it_is_in_use_is_refused(tmp_path):
    _, found = kept(tmp_path)
    path = parts(tmp_path)[1]
    os.utime(path, ns=(1, 1))
    assert len(found.read("2", 0, SHARD)) == SHARD
    with pytest.raises(NotPossible, match="was changed or removed"):
        found.read("2", SHARD, SHARD + 1)


def test_examples_that_cannot_be_read_leave_gaps(tmp_path):
    for i in range(5):
        Image.new("RGB", (6, 6), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    model = ct.Model(torch.nn.Conv2d(3, 2, 3), ct.images(6))
    found = stored(model, opened(str(tmp_path), space=model.space, broken="skip"), ["output"], shard=2)
    assert found.ids.tolist() == [0, 1, 3, 4]
    assert "1 of 5" in found.checks["data"]
    assert found.read("output", 1, 3).shape == (2, 2, 4, 4)


def test_rows_of_another_shape_are_refused():
    with pytest.raises(BadShape, match="shape"):
        Rows.empty(3).update(torch.arange(2), torch.zeros(2, 4))
