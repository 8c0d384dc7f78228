"""Pictures of priors."""

from __future__ import annotations


def plot_prior(prior, *, keys: int = 4096, heads=None, q=None, k=None, ax=None):
    """Draws the prior mass by distance on a row of `keys` keys, both axes logarithmic; the axes that it drew on.

    The mass of a distance is its share of the row, `w(d)/Σ w`; distances count from 1, the token itself, so that a
    logarithm shows it.

    Arguments:
        prior: a `PositionalPrior`, a `Distribution`, or several of those
        keys: keys of the row; with `k` those that it has
        heads: heads to draw; all if not given
        q, k: `[heads, dim]` and `[heads, keys, dim]` of one row, the last of the keys being its own position: draws the
            posterior `softmax(q·k/√D + ln w)` beside the prior
        ax: axes of matplotlib; new ones if not given

    Raises:
        ModuleNotFoundError: matplotlib is not installed
        ValueError: a q without a k or the other way round, or heads that are not there
    """
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:
        raise ModuleNotFoundError("plot_prior wants matplotlib: pip install matplotlib") from None
    import numpy as np

    if (q is None) != (k is None):
        raise ValueError("q and k: expected both or none")
    distributions = _distributions(prior)
    heads = list(range(len(distributions))) if heads is None else list(heads)
    unknown = [head for head in heads if not 0 <= head < len(distributions)]
    if unknown:
        raise ValueError(f"heads: expected some of 0 to {len(distributions) - 1}, got {unknown}")
    if k is not None:
        keys = k.shape[1]
    ax = plt.subplots(figsize=(7, 4))[1] if ax is None else ax
    distances = np.arange(1, keys + 1)
    for head in heads:
        ln_weights = np.array([distributions[head].ln_weight(-float(r)) for r in range(keys)])
        (line,) = ax.plot(distances, _shares(ln_weights), label=f"head {head}")
        if k is not None:
            content = _as_array(k)[head][::-1] @ _as_array(q)[head] / np.sqrt(k.shape[2])
            posterior = _shares(ln_weights + content)
            ax.plot(distances, posterior, ".", markersize=3, color=line.get_color(), label=f"head {head}, posterior")
    ax.set(xscale="log", yscale="log", xlabel="distance + 1 (tokens)", ylabel="share of the row")
    ax.set_ylim(max(1e-9, ax.get_ylim()[0]), 1.5)
    ax.legend(fontsize="small")
    return ax


def _distributions(prior):
    if hasattr(prior, "distribution"):
        return [prior.distribution(head) for head in range(prior.heads)]
    return list(prior) if isinstance(prior, (list, tuple)) else [prior]


def _shares(logits):
    import numpy as np

    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _as_array(x):
    import numpy as np

    return np.asarray(x.detach() if hasattr(x, "detach") else x, dtype=np.float64)
