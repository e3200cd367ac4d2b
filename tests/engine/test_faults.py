"""What can happen to a job, F46 to F59: the answer is that of a single pass, or the job says what is wrong."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import cutaway as ct
from cutaway.core.errors import BadShape, NotPossible
from cutaway.core.progress import reporting
from cutaway.data.lazy import opened
from cutaway.engine import folder as folders
from cutaway.engine import local
from cutaway.engine.folder import finished
from cutaway.engine.job import Job
from cutaway.engine.part import Part
from looking import SHARD, Look, N, looked, make_data, make_model, parts, same

TESTS = str(Path(__file__).parent.parent)


def fault(name):
    """Names a test after the fault of the list that it stands for."""
    return pytest.mark.parametrize("fault", [name], ids=[name])


@pytest.fixture(params=["apart", "merged"])
def storage(request, monkeypatch):
    """Files of single shards, and such that are merged as soon as a group of three is there."""
    monkeypatch.setattr(folders, "GROUP", 3)
    monkeypatch.setattr("cutaway.engine.job.GROUP", 3)
    monkeypatch.setattr(folders, "MOST_BYTES", -1 if request.param == "merged" else 1 << 40)
    return request.param


def stop_after(done):
    def stop(progress):
        if progress.done == done:
            raise KeyboardInterrupt

    return reporting(stop)


def failing(function, number, times=1):
    """A system call that fails for a while."""
    calls = iter(range(10**9))

    def call(*args, **kwargs):
        if times > next(calls):
            raise OSError(number, os.strerror(number))
        return function(*args, **kwargs)

    return call


@fault("F46-the_disk_is_full")
def test_a_full_disk(fault, tmp_path, monkeypatch, storage):
    with pytest.raises(KeyboardInterrupt), stop_after(2):
        looked(tmp_path)
    before = finished(next(tmp_path.iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(os.fsync, errno.ENOSPC, times=99))
        with pytest.raises(NotPossible, match=r"\([\d,]+ bytes\): the disk is full"):
            looked(tmp_path)
    assert finished(next(tmp_path.iterdir())) == before
    assert not list(tmp_path.rglob(".tmp-*"))
    same(looked(tmp_path), looked())


@fault("F47-a_read_only_folder")
def test_a_read_only_folder(fault, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(os.open, errno.EROFS, times=99))
        with pytest.raises(NotPossible, match="read-only. Choose another folder"):
            looked(tmp_path)
    same(looked(tmp_path), looked())


@fault("F48-no_room_for_temporary_files")
def test_no_room_for_temporary_files(fault, monkeypatch):
    monkeypatch.setattr("tempfile.mkdtemp", failing(None, errno.ENOSPC, times=99))
    with pytest.raises(NotPossible, match="the disk is full"):
        ct.run("dataset_examples", "shapes-cnn", "shapes/test[0:4]", sites="relu5", k=1, workers=1)


@fault("F49-stopped_between_shards")
@pytest.mark.parametrize("done", range(7))
def test_stopped_between_shards(fault, tmp_path, done, storage):
    with pytest.raises(KeyboardInterrupt), stop_after(done):
        looked(tmp_path)
    assert len(finished(next(tmp_path.iterdir()))) == done
    model = make_model()
    same(looked(tmp_path, model=model), looked())
    assert model.spent["forwards"] == N - done * SHARD
    assert storage == "apart" or len(parts(tmp_path)) == 3  # 3 + 3 + 1 shards


ZYGOTE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import looking
from cutaway.engine import folder, job
folder.GROUP = job.GROUP = 3
folder.MOST_BYTES = int(sys.argv[2])

def dying(function, last):
    def step(*args, **kwargs):
        steps.append(0)
        if len(steps) > last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return step

root, last = Path(sys.argv[1]), 0
while True:
    pid = os.fork()
    if pid == 0:
        steps = []
        for name in ("open", "fsync", "link", "replace", "unlink", "mkdir"):
            setattr(os, name, dying(getattr(os, name), last))
        looking.looked(root / str(last))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        print(last, os.WEXITSTATUS(status))
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    last += 1
"""


@fault("F50-killed_at_every_step_of_writing")
@pytest.mark.slow
def test_killed_at_every_step_of_writing(fault, tmp_path, storage):
    script, root = tmp_path / "child.py", tmp_path / "jobs"
    root.mkdir()
    script.write_text(ZYGOTE.format(tests=TESTS))
    told = subprocess.run(
        [sys.executable, script, root, str(folders.MOST_BYTES)], capture_output=True, text=True, check=True, timeout=120
    )
    steps, code = map(int, told.stdout.split())
    assert code == 0
    assert steps > 25
    whole = looked()
    for path in root.iterdir():
        same(looked(path), whole)


HARMS = ["truncate", "flip", "flip_header", "empty", "foreign", "renamed", "remove", "dangling"]


@fault("F51-a_damaged_file")
@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_file_is_set_aside_and_done_again(fault, tmp_path, harm, storage):
    looked(tmp_path)
    path = parts(tmp_path)[1]
    data = path.read_bytes()
    if harm == "truncate":
        path.write_bytes(data[:-7])
    elif harm == "flip":
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    elif harm == "flip_header":
        path.write_bytes(data[:40] + bytes([data[40] ^ 4]) + data[41:])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "foreign":
        looked(tmp_path / "other", model=make_model(seed=5))
        path.unlink()
        stranger = parts(tmp_path / "other")[1]
        stranger.rename(path.parent / stranger.name)
        shutil.rmtree(tmp_path / "other")
    elif harm == "renamed":  # one shard's file under the name of another's, and with that the right checksum
        path.rename(path.with_name(path.name.replace("00000", "00001", 1)))
    else:
        path.unlink()
        if harm == "dangling":
            path.symlink_to(tmp_path / "nowhere")
    answer = looked(tmp_path)
    same(answer, looked())
    assert ("damaged" in answer.checks) is (harm != "remove")
    assert "damaged" not in looked(tmp_path).checks  # said once


@fault("F51-a_damaged_file_of_a_group_is_not_merged")
def test_damage_is_not_merged(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "GROUP", 3)
    monkeypatch.setattr("cutaway.engine.job.GROUP", 3)
    monkeypatch.setattr(folders, "MOST_BYTES", -1)
    with pytest.raises(KeyboardInterrupt), stop_after(2):
        looked(tmp_path)
    path = parts(tmp_path)[0]

    def harm(progress):
        if progress.done == 2:
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    said = "1 of 7 shards could not be kept: 000000: was altered or cut short"
    with pytest.raises(NotPossible, match=said), reporting(harm):
        looked(tmp_path)
    same(looked(tmp_path), looked())


@fault("F52-two_processes_on_one_job")
@pytest.mark.slow
def test_two_processes_on_one_job(fault, tmp_path, storage):
    code = (
        f"import sys; sys.path.insert(0, {TESTS!r})\n"
        "from pathlib import Path\nimport looking\nfrom cutaway.engine import folder, job\n"
        f"folder.GROUP = job.GROUP = 3; folder.MOST_BYTES = {folders.MOST_BYTES}\n"
        f"root = Path({str(tmp_path)!r}); (root / 'ready').touch()\n"
        "while not (root / 'go').exists(): pass\n"
        "for i in range(6):\n    looking.looked(root / str(i))\n"
    )
    script = tmp_path / "other.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, script]) as other:
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        (tmp_path / "go").touch()
        whole = looked()
        for i in range(6):
            same(looked(tmp_path / str(i)), whole)
        assert other.wait(60) == 0
    for i in range(6):
        assert not list((tmp_path / str(i)).rglob(".tmp-*"))
        same(looked(tmp_path / str(i)), whole)


@fault("F52-two_threads_on_one_job")
def test_two_threads_on_one_job(fault, tmp_path, storage):
    answers = []
    models = [make_model() for _ in range(3)]  # made here, since they are seeded through what threads share
    threads = [threading.Thread(target=lambda m=m: answers.append(looked(tmp_path, model=m))) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 3
    for answer in answers:
        same(answer, looked())


@fault("F53-names_and_clocks")
def test_names_are_short_and_plain_and_clocks_do_not_matter(fault, tmp_path, storage):
    looked(tmp_path)
    for i, path in enumerate(tmp_path.rglob("*")):
        assert re.fullmatch(r"[a-z0-9.-]{1,120}", path.name)
        os.utime(path, (0, 0) if i % 2 else (2**33, 2**33))
    model = make_model()
    same(looked(tmp_path, model=model), looked())
    assert model.spent["forwards"] == 0


@fault("F54-another_version")
@pytest.mark.parametrize("which", ["cutaway.__version__", "torch.__version__"])
def test_another_version_is_another_job(fault, tmp_path, monkeypatch, which):
    looked(tmp_path)
    monkeypatch.setattr(which, "99.0")
    model = make_model()
    looked(tmp_path, model=model)
    assert model.spent["forwards"] == N
    assert len(list(tmp_path.iterdir())) == 2


@fault("F54-a_state_that_is_no_longer_known")
def test_a_state_that_is_no_longer_known_is_done_again(fault, tmp_path):
    looked(tmp_path)
    path = parts(tmp_path)[0]
    data = path.read_bytes().replace(b"Covariance", b"Covariante")
    path.unlink()
    (path.parent / f"000000.{hashlib.sha256(data).hexdigest()}.safetensors").write_bytes(data)
    answer = looked(tmp_path)
    same(answer, looked())
    assert "no part of a job" in answer.checks["damaged"]


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(6):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(root / f"{i}.png")
    return root


@dataclass(frozen=True)
class Mean:
    """The mean of the output of a network of pictures."""

    def begin(self, model, data, examples):
        return Look().begin(model, data, examples)

    def update(self, states, model, x, part, ids):
        out = model.run(x).output.flatten(1)[:, :2]
        states["covariance"].update(out)


def seen(root, folder, broken="stop"):
    model = ct.Model(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), ct.images(8))
    data = opened(str(root), space=model.space, broken=broken)
    return looked(folder, work=Mean(), model=model, data=data, shard=2)


@fault("F55-a_broken_file")
@pytest.mark.parametrize("which", [0, 3])
def test_a_broken_file_stops_the_job_or_is_left_out_and_counted(fault, tmp_path, photos, which):
    path = photos / f"{which}.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(BadShape, match=path.name):
        seen(photos, tmp_path / "strict")
    answer = seen(photos, tmp_path / "jobs", broken="skip")
    assert (answer.seen, answer.examples) == (5, 6)
    assert f"1 of 2 files left out: {path.name}" in answer.checks["data"]
    model = ct.Model(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2)), ct.images(8))
    data = opened(str(photos), space=model.space, broken="skip")
    table = ct.run("dissect", model, data, site="0", quantile=0.9, categories="color")
    assert len(table.rows) == 2


@fault("F56-files_changed_between_runs")
def test_files_changed_between_runs_are_another_job(fault, tmp_path, photos):
    torch.manual_seed(0)
    seen(photos, tmp_path / "jobs")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(photos / "3.png")
    os.utime(photos / "3.png", (1, 1))
    torch.manual_seed(0)
    seen(photos, tmp_path / "jobs")
    assert len(list((tmp_path / "jobs").iterdir())) == 2


@fault("F56-files_changed_during_a_run")
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("which", ["4.png", "0.png"])
def test_files_that_change_during_a_run_are_noticed(fault, tmp_path, photos, kept, which):
    def change(progress):
        if progress.done in (0, 2) and not (tmp_path / "changed").exists():
            (tmp_path / "changed").touch()
            Image.new("RGB", (8, 8), (1, 2, 3)).save(photos / which)
            os.utime(photos / which, (1, 1))

    with pytest.raises(NotPossible, match="changed since the job began"), reporting(change):
        seen(photos, tmp_path / "jobs" if kept else None)


class Odd(Exception):
    """An error that cannot be read back: its class wants two arguments and hands on one."""

    def __init__(self, one, two):
        super().__init__(one)


class Raising(nn.Module):
    def forward(self, x):
        raise Odd("a kernel is missing", 2)


@fault("F57-a_worker_fails_or_dies")
@pytest.mark.slow
def test_a_worker_that_fails_tells_where_and_one_that_dies_is_replaced(fault, tmp_path):
    with pytest.raises(RuntimeError, match="a kernel is missing") as told:
        looked(executor=local.processes(1), folder=tmp_path, model=ct.Model(Raising(), ct.rows(3, low=-3.0, high=3.0)))
    assert "in forward" in str(told.value)
    fuse = tmp_path / "fuse"
    fuse.touch()
    same(looked(tmp_path / "jobs", work=Look(pid=str(fuse)), executor=local.processes(1)), looked())


@fault("F58-weights_that_change")
@pytest.mark.parametrize("kept", [True, False])
def test_weights_that_change_are_noticed(fault, tmp_path, kept):
    model = make_model()

    def meddle(progress):
        if 0 < progress.done < N:
            model.module[0].weight.data += 1

    with pytest.raises(NotPossible, match="weights of .* changed"), reporting(meddle):
        looked(tmp_path if kept else None, model=model)
    if kept:
        same(looked(tmp_path), looked())


class Lost(nn.Module):
    """A network whose device is lost after a while."""

    def __init__(self):
        super().__init__()
        self.net, self.lost = make_model().module, False

    def forward(self, x):
        if self.lost:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return self.net(x)


@fault("F59-the_device_is_lost")
def test_a_lost_device_costs_the_shard_at_hand(fault, tmp_path):
    model = ct.Model(Lost(), ct.rows(3, low=-3.0, high=3.0))

    def lose(progress):
        model.module.lost = progress.done == 3

    with pytest.raises(RuntimeError, match="unspecified launch failure"), reporting(lose):
        looked(tmp_path, model=model)
    assert finished(next(tmp_path.iterdir())) == {0, 1, 2}
    model.module.lost = False
    same(looked(tmp_path, model=model), looked())


@fault("F59-shards_of_different_devices")
def test_shards_of_different_devices_are_said(fault, tmp_path, storage):
    looked(tmp_path)
    for path in parts(tmp_path):
        path.unlink()
    folder = next(tmp_path.iterdir()) / "parts"
    part = Job(Look(), make_model(), make_data(), SHARD).do(0)
    assert part.device == "cpu"
    data = replace(part, device="cuda:0").packed()
    (folder / f"000000.{hashlib.sha256(data).hexdigest()}.safetensors").write_bytes(data)
    answer = looked(tmp_path)
    assert "cpu and cuda:0" in answer.checks["devices"]
    assert "cpu and cuda:0" in looked(tmp_path).checks["devices"]


def reordered(job, wanted):
    return map(job.do, reversed(list(wanted)))


def doubled(job, wanted):
    for index in wanted:
        yield job.do(index)
        yield job.do(index)


def dropping(job, wanted):
    return (job.do(index) for index in wanted if index != 2)


def wrongly_numbered(job, wanted):
    for index in wanted:
        part = job.do(index)
        yield replace(part, index=99) if index == 2 else part


@pytest.mark.parametrize("executor", [reordered, doubled])
def test_shards_in_any_order_and_twice_give_the_same_answer(tmp_path, executor, storage):
    same(looked(tmp_path, executor=executor), looked())


@pytest.mark.parametrize("executor", [dropping, wrongly_numbered])
def test_an_executor_that_loses_a_shard_is_found_out(tmp_path, executor, storage):
    with pytest.raises(NotPossible, match="1 of 7 shards could not be kept"):
        looked(tmp_path, executor=executor)
    same(looked(tmp_path), looked())


def test_merged_files_hold_their_shards_and_change_no_bit(tmp_path, storage):
    same(looked(tmp_path), looked())
    names = [path.name.partition(".")[0] for path in parts(tmp_path)]
    apart = [f"{i:06d}" for i in range(7)]
    assert names == (apart if storage == "apart" else ["000000-000002", "000003-000005", "000006"])
    assert finished(next(tmp_path.iterdir())) == set(range(7))
    for path in parts(tmp_path):
        part = Part.unpacked(path.read_bytes())
        assert part.name == path.name.partition(".")[0]
        assert part.seen == part.stop - part.start
    header = json.loads((next(tmp_path.iterdir()) / "manifest.json").read_text())
    assert len(header["shards"]) == 7
