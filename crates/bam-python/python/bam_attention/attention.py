"""A layer of attention under a prior, in the manner of `torch.nn.MultiheadAttention`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import _ops
from ._native import PADDING
from ._operation import attend, kind_of, skipping_as_text, whole, window_of
from .priors import GeneralizedGaussian, PositionalPrior


class ScalableSoftmax(nn.Module):
    """`τ_{h,i} = s_h·ln n_i`, `n_i` the keys that row `i` sees (arXiv 2501.19399); `scale [heads]`, from 1 on.

    A temperature for `attend`, with which long rows stay as sharp as short ones:
    `attend(q, k, v, prior(n), temperature=tau(n))`.
    """

    if TYPE_CHECKING:

        def __call__(
            self,
            queries: int,
            keys: int | None = None,
            *,
            causal: bool = True,
            query_offset: int = 0,
            window: int | None = None,
            documents: Any = None,
        ) -> Tensor: ...

    def __init__(self, heads: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(whole("heads", heads, 1), dtype=torch.float32))

    def reset_parameters(self) -> None:
        """Sets the initial value, 1."""
        nn.init.ones_(self.scale)

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

    It stands in for the `self_attn` and `multihead_attn` of `torch.nn.TransformerEncoderLayer` and
    `TransformerDecoderLayer` that are `batch_first`.

    Arguments:
        embed_dim: width, a multiple of the heads
        num_heads: query heads
        prior: a `PositionalPrior` of as many heads; `GeneralizedGaussian` if not given
        num_kv_heads: key and value heads, a divisor of the heads; as many if not given
        causal: rows see nothing after them
        window: hides keys at this distance and beyond
        scalable_softmax: `"likelihood_and_prior"` or `"likelihood"`, what `s·ln n` multiplies; none if not given
        forget_gate: a gate `f_j = σ(w_h·key_j + b_h)` a head, whose sums `u_j = −Σ_{l ≤ j} ln f_l` are a prior over keys
            beside that over lags (the Forgetting Transformer, arXiv 2503.02130); of layers that are causal
        forget_bias: the start of `b`, for all heads or one a head: at 0 a gate halves what lies behind it, at 5 it keeps
            all but a hundredth of it
        bias: biases of the projections
        kdim, vdim: widths of keys and values, `embed_dim` if not given
        skipping: as of `attend`
    """

    # As PyTorch's layers look at their attention: batch first, and nothing for the pass that computes it without asking it.
    batch_first = True
    in_proj_bias = None
    _qkv_same_embed_dim = False

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
        forget_gate: bool = False,
        forget_bias: float | Sequence[float] = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        skipping: str | float = "exact",
    ):
        super().__init__()
        key_heads = num_heads if num_kv_heads is None else num_kv_heads
        for what, of, part in (
            ("embed_dim", embed_dim, num_heads),
            ("num_heads", num_heads, key_heads),
        ):
            if part < 1 or of % part:
                raise ValueError(f"{what}: expected a multiple of {part}, got {of}")
        if isinstance(prior, type) or not (prior is None or hasattr(prior, "heads")):
            raise TypeError(f"prior: expected a prior, such as ALiBi({num_heads}), got {kind_of(prior)}")
        self.prior = GeneralizedGaussian(num_heads) if prior is None else prior
        if self.prior.heads != num_heads:
            raise ValueError(f"prior: expected {num_heads} heads, got {self.prior.heads}")
        if scalable_softmax not in (None, "likelihood", "likelihood_and_prior"):
            raise ValueError(
                f"scalable_softmax: expected 'likelihood_and_prior', 'likelihood' or None, got {scalable_softmax!r}"
            )
        if forget_gate and not causal:
            raise ValueError("forget_gate: expected False in a layer that is not causal, got True")
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, key_heads
        self.head_dim = embed_dim // num_heads
        self.causal, self.window, self.skipping = causal, window_of(window), skipping
        # What no call could mean is refused here.
        _ops._rules(causal, 0, self.window, 0, "likelihood", "added", skipping_as_text(skipping), 1)
        self.temperature_scope = scalable_softmax
        self.scalable_softmax = None if scalable_softmax is None else ScalableSoftmax(num_heads)
        of_keys = key_heads * self.head_dim
        kdim = embed_dim if kdim is None else kdim
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(kdim, of_keys, bias=bias)
        self.v_proj = nn.Linear(embed_dim if vdim is None else vdim, of_keys, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.forget_gate = nn.Linear(kdim, num_heads) if forget_gate else None
        if forget_bias != 0 and not forget_gate:
            raise ValueError(f"forget_bias: expected forget_gate=True beside it, got {forget_bias}")
        self.forget_bias = [forget_bias] * num_heads if isinstance(forget_bias, (int, float)) else list(forget_bias)
        if len(self.forget_bias) != num_heads or not all(map(math.isfinite, self.forget_bias)):
            raise ValueError(f"forget_bias: expected a finite number or {num_heads}, got {forget_bias}")
        self._start_gate()

    def reset_parameters(self) -> None:
        """Sets the initial values of the projections, the prior, the softmax's scale and the gates."""
        projections = (self.q_proj, self.k_proj, self.v_proj, self.out_proj)
        for part in (self.prior, self.scalable_softmax, *projections, self.forget_gate):
            if part is not None:
                part.reset_parameters()
        self._start_gate()

    def _start_gate(self) -> None:
        if self.forget_gate is not None:
            with torch.no_grad():
                self.forget_gate.bias.copy_(torch.tensor(self.forget_bias, device="cpu"))

    if TYPE_CHECKING:

        def __call__(
            self,
            query: Tensor,
            key: Tensor | None = None,
            value: Tensor | None = None,
            key_padding_mask: Tensor | None = None,
            need_weights: bool = False,
            attn_mask: Tensor | None = None,
            average_attn_weights: bool = True,
            is_causal: bool = False,
            *,
            documents: Any = None,
            query_offset: int = 0,
        ) -> tuple[Tensor, None]: ...

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        documents: Any = None,
        query_offset: int = 0,
    ) -> tuple[Tensor, None]:
        """The output and, in the place of weights, which never exist, `None`.

        Shapes:
            query: `[batch, queries, embed_dim]`, or all without a batch
            key: `[batch, keys, kdim]`; the queries if not given, and `value [batch, keys, vdim]` the keys
            key_padding_mask: `[batch, keys]`, True or −inf where there is no token, else False or 0; where keys are the
                queries, rows of none give what a row of zeros gives
            documents: as of `attend`, instead of a mask
            result: `[batch, queries, embed_dim]`

        What stands where there is no token is not read, NaN or not. `attn_mask` and `is_causal` may say what the layer does
        anyway: a mask that hides no more than its order and window.

        Raises:
            ValueError: weights wanted, another mask, shapes that do not fit
        """
        if need_weights:
            raise ValueError("need_weights: expected False, since scores never exist")
        if query.dim() == 2:
            batched = lambda x: None if x is None else x[None]
            out, none = self(
                query[None],
                None if key is query else batched(key),
                None if value is key else batched(value),
                batched(key_padding_mask),
                attn_mask=attn_mask,
                is_causal=is_causal,
                documents=documents,
                query_offset=query_offset,
            )
            return out[0], none
        key = query if key is None else key
        value = key if value is None else value
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.dim() != 3:
                raise ValueError(f"{name}: expected [batch, tokens, width], got {list(x.shape)}")
        queries, keys = query.shape[1], key.shape[1]
        self._refuse_masks(attn_mask, is_causal, queries, keys, query_offset)
        if key_padding_mask is not None:
            if documents is not None:
                raise ValueError("key_padding_mask: expected none beside documents")
            documents = _documents(key_padding_mask, query, key)
        if documents is not None:
            of_queries, of_keys = documents = _ops._documents(documents)
            same_key, same_value = key is query and of_queries is of_keys, value is key
            query = _without_padding(query, of_queries)
            key = query if same_key else _without_padding(key, of_keys)
            value = key if same_value else _without_padding(value, of_keys)
        rules: dict[str, Any] = {"causal": self.causal, "query_offset": query_offset}
        temperature = None
        if self.scalable_softmax is not None:
            temperature = self.scalable_softmax(queries, keys, window=self.window, documents=documents, **rules)
        key_prior = None
        if self.forget_gate is not None:
            ln_f = nn.functional.logsigmoid(self.forget_gate(key).double())
            if documents is not None:
                ln_f = _without_padding(ln_f, documents[1])  # what is no token forgets nothing
            key_prior = -ln_f.transpose(1, 2).cumsum(-1)
        out = attend(
            _by_head(self.q_proj(query), self.num_heads),
            _by_head(self.k_proj(key), self.num_kv_heads),
            _by_head(self.v_proj(value), self.num_kv_heads),
            self.prior(queries, keys, **rules),
            window=self.window,
            documents=documents,
            temperature=temperature,
            temperature_scope=self.temperature_scope or "likelihood_and_prior",
            key_prior=key_prior,
            skipping=self.skipping,
            **rules,
        )
        return self.out_proj(out.transpose(1, 2).flatten(2)), None

    def _refuse_masks(self, attn_mask: Tensor | None, is_causal: bool, queries: int, keys: int, query_offset: int) -> None:
        """A mask that hides what the layer does not, or adds to scores."""
        if is_causal:
            if not self.causal:
                raise ValueError("is_causal: expected False, as the layer's causal, got True")
        elif attn_mask is not None:
            lags = torch.arange(keys, device=attn_mask.device) - query_offset
            lags = lags - torch.arange(queries, device=attn_mask.device)[:, None]
            own = (lags > 0) & self.causal
            if self.window is not None:
                own = own | (lags.abs() >= self.window)
            if attn_mask.shape[-2:] != own.shape:
                raise ValueError(f"attn_mask: expected {list(own.shape)}, got {list(attn_mask.shape)}")
            _demand(
                (own | ~_hidden("attn_mask", attn_mask)).all(),
                f"attn_mask: expected one that hides no more than causal={self.causal} and window={self.window} do; hide keys "
                "by those, by documents or by a key padding mask",
            )

    def extra_repr(self) -> str:
        return (
            f"{self.embed_dim}, heads={self.num_heads}, key_heads={self.num_kv_heads}, causal={self.causal}, "
            f"window={self.window}, scalable_softmax={self.temperature_scope!r}, skipping={self.skipping!r}"
        )


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _documents(mask: Tensor, query: Tensor, key: Tensor) -> Any:
    if mask.shape != key.shape[:2]:
        raise ValueError(f"key_padding_mask: expected {list(key.shape[:2])}, True at padding, got {list(mask.shape)}")
    mask = _hidden("key_padding_mask", mask)
    of_keys = torch.zeros(mask.shape, dtype=torch.int32, device=mask.device).masked_fill(mask, PADDING)
    return of_keys if key is query else (of_keys.new_zeros(query.shape[:2]), of_keys)


def _hidden(name: str, mask: Tensor) -> Tensor:
    """Truth where a mask hides, be it true there or −inf."""
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point():
        raise ValueError(f"{name}: expected bool or numbers that are 0 or -inf, got {_ops._name(mask.dtype)}")
    hidden = mask == -torch.inf
    _demand(((mask == 0) | hidden).all(), f"{name}: expected numbers that are 0 or -inf, got others")
    return hidden


def _demand(holds: Tensor, words: str) -> None:
    """An error where something does not hold, which a graph finds out as it runs."""
    if torch.compiler.is_compiling():
        torch._assert_async(holds, words)
    elif not holds:
        raise ValueError(words)


def _without_padding(x: Tensor, ids: Any) -> Tensor:
    """Zeros where there is no token: NaN there would reach the weights of a projection, whose gradients are sums of 0·x."""
    if ids.shape != x.shape[:2]:
        raise ValueError(f"documents: expected {list(x.shape[:2])}, got {list(ids.shape)}")
    return x.masked_fill((ids.long() == PADDING)[..., None], 0.0)
