"""DeepLIFT against captum's, on a residual network that captum can explain: every ReLU a module of its own.

python benchmarks/deeplift.py
"""

import warnings

import torch
from captum.attr import DeepLift
from torch import Tensor

import cutaway as ct
from cutaway.attribution.deeplift import deeplift
from harness import Contender, equal, figures, race, save
from separate import separate

warnings.filterwarnings("ignore", message=".*(hooks|gradients)")


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
    # Of one process, the peak says little about whoever runs second.
    found[f"batch of {count}"] = {
        name: {k: v for k, v in of.items() if k != "peak_mib"} for name, of in figures(runs).items()
    }
save(__file__, found)
