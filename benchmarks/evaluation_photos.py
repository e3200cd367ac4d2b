"""What the tests say of maps of EfficientNet-Lite0 on 20 photos: sanity verdicts, and areas beside their controls.

    python benchmarks/evaluation_photos.py [sanity|areas]

No race: these are the figures on the pages of `parameter_randomization`, `insertion` and `deletion`.
"""

import json
import sys
from typing import Any

import torch

import cutaway as ct
from cutaway.core.catalogue import find
from cutaway.core.result import Attribution
from cutaway.evaluation.curves import Plan, measured
from cutaway.evaluation.orders import edges
from cutaway.evaluation.paired import interval
from cutaway.evaluation.sanity import parameter_randomization
from cutaway.evaluation.verdict import area
from harness import RESULTS, save

PHOTOS = "imagenet-samples[0:500:25]"
METHODS: dict[str, dict[str, Any]] = {
    "rise": {"masks": 400},
    "integrated_gradients": {"max_steps": 33},
    "grad_cam": {},
    "gradient": {},
    "input_x_gradient": {},
    "smoothgrad": {},
    "guided_backprop": {},
}


def edge_map(model: ct.Model, x: torch.Tensor, target: object) -> torch.Tensor:
    """A map that looks at the picture and never at the model."""
    return torch.stack([edges(picture) for picture in x])[:, None].expand_as(x)


def sanity(model: ct.Model, x: torch.Tensor) -> dict[str, Any]:
    """Similarity at each stage, and the verdict."""
    found = {}
    for explain in ("gradient", "input_x_gradient", "grad_cam", "guided_backprop", "deconvnet", edge_map):
        name = explain if isinstance(explain, str) else "edges"
        curve = parameter_randomization(model, x, explain)
        stages = {key: [round(float(v), 3) for v in values] for key, values in curve.y.items()}
        bands = {
            key: [round(float(v), 3) for v in torch.stack([curve.low[key], curve.high[key]])[:, 1]] for key in curve.low
        }
        found[name] = {"verdict": str(curve.checks["verdict"]), "y": stages, "after the output layer": bands}
        print(name, curve.checks["verdict"], flush=True)
    return found


def areas(model: ct.Model, x: torch.Tensor) -> dict[str, Any]:
    """Mean areas, and by how much each map is ahead of each control, with 95 % intervals over the photos."""
    found: dict[str, Any] = {"insertion": {}, "deletion": {}}
    for name, options in METHODS.items():
        why = find(name).function(model, x, **options)
        assert isinstance(why, Attribution)
        for kind, fill in (("insertion", "blur"), ("deletion", "zero")):
            one = measured(kind, model, x, why, Plan((fill,), 8, 16, 4, "probability", 0))  # type: ignore[arg-type]  # one of two
            mine = area(one.own[fill], one.shares)
            others = {"random": area(one.random[fill], one.shares).mean(1)}
            others |= {key: area(rows, one.shares) for key, rows in one.controls[fill].items()}
            sign = 1 if kind == "insertion" else -1
            lead = {key: [round(float(v), 3) for v in (d.mean(), *interval(d))] for key, d in
                    ((key, sign * (mine - values)) for key, values in others.items())}  # fmt: skip
            found[kind][name] = {"area": round(float(mine.mean()), 3), "ahead of": lead}
            found[kind] |= {key: {"area": round(float(values.mean()), 3)} for key, values in others.items()}
            print(kind, name, found[kind][name], flush=True)
    return found


if __name__ == "__main__":
    network, photos = ct.load("efficientnet-lite0"), ct.data(PHOTOS).x
    parts = {"sanity": sanity, "areas": areas}
    known = RESULTS / "evaluation_photos.json"
    figures = json.loads(known.read_text())["figures"] if known.exists() else {}
    for part in sys.argv[1:] or parts:
        figures[part] = parts[part](network, photos)
        save(__file__, figures)
