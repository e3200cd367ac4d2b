"""Gradient-type methods against the bare forward and backward passes they need, and against captum."""

import torch
from captum.attr import GuidedBackprop, InputXGradient, LayerGradCam, Saliency

import cutaway as ct
from cutaway.attribution.cam import grad_cam
from cutaway.attribution.gradient import gradient, input_x_gradient
from cutaway.attribution.noise import smoothgrad
from cutaway.attribution.rules import guided_backprop
from harness import Contender, equal, figures, race, save

model = ct.load("efficientnet-lite0")
x = ct.data("photos/chelsea").x
target = 281


class Normalised(torch.nn.Module):
    """The network with its normalisation inside, as captum wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model.module.eval()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.net(model.space.normalised(pixels))


net = Normalised()
for parameter in net.parameters():
    parameter.requires_grad_(False)


def floor() -> torch.Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(net(leaf)[0, target], leaf)[0]


def floor_25() -> torch.Tensor:
    total = torch.zeros_like(x)
    noise = torch.Generator().manual_seed(0)
    for start in range(0, 25, 8):
        count = min(8, 25 - start)
        leaf = (x + 0.15 * torch.randn(count, *x.shape[1:], generator=noise)).requires_grad_()
        total += torch.autograd.grad(net(leaf)[:, target].sum(), leaf)[0].sum(0, keepdim=True)
    return total / 25


def floor_guided() -> torch.Tensor:
    """The passes that guided backprop needs: each of this network's ReLU6 modules clamps the signal that comes back."""

    def clamp(module: torch.nn.Module, args: object, out: torch.Tensor) -> None:
        out.register_hook(lambda signal: signal.clamp(min=0))

    handles = [m.register_forward_hook(clamp) for m in net.modules() if isinstance(m, torch.nn.ReLU6)]
    try:
        return floor()
    finally:
        for handle in handles:
            handle.remove()


found = {}
runs = race(
    "gradient, 224 x 224",
    [
        Contender("one forward and one backward", floor),
        Contender("cutaway gradient", lambda: gradient(model, x, target).values),
        Contender("captum Saliency", lambda: Saliency(net).attribute(x.clone(), target=target, abs=False)),
    ],
    rounds=25,
)
equal(runs["cutaway gradient"].answer, runs["captum Saliency"].answer, tolerance=1e-4, what="gradient")
found["gradient"] = figures(runs)

runs = race(
    "input x gradient",
    [
        Contender("one forward and one backward", floor),
        Contender("cutaway input_x_gradient", lambda: input_x_gradient(model, x, target).values),
        Contender("captum InputXGradient", lambda: InputXGradient(net).attribute(x.clone(), target=target)),
    ],
    rounds=25,
)
equal(runs["cutaway input_x_gradient"].answer, runs["captum InputXGradient"].answer, tolerance=1e-4, what="product")
found["input_x_gradient"] = figures(runs)

runs = race(
    "smoothgrad, 25 samples",
    [
        Contender("25 forwards and backwards, 8 at once", floor_25),
        Contender("cutaway smoothgrad", lambda: smoothgrad(model, x, target, samples=25).values),
    ],
    rounds=3,
)
found["smoothgrad"] = figures(runs)

runs = race(
    "guided backprop",
    [
        Contender("the passes, with signals clamped by hand", floor_guided),
        Contender("cutaway guided_backprop", lambda: guided_backprop(model, x, target).values),
        Contender(
            "captum GuidedBackprop (sees nn.ReLU only)", lambda: GuidedBackprop(net).attribute(x.clone(), target=target)
        ),
    ],
    rounds=25,
)
equal(
    runs["cutaway guided_backprop"].answer,
    runs["the passes, with signals clamped by hand"].answer,
    tolerance=1e-4,
    what="guided backprop",
)
found["guided_backprop"] = figures(runs)

eight = torch.cat([x, x.flip(3), x.flip(2), x.roll(20, 3), x.roll(40, 2), x**2, x**0.5, x * 0.8])


def floor_of_eight() -> torch.Tensor:
    parts = []
    for some in eight.split(4):  # as many at once as cutaway takes of this network
        leaf = some.clone().requires_grad_()
        parts.append(torch.autograd.grad(net(leaf)[:, target].sum(), leaf)[0])
    return torch.cat(parts)


runs = race(
    "gradient of 8 images",
    [
        Contender("8 forwards and backwards", floor_of_eight),
        Contender("cutaway gradient", lambda: gradient(model, eight, target).values),
        Contender("captum Saliency", lambda: Saliency(net).attribute(eight.clone(), target=target, abs=False)),
    ],
    rounds=5,
)
equal(runs["cutaway gradient"].answer, runs["captum Saliency"].answer, tolerance=1e-3, what="gradient of 8")
found["gradient of 8"] = figures(runs)

layer = "_blocks.15"


def floor_of_cam() -> torch.Tensor:
    """One forward, a backward that ends at the layer, and the weighted sum, enlarged."""
    found: list[torch.Tensor] = []

    def cut(module: torch.nn.Module, args: object, out: torch.Tensor) -> torch.Tensor:
        found.append(out.detach().requires_grad_())
        return found[0].clone()

    handle = net.net.get_submodule(layer).register_forward_hook(cut)
    try:
        score = net(x)[0, target]
    finally:
        handle.remove()
    slope = torch.autograd.grad(score, found[0])[0].mean((2, 3), keepdim=True)
    grid = (slope * found[0].detach()).sum(1, keepdim=True).clamp(min=0)
    return torch.nn.functional.interpolate(grid, size=x.shape[2:], mode="bilinear")


runs = race(
    f"grad-CAM at {layer}",
    [
        Contender("the passes and the sum, by hand", floor_of_cam),
        Contender(
            "captum LayerGradCam",
            lambda: LayerGradCam(net, model.module.get_submodule(layer)).attribute(x, target=target),
        ),
        Contender("cutaway grad_cam", lambda: grad_cam(model, x, target, layer=layer)),
    ],
    rounds=25,
)
equal(
    runs["cutaway grad_cam"].answer.extra["grid"],
    runs["captum LayerGradCam"].answer[:, 0].clamp(min=0),
    tolerance=1e-4,
    what="grad-CAM",
)
equal(
    runs["cutaway grad_cam"].answer.values, runs["the passes and the sum, by hand"].answer, tolerance=1e-5, what="map"
)
found["grad_cam"] = figures(runs)
save(__file__, found)
