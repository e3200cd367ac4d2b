"""Network dissection: counting pixels beside a dense loop, and one layer of EfficientNet-Lite0 over 500 photos.

python benchmarks/dissection.py          all of it; the photos need CUTAWAY_DATA or a network
python benchmarks/dissection.py count    only one part: count, photos, workers
"""

import json
import os
import resource
import sys
import tempfile
import time
from typing import Any

import torch

import cutaway as ct
from cutaway.core.dataset import Examples, first
from cutaway.core.receptive import Axis
from cutaway.core.site import Site
from cutaway.dissection.anchors import anchors
from cutaway.dissection.concepts import Vocabulary, vocabulary
from cutaway.dissection.units import Overlaps, Thresholds, spread
from cutaway.engine.execution import Execution, executing
from cutaway.engine.job import fold
from cutaway.engine.local import processes
from harness import RESULTS, Contender, _forget_peak, _memory, figures, race, save

UNITS, SIDE, MAPS, CONCEPTS, PRESENT, IMAGES = 512, 112, 14, 1_000, 40, 8
LAYER = {"site": "_blocks.10", "categories": "color;class"}
# Photos in a shard, and runs of which the least is kept, since others may use the machine.
SHARD, ROUNDS = 20, 2


def scene() -> tuple[Any, ...]:
    """Activations, thresholds, and labels of pictures with forty concepts each, in two layers."""
    draw = torch.Generator().manual_seed(0)
    act = torch.randn(IMAGES, UNITS, MAPS, MAPS, generator=draw)
    thresholds = act.transpose(0, 1).flatten(1).quantile(0.995, dim=1).double()
    labels = torch.zeros(IMAGES, 2, SIDE, SIDE, dtype=torch.int16)
    for picture in labels:
        chosen = torch.randperm(CONCEPTS, generator=draw)[:PRESENT] + 1
        coarse = torch.randint(0, PRESENT // 2, (2, 8, 8), generator=draw) + torch.tensor([[[0]], [[PRESENT // 2]]])
        picture[:] = chosen[coarse].repeat_interleave(14, 1).repeat_interleave(14, 2)
    step = 224 / MAPS
    axis = Axis(step, step / 2 - 0.5, step)
    words = Vocabulary(("object",), (tuple(map(str, range(CONCEPTS))),))
    return act, thresholds, labels, Overlaps("input", thresholds, words, SIDE, SIDE, axis, axis)


class Given(torch.nn.Module):
    """A network whose only layer are the activations that were put in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def count() -> dict[str, Any]:
    """The counts of eight pictures: enlarged as floats and compared concept by concept, and as dissection does it."""
    act, thresholds, labels, work = scene()
    model = ct.Model(Given(), ct.images(MAPS, channels=UNITS, low=-9.0, high=9.0), scores="values")
    model.run(act[:1])
    part = Examples(x=torch.zeros(IMAGES, 3, 224, 224), names=[""] * IMAGES, concepts={"object": labels})
    down, across = (spread(axis, MAPS, SIDE, 224).float() for axis in (work.y, work.x))

    def dense() -> torch.Tensor:
        both = torch.zeros(UNITS, CONCEPTS)
        for maps, picture in zip(act, labels, strict=True):
            over = ((down @ maps @ across.T) > thresholds[:, None, None]).float()
            for layer in picture:
                for concept in layer.unique().tolist():
                    if concept:
                        both[:, concept - 1] += (over * (layer == concept).float()).sum((1, 2))
        return both.long()

    def matrix() -> torch.Tensor:
        both = torch.zeros(UNITS, CONCEPTS)
        for maps, picture in zip(act, labels, strict=True):
            over = ((down @ maps @ across.T) > thresholds[:, None, None]).float().flatten(1)
            for layer in picture:
                present = layer.unique()
                masks = (layer.flatten()[:, None] == present).float()
                both[:, present.long() - 1] += over @ masks
        return both.long()

    def ours() -> torch.Tensor:
        states = work.begin(model, part, IMAGES)
        work.update(states, model, act, part, torch.arange(IMAGES))
        return states["both"].arrays()["values"]

    def empty() -> torch.Tensor:
        return torch.stack([down @ maps @ across.T for maps in act])

    title = f"{IMAGES} pictures, {UNITS} units, {PRESENT} concepts in each, {SIDE} x {SIDE}"
    contenders = [
        Contender("dense floats, concept by concept", dense),
        Contender("dense floats, one product for each layer", matrix),
        Contender("cutaway", ours),
        Contender("enlarging all maps alone", empty),
    ]
    found = race(title, contenders, rounds=3)
    answers = [c.answer for c in contenders[:3]]
    assert all(torch.equal(answer, answers[2]) for answer in answers), "counts differ"
    return figures(found)


def photos(some: int = 500) -> dict[str, float]:
    """Photos twice through the network, decoding included, on one thread."""
    torch.set_num_threads(1)
    _forget_peak()
    wall, cpu = time.monotonic(), time.process_time()
    table = ct.run("dissect", ct.load("efficientnet-lite0"), f"imagenet-samples[0:{some}]", **LAYER)
    found = {"photos": float(some), "s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    found["peak_mib"] = _memory("VmHWM")
    print(table.checks["detectors"])
    return _told(found | {"load": os.getloadavg()[0]})


def workers(some: int = 160) -> dict[str, float]:
    """The two looks at some of the photos with one and with two spawned processes of one thread, start included."""
    model, data = ct.load("efficientnet-lite0"), ct.data(f"imagenet-samples[0:{some}]")
    words, size = vocabulary(data, ("color", "class")), min(model.space.shape[1:])
    field, _ = anchors(model, Site.of(LAYER["site"]), model.inputs(first(data)))
    found, answers = {"photos": float(some)}, list[torch.Tensor]()
    for _ in range(ROUNDS):
        for count in (1, 2):
            torch.set_num_threads(count)  # one thread for each process
            wall, cpu = time.monotonic(), _children()
            with tempfile.TemporaryDirectory() as root, executing(Execution(executor=processes(count), folder=root)):
                tail = fold(Thresholds(LAYER["site"], 0.995), model, data, label="thresholds", shard=SHARD)
                cut = tail.states["tail"].quantile(0.995)
                look = Overlaps(LAYER["site"], cut, words, min(SIDE, size), min(SIDE, size), field.y, field.x)
                states = fold(look, model, data, label="overlaps", shard=SHARD).states
            spent = {"s": time.monotonic() - wall, "cpu_s": _children() - cpu}
            answers.append(states["both"].arrays()["values"])
            for unit, value in spent.items():
                found[f"{count}_{unit}"] = min(found.get(f"{count}_{unit}", value), value)
    assert all(torch.equal(answer, answers[0]) for answer in answers), "the number of processes changes the counts"
    found["speed_up"] = found["1_s"] / found["2_s"]
    return _told(found | {"load": os.getloadavg()[0]})


def _told(found: dict[str, float]) -> dict[str, float]:
    for name, value in found.items():
        print(f"  {name:24}{value:10.2f}")
    return found


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    parts = {"count": count, "photos": photos, "workers": workers}
    path = RESULTS / "dissection.json"
    kept = json.loads(path.read_text())["figures"] if path.is_file() else {}
    for given in sys.argv[1:] or parts:
        name, _, some = given.partition(":")
        kept[name] = parts[name](*([int(some)] if some else []))
        save(__file__, kept)
