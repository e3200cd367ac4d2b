"""The tiny networks as ready `Model`s by name, and pairs of them that are one function."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from cutaway.core.dataset import Examples
from cutaway.core.model import Model
from cutaway.core.recipe import Recipe
from cutaway.core.space import Space, images, rows, tokens
from cutaway.testing import answers, nets, sequences

_PICTURE = images(16, mean=0.4, std=0.5)
_ROW = rows(4, low=-10, high=10)
_BOARD = images(3, channels=4)

# Name: (how to build it, its space, further arguments of Model).
_BUILDERS: dict[str, tuple[Callable[[], nn.Module], Space, dict[str, str]]] = {
    "linear": (lambda: nn.Linear(4, nets.CLASSES), _ROW, {}),
    "mlp": (nets.Mlp, _ROW, {}),
    "mlp_functional": (lambda: nets.Mlp("functional"), _ROW, {}),
    "mlp_clamp": (lambda: nets.Mlp("clamp"), _ROW, {}),
    "mlp_inplace": (lambda: nets.Mlp("inplace"), _ROW, {}),
    "mlp_tanh": (lambda: nets.Mlp("tanh"), _ROW, {}),
    "mlp_relu6": (lambda: nets.Mlp("relu6"), _ROW, {}),
    "mlp_gelu": (lambda: nets.Mlp("gelu"), _ROW, {}),
    "mlp_without_bias": (lambda: nets.Mlp(bias=False), _ROW, {}),
    "reused": (nets.Reused, _ROW, {}),
    "dead_branch": (nets.DeadBranch, _ROW, {}),
    "tuple_output": (lambda: answers.Contained("tuple"), _ROW, {"output": "0"}),
    "dict_output": (lambda: answers.Contained("dict"), _ROW, {"output": "logits"}),
    "dataclass_output": (lambda: answers.Contained("dataclass"), _ROW, {"output": "logits"}),
    "library_output": (lambda: answers.Contained("library"), _ROW, {"output": "logits"}),
    "weight_norm": (lambda: _normed(nn.utils.parametrizations.weight_norm), _ROW, {}),
    "spectral_norm": (lambda: _normed(nn.utils.parametrizations.spectral_norm), _ROW, {}),
    "tied": (lambda: _tied(), _ROW, {}),
    "conv": (nets.ConvNet, _PICTURE, {}),
    "conv_grey": (lambda: nets.ConvNet(channels=1), images(16, channels=1), {}),
    "residual": (nets.Residual, _PICTURE, {}),
    "concatenation": (nets.Concatenation, _PICTURE, {}),
    "gap_linear": (nets.GapLinear, _PICTURE, {}),
    "encoder": (sequences.Encoder, _PICTURE, {}),
    "encoder_batch_second": (lambda: sequences.Encoder(batch_first=False), _PICTURE, {}),
    "attention": (lambda: sequences.SelfAttention(size=16), _PICTURE, {}),
    "attention_batch_second": (lambda: sequences.SelfAttention(batch_first=False, size=16), _PICTURE, {}),
    "lstm": (sequences.Recurrent, _PICTURE, {}),
    "board": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 9)), _BOARD, {}),
    "gru_batch_second": (lambda: sequences.Recurrent(nn.GRU, batch_first=False), _PICTURE, {}),
}


def tiny_model(name: str, dtype: torch.dtype = torch.float64, *, seed: int = 0, batch_size: int | None = None) -> Model:
    """One of the tiny models: seeded, in eval mode."""
    if name in _TEXTS:
        return text_model(dtype, seed=seed, batch_size=batch_size, name=name)
    build, space, more = _BUILDERS[name]
    module = nets.seeded(build, seed=seed, dtype=dtype)
    return Model(module, space, name=f"tiny-{name}", batch_size=batch_size, **more)  # type: ignore[arg-type]  # passed on as they came


def tiny_models(dtype: torch.dtype = torch.float64) -> dict[str, Model]:
    """All tiny models by name."""
    return {name: tiny_model(name, dtype) for name in (*_BUILDERS, "text")}


_TEXTS: dict[str, Callable[[], nn.Module]] = {
    "text": sequences.TextClassifier,
    "text_attention": sequences.AttentiveText,
}


def text_model(
    dtype: torch.dtype = torch.float64, *, seed: int = 0, batch_size: int | None = None, name: str = "text"
) -> Model:
    """A text classifier with a tokenizer of twenty words; `input` is its embedding."""
    module = nets.seeded(_TEXTS[name], seed=seed, dtype=dtype)
    tokenizer, classes = sequences.ToyTokenizer(), ("bad", "neutral", "good")
    return Model(
        module,
        tokens(),
        classes=classes,
        name=f"tiny-{name}",
        tokenizer=tokenizer,
        embedding="embedding",
        batch_size=batch_size,
    )


def with_other_weights(model: Model) -> Model:
    """The same network with fresh weights: what another training might have made of it."""
    from cutaway.evaluation.weights import copied, reinitialise

    other = copied(model)
    for k, module in enumerate(other.module.modules()):
        reinitialise(module, k)
    return other


def with_recipe(model: Model) -> Recipe:
    """A recipe that trains such a network once over a few inputs, whose labels are the classes that it gives them."""

    def build() -> nn.Module:
        return with_other_weights(model).module.requires_grad_()

    def data() -> Examples:
        x = model.inputs(inputs_for(model, 8, seed=1))
        x = x if isinstance(x, Tensor) else next(iter(x.values()))
        with torch.no_grad():
            labels = model.run(x).scores.argmax(1)
        return Examples(x=x, names=[str(i) for i in range(len(x))], labels=labels)

    return Recipe(name="tiny", build=build, train=data, space=model.space, epochs=1, batch=4)


def inputs_for(model: Model, count: int = 3, *, seed: int = 0) -> Tensor | list[str]:
    """Inputs of a tiny model: inside its bounds, without structure; for text, short sentences of different length."""
    if model.space.kind == "tokens":
        texts = ["the film was very good", "dull plot", "a great film but not fun", "awful", "was bad"]
        return [texts[i % len(texts)] for i in range(count)]
    if model.space == _BOARD:
        return _positions(count).to(model.dtype)
    generator = torch.Generator().manual_seed(seed)
    shape = (count, *(s or 16 for s in model.space.shape))
    if model.space.kind == "image":
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(model.dtype)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(model.dtype)


def _positions(count: int) -> Tensor:
    """Positions of tic-tac-toe with the bottom row free, so that moves 0 to 2 are legal in each."""
    from cutaway.attribution.games import InARow

    game = InARow(3, 3, 3)
    return game.encode([game.read(("b2 a3", "a3 b2 c3 b3", "b2")[i % 3]) for i in range(count)])


def same_functions(dtype: torch.dtype = torch.float64) -> dict[str, tuple[Model, Model]]:
    """Pairs of models that compute one function as different graphs."""
    mlps = {s: nets.seeded(partial(nets.Mlp, s), dtype=dtype) for s in ("module", "maximum", "product")}
    once = nets.seeded(nets.Reused, dtype=dtype)
    twice = nets.Duplicated().to(dtype).eval()
    twice.load_state_dict(once.state_dict())
    nested = [nets.seeded(partial(_Difference, twice), dtype=dtype) for twice in (False, True)]
    gap = nets.seeded(nets.GapLinear, dtype=dtype)
    assert isinstance(gap, nets.GapLinear)
    conv = nets.seeded(nets.ConvNet, dtype=dtype)
    pairs: dict[str, tuple[nn.Module, nn.Module, Space]] = {
        "relu as maximum": (mlps["module"], mlps["maximum"], _ROW),
        "relu as product": (mlps["module"], mlps["product"], _ROW),
        "rectifiers that cancel": (mlps["module"], _Cancelling(mlps["module"]).eval(), _ROW),
        "reused relu": (once, twice, _ROW),
        "convolution as matrix product": (gap, nets.UnfoldedConv(gap), _PICTURE),
        "folded normalisation": (conv, _folded(conv), _PICTURE),
        "identity as two rectifiers": (mlps["module"], nn.Sequential(_TwoRectifiers(), mlps["module"]).eval(), _ROW),
        "identity as two rectifiers, images": (conv, nn.Sequential(_TwoRectifiers(), conv).eval(), _PICTURE),
        "rectifier inside a rectifier": (nested[0], nested[1], _ROW),
        "doubled and halved": (conv, nn.Sequential(_Scaled(1.0), conv, _Scaled(2.0), _Scaled(0.5)).eval(), _PICTURE),
    }
    return {
        name: (Model(a, space, name=f"{name}: one"), Model(b, space, name=f"{name}: other"))
        for name, (a, b, space) in pairs.items()
    }


class _Scaled(nn.Module):
    """Times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class _Cancelling(nn.Module):
    """A network with the same rectifiers added and subtracted."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.net, nets.Mlp)
        once, again = (torch.relu(self.net.first(x)).sum(1, keepdim=True) for _ in range(2))
        return self.net(x) + once - again


class _TwoRectifiers(nn.Module):
    """x, as the part of it above a number minus the part below."""

    def forward(self, x: Tensor) -> Tensor:
        shift = 0.123
        return torch.relu(x - shift) - torch.relu(shift - x) + shift


class _Difference(nn.Module):
    """A difference a - c, rectified; as c is not negative, it does not matter whether a is rectified first."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.twice = twice
        self.a, self.c, self.fc = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, nets.CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x)) if self.twice else self.a(x)
        return self.fc(torch.relu(a - torch.relu(self.c(x))))


def _folded(net: nn.Module) -> nn.Module:
    """The same network with the batch normalisation inside the weights of the convolution before it."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    assert isinstance(net, nets.ConvNet)
    folded = nets.ConvNet().to(net.fc.weight.dtype).eval()
    folded.load_state_dict(net.state_dict())
    folded.conv1 = fuse_conv_bn_eval(net.conv1, net.bn1)
    folded.bn1 = nn.Identity()  # type: ignore[assignment]  # folded into the convolution
    return folded


def _normed(parametrization: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(parametrization(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, nets.CLASSES))


def _tied() -> nn.Module:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second, nn.Linear(4, nets.CLASSES))
