"""Priors whose parameters learn: a log-weight per head and lag, as `torch.nn.Module`s.

The laws, the maps from stored numbers θ to parameters, the initial values and the gradients are those of the Rust crate
`bam-prior`, computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterable

import torch
from torch import Tensor, nn

from . import _native, _ops
from ._native import Distribution
from ._operation import LogPrior, lags, whole


class PositionalPrior(nn.Module):
    """A prior over the lag for every head: `ln w_h(d)` of the lag `d = key position − query position`, in tokens.

    Subclasses name their law and their parameters, which are unconstrained numbers θ, `[heads]` or, for tables,
    `[heads, width]`.
    """

    family: str
    # Parameters, the first lag, whether causal, and log-weights of the last call that learned nothing.
    _kept: tuple[list[Tensor], int, bool, Tensor] | None = None

    def __init__(self, heads: int):
        super().__init__()
        self.heads = whole("heads", heads, 1)
        self._names = []
        for name, _role, width, _initial in _native.parameters(self.family, heads):
            shape = (heads,) if width == 1 else (heads, width)
            self.register_parameter(name, nn.Parameter(torch.empty(shape, dtype=torch.float32)))
            self._names.append(name)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets the family's initial values."""
        with torch.no_grad():
            for name, _role, _width, initial in _native.parameters(self.family, self.heads):
                parameter = getattr(self, name)
                parameter.copy_(torch.tensor(initial, dtype=torch.float64, device="cpu").view(parameter.shape))

    if TYPE_CHECKING:

        def __call__(
            self, queries: int, keys: int | None = None, *, causal: bool = True, query_offset: int = 0
        ) -> LogPrior: ...

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

        Raises:
            TypeError, ValueError: counts that are none, or causal queries that stand after the last key
        """
        queries, query_offset = whole("queries", queries, 1), whole("query_offset", query_offset)
        keys = query_offset + queries if keys is None else whole("keys", keys, 1)
        first, count = lags(queries, keys, causal=causal, query_offset=query_offset)
        return LogPrior(self.ln_weights(first, count, causal=causal), first)

    def ln_weights(self, first_lag: int, count: int, *, causal: bool = True) -> Tensor:
        """`ln w_h(d)` for the lags from `first_lag` on, `[heads, count]`, in nats. Buckets are laid out for rows
        that see before them, or both ways; all other laws are the same.

        Where nothing learns, log-weights are kept for the next call, of which a step of decoding wants as good as all."""
        theta = self._theta()
        if not _ops.is_still(theta):
            return _ops.ln_weights(theta, self.family, first_lag, count, causal)
        kept = self._kept
        if kept is None or not _is_part(kept, theta, first_lag, count, causal):
            # Rows of a cache that grows ask for lags farther back.
            room = count // 4 if first_lag + count == 1 else 0
            weights = _ops.ln_weights(theta, self.family, first_lag - room, room + count, causal)
            self._kept = kept = ([of.clone() for of in theta], first_lag - room, causal, weights)
        return kept[3][:, first_lag - kept[1] :][:, :count].clone()

    def distribution(self, head: int, *, causal: bool = True) -> Distribution:
        """The prior of a head: quantiles, entropy, class and horizon."""
        if not 0 <= head < self.heads:
            raise IndexError(f"head: expected 0 to {self.heads - 1}, got {head}")
        theta = [of[head].detach().double().tolist() for of in self._theta()]
        return Distribution.from_theta(self.family, theta, causal)

    def __getstate__(self):
        return self.__dict__ | {"_kept": None}

    def _theta(self) -> list[Tensor]:
        return [getattr(self, name).reshape(self.heads, -1).float() for name in self._names]

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class Uniform(PositionalPrior):
    """`ln w(d) = 0`: no positional prior (NoPE)."""

    family = "uniform"

    def ln_weights(self, first_lag: int, count: int, *, causal: bool = True) -> Tensor:
        return torch.zeros(self.heads, count, dtype=torch.float32, device="cpu")


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
    """A log-weight for each of 32 buckets of lags, `weights [heads, 32]`, as T5's bias (arXiv 1910.10683): distances up to 15
    (both ways, to each side, 7) of their own, those beyond in buckets that widen up to 128, the last of which extends."""

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
        self.logits = nn.Parameter(torch.zeros(self.heads, len(components), dtype=torch.float32))

    def reset_parameters(self) -> None:
        """Sets the initial values: those of the components, in equal shares."""
        nn.init.zeros_(self.logits)
        for of in self.components:
            of.reset_parameters()

    def ln_weights(self, first_lag: int, count: int, *, causal: bool = True) -> Tensor:
        shares = torch.log_softmax(self.logits.float(), dim=1)
        each = [of.ln_weights(first_lag, count, causal=causal) for of in self.components]
        return torch.logsumexp(torch.stack(each, dim=1) + shares[:, :, None], dim=1)

    def distribution(self, head: int, *, causal: bool = True) -> Distribution:
        shares = torch.softmax(self.logits[head].detach().double(), dim=0).tolist()
        each = [of.distribution(head, causal=causal) for of in self.components]
        return Distribution.mixture(list(zip(shares, each)))


def _is_part(kept, theta: list[Tensor], first_lag: int, count: int, causal: bool) -> bool:
    """Whether these lags were kept, from the same numbers: a parameter's version would not tell of a change of its `data`."""
    of, first, of_causal, weights = kept
    return (
        of_causal == causal
        and first <= first_lag
        and first_lag + count <= first + weights.shape[1]
        and all(map(torch.equal, of, theta))
    )
