"""LRP against the gradient that it costs at least, and against zennit, on a residual network at batch 1 and 8.

Zennit needs the network rewritten: its canonizers merge the batch normalisation into the weights and make the skips
modules. What it takes to install and remove them is part of its time, as it is part of each of its explanations.
"""

import sys
from pathlib import Path

import torch
from zennit.canonizers import AttributeCanonizer, CompositeCanonizer, SequentialMergeBatchNorm
from zennit.composites import EpsilonGammaBox, EpsilonPlus
from zennit.layer import Sum

import cutaway as ct
from cutaway.attribution.gradient import gradient
from cutaway.attribution.relevance.lrp import lrp
from harness import Contender, equal, figures, race, save

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from networks import BasicBlock, resnet18

net = resnet18()
for part in net.modules():
    if isinstance(part, torch.nn.BatchNorm2d):
        part.eps = 0.0  # zennit folds it into the weights and then applies it once more
model = ct.Model(net, ct.images(224), scores="values", batch_size=8)
target = 281
# Bach's rule with biases is what zennit calls ZPlus.
with_biases = "epsilon; conv2d = alpha_beta:1,0"


def forward(self: BasicBlock, x: torch.Tensor) -> torch.Tensor:
    """A block with its sum as a module."""
    out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
    skip = x if self.downsample is None else self.downsample(x)
    return self.relu(self.add_up(torch.stack([skip, out], dim=-1)))


def attributes(name: str, module: torch.nn.Module) -> dict[str, object] | None:
    """What zennit replaces in a block."""
    return {"forward": forward.__get__(module), "add_up": Sum()} if isinstance(module, BasicBlock) else None


def by_zennit(composite: type, x: torch.Tensor, **options: object) -> torch.Tensor:
    """Relevance of a class."""
    canonizers = [CompositeCanonizer((SequentialMergeBatchNorm(), AttributeCanonizer(attributes)))]
    with composite(canonizers=canonizers, **options).context(net) as changed:
        leaf = x.clone().requires_grad_()
        out = changed(leaf)
        start = torch.zeros_like(out)
        start[:, target] = out[:, target].detach()
        return torch.autograd.grad(out, leaf, start)[0]


def compare(count: int) -> dict[str, object]:
    """All contenders on so many images."""
    x = torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    box = {"low": 0.0, "high": 1.0}
    runs = race(
        f"LRP of {count} images, ResNet-18, 224 x 224",
        [
            Contender("cutaway gradient (one forward, one backward)", lambda: gradient(model, x, target).values),
            Contender("cutaway lrp, epsilon", lambda: lrp(model, x, target, rule="epsilon").values),
            Contender("cutaway lrp, epsilon_plus", lambda: lrp(model, x, target)),
            Contender("cutaway lrp, epsilon_plus with biases", lambda: lrp(model, x, target, rule=with_biases)),
            Contender("zennit EpsilonPlus", lambda: by_zennit(EpsilonPlus, x)),
            Contender("cutaway lrp, epsilon_gamma_box", lambda: lrp(model, x, target, rule="epsilon_gamma_box")),
            Contender("zennit EpsilonGammaBox", lambda: by_zennit(EpsilonGammaBox, x, **box)),
        ],
        rounds=5,
    )
    # The rest is what zennit adds to each denominator, 1e-6.
    ours, theirs = runs["cutaway lrp, epsilon_plus with biases"].answer, runs["zennit EpsilonPlus"].answer
    equal(ours.values, theirs, tolerance=2e-2, what="epsilon_plus with biases")
    boxed = runs["cutaway lrp, epsilon_gamma_box"].answer
    equal(boxed.values, runs["zennit EpsilonGammaBox"].answer, tolerance=2e-2, what="epsilon_gamma_box")
    found = {f"batch {count}": figures(runs)}
    kept = {
        name: float((values.double().sum((1, 2, 3)) / ours.score.double()).mean())
        for name, values in (
            ("cutaway epsilon_plus", runs["cutaway lrp, epsilon_plus"].answer.values),
            ("cutaway epsilon_plus with biases", ours.values),
            ("zennit EpsilonPlus", theirs),
        )
    }
    found[f"batch {count}, share of the logit in the values"] = {name: round(share, 4) for name, share in kept.items()}
    print("  share of the logit in the values:", {name: round(share, 3) for name, share in kept.items()})
    print(f"  {runs['cutaway lrp, epsilon_plus'].answer.checks['conservation']}")
    return found


save(__file__, compare(1) | compare(8))
