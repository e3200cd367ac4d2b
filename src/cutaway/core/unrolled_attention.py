"""Attention as the elementary operations that it is made of; see `core.unrolled`."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`F.scaled_dot_product_attention`; a query that may look at nothing gets 0."""
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    weights = _weights(query, key, attn_mask, scale)
    if attn_mask is not None:
        with torch._C.DisableTorchFunction():
            blocked = (~attn_mask if attn_mask.dtype == torch.bool else attn_mask == -torch.inf).all(-1, keepdim=True)
            some = bool(blocked.any())
        if some:
            weights = weights.masked_fill(blocked, 0.0)
    return torch.matmul(F.dropout(weights, dropout_p) if dropout_p else weights, value)


def _weights(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """Attention weights; a mask is True where a query may look, or is added to the scores."""
    scores = torch.matmul(query, key.transpose(-2, -1)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.softmax(scores, -1)


def multi_head(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward`; `is_causal` is but a hint there, since the mask must come with it."""
    alone = query.ndim == 2
    if alone:
        query, key, value = (t.unsqueeze(1) for t in (query, key, value))
    rows = query.shape[1]
    matrices: Sequence[Any] = (q_proj_weight, k_proj_weight, v_proj_weight)
    if in_proj_weight is not None and not use_separate_proj_weight:
        matrices = in_proj_weight.chunk(3)
    biases: Sequence[Any] = [None] * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (F.linear(t, w, b) for t, w, b in zip((query, key, value), matrices, biases, strict=True))
    if bias_k is not None and bias_v is not None:
        k, v = (torch.cat([t, extra.expand(-1, rows, -1)]) for t, extra in ((k, bias_k), (v, bias_v)))
    # (length, rows, features) -> (rows, heads, length, features of a head)
    q, k, v = (torch.unflatten(t, -1, (num_heads, -1)).permute(1, 2, 0, 3) for t in (q, k, v))
    k, v = (t if s is None else torch.unflatten(s, 0, (rows, num_heads)) for t, s in ((k, static_k), (v, static_v)))
    if add_zero_attn:
        k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
    mask = _mask(attn_mask, key_padding_mask, rows, num_heads, k.shape[-2], q.dtype)
    drop = dropout_p if training else 0.0
    weights = None
    if need_weights:
        weights = _weights(q, k, mask)
        weights = F.dropout(weights, drop) if drop else weights
        mixed = torch.matmul(weights, v)
    else:
        mixed = attention(q, k, v, mask, drop)
    out = F.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias)
    if weights is not None and average_attn_weights:
        weights = weights.mean(1)
    if alone:
        out, weights = out.squeeze(1), None if weights is None else weights.squeeze(0)
    return out, weights


def _mask(
    attn_mask: Tensor | None, padding: Tensor | None, rows: int, heads: int, keys: int, dtype: torch.dtype
) -> Tensor | None:
    """Both masks as one to be added to the scores; keys that were appended may always be looked at."""
    total: Tensor | None = None
    with torch._C.DisableTorchFunction():
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = torch.unflatten(attn_mask, 0, (-1, heads))
        if padding is not None:
            padding = padding.view(rows, 1, 1, -1) if padding.ndim == 2 else padding.view(1, 1, 1, -1)
        for mask in (attn_mask, padding):
            if mask is None:
                continue
            if mask.dtype == torch.bool:
                mask = torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
            mask = F.pad(mask, (0, keys - mask.shape[-1]))
            total = mask if total is None else total + mask
    return total
