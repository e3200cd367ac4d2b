"""Laws that a method may claim in its decorator, each as a check on networks whose answer is known."""

from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.result import Attribution, Curve, Pictures, Result, Scores
from cutaway.core.space import images, rows
from cutaway.core.target import Target
from cutaway.testing import common, nets, planted
from cutaway.testing.compare import GATES, close
from cutaway.testing.models import inputs_for, same_functions, tiny_model
from cutaway.testing.subjects import Law, Trial


def complete(trial: Trial) -> None:
    """The values sum to the target's change from the baseline to the input, up to the residual that is reported."""
    for name in _fitting(trial, image=("conv", "concatenation"), row=("mlp", "mlp_tanh")):
        model = tiny_model(name, trial.dtype)
        x = inputs_for(model, 2)
        assert isinstance(x, Tensor)
        result = trial(model, x)
        change = _score(model, x) - _score(model, trial.baseline(model, x))
        allowed = (
            GATES[trial.dtype] * change.abs()
            + result.arrays().get("extra/residual", torch.zeros(())).double().flatten()
        )
        gap = (_values(result).double().flatten(1).sum(1) - change).abs()
        assert (gap <= allowed).all(), f"on {name} the values miss the change of {change.tolist()} by {gap.tolist()}"


def conserves(trial: Trial) -> None:
    """On a ReLU network without biases, the values sum to the target itself."""
    model = tiny_model("mlp_without_bias", trial.dtype)
    x = inputs_for(model, 3)
    values = _values(trial(model, x)).flatten(1).sum(1)
    close(values, _score(model, x).to(values.dtype), GATES[trial.dtype], "the sum of the values, and the target")


def dummy(trial: Trial) -> None:
    """What the network ignores gets exactly zero."""
    _has_example(trial)
    if trial.takes("row"):
        net = nets.seeded(nets.Mlp, dtype=trial.dtype)
        with torch.no_grad():
            net.get_parameter("first.weight")[:, 2] = 0
        model = Model(net, rows(4, low=-10, high=10))
        ignored = _values(trial(model, inputs_for(model)))[:, 2]
        assert not ignored.any(), f"an ignored column got {float(ignored.abs().max()):.2g}"
    if trial.takes("image"):
        model = Model(_LeftHalf(nets.seeded(nets.ConvNet, dtype=trial.dtype)).eval(), images(16))
        ignored = _values(trial(model, inputs_for(model)))[..., 8:]
        assert not ignored.any(), f"ignored pixels got {float(ignored.abs().max()):.2g}"


def symmetric(trial: Trial) -> None:
    """Two entries that the network treats alike, with the same value, get the same value."""
    _has_example(trial)
    if trial.takes("row"):
        model = Model(_Summing(nets.seeded(nets.Mlp, dtype=trial.dtype)).eval(), rows(4, low=-10, high=10))
        x = inputs_for(model)
        assert isinstance(x, Tensor)
        x[:, 1] = x[:, 0]
        values = _values(trial(model, x))
        close(values[:, 1], values[:, 0], GATES[trial.dtype], "two columns that are alike")
    if trial.takes("image"):
        model = Model(_Mirrored(nets.seeded(nets.ConvNet, dtype=trial.dtype)).eval(), images(16))
        x = inputs_for(model)
        assert isinstance(x, Tensor)
        values = _values(trial(model, (x + x.flip(3)) / 2))
        close(values.flip(3), values, GATES[trial.dtype], "two halves that are alike")


def linear_in_target(trial: Trial) -> None:
    """The values of 2 a - 3 b are twice those of a minus three times those of b."""
    for name in trial.names:
        model = trial.model(name)
        x = trial.inputs(model, 2)
        a, b = (_values(trial(model, x, k)) for k in (0, 1))
        both = _values(trial(model, x, "2 * logit(0) - 3 * logit(1)"))
        close(both, 2 * a - 3 * b, GATES[trial.dtype], f"the values of a combined target on {name}")


def same_for_equivalent_nets(trial: Trial) -> None:
    """Two networks that compute one function in different ways get the same values."""
    _has_example(trial)
    for name, (one, other) in same_functions(trial.dtype).items():
        if trial.takes(one.space.kind):
            x = inputs_for(one, 2)
            close(_values(trial(other, x)), _values(trial(one, x)), GATES[trial.dtype], name)


def oracle_beats_random(trial: Trial) -> None:
    """The true reason scores better than random maps and than a constant one, where the reason is known."""
    model, x, truth = _planted_words(trial) if trial.kind == "tokens" else _planted_square(trial)
    oracle = _quality(_examined(trial, model, x, truth))
    maps = {f"a random map, seed {k}": _noise_like(truth, k) for k in range(3)} | {"one value": torch.ones_like(truth)}
    for name, values in maps.items():
        other = _quality(_examined(trial, model, x, values))
        assert oracle > other, f"the true reason scores {oracle:.4g}, {name} {other:.4g} (higher is better here)"


def _planted_square(trial: Trial) -> tuple[Model, Tensor, Tensor]:
    square = torch.zeros(3, 3, 16, 16, dtype=trial.dtype)
    square[1, :, 4:10, 6:12] = 0.2
    model = Model(nets.linear(square), images(16), name="a square decides")
    x = inputs_for(model, 2)
    assert isinstance(x, Tensor)
    x[:, :, 4:10, 6:12] = 0.9
    return model, x, square[1].expand_as(x) * x


def _planted_words(trial: Trial) -> tuple[Model, list[str], Tensor]:
    model = planted.trigger_model()
    model.module.to(trial.dtype)
    words = "the film was very dull but a great plot not bad".split()
    texts = [" ".join([*words[:k], "good", *words[k:]][:11]) for k in (2, 5, 8)]
    return model, texts, planted.triggers(model, texts).to(trial.dtype)


def _noise_like(truth: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(truth.shape, generator=generator, dtype=torch.float64).to(truth)


def inside_ball(trial: Trial) -> None:
    """An attacked input is within epsilon of the input and in its bounds, and the network puts it into its class."""
    for name in trial.names:
        model = trial.model(name)
        x = inputs_for(model, 3)
        assert isinstance(x, Tensor)
        unit = torch.tensor(model.space.std if model.space.kind == "row" else model.space.range).to(x)
        for epsilon in (0.004, 0.3):
            near = trial(model, x, epsilon=epsilon).arrays()["extra/attacked"]
            assert near.shape == x.shape, f"on {name}, {tuple(near.shape)} came back for {tuple(x.shape)}"
            far = float(((near - x).abs() / (epsilon * unit)).max())
            assert far <= 1 + GATES[trial.dtype], f"on {name} an entry moved by {far:.6g} times epsilon = {epsilon}"
            assert float(near.min()) >= model.space.low, f"on {name} an entry fell below the bounds"
            assert float(near.max()) <= model.space.high, f"on {name} an entry rose above the bounds"
            assert torch.equal(*(model.run(v).scores.argmax(1) for v in (near, x))), f"on {name} a class changed"


def _examined(trial: Trial, model: Model, x: Any, values: Tensor) -> Result:
    made = Attribution(
        values=values, target="logit(1)", score=_score(model, x), input=x if isinstance(x, Tensor) else torch.empty(0)
    )
    return trial.method.function(model, x, made, **trial.options)


def _quality(result: Result) -> float:
    """The first number of a score or curve, with the sign that makes more of it better."""
    assert isinstance(result, Scores | Curve), f"{type(result).__name__} has no number to compare"
    assert result.better, "the result does not say which direction is good"
    number = float(result.values[0]) if isinstance(result, Scores) else next(iter(result.summary.values()))
    return number if result.better == "higher" else -number


def rises(trial: Trial) -> None:
    """A longer search gives pictures with more of what they are made for."""
    for name in trial.names:
        model = trial.model(name)
        x = trial.inputs(model, 2)
        begun, made = (trial(model, x, steps=steps) for steps in (0, 12))
        few, many = (_reached(model, result) for result in (begun, made))
        assert (many > few).all(), f"on {name}, 12 steps reach {many.tolist()}, and none {few.tolist()}"


def _reached(model: Model, result: Result) -> Tensor:
    """The objective on the pictures themselves; for a method with an objective of its own, what it says of them."""
    assert isinstance(result, Pictures)
    text = result.provenance.options.get("objective")
    if not text:
        value = result.checks["score"].value
        assert value is not None, "the check 'score' has no number"
        return torch.tensor([value])
    target = Target.of(str(text), model)
    x = model.space.low + model.space.range * result.images.to(model.dtype)
    return target(model.run(x, read=[*target.sites, "output"]))


def _fitting(trial: Trial, **names: tuple[str, ...]) -> list[str]:
    _has_example(trial)
    return [name for kind, several in names.items() if trial.takes(kind) for name in several]


def _has_example(trial: Trial) -> None:
    """A claim that nothing tests is not kept."""
    if not (trial.takes("row") or trial.takes("image")):
        raise NotPossible(f"there is no tiny example for this law on text yet, so {trial.method.name} cannot claim it.")


def _values(result: Result) -> Tensor:
    assert isinstance(result, Attribution), f"this law is about attributions; the method gives {type(result).__name__}"
    return result.values


def _score(model: Model, x: object) -> Tensor:
    target = Target.of(1, model)
    return target(model.run(x)).double()


class _LeftHalf(nn.Module):
    """Ignores the right half of an image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        left = x[..., : x.shape[-1] // 2]
        return self.inner(torch.cat([left, torch.zeros_like(left)], dim=-1))


class _Mirrored(nn.Module):
    """Sees the sum of an image and its mirror image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + x.flip(3))


class _Summing(nn.Module):
    """Sees the sum of its first two columns in place of each."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        both = x[:, :1] + x[:, 1:2]
        return self.inner(torch.cat([both, both, x[:, 2:]], dim=1))


CLAIMS: dict[str, Law] = {
    law.__name__: law
    for law in (
        complete,
        conserves,
        dummy,
        symmetric,
        linear_in_target,
        same_for_equivalent_nets,
        oracle_beats_random,
        rises,
        inside_ball,
        common.batch_independent,
        common.seeded,
    )
}
# An attribution method that does not claim one of these must break it somewhere: otherwise it should claim it.
SHOWN_BROKEN = ("complete", "linear_in_target", "same_for_equivalent_nets")
