"""States and jobs: memory and cost of exact thresholds, files of finished shards, and Ray beside spawned processes.

    python benchmarks/engine.py            all of it
    python benchmarks/engine.py tail       only one part: tail, files, ray

Activations are streamed random numbers of the shape that network dissection of Broden has: 63,305 pictures, 1,000
units, 7 x 7 positions. Times of one process are CPU seconds; Ray and processes are compared by the clock, with shards
that wait for ten seconds instead of computing, so that what else the machine does is not measured.
"""

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import cutaway as ct
from cutaway.core.dataset import Dataset, Examples
from cutaway.core.progress import Progress, reporting
from cutaway.engine import folder as folders
from cutaway.engine.cluster import cluster
from cutaway.engine.counts import Counts
from cutaway.engine.execution import Execution, Executor, executing, here
from cutaway.engine.folder import JobFolder
from cutaway.engine.job import Folded, fold
from cutaway.engine.local import processes
from cutaway.engine.moments import Covariance
from cutaway.engine.part import Part
from cutaway.engine.tails import Tail, room_for
from harness import RESULTS, _forget_peak, _memory, save

IMAGES, UNITS, PLACES, BATCH, Q = 63_305, 1_000, 49, 32, 0.995


def tail() -> dict[str, float]:
    """Stream everything through one exact tail; compare a few units with NumPy's quantile of all their values."""
    model, photo = ct.load("efficientnet-lite0"), ct.data("photos/chelsea")
    x = model.inputs(photo).repeat(8, 1, 1, 1)
    model.run(x, read=["output"])
    started = time.process_time()
    for _ in range(3):
        model.run(x, read=["output"])
    forward = (time.process_time() - started) / 24
    draw, watched = np.random.default_rng(0), [0, 499, 999]
    # Made and touched before memory is looked at, so that what rises is the state and what an update needs.
    every = np.ones((len(watched), IMAGES * PLACES), dtype=np.float32)
    drawn = np.ones(UNITS * BATCH * PLACES, dtype=np.float32)
    _forget_peak()
    before, spent, held = _memory("VmRSS"), 0.0, 0
    state = Tail.empty(UNITS, room_for(Q, IMAGES * PLACES))
    for start in range(0, IMAGES, BATCH):
        # As after a rectifier: half of the activations are 0.
        count = min(BATCH, IMAGES - start)
        flat = drawn[: UNITS * count * PLACES]
        draw.standard_normal(out=flat, dtype=np.float32)
        values = torch.from_numpy(flat).view(UNITS, -1).relu_()
        every[:, start * PLACES : (start + count) * PLACES] = values[watched]
        started = time.process_time()
        state.update(values)
        spent += time.process_time() - started
        held = max(held, state.kept.nbytes)
    started = time.process_time()
    thresholds = state.quantile(Q)
    last = time.process_time() - started
    peak = _memory("VmHWM") - before
    assert np.array_equal(thresholds[watched].numpy(), np.quantile(every.astype(np.float64), Q, axis=1))
    found = {
        "state_mb": held / 1e6,
        "peak_rise_mb": peak * 2**20 / 1e6,
        "stored_float32_mb": IMAGES * UNITS * PLACES * 4 / 1e6,
        "update_ms_per_image": 1e3 * (spent + last) / IMAGES,
        "forward_ms_per_image": 1e3 * forward,
        "share_of_forward": (spent + last) / IMAGES / forward,
    }
    print(f"exact 0.995 quantiles of {UNITS:,} units over {IMAGES:,} pictures, equal to NumPy's to the last bit:")
    for name, value in found.items():
        print(f"  {name:24}{value:12.4g}")
    return found


def files() -> dict[str, float]:
    """Files of sixteen shards of 256 pictures before and after they were merged, for 250 units, scaled to 1,000."""
    units, draw = 250, torch.Generator().manual_seed(0)
    room = room_for(Q, IMAGES * PLACES)
    with tempfile.TemporaryDirectory() as root:
        folder = JobFolder(Path(root), "0" * 32)
        for i in range(folders.GROUP):
            state = Tail.empty(units, min(room, 256 * PLACES))
            state.update(torch.randn(units, 256 * PLACES, generator=draw))
            folder.keep(Part(folder.job, i, 256 * i, 256 * i + 256, "w", 256, (), {}, {"tail": state}))
        apart = sum(path.stat().st_size for path in folder.path.rglob("*.safetensors"))
        started = time.process_time()
        folder.compact(0, folders.GROUP)
        spent = time.process_time() - started
        merged = sum(path.stat().st_size for path in folder.path.rglob("*.safetensors"))
    groups, scale = IMAGES / 256 / folders.GROUP, UNITS / units / 1e6
    found = {
        "shard_mb": apart * scale / folders.GROUP,
        "group_apart_mb": apart * scale,
        "group_merged_mb": merged * scale,
        "broden_apart_gb": apart * scale * groups / 1e3,
        "broden_merged_gb": merged * scale * groups / 1e3,
        "merging_s": spent * UNITS / units,
    }
    print("\nfiles of exact tails, 1,000 units:")
    for name, value in found.items():
        print(f"  {name:24}{value:12.4g}")
    return found


@dataclass(frozen=True)
class Waiting:
    """Counts, a covariance, and a pause for each shard."""

    pause: float

    def begin(self, model: ct.Model, data: Dataset, examples: int) -> dict[str, Any]:
        """Nothing seen."""
        return {"count": Counts.empty(64), "covariance": Covariance.empty(64)}

    def update(self, states: Any, model: ct.Model, x: Any, part: Examples, ids: torch.Tensor) -> None:
        """Take a shard in, which is one batch here."""
        time.sleep(self.pause)
        out = model.run(x).output
        states["count"].update((out > 0).sum(0))
        states["covariance"].update(out)


def waited(executor: Executor, pause: float) -> tuple[Folded, float]:
    """The answer, and the time from the first finished shard to the last."""
    torch.manual_seed(0)
    model = ct.Model(nn.Linear(8, 64), ct.rows(8, low=-4.0, high=4.0))
    x = torch.randn(12 * 32, 8, generator=torch.Generator().manual_seed(1)).clamp(-4, 4)
    data, marks = Examples(x=x, names=[str(i) for i in range(len(x))]), list[float]()

    def mark(progress: Progress) -> None:
        if progress.done:
            marks.append(time.monotonic())

    with tempfile.TemporaryDirectory() as root:
        how = Execution(executor=executor, folder=Path(root))
        with executing(how), reporting(mark):
            answer = fold(Waiting(pause), model, data, label="waiting", shard=32)
    return answer, marks[-1] - marks[0]


def ray() -> dict[str, float]:
    """Twelve shards of ten seconds over two workers: ten shards after the first two, so fifty seconds at best."""
    truth, _ = waited(here, 0.0)
    found = {}
    for name, executor in (("processes", processes(2)), ("ray", cluster(workers=2))):
        answer, found[name] = waited(executor, 10.0)
        for kind, state in answer.states.items():
            for key, tensor in state.arrays().items():
                assert torch.equal(tensor, truth.states[kind].arrays()[key]), (name, kind, key)
        print(f"  {name:24}{found[name]:12.3f} s after the first shard, bit-equal to one process")
    found["loss"] = found["ray"] / found["processes"] - 1
    print(f"  Ray loses {found['loss']:.2%}")
    return found


if __name__ == "__main__":
    parts = {"tail": tail, "files": files, "ray": ray}
    path = RESULTS / "engine.json"
    figures = json.loads(path.read_text())["figures"] if path.is_file() else {}
    for name in sys.argv[1:] or parts:
        figures[name] = parts[name]()
        save(__file__, figures)
