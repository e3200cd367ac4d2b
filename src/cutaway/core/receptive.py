"""Where in the input a position of a layer looks: the step, the first centre and the size of receptive fields.

The geometry travels through the operations of one forward, whatever modules they are in: a convolution with kernel k,
stride s, padding p and dilation d turns (step j, first centre c, size r) into

    (j s,   c + ((k - 1) d / 2 - p) j,   r + (k - 1) d j)

so that position i of a layer is centred at pixel c + i j of the input, counted from 0, and sees r pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from cutaway.core.batch import Batch, take
from cutaway.core.errors import NotPossible
from cutaway.core.model import Model
from cutaway.core.operations import Call, operation_name
from cutaway.core.site import INPUT, Site


@dataclass(frozen=True)
class Axis:
    """Receptive fields along one axis, in pixels of the input.

    Attributes:
        step: From one position's centre to the next one's.
        first: Centre of position 0; pixel centres are whole numbers.
        size: How many pixels a position sees.
    """

    step: float = 1.0
    first: float = 0.0
    size: float = 1.0

    def windowed(self, kernel: int, stride: int, padding: float, dilation: int = 1) -> "Axis":
        """After an operation that slides a window."""
        reach = (kernel - 1) * dilation
        return Axis(self.step * stride, self.first + (reach / 2 - padding) * self.step, self.size + reach * self.step)

    def scaled(self, factor: float, corners: bool) -> "Axis":
        """After an enlargement by `factor` (the number of places over the number before; of gaps, with `corners`)."""
        first = self.first if corners else self.first + (1 / factor - 1) / 2 * self.step
        return Axis(self.step / factor, first, self.size + self.step)


@dataclass(frozen=True)
class Field:
    """Where the positions of a layer look.

    Attributes:
        y, x: Along height and width.
        everywhere: True if something else in it (a gate, attention) also depends on the whole picture.
    """

    y: Axis = Axis()
    x: Axis = Axis()
    everywhere: bool = False

    def box(self, y: int, x: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The pixels that a position sees, cut at the picture's border: top, left, bottom, right (exclusive)."""
        top, bottom = _span(self.y, y, height)
        left, right = _span(self.x, x, width)
        return top, left, bottom, right


def _span(axis: Axis, index: int, length: int) -> tuple[int, int]:
    centre, reach = axis.first + index * axis.step, (axis.size - 1) / 2
    return max(0, round(centre - reach)), min(length, round(centre + reach) + 1)


def receptive_field(model: Model, site: Site | str, x: Batch) -> Field:
    """Where the positions of a place look, from one forward.

    Args:
        model: A network of images.
        site: A place with positions, (n, channels, height, width).
        x: An input of the size that is meant.

    Raises:
        NotPossible: The place has no positions that can be traced back to the picture.
    """
    site = Site.of(site).whole
    found = receptive_fields(model, [site], x)[site]
    if found is None:
        raise NotPossible(
            f"the positions of {site} in {model.name} cannot be traced back to places of the picture: "
            "somewhere before it they are mixed or laid out anew."
        )
    return found


def receptive_fields(model: Model, sites: Sequence[Site], x: Batch) -> dict[Site, Field | None]:
    """The same for many places, from one forward; None where the positions cannot be traced back."""
    row = take(x, slice(0, 1))
    geometry = _Geometry(tuple(row.shape[1:]) if isinstance(row, Tensor) else ())
    found: dict[Site, Field | None] = {INPUT: Field()} if INPUT in sites else {}

    def look_at(site: Site) -> Callable[[Tensor], Tensor]:
        def look(activation: Tensor) -> Tensor:
            found[site] = geometry.of(activation)
            return activation

        return look

    inside = [site.whole for site in sites if site.whole != INPUT]
    if inside:
        with geometry:
            # All are visited; to read one of them is enough.
            model.run(row, read=inside[:1], edit={site: look_at(site) for site in inside})
    return {site: found.get(site) for site in sites}


class _Geometry(TorchFunctionMode):
    """Carries the geometry of each tensor of a forward along."""

    def __init__(self, picture: tuple[int, ...]) -> None:
        super().__init__()
        self._picture = picture
        # The tensors are held, so that no number of theirs is given to another one meanwhile.
        self._known: dict[int, tuple[Tensor, Field]] = {}
        self._made: dict[int, Tensor] = {}  # from the picture, in whatever way

    def of(self, tensor: Tensor) -> Field | None:
        """The geometry of a tensor, also of a view with the same storage and shape."""
        if id(tensor) in self._known:
            return self._known[id(tensor)][1]
        base = tensor._base
        if base is not None and base.shape == tensor.shape and id(base) in self._known:
            return self._known[id(base)][1]
        is_picture = tensor.ndim == len(self._picture) + 1 and tuple(tensor.shape[1:]) == self._picture
        return Field() if is_picture and tensor.is_floating_point() else None

    def _is_made(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on the picture, and is no constant of the network."""
        return id(tensor) in self._made or self.of(tensor) is not None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and find where its result looks."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = operation_name(func)
        if not name or not isinstance(result, Tensor):
            return result
        parts = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and self._is_made(t)]
        if parts:
            self._made[id(result)] = result
        if result.ndim < 3:
            return result
        fields = [(t, field) for t in parts if t.ndim >= 3 and (field := self.of(t)) is not None]
        if fields and (field := _after(Call(name, "", func, args, kwargs), fields, parts, result)) is not None:
            self._known[id(result)] = result, field
        return result


def _after(call: Call, fields: list[tuple[Tensor, Field]], parts: list[Tensor], result: Tensor) -> Field | None:
    """Where a result looks; None if it cannot be told."""
    x, field = fields[0]
    if (window := _WINDOWS.get(call.name)) is not None and result.ndim == 4:
        return window(call, x, field, result)
    if call.name == "pad":
        left, _, top, _ = (*(_argument(call, "pad", 1) or ()), 0, 0, 0, 0)[:4]
        y = replace(field.y, first=field.y.first - top * field.y.step)
        return replace(field, y=y, x=replace(field.x, first=field.x.first - left * field.x.step))
    if result.shape[-2:] != x.shape[-2:] or call.name in _MIXING:
        return None
    same = [f for t, f in fields if t.shape[-2:] == result.shape[-2:]]
    if any(_lattice(f) != _lattice(field) for f in same):
        return None
    y = replace(field.y, size=max(f.y.size for f in same))
    width = replace(field.x, size=max(f.x.size for f in same))
    return Field(y, width, _gated(parts, result) or any(f.everywhere for f in same))


def _lattice(field: Field) -> tuple[float, ...]:
    return field.y.step, field.y.first, field.x.step, field.x.first


def _gated(parts: list[Tensor], result: Tensor) -> bool:
    """Is there a factor with one position per channel, which was made from the whole picture?"""
    if result.shape[-2:] == (1, 1):
        return False
    return any(t.ndim == result.ndim and t.shape[-2:] == (1, 1) for t in parts)


def _argument(call: Call, name: str, place: int) -> Any:
    """An argument by name or place: functions in C do not tell their signature."""
    return call.kwargs[name] if name in call.kwargs else call.args[place] if place < len(call.args) else None


def _pair(value: Any, default: Any = None) -> tuple[Any, Any]:
    value = default if value is None or value == () or value == [] else value
    if isinstance(value, tuple | list):
        return (value[0], value[-1])
    return value, value


def _convolved(call: Call, x: Tensor, field: Field, result: Tensor) -> Field:
    kernel = call.args[1].shape[-2:] if len(call.args) > 1 else call.kwargs["weight"].shape[-2:]
    stride, dilation = _pair(_argument(call, "stride", 3), 1), _pair(_argument(call, "dilation", 5), 1)
    padding = _pair(_argument(call, "padding", 4), 0)
    if padding[0] == "valid":
        padding = (0, 0)
    elif padding[0] == "same":
        # An odd pixel goes to the end.
        padding = ((kernel[0] - 1) * dilation[0] // 2, (kernel[1] - 1) * dilation[1] // 2)
    return _slid(field, kernel, stride, padding, dilation)


def _pooled(call: Call, x: Tensor, field: Field, result: Tensor) -> Field:
    kernel = _pair(_argument(call, "kernel_size", 1))
    stride, padding = _pair(_argument(call, "stride", 2), kernel), _pair(_argument(call, "padding", 3), 0)
    return _slid(
        field, kernel, stride, padding, _pair(_argument(call, "dilation", 4), 1) if "max" in call.name else (1, 1)
    )


def _adapted(call: Call, x: Tensor, field: Field, result: Tensor) -> Field | None:
    """Windows of one size only where the sizes divide."""
    before, after = x.shape[-2:], result.shape[-2:]
    if any(b % a for b, a in zip(before, after, strict=True)):
        return None
    kernel = tuple(b // a for b, a in zip(before, after, strict=True))
    return _slid(field, kernel, kernel, (0, 0), (1, 1))


def _enlarged(call: Call, x: Tensor, field: Field, result: Tensor) -> Field:
    corners = bool(call.argument("align_corners", False))
    before, after = x.shape[-2:], result.shape[-2:]
    factors = [(a - corners) / max(b - corners, 1) for a, b in zip(after, before, strict=True)]
    return replace(field, y=field.y.scaled(factors[0], corners), x=field.x.scaled(factors[1], corners))


def _slid(field: Field, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Field:
    y = field.y.windowed(int(kernel[0]), int(stride[0]), float(padding[0]), int(dilation[0]))
    x = field.x.windowed(int(kernel[1]), int(stride[1]), float(padding[1]), int(dilation[1]))
    return replace(field, y=y, x=x)


_WINDOWS: dict[str, Callable[[Call, Tensor, Field, Tensor], Field | None]] = {
    "conv2d": _convolved,
    "max_pool2d": _pooled,
    "max_pool2d_with_indices": _pooled,
    "avg_pool2d": _pooled,
    "adaptive_avg_pool2d": _adapted,
    "adaptive_max_pool2d": _adapted,
    "interpolate": _enlarged,
    "upsample": _enlarged,
}
# Of the same shape as what goes in, and yet not position by position.
_MIXING = {"matmul", "einsum", "flip", "roll", "sort", "cumsum", "scaled_dot_product_attention", "linear", "transpose"}
