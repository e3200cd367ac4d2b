"""Jobs: the same answer however they are cut, stopped, repeated and damaged."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.progress import reporting
from cutaway.engine import local
from cutaway.engine.folder import cancel, is_at_work
from cutaway.engine.job import Job
from cutaway.engine.part import Part
from looking import SHARD, Look, N, looked, make_data, make_model, parts, same


def test_shards_in_files_give_the_answer_without_files(tmp_path):
    kept, plain = looked(tmp_path), looked()
    same(kept, plain)
    assert kept.seen == plain.seen == N
    assert len(parts(tmp_path)) == len(range(0, N, SHARD))


def test_the_answer_is_that_of_one_pass():
    one = Look().begin(None, None, N)
    model, data = make_model(), make_data()
    Look().update(one, model, model.inputs(data), data, torch.arange(N))
    answer = looked()
    assert torch.equal(answer.states["count"].values, one["count"].values)
    assert torch.equal(answer.states["best"].ids, one["best"].ids)
    assert_close(answer.states["covariance"].scatter, one["covariance"].scatter, atol=1e-12, rtol=1e-12)


def test_a_job_that_was_stopped_goes_on_where_it_was(tmp_path):
    def stop(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reporting(stop):
        looked(tmp_path)
    before = parts(tmp_path)
    assert len(before) == 3
    model = make_model()
    same(looked(tmp_path, model=model), looked())
    assert parts(tmp_path)[:3] == before
    assert model.spent["forwards"] < 2 * N  # not everything again


def test_finished_jobs_are_not_done_again(tmp_path):
    looked(tmp_path)
    model = make_model()
    looked(tmp_path, model=model)
    assert model.spent["forwards"] == 0


def test_two_processes_give_the_answer_of_one(tmp_path):
    model = make_model()
    answer = looked(tmp_path, executor=local.processes(2), model=model)
    same(answer, looked())
    assert model.spent["forwards"] >= N  # those of the processes are counted


def test_a_process_that_dies_costs_one_shard_at_most(tmp_path):
    fuse = tmp_path / "fuse"
    fuse.touch()
    answer = looked(tmp_path / "jobs", work=Look(pid=str(fuse)), executor=local.processes(2))
    assert not fuse.exists()
    same(answer, looked())


class Deadly(nn.Module):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_shard_that_kills_every_process_is_named(tmp_path):
    model = ct.Model(Deadly(), ct.rows(3, low=-3.0, high=3.0))
    with pytest.raises(NotPossible, match=r"died 3 times while it looked at shard 0 \(examples 0-7\)"):
        looked(tmp_path, executor=local.processes(1), model=model, data=make_data(8))


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such kernel")


def test_an_error_in_a_process_reaches_the_caller(tmp_path):
    model = ct.Model(Broken(), ct.rows(3, low=-3.0, high=3.0))
    with pytest.raises(RuntimeError, match="no such kernel"):
        looked(tmp_path, executor=local.processes(1), model=model)


def test_a_network_that_cannot_be_sent_is_refused(tmp_path):
    model = make_model()
    model.module.lock = threading.Lock()
    with pytest.raises(NotPossible, match="cannot be sent to another process"):
        looked(tmp_path, executor=local.processes(1), model=model)


def test_parts_that_are_there_twice_or_torn_count_once(tmp_path):
    looked(tmp_path)
    folder = parts(tmp_path)[0].parent
    job = Job(Look(), make_model(), make_data(), SHARD)
    other = job.do(1)
    # The same shard with another last digit, as another machine might compute it.
    other.states["covariance"].scatter[0, 0] += 1e-9
    data = other.packed()
    (folder / f"000001.{hashlib.sha256(data).hexdigest()}.safetensors").write_bytes(data)
    (folder / ".tmp-0123").write_bytes(b"torn")
    answer, plain = looked(tmp_path), looked()
    assert torch.equal(answer.states["count"].values, plain.states["count"].values)
    assert_close(answer.states["covariance"].scatter, plain.states["covariance"].scatter, atol=1e-8, rtol=0)


def test_other_data_weights_or_options_are_another_job(tmp_path):
    looked(tmp_path)
    looked(tmp_path, model=make_model(seed=2))
    looked(tmp_path, data=make_data(49))
    looked(tmp_path, work=Look(above=0.5))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_partial_answer_says_so(tmp_path):
    with pytest.raises(NotPossible, match="no shard of this job is finished"):
        looked(tmp_path, partial=True)

    def stop(progress):
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), reporting(stop):
        looked(tmp_path)
    answer = looked(tmp_path, partial=True)
    assert answer.seen == 16
    assert answer.checks["coverage"].status == "warn"
    assert "16 of 50" in answer.checks["coverage"]
    with pytest.raises(BadOption, match="name the folder"):
        looked(partial=True)


def test_a_job_can_be_cancelled_and_goes_on_when_it_is_run_again(tmp_path):
    def stop(progress):
        (folder,) = tmp_path.iterdir()
        assert is_at_work(folder)
        if progress.done == 2:
            cancel(folder)

    with pytest.raises(NotPossible, match=r"cancelled; its finished shards are kept"), reporting(stop):
        looked(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert not is_at_work(folder)
    same(looked(tmp_path), looked())


def test_an_empty_set_is_refused():
    with pytest.raises(BadShape, match="at least one input"):
        looked(data=make_data(0))


def test_a_part_reads_back_as_it_was():
    part = Job(Look(), make_model(), make_data(), SHARD).do(0)
    again = Part.unpacked(part.packed())
    assert again.packed() == part.packed()
    with pytest.raises(ValueError, match="no part"):
        Part.unpacked(b"nothing")


def test_workers_end_with_their_coordinator(tmp_path):
    """A coordinator that is killed leaves no process behind."""
    script = tmp_path / "child.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n"
        "from pathlib import Path\nimport looking, time, os\nfrom cutaway.engine import local\n"
        "from cutaway.core.progress import reporting\n"
        "def wait(progress):\n"
        "    if progress.done == 1:\n"
        "        print(*[p.read_text() for p in Path(f'/proc/{os.getpid()}/task').glob('*/children')], flush=True)\n"
        "        time.sleep(60)\n"
        "with reporting(wait):\n"
        f"    looking.looked(Path({str(tmp_path / 'jobs')!r}), executor=local.processes(1))\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pids = [int(pid) for pid in child.stdout.readline().split()]
        child.kill()
    assert pids
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and any(_alive(pid) for pid in pids):
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return status != "Z"
    return False
