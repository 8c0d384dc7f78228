"""A layer of attention under a prior, in the manner of `torch.nn.MultiheadAttention`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import _ops
from ._native import PADDING
from ._operation import attend
from .priors import GeneralizedGaussian, PositionalPrior


class ScalableSoftmax(nn.Module):
    """`τ_{h,i} = s_h·ln n_i`, `n_i` the keys that row `i` sees (arXiv 2501.19399); `scale [heads]`, from 1 on.

    A temperature for `attend`, with which long rows stay as sharp as short ones.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(heads))

    def forward(
        self,
        queries: int,
        keys: int | None = None,
        *,
        causal: bool = True,
        query_offset: int = 0,
        window: int | None = None,
        documents=None,
    ) -> Tensor:
        """`[batch or 1, heads, queries]`, for a call with the same arguments."""
        keys = query_offset + queries if keys is None else keys
        counts = _ops.visible_counts(
            queries, keys, causal=causal, query_offset=query_offset, window=window, documents=documents
        )
        return self.scale.float()[None, :, None] * counts.clamp(min=1).log()[:, None, :]


class BayesianAttention(nn.Module):
    """Multi-head attention under a learned positional prior.

    Arguments:
        embed_dim: width, a multiple of the heads
        num_heads: query heads
        prior: a `PositionalPrior` of as many heads; `GeneralizedGaussian` if not given
        num_kv_heads: key and value heads, a divisor of the heads; as many if not given
        causal: rows see nothing after them
        window: hides keys at this distance and beyond
        scalable_softmax: `"likelihood_and_prior"` or `"likelihood"`, what `s·ln n` multiplies; none if not given
        bias: biases of the projections
        kdim, vdim: widths of keys and values, `embed_dim` if not given
        skipping: as of `attend`
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        prior: PositionalPrior | None = None,
        *,
        num_kv_heads: int | None = None,
        causal: bool = True,
        window: int | None = None,
        scalable_softmax: str | None = None,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        skipping: str | float = "exact",
    ):
        super().__init__()
        key_heads = num_heads if num_kv_heads is None else num_kv_heads
        for what, whole, part in (
            ("embed_dim", embed_dim, num_heads),
            ("num_heads", num_heads, key_heads),
        ):
            if part < 1 or whole % part:
                raise ValueError(f"{what}: expected a multiple of {part}, got {whole}")
        self.prior = GeneralizedGaussian(num_heads) if prior is None else prior
        if self.prior.heads != num_heads:
            raise ValueError(f"prior: expected {num_heads} heads, got {self.prior.heads}")
        if scalable_softmax not in (None, "likelihood", "likelihood_and_prior"):
            raise ValueError(
                f"scalable_softmax: expected 'likelihood_and_prior', 'likelihood' or None, got {scalable_softmax!r}"
            )
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, key_heads, embed_dim // num_heads
        self.causal, self.window, self.skipping = causal, window, skipping
        self.temperature_scope = scalable_softmax
        self.scalable_softmax = None if scalable_softmax is None else ScalableSoftmax(num_heads)
        of_keys = key_heads * self.head_dim
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim if kdim is None else kdim, of_keys, bias=bias)
        self.v_proj = nn.Linear(embed_dim if vdim is None else vdim, of_keys, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        *,
        documents=None,
        query_offset: int = 0,
    ) -> tuple[Tensor, None]:
        """The output and, in the place of weights, which never exist, `None`.

        Shapes:
            query: `[batch, queries, embed_dim]`
            key: `[batch, keys, kdim]`; the queries if not given, and `value [batch, keys, vdim]` the keys
            key_padding_mask: `[batch, keys]`, True where there is no token; where keys are the queries, rows of none
                give what a row of zeros gives
            documents: as of `attend`, instead of a mask
            result: `[batch, queries, embed_dim]`
        """
        if need_weights or attn_mask is not None:
            what = "need_weights" if need_weights else "attn_mask"
            raise ValueError(
                f"{what}: expected none, since scores never exist; hide keys by causal, window, documents or a key "
                "padding mask"
            )
        itself = key is None
        key = query if key is None else key
        value = key if value is None else value
        queries, keys = query.shape[1], key.shape[1]
        if key_padding_mask is not None:
            if documents is not None:
                raise ValueError("key_padding_mask: expected none beside documents")
            documents = _documents(key_padding_mask, query, key, itself)
        rules: dict[str, Any] = {"causal": self.causal, "query_offset": query_offset}
        temperature = None
        if self.scalable_softmax is not None:
            temperature = self.scalable_softmax(queries, keys, window=self.window, documents=documents, **rules)
        out = attend(
            _by_head(self.q_proj(query), self.num_heads),
            _by_head(self.k_proj(key), self.num_kv_heads),
            _by_head(self.v_proj(value), self.num_kv_heads),
            self.prior(queries, keys, **rules),
            window=self.window,
            documents=documents,
            temperature=temperature,
            temperature_scope=self.temperature_scope or "likelihood_and_prior",
            skipping=self.skipping,
            **rules,
        )
        return self.out_proj(out.transpose(1, 2).flatten(2)), None


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _documents(mask: Tensor, query: Tensor, key: Tensor, itself: bool):
    if mask.dtype != torch.bool or mask.shape != key.shape[:2]:
        kind = f"{str(mask.dtype).removeprefix('torch.')} {list(mask.shape)}"
        raise ValueError(f"key_padding_mask: expected bool {list(key.shape[:2])}, True at padding, got {kind}")
    of_keys = torch.zeros(mask.shape, dtype=torch.int32).masked_fill(mask, PADDING)
    return of_keys if itself else (torch.zeros(query.shape[:2], dtype=torch.int32), of_keys)
