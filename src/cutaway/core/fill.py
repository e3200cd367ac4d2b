"""What stands for "absent": functions from an input to its replacement, with a text form.

    zero            0 in input units: black
    neutral         what the network sees as 0 after its own normalisation: the mean colour of its training data
    mean            each input's own mean, channel by channel
    constant:0.5    that number everywhere; constant:1,0,0 gives one per channel
    blur:5          the input under a Gaussian of 5 pixels
    noise           uniform over the allowed interval
    gaussian:0.2    the input plus normal noise of 0.2 of the range, clipped
    farthest        per entry the farther end of the allowed interval
    sample:digits   a random other input of that data set, drawn anew for each row
    mask            of a text, by token: the tokenizer's mask token stands there instead
    pad             of a text: a padding token, which the attention mask hides; the others stay where they are
    remove          of a text: the token is deleted, and what follows moves up; an empty text is one unknown word

The last three change the tokens of a text; all others change numbers, of a text those of its embedding.
No fill is right: each hides one thing and shows another. A constant is blind to its own colour.
"""

import functools
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Union

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.checks import shortest
from cutaway.core.errors import BadOption, BadShape, unknown_name
from cutaway.core.space import Space

FillFunction = Callable[[Tensor, Space, torch.Generator], Tensor]
FillLike = Union["Fill", str, Tensor, float, FillFunction]


@dataclass(frozen=True)
class Fill:
    """A named replacement for a batch.

    Attributes:
        text: How to write it.
        function: (x, space, generator) to a tensor like x.
        random: True if two draws differ.
        of_tokens: True if it changes the tokens of a text, which only `core.game` can do.
        each: The values that were given, one for each input of a batch; None for a fill that fits any input.
    """

    text: str
    function: FillFunction
    random: bool = False
    of_tokens: bool = False
    each: Tensor | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, what: FillLike) -> "Fill":
        """A fill from its text, a number, a tensor of the input's shape, or a function.

        Raises:
            UnknownName: No fill of that name.
            BadOption: An argument that the fill cannot take.
        """
        if isinstance(what, Fill):
            return what
        if isinstance(what, Tensor):
            return given(what)
        if isinstance(what, int | float):
            return constant(float(what))
        if callable(what):
            return cls(f"given {getattr(what, '__name__', 'function')}", what, random=True)
        name, _, argument = what.partition(":")
        if name == "sample" and argument:
            return sample(argument)
        if name not in _FILLS:
            raise unknown_name("fill", name, [*_FILLS, "sample"], f"All: {', '.join(_FILLS)}, sample:DATA.")
        try:
            numbers = [float(part) for part in argument.split(",")] if argument else []
            return _FILLS[name](*numbers)
        except (TypeError, ValueError):
            raise BadOption(f"expected numbers that {name!r} can take; got {what!r}. Example: blur:5.") from None

    def row(self, i: int, count: int) -> "Fill":
        """The fill for one input out of so many, where one was given for each."""
        return self if self.each is None or count == 1 or len(self.each) != count else given(self.each[i : i + 1])

    def __call__(self, x: Tensor, space: Space, generator: torch.Generator | None = None) -> Tensor:
        """The replacement of `x`, of the same shape, dtype and device.

        Raises:
            BadShape: The fill has another shape or leaves the input's bounds.
        """
        filled = torch.as_tensor(self.function(x, space, generator or torch.Generator().manual_seed(0))).to(x)
        try:
            return filled.expand_as(x)
        except RuntimeError:
            raise BadShape(
                f"expected a fill of shape {tuple(x.shape)}; {self.text} gave {tuple(filled.shape)}."
            ) from None

    def __str__(self) -> str:
        """The text form."""
        return self.text


def _of_tokens(name: str) -> Fill:
    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        raise BadOption(
            f"expected a fill of numbers, such as zero or mean; {name!r} changes the tokens of a text, which methods "
            "that take features= can do."
        )

    return Fill(name, function, of_tokens=True)


def mask() -> Fill:
    """The tokenizer's mask token."""
    return _of_tokens("mask")


def pad() -> Fill:
    """A padding token that the attention mask hides."""
    return _of_tokens("pad")


def remove() -> Fill:
    """Nothing: the token is deleted, and what follows moves up."""
    return _of_tokens("remove")


def zero() -> Fill:
    """0 in input units."""
    return Fill("zero", lambda x, space, generator: torch.zeros_like(x))


def neutral() -> Fill:
    """The value that the network sees as 0."""

    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        mean = torch.tensor(space.mean, dtype=x.dtype, device=x.device)
        return mean.view(1, -1, *[1] * (x.ndim - 2)).expand_as(x)

    return Fill("neutral", function)


def mean() -> Fill:
    """Each input's own mean, channel by channel; for a row, over its columns."""

    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        axes = tuple(range(2, x.ndim)) or (1,)
        return x.mean(axes, keepdim=True).expand_as(x)

    return Fill("mean", function)


def constant(*numbers: float) -> Fill:
    """One number everywhere, or one per channel."""
    if not numbers:
        raise BadOption("expected a number after 'constant:', such as constant:0.5; got none.")
    text = "constant:" + ",".join(map(shortest, numbers))

    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        if len(numbers) not in (1, x.shape[1]):
            raise BadShape(f"expected 1 or {x.shape[1]} numbers in {text!r}; got {len(numbers)}.")
        values = torch.tensor(numbers, dtype=x.dtype).view(1, -1, *[1] * (x.ndim - 2))
        return _inside(values, x, space, text).expand_as(x)

    return Fill(text, function)


def blur(sigma: float = 10.0) -> Fill:
    """The image under a Gaussian of `sigma` pixels, reflected at the border."""
    if not sigma > 0:
        raise BadOption(f"expected a blur of more than 0 pixels; got {sigma:g}.")

    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        if x.ndim != 4:
            raise BadShape(f"expected images to blur; got shape {tuple(x.shape)}. Use another fill.")
        return gaussian_blur(x, sigma)

    return Fill(f"blur:{shortest(sigma)}", function)


def noise() -> Fill:
    """Uniform noise over the allowed interval."""

    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        return space.low + space.range * torch.rand(x.shape, generator=generator, dtype=x.dtype)

    return Fill("noise", function, random=True)


def gaussian(share: float = 0.2) -> Fill:
    """The input plus normal noise of that share of the range, clipped to the allowed interval."""
    if not share >= 0:
        raise BadOption(f"expected noise of at least 0 of the range; got {share:g}.")

    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        step = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) * share * space.range
        return (x + step).clamp(space.low, space.high)

    return Fill(f"gaussian:{shortest(share)}", function, random=True)


def farthest() -> Fill:
    """Per entry the farther end of the allowed interval: a baseline that is blind to no colour."""

    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        middle = (space.low + space.high) / 2
        return torch.where(x > middle, torch.full_like(x, space.low), torch.full_like(x, space.high))

    return Fill("farthest", function)


def sample(examples: Tensor | str) -> Fill:
    """A random other input, drawn anew for each row.

    Args:
        examples: Inputs to draw from, or the name of a data set, as `cutaway.data` takes it.
    """

    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        others = _named_examples(examples, space) if isinstance(examples, str) else examples
        return others[torch.randint(len(others), (len(x),), generator=generator)]

    text = f"sample:{examples}" if isinstance(examples, str) else f"given sample of {len(examples)}"
    return Fill(text, function, random=True)


# The room above (cutaway.data) puts its loader here when it is imported; the core imports nothing above itself.
_loader: list[Callable[[str, Space], Tensor]] = []


def set_loader(load: Callable[[str, Space], Tensor]) -> None:
    """Let `sample:NAME` draw from data sets by name."""
    _loader[:] = [load]


@functools.lru_cache(maxsize=4)
def _named_examples(name: str, space: Space) -> Tensor:
    if not _loader:
        importlib.import_module("cutaway.data")
    return _loader[0](name, space)


def given(values: Tensor) -> Fill:
    """Exactly these values, for one input or for each."""

    def function(x: Tensor, space: Space, generator: torch.Generator) -> Tensor:
        rows = values if values.ndim == x.ndim else values[None]
        return _inside(rows.to(x), x, space, "given")

    return Fill("given", function, each=values)


def _inside(values: Tensor, x: Tensor, space: Space, text: str) -> Tensor:
    """The values, if they are finite and, where `x` is an input and no inner activation, inside the input's bounds."""
    sizes = x.shape[1:]
    is_input = len(space.shape) == len(sizes) and all(s in (None, n) for s, n in zip(space.shape, sizes, strict=True))
    low, high = float(values.min()), float(values.max())
    slack = 1e-4 * space.range
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadShape(f"expected finite numbers in the fill {text!r}; got {low:g} to {high:g}.")
    if is_input and space.kind in ("image", "row") and not (space.low - slack <= low and high <= space.high + slack):
        raise BadShape(
            f"expected the fill {text!r} inside the input's bounds {space.low:g} to {space.high:g}; got {low:g} to "
            f"{high:g}. Fills are in the user's units, before the model's normalisation."
        )
    return values


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Images (n, c, h, w) under a normalised Gaussian cut at 3 sigma, reflected at the border."""
    for axis in (2, 3):
        radius = min(int(3 * sigma + 0.5) or 1, x.shape[axis] - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        kernel = kernel / kernel.sum()
        shape = [1, 1, 1, 1]
        shape[axis] = -1
        pad = [0, 0, radius, radius] if axis == 2 else [radius, radius, 0, 0]
        weight = kernel.view(shape).repeat(x.shape[1], 1, 1, 1)
        x = F.conv2d(F.pad(x, pad, mode="reflect"), weight, groups=x.shape[1])
    return x


_FILLS: dict[str, Callable[..., Fill]] = {
    f.__name__: f for f in (zero, neutral, mean, constant, blur, noise, gaussian, farthest, mask, pad, remove)
}
