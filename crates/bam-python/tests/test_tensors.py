"""Tensors as PyTorch makes them: cast by autocast, as wide as they are, with signs that are turned when they are read."""

import pytest
import torch
from oracle import Case, definition, distance, with_gradients
from torch.nn.functional import scaled_dot_product_attention

from bam_attention import GeneralizedGaussian, LogPrior, attend

# As of test_operation.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("types", [("float32",) * 3, ("float32", "float32", "bfloat16"), ("float16", "bfloat16", "float32")])
def test_autocast_casts_as_for_sdpa(types, compiled):
    """Rotary models bring q and k in float32 and v in bfloat16. The backward pass runs outside, as it should, and inside."""
    tensors = Case(key_heads=4).tensors()
    given = tensors | {of: tensors[of].to(getattr(torch, name)) for of, name in zip("qkv", types)}
    expected = with_gradients(attend, {of: x if of == "log_prior" else x.bfloat16() for of, x in given.items()}, {})
    function = torch.compile(attend, fullgraph=True) if compiled else attend

    def cast(**leaves):
        with torch.autocast("cpu", torch.bfloat16):
            return function(**leaves)

    with torch.autocast("cpu", torch.bfloat16):
        like = scaled_dot_product_attention(given["q"], given["k"], given["v"])
        inside = with_gradients(function, given, {})
    outside = with_gradients(cast, given, {})
    assert like.dtype == outside["out"].dtype == torch.bfloat16
    for of, x in expected.items():
        assert of == "out" or inside[of].dtype == outside[of].dtype == given[of].dtype
        assert torch.equal(inside[of].float(), x.float()) and torch.equal(outside[of].float(), x.float()), of


def test_other_types_of_autocast_are_refused():
    tensors = Case().tensors()
    with torch.autocast("cpu", torch.float16), pytest.raises(TypeError, match="autocast: expected bfloat16, got float16"):
        attend(**tensors)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(TypeError, match="q: .*got float64"):
        attend(**tensors | {of: tensors[of].double() for of in "qkv"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 5, 17, 40])
def test_values_are_as_wide_as_they_are(width, dtype):
    case = Case(dtype=dtype, tempered=True)
    tensors = case.tensors()
    tensors["v"] = torch.randn(2, 2, 33, width).to(dtype)
    rules = {"window": 20}
    got, expected = (with_gradients(function, tensors, rules) for function in (attend, definition))
    assert got["out"].shape == (2, 4, 33, width) and got["out"].dtype == dtype
    off = distance(got, expected)
    assert max(off.values()) < TOLERANCE[dtype], off
    impostor = with_gradients(attend, tensors | {"v": tensors["v"].roll(1, 3)}, rules)
    assert width == 1 or max(distance(impostor, expected).values()) > 0.05


def turned(x):
    """The same numbers, in memory with the other sign."""
    return torch._neg_view(-x)


def test_signs_that_are_turned_when_they_are_read():
    tensors = Case(tempered=True).tensors()
    expected = with_gradients(attend, tensors, {})
    for of, x in tensors.items():
        assert turned(x).is_neg() and torch.equal(attend(**tensors | {of: turned(x)}), expected["out"]), of
    of_complex = torch.complex(torch.zeros_like(tensors["q"]), -tensors["q"]).conj().imag
    assert of_complex.is_neg() and torch.equal(attend(**tensors | {"q": of_complex}), expected["out"])
    assert not torch.equal(attend(**tensors | {"q": -tensors["q"]}), expected["out"])


def test_gradients_whose_signs_are_turned_and_zeros_without_memory():
    leaves = [x.requires_grad_() for x in Case().tensors().values()]
    prior = GeneralizedGaussian(4)
    for out, of in ((attend(*leaves), leaves), (prior(9).ln_weights, list(prior.parameters()))):
        given = torch.randn(out.shape)
        slopes = lambda upstream: torch.autograd.grad(out, of, upstream, retain_graph=True)
        for got, expected in zip(slopes(turned(given)), slopes(given)):
            assert torch.equal(got, expected) and expected.abs().max() > 0
        assert all((got == 0).all() for got in slopes(torch._efficientzerotensor(out.shape)))
    nothing = torch._efficientzerotensor((2, 4, 33, 16))
    rest = [x.detach() for x in leaves[1:]]
    assert torch.equal(attend(nothing, *rest), attend(torch.zeros(2, 4, 33, 16), *rest))


def test_several_gradients_at_a_time_are_refused():
    prior = GeneralizedGaussian(4)
    tensors = Case().tensors()
    out = attend(**tensors | {"log_prior": LogPrior(prior(33).ln_weights, -32)})
    for of in (out, prior(9).ln_weights):
        with pytest.raises(NotImplementedError, match="one gradient at a time, got is_grads_batched=True"):
            torch.autograd.grad(of, prior.scale, torch.ones(3, *of.shape), is_grads_batched=True)
