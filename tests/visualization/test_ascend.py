import gc
import math
import weakref

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import cutaway as ct
from cutaway.core.errors import BadOption, BadShape, NotPossible, UnknownName
from cutaway.core.progress import reporting
from cutaway.core.target import Target
from cutaway.testing.models import tiny_model
from cutaway.testing.state import differences, state_of
from cutaway.visualization.ascend import ascended
from cutaway.visualization.canvas import coloured, easel, easel_with, falloff, hartley
from cutaway.visualization.diversity import gram
from cutaway.visualization.views import View, drawn

AIMS = ["logit(0)", "unit('conv2:1')", "prob(2) - unit('conv1:0@4,4')"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize("canvas", ["fourier", "pixel", "shared", "alpha"])
def test_every_canvas_rises(canvas):
    model, aims = tiny_model("conv"), [Target.of(a) for a in AIMS]
    before, after = (ascended(model, aims, size=16, steps=n, canvas=canvas) for n in (0, 20))
    for k, aim in enumerate(aims):
        low, high = (aim(model.run(p[k : k + 1], read=[*aim.sites, "output"])) for p in (before, after))
        assert high > low
    assert after.min() >= 0
    assert after.max() <= 1
    assert after.dtype == torch.float64


def test_a_picture_does_not_depend_on_its_neighbours():
    model = tiny_model("conv")
    together = ascended(model, AIMS, size=16, steps=5)
    for k, aim in enumerate(AIMS):
        assert_close(ascended(model, [aim], size=16, steps=5), together[k : k + 1], rtol=1e-9, atol=1e-9)


def test_copies_differ_and_diversity_does_not_depend_on_the_chunks():
    aims = ["unit('conv2:1')", "unit('conv2:2')"]
    found = [
        ascended(tiny_model("conv", batch_size=n), aims, size=16, steps=5, copies=3, diversity=0.5) for n in (64, 1, 2)
    ]
    assert found[0].shape == (6, 3, 16, 16)
    assert (found[0][0] - found[0][1]).abs().max() > 0.01
    for other in found[1:]:
        assert_close(other, found[0], rtol=1e-9, atol=1e-9)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    model = tiny_model("conv")
    one, same, other = (ascended(model, AIMS[:1], size=16, steps=3, seed=s) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_network_is_left_as_it_was():
    model = tiny_model("conv")
    model.module.train()
    x = noise(1, 3, 16, 16)
    before = state_of(model.module, x)
    ascended(model, AIMS, size=12, steps=2)
    assert not differences(before, state_of(model.module, x))


@pytest.mark.parametrize("canvas", ["pixel", "fourier"])
def test_the_best_picture_for_a_filter_is_the_filter(canvas):
    # w . x - c mean(x^2) is largest at x = w / (2 c) * (pixels), from an input space whose middle is 0.
    net = nn.Sequential(nn.Conv2d(3, 4, 7, padding=3)).double()
    model = ct.Model(net, ct.images(15, low=-1.0), scores="values")
    price = 3 * 15 * 15
    aims = [f'unit("0:{k}@7,7") - {price} * energy("input")' for k in range(4)]
    found = ascended(model, aims, size=15, steps=400, robust=False, canvas=canvas, rate=0.01)
    for k, picture in enumerate(found):
        wanted = torch.zeros_like(picture)
        wanted[:, 4:11, 4:11] = net[0].weight[k].detach() / 2
        cosine = torch.cosine_similarity(picture.flatten(), wanted.flatten(), dim=0)
        assert cosine > 0.95
        assert float(picture.norm()) == pytest.approx(float(wanted.norm()), rel=0.1)


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (1, 5), (16, 4)])
def test_the_fourier_canvas_is_an_isometry(shape):
    x = noise(2, 3, *shape)
    assert_close(hartley(x).norm(), x.norm())
    assert_close(hartley(hartley(x)), x)


def test_waves_agree_with_their_definition():
    h, w = 5, 6
    x, expected = noise(h, w), torch.zeros(h, w, dtype=torch.float64)
    for u in range(h):
        for v in range(w):
            for y in range(h):
                for z in range(w):
                    angle = 2 * math.pi * (u * y / h + v * z / w)
                    expected[u, v] += x[y, z] * (math.cos(angle) + math.sin(angle)) / math.sqrt(h * w)
    assert_close(hartley(x), expected)
    assert falloff(8, 8)[0, 0] == falloff(8, 8)[0, 1] == falloff(8, 8)[7, 0] == 4 * falloff(8, 8)[0, 4]


def test_a_given_picture_comes_back_from_the_canvas():
    x = noise(2, 3, 9, 12) * 0.9 + 0.05
    on = easel_with(x)
    assert_close(on.paint(on.parameters), x)
    grey = noise(1, 1, 8, 8) * 0.9 + 0.05
    on = easel_with(grey)
    assert_close(on.paint(on.parameters), grey)
    assert_close(coloured(coloured(x), inverse=True), x)


def test_waves_start_faint_and_smooth():
    on = easel("fourier", 1, 4, (3, 64, 64), seeded(), torch.empty(0, dtype=torch.float64))
    picture = on.paint(on.parameters)
    assert 0.001 < picture.std() < 0.01
    assert picture.diff(dim=3).std() < picture.std()


def test_a_view_that_only_moves_keeps_pixels():
    x = noise(2, 3, 8, 8)
    seen = View(down=(1, 1), across=(0, -3)).of(x, 0.5)
    assert_close(seen[:, :, 2:, :5], x[:, :, :-2, 3:])
    assert_close(seen[:, :, :2], torch.full_like(seen[:, :, :2], 0.5))
    assert_close(View(down=(2, -2)).of(x, 0.5)[:, :, 2:], x[:, :, 2:])


def test_a_view_turns_and_enlarges_around_the_middle():
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[0, 0, 4, 6] = 1
    assert View(angle=90).of(x, 0.0)[0, 0, 6, 4] > 0.99
    assert View(scale=2.0).of(x, 0.0)[0, 0, 4, 8] > 0.4
    wide = torch.zeros(1, 1, 5, 21, dtype=torch.float64)
    wide[0, 0, 2, 12] = 1
    assert View(angle=90).of(wide, 0.0)[0, 0, 4, 10] > 0.99


def test_views_are_small_and_of_many_kinds():
    generator = seeded()
    views = [drawn(128, generator) for _ in range(400)]
    assert {v.down[0] for v in views} == set(range(-4, 5))
    assert {v.across[1] for v in views} == set(range(-2, 3))
    assert min(v.scale for v in views) == 0.9
    assert max(v.scale for v in views) == 1.1
    assert {v.angle for v in views} == set(range(-10, 11))
    assert sum(v.angle == 0 for v in views) > 60


class Silent(nn.Module):
    """A unit that is off for any picture near grey, and so has no slope there."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1).double()
        nn.init.constant_(self.conv.weight, 1.0)
        nn.init.constant_(self.conv.bias, -18.0)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.conv(x)).flatten(1)[:, :2]


def test_a_unit_that_is_silent_at_first_wakes():
    model = ct.Model(Silent(), ct.images(8), scores="values")
    picture = ascended(model, ['unit("relu:0")'], size=8, steps=60)
    assert model.run(picture, read=["relu"])["relu"].max() > 0


def test_waking_leaves_no_activations_behind():
    model, seen = tiny_model("conv"), []
    model.module.relu1.register_forward_hook(lambda m, args, out: seen.append(weakref.ref(out)))
    gc.disable()
    try:
        ascended(model, ["logit(0)"], size=16, steps=3)
    finally:
        gc.enable()
    assert seen
    assert not any(ref() is not None for ref in seen)


@pytest.mark.parametrize("size", [16, 12, 40])
def test_pictures_of_any_size_for_a_network_that_takes_one(size):
    model = tiny_model("conv")
    assert ascended(model, ["logit(0)"], size=size, steps=2).shape == (1, 3, size, size)


def test_a_middle_layer_sees_the_picture_at_its_own_size():
    model, seen = tiny_model("conv"), []
    model.module.conv1.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[2]))
    ascended(model, ['unit("conv2:0")'], size=24, steps=2)
    assert seen[-2:] == [24, 24]
    ascended(model, ["logit(0)"], size=24, steps=2)
    assert seen[-2:] == [16, 16]


def test_the_forward_ends_at_the_aim():
    model, reached = tiny_model("conv"), []
    ascended(model, ['unit("conv1:0")'], size=16, steps=1)
    model.module.conv2.register_forward_hook(lambda m, args, out: reached.append(1))
    ascended(model, ['unit("conv1:0")'], size=16, steps=3)
    # A first look at the network runs it whole; no step does.
    assert len(reached) <= 1


def test_photos_to_start_from():
    model, x = tiny_model("conv"), noise(2, 3, 20, 20) * 0.9 + 0.05
    kept = ascended(model, ["logit(0)", "logit(1)"], size=20, steps=0, start=x)
    assert_close(kept, x)
    one = ascended(model, ["logit(0)", "logit(1)"], size=20, steps=0, start=x[:1], copies=2)
    assert_close(one, x[:1].expand(4, -1, -1, -1))
    with pytest.raises(BadShape, match="1 or 3 pictures"):
        ascended(model, ["logit(0)"] * 3, size=20, start=x)


def test_the_picture_can_be_watched():
    seen = []
    with reporting(lambda step: seen.append(step.pictures().shape)):
        ascended(tiny_model("conv"), AIMS[:2], size=16, steps=2, canvas="alpha")
    assert seen == [(2, 3, 16, 16)] * 3


def test_grams_do_not_depend_on_where():
    act = noise(2, 4, 3, 5)
    moved = act.flatten(2)[:, :, torch.randperm(15, generator=seeded())].view_as(act)
    assert_close(gram(act, 1), gram(moved, 1))
    assert_close(gram(act, 1).flatten(1).norm(dim=1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("aims", "options", "error", "said"),
    [
        (["unit('nothing:0')"], {}, UnknownName, "nothing"),
        (["unit('conv1:99')"], {}, BadShape, "99"),
        (["logit(0)"], {"size": 0}, BadOption, "size"),
        (["logit(0)"], {"steps": -1}, BadOption, "steps"),
        (["logit(0)"], {"diversity": 1.0}, BadOption, "copies"),
        (["logit(0)"], {"diversity": 1.0, "copies": 2, "size": 16}, NotPossible, "layer"),
        (["unit('fc:0')"], {"diversity": 1.0, "copies": 2, "size": 16}, NotPossible, "positions"),
        (["unit('never:0')"], {}, NotPossible, "did not run"),
    ],
)
def test_what_cannot_be_is_refused(aims, options, error, said):
    model = tiny_model("conv")
    model.module.never = nn.Identity()
    with pytest.raises(error, match=said):
        ascended(model, aims, **options)


def test_networks_of_other_things_are_refused():
    with pytest.raises(NotPossible, match="images"):
        ascended(tiny_model("mlp"), ["logit(0)"])


class Overflowing(nn.Module):
    def forward(self, x):
        return (x.flatten(1)[:, :2] * 1e300) ** 3


def test_a_network_that_overflows_is_refused():
    with pytest.raises(NotPossible, match="not finite"):
        ascended(ct.Model(Overflowing(), ct.images(8), scores="values"), ["logit(0)"], size=8, steps=2)
