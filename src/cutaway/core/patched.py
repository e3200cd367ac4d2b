"""Many copies of one image that differ from it in a box each, computed only where they differ.

A convolution spreads a change by its kernel and no further, so early activations of an occluded image equal the clean
ones outside a small box. A `Patched` tensor carries the clean activation once, and a box for each copy. Operations that
keep a change local (convolution, pooling, padding, arithmetic entry by entry) work on the boxes; at the first operation
that does not, or once the boxes cover most of the activation, it becomes an ordinary tensor. The results are those of
the full computation up to the order of sums in floating point.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.operations import Call, operation_name

# Above this share of the activation, cutting boxes out and pasting them back costs more than it saves.
_WORTH_IT = 0.6
# Questions about shape and type, which the wrapper answers itself.
_ABOUT = set("__get__ __len__ size dim ndimension stride numel element_size is_floating_point is_complex".split())


class Span(NamedTuple):
    """Where the boxes lie along one axis: the first entry of each, and the common length."""

    starts: list[int]
    length: int


class Patched(Tensor):
    """A batch of images or activations, held as one clean one and a changed box for each copy.

    Attributes:
        clean: The activation without a change, (1, c, h, w).
        patch: What the boxes contain, (m, c, rows, columns).
        rows, columns: Where the boxes lie.
        dense: All copies in full, once an operation asked for them.
    """

    clean: Tensor
    patch: Tensor
    rows: Span
    columns: Span
    dense: Tensor | None

    @staticmethod
    def __new__(cls, clean: Tensor, patch: Tensor, tops: Sequence[int], lefts: Sequence[int]) -> "Patched":
        """Copies of `clean`, each with one of `patch` at its place."""
        shape = (len(patch), *clean.shape[1:])
        self = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=clean.dtype, device=clean.device)
        self.clean, self.patch, self.dense = clean, patch, None
        self.rows, self.columns = Span(list(tops), patch.shape[2]), Span(list(lefts), patch.shape[3])
        return self

    @property
    def is_local(self) -> bool:
        """True while the boxes are what is held, and enough smaller than the whole."""
        whole = self.clean.shape[2] * self.clean.shape[3]
        return self.dense is None and self.rows.length * self.columns.length <= _WORTH_IT * whole

    def full(self) -> Tensor:
        """All copies as an ordinary tensor. From here on it is what this is, so that changes in place are kept."""
        if self.dense is None:
            rows, columns = (Span([0] * len(self.patch), size) for size in self.clean.shape[2:])
            self.dense = self.cut(rows, columns)
        return self.dense

    def cut(self, rows: Span, columns: Span, padding: tuple[int, int] = (0, 0), value: float = 0.0) -> Tensor:
        """Other boxes of the copies, as large as wanted; beyond the border lies `value`, up to `padding` entries."""
        (down, across), ground = padding, self.clean
        if down or across:
            ground = F.pad(ground, (across, across, down, down), value=value)
        found = _like(self.patch, len(self.patch), rows.length, columns.length)
        places = zip(rows.starts, columns.starts, self.rows.starts, self.columns.starts, strict=True)
        for box, patch, (top, left, old_top, old_left) in zip(found, self.patch, places, strict=True):
            y, x = top + down, left + across
            box.copy_(ground[0, :, y : y + rows.length, x : x + columns.length])
            to_y, from_y = _overlap(top, rows.length, old_top, self.rows.length)
            to_x, from_x = _overlap(left, columns.length, old_left, self.columns.length)
            box[:, to_y, to_x] = patch[:, from_y, from_x]
        return found

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the boxes if it keeps changes local, else on the whole."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            if getattr(func, "__name__", "") in _ABOUT:
                return func(*args, **kwargs)
            call = Call(operation_name(func), "", func, args, kwargs)
            found = [leaf for leaf in _tensors((args, kwargs)) if isinstance(leaf, Patched)]
            rule = _RULES.get(call.name)
            result = rule(call, found) if rule is not None and all(p.is_local for p in found) else NotImplemented
            return _swap(call, lambda p: p.full()) if result is NotImplemented else result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]  # declared without cls
        """Refuse what comes past the rules: the wrapper itself holds no values."""
        raise NotImplementedError(f"{func} reached a Patched tensor without its rules.")


def _swap(call: Call, how: Callable[[Patched], Tensor]) -> Any:
    """The operation with ordinary tensors in place of the patched ones."""
    return call.func(*_exchanged(call.args, how), **_exchanged(call.kwargs, how))


def _exchanged(value: Any, how: Callable[[Patched], Tensor]) -> Any:
    # By hand: torch's own walk through nested arguments costs more than a small convolution.
    if isinstance(value, Patched):
        return how(value)
    if isinstance(value, dict):
        return {name: _exchanged(v, how) for name, v in value.items()}
    return type(value)(_exchanged(v, how) for v in value) if type(value) in (tuple, list) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if type(value) in (tuple, list) else ()
    return [leaf for item in items for leaf in _tensors(item)]


def _clean(p: Patched) -> Tensor:
    return p.clean


def _overlap(start: int, length: int, other: int, other_length: int) -> tuple[slice, slice]:
    """The common part of two intervals, as a slice of each."""
    low, high = max(start, other), max(start, other, min(start + length, other + other_length))
    return slice(low - start, high - start), slice(low - other, high - other)


def _like(patch: Tensor, count: int, height: int, width: int) -> Tensor:
    last = patch.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (count, patch.shape[1], height, width)
    return torch.empty(shape, dtype=patch.dtype, device=patch.device, memory_format=layout)


# -- rules: an operation on boxes, or NotImplemented -------------------------------------------------------------------


def _entrywise(call: Call, found: list[Patched]) -> Any:
    """An operation that treats all positions alike: on the clean activation and on the boxes."""
    others = [v for v in _tensors((call.args, call.kwargs)) if not isinstance(v, Patched)]
    if any(v.numel() > 1 and (v.shape[-2:] != (1, 1) or (v.ndim == 4 and len(v) > 1)) for v in others):
        return NotImplemented
    return _at_each_position(call, found)


def _at_each_position(call: Call, found: list[Patched]) -> Any:
    first = found[0]
    if any(p.clean.shape[2:] != first.clean.shape[2:] or len(p.patch) != len(first.patch) for p in found):
        return NotImplemented
    rows = _union([p.rows for p in found], first.clean.shape[2])
    columns = _union([p.columns for p in found], first.clean.shape[3])
    if call.in_place and (rows, columns) != (first.rows, first.columns):
        return NotImplemented
    same = {id(p): p.patch if (p.rows, p.columns) == (rows, columns) else p.cut(rows, columns) for p in found}
    clean, patch = _swap(call, _clean), _swap(call, lambda p: same[id(p)])
    return first if call.in_place else Patched(clean, patch, rows.starts, columns.starts)


def _union(spans: list[Span], size: int) -> Span:
    lows = [min(starts) for starts in zip(*(s.starts for s in spans), strict=True)]
    ends = [max(ends) for ends in zip(*([start + s.length for start in s.starts] for s in spans), strict=True)]
    length = max(end - low for low, end in zip(lows, ends, strict=True))
    return Span([min(low, size - length) for low in lows], length)


def _some(call: Call, found: list[Patched]) -> Any:
    """Some of the copies."""
    p, which = call.args
    if not isinstance(which, slice):
        return NotImplemented
    return Patched(p.clean.clone(), p.patch[which].clone(), p.rows.starts[which], p.columns.starts[which])


def _lay_out(call: Call, found: list[Patched]) -> Any:
    """Another memory format of the same values."""
    return _at_each_position(call, found) if "memory_format" in call.kwargs else NotImplemented


def _normalise(call: Call, found: list[Patched]) -> Any:
    """Batch normalisation with its running statistics."""
    steady = call.argument("training", None) is False and isinstance(call.argument("running_mean"), Tensor)
    return _at_each_position(call, found) if steady and len(found) == 1 else NotImplemented


def _drop(call: Call, found: list[Patched]) -> Any:
    """Dropout that drops nothing."""
    return _at_each_position(call, found) if call.argument("training", None) is False else NotImplemented


def _join(call: Call, found: list[Patched]) -> Any:
    """Concatenation along the channels."""
    parts = call.args[0]
    along = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim", 0)
    return _at_each_position(call, found) if along == 1 and len(parts) == len(found) else NotImplemented


def _pad(call: Call, found: list[Patched]) -> Any:
    """Padding with a constant: the boxes move."""
    widths, mode = call.argument("pad"), call.argument("mode", "constant")
    (p,) = found
    if mode != "constant" or len(widths) != 4 or min(widths) < 0:
        return NotImplemented
    left, _, top, _ = widths
    tops, lefts = [start + top for start in p.rows.starts], [start + left for start in p.columns.starts]
    return Patched(_swap(call, _clean), p.patch.clone(), tops, lefts)


class _Sliding(NamedTuple):
    """How a kernel slides: kernel, stride, padding and dilation, each (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def seen(self, span: Span, axis: int, size: int) -> tuple[Span, Span]:
        """Which outputs see a box, and which inputs those outputs need."""
        stride, padding = self.stride[axis], self.padding[axis]
        reach = self.dilation[axis] * (self.kernel[axis] - 1)
        lows = [max(0, -((reach - start - padding) // stride)) for start in span.starts]
        highs = [min(size - 1, (start + span.length - 1 + padding) // stride) for start in span.starts]
        length = max(1, *(high - low + 1 for low, high in zip(lows, highs, strict=True)))
        starts = [min(low, size - length) for low in lows]
        needed = [start * stride - padding for start in starts]
        return Span(starts, length), Span(needed, (length - 1) * stride + reach + 1)


def _slide(call: Call, p: Patched, how: _Sliding, on_box: Callable[[Tensor], Tensor], beyond: float) -> Patched:
    """A sliding operation on the clean activation, and on the part of each copy that the boxes reach."""
    clean = _swap(call, _clean)
    rows, rows_needed = how.seen(p.rows, 0, clean.shape[2])
    columns, columns_needed = how.seen(p.columns, 1, clean.shape[3])
    whole = (rows_needed, columns_needed) == (p.rows, p.columns)
    box = p.patch if whole else p.cut(rows_needed, columns_needed, how.padding, beyond)
    return Patched(clean, on_box(box), rows.starts, columns.starts)


def _convolve(call: Call, found: list[Patched]) -> Any:
    given = _given(call, "input weight bias stride padding dilation groups")
    p, weight, bias, groups = given["input"], given["weight"], given.get("bias"), given.get("groups", 1)
    padding = given.get("padding", 0)
    if len(found) > 1 or p is not found[0] or isinstance(padding, str):
        return NotImplemented
    stride, dilation = _pair(given.get("stride", 1)), _pair(given.get("dilation", 1))
    how = _Sliding(_pair(weight.shape[2:]), stride, _pair(padding), dilation)
    return _slide(call, p, how, lambda box: F.conv2d(box, weight, bias, stride, 0, dilation, groups), 0.0)


def _pool_max(call: Call, found: list[Patched]) -> Any:
    given = _given(call, "input kernel_size stride padding dilation ceil_mode return_indices")
    if given.get("ceil_mode") or given.get("return_indices"):
        return NotImplemented
    kernel, stride = _pair(given["kernel_size"]), _pair(given.get("stride") or given["kernel_size"])
    how = _Sliding(kernel, stride, _pair(given.get("padding", 0)), _pair(given.get("dilation", 1)))
    return _slide(call, found[0], how, lambda box: F.max_pool2d(box, kernel, stride, 0, how.dilation), -torch.inf)


def _pool_mean(call: Call, found: list[Patched]) -> Any:
    given = _given(call, "input kernel_size stride padding ceil_mode count_include_pad divisor_override")
    padding, counted = _pair(given.get("padding", 0)), given.get("count_include_pad", True)
    if given.get("ceil_mode") or given.get("divisor_override") or (any(padding) and not counted):
        return NotImplemented
    kernel, stride = _pair(given["kernel_size"]), _pair(given.get("stride") or given["kernel_size"])
    how = _Sliding(kernel, stride, padding, (1, 1))
    return _slide(call, found[0], how, lambda box: F.avg_pool2d(box, kernel, stride), 0.0)


def _given(call: Call, names: str) -> dict[str, Any]:
    """The arguments of a built-in function, whose signature Python cannot ask for."""
    return dict(zip(names.split(), call.args, strict=False)) | dict(call.kwargs)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    numbers = tuple(value)
    return (numbers[0], numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])


_ENTRYWISE = (
    "relu relu6 hardtanh leaky_relu elu celu selu silu gelu mish sigmoid tanh softplus softsign hardswish hardsigmoid "
    "clamp add sub mul div neg exp log sqrt abs pow clone detach threshold"
)
_RULES: dict[str, Callable[[Call, list[Patched]], Any]] = {
    **dict.fromkeys(_ENTRYWISE.split(), _entrywise),
    "batch_norm": _normalise,
    "dropout": _drop,
    "cat": _join,
    "pad": _pad,
    "getitem": _some,
    "contiguous": _lay_out,
    "conv2d": _convolve,
    "max_pool2d": _pool_max,
    "avg_pool2d": _pool_mean,
}
