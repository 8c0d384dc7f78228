"""Pictures of priors."""

from __future__ import annotations

from typing import Any, Iterable

import numpy as np

from ._native import Distribution
from ._operation import kind_of, whole


def plot_prior(
    prior: Any, *, keys: int = 4096, heads: int | Iterable[int] | None = None, q: Any = None, k: Any = None, ax: Any = None
) -> Any:
    """Draws the prior mass by distance on a row of `keys` keys, both axes logarithmic; the axes that it drew on.

    The mass of a distance is its share of the row, `w(d)/Σ w`; distances count from 1, the token itself, so that a
    logarithm shows it.

    Arguments:
        prior: a `PositionalPrior`, a `Distribution`, or several of those, whose heads count on
        keys: keys of the row; with `k` those that it has
        heads: heads to draw; all if not given
        q, k: `[heads, dim]` and `[key heads, keys, dim]` of one row, the last of the keys being its own position: draws the
            posterior `softmax(q·k/√D + ln w)` beside the prior
        ax: axes of matplotlib; new ones if not given

    Raises:
        ModuleNotFoundError: matplotlib is not installed
        TypeError: something else than priors
        ValueError: a q without a k or the other way round, others than of one row, or heads that are not there
    """
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:
        raise ModuleNotFoundError("plot_prior wants matplotlib: pip install matplotlib") from None
    if (q is None) != (k is None):
        raise ValueError("q and k: expected both or none")
    distributions = [of for each in (prior if isinstance(prior, (list, tuple)) else [prior]) for of in _distributions(each)]
    if heads is None:
        heads = range(len(distributions))
    heads = [heads] if isinstance(heads, int) else list(heads)
    unknown = [head for head in heads if not 0 <= head < len(distributions)]
    if unknown:
        raise ValueError(f"heads: expected some of 0 to {len(distributions) - 1}, got {unknown}")
    keys = whole("keys", keys, 1)
    if k is not None:
        q, k = _of_a_row(q, k, len(distributions))
        keys = k.shape[1]
    ax = plt.subplots(figsize=(7, 4))[1] if ax is None else ax
    distances = np.arange(1, keys + 1)
    for head in heads:
        ln_weights = np.array([distributions[head].ln_weight(-float(r)) for r in range(keys)])
        (line,) = ax.plot(distances, _shares(ln_weights), label=f"head {head}")
        if k is not None:
            content = k[head * len(k) // len(q)][::-1] @ q[head] / np.sqrt(k.shape[2])
            posterior = _shares(ln_weights + content)
            ax.plot(distances, posterior, ".", markersize=3, color=line.get_color(), label=f"head {head}, posterior")
    ax.set(xscale="log", yscale="log", xlabel="distance + 1 (tokens)", ylabel="share of the row")
    ax.set_ylim(max(1e-9, ax.get_ylim()[0]), 1.5)
    ax.legend(fontsize="small")
    return ax


def _distributions(prior) -> list[Distribution]:
    if isinstance(prior, Distribution):
        return [prior]
    if isinstance(prior, type) or not hasattr(prior, "distribution"):
        hint = "; a layer has one as its prior" if hasattr(prior, "prior") else ""
        raise TypeError(f"prior: expected a PositionalPrior, a Distribution or several of those, got {kind_of(prior)}{hint}")
    return [prior.distribution(head) for head in range(prior.heads)]


def _of_a_row(q, k, heads: int):
    """Arrays of a row's query and keys, for every head."""
    q, k = _as_array(q), _as_array(k)
    if q.ndim != 2 or k.ndim != 3 or len(q) != heads or q.shape[1] != k.shape[2] or not k.size or heads % len(k):
        raise ValueError(
            f"q and k: expected [heads, dim] and [key heads, keys, dim] of {heads} heads, got {list(q.shape)} and {list(k.shape)}"
        )
    return q, k


def _shares(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _as_array(x):
    return np.asarray(x.detach().float() if hasattr(x, "detach") else x, dtype=np.float64)
