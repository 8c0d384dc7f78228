"""The operation as its callers see it: what a call means, for PyTorch and for NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from . import _native

try:
    from . import _ops
except ModuleNotFoundError:
    _ops = None  # type: ignore[assignment]
if TYPE_CHECKING:
    from torch import Tensor

# What a call is made of: all tensors or all arrays.
Numbers = TypeVar("Numbers", "Tensor", np.ndarray)


class LogPrior(NamedTuple):
    """A log-weight per head and lag, in natural units and up to a constant per head.

    Shapes:
        ln_weights: `[heads, lags]`; column `c` holds the lag `first_lag + c`
    A lag is key position − query position, in tokens: causal rows see lags up to 0.
    """

    ln_weights: Any
    first_lag: int


def lags(queries: int, keys: int, *, causal: bool = True, query_offset: int = 0) -> tuple[int, int]:
    """The lags between queries and the keys that they may see: the first, and how many.

    Query `i` stands at position `query_offset + i` among the keys. Causal rows over `n` keys have the lags
    `1 − n … 0`; rows that see both ways `1 − query_offset − queries … keys − 1 − query_offset`.

    Raises:
        ValueError: causal rows, some of which stand after the last key
    """
    if causal:
        if keys < query_offset + queries:
            raise ValueError(
                f"keys: expected at least query_offset + queries = {query_offset + queries} where rows are causal, got {keys}"
            )
        return 1 - keys, keys
    return 1 - query_offset - queries, queries + keys - 1


def attend(
    q: Numbers,
    k: Numbers,
    v: Numbers,
    log_prior: Numbers | LogPrior,
    *,
    causal: bool = True,
    query_offset: int = 0,
    window: int | None = None,
    documents: Any = None,
    temperature: Any = None,
    temperature_scope: str = "likelihood_and_prior",
    key_prior: Any = None,
    key_prior_scope: str = "added",
    skipping: str | float = "exact",
) -> Numbers:
    """Attention under a positional prior.

        out_i = Σ_j p(j | i)·v_j        p(j | i) ∝ exp(τ_i·(q_i·k_j/√D + ln w_h(j − i)) + u_hj)

    over the keys `j` that row `i` sees. Differentiable in q, k, v, both priors and the temperature. Results are the
    same bits for any number of threads, which are PyTorch's (`torch.set_num_threads`), for NumPy all cores.

    Shapes:
        q: `[batch, heads, queries, dim]`
        k, v: `[batch, key heads, keys, dim]`, the heads a multiple of the key heads. Where rows are causal there are at
            least `query_offset + queries` keys. Tensors `v` may be narrower or wider
        log_prior: `[heads, lags]`, or a `LogPrior`, whose first lag may be any. Of a plain tensor the last column is
            the lag 0 where rows are causal, and columns are those of `lags(...)` where they see both ways.
        temperature: what can be broadcast to `[batch, heads, queries]`
        key_prior: `[batch or 1, heads or key heads, keys]`
        documents: `[batch, tokens]`, or those of the queries and those of the keys; integers
        result: `[batch, heads, queries, dim of v]`, of q's type

    Arguments:
        causal: a row sees its own position and those before; else both ways
        query_offset: position of the first query among the keys, for queries that follow a cache
        window: keys at this distance and beyond are hidden
        documents: a query sees the keys of its own document only. Tokens of the document `PADDING` are none: no query
            sees them, and as queries they give zeros. What q, k and v hold there is not read.
        temperature: τ. With `temperature_scope="likelihood"` it multiplies q·k/√D only
        key_prior: u, a log-weight per key: how much it counts, whoever asks. `float64` where it is a running sum over many
            tokens: only differences of the keys that a row sees are rounded. A term per row cancels, so
            `-ln_f.double().cumsum(-1)` is the bias of the Forgetting Transformer (arXiv 2503.02130), of the logarithms `ln_f`
            of its gates, which must be above 0. −∞ hides a key. With `key_prior_scope="scaled"` the temperature multiplies
            it too
        skipping: "exact" leaves out keys whose weight is exactly 0, and changes no bit; "off" reads all; a share such
            as 1e-6 leaves out at most that share of any row's posterior

    q, k and v are `float32` or `bfloat16` on the CPU, and read in place wherever the numbers of a row lie side by side:
    `x.view(batch, tokens, heads, dim).transpose(1, 2)` is not copied. A row that sees no key gives zeros. Under autocast
    they are cast as those of `scaled_dot_product_attention` are. NaN and infinities in a key or a value may reach any row
    of its batch and head, also those that do not see it; only those of `PADDING` are sure not to.

    Raises:
        TypeError: types or devices that there is nothing for
        ValueError: shapes, lags or options that do not fit
    """
    query_offset = whole("query_offset", query_offset)
    window = window_of(window)
    given = (q, k, v, log_prior)
    options = (
        causal, query_offset, window, documents, temperature, temperature_scope, key_prior, key_prior_scope, skipping
    )
    if isinstance(q, np.ndarray):
        return _with_numpy(*given, *options)
    if _ops is None:
        raise TypeError(f"q: expected a numpy array (PyTorch is not installed), got {type(q).__name__}")
    return _ops.attend(*given, *options)


def whole(name: str, value: Any, least: int = 0) -> int:
    """A count or a place, as the kernel takes it.

    Raises:
        TypeError: something else than a whole number
        ValueError: one that is too small or too large
    """
    is_whole = isinstance(value, int) or hasattr(type(value), "__index__") and not len(getattr(value, "shape", ()))
    if not is_whole:
        raise TypeError(f"{name}: expected a whole number, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name}: expected at least {least}, got {value}")
    if value >= 2**62:
        raise ValueError(f"{name}: expected less than 2**62, got {value}")
    return value


def window_of(window: int | None) -> int | None:
    """The distance from which on keys are hidden, if there is one."""
    return None if window is None else whole("window", window)


def kind_of(of: Any) -> str:
    """A thing's type, as errors name it; of a class, itself."""
    return f"{of.__name__}, a class" if isinstance(of, type) else type(of).__name__


def prior_of(log_prior, kind: str, is_kind, queries, keys, causal, query_offset) -> LogPrior:
    """A log-prior with its first lag; its log-weights are of a kind, that of q.

    Raises:
        TypeError: something else than such log-weights or a `LogPrior` of them
        ValueError: fewer keys than causal rows need; fewer or more lags than rows that see both ways have
    """
    first, expected = lags(queries, keys, causal=causal, query_offset=query_offset)
    ln_weights = log_prior.ln_weights if isinstance(log_prior, LogPrior) else log_prior
    if not is_kind(ln_weights):
        got = kind_of(ln_weights)
        hint = "; a prior is called for its log-weights: prior(queries, keys)" if callable(log_prior) else ""
        if hasattr(ln_weights, "detach") and not hint:
            hint = "; of a tensor: LogPrior(of.ln_weights.detach().numpy(), of.first_lag)"
        raise TypeError(f"log_prior: expected a {kind} [heads, lags], as q is, or a LogPrior of one, got {got}{hint}")
    if len(ln_weights.shape) != 2:
        raise ValueError(f"log_prior: expected [heads, lags], got {list(ln_weights.shape)}")
    if isinstance(log_prior, LogPrior):
        return log_prior._replace(first_lag=whole("first_lag", log_prior.first_lag, -(2**62)))
    count = ln_weights.shape[1]
    if causal:
        return LogPrior(log_prior, 1 - count)
    if count != expected:
        raise ValueError(
            f"log_prior: expected {expected} lags, from {first} on, or a LogPrior, which says its first one; got {count}"
        )
    return LogPrior(log_prior, first)


def pair_of_documents(documents):
    """Documents of the queries and of the keys."""
    if isinstance(documents, (tuple, list)):
        if len(documents) != 2:
            raise ValueError(
                f"documents: expected a tensor [batch, tokens], or those of the queries and of the keys, got {len(documents)} of "
                f"{type(documents[0] if documents else None).__name__}"
            )
        return tuple(documents)
    return documents, documents


def shape_over_keys(shape, batch: int) -> tuple[int, ...]:
    """The shape of a prior over keys for every row of a batch.

    Raises:
        ValueError: other axes
    """
    if len(shape) != 3 or shape[0] not in (1, batch):
        raise ValueError(f"key_prior: expected [{batch} or 1, heads or key heads, keys], got {list(shape)}")
    return (batch, *shape[1:])


def skipping_as_text(skipping: str | float) -> str:
    """`"exact"`, `"off"`, or a share as the kernel reads it."""
    if isinstance(skipping, (str, int, float)):
        return skipping if isinstance(skipping, str) else repr(float(skipping))
    raise TypeError(f"skipping: expected 'exact', 'off' or a number, got {type(skipping).__name__}")


def _with_numpy(
    q, k, v, log_prior, causal, query_offset, window, documents, temperature, temperature_scope, key_prior,
    key_prior_scope, skipping,
):
    arrays = {"q": q, "k": k, "v": v}
    for name, x in arrays.items():
        if not isinstance(x, np.ndarray) or isinstance(x, np.ma.MaskedArray):
            raise TypeError(f"{name}: expected a numpy array, as q is, got {type(x).__name__}")
        if x.dtype != np.float32:
            raise TypeError(f"{name}: expected float32, got {x.dtype}")
        if x.ndim != 4:
            raise ValueError(f"{name}: expected [batch, heads, tokens, dim], got {list(x.shape)}")
    if v.shape[3] != q.shape[3]:
        raise ValueError(f"v: expected {q.shape[3]} wide, as q is, got {v.shape[3]} (tensors of PyTorch may differ)")
    is_array = lambda x: isinstance(x, np.ndarray)
    prior = prior_of(log_prior, "numpy array", is_array, q.shape[2], k.shape[2], causal, query_offset)
    if not np.can_cast(prior.ln_weights.dtype, np.float32, "same_kind"):
        raise TypeError(f"log_prior: expected real numbers, got {prior.ln_weights.dtype}")
    rules = _native.Rules(
        causal=causal,
        query_offset=query_offset,
        window=window,
        first_lag=prior.first_lag,
        temperature_scope=temperature_scope,
        key_prior_scope=key_prior_scope,
        skipping=skipping_as_text(skipping),
        threads=_cores(),
    )
    if temperature is not None:
        temperature = _broadcast(temperature, q.shape[:3])
    high, low = (None, None) if key_prior is None else _pairs(key_prior, q.shape[0])
    if documents is not None:
        documents = [_capsule(_as_documents(of)) for of in pair_of_documents(documents)]
    operands = (
        *(_capsule(_readable(x)) for x in arrays.values()),
        _capsule(np.ascontiguousarray(prior.ln_weights, dtype=np.float32)),
        None if temperature is None else _capsule(temperature),
        None if high is None else _capsule(high),
        None if low is None else _capsule(low),
        documents,
        rules,
    )
    out = np.empty(q.shape, np.float32)
    _native.forward(operands, out.__dlpack__(), np.empty(q.shape[:3], np.float32).__dlpack__())
    return out


def _cores() -> int:
    import os

    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _readable(x):
    """Itself where the kernel reads it in place, else a copy."""
    side_by_side = x.shape[-1] <= 1 or x.strides[-1] == x.itemsize
    forwards = all(stride >= 0 and stride % x.itemsize == 0 for stride in x.strides)
    return x if side_by_side and forwards else np.ascontiguousarray(x)


def _capsule(x):
    return (x if x.flags.writeable and x.flags.aligned else x.copy()).__dlpack__()


def _broadcast(temperature, shape):
    temperature = np.asarray(temperature, dtype=np.float32)
    rows = shape[0] if temperature.ndim == 3 and temperature.shape[0] != 1 else 1
    try:
        return np.ascontiguousarray(np.broadcast_to(temperature, (rows, *shape[1:])))
    except ValueError:
        raise ValueError(f"temperature: expected {list(shape)}, or less, got {list(temperature.shape)}") from None


def _pairs(key_prior, batch):
    """A prior over keys in float32, and what that leaves of float64."""
    key_prior = np.asarray(key_prior)
    if key_prior.dtype not in (np.float32, np.float64):
        raise TypeError(f"key_prior: expected float32 or float64, got {key_prior.dtype}")
    key_prior = np.broadcast_to(key_prior, shape_over_keys(key_prior.shape, batch))
    with np.errstate(over="ignore", invalid="ignore"):
        high = np.ascontiguousarray(key_prior, np.float32)
        if key_prior.dtype == np.float32:
            return high, None
        low = np.where(np.isinf(high), 0.0, key_prior - high)
    return high, np.ascontiguousarray(low, np.float32)


def _as_documents(ids):
    ids = np.asarray(ids)
    if not np.issubdtype(ids.dtype, np.integer) or ids.ndim != 2:
        raise TypeError(f"documents: expected integers [batch, tokens], got {ids.dtype} {list(ids.shape)}")
    if ids.size and not (ids.min() >= -(2**31) and ids.max() < 2**31):
        raise ValueError("documents: expected numbers of 32 bits, got larger ones")
    return np.ascontiguousarray(ids, dtype=np.int32)
