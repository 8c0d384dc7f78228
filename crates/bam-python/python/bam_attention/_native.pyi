"""The Rust side: `bam-kernel` and `bam-prior`. Tensors are DLPack capsules; use what the package exports instead."""

from typing import Any, final

__all__ = [
    "PADDING",
    "Distribution",
    "Rules",
    "__version__",
    "backward",
    "families",
    "forward",
    "ln_weights",
    "ln_weights_gradient",
    "parameters",
    "visible_counts",
]

__version__: str
PADDING: int

@final
class Rules:
    def __new__(
        cls,
        *,
        causal: bool,
        query_offset: int,
        window: int | None,
        first_lag: int,
        temperature_scope: str,
        key_prior_scope: str,
        skipping: str,
        threads: int,
        instructions: str | None = None,
    ) -> Rules: ...

@final
class Distribution:
    """The prior of one head as a distribution over the lag, in float64.

    A lag is key position − query position, in tokens; logarithms are natural. Questions about a row are about a causal
    one of `keys` keys. Raises ValueError for values outside their domains.
    """

    @staticmethod
    def from_json(text: str) -> Distribution: ...
    @staticmethod
    def from_theta(family: str, theta: list[list[float]], causal: bool = True) -> Distribution: ...
    @staticmethod
    def mixture(components: list[tuple[float, Distribution]]) -> Distribution: ...
    def theta(self, family: str) -> list[list[float]]: ...
    def to_json(self) -> str: ...
    @property
    def family(self) -> str: ...
    @property
    def parameters(self) -> list[tuple[str, float]]: ...
    def ln_weight(self, lag: float) -> float: ...
    def ln_pdf(self, lag: float) -> float | None: ...
    def quantile(self, p: float, keys: int) -> int: ...
    def mass_within(self, distance: int, keys: int) -> float: ...
    def mean_distance(self, keys: int) -> float: ...
    def entropy(self, keys: int) -> float: ...
    def classify(self, keys: int) -> str: ...
    def horizon(
        self,
        keys: int,
        content: float,
        epsilon: float = 1e-6,
        ssmax_scale: float | None = None,
        temperature_scope: str = "likelihood_and_prior",
    ) -> int | None: ...

# q, k, v, log-weights, temperature, prior over keys and its remainders, documents of queries and keys, rules.
_Call = tuple[Any, Any, Any, Any, Any | None, Any | None, Any | None, list[Any] | None, Rules]
# Family, heads, for each parameter [heads, width], the first lag and how many, whether causal, threads.
_Law = tuple[str, int, list[Any], tuple[int, int], bool, int]

# Tensors to write to: gradients of q, k, v, log-weights, temperature, prior over keys.
_Gradients = tuple[Any, Any, Any, Any, Any | None, Any | None]

def forward(asked: _Call, out: Any, ln_evidence: Any) -> None: ...
def backward(gradient: Any, out: Any, ln_evidence: Any, asked: _Call, wanted: _Gradients) -> None: ...
def visible_counts(
    batch: int, queries: int, keys: int, documents: list[Any] | None, rules: Rules, out: Any
) -> None: ...
def families() -> list[str]: ...
def parameters(family: str, heads: int) -> list[tuple[str, str, int, list[float]]]: ...
def ln_weights(asked: _Law, out: Any) -> None: ...
def ln_weights_gradient(gradient: Any, asked: _Law, out: list[Any]) -> None: ...
