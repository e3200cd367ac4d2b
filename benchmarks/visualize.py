"""Pictures of 8 units of a middle layer against torch-lucent: one after the other, and all in one batch."""

import copy
import sys
import types
from functools import partial

import torch

import cutaway as ct
from cutaway.core.model import Model
from cutaway.core.target import Target
from cutaway.visualization.ascend import ascended
from cutaway.visualization.score import held_out
from harness import Contender, figures, race, save

LAYER, UNITS, SIZE, STEPS = "_blocks.6", 8, 128, 64

# lucent imports a notebook to show pictures in, which it is not asked to.
sys.modules.setdefault("IPython", types.ModuleType("IPython"))
sys.modules.setdefault("IPython.display", types.ModuleType("IPython.display"))
sys.modules["IPython"].display = sys.modules["IPython.display"]
from lucent.optvis import objectives, param, render, transform  # noqa: E402 after the stand-in above


def lucent(model: Model, *, batch: bool) -> torch.Tensor:
    """Its own parameters, transformations and optimiser; the network's normalisation last, at the pictures' size."""
    torch.manual_seed(0)
    layer, pictures = LAYER.replace(".", "_"), []
    transforms = [*transform.standard_transforms, torch.nn.Upsample(size=SIZE, mode="bilinear", align_corners=True)]
    for first in range(0, UNITS, UNITS if batch else 1):
        units = range(first, first + UNITS) if batch else [first]
        # A copy, since lucent does not take its hooks away; its best case, without gradients of weights.
        net = copy.deepcopy(model.module).eval().requires_grad_(False)
        aims = [objectives.channel(layer, unit, batch=row) for row, unit in enumerate(units)]
        (found,) = render.render_vis(
            net,
            sum(aims[1:], aims[0]),
            partial(param.image, SIZE, batch=len(aims)),
            transforms=[*transforms, model.space.normalised],
            thresholds=(STEPS,),
            preprocess=False,
            progress=False,
            show_image=False,
            fixed_image_size=SIZE,
        )
        pictures.append(torch.from_numpy(found).permute(0, 3, 1, 2))
    return torch.cat(pictures)


def main() -> None:
    """Race, then what the pictures score through views that neither search met."""
    model = ct.load("efficientnet-lite0")
    aims = [Target.of(f'unit("{LAYER}:{unit}")') for unit in range(UNITS)]
    hooks = sum(len(m._forward_hooks) for m in model.module.modules())
    runs = race(
        f"{UNITS} units of {LAYER}, {SIZE} x {SIZE}, {STEPS} steps",
        [
            Contender("lucent, one after the other", lambda: lucent(model, batch=False)),
            Contender("lucent, one batch", lambda: lucent(model, batch=True)),
            Contender("cutaway", lambda: ascended(model, aims, size=SIZE, steps=STEPS)),
        ],
        rounds=1,
    )
    scores = {name: held_out(model, aims, run.answer, seed=0) for name, run in runs.items()}
    for name, score in scores.items():
        print(f"  held-out activation of {name}: {', '.join(f'{s:.1f}' for s in score.tolist())}")
    assert sum(len(m._forward_hooks) for m in model.module.modules()) == hooks
    activations = {name: round(float(score.mean()), 2) for name, score in scores.items()}
    save(__file__, {"units": figures(runs), "held out": activations})


if __name__ == "__main__":
    main()
