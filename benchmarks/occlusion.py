"""Occlusion and unit ablation against captum: one piece at a time, and with its best batch size."""

import warnings

import torch
from captum.attr import FeatureAblation, LayerFeatureAblation, Occlusion
from torch import nn

import cutaway as ct
from cutaway.attribution.occlusion import occlusion
from cutaway.core.model import Model
from cutaway.core.space import images
from harness import Contender, equal, figures, race, save

BATCHES = (1, 2, 4, 8, 16)


class Normalised(nn.Module):
    """A network with its normalisation inside, as captum wants it."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.net, self.space = model.module.eval().requires_grad_(False), model.space

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scores of images in [0, 1]."""
        return self.net(self.space.normalised(pixels))


def resnet(size: int) -> Model:
    """A ResNet-18 with random weights: time does not depend on them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchvision
    torch.manual_seed(0)
    return Model(torchvision.models.resnet18().eval(), images(size, mean=0.45, std=0.225), name="resnet18")


def windows(model: Model, x: torch.Tensor, title: str) -> dict[str, dict[str, float]]:
    net, side = Normalised(model), x.shape[2] // 7
    black = {"sliding_window_shapes": (3, side, side), "strides": (3, side, side), "baselines": 0, "target": 281}

    def captum(batch: int) -> torch.Tensor:
        return Occlusion(net).attribute(x, perturbations_per_eval=batch, **black)[:, :1]

    with torch.no_grad():
        runs = race(
            f"occlusion, 49 windows, {title}",
            [
                Contender("captum Occlusion, default", lambda: captum(1)),
                *(Contender(f"captum Occlusion, {b} at once", lambda b=b: captum(b)) for b in BATCHES[1:]),
                Contender("cutaway", lambda: occlusion(model, x, 281, window=side, stride=side, fill="zero").values),
            ],
            rounds=3,
        )
    equal(runs["cutaway"].answer, runs["captum Occlusion, default"].answer, tolerance=1e-4, what="maps")
    return figures(runs)


def squares(model: Model, x: torch.Tensor) -> dict[str, dict[str, float]]:
    net, side = Normalised(model), x.shape[2] // 7
    row = torch.arange(x.shape[2]) // side
    players = (row[:, None] * 7 + row)[None, None]

    def captum(batch: int) -> torch.Tensor:
        ablation = FeatureAblation(net)
        return ablation.attribute(x, target=281, feature_mask=players, perturbations_per_eval=batch)[:, :1]

    with torch.no_grad():
        runs = race(
            "the same by captum's FeatureAblation, efficientnet-lite0, 224 x 224",
            [
                Contender("captum FeatureAblation, default", lambda: captum(1)),
                *(Contender(f"captum FeatureAblation, {b} at once", lambda b=b: captum(b)) for b in BATCHES[1:]),
                Contender("cutaway", lambda: occlusion(model, x, 281, window=side, stride=side, fill="zero").values),
            ],
            rounds=3,
        )
    equal(runs["cutaway"].answer, runs["captum FeatureAblation, default"].answer, tolerance=1e-4, what="maps")
    return figures(runs)


def units(model: Model, x: torch.Tensor, place: str) -> dict[str, dict[str, float]]:
    net = Normalised(model)
    layer = net.net.get_submodule(place)
    count = model.run(x, read=[place])[place].shape[1]
    players = torch.arange(count)[None, :, None, None]

    def captum(batch: int) -> torch.Tensor:
        ablation = LayerFeatureAblation(net, layer)
        return ablation.attribute(x, target=281, layer_mask=players, perturbations_per_eval=batch)

    def in_full() -> torch.Tensor:
        act = model.run(x, read=[place])[place]
        gone = act.repeat(count, 1, 1, 1)
        gone[torch.arange(count), torch.arange(count)] = 0
        falls = model.run(x).output[:, 281] - model.run(x.repeat(count, 1, 1, 1), edit={place: gone}).output[:, 281]
        return falls.view(1, -1, 1, 1).expand_as(act)

    with torch.no_grad():
        runs = race(
            f"{count} unit ablations at {place}, efficientnet-lite0, 224 x 224",
            [
                Contender("captum LayerFeatureAblation, default", lambda: captum(1)),
                *(Contender(f"captum LayerFeatureAblation, {b} at once", lambda b=b: captum(b)) for b in BATCHES[2:]),
                Contender("cutaway, whole network for each unit", in_full),
                Contender("cutaway", lambda: occlusion(model, x, 281, wrt=place, fill="zero").values),
            ],
            rounds=1,
        )
    equal(runs["cutaway"].answer, runs["captum LayerFeatureAblation, default"].answer, tolerance=1e-4, what="effects")
    equal(runs["cutaway"].answer, runs["cutaway, whole network for each unit"].answer, tolerance=1e-4, what="effects")
    return figures(runs)


photo = ct.data("photos/chelsea").x
model = ct.load("efficientnet-lite0")
small = torch.nn.functional.interpolate(photo, 112, mode="area")
found = {
    "efficientnet-lite0 224": windows(model, photo, "efficientnet-lite0, 224 x 224"),
    "resnet18 224": windows(resnet(224), photo, "resnet18, 224 x 224"),
    "resnet18 112": windows(resnet(112), small, "resnet18, 112 x 112"),
    "feature ablation": squares(model, photo),
    "units": units(model, photo, "_blocks.14"),
}
save(__file__, found)
