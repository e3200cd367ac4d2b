"""The full verdict on six methods for one photo of 224 x 224: wall time, CPU seconds, peak memory, and the forwards
beside those that no sharing could save.

    python benchmarks/trust.py [photos|floor]

`floor` runs the verdict once more and counts how many of the forwards had weights and an input that no other had.
"""

import hashlib
import json
import os
import resource
import sys
import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

import cutaway as ct
from cutaway.evaluation import trust_cases

METHODS = ("gradient", "integrated_gradients", "guided_backprop", "grad_cam", "occlusion", "rise")
PHOTO = "photos/coffee"


def verdict() -> dict[str, Any]:
    """One run, as a user makes it."""
    model = ct.load("efficientnet-lite0")
    x = ct.data(PHOTO, space=model.space)
    used, started = time.process_time(), time.perf_counter()
    table = ct.run("trust", model, x, methods=METHODS)
    cost = table.provenance.cost
    return {
        "wall_seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "forwards": cost.forwards,
        "backwards": cost.backwards,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "table": [table.columns, *table.rows],
        "sentences": {row[0]: table.checks[row[0]] for row in table.rows},
    }


def floor() -> dict[str, Any]:
    """How many of the forwards are of an input that these weights had not seen, by test."""
    model = ct.load("efficientnet-lite0")
    x = ct.data(PHOTO, space=model.space)
    seen: set[tuple[str, str]] = set()
    done: Counter[str] = Counter()
    new: Counter[str] = Counter()
    where = ["maps"]

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        weights = str(sum(float(p.detach().double().sum()) for p in (*module.parameters(),)))
        assert isinstance(args[0], Tensor)
        for row in args[0].detach():
            known = (weights, hashlib.sha1(row.contiguous().numpy().tobytes()).hexdigest())
            done[where[0]] += 1
            new[where[0]] += known not in seen
            seen.add(known)

    model.module.register_forward_pre_hook(look)
    tested = trust_cases._tested

    def watched(*given: Any) -> float:
        where[0] = given[3].name
        try:
            return tested(*given)
        finally:
            where[0] = "maps"

    trust_cases._tested = watched
    ct.run("trust", model, x, methods=METHODS)
    return {"inputs_run": dict(done), "of_them_new": dict(new), "all": sum(done.values()), "new": sum(new.values())}


if __name__ == "__main__":
    from harness import save

    figures = verdict()
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    if "floor" in sys.argv:
        figures["floor"] = floor()
        print(json.dumps(figures["floor"], indent=1))
    save(__file__, figures)
