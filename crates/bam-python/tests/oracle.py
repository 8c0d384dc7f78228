"""The definition, in float64 with every score in memory, and impostors of it that a test must refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

import bam_attention


@dataclass
class Case:
    """A random call. `rules` are keyword arguments of `attend`."""

    batch: int = 2
    heads: int = 4
    key_heads: int = 2
    queries: int = 33
    keys: int = 33
    dim: int = 16
    dtype: torch.dtype = torch.float32
    seed: int = 0
    tempered: bool = False
    # Heads of a prior over keys.
    over_keys: int = 0
    rules: dict = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator)
        causal, offset = self.rules.get("causal", True), self.rules.get("query_offset", 0)
        _, count = bam_attention.lags(self.queries, self.keys, causal=causal, query_offset=offset)
        of_keys = (self.batch, self.key_heads, self.keys, self.dim)
        tensors = {
            "q": draw(self.batch, self.heads, self.queries, self.dim).to(self.dtype),
            "k": draw(*of_keys).to(self.dtype),
            "v": draw(*of_keys).to(self.dtype),
            "log_prior": draw(self.heads, count),
        }
        if self.tempered:
            tensors["temperature"] = 0.5 + torch.rand(self.batch, self.heads, self.queries, generator=generator)
        if self.over_keys:
            tensors["key_prior"] = 3 * draw(self.batch, self.over_keys, self.keys)
        return tensors


def definition(
    q,
    k,
    v,
    log_prior,
    temperature=None,
    key_prior=None,
    *,
    causal=True,
    query_offset=0,
    window=None,
    documents=None,
    temperature_scope="likelihood_and_prior",
    key_prior_scope="added",
    skipping=None,
    impostor="",
) -> Tensor:
    """`softmax(τ·(q·k/√D + ln w(j − i)) + u_j)·v`, differentiable. An `impostor` gets one thing wrong."""
    q, k, v, log_prior = (x.double() for x in (q, k, v, log_prior))
    batch, heads, queries, dim = q.shape
    keys = k.shape[2]
    group = heads // k.shape[1]
    if impostor == "groups":
        k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)
    else:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    rows = query_offset + torch.arange(queries)[:, None]
    lags = torch.arange(keys)[None] - rows
    first, _ = bam_attention.lags(queries, keys, causal=causal, query_offset=query_offset)
    visible = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        visible &= lags <= (-1 if impostor == "diagonal" else 0)
    if window is not None:
        visible &= lags.abs() < window + (impostor == "window")
    columns = (-lags if impostor == "sign" else lags) - first
    ln_weights = log_prior[:, columns.clamp(0, log_prior.shape[1] - 1)]
    visible = visible.expand(batch, heads, queries, keys)
    if documents is not None and impostor != "documents":
        of_queries, of_keys = documents if isinstance(documents, tuple) else (documents, documents)
        same = (of_queries[:, :, None] == of_keys[:, None, :]) & (of_keys != bam_attention.PADDING)[:, None, :]
        visible = visible & same[:, None]
        hidden = (of_keys == bam_attention.PADDING)[:, None, :, None]
        q = q.masked_fill((of_queries == bam_attention.PADDING)[:, None, :, None], 0.0)
        k, v = k.masked_fill(hidden, 0.0), v.masked_fill(hidden, 0.0)
    content = q @ k.transpose(2, 3) / (dim if impostor == "scale" else math.sqrt(dim))
    if temperature is None:
        logits = content + ln_weights
    else:
        tau = temperature.double()[..., None]
        inside = temperature_scope == "likelihood_and_prior"
        inside ^= impostor == "scope"
        logits = tau * (content + ln_weights) if inside else tau * content + ln_weights
    if key_prior is not None:
        u = key_prior.double().repeat_interleave(heads // key_prior.shape[1], 1)[:, :, None]
        u = u.roll(1, -1) if impostor == "key" else u.roll(1, 1) if impostor == "head of keys" else u
        scaled = key_prior_scope == "scaled"
        scaled ^= impostor == "scope of keys"
        logits = logits + (u if temperature is None or not scaled else tau * u)
    logits = logits.masked_fill(~visible, -torch.inf)
    largest = logits.amax(-1, keepdim=True).clamp(min=-1e300).detach()
    weights = (logits - largest).exp()
    evidence = weights.sum(-1, keepdim=True)
    return (weights / torch.where(evidence > 0, evidence, 1.0)) @ v


def with_gradients(function, tensors: dict[str, Tensor], rules: dict) -> dict[str, Tensor]:
    """The output, and the gradients of Σ out·c, c fixed, by name."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
    out = function(**leaves, **rules)
    generator = torch.Generator().manual_seed(99)
    loss = (out.double() * torch.randn(out.shape, generator=generator, dtype=torch.float64)).sum()
    loss.backward()
    return {"out": out.detach()} | {name: x.grad for name, x in leaves.items()}


def distance(got: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """The largest error of each, relative to the largest number of what was expected."""
    return {
        name: ((got[name].double() - x).abs().max() / x.abs().max().clamp(min=1e-30)).item() for name, x in expected.items()
    }
