"""Integrated gradients by bisection against equal steps: first until the summed local residual is at or below captum's,
then until the map is as near to a fine reference."""

import time

import torch
from captum.attr import IntegratedGradients

import cutaway as ct
from cutaway.attribution.path import integrated_gradients
from harness import Contender, figures, race, save

# captum's equal steps; 50 are its default.
STEPS = (64, 256)
REFERENCE = 1025
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


def error(values: torch.Tensor, exact: torch.Tensor) -> float:
    return float((regions(values) - exact).norm() / exact.norm())


def as_near(x: torch.Tensor, target: int, exact: torch.Tensor, wanted: float) -> int:
    """How many gradients cutaway needs for a map that is as near to the reference, in steps of 16."""
    for budget in range(17, REFERENCE, 16):
        if error(integrated_gradients(model, x, target, tol=0, max_steps=budget).values, exact) <= wanted:
            return budget
    raise AssertionError("never as near")


def compare(name: str, steps: int, exact: torch.Tensor) -> dict[str, object]:
    """Both to the same residual: captum with its steps, cutaway with as many gradients as it takes to be no worse."""
    x = ct.data(f"photos/{name}").x
    target = int(model.predict(x).argmax())
    theirs = residual_of_equal_steps(x, target, steps)
    path = IntegratedGradients(net)
    options = {"n_steps": steps, "method": "riemann_trapezoid", "internal_batch_size": 8}
    runs = race(
        f"integrated_gradients, {name}, residual {theirs:.1%} or less",
        [
            Contender(f"captum, {steps} equal steps", lambda: path.attribute(x, target=target, **options)),
            Contender("cutaway", lambda: integrated_gradients(model, x, target, tol=theirs, max_steps=2 * steps)),
        ],
        rounds=3 if steps < 100 else 2,
    )
    peer, own = runs.values()
    ours, gradients = own.answer.checks["residual"].value, int(own.answer.extra["steps"])
    assert ours <= theirs, (ours, theirs)
    assert "trapezoid" in own.answer.checks["residual"], "another rule has another residual"
    ratio = min(own.seconds) / min(peer.seconds)
    errors = [error(values, exact) for values in (peer.answer, own.answer.values)]
    print(f"  residual {theirs:.2%} and {ours:.2%}; cutaway took {gradients} gradients, {ratio:.3f} of the CPU seconds")
    print(f"  error of the maps, summed over squares of 16 pixels: {errors[0]:.1%} and {errors[1]:.1%}")
    near = as_near(x, target, exact, errors[0])
    started = time.process_time()
    integrated_gradients(model, x, target, tol=0, max_steps=near)
    near_ratio = (time.process_time() - started) / min(peer.seconds)
    print(f"  as near to the reference as captum's: {near} gradients, {near_ratio:.3f} of the CPU seconds")
    return figures(runs) | {
        "gradients": {"captum": steps, "cutaway": gradients},
        "residuals": {"captum": round(theirs, 5), "cutaway": round(ours, 5)},
        "errors of regions": {"captum": round(errors[0], 4), "cutaway": round(errors[1], 4)},
        "ratio": round(ratio, 4),
        "as near": {"gradients": near, "ratio": round(near_ratio, 4)},
    }


found = {}
for name in ("chelsea", "astronaut"):
    x = ct.data(f"photos/{name}").x
    best = integrated_gradients(model, x, int(model.predict(x).argmax()), tol=0, max_steps=REFERENCE)
    print(f"{name}: the reference has {REFERENCE} gradients and a residual of {best.checks['residual'].value:.1%}")
    for steps in STEPS:
        found[f"{name}, {steps} steps"] = compare(name, steps, regions(best.values))

save(__file__, found)
