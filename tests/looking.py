"""A small job that tests of the engine run, harm and compare."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.engine.counts import Counts
from cutaway.engine.execution import Execution, executing, here
from cutaway.engine.extremes import Best
from cutaway.engine.job import fold
from cutaway.engine.moments import Covariance

N, SHARD = 50, 8


@dataclass(frozen=True)
class Look:
    """Statistics of the two outputs of a small network: exact ones and rounded ones."""

    above: float = 0.0
    pid: str = ""  # a file that a worker removes, and then dies

    def begin(self, model, data, examples):
        return {"best": Best.empty(2, 3), "count": Counts.empty(2), "covariance": Covariance.empty(2)}

    def update(self, states, model, x, part, ids):
        if self.pid and Path(self.pid).exists() and 16 in ids.tolist():
            Path(self.pid).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        out = model.run(x).output
        states["best"].update(out, ids)
        states["count"].update((out > self.above).sum(0))
        states["covariance"].update(out)


def make_model(seed: int = 0) -> ct.Model:
    torch.manual_seed(seed)
    return ct.Model(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), ct.rows(3, low=-3.0, high=3.0))


def make_data(n: int = N) -> Examples:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(1)).clamp(-3, 3)
    return Examples(x=x, names=[str(i) for i in range(n)], source="made up")


def same(a, b):
    for name, state in a.states.items():
        for key, tensor in state.arrays().items():
            assert torch.equal(tensor, b.states[name].arrays()[key]), (name, key)


def looked(folder=None, *, work=None, executor=here, model=None, data=None, shard=SHARD, **how):
    with executing(Execution(executor=executor, folder=folder, **how)):
        data = make_data() if data is None else data
        return fold(work or Look(), model or make_model(), data, label="looking", shard=shard)


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/parts/*.safetensors"))
