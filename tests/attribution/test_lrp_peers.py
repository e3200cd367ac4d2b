"""LRP beside zennit and captum on plain networks, where all mean the same, and where they do not."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.attribution.relevance.lrp import lrp
from cutaway.testing import nets
from networks import BasicBlock, resnet18

pytestmark = pytest.mark.peers
# zennit moves every denominator by this; we by nothing.
CLOSE = {"rtol": 1e-3, "atol": 1e-6}


def plain() -> nn.Module:
    """Convolutions, ReLUs as modules, pooling: what every library reads the same way."""
    return nets.seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * 4 * 4, 10),
            nn.ReLU(),
            nn.Linear(10, 3),
        )
    )


@pytest.fixture
def x():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def by_zennit(net, x, composite, target=1):
    with composite.context(net) as changed:
        leaf = x.clone().requires_grad_()
        out = changed(leaf)
        start = torch.zeros_like(out)
        start[:, target] = out[:, target].detach()
        return torch.autograd.grad(out, leaf, start)[0]


def everywhere(rule):
    """A zennit composite with one rule for all weights."""
    zennit_composites = pytest.importorskip("zennit.composites", reason="zennit is not installed")
    from zennit.types import Linear

    base = zennit_composites.layer_map_base(1e-9)
    return zennit_composites.LayerMapComposite([*base, (Linear, rule)])


def same(ours, theirs):
    scale = float(theirs.abs().max())
    assert_close(ours / scale, theirs / scale, **CLOSE)


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("epsilon", "Epsilon", {"epsilon": 1e-9}),
        ("epsilon:0.1", "Epsilon", {"epsilon": 0.1}),
        ("alpha_beta:1,0", "ZPlus", {"stabilizer": 1e-9}),
        ("zplus", "ZPlus", {"stabilizer": 1e-9, "zero_params": ["bias"]}),
        ("alpha_beta:2,1", "AlphaBeta", {"stabilizer": 1e-9}),
        ("gamma:0.25", "Gamma", {"gamma": 0.25, "stabilizer": 1e-9}),
    ],
)
def test_one_rule_for_all_weights_agrees_with_zennit(x, text, name, options):
    """What zennit calls ZPlus leaves relevance with positive biases: that is alpha_beta:1,0 here."""
    rules = pytest.importorskip("zennit.rules", reason="zennit is not installed")
    net = plain()
    model = ct.Model(net, ct.images(16), scores="values")
    same(lrp(model, x, 1, rule=text).values, by_zennit(net, x, everywhere(getattr(rules, name)(**options))))


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("flat", "Flat", {"stabilizer": 1e-9}),
        ("wsquare", "WSquare", {"stabilizer": 1e-9, "zero_params": ["bias"]}),
        ("zbox", "ZBox", {"stabilizer": 1e-9, "low": 0.0, "high": 1.0}),
    ],
)
def test_rules_for_the_first_layer_agree_with_zennit(x, text, name, options):
    """Zennit's WSquare also squares the bias and leaves it a share, which the paper's equation does not have."""
    composites = pytest.importorskip("zennit.composites", reason="zennit is not installed")
    rules = pytest.importorskip("zennit.rules", reason="zennit is not installed")
    from zennit.types import Convolution, Linear

    base = [*composites.layer_map_base(1e-9), (Linear, rules.Epsilon(epsilon=1e-9))]
    composite = composites.SpecialFirstLayerMapComposite(base, [(Convolution, getattr(rules, name)(**options))])
    net = plain()
    model = ct.Model(net, ct.images(16), scores="values")
    same(lrp(model, x, 1, rule=f"epsilon; 0 = {text}").values, by_zennit(net, x, composite))


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("epsilon; conv2d = alpha_beta:1,0", "EpsilonPlus", {}),
        ("epsilon_plus", "EpsilonPlus", {"zero_params": ["bias"]}),
        ("epsilon_gamma_box", "EpsilonGammaBox", {"low": 0.0, "high": 1.0}),
        ("epsilon_alpha2_beta1", "EpsilonAlpha2Beta1", {}),
    ],
)
def test_composites_agree_with_zennit(x, text, name, options):
    composites = pytest.importorskip("zennit.composites", reason="zennit is not installed")
    net = plain()
    if "zero_params" in options:  # there it also empties the bias of dense layers, which epsilon here does not
        for dense in (net[7], net[9]):
            nn.init.zeros_(dense.bias)
    model = ct.Model(net, ct.images(16), scores="values")
    composite = getattr(composites, name)(epsilon=1e-9, stabilizer=1e-9, **options)
    same(lrp(model, x, 1, rule=text).values, by_zennit(net, x, composite))


def test_a_residual_network_agrees_with_zennit_once_it_is_rewritten_for_it():
    """Zennit needs the skips as modules and the normalisation merged; we read the network as it is."""
    pytest.importorskip("zennit", reason="zennit is not installed")
    from zennit.canonizers import AttributeCanonizer, CompositeCanonizer, SequentialMergeBatchNorm
    from zennit.composites import EpsilonPlus
    from zennit.layer import Sum

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        skip = x if self.downsample is None else self.downsample(x)
        return self.relu(self.add_up(torch.stack([skip, out], dim=-1)))

    def attributes(name, module):
        is_block = isinstance(module, BasicBlock)
        return {"forward": forward.__get__(module), "add_up": Sum()} if is_block else None

    net = resnet18(width=8, classes=10, dtype=torch.float64)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0  # zennit folds it into the weights and then applies it once more
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = ct.Model(net, ct.images(64), scores="values")
    ours = lrp(model, x, 1, rule="epsilon; conv2d = alpha_beta:1,0").values
    canonizers = [CompositeCanonizer((SequentialMergeBatchNorm(), AttributeCanonizer(attributes)))]
    composite = EpsilonPlus(epsilon=1e-12, stabilizer=1e-12, canonizers=canonizers)
    same(ours, by_zennit(net, x, composite))


def test_the_epsilon_rule_agrees_with_captum_on_a_plain_network(x):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")

    class Flattened(nn.Module):  # captum has no rule for nn.Flatten
        def __init__(self):
            super().__init__()
            layers = plain()
            self.body, self.end = layers[:6], layers[7:]

        def forward(self, x):
            return self.end(self.body(x).flatten(1))

    net = Flattened()
    model = ct.Model(net, ct.images(16), scores="values")
    theirs = attr.LRP(net).attribute(x.clone().requires_grad_(), target=1)
    same(lrp(model, x, 1, rule="epsilon").values, theirs.detach())


def test_captum_multiplies_skips_where_we_split_them(x):
    """On a residual network captum gives each branch of a sum all of its relevance, so the sum is off."""
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.end = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.Linear(768, 3, bias=False)

        def forward(self, x):
            return self.end((self.body(x) + x).flatten(1))

    net = nets.seeded(Skip)
    result = lrp(ct.Model(net, ct.images(16), scores="values"), x, 1, rule="epsilon")
    assert_close(result.values.sum((1, 2, 3)), result.score)
    theirs = attr.LRP(net).attribute(x.clone().requires_grad_(), target=1).detach()
    assert not torch.allclose(theirs.sum((1, 2, 3)), result.score, rtol=0.01)
