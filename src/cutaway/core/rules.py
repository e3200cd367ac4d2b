"""What kind of operation each name stands for, and what every rule set needs: signals, refusals, own backward passes.

A rule set answers each operation between the place of attribution and the target. Nearly all of them fall into a few
kinds, and most kinds need one rule, or none since their own gradient is already right.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cutaway.core.errors import NotPossible
from cutaway.core.operations import Call, Rule
from cutaway.core.unrolled import UNROLLED

Kind = Literal[
    "structural",  # moves, copies or drops entries: cat, view, pad, dropout in eval mode
    "linear",  # weights and perhaps a bias: linear, conv2d
    "sum",  # linear without weights of its own: add, mean, avg_pool2d, interpolate
    "winner",  # picks entries by their size: max_pool2d, maximum
    "product",  # multiplies or divides tensors: mul, matmul, div
    "activation",  # a function of each entry by itself: relu, tanh, exp, pow
    "normalisation",  # batch_norm, layer_norm
    "softmax",  # weights that sum to 1
    "composite",  # many operations in one call: lstm, scaled_dot_product_attention
    "silent",  # gives no differentiable tensor, or asks about one: argmax, eq
    "unknown",
]

_NAMES: dict[Kind, str] = {
    "structural": """
        adjoint alpha_dropout as_strided atleast_1d atleast_2d atleast_3d broadcast_tensors broadcast_to cat
        channel_shuffle chunk clone column_stack concat concatenate constant_pad_nd contiguous cpu cuda diag diagonal
        double dropout dropout1d dropout2d dropout3d dsplit dstack expand expand_as feature_alpha_dropout
        feature_dropout flatten flip fliplr flipud float gather getitem half hsplit hstack index_add index_copy
        index_fill index_put index_select mT masked_fill masked_scatter masked_select moveaxis movedim narrow
        native_channel_shuffle pack_padded_sequence pad pad_packed_sequence permute pixel_shuffle pixel_unshuffle
        ravel repeat repeat_interleave requires_grad reshape reshape_as resolve_conj resolve_neg roll rot90 row_stack
        scatter select setitem slice_scatter select_scatter split split_with_sizes squeeze stack swapaxes swapdims t
        take take_along_dim tensor_split tile to transpose tril triu type type_as unbind unfold unflatten
        unsafe_chunk unsafe_split unsqueeze view view_as vsplit vstack where""",
    "linear": "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear addmm addmv baddbmm",
    "sum": """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d add avg_pool1d avg_pool2d avg_pool3d cumsum diff
        fold interpolate mean nansum neg negative nanmean positive rsub sub sum trace upsample upsample_bilinear
        upsample_nearest grid_sample col2im im2col index_reduce scatter_add segment_reduce""",
    "winner": """
        adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d amax amin fmax fmin fractional_max_pool2d kthvalue
        max max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
        max_unpool1d max_unpool2d max_unpool3d maximum median min minimum msort sort topk quantile
        adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices""",
    "product": """
        addbmm addcdiv addcmul addr bilinear chain_matmul div divide dot einsum floor_divide inner kron lerp matmul
        mul mv outer ger prod rdiv rmatmul rtruediv tensordot true_divide vdot""",
    "activation": """
        abs absolute acos acosh arccos arcsin arcsinh arctan arctanh asin asinh atan atanh celu clamp clamp_max cos
        cosh elu erf erfc erfinv exp exp2 expm1 gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu log log10
        log1p log2 logit logsigmoid mish nan_to_num pow prelu reciprocal relu relu6 rpow rrelu rsqrt selu sigmoid
        silu sin sinc sinh softplus softshrink softsign sqrt square tan tanh tanhshrink threshold""",
    "normalisation": """
        batch_norm group_norm instance_norm layer_norm local_response_norm native_layer_norm normalize rms_norm""",
    "softmax": "softmax softmin log_softmax gumbel_softmax",
    "silent": """
        all allclose any argmax argmin argsort backward bernoulli bool ceil copysign count_nonzero detach empty_like
        eq equal floor fmod full_like ge greater gt hash heaviside int is_inference is_nonzero is_same_size isclose
        isfinite isinf isnan item le len less logical_and logical_not logical_or lt multinomial ne new_empty new_full
        new_ones new_tensor new_zeros nonzero normal numpy one_hot ones_like rand_like randn_like register_hook
        retain_grad round sign signbit tolist trunc unique zeros_like bitwise_and bitwise_or bitwise_not invert
        and or xor remainder embedding embedding_bag randint_like index repr format""",
}
_KINDS: dict[str, Kind] = {name: kind for kind, names in _NAMES.items() for name in names.split()}
_KINDS |= dict.fromkeys(UNROLLED, "composite")


def kind_of(name: str) -> Kind:
    """What kind of operation a canonical name stands for."""
    return _KINDS.get(name, "unknown")


def signals(call: Call) -> list[Tensor]:
    """The arguments of a call that depend on the place of attribution, in order, each once for each time it is given.

    Parameters are frozen while a model is borrowed, so these are the tensors that ask for a gradient.
    """
    return [t for t in tree_leaves((call.args, dict(call.kwargs))) if isinstance(t, Tensor) and t.requires_grad]


class ForEveryOperation(Mapping[str, Rule]):
    """A rule set that answers each operation, also those whose name nobody thought of, through one function."""

    def __init__(self, rule: Rule) -> None:
        """The function; NotImplemented from it leaves an operation to its own gradient, or to its parts."""
        self._rule = rule

    def __getitem__(self, name: str) -> Rule:
        """The function."""
        return self._rule

    def __iter__(self) -> Iterator[str]:
        """The names that are known."""
        return iter(_KINDS)

    def __len__(self) -> int:
        """How many names are known."""
        return len(_KINDS)


def where(call: Call) -> str:
    """An operation and its place in words: `cumsum in encoder.pool`."""
    return f"{call.name} in {call.site or 'the top of the network'}"


def refused_when_reached(call: Call, result: Any, why: str) -> Any:
    """The result of an operation that has no rule: an error, but only if a signal comes back through it.

    Args:
        why: What follows "has no rule for cumsum in pool": the method's name stands before it, what to do after it.
    """

    def refuse(signal: Tensor) -> None:
        raise NotPossible(why)

    for tensor in tree_leaves(result):
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            tensor.register_hook(refuse)  # type: ignore[no-untyped-call]  # torch has no annotation here
    return result


def with_backward(
    run: Callable[[], Tensor], back: Callable[[Tensor], Sequence[Tensor | None]], *inputs: Tensor
) -> Tensor:
    """The result of `run`, whose backward pass is `back`.

    Args:
        run: Computes the output from the inputs; no graph is recorded.
        back: From the signal at the output to those at the inputs, in order; None where nothing flows.
        inputs: Where signals go.
    """
    result: Tensor = _WithBackward.apply(run, back, *inputs)  # type: ignore[no-untyped-call]  # as above
    return result


class _WithBackward(torch.autograd.Function):
    """Any computation with any backward pass."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[[], Tensor], back: Callable[[Tensor], Sequence[Tensor | None]], *inputs: Tensor
    ) -> Tensor:
        ctx.back = back
        return run()

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Any, ...]:
        return None, None, *ctx.back(signal)
