"""Attention with a positional prior: fused on CPUs, forward and backward, in memory linear in the length.

    p(j | i) = exp(τ_i·(q_i·k_j/√D + ln w_h(j − i))) / evidence_i        out_i = Σ_j p(j | i)·v_j

Position is the prior w, content the likelihood, the attention row p the posterior (Bayesian Attention Mechanism, arXiv
2505.22842). The prior is one number per head and lag, as of ALiBi, T5 or a learned generalised Gaussian; no bias of
queries × keys ever exists.

`attend` is the operation, for PyTorch and NumPy. Priors that learn, and a module in the manner of
`torch.nn.MultiheadAttention`, want PyTorch: `GeneralizedGaussian`, `ALiBi`, ..., `BayesianAttention`.
`bam_attention.transformers.register()` gives it to models of transformers; `plot_prior` draws.
"""

from ._native import PADDING, Distribution, __version__
from ._operation import LogPrior, attend, lags

__all__ = ["PADDING", "Distribution", "LogPrior", "attend", "lags", "plot_prior", "__version__"]

try:
    from . import _ops
except ModuleNotFoundError:
    _ops = None  # type: ignore[assignment]
else:
    from ._ops import visible_counts
    from .attention import BayesianAttention, ScalableSoftmax
    from .priors import (
        ALiBi,
        Gaussian,
        GeneralizedGaussian,
        KerpleLog,
        KerplePower,
        LaplaceSlab,
        Mixture,
        PositionalPrior,
        StudentT,
        T5Buckets,
        Table,
        Uniform,
    )

    __all__ += [
        "ALiBi",
        "BayesianAttention",
        "Gaussian",
        "GeneralizedGaussian",
        "KerpleLog",
        "KerplePower",
        "LaplaceSlab",
        "Mixture",
        "PositionalPrior",
        "ScalableSoftmax",
        "StudentT",
        "T5Buckets",
        "Table",
        "Uniform",
        "visible_counts",
    ]

from .plot import plot_prior

_WANTS_TORCH = {"BayesianAttention", "ScalableSoftmax", "PositionalPrior", "GeneralizedGaussian", "ALiBi", "T5Buckets"}


def __getattr__(name):
    if _ops is None and name in _WANTS_TORCH:
        raise ModuleNotFoundError(f"bam_attention.{name} wants PyTorch: pip install torch")
    raise AttributeError(f"module 'bam_attention' has no attribute {name!r}")
