"""Passes without gradients against the network called by hand, in the same layout and with as many images at once."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

import cutaway as ct
from harness import Contender, equal, figures, race, save

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import networks


def compare(name: str, model: ct.Model, x: Tensor, count: int) -> dict[str, dict[str, float]]:
    """The same images, `count` at once."""
    many = x * torch.linspace(0.5, 1, count)[:, None, None, None]
    model.is_steady(model.inputs(x))  # what every method asks first
    net = model.module.eval()

    def by_hand() -> Tensor:
        with torch.no_grad():
            seen = model.space.normalised(many).contiguous(memory_format=torch.channels_last)
            return net(seen)

    contenders = [Contender("the network by hand", by_hand), Contender("cutaway", lambda: model.run(many).output)]
    with model.borrow():  # as a method does, which knows the weights' hash
        assert model.fingerprint
        runs = race(f"{name}, {count} at once", contenders, rounds=15)
    equal(runs["cutaway"].answer, runs["the network by hand"].answer, tolerance=1e-5, what="outputs")
    return figures(runs)


def of_noise(net: nn.Module, name: str) -> ct.Model:
    """A network with random weights."""
    return ct.Model(net.eval().requires_grad_(False), ct.images(224), name=name)


torch.manual_seed(0)
photo = ct.data("photos/chelsea").x
subjects = {
    "efficientnet-lite0": ct.load("efficientnet-lite0"),
    "resnet18": of_noise(networks.resnet18(), "resnet18"),
    "mobilenet-v2": of_noise(models.mobilenet_v2(weights=None), "mobilenet-v2"),
    "vgg11": of_noise(models.vgg11(weights=None), "vgg11"),
    "densenet121": of_noise(models.densenet121(weights=None), "densenet121"),
}
save(__file__, {f"{name} {n}": compare(name, model, photo, n) for name, model in subjects.items() for n in (1, 4)})
