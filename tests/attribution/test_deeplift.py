"""DeepLIFT: the sum is exact on unmodified networks, and an operation without a rule is refused by name."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import networks
from cutaway.attribution.deeplift import deeplift
from cutaway.attribution.differences.multipliers import logarithmic_mean, slack, told_apart
from cutaway.attribution.differences.winners import in_windows, windows_of
from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.fill import Fill
from cutaway.core.model import Model
from cutaway.core.operations import Call
from cutaway.core.space import images, rows, tokens
from cutaway.core.target import Target
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, tiny_model, tiny_models


class Function(nn.Module):
    """A function of a row between two linear layers."""

    def __init__(self, function, inputs=4, width=6):
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.function = function
        self.last = nn.LazyLinear(3)

    def forward(self, x):
        return self.last(self.function(self.first(x)).flatten(1))


def model_of(function, **options):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()

    def build():
        net = Function(function, **options)
        net(x.float())
        return net

    return Model(nets.seeded(build), rows(4, low=-9, high=9)), x


def gap(model, x, target=1, *, wrt="input", **options):
    """By how much the values miss the change, which is measured by running the filled input."""
    result = deeplift(model, x, target, wrt=wrt, **options)
    fill = Fill.of(options.get("baseline", "zero"))
    ends = x, fill(x, model.space)
    score, base = (Target.of(target, model)(model.run(end)) for end in ends)
    assert_close(result.extra["baseline_score"], base.double(), atol=1e-9, rtol=1e-6)
    return float((result.values.double().reshape(len(x), -1).sum(1) - (score - base)).abs().max())


# -- known answers -----------------------------------------------------------------------------------------------------


def test_a_saturated_sum_is_shared_where_the_gradient_is_zero():
    """The example of the paper's figure 1: y = 1 - max(0, 1 - (a + b)) at a = b = 1."""

    class Saturated(nn.Module):
        def forward(self, x):
            return 1 - F.relu(1 - x.sum(1, keepdim=True))

    model = Model(Saturated(), rows(2, low=-9, high=9))
    assert deeplift(model, torch.ones(1, 2), 0).values.tolist() == [[0.5, 0.5]]


def test_matches_the_rescale_rule_written_with_matrices():
    """Reference: multipliers of each layer, multiplied from the output to the input."""
    net = nets.seeded(lambda: nets.Mlp("functional"))
    model = Model(net, rows(4, low=-10, high=10))
    x, b = inputs_for(model, 1)[0], torch.full((4,), 0.3, dtype=torch.float64)
    u, u0 = net.first(x), net.first(b)
    ratio = (u.clamp(min=0) - u0.clamp(min=0)) / (u - u0)
    expected = (net.last.weight[2] * ratio) @ net.first.weight * (x - b)
    assert_close(deeplift(model, x[None], 2, baseline="constant:0.3").values[0], expected.detach(), atol=1e-14, rtol=0)


def test_a_product_is_shared_by_the_mean_of_the_other_factor():
    class Product(nn.Module):
        def forward(self, x):
            return (x[:, 0] * x[:, 1])[:, None]

    model = Model(Product(), rows(2, low=-9, high=9))
    x = torch.tensor([[3.0, 5.0]])
    assert deeplift(model, x, 0).values.tolist() == [[7.5, 7.5]]
    assert deeplift(model, x, 0, baseline="constant:1").values.tolist() == [[6.0, 8.0]]


def test_a_rise_of_a_maximum_is_due_to_who_is_largest_and_a_fall_to_who_was():
    class Pooled(nn.Module):
        def forward(self, x):
            return F.max_pool1d(x[:, None], 3)[:, 0]

    model = Model(Pooled(), rows(3, low=-9, high=9))
    x = torch.tensor([[1.0, 4.0, 2.0]])
    assert deeplift(model, x, 0).values.tolist() == [[0, 4, 0]]
    base = torch.tensor([[9.0, 0.0, 0.0]])
    assert deeplift(model, x, 0, baseline=base).values.tolist() == [[-5, 0, 0]]


POOLS = [
    (F.max_pool1d, (1, 2, 40), (3,), {}),
    (F.max_pool2d, (2, 3, 15, 17), (3, 2, 1), {}),
    (F.max_pool2d, (2, 3, 15, 17), ((3, 2), (2, 1)), {"padding": (1, 0), "dilation": (2, 1)}),
    (F.max_pool2d, (1, 2, 14, 13), (4, 3), {"padding": 2, "ceil_mode": True}),
    (F.max_pool2d, (2, 14, 13), (2,), {}),
    (F.max_pool3d, (1, 2, 6, 7, 5), (2,), {"stride": 1}),
    (F.adaptive_max_pool1d, (1, 2, 17), (5,), {}),
    (F.adaptive_max_pool2d, (1, 2, 11, 9), ((4, None),), {}),
    (F.adaptive_max_pool2d, (2, 2, 7, 10), (3,), {}),
]


@pytest.mark.parametrize(("pool", "shape", "args", "options"), POOLS)
def test_where_all_entries_differ_the_largest_of_each_window_is_the_one_that_pooling_takes(pool, shape, args, options):
    generator = torch.Generator().manual_seed(0)
    x, b = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    axes = int(pool.__name__[-2])
    (y, at), (y0, at0) = (pool(t, *args, **options, return_indices=True) for t in (x, b))
    call = Call(pool.__name__, "", pool, (x, *args), options)
    found = in_windows(x, b, y, y0, windows_of(call, x.shape[-axes:], y.shape[-axes:]))
    assert torch.equal(found[0], at)
    assert torch.equal(found[1], at0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_last_digits_do_not_decide_which_entry_was_the_largest(dtype):
    """Behind a convolution of an even picture all entries are equal up to rounding, which changes from run to run."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 51, 51, generator=generator).to(dtype).relu()
    x[..., :20, :] = 0  # whole windows that are at 0 here as well
    even = torch.rand(1, 4, 1, 1, generator=generator).to(dtype).expand(1, 4, 51, 51).clone()
    even[..., :3, :] = torch.rand(4, 1, 1, generator=generator).to(dtype)  # borders, that a convolution pads
    even[..., :, :3] = torch.rand(4, 1, 1, generator=generator).to(dtype)
    found = set()
    for _ in range(50):
        noise = 1 + 2 * torch.finfo(dtype).eps * torch.randn(2, *even.shape, generator=generator)
        x_now, b_now = torch.stack([x, even]) * noise.to(dtype)
        y, y0 = (F.max_pool2d(t, 3, 2, 1) for t in (x_now, b_now))
        call = Call("max_pool2d", "", F.max_pool2d, (x, 3, 2, 1), {})
        places = in_windows(x_now, b_now, y, y0, windows_of(call, (51, 51), y.shape[-2:]))
        found.add(tuple(torch.cat(places).flatten().tolist()))
    assert len(found) == 1


@pytest.mark.parametrize("seed", [0, 2])
def test_last_digits_inside_a_network_move_the_values_by_last_digits(seed):
    """A convolution's result at each position is off by a last digit, as another machine's or batch's would be."""

    class Shaken(nets.ConvNet):
        noise = None

        def forward(self, x):
            h = self.bn1(self.conv1(x))
            h = self.pool(self.relu1(h if self.noise is None else h * self.noise))
            return self.fc(F.avg_pool2d(self.relu2(self.conv2(h)), 2).flatten(1))

    net = nets.seeded(Shaken, seed=seed, dtype=torch.float32)
    model, x = Model(net, images(16)), torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    values = deeplift(model, x, 1).values
    for draw in range(30):
        generator = torch.Generator().manual_seed(draw)
        net.noise = 1 + torch.finfo(x.dtype).eps * torch.randn(4, 16, 16, generator=generator)
        shaken = deeplift(Model(net, images(16)), x, 1).values
        assert (shaken - values).abs().max() < 1e-3 * values.abs().max()


def test_the_first_of_entries_alike_in_both_answers_for_the_change():
    x, b = torch.tensor([[[3.0, 5.0, 5.0, 5.0]]]), torch.tensor([[[9.0, 1.0, 2.0, 2.0]]])
    y, y0 = torch.tensor([[5.0]]), torch.tensor([[9.0]])
    here, there = x.movedim(-1, 0), b.movedim(-1, 0)
    assert told_apart(here, there, y, slack(x, 1)[..., 0], slack(b, 1)[..., 0]).tolist() == [[2]]
    assert told_apart(there, here, y0, slack(b, 1)[..., 0], slack(x, 1)[..., 0]).tolist() == [[0]]


def test_entries_that_are_not_finite_are_told_apart():
    x = torch.tensor([[1.0, -torch.inf, 3.0], [torch.inf, 0.0, 2.0]])
    b = torch.tensor([[5.0, 5.0, 5.0], [1.0, 2.0, -torch.inf]])
    gap, gap_b = slack(x, 1)[..., 0], slack(b, 1)[..., 0]
    assert told_apart(x.T, b.T, x.amax(1), gap, gap_b).tolist() == [2, 0]
    assert told_apart(b.T, x.T, b.amax(1), gap_b, gap).tolist() == [2, 1]


def test_two_things_that_are_alike_get_the_same_share_of_a_softmax():
    class Soft(nn.Module):
        def forward(self, x):
            return torch.softmax(x, -1)

    model = Model(Soft(), rows(3, low=-200, high=200), scores="values")
    values = deeplift(model, torch.tensor([[2.0, 1.0, 1.0]]), 0).values[0]
    assert values[1] == values[2]
    assert_close(values.sum(), torch.softmax(torch.tensor([2.0, 1.0, 1.0]), 0)[0] - 1 / 3)
    far = deeplift(model, torch.tensor([[90.0, -90.0, -80.0]]), 0, baseline=torch.tensor([[-90.0, 90.0, 0.0]]))
    assert abs(far.checks["gap"].value) < 1e-6


def test_the_logarithmic_mean_lies_between():
    a, b = torch.rand(2, 1000, generator=torch.Generator().manual_seed(0)).double()
    mean = logarithmic_mean(a.log(), b.log())
    assert ((torch.minimum(a, b) <= mean) & (mean <= torch.maximum(a, b))).all()
    assert_close(logarithmic_mean(a.log(), a.log()), a)
    assert logarithmic_mean(torch.tensor(-torch.inf), torch.tensor(-torch.inf)) == 0


# -- the sum is exact --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(tiny_models()))
@pytest.mark.parametrize("target", ["logit(1)", "prob(1)", "logit(0) - 2 * logit(1)", "log_odds(2)"])
def test_values_sum_to_the_change(name, target):
    model = tiny_model(name)
    result = deeplift(model, inputs_for(model, 3), target)
    assert abs(result.checks["gap"].value) < 1e-9
    if model.space.kind == "row":
        assert gap(model, inputs_for(model, 3), target) < 1e-9


def in_place(h):
    y = h * 2
    y += h
    y[:, 0] = h[:, 1].sigmoid()
    y.mul_(h).relu_()
    y[:, 2:4].clamp_(min=0.1)
    return y.view(-1, 6)


def written(h):
    """Into a tensor that does not depend on the input at first."""
    y = torch.zeros_like(h)
    y[:, 1] = h[:, 0]
    y += h.tanh()
    return y


FUNCTIONS = {
    "relu": torch.relu,
    "relu as a choice": lambda h: torch.where(h > 0, h, torch.zeros_like(h)),
    "relu as a product": lambda h: h * (h > 0),
    "relu as a mask": lambda h: h.masked_fill(h < 0, 0.0),
    "leaky": F.leaky_relu,
    "clamp": lambda h: h.clamp(-0.2, 0.3),
    "maximum with a number": lambda h: torch.maximum(h, torch.full_like(h, 0.1)),
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "softplus": F.softplus,
    "rounded": lambda h: (10 * h).round(),
    "powers": lambda h: h**3 + 2**h + h.square().add(1).rsqrt() + h.abs().add(0.1).log(),
    "square of itself": lambda h: h * h,
    "quotient": lambda h: h / (1 + h.flip(1).square()),
    "reciprocal": lambda h: 1 / (2 + h.sigmoid()),
    "broadcast product": lambda h: h[:, :, None] * h[:, None, :2],
    "matrix product": lambda h: h.view(-1, 2, 3) @ h.view(-1, 3, 2),
    "einsum": lambda h: torch.einsum("bi,bj->bij", h, h),
    "softmax": lambda h: torch.softmax(10 * h, -1),
    "softmax method": lambda h: h.softmax(1),
    "softmin": lambda h: F.softmin(h, 1),
    "log_softmax": lambda h: F.log_softmax(h, dim=1),
    "logsumexp": lambda h: torch.logsumexp(h.view(-1, 2, 3), 2),
    "layer_norm": lambda h: F.layer_norm(h, (6,), torch.arange(6.0).to(h), torch.ones(6).to(h)),
    "rms_norm": lambda h: F.rms_norm(h, (6,)),
    "group_norm": lambda h: F.group_norm(h.view(-1, 6, 1), 2),
    "instance_norm": lambda h: F.instance_norm(h.view(-1, 2, 3)),
    "normalize": lambda h: F.normalize(h, dim=1),
    "product of many": lambda h: torch.cat([h.prod(1, keepdim=True), h.view(-1, 2, 3).prod(dim=2)], 1),
    "variance": lambda h: torch.cat(
        [h.var(1, keepdim=True), h.var(1, False, True), torch.var(h, dim=(1,))[:, None]], 1
    ),
    "standard deviation": lambda h: h.std(1, correction=0, keepdim=True) + torch.std(h.view(-1, 2, 3), 2),
    "norm": lambda h: torch.cat([h.norm(dim=1, keepdim=True), torch.linalg.vector_norm(h, dim=1, keepdim=True)], 1),
    "glu": F.glu,
    "max": lambda h: h.max(1).values[:, None],
    "min": lambda h: h.view(-1, 2, 3).min(dim=2, keepdim=True)[0],
    "amax": lambda h: h.view(-1, 2, 3).amax((1, 2))[:, None],
    "amin": lambda h: h.view(-1, 2, 3).amin(1, keepdim=True),
    "larger": lambda h: torch.maximum(h, h.flip(1)) - torch.minimum(h.roll(1, 1), h),
    "max_pool": lambda h: F.max_pool1d(h[:, None], 2, stride=1),
    "max_pool with its indices": lambda h: F.max_pool1d(h[:, None], 3, return_indices=True)[0],
    "adaptive_max_pool": lambda h: F.adaptive_max_pool1d(h[:, None], 2),
    "transposed": lambda h: h.T.flip(0).T,
    "in place": in_place,
    "written": written,
    "attention": lambda h: F.scaled_dot_product_attention(*(3 * [h.view(-1, 3, 2)])),
    "causal": lambda h: F.scaled_dot_product_attention(*(3 * [h.view(-1, 3, 2)]), is_causal=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("baseline", ["zero", "constant:0.7", "mean"])
def test_every_operation_explains_its_change(name, baseline):
    model, x = model_of(FUNCTIONS[name])
    assert gap(model, x, baseline=baseline) < 1e-9


@pytest.mark.parametrize("place", ["first", "first:2", "last", "last:1"])
def test_any_place_can_be_attributed(place):
    model, x = model_of(F.gelu)
    result = deeplift(model, x, 1, wrt=place)
    assert abs(result.checks["gap"].value) < 1e-12
    assert result.values.shape == model.run(x, read=[place.split(":")[0]])[place].shape


def test_at_one_unit_the_others_stay_as_they_are():
    model, x = model_of(F.gelu)
    act = model.run(x, read=["first"])["first"]
    base = model.run(torch.zeros_like(x), read=["first"])["first"]
    changed = act.clone()
    changed[:, 2] = base[:, 2]
    change = (model.run(x).output - model.run(x, edit={"first": changed}).output)[:, 1]
    assert_close(deeplift(model, x, 1, wrt="first:2").values.flatten(), change, atol=1e-12, rtol=0)


def test_several_baselines_are_averaged():
    model = tiny_model("mlp_tanh")
    x = inputs_for(model, 2)
    result = deeplift(model, x, 1, baseline="gaussian:0.2", samples=5)
    generator = torch.Generator().manual_seed(0)
    fills = [Fill.of("gaussian:0.2")(x[:1], model.space, generator) for _ in range(5)]
    each = torch.stack([deeplift(model, x[:1], 1, baseline=fill).values[0] for fill in fills])
    assert_close(result.values[0], each.mean(0), atol=1e-12, rtol=0)
    assert_close(result.extra["standard_error"][0], each.std(0) / 5**0.5, atol=1e-12, rtol=0)
    assert abs(result.checks["gap"].value) < 1e-12


def test_recurrent_text_is_explained_at_its_embedding():
    model = Model(nets.seeded(networks.BiLstm), tokens(), embedding="embedding")
    ids = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(0))
    result = deeplift(model, ids, "logit(1)")
    assert result.values.shape == (3, 9, 6)
    assert abs(result.checks["gap"].value) < 1e-12


def test_a_residual_network_with_reused_rectifiers_in_place_is_exact():
    model = Model(networks.resnet18(width=8, classes=5, dtype=torch.float64), images(64))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    assert gap(model, x, 3) < 1e-9
    assert gap(model, x, 3, baseline="blur:5") < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_trained_transformer_with_a_classification_head_is_exact(dtype):
    pytest.importorskip("transformers", reason="the encoder's layers are those of transformers")
    model = pytest.importorskip("cutaway.zoo.minilm").load()
    model.module.to(dtype)
    result = deeplift(model, ["a fine film, though the plot is thin", "no"], 1)
    assert abs(result.checks["gap"].value) < (1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.slow
def test_a_trained_network_is_exact_to_single_precision():
    found = pytest.importorskip("cutaway.zoo.efficientnet").load()
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    result = deeplift(found, x, 281)
    assert abs(result.checks["gap"].value) < 1e-5
    assert result.checks["gap"].status == "ok"


# -- what cannot be explained ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (lambda h: h.cumprod(1), "cumprod"),
        (lambda h: h.prod(), "prod"),
        (lambda h: h * (h.flip(1) > 0), "mul"),
        (lambda h: h.gather(1, h.argsort(1)), "gather"),
        (lambda h: h.sort(1).values, "sort"),
        (lambda h: h.abs() ** h, "pow"),
        (lambda h: h.max(), "max"),
    ],
    ids=["cumprod", "prod", "switch", "order", "sort", "both", "over the batch"],
)
def test_an_operation_without_a_rule_is_refused_by_name_and_place(function, named):
    class Module(nn.Module):
        def forward(self, h):
            return function(h).expand(len(h), -1) if function(h).ndim else function(h).expand(len(h), 1)

    model, x = model_of(Module())
    with pytest.raises(NotPossible, match=f"{named} in function"):
        deeplift(model, x, 1)
    result = deeplift(model, x, 1, otherwise="slope")
    assert f"{named} in function" in result.checks["sloped"]
    assert result.checks["sloped"].status == "warn"


def test_what_no_signal_passes_is_not_refused():
    class Aside(nn.Module):
        def forward(self, x):
            return {"logits": x.relu(), "aside": x.cumprod(1)}

    model = Model(Aside(), rows(3, low=-9, high=9), output="logits")
    assert deeplift(model, torch.ones(1, 3), 1).values.tolist() == [[0, 1, 0]]


def test_an_operation_that_torch_does_not_show_is_refused():
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    model, x = model_of(Hidden.apply)
    with pytest.raises(NotPossible, match="HiddenBackward"):
        deeplift(model, x, 1)


def test_a_forward_that_decides_by_the_input_is_reported():
    model, x = model_of(lambda h: h * 2 if h.sum() > 0.1 else h)
    other = deeplift(model, x, 1, baseline="constant:9")
    assert ("branches" in other.checks) == bool(other.checks["gap"].status)
    model, x = model_of(lambda h: h * h.max().item())
    assert "item in" in deeplift(model, x, 1).checks["branches"]


def test_a_signal_that_the_network_cuts_is_refused_or_shows_as_a_gap():
    model, x = model_of(lambda h: h + (h * 3).detach())
    with pytest.raises(NotPossible, match="add in"):
        deeplift(model, x, 1)
    assert deeplift(model, x, 1, otherwise="slope").checks["gap"].status == "warn"


def test_nothing_is_left_on_a_buffer_that_the_forward_writes_into():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x):
            self.seen += x.detach().sum(0)
            return x.relu()

    net = Counting()
    model = Model(net, rows(4, low=-9, high=9))
    first, second = (deeplift(model, torch.ones(1, 4), 1).values for _ in range(2))
    assert_close(first, second)
    assert not vars(net.seen)


def test_factors_that_are_alike_get_equal_shares_of_a_product():
    """Reference: Shapley values of the factors, over all orders in which they may go from the baseline to the input."""

    class Product(nn.Module):
        def forward(self, x):
            return x.prod(1, keepdim=True)

    x = torch.tensor([[3.0, 0.0, -2.0, 0.5, 1.0]], dtype=torch.float64)
    base = torch.tensor([[1.0, 2.0, 4.0, 0.0, 1.0]], dtype=torch.float64)
    expected = torch.zeros(5, dtype=torch.float64)
    orders = list(itertools.permutations(range(5)))
    for order in orders:
        at = base[0].clone()
        for i in order:
            before = at.prod()
            at[i] = x[0, i]
            expected[i] += (at.prod() - before) / len(orders)
    model = Model(Product(), rows(5, low=-9, high=9), scores="values")
    assert_close(deeplift(model, x, 0, baseline=base).values[0].double(), expected, atol=1e-5, rtol=0)


def test_a_baseline_for_each_input():
    model = tiny_model("conv")
    x, base = inputs_for(model, 3), inputs_for(model, 3, seed=5)
    together = deeplift(model, x, [0, 1, 2], baseline=base)
    for k in range(3):
        alone = deeplift(model, x[k : k + 1], k, baseline=base[k])
        assert_close(together.values[k : k + 1], alone.values, atol=1e-9, rtol=0)
    with pytest.raises(BadShape, match="expected a fill of shape"):
        deeplift(model, x, 1, baseline=base[:2])


def test_samples_need_a_random_baseline():
    model, x = model_of(F.gelu)
    for samples in (0, 2):
        with pytest.raises(BadOption, match="expected samples=1"):
            deeplift(model, x, 1, samples=samples)


def test_an_input_that_equals_the_baseline_is_reported():
    model, x = model_of(F.gelu)
    result = deeplift(model, 0 * x, 1)
    assert not result.values.any()
    assert result.checks["baseline"].status == "warn"


# -- beside captum -----------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Each ReLU a module of its own, and no pooling right after one: captum's rules see it all."""

    def __init__(self, *pooled):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), *pooled, nn.Flatten(), nn.LazyLinear(5), nn.ReLU()
        )
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        return self.fc(self.body(x))


def plain(*pooled):
    def build():
        net = Plain(*pooled)
        net(torch.zeros(1, 3, 16, 16))
        return net

    return Model(nets.seeded(build), images(16))


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:.*(hooks|gradients)")
def test_agrees_with_captum_where_its_hooks_see_everything():
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")

    model = plain(nn.MaxPool2d(2))
    # Of an even baseline, such as 0, all entries of a window are the largest: which of them answers is free to choose.
    x, base = inputs_for(model, 1), inputs_for(model, 1, seed=1)
    theirs = captum.DeepLift(model.module).attribute(x.clone().requires_grad_(), base, target=1)
    assert_close(deeplift(model, x, 1, baseline=base).values, theirs.detach(), atol=1e-12, rtol=0)
    model = plain()
    theirs = captum.DeepLift(model.module).attribute(x.clone().requires_grad_(), target=1)
    assert_close(deeplift(model, x, 1).values, theirs.detach(), atol=1e-12, rtol=0)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:.*(hooks|gradients)")
def test_captum_takes_a_functional_rectifier_for_a_straight_line():
    """Known disagreement: its rules hang on modules, so its values miss the change that ours sum to."""
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    net = nets.seeded(lambda: nets.Mlp("functional"))
    model = Model(net, rows(4, low=-10, high=10))
    x = inputs_for(model, 3)
    theirs = captum.DeepLift(net).attribute(x.clone().requires_grad_(), target=1).sum(1)
    change = (net(x) - net(torch.zeros_like(x)))[:, 1]
    assert (theirs - change).abs().max() > 1e-3
    assert gap(model, x) < 1e-12


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:.*(hooks|gradients)")
def test_captum_misses_the_change_where_pooling_follows_a_rectifier():
    """Known disagreement: two rules next to each other. Ours sum to the change there, too."""
    captum = pytest.importorskip("captum.attr", reason="captum is in requirements-peers.txt")
    model = plain(nn.ReLU(), nn.MaxPool2d(2))
    x, base = inputs_for(model, 2), inputs_for(model, 2, seed=1)
    theirs = captum.DeepLift(model.module).attribute(x.clone().requires_grad_(), base, target=1)
    score, at_base = (model.module(t)[:, 1] for t in (x, base))
    assert (theirs.flatten(1).sum(1) - (score - at_base)).abs().max() > 1e-3
    for k in range(2):
        ours = deeplift(model, x[k : k + 1], 1, baseline=base[k : k + 1]).values.sum()
        assert_close(ours, (score - at_base)[k].detach(), atol=1e-12, rtol=0)
