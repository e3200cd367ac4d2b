"""The one gate for inputs: what a model gets is checked and converted here, once."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutaway.core.batch import Batch
from cutaway.core.dataset import Examples
from cutaway.core.errors import BadShape
from cutaway.core.space import Space
from cutaway.core.text import Encoded, encoded


def admitted(x: Any, space: Space, *, dtype: torch.dtype, device: torch.device, tokenizer: Any = None) -> Batch:
    """A batch that the model can run, from whatever the user has.

    Tensors, NumPy arrays, `Examples`, texts (with a tokenizer) and dictionaries of tensors are taken. The caller's
    memory is never written to.

    Raises:
        BadShape: Wrong layout, type, range or content, with what to do about it.
    """
    if isinstance(x, Examples):
        x = x.x
    if isinstance(x, str) or (isinstance(x, list | tuple) and x and all(isinstance(t, str) for t in x)):
        x = _tokenized([x] if isinstance(x, str) else list(x), space, tokenizer)
    if hasattr(x, "items"):
        batch = _dictionary(x, space, dtype, device)
        return Encoded(batch, x.pieces) if isinstance(x, Encoded) else batch
    tensor = _tensor(x, space)
    if space.kind == "tokens":
        return _with_words(_token_ids(tensor, space), tokenizer).to(device)
    _check_type(tensor, space)
    _check_layout(tensor, space)
    tensor = _placed(tensor, dtype, device)
    _check_values(tensor, space)
    return tensor


def is_finite(x: Tensor) -> bool:
    """True if there is neither inf nor nan: the least and the largest entry tell, ten times faster than all of them."""
    if x.is_complex() or not x.numel():
        return bool(torch.isfinite(x).all())
    return all(math.isfinite(end) for end in torch.aminmax(x.detach()))


def _tokenized(texts: list[str], space: Space, tokenizer: Any) -> Encoded:
    if space.kind != "tokens":
        raise BadShape(f"expected {space.describe()}; got text. `cutaway.data` reads a photo or data set by its name.")
    if tokenizer is None:
        raise BadShape("expected tensors; got text, and this model has no tokenizer. Pass tokenizer=... to Model.")
    return encoded(texts, tokenizer)


def _dictionary(x: Any, space: Space, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """Named tensors of one batch; the first is the input that is explained."""
    batch = {k: _placed(_tensor(v, space), dtype, device) for k, v in x.items()}
    if not batch or len({len(v) if v.ndim else -1 for v in batch.values()}) > 1:
        shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in batch.items())
        raise BadShape(f"expected named tensors with one batch axis; got {shapes or 'none'}.")
    first = next(iter(batch.values()))
    if space.kind != "tokens":
        _check_type(first, space)
        _check_layout(first, space)
        _check_values(first, space)
        return batch
    if not first.is_floating_point():
        _token_ids(first, space)
    mask = batch.get("attention_mask")
    if mask is not None and mask.ndim == 2 and len(mask) and not bool(mask.any(1).all()):
        row = int((~mask.bool().any(1)).nonzero()[0])
        raise BadShape(f"expected text in every input; number {row} is empty or all padding.")
    return batch


def _tensor(x: Any, space: Space) -> Tensor:
    if isinstance(x, np.ndarray):
        if x.dtype == object:
            raise BadShape(
                f"expected {space.describe()}; got an array of Python objects. Stack equal shapes: np.stack(list)."
            )
        # A copy: torch takes neither negative strides nor read-only memory, and must not share the caller's.
        try:
            x = torch.from_numpy(np.array(x, order="C", copy=True, dtype=x.dtype.newbyteorder("=")))
        except TypeError:
            raise BadShape(f"expected {space.describe()} as numbers; got an array of {x.dtype}.") from None
    if not isinstance(x, Tensor):
        raise BadShape(f"expected {space.describe()} as a tensor or array; got {type(x).__name__}.")
    if x.is_sparse or x.is_quantized:
        raise BadShape(f"expected a dense tensor; got {x.layout}. Call .to_dense() first.")
    return x.detach().clone() if x.is_inference() else x.detach()


def _placed(x: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    x = x.to(device=device, dtype=dtype) if x.is_floating_point() else x.to(device)
    return x.contiguous()


def _token_ids(x: Tensor, space: Space) -> Tensor:
    if x.is_floating_point() or x.ndim != 2:
        raise BadShape(f"expected {space.describe()} as integers; got {x.dtype} of shape {tuple(x.shape)}.")
    if len(x) and not x.shape[1]:
        raise BadShape("expected text in every input; got none: there is not one token.")
    if x.numel() and int(x.min()) < 0:
        raise BadShape(f"expected token ids from 0 up; got {int(x.min())}.")
    return x


def _with_words(x: Tensor, tokenizer: Any) -> Tensor:
    """Token ids without a mask, none of them padding throughout."""
    pad = getattr(tokenizer, "pad_token_id", None)
    empty = (x == pad).all(1) if pad is not None and x.ndim == 2 else torch.zeros(len(x), dtype=torch.bool)
    if empty.any():
        raise BadShape(f"expected text in every input; number {int(empty.nonzero()[0])} is all padding.")
    return x


def _check_type(x: Tensor, space: Space) -> None:
    if not x.is_floating_point():
        hint = " Divide by 255: x.float() / 255." if x.dtype == torch.uint8 else " Convert it: x.float()."
        raise BadShape(f"expected {space.describe()} as floats; got {x.dtype}.{hint}")


def _check_layout(x: Tensor, space: Space) -> None:
    shape, wanted = tuple(x.shape), space.shape
    if _fits(shape[1:], wanted):
        return
    expected = f"expected {space.describe()}; got {shape}."
    if _fits(shape, wanted):
        raise BadShape(f"{expected} Add a batch axis: x[None].")
    if space.kind == "image" and len(shape) == 4 and _fits((shape[3], shape[1], shape[2]), wanted):
        raise BadShape(f"{expected} Channels come second: x.permute(0, 3, 1, 2).")
    if space.kind == "image" and len(shape) == 3 and _fits((shape[2], shape[0], shape[1]), wanted):
        raise BadShape(f"{expected} Channels come first, after a batch axis: x.permute(2, 0, 1)[None].")
    if space.kind == "image" and len(shape) == 4 and shape[1] != wanted[0]:
        raise BadShape(f"{expected} The model takes {wanted[0]} channels, not {shape[1]}.")
    raise BadShape(expected)


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (None, s) for s, w in zip(shape, wanted, strict=True))


def _check_values(x: Tensor, space: Space) -> None:
    if not is_finite(x):
        bad = ~torch.isfinite(x)
        where = bad.nonzero()[0].tolist()
        raise BadShape(f"expected finite numbers; got {x[tuple(where)].item()} at {where} ({int(bad.sum())} in all).")
    if space.kind == "latent" or not x.numel():
        return
    slack = 1e-4 * space.range
    low, high = (float(end) for end in torch.aminmax(x))
    if low < space.low - slack or high > space.high + slack:
        raise BadShape(
            f"expected {space.describe()}; got values from {low:g} to {high:g}. "
            "Inputs are in the user's units: scale them, and leave the normalisation to the model."
        )
