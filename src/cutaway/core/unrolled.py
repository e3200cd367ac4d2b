"""Calls that hide many operations, written as the elementary operations that they are made of.

To torch a recurrent network is one call, and so is an attention layer; a rule on operations would meet a black box.
Each function here takes the arguments of the torch function of its name and gives the same answer with the same
weights. Where a gate scales a signal, the gate is the first factor.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cutaway.core.unrolled_attention import attention, multi_head

States = tuple[Tensor, ...]
# From the input's share of the next state, the state, and the weights that act on it, to the next state.
Step = Callable[..., States]


def _lstm_step(x: Tensor, state: States, weight: Tensor, bias: Tensor | None, project: Tensor | None = None) -> States:
    hidden, cell = state
    enter, forget, new, leave = (x + F.linear(hidden, weight, bias)).chunk(4, -1)
    cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
    hidden = torch.sigmoid(leave) * torch.tanh(cell)
    return (hidden if project is None else F.linear(hidden, project)), cell


def _gru_step(x: Tensor, state: States, weight: Tensor, bias: Tensor | None) -> States:
    (hidden,) = state
    x_reset, x_keep, x_new = x.chunk(3, -1)
    h_reset, h_keep, h_new = F.linear(hidden, weight, bias).chunk(3, -1)
    keep = torch.sigmoid(x_keep + h_keep)
    new = torch.tanh(x_new + torch.sigmoid(x_reset + h_reset) * h_new)
    return ((1 - keep) * new + keep * hidden,)


def _plain_step(function: Callable[[Tensor], Tensor]) -> Step:
    def step(x: Tensor, state: States, weight: Tensor, bias: Tensor | None) -> States:
        return (function(x + F.linear(state[0], weight, bias)),)

    return step


_STEPS: dict[str, Step] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": _plain_step(torch.tanh),
    "rnn_relu": _plain_step(torch.relu),
}


def _cell(step: Step) -> Callable[..., Any]:
    """One step of a recurrent network."""

    def cell(
        input: Tensor,
        hx: Any,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Any:
        state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        after = step(F.linear(input, w_ih, b_ih), state, w_hh, b_hh)
        return after[0] if isinstance(hx, Tensor) else after

    return cell


def recurrent(step: Step) -> Callable[..., Any]:
    """A recurrent network over whole sequences, padded or packed."""

    def padded(
        input: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        x = input.transpose(0, 1) if batch_first else input
        steps, rows = x.shape[:2]
        first = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        stack = (params, has_biases, num_layers, dropout if train else 0.0, bidirectional)
        out, *last = _stacked(step, x.flatten(0, 1), [rows] * steps, first, *stack)
        out = torch.unflatten(out, 0, (steps, rows))
        return out.transpose(0, 1) if batch_first else out, *last

    def packed(
        data: Tensor,
        batch_sizes: Tensor,
        hx: Any,
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
    ) -> tuple[Tensor, ...]:
        with torch._C.DisableTorchFunction():  # no rule need be asked about reading numbers
            sizes = batch_sizes.tolist()
        first = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        stack = (params, has_biases, num_layers, dropout if train else 0.0, bidirectional)
        return _stacked(step, data, sizes, first, *stack)

    def either(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        is_packed = "batch_sizes" in kwargs or (len(args) > 3 and not isinstance(args[3], bool))
        return packed(*args, **kwargs) if is_packed else padded(*args, **kwargs)

    return either


def _stacked(
    step: Step,
    x: Tensor,
    sizes: list[int],
    first: States,
    params: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    both: bool,
) -> tuple[Tensor, ...]:
    """All layers over all steps; the rows of one step lie together, and `sizes` counts them.

    Returns:
        The last layer's output, laid out as `x`, and the final states, (layers * directions, rows, ...) each.
    """
    directions = 2 if both else 1
    each = len(params) // (layers * directions)
    ends: list[States] = []
    for layer in range(layers):
        if layer and dropout:
            x = F.dropout(x, dropout)
        outputs = []
        for back in range(directions):
            k = len(ends)
            out, end = _one_way(
                step, x, sizes, tuple(s[k] for s in first), params[k * each : (k + 1) * each], has_biases, bool(back)
            )
            outputs.append(out)
            ends.append(end)
        x = torch.cat(outputs, -1) if both else outputs[0]
    return x, *(torch.stack(parts) for parts in zip(*ends, strict=True))


def _one_way(
    step: Step, x: Tensor, sizes: list[int], first: States, params: Sequence[Tensor], has_biases: bool, back: bool
) -> tuple[Tensor, States]:
    """One layer in one direction: the output of every step, and each row's last state."""
    into, weight, *rest = params
    biases, more = (rest[:2], rest[2:]) if has_biases else ([None, None], rest)
    shares = torch.split(F.linear(x, into, biases[0]), sizes)
    times = range(len(sizes))[::-1] if back else range(len(sizes))
    state = tuple(s[: sizes[times[0]]] for s in first) if back else first
    outputs: list[Tensor] = [x] * len(sizes)
    ended: list[States] = []
    for t in times:
        running = state[0].shape[0]
        if running > sizes[t]:  # forwards, the shortest sequences end
            ended.insert(0, tuple(s[sizes[t] :] for s in state))
            state = tuple(s[: sizes[t]] for s in state)
        elif running < sizes[t]:  # backwards, they begin late
            state = tuple(torch.cat([s, f[running : sizes[t]]]) for s, f in zip(state, first, strict=True))
        state = step(shares[t], state, weight, biases[1], *more)
        outputs[t] = state[0]
    if ended:
        state = tuple(torch.cat(parts) for parts in zip(state, *ended, strict=True))
    return torch.cat(outputs), state


def _gated_half(input: Tensor, dim: int = -1) -> Tensor:
    signal, gate = input.chunk(2, dim)
    return torch.sigmoid(gate) * signal


UNROLLED: dict[str, Callable[..., Any]] = {
    **{name: recurrent(step) for name, step in _STEPS.items()},
    **{f"{name}_cell": _cell(step) for name, step in _STEPS.items()},
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head,
    "glu": _gated_half,
}
"""From the name of a torch function to one with the same arguments that calls elementary operations."""
