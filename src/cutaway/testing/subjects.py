"""A method ready to be tried: which tiny models fit it, and how it is called on them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cutaway.core.batch import take
from cutaway.core.catalogue import Method, find
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.result import Result
from cutaway.core.space import images, rows
from cutaway.core.target import TargetLike
from cutaway.testing import nets
from cutaway.testing.models import inputs_for, text_model, tiny_model
from cutaway.testing.troubled import Overflowing, Tripwire

_KINDS = {"image": ("conv", "residual"), "tokens": ("text",), "row": ("mlp", "mlp_tanh"), "board": ("board",)}


@dataclass(frozen=True)
class Trial:
    """A method with the options it is tried with, in one floating-point type.

    Attributes:
        method: The catalogue entry.
        options: Options for every call; the method's quick ones, and the tester's.
        dtype: Of the models.
    """

    method: Method
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64

    @classmethod
    def of(cls, method: Any, options: Mapping[str, Any]) -> "Trial":
        """A trial of a decorated function, a catalogue entry, or a name."""
        entry = find(method) if isinstance(method, str) else getattr(method, "method", method)
        if not isinstance(entry, Method):
            raise NotPossible(f"expected a function under @method, or the name of one; got {method!r}.")
        unknown = set(entry.positional) - {"model", "x", "data", "target", "attribution"}
        if unknown:
            raise NotPossible(
                f"{entry.name} works on {', '.join(sorted(unknown))}, for which there are no tiny examples yet."
            )
        return cls(entry, {**entry.quick, **options})

    @property
    def explains(self) -> bool:
        """True if the result is an attribution."""
        return self.method.result == "Attribution"

    @property
    def kind(self) -> str:
        """The kind of input it is tried on: the one it needs, or images."""
        return next((need for need in self.method.needs if need in _KINDS), "image")

    @property
    def names(self) -> tuple[str, ...]:
        """Tiny models that fit: those of the kind it needs, or of all kinds."""
        needed = tuple(need for need in self.method.needs if need in _KINDS)
        kinds = needed or (("image", "row", "tokens") if self.explains else ("image", "row"))
        rectified = "relu_family" in self.method.needs
        if "mean_and_linear" in self.method.needs:
            return ("gap_linear", "residual")
        if "attention" in self.method.needs:
            return ("text_attention",)
        return tuple(n for kind in kinds for n in _KINDS[kind] if not (rectified and n in ("mlp_tanh", "text")))

    def takes(self, kind: str) -> bool:
        """True if the method works on inputs of that kind."""
        return not set(self.method.needs) & set(_KINDS) or kind in self.method.needs

    @property
    def takes_one(self) -> bool:
        """True if the method takes one input at a time."""
        return "one_input" in self.method.needs

    def typed(self, dtype: torch.dtype) -> "Trial":
        """The same in another floating-point type."""
        return replace(self, dtype=dtype)

    def model(self, name: str | None = None, *, batch_size: int | None = None) -> Model:
        """A tiny model, fresh; the first that fits if none is named."""
        return tiny_model(name or self.names[0], self.dtype, batch_size=batch_size)

    def wrapped(self) -> tuple[Model, Tripwire]:
        """A model that looks used, with a wire around it that can be tripped."""
        inner = self.model().module.train()
        for module in list(inner.modules())[1::2]:
            module.eval()
        for parameter in list(inner.parameters())[::2]:
            parameter.requires_grad_(False)
            parameter.grad = torch.ones_like(parameter)
        inner.register_forward_hook(lambda m, args, output: None)
        wire = Tripwire(inner)
        plain = self.model()
        if plain.space.kind == "tokens":
            return Model(wire, plain.space, tokenizer=plain.tokenizer, embedding="inner.embedding"), wire
        return Model(wire, plain.space), wire

    def overflowing(self) -> tuple[Model, Any]:
        """A model whose activations are not finite, and an input for it."""
        if self.kind == "tokens":
            model = text_model(self.dtype)
            with torch.no_grad():
                model.module.get_parameter("fc.weight").fill_(torch.inf)
            return model, "a good film"
        if self.kind == "row":
            return Model(nets.seeded(Overflowing, dtype=self.dtype), rows(4, low=-9, high=9)), torch.ones(1, 4)
        net = nets.seeded(lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), Overflowing(3 * 256)), dtype=self.dtype)
        return Model(net, images(16)), torch.ones(1, 3, 16, 16)

    def inputs(self, model: Model, count: int = 3) -> Any:
        """Inputs of a tiny model; one for a method that takes no more."""
        return inputs_for(model, 1 if self.takes_one else count)

    def row(self, model: Model, x: Any, index: int) -> Any:
        """One row of a batch, shaped as it was among the others."""
        return take(model.inputs(x), slice(index, index + 1))

    def __call__(self, model: Model, x: Any, target: TargetLike = 1, **options: Any) -> Result:
        """Run the method."""
        if self.takes_one and isinstance(target, list):
            target = target[0]
        given = {"target": target} if {"target", "attribution"} & set(self.method.positional) else {}
        if {"x", "data"} <= set(self.method.positional) - set(self.method.optional):
            given["data"] = x
        return self.method.function(model, x, **given, **{**self.options, **options})

    def baseline(self, model: Model, x: Tensor) -> Tensor:
        """The input that the method takes for "nothing there": its fill applied, or zero."""
        from cutaway.core.fill import Fill

        defaults = {option.name: option.default for option in self.method.options}
        what = next(
            (self.options.get(name, defaults[name]) for name in ("baseline", "fill") if name in defaults), "zero"
        )
        return Fill.of("zero" if what is None else what)(x, model.space)


Law = Callable[[Trial], None]
