"""The operation for models of transformers: `register()`, then `attn_implementation="bam"`.

    import bam_attention.transformers
    bam_attention.transformers.register()
    model = T5ForConditionalGeneration.from_pretrained("t5-small", attn_implementation="bam")

Models keep their weights, masks and caches. A bias that depends on the lag alone stays that way: T5's and its
descendants' trained buckets, ALiBi in MPT and Bloom. Of other models that take their attention from transformers'
`AttentionInterface` it computes what `sdpa` does, with a positional prior where `add_priors` put one.

Attention weights never exist: dropout on them (but see `without_attention_dropout`), `output_attentions`, soft caps, sinks
and masks of queries × keys are refused by name.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor, nn

from ._native import PADDING
from ._operation import LogPrior, attend, lags
from .attention import _by_head
from .priors import PositionalPrior

NAME = "bam"
_WITH_A_TRAINED_BIAS = {"t5": "T5Attention", "mt5": "MT5Attention"}
# All names that it was registered as.
_NAMES: set[str] = set()


def register(name: str = NAME) -> None:
    """Makes the operation known to transformers as `attn_implementation=name`. To do it again changes nothing.

    Raises:
        ModuleNotFoundError: transformers is not installed
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    _NAMES.add(name)
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, documents)
    for model, attention_class in _WITH_A_TRAINED_BIAS.items():
        module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
        # Before transformers 5 these have an attention of their own.
        if hasattr(module, "ALL_ATTENTION_FUNCTIONS"):
            _wrap(getattr(module, attention_class), "forward", _by_buckets)
    module = importlib.import_module("transformers.models.umt5.modeling_umt5")
    if hasattr(module, "ALL_ATTENTION_FUNCTIONS"):
        _wrap(module.UMT5Attention, "compute_bias", _umt5)
    for model, attention_class, forward in (("mpt", "MptAttention", _mpt), ("bloom", "BloomAttention", _bloom)):
        module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
        _wrap(getattr(module, attention_class), "forward", forward)


def add_priors(
    model: nn.Module, make: Callable[[int], PositionalPrior], folder: str | os.PathLike[str] | None = None
) -> None:
    """Gives every attention layer of a model a positional prior of its own, `make(heads)`, as its submodule
    `positional_prior`: parameters of the model that learn and are saved with it.

    `from_pretrained` leaves the priors of a saved model out, since its class has none: `folder`, that of `save_pretrained`,
    is where they are read from again.

    Layers are those with `num_key_value_groups`, `q_proj` and `k_proj`, as LLaMA's and its many descendants'. Positions that
    the model has besides, such as rotary ones, stay.

    Raises:
        ValueError: there are no such layers, they compute their attention without priors, `make` makes others, or the
            folder has none that fit
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if all(hasattr(layer, of) for of in ("num_key_value_groups", "head_dim", "q_proj", "k_proj", "config"))
    }
    if not layers:
        raise ValueError(f"model: expected one with layers like LLaMA's, got {type(model).__name__}")
    saved = {} if folder is None else _saved_priors(Path(folder))
    priors = {}
    for name, layer in layers.items():
        _refuse_others(layer)
        heads = layer.k_proj.out_features // layer.head_dim * layer.num_key_value_groups
        prior = make(heads) if callable(make) and not isinstance(make, nn.Module) else None
        if getattr(prior, "heads", None) != heads:
            got = type(make).__name__ if prior is None else f"{getattr(prior, 'heads', 'no')} heads of {type(prior).__name__}"
            raise ValueError(f"make: expected a function of heads, such as ALiBi, that makes a prior of {heads}, got {got}")
        assert prior is not None
        if folder is not None:
            _read(prior, f"{name}.positional_prior.", saved, folder)
        priors[name] = prior.to(layer.q_proj.weight.device)
    for name, layer in layers.items():
        if not hasattr(layer, "positional_prior"):
            layer.register_forward_pre_hook(_refuse_others)
        layer.positional_prior = priors[name]


def _refuse_others(layer: nn.Module, _given: Any = None) -> None:
    """An attention that has not heard of priors and would leave them out without a word."""
    implementation = getattr(layer.config, "_attn_implementation", None)
    if implementation not in _NAMES:
        raise ValueError(
            f"model: expected attn_implementation={NAME!r}, for its priors, got {implementation!r}: register(), then "
            f"model.set_attn_implementation({NAME!r})"
        )


def _saved_priors(folder: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    saved: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            saved |= {name: file.get_tensor(name) for name in file.keys() if ".positional_prior." in name}
    return saved


def _read(prior: nn.Module, prefix: str, saved: dict[str, Tensor], folder: Any) -> None:
    own = {name.removeprefix(prefix): of for name, of in saved.items() if name.startswith(prefix)}
    expected, got = ({name: list(of.shape) for name, of in each.items()} for each in (prior.state_dict(), own))
    if got != expected:
        raise ValueError(f"folder: expected {prefix} of {expected}, got {got} in {folder}")
    prior.load_state_dict(own)


def without_attention_dropout(model: nn.Module) -> None:
    """Leaves out the dropout of attention weights, which never exist, when a model is trained; all other dropout stays.

    It is refused otherwise, since a model that is trained without is another than its configuration says.
    """
    for module in model.modules():
        module.__dict__["without_attention_dropout"] = True


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_bias: Tensor | LogPrior | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **others,
) -> tuple[Tensor, None]:
    """`[batch, queries, heads, dim]`, as `AttentionInterface` wants it. `attention_mask` is what `documents` made."""
    if getattr(module, "has_relative_attention_bias", None) is False and _is_quadratic(position_bias):
        # UMT5's cross-attention: all zeros.
        position_bias = None
    drops = module.training and not getattr(module, "without_attention_dropout", False)
    _refuse(dropout if drops else 0.0, attention_mask, position_bias, others)
    queries, keys = query.shape[2], key.shape[2]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    offset = keys - queries if causal else 0
    rules: dict[str, Any] = {"causal": causal, "query_offset": offset}
    prior = getattr(module, "positional_prior", None)
    first, count = lags(queries, keys, **rules)
    if position_bias is not None:
        log_prior = position_bias if isinstance(position_bias, LogPrior) else LogPrior(position_bias, first)
    elif prior is not None:
        log_prior = prior(queries, keys, **rules)
    else:
        log_prior = LogPrior(query.new_zeros(query.shape[1], count, dtype=torch.float32), first)
    # The kernel divides by √D.
    factor = 1.0 if scaling is None else scaling * math.sqrt(query.shape[3])
    if not math.isclose(factor, 1.0):
        query = query * factor
    ids = None if attention_mask is None else _pair(attention_mask, queries, keys)
    out = attend(query, key, value, log_prior, window=sliding_window, documents=ids, **rules)
    return out.transpose(1, 2).contiguous(), None


def documents(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable | None = None,
    attention_mask: Tensor | None = None,
    **_others,
) -> Tensor:
    """The document of every key, `[batch, keys]`: 1, those of packed rows from 1 on, 0 where there is no token. So it can be
    read as a mask of padding, which generation with some caches does. Order and window are the layers'.

    Raises:
        NotImplementedError: a mask that is neither order, window, padding nor packing; caches that are longer than
            what they hold
    """
    if not isinstance(q_offset, int) or (kv_length > q_offset + q_length - kv_offset and _is_causal(mask_function)):
        raise NotImplementedError("attn_implementation='bam': expected a cache that grows, got one of fixed length")
    ids = torch.ones(batch_size, kv_length, dtype=torch.int32, device="cpu")
    for part in _parts(mask_function):
        packed = _closed_over(part).get("packed_sequence_mask")
        if packed is not None:
            ids = packed.expand(batch_size, -1).int() + 1
    if attention_mask is not None:
        if attention_mask.dim() != 2:
            raise NotImplementedError(f"attention_mask: expected [batch, keys], got {list(attention_mask.shape)}")
        attention_mask = attention_mask[:, -kv_length:].bool()
        if attention_mask.shape[1] != kv_length:
            raise NotImplementedError(
                f"attention_mask: expected one of the {kv_length} keys, got one of {attention_mask.shape[1]}"
            )
        ids = ids.masked_fill(~attention_mask, 0)
    return ids


_ORDER = {"causal_mask_function", "bidirectional_mask_function"}
_KNOWN = {"sliding_window_overlay", "sliding_window_bidirectional_overlay", "packed_sequence_mask_function"}


def _parts(mask_function) -> list:
    """The functions that transformers made a mask of, of which all must hold."""
    if mask_function is None or mask_function.__name__ in _ORDER:
        return []
    maker = mask_function.__qualname__.split(".")[0]
    if maker == "and_masks":
        return [part for of in _closed_over(mask_function)["mask_functions"] for part in _parts(of)]
    if maker == "remap_positions_for_packed_sequence":
        # Within a document the order and the distance of places are those of positions.
        inner = [of for of in _closed_over(mask_function).values() if callable(of)]
        return [part for of in inner for part in _parts(of)]
    if maker in _KNOWN:
        return [mask_function]
    raise NotImplementedError(
        f"attn_implementation='bam': expected a mask of order, window, padding and packing, got {maker}"
    )


def _is_causal(mask_function) -> bool:
    return mask_function is None or "bidirectional" not in mask_function.__qualname__


def _closed_over(function) -> dict:
    cells = function.__closure__ or ()
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in cells)))


def _pair(ids: Tensor, queries: int, keys: int):
    """Documents of the queries, the last of the keys where they are some, and of the keys, from what `documents` made; none
    where they hide nothing."""
    if not torch.compiler.is_compiling() and bool((ids == 1).all()):
        return None
    of_queries = ids.masked_fill(ids == 0, 1)[:, -queries:]
    if queries > keys:
        of_queries = ids.new_ones(ids.shape[0], queries)
    return of_queries, ids.masked_fill(ids == 0, PADDING)


def _is_quadratic(bias) -> bool:
    return isinstance(bias, Tensor) and bias.dim() != 2


def _refuse(dropout: float, attention_mask, position_bias, others: dict) -> None:
    def no(what, got):
        raise NotImplementedError(f"attn_implementation='bam': expected no {what}, got {got}")

    if dropout:
        no("dropout of attention weights (bam_attention.transformers.without_attention_dropout(model) leaves it out)", dropout)
    if attention_mask is not None and attention_mask.dim() != 2:
        no("mask of queries × keys", list(attention_mask.shape))
    if _is_quadratic(position_bias):
        no("bias of queries × keys", list(position_bias.shape))
    for what in ("softcap", "s_aux", "head_mask", "output_attentions"):
        got = others.get(what)
        if got is not None and got is not False:
            no(what, type(got).__name__ if isinstance(got, Tensor) else got)


def _wrap(attention_class, method: str, instead_of: Callable) -> None:
    """Puts `instead_of(original, module, ...)` in the place of a class's own method, once."""
    original = getattr(attention_class, method)
    original = getattr(original, "_instead_of", original)

    @functools.wraps(original)
    def instead(module, *arguments, **named):
        return instead_of(original, module, *arguments, **named)

    setattr(instead, "_instead_of", original)
    setattr(attention_class, method, instead)


def _by_buckets(original, module, hidden_states, mask=None, key_value_states=None, position_bias=None, *more, **named):
    """T5's attention: the bias of its first layer by lag, `[heads, lags]`, which the layers after it share."""
    if module.config._attn_implementation in _NAMES and position_bias is None:
        cache = named.get("cache", named.get("past_key_values"))
        queries = hidden_states.shape[1]
        past = 0 if cache is None else int(cache.get_seq_length(module.layer_idx))
        keys = past + queries if key_value_states is None else key_value_states.shape[1]
        first, count = lags(queries, keys, causal=module.is_causal, query_offset=past if module.is_causal else 0)
        position_bias = torch.zeros(module.n_heads, count, dtype=torch.float32, device=hidden_states.device)
        if module.has_relative_attention_bias:
            buckets = module._relative_position_bucket(
                torch.arange(first, first + count, device=hidden_states.device),
                bidirectional=not module.is_decoder,
                num_buckets=module.relative_attention_num_buckets,
                max_distance=module.relative_attention_max_distance,
            )
            position_bias = module.relative_attention_bias(buckets).t()
    return original(module, hidden_states, mask, key_value_states, position_bias, *more, **named)


def _umt5(original, module, queries, keys, device=None, past_seen_tokens=0):
    """The bias of UMT5, of which every layer has its own, by lag, `[heads, lags]`."""
    if module.config._attn_implementation not in _NAMES:
        return original(module, queries, keys, device, past_seen_tokens)
    offset = int(past_seen_tokens) if module.is_causal else 0
    first, count = lags(queries, keys, causal=module.is_causal, query_offset=offset)
    of_lags = torch.arange(first, first + count, device=module.relative_attention_bias.weight.device)
    return module.relative_attention_bias(module._relative_position_bucket(of_lags)).t()


def _mpt(original, module, hidden_states, position_bias, cache=None, attention_mask=None, **named):
    """MPT's attention; its model made `attention_mask` of `documents`, as truth of tokens."""
    if attention_mask is None or attention_mask.dim() != 2:
        return original(module, hidden_states, position_bias, cache=cache, attention_mask=attention_mask, **named)
    qkv = module.Wqkv(hidden_states)
    if module.clip_qkv:
        qkv = qkv.clamp(min=-module.clip_qkv, max=module.clip_qkv)
    q, k, v = (_by_head(x, module.n_heads) for x in qkv.chunk(3, dim=2))
    if cache is not None:
        k, v = cache.update(k, v, module.layer_idx)
    by_lag = position_bias[:, 0, -k.shape[2] :]
    out, _ = attention(
        module,
        q,
        k,
        v,
        attention_mask.int(),
        scaling=module.softmax_scale,
        dropout=module.attn_dropout_p,
        position_bias=LogPrior(by_lag, 1 - by_lag.shape[1]),
        is_causal=True,
    )
    return module.out_proj(out.flatten(2)), None


def _bloom(original, module, hidden_states, residual, alibi, attention_mask, layer_past=None, *more, **named):
    """Bloom's attention, whose positions count tokens: padding between them is moved before them."""
    if attention_mask is None or attention_mask.dim() != 2:
        return original(module, hidden_states, residual, alibi, attention_mask, layer_past, *more, **named)
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor, dropout_add

    fused = module.query_key_value(hidden_states).unflatten(2, (module.num_heads, 3, module.head_dim))
    q, k, v = (x.transpose(1, 2) for x in fused.unbind(3))
    if layer_past is not None:
        k, v = layer_past.update(k, v, module.layer_idx)
    slopes = build_alibi_tensor(torch.ones(1, 2, device=q.device), module.num_heads, torch.float32)[:, 0, 1:]
    first, count = lags(q.shape[2], k.shape[2])
    seen = attention_mask != 0
    starts = (seen[:, 1:] & ~seen[:, :-1]).sum(1) + seen[:, 0]
    is_moved = torch.compiler.is_compiling() or bool((starts > 1).any())
    if is_moved:
        of_keys, of_queries = (of.int().argsort(dim=1, stable=True) for of in (seen, seen[:, -q.shape[2] :]))
        q, k, v = (_taken(x, index, 2) for x, index in ((q, of_queries), (k, of_keys), (v, of_keys)))
        attention_mask = attention_mask.gather(1, of_keys)
    out, _ = attention(
        module,
        q,
        k,
        v,
        attention_mask,
        scaling=module.inv_norm_factor,
        dropout=module.attention_dropout.p,
        position_bias=LogPrior(slopes * torch.arange(first, first + count, device=q.device), first),
        is_causal=True,
    )
    if is_moved:
        out = _taken(out, of_queries.argsort(1), 1)
    return dropout_add(module.dense(out.flatten(2)), residual, module.hidden_dropout, module.training), None


def _taken(x: Tensor, index: Tensor, tokens: int) -> Tensor:
    """Tokens of each row by `index [batch, tokens]`; the axis of the tokens is the second or the third."""
    index = index[:, None, :, None] if tokens == 2 else index[:, :, None, None]
    return x.gather(tokens, index.expand(x.shape))
