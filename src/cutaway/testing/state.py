"""Everything of a network, its input and torch that a call could change, as one comparable value."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def state_of(module: nn.Module, x: Any = None) -> dict[str, Any]:
    """A snapshot: weights, gradients, buffers, modes, hooks in order, attributes, input, random states, switches."""
    found: dict[str, Any] = {}
    for path, m in module.named_modules():
        at = f"{path or '(top)'}: "
        found[at + "training"] = m.training
        for name in _HOOKS:
            found[at + name] = [(key, id(hook)) for key, hook in getattr(m, name, {}).items()]
        for name, value in m.__dict__.items():
            if name not in _HOOKS:
                found[at + name] = _value(value)
        for name, p in m._parameters.items():
            found[at + name] = None if p is None else (id(p), p.requires_grad, id(p.grad), _value(p.grad), _value(p))
        for name, b in m._buffers.items():
            found[at + name] = None if b is None else (id(b), _value(b))
    for name, tensor in x.items() if isinstance(x, Mapping) else [("x", x)] if isinstance(x, Tensor) else []:
        found[f"input {name}"] = (tensor.requires_grad, tensor.stride(), _value(tensor.grad), _value(tensor))
    return found | _surroundings()


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what changed."""
    return sorted(k for k in before.keys() | after.keys() if before.get(k, "absent") != after.get(k, "absent"))


def _value(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (
            tuple(value.shape),
            str(value.dtype),
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes(),
        )
    if isinstance(value, list | tuple):
        return [_value(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _value(v) for k, v in value.items()}
    return value if isinstance(value, bool | int | float | str | None) else id(value)


def _surroundings() -> dict[str, Any]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 the caller's legacy state must survive
    assert isinstance(numpy_state, dict)
    return {
        "torch random state": _value(torch.get_rng_state()),
        "numpy random state": numpy_state["state"]["key"].tobytes() + bytes([numpy_state["state"]["pos"] % 256]),
        "python random state": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "default dtype": str(torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "fused encoder": torch.backends.mha.get_fastpath_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "function modes": torch._C._len_torch_function_stack(),
    }
