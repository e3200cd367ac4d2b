"""Score-CAM against pytorch-grad-cam, and extremal perturbation: six areas in one batch against one."""

import contextlib
import io

import torch
from pytorch_grad_cam import ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import cutaway as ct
from cutaway.attribution.cam_score import score_cam
from cutaway.attribution.extremal import extremal_perturbation
from cutaway.maths.statistics import spearman
from harness import Contender, figures, race, save

LAYER, CLASS, STEPS = "_blocks.14", 282, 30
AREAS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)

model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x


def grad_cam_score() -> torch.Tensor:
    """pytorch-grad-cam, whose progress bar is not printed; it runs 16 masks at once."""
    seen, net = model.space.normalised(x), model.module.eval()
    with contextlib.redirect_stderr(io.StringIO()), ScoreCAM(net, [net.get_submodule(LAYER)]) as explain:
        return torch.from_numpy(explain(seen, targets=[ClassifierOutputTarget(CLASS)])[0])


def extremal(*areas: float) -> int:
    """Search masks for these areas; the gradients that it took. A mask that a smaller one beats is searched twice."""
    return extremal_perturbation(model, x, CLASS, areas=areas, iterations=STEPS).provenance.cost.backwards


cams = race(
    f"Score-CAM at {LAYER}, 192 channels, 224 x 224",
    [
        Contender("pytorch-grad-cam ScoreCAM", grad_cam_score),
        Contender("cutaway", lambda: score_cam(model, x, CLASS, layer=LAYER).values[0, 0]),
    ],
    rounds=3,
)
ours, theirs = (cams[name].answer.flatten().double() for name in ("cutaway", "pytorch-grad-cam ScoreCAM"))
alike = float(spearman(ours, theirs))
print(f"  rank correlation of the maps: {alike:.3f} (channels are enlarged by different rules)")
assert alike > 0.9

masks = race(
    f"extremal perturbation, {STEPS} steps, 224 x 224",
    [
        Contender("one area", lambda: extremal(0.1)),
        Contender("six areas in one batch", lambda: extremal(*AREAS)),
        Contender("six areas one after the other", lambda: sum(extremal(a) for a in AREAS)),
    ],
    rounds=3,
)
per_gradient = {name: round(min(c.seconds) / c.answer, 4) for name, c in masks.items()}
print("  seconds of a gradient:", per_gradient)
save(
    __file__,
    {
        "score cam": figures(cams),
        "rank correlation": round(alike, 3),
        "extremal": figures(masks),
        "per gradient": per_gradient,
    },
)
