"""Priors whose parameters learn: a log-weight per head and lag, as `torch.nn.Module`s.

The laws, the maps from stored numbers θ to parameters, the initial values and the gradients are those of the Rust crate
`bam-prior`, computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import Any, Iterable

import torch
from torch import Tensor, nn

from . import _native, _ops
from ._native import Distribution
from ._operation import LogPrior, lags


class PositionalPrior(nn.Module):
    """A prior over the lag for every head: `ln w_h(d)` of the lag `d = key position − query position`, in tokens.

    Subclasses name their law and their parameters, which are unconstrained numbers θ, `[heads]` or, for tables,
    `[heads, width]`.
    """

    family: str

    def __init__(self, heads: int):
        super().__init__()
        self.heads = _at_least_one("heads", heads)
        self._names = []
        for name, _role, width, initial in _native.parameters(self.family, heads):
            values = torch.tensor(initial, dtype=torch.float64).float()
            self.register_parameter(name, nn.Parameter(values if width == 1 else values.view(heads, width)))
            self._names.append(name)

    @classmethod
    def from_distributions(cls, distributions: Iterable[Distribution]):
        """Heads with these priors, which the family must be able to have.

        Raises:
            ValueError: a prior of another family
        """
        distributions = list(distributions)
        prior = cls(len(distributions))
        stored = [of.theta(cls.family) for of in distributions]
        with torch.no_grad():
            for index, name in enumerate(prior._names):
                values = torch.tensor([of[index] for of in stored], dtype=torch.float64)
                parameter = getattr(prior, name)
                parameter.copy_(values.view(parameter.shape))
        return prior

    def forward(
        self, queries: int, keys: int | None = None, *, causal: bool = True, query_offset: int = 0
    ) -> LogPrior:
        """The log-weights of all lags between queries and keys, for `attend`: `[heads, lags]`.

        Query `i` stands at position `query_offset + i` among the keys; there are as many keys as queries, and those
        before them, if nothing is said.
        """
        keys = query_offset + queries if keys is None else keys
        first, count = lags(queries, keys, causal=causal, query_offset=query_offset)
        return LogPrior(self.ln_weights(first, count, causal=causal), first)

    def ln_weights(self, first_lag: int, count: int, *, causal: bool = True) -> Tensor:
        """`ln w_h(d)` for the lags from `first_lag` on, `[heads, count]`, in nats. Buckets are laid out for rows
        that see before them, or both ways; all other laws are the same."""
        return _ops.ln_weights(self._theta(), self.family, first_lag, count, causal)

    def distribution(self, head: int, *, causal: bool = True) -> Distribution:
        """The prior of a head: quantiles, entropy, class and horizon."""
        if not 0 <= head < self.heads:
            raise IndexError(f"head: expected 0 to {self.heads - 1}, got {head}")
        theta = [of[head].detach().double().tolist() for of in self._theta()]
        return Distribution.from_theta(self.family, theta, causal)

    def _theta(self) -> list[Tensor]:
        return [getattr(self, name).reshape(self.heads, -1).float() for name in self._names]

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class Uniform(PositionalPrior):
    """`ln w(d) = 0`: no positional prior (NoPE)."""

    family = "uniform"

    def ln_weights(self, first_lag: int, count: int, *, causal: bool = True) -> Tensor:
        return torch.zeros(self.heads, count)


class ALiBi(PositionalPrior):
    """`ln w(d) = −m·|d|`, `scale = ln m`: a Laplace prior, with ALiBi's slopes (arXiv 2108.12409), fixed or learned."""

    family = "laplace"

    def __init__(self, heads: int, *, learned: bool = False):
        super().__init__(heads)
        self.scale.requires_grad_(learned)


class Gaussian(PositionalPrior):
    """`ln w(d) = −a·(d − μ)²`, `location` θ with `μ = 2·sinh θ`, `scale = ln a`; starts as wide as ALiBi."""

    family = "gaussian"


class GeneralizedGaussian(PositionalPrior):
    """`ln w(d) = −a·(|d − μ| + ε)^β`: `loc` θ with `μ = 2·sinh θ`, `scale = ln a`, `shape = β`; starts as ALiBi.

    The learned prior of the Bayesian Attention Mechanism (arXiv 2505.22842). A shape of 1 is ALiBi, of 2 a Gaussian, of
    0 no prior at all.
    """

    family = "generalized_gaussian"


class KerpleLog(PositionalPrior):
    """`ln w(d) = −r₁·ln(1 + r₂·|d|)`: `scale = ln r₁`, `rate = ln r₂`; KERPLE's logarithmic kernel (arXiv 2205.09921)."""

    family = "kerple_log"


class KerplePower(PositionalPrior):
    """`ln w(d) = −r₁·|d|^r₂`: `scale = ln r₁`, `exponent` θ with `r₂ = 2/(1 + e^−θ)`; KERPLE's power kernel."""

    family = "kerple_power"


class StudentT(PositionalPrior):
    """`ln w(d) = −(ν + 1)/2·ln(1 + ((d − μ)/σ)²/ν)`: `location`, `scale = ln σ`, `shape = ln ν`."""

    family = "student_t"


class T5Buckets(PositionalPrior):
    """A log-weight for each of 32 buckets of lags, `weights [heads, 32]`, as T5's bias (arXiv 1910.10683)."""

    family = "t5_buckets"


class Table(PositionalPrior):
    """A log-weight for each distance up to 63, `weights [heads, 64]`; the last one extends."""

    family = "table"


class LaplaceSlab(PositionalPrior):
    """`ln w(d) = ln((1 − π)·e^(−m·|d|) + π)`: ALiBi that forgets no distance; `scale = ln m`, `slab` the logit of π."""

    family = "laplace_slab"


class Mixture(PositionalPrior):
    """`ln w(d) = ln Σ_k π_k·w_k(d)` of other priors of as many heads; `logits [heads, components]`, `π = softmax`.

    Components enter as they are, not normalised: `π_k` is the share of a component at its own mode.
    """

    family = "mixture"
    components: Any

    def __init__(self, components: Iterable[PositionalPrior]):
        nn.Module.__init__(self)
        components = list(components)
        heads = {of.heads for of in components}
        if len(heads) != 1:
            raise ValueError(f"components: expected some, all of as many heads, got heads {sorted(heads)}")
        self.heads = heads.pop()
        self.components = nn.ModuleList(components)
        self.logits = nn.Parameter(torch.zeros(self.heads, len(components)))

    def ln_weights(self, first_lag: int, count: int, *, causal: bool = True) -> Tensor:
        shares = torch.log_softmax(self.logits.float(), dim=1)
        each = [of.ln_weights(first_lag, count, causal=causal) for of in self.components]
        return torch.logsumexp(torch.stack(each, dim=1) + shares[:, :, None], dim=1)

    def distribution(self, head: int, *, causal: bool = True) -> Distribution:
        shares = torch.softmax(self.logits[head].detach().double(), dim=0).tolist()
        each = [of.distribution(head, causal=causal) for of in self.components]
        return Distribution.mixture(list(zip(shares, each)))


def _at_least_one(what: str, count: int) -> int:
    if count < 1:
        raise ValueError(f"{what}: expected at least 1, got {count}")
    return count
