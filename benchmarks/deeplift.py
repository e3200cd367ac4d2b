"""DeepLIFT against captum's, on a residual network that captum can explain: every ReLU a module of its own.

And, as captum is wrong there, against bare passes on the network as it is: ReLUs reused in place, max pooling.

python benchmarks/deeplift.py
"""

import warnings

import torch
from captum.attr import DeepLift
from torch import Tensor

import cutaway as ct
from cutaway.attribution.deeplift import deeplift
from harness import Contender, equal, figures, race, save
from separate import networks, separate

warnings.filterwarnings("ignore", message=".*(hooks|gradients)")


def without_peaks(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of one process, the peak says little about whoever runs second."""
    return {name: {k: v for k, v in of.items() if k != "peak_mib"} for name, of in found.items()}


net = separate()
model = ct.Model(net, ct.images(224), name="resnet18")
photos = torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
found = {}
for count, rounds in ((1, 9), (8, 5)):
    x = photos[:count]

    def theirs(x: Tensor = x) -> Tensor:
        return DeepLift(net).attribute(x.clone().requires_grad_(), target=5).detach()

    def ours(x: Tensor = x) -> Tensor:
        return deeplift(model, x, 5).values

    runs = race(
        f"deeplift, resnet18, batch of {count}", [Contender("captum DeepLift", theirs), Contender("cutaway", ours)],
        rounds=rounds,
    )  # fmt: skip
    equal(runs["cutaway"].answer, runs["captum DeepLift"].answer, tolerance=1e-3, what="values")
    found[f"batch of {count}"] = without_peaks(figures(runs))

as_it_is = networks.resnet18().eval().requires_grad_(False)
other = ct.Model(as_it_is, ct.images(224), name="resnet18")


def bare() -> Tensor:
    leaf = photos[:1].clone().requires_grad_()
    with torch.no_grad():
        as_it_is(torch.zeros_like(leaf))
    return torch.autograd.grad(as_it_is(leaf)[0, 5], leaf)[0]


runs = race(
    "deeplift, resnet18 with max pooling, batch of 1",
    [Contender("two forwards and a backward", bare), Contender("cutaway", lambda: deeplift(other, photos[:1], 5))],
    rounds=9,
)
print(f"  {runs['cutaway'].answer.checks['gap']}")
assert runs["cutaway"].answer.checks["gap"].status == "ok"
found["as it is, batch of 1"] = without_peaks(figures(runs))
save(__file__, found)
