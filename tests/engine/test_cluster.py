"""Jobs on Ray: a cluster started for the job, and one of two nodes of which one is lost on the way."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.errors import NotPossible
from cutaway.core.progress import reporting
from cutaway.engine import cluster as cluster_module
from cutaway.engine.cluster import cluster
from cutaway.engine.counts import Counts
from cutaway.engine.execution import Execution, executing, here
from cutaway.engine.job import fold
from cutaway.engine.moments import Covariance

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")
# Ray leaves handles to its own processes, and warns of its own future.
quiet = pytest.mark.filterwarnings(
    "ignore::ResourceWarning",
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@dataclass(frozen=True)
class Slow:
    """Counts and a covariance, with a pause at each batch."""

    pause: float = 0.0

    def begin(self, model, data, examples):
        return {"count": Counts.empty(2), "covariance": Covariance.empty(2)}

    def update(self, states, model, x, part, ids):
        time.sleep(self.pause)
        out = model.run(x).output
        states["count"].update((out > 0).sum(0))
        states["covariance"].update(out)


def looked(folder, executor, pause=0.0):
    torch.manual_seed(0)
    model = ct.Model(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), ct.rows(3, low=-3.0, high=3.0))
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)
    data = Examples(x=x, names=[str(i) for i in range(len(x))])
    with executing(Execution(executor=executor, folder=folder)):
        return fold(Slow(pause), model, data, label="looking", shard=5)


def same(a, b):
    for name, state in a.states.items():
        for key, tensor in state.arrays().items():
            assert torch.equal(tensor, b.states[name].arrays()[key]), (name, key)


@needs_ray
@quiet
@pytest.mark.slow
def test_a_local_cluster_gives_the_answer_of_one_process_to_the_last_bit(tmp_path):
    same(looked(tmp_path / "ray", cluster(workers=2)), looked(tmp_path / "here", here))
    assert "RAY_AUTH_TOKEN" not in os.environ


@contextlib.contextmanager
def two_nodes():
    """A head and a second node on this machine, each with one core: the address, the token, the second node.

    On 127.0.0.2, since Ray takes 127.0.0.1 for "this machine" and looks up its address in the network.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    tool = str(Path(sys.executable).with_name("ray"))
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        # The one of this process: Ray remembers the first that it was given.
        "RAY_AUTH_TOKEN": cluster_module._OWN_TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    common = ["--num-cpus=1", "--object-store-memory=80000000", "--node-ip-address=127.0.0.2", "--block"]
    nodes = []
    try:
        for where in (["--head", f"--port={port}", "--include-dashboard=false"], [f"--address=127.0.0.2:{port}"]):
            log = subprocess.DEVNULL
            node = subprocess.Popen([tool, "start", *where, *common], env=env, stdout=log, stderr=log, process_group=0)
            nodes.append(node)
            time.sleep(6)
        yield f"127.0.0.2:{port}", env["RAY_AUTH_TOKEN"], nodes[1]
    finally:
        for node in nodes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGTERM)
        for node in nodes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()


@needs_ray
@quiet
@pytest.mark.slow
def test_a_node_that_is_lost_costs_no_shard(tmp_path, monkeypatch):
    with two_nodes() as (address, token, second):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        lost = []

        def lose(progress):
            if progress.done == 3 and not lost:
                lost.append(second.pid)
                os.killpg(second.pid, signal.SIGKILL)

        with reporting(lose):
            answer = looked(tmp_path / "ray", cluster(address, workers=2), pause=0.3)
        assert lost
        same(answer, looked(tmp_path / "here", here))


@needs_ray
def test_a_cluster_without_a_token_is_refused(tmp_path, monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotPossible, match="needs its token"):
        looked(tmp_path, cluster("127.0.0.1:1"))


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotPossible, match=r"cutaway\[ray\]"):
        looked(tmp_path, cluster())
