"""Priors that learn: their laws, gradients, starts, and what can be asked of them."""

import copy
import json
import math
import pickle

import pytest
import torch

import bam_attention
from bam_attention import (
    ALiBi,
    Distribution,
    Gaussian,
    GeneralizedGaussian,
    KerpleLog,
    KerplePower,
    LaplaceSlab,
    Mixture,
    ScalableSoftmax,
    StudentT,
    T5Buckets,
    Table,
    Uniform,
    attend,
    lags,
)

FAMILIES = [ALiBi, Gaussian, GeneralizedGaussian, KerpleLog, KerplePower, LaplaceSlab, StudentT, T5Buckets, Table]
HEADS = 4
LAGS = torch.arange(-40.0, 21.0, dtype=torch.float64)


def moved(family):
    """Heads that have learned something."""
    torch.manual_seed(1)
    prior = family(HEADS)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.requires_grad_().add_(0.3 * torch.randn(parameter.shape))
    return prior


def written_out(prior, impostor=False):
    """The laws from their papers, in float64."""
    d = LAGS[None]
    of = {name: x.detach().double()[:, None] for name, x in prior.named_parameters() if x.dim() == 1}
    located = lambda name: d - (of[name].exp() if impostor else 2 * of[name].sinh())
    match prior:
        case ALiBi():
            return -of["scale"].exp() * (d if impostor else d.abs())
        case Gaussian():
            return -of["scale"].exp() * located("location") ** 2
        case GeneralizedGaussian():
            return -of["scale"].exp() * (located("loc").abs() + 1e-5) ** of["shape"]
        case KerpleLog():
            return -of["scale"].exp() * ((1 - impostor) + of["rate"].exp() * d.abs()).log()
        case KerplePower():
            return -of["scale"].exp() * d.abs() ** ((2 - impostor) / (1 + (-of["exponent"]).exp()))
        case StudentT():
            nu = of["shape"].exp()
            return -(nu + 1) / 2 * (1 + (located("location") / of["scale"].exp()) ** 2 / nu).log()
        case LaplaceSlab():
            slab = torch.sigmoid(of["slab"] * (1 - impostor))
            return ((1 - slab) * (-of["scale"].exp() * d.abs()).exp() + slab).log()
        case Table():
            return prior.weights.detach().double()[:, (LAGS.long().abs() - int(impostor)).clamp(min=0)]


@pytest.mark.parametrize("family", [of for of in FAMILIES if of is not T5Buckets])
def test_laws_are_those_of_the_papers(family):
    prior = moved(family)
    got = prior.ln_weights(-40, 61)
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), written_out(prior), rtol=2e-6, atol=2e-6)
    assert not torch.allclose(got.double(), written_out(prior, impostor=True), rtol=1e-3, atol=1e-3, equal_nan=True)


def test_buckets_are_t5s():
    prior = moved(T5Buckets)
    weights = prior.weights.detach()
    causal, both = prior.ln_weights(-500, 501), prior.ln_weights(-500, 1001, causal=False)

    def bucket(lag, buckets):
        distance, exact = abs(lag), buckets // 2
        if distance < exact:
            return distance
        large = exact + int(math.log(distance / exact) / math.log(128 / exact) * (buckets - exact) + 1e-12)
        return min(large, buckets - 1)

    for column, lag in enumerate(range(-500, 1)):
        assert torch.equal(causal[:, column], weights[:, bucket(lag, 32)])
        assert torch.equal(both[:, column], weights[:, bucket(lag, 16)])
        if lag < 0:
            assert torch.equal(both[:, 500 - lag], weights[:, 16 + bucket(lag, 16)])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_are_slopes(family, causal):
    prior = moved(family)
    upstream = torch.randn(HEADS, 61, dtype=torch.float64)
    first = -40 if causal else -30
    (prior.ln_weights(first, 61, causal=causal) * upstream).sum().backward()
    for name, parameter in prior.named_parameters():
        theta = [x.detach().double().reshape(HEADS, -1) for x in prior.parameters()]
        index = [n for n, _ in prior.named_parameters()].index(name)
        for head in range(HEADS):
            for column in range(theta[index].shape[1]):

                def at(step):
                    rows = [x[head].clone() for x in theta]
                    rows[index][column] += step
                    of = Distribution.from_theta(prior.family, [x.tolist() for x in rows], causal)
                    values = [of.ln_weight(first + c) for c in range(61)]
                    return (torch.tensor(values, dtype=torch.float64) * upstream[head]).sum().item()

                slope = (at(1e-6) - at(-1e-6)) / 2e-6
                got = parameter.grad.reshape(HEADS, -1)[head, column].item()
                assert got == pytest.approx(slope, rel=1e-3, abs=1e-3), (name, head, column)


def test_gradients_go_through_attention_to_what_heads_store():
    prior = moved(GeneralizedGaussian)
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, HEADS, 40, 8) for _ in range(3))
    loss = lambda: attend(q, k, v, prior(40)).double().square().sum()
    loss().backward()
    for name, parameter in prior.named_parameters():
        direction = torch.randn(parameter.shape)
        with torch.no_grad():
            ends = []
            for sign in (1, -2):
                parameter.add_(sign * 1e-2 * direction)
                ends.append(loss().item())
            parameter.add_(1e-2 * direction)
        slope = (ends[0] - ends[1]) / 2e-2
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=2e-2, abs=1e-3), name


def test_starts():
    slopes = torch.tensor([2.0 ** -(8 * (h + 1) / 8) for h in range(8)])
    first, count = lags(50, 50)
    alibi = slopes[:, None] * torch.arange(first, first + count)
    assert torch.allclose(ALiBi(8)(50).ln_weights, alibi)
    assert torch.allclose(GeneralizedGaussian(8)(50).ln_weights, alibi, atol=1e-4)
    assert not ALiBi(8).scale.requires_grad and ALiBi(8, learned=True).scale.requires_grad
    assert (Uniform(8)(50).ln_weights == 0).all() and not list(Uniform(8).parameters())
    assert list(dict(GeneralizedGaussian(3).named_parameters())) == ["loc", "scale", "shape"]
    assert T5Buckets(3).weights.shape == (3, 32)


def test_lags_of_a_call():
    prior = ALiBi(2)
    assert prior(3, 10, query_offset=7).first_lag == -9
    assert prior(3, query_offset=7).ln_weights.shape == (2, 10)
    both = prior(3, 5, causal=False)
    assert (both.first_lag, both.ln_weights.shape) == (-2, (2, 7))


def test_distributions_answer():
    prior = ALiBi(8)
    of = prior.distribution(0)
    assert of.family == "laplace" and dict(of.parameters) == {"slope": pytest.approx(0.5, abs=1e-7)}
    assert of.quantile(0.99, 64_000) == 9 and of.classify(64_000) == "local"
    assert of.ln_weight(-6) == pytest.approx(-3) and of.ln_pdf(0) == pytest.approx(math.log(0.25))
    assert of.horizon(100_000, content=10.0) == 67
    assert of.horizon(100, content=1e4) is None
    assert of.mass_within(10**6, 100) == 1.0 and of.mean_distance(1) == 0.0
    flat = Uniform(1).distribution(0)
    assert flat.entropy(1000) == pytest.approx(math.log(1000)) and flat.classify(1000) == "flat"
    assert flat.ln_pdf(0) is None
    again = Distribution.from_json(of.to_json())
    assert copy.deepcopy(of) == of and pickle.loads(pickle.dumps(of)) == of
    assert again == of and json.loads(of.to_json())["family"] == "laplace" and "laplace" in repr(of)


@pytest.mark.parametrize("family", [of for of in FAMILIES if of is not T5Buckets] + [T5Buckets])
def test_distributions_go_back_into_heads(family):
    prior = moved(family)
    each = [prior.distribution(head) for head in range(HEADS)]
    again = family.from_distributions(each)
    for name, parameter in prior.named_parameters():
        assert torch.allclose(getattr(again, name), parameter, rtol=1e-5, atol=1e-6), name


def test_mixtures():
    prior = Mixture([moved(ALiBi), Uniform(HEADS)])
    with torch.no_grad():
        prior.logits.add_(torch.randn(HEADS, 2))
    weights = prior.ln_weights(-40, 41)
    for head in range(HEADS):
        of = prior.distribution(head)
        assert of.family == "mixture"
        expected = [of.ln_weight(lag) for lag in range(-40, 1)]
        assert torch.allclose(weights[head], torch.tensor(expected), atol=1e-5)
    weights.square().sum().backward()
    assert prior.logits.grad.abs().min() > 0 and prior.components[0].scale.grad.abs().min() > 0


def test_scalable_softmax_counts_visible_keys():
    tau = ScalableSoftmax(2)
    assert torch.allclose(tau(5), torch.arange(1, 6).log().expand(1, 2, 5))
    assert torch.allclose(tau(5, window=3), torch.tensor([1, 2, 3, 3, 3]).log().expand(1, 2, 5))
    assert torch.allclose(tau(1, 9, query_offset=8), torch.full((1, 2, 1), math.log(9)))
    ids = torch.tensor([[0, 0, 1, 1, 1]])
    assert torch.allclose(tau(5, documents=ids), torch.tensor([1, 2, 1, 2, 3]).log().expand(1, 2, 5))
    tau(5).sum().backward()
    assert torch.allclose(tau.scale.grad, torch.arange(1, 6).log().sum().expand(2))


def test_wrong_values_are_named():
    for call, kind, words in [
        (lambda: ALiBi(0), ValueError, "heads: expected at least 1, got 0"),
        (lambda: ALiBi(2).distribution(2), IndexError, "head: expected 0 to 1, got 2"),
        (lambda: Mixture([ALiBi(2), Uniform(3)]), ValueError, "as many heads"),
        (lambda: Distribution.from_json('{"family": "laplace", "slope": -1}'), ValueError, "slope.*above 0"),
        (lambda: Distribution.from_theta("laplacian", []), ValueError, "expected one of uniform, laplace"),
        (lambda: KerpleLog.from_distributions([ALiBi(1).distribution(0)]), ValueError, "kerple_log heads can have"),
        (lambda: ALiBi(1).distribution(0).quantile(0, 9), ValueError, "quantile p"),
        (lambda: ALiBi(1).distribution(0).entropy(0), ValueError, "row keys: expected at least 1"),
    ]:
        with pytest.raises(kind, match=words):
            call()
    broken = GeneralizedGaussian(2)
    with torch.no_grad():
        broken.shape[1] = float("nan")
    with pytest.raises(ValueError, match="head 1: .*shape"):
        broken(9)
    for call, kind, words in [
        (lambda: ALiBi(2)(0), ValueError, "queries: expected at least 1, got 0"),
        (lambda: ALiBi(2)(torch.ones(3)), TypeError, "queries: expected a whole number, got Tensor"),
        (lambda: ALiBi(2)(5.0), TypeError, "queries: expected a whole number, got float"),
        (lambda: ALiBi(2)(20, 13), ValueError, r"keys: expected at least query_offset \+ queries = 20 .*got 13"),
        (lambda: ALiBi(2.0), TypeError, "heads: expected a whole number, got float"),
    ]:
        with pytest.raises(kind, match=words):
            call()


@pytest.mark.parametrize("family", [*FAMILIES, lambda heads: Mixture([moved(ALiBi), GeneralizedGaussian(heads)])])
def test_initial_values_come_back(family):
    prior, fresh = family(HEADS), family(HEADS)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(1.0)
    prior.reset_parameters()
    if isinstance(prior, Mixture):
        fresh.components[0].reset_parameters()
    assert all(map(torch.equal, prior.parameters(), fresh.parameters()))


@pytest.mark.parametrize("family", FAMILIES)
def test_log_weights_that_are_kept_are_those_of_now(family, monkeypatch):
    """However a parameter changes: a step, its data, a tensor in its place."""
    prior = moved(family)
    calls = []
    compute = bam_attention._ops.ln_weights
    monkeypatch.setattr(bam_attention._ops, "ln_weights", lambda *given: calls.append(given) or compute(*given))
    asked = [(9, None, True), (1, 9, True), (1, 10, True), (1, 60, True), (9, None, True), (4, 9, False), (9, 9, False)]

    def agree():
        learning = [prior(queries, keys, causal=causal, query_offset=0 if not causal else (keys or queries) - queries)
                    for queries, keys, causal in asked]
        with torch.no_grad():
            kept = [prior(queries, keys, causal=causal, query_offset=0 if not causal else (keys or queries) - queries)
                    for queries, keys, causal in asked]
        for got, expected in zip(kept, learning):
            assert got.first_lag == expected.first_lag and torch.equal(got.ln_weights, expected.ln_weights)
            # To write to what was asked for is to write to no one else's.
            got.ln_weights.zero_()

    parameter = next(prior.parameters())
    with torch.inference_mode():
        prior(9)
    agree()
    agree()
    with torch.no_grad():
        parameter.add_(0.1)
    agree()
    parameter.data.mul_(1.1)
    agree()
    parameter.data = parameter.data + 0.1
    agree()
    assert copy.deepcopy(prior)._kept is None and prior._kept is not None
    calls.clear()
    with torch.no_grad():
        for keys in range(9, 400):
            prior(1, keys, query_offset=keys - 1)
    assert 0 < len(calls) < 30
