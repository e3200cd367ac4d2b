"""Score-CAM against pytorch-grad-cam, and extremal perturbation: six areas searched together against one, and alone."""

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

LAYER, CLASS = "_blocks.14", 282
AREAS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)

model, x = ct.load("efficientnet-lite0"), ct.data("photos/chelsea").x


def grad_cam_score() -> torch.Tensor:
    """pytorch-grad-cam, whose progress bar is not printed; it runs 16 masks at once."""
    seen, net = model.space.normalised(x), model.module.eval()
    with contextlib.redirect_stderr(io.StringIO()), ScoreCAM(net, [net.get_submodule(LAYER)]) as explain:
        return torch.from_numpy(explain(seen, targets=[ClassifierOutputTarget(CLASS)])[0])


def extremal(*areas: float) -> tuple[int, list[float]]:
    """Search masks for these areas: the gradients that it took, and the score that each mask keeps."""
    found = extremal_perturbation(model, x, CLASS, areas=areas)
    return found.provenance.cost.backwards, found.extra["scores"][0].tolist()


def alone() -> tuple[int, list[float]]:
    """Each area by itself, with the steps of one."""
    found = [extremal(area) for area in AREAS]
    return sum(count for count, _ in found), [scores[0] for _, scores in found]


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
    "extremal perturbation, 224 x 224",
    [
        Contender("one area", lambda: extremal(0.1)),
        Contender("six areas together", lambda: extremal(*AREAS)),
        Contender("six areas one after the other", alone),
    ],
    rounds=2,
)
together, apart = (masks[name].answer for name in ("six areas together", "six areas one after the other"))
ratio = min(masks["six areas together"].seconds) / min(masks["one area"].seconds)
means = [round(sum(scores) / len(AREAS), 3) for _, scores in (together, apart)]
print(f"  six areas cost {ratio:.2f} times one; mean score kept {means[0]} together, {means[1]} alone")
print("  gradients:", {name: c.answer[0] for name, c in masks.items()})
save(
    __file__,
    {
        "score cam": figures(cams),
        "rank correlation": round(alike, 3),
        "extremal": figures(masks),
        "six areas by one": round(ratio, 2),
        "mean score together and alone": means,
    },
)
