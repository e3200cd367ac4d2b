"""Integrated gradients to the same summed local residual: bisection against captum with ever more equal steps."""

import torch
from captum.attr import IntegratedGradients

import cutaway as ct
from cutaway.attribution.path import integrated_gradients
from harness import Contender, figures, race, save

GRADIENTS = 33
model = ct.load("efficientnet-lite0")


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


def residual_of_equal_steps(x: torch.Tensor, target: int, steps: int) -> float:
    """The share of the change by which the trapezoid rule errs on captum's nodes, summed without sign."""
    scores, slopes = [], []
    for alphas in torch.linspace(0, 1, steps).split(8):
        score, _, slope = model.gradient(alphas.view(-1, 1, 1, 1) * x, target)
        scores.append(score.double())
        slopes.append((slope.double() * x.double()).flatten(1).sum(1))
    score, slope = torch.cat(scores), torch.cat(slopes)
    local = (slope[1:] + slope[:-1]) / 2 / (steps - 1) - score.diff()
    return float(local.abs().sum() / (score[-1] - score[0]).abs())


def regions(values: torch.Tensor) -> torch.Tensor:
    """Sums over squares of 16 pixels."""
    return torch.nn.functional.avg_pool2d(values.double().sum(1, keepdim=True), 16) * 256


found = {}
for name in ("chelsea", "astronaut"):
    x = ct.data(f"photos/{name}").x
    target = int(model.predict(x).argmax())
    ours = integrated_gradients(model, x, target, tol=0, max_steps=GRADIENTS)
    wanted = ours.checks["residual"].value
    steps = 64
    while (reached := residual_of_equal_steps(x, target, steps)) > wanted:
        print(f"{name}: {steps} equal steps leave {reached:.1%}; wanted {wanted:.1%}")
        steps *= 2
    path = IntegratedGradients(net)

    def peer(
        x: torch.Tensor = x, target: int = target, steps: int = steps, path: IntegratedGradients = path
    ) -> torch.Tensor:
        options = {"n_steps": steps, "method": "riemann_trapezoid", "internal_batch_size": 8}
        return path.attribute(x, target=target, **options)

    def own(x: torch.Tensor = x, target: int = target) -> torch.Tensor:
        return integrated_gradients(model, x, target, tol=0, max_steps=GRADIENTS).values

    runs = race(
        f"integrated_gradients, {name}",
        [
            Contender(f"captum, {steps} equal steps, residual {reached:.1%}", peer),
            Contender(f"cutaway, {GRADIENTS} gradients, residual {wanted:.1%}", own),
        ],
        rounds=1,
    )
    theirs, mine = (regions(c.answer) for c in runs.values())
    off = float((mine - theirs).norm() / theirs.norm())
    print(f"  difference of the maps, summed over squares of 16 pixels: {off:.1%}")
    assert off < 0.1
    seconds = [c.seconds[0] for c in runs.values()]
    assert seconds[1] < 0.6 * seconds[0], seconds
    found[name] = figures(runs) | {"residuals": {"captum": reached, "cutaway": wanted}}

save(__file__, found)
