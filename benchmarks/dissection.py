"""Network dissection: counting pixels beside a dense loop, and one layer of EfficientNet-Lite0 over 500 photos.

python benchmarks/dissection.py        all of it; the photos need CUTAWAY_DATA or a network
python benchmarks/dissection.py count  only one part: count, photos
"""

import json
import resource
import sys
import tempfile
import time
from typing import Any

import torch

import cutaway as ct
from cutaway.core.dataset import Examples
from cutaway.core.receptive import Axis
from cutaway.dissection.concepts import Vocabulary
from cutaway.dissection.units import Overlaps, spread
from harness import RESULTS, Contender, _forget_peak, _memory, figures, race, save

UNITS, SIDE, MAPS, CONCEPTS, PRESENT, IMAGES = 512, 112, 14, 1_000, 40, 8


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


def photos() -> dict[str, float]:
    """Every photo twice through the network, decoding included; then with one and with two processes."""
    model, found = ct.load("efficientnet-lite0"), {}
    options = {"site": "_blocks.10", "categories": "color;class"}
    torch.set_num_threads(2)
    _forget_peak()
    wall, cpu = time.monotonic(), time.process_time()
    table = ct.run("dissect", model, "imagenet-samples", **options)
    found["here_s"], found["here_cpu_s"] = time.monotonic() - wall, time.process_time() - cpu
    found["here_peak_mib"] = _memory("VmHWM")
    print(table.checks["detectors"])
    for workers in (1, 2):
        torch.set_num_threads(workers)  # one thread for each process
        with tempfile.TemporaryDirectory() as study:
            wall, cpu = time.monotonic(), _children()
            again = ct.run("dissect", model, "imagenet-samples", study=study, workers=workers, **options)
            found[f"workers_{workers}_s"] = time.monotonic() - wall
            found[f"workers_{workers}_cpu_s"] = _children() - cpu
        assert [row[:3] for row in again.rows[:6]] == [row[:3] for row in table.rows[:6]]
    found["speed_up"] = found["workers_1_s"] / found["workers_2_s"]
    for name, value in found.items():
        print(f"  {name:24}{value:10.2f}")
    return found


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    parts = {"count": count, "photos": photos}
    path = RESULTS / "dissection.json"
    kept = json.loads(path.read_text())["figures"] if path.is_file() else {}
    for name in sys.argv[1:] or parts:
        kept[name] = parts[name]()
    save(__file__, kept)
