"""The operation against its definition in float64, and everything around a call."""

import dataclasses
import multiprocessing
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Case, definition, distance, with_gradients
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.library import opcheck
from torch.nn.functional import scaled_dot_product_attention

from bam_attention import PADDING, BayesianAttention, GeneralizedGaussian, LogPrior, ScalableSoftmax, attend, lags

# Sums of a few hundred products in float32; bfloat16 rounds gradients to 8 bits.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}


def packed(batch, tokens):
    """Documents of three lengths, and padding at the end of the second row."""
    ids = torch.arange(tokens).expand(batch, tokens) // 7
    return ids.where(torch.tensor([tokens, tokens - 5]).repeat(batch)[:batch, None] > torch.arange(tokens), PADDING)


CASES = {
    "causal": Case(),
    "one row": Case(queries=1, keys=1, dim=1),
    "odd sizes": Case(batch=1, heads=3, key_heads=1, queries=67, keys=67, dim=13),
    "wide": Case(heads=2, key_heads=2, queries=20, keys=20, dim=160),
    "long": Case(batch=1, heads=2, key_heads=1, queries=300, keys=300, dim=32),
    "tempered": Case(tempered=True),
    "content tempered": Case(tempered=True, rules={"temperature_scope": "likelihood"}),
    "window": Case(rules={"window": 5}),
    "after a cache": Case(queries=3, keys=33, rules={"query_offset": 30}),
    "one row after a cache": Case(queries=1, keys=130, rules={"query_offset": 129}),
    "both ways": Case(rules={"causal": False}),
    "both ways in a window": Case(rules={"causal": False, "window": 4}),
    "cross": Case(queries=9, keys=40, rules={"causal": False}),
    "more queries than keys": Case(queries=40, keys=9, rules={"causal": False}),
    "documents": Case(rules={"documents": packed(2, 33)}),
    "documents both ways": Case(tempered=True, rules={"causal": False, "documents": packed(2, 33)}),
    "cross documents": Case(queries=11, rules={"causal": False, "documents": (packed(2, 11), packed(2, 33))}),
    "off": Case(rules={"skipping": "off"}),
    "over keys": Case(over_keys=2),
    "over keys by query head": Case(over_keys=4, tempered=True),
    "over keys, scaled": Case(over_keys=2, tempered=True, rules={"key_prior_scope": "scaled"}),
    "over keys both ways": Case(over_keys=4, rules={"causal": False, "documents": packed(2, 33)}),
    "over keys after a cache": Case(over_keys=2, queries=1, keys=130, rules={"query_offset": 129}),
}
IMPOSTORS = {
    "sign": "both ways",
    "diagonal": "causal",
    "groups": "causal",
    "scale": "causal",
    "window": "window",
    "documents": "documents",
    "scope": "tempered",
    "key": "over keys",
    "head of keys": "over keys by query head",
    "scope of keys": "over keys, scaled",
}


def run(case: Case, function=attend, **more):
    return with_gradients(function, case.tensors(), case.rules | more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_all_gradients_are_those_of_the_definition(name, dtype):
    case = dataclasses.replace(CASES[name], dtype=dtype)
    got = run(case)
    for of, x in case.tensors().items():
        assert got[of].dtype == x.dtype and got[of].shape == x.shape
    assert got["out"].dtype == dtype
    off = distance(got, run(case, definition))
    assert max(off.values()) < TOLERANCE[dtype], off


@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_the_comparison_refuses_impostors(impostor):
    case = CASES[IMPOSTORS[impostor]]
    off = distance(run(case), run(case, definition, impostor=impostor))
    assert max(off.values()) > 0.05, off


def test_shares_of_the_posterior_that_are_left_out():
    case = Case(batch=1, heads=2, key_heads=2, queries=600, keys=600)
    tensors = case.tensors()
    first, count = lags(600, 600)
    slopes = torch.tensor([0.5, 0.05])[:, None]
    tensors["log_prior"] = slopes * torch.arange(first, first + count)
    exact, off = (attend(**tensors, skipping=of) for of in ("exact", "off"))
    assert torch.equal(exact, off)
    certified = attend(**tensors, skipping=1e-3)
    largest = tensors["v"].abs().max()
    assert 0 < (certified - off).abs().max() <= 2e-3 * largest


@pytest.mark.parametrize("numbers", [float("nan"), float("inf")])
def test_padding_is_not_read(numbers):
    case = CASES["documents"]
    expected = run(case)
    tensors = case.tensors()
    padding = case.rules["documents"] == PADDING
    assert padding.any()
    for of in "qkv":
        tensors[of].masked_fill_(padding[:, None, :, None], numbers)
    got = with_gradients(attend, tensors, case.rules)
    for of in expected:
        assert torch.equal(got[of], expected[of]), of
    assert (got["out"].transpose(1, 2)[padding] == 0).all()


def test_a_row_that_sees_nothing_gives_zeros():
    of_queries, of_keys = torch.tensor([[1, 7]]), torch.tensor([[1, 2, 2]])
    q, k = torch.randn(1, 1, 2, 4, requires_grad=True), torch.randn(1, 1, 3, 4)
    out = attend(q, k, k, torch.zeros(1, 4), causal=False, documents=(of_queries, of_keys))
    assert torch.allclose(out[0, 0, 0], k[0, 0, 0]) and (out[0, 0, 1] == 0).all()
    out.sum().backward()
    assert (q.grad[0, 0, 1] == 0).all()


def test_gradients_are_slopes():
    """A difference of the operation itself, which knows no oracle."""
    case = Case(batch=1, heads=2, key_heads=1, queries=6, keys=6, dim=4, tempered=True)
    tensors = case.tensors()
    gradients = run(case)
    generator = torch.Generator().manual_seed(99)
    weights = torch.randn(gradients["out"].shape, generator=generator, dtype=torch.float64)
    loss = lambda given: (attend(**given).double() * weights).sum().item()
    for of, x in tensors.items():
        direction = torch.randn(x.shape, generator=generator)
        step = 1e-2
        ends = [loss(tensors | {of: x + sign * step * direction}) for sign in (1, -1)]
        slope = (gradients[of].double() * direction).sum().item()
        assert abs((ends[0] - ends[1]) / (2 * step) - slope) < 1e-3 * max(1.0, abs(slope)), of


def test_rows_are_read_in_place_at_any_strides():
    case = Case(key_heads=4)
    tensors = case.tensors()
    expected = attend(**tensors)
    with_heads_inside = {of: tensors[of].transpose(1, 2).contiguous().transpose(1, 2) for of in "qkv"}
    qkv = torch.stack([tensors[of] for of in "qkv"], dim=3)
    from_one = dict(zip("qkv", qkv.unbind(3)))
    last_apart = {of: tensors[of].transpose(2, 3).contiguous().transpose(2, 3) for of in "qkv"}
    for of, views in {"heads inside": with_heads_inside, "of one tensor": from_one, "apart": last_apart}.items():
        assert torch.equal(attend(**tensors | views), expected), of
    shared = tensors["k"][:, :1].expand(-1, 4, -1, -1)
    assert torch.equal(attend(**tensors | {"k": shared}), attend(**tensors | {"k": shared.contiguous()}))


def test_bits_do_not_depend_on_threads():
    threads = torch.get_num_threads()
    case = Case(batch=2, heads=4, queries=300, keys=300, dim=64, tempered=True)
    try:
        each = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            each.append(run(case))
        for other in each[1:]:
            for of, x in each[0].items():
                assert torch.equal(other[of], x), of
    finally:
        torch.set_num_threads(threads)


def test_numpy_arrays_go_through_the_same_function():
    for name in ("causal", "tempered", "cross", "over keys", "over keys, scaled", "documents"):
        case = CASES[name]
        tensors, rules = case.tensors(), dict(case.rules)
        expected = attend(**tensors, **rules)
        if "documents" in rules:
            rules["documents"] = rules["documents"].numpy()
        arrays = {of: x.numpy() for of, x in tensors.items()}
        got = attend(**arrays, **rules)
        assert isinstance(got, np.ndarray) and np.array_equal(got, expected.numpy())
    arrays["q"].setflags(write=False)
    backwards = {of: np.flip(np.flip(x, 1).copy(), 1) for of, x in arrays.items() if of != "log_prior"}
    assert np.array_equal(attend(**arrays | backwards, **rules), got)


def test_arrays_at_odd_places_are_read():
    arrays = {of: x.numpy() for of, x in Case().tensors().items()}
    odd = np.frombuffer(b"x" + arrays["q"].tobytes(), np.uint8)[1:].view(np.float32).reshape(arrays["q"].shape)
    assert not odd.flags.aligned
    assert np.array_equal(attend(**arrays | {"q": odd}), attend(**arrays))


def test_temperatures_are_broadcast():
    case = Case()
    tensors = case.tensors()
    for shape in [(), (1,), (4, 1), (33,), (4, 33), (2, 1, 1), (1, 4, 33)]:
        temperature = (0.5 + torch.rand(shape)).requires_grad_()
        out = attend(**tensors, temperature=temperature)
        full = temperature.detach().expand(2, 4, 33)
        assert torch.allclose(out, attend(**tensors, temperature=full))
        out.sum().backward()
        assert temperature.grad.shape == temperature.shape


def gates(heads, keys, spread=0.4):
    """Logarithms of forget gates in float64."""
    generator = torch.Generator().manual_seed(5)
    return -spread * torch.rand(1, heads, keys, generator=generator, dtype=torch.float64) ** 2


def test_a_running_sum_of_gates_is_the_forgetting_transformer():
    """arXiv 2503.02130: the logit of a pair has the logarithms of the gates between, whose gradient comes back."""
    tensors = Case(key_heads=4, heads=4).tensors()
    tensors["log_prior"] = torch.zeros(4, 33)

    def forgetting(q, k, v, log_prior, ln_f):
        c = ln_f.cumsum(-1)
        bias = (c[..., :, None] - c[..., None, :]).masked_fill(torch.ones(33, 33).triu(1).bool(), -torch.inf)
        q, k, v = q.double(), k.double(), v.double()
        return scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(2, -1, -1, -1))

    def ours(q, k, v, log_prior, ln_f):
        return attend(q, k, v, log_prior, key_prior=-ln_f.cumsum(-1))

    tensors["ln_f"] = gates(4, 33)
    got, expected = (with_gradients(function, tensors | {"log_prior": torch.zeros(4, 33)}, {}) for function in
                     (ours, lambda **of: forgetting(**of) + 0 * of["log_prior"].sum()))
    del expected["log_prior"]
    off = distance(got, expected)
    assert max(off.values()) < 2e-5 and got["ln_f"].dtype == torch.float64, off
    late = with_gradients(lambda **of: ours(**of | {"ln_f": of["ln_f"].roll(1, -1)}), tensors, {})
    assert distance(late, expected)["out"] > 1e-2


def test_long_sums_in_float64_keep_their_digits():
    """In float32 the numbers of a sum over a hundred thousand tokens are 10⁻³ apart."""
    case = Case(batch=1, heads=2, key_heads=2, queries=3, keys=100_000, dim=8, rules={"query_offset": 99_997})
    tensors = case.tensors()
    tensors |= {"q": 0.02 * tensors["q"], "log_prior": torch.zeros(2, 100_000)}
    u = -gates(2, 100_000).cumsum(-1)
    assert u.max() > 1e4
    expected = definition(**tensors, key_prior=u, **case.rules)
    error = lambda u: (attend(**tensors, key_prior=u, **case.rules) - expected).norm() / expected.norm()
    assert error(u) < 1e-6
    assert error(u.float()) > 1e-5
    arrays = {of: x.numpy() for of, x in tensors.items()} | {"key_prior": u.numpy()}
    assert np.array_equal(attend(**arrays, **case.rules), attend(**tensors, key_prior=u, **case.rules))


def test_a_prior_over_keys_serves_a_batch():
    tensors = Case().tensors()
    u = torch.randn(1, 2, 33).requires_grad_()
    out = attend(**tensors, key_prior=u)
    assert torch.equal(out, attend(**tensors, key_prior=u.detach().expand(2, 2, 33)))
    out.sum().backward()
    assert u.grad.shape == u.shape


def test_a_prior_says_its_first_lag():
    tensors = Case().tensors()
    wide = torch.cat([torch.full((4, 10), 9.0), tensors["log_prior"], torch.full((4, 7), 9.0)], 1)
    assert torch.equal(attend(**tensors | {"log_prior": LogPrior(wide, -42)}), attend(**tensors))


def test_checkpoints_and_no_grad():
    tensors = Case().tensors()
    leaves = {of: x.clone().requires_grad_() for of, x in tensors.items()}
    with torch.no_grad():
        assert not attend(**leaves).requires_grad
    checkpointed = torch.utils.checkpoint.checkpoint(attend, *leaves.values(), use_reentrant=False)
    checkpointed.sum().backward()
    expected = with_gradients(attend, tensors, {})
    assert torch.equal(checkpointed.detach(), expected["out"])


def test_the_operator_keeps_the_rules_of_torch_library():
    attend_op = torch.ops.bam_attention.attend.default
    for name in ("tempered", "documents", "cross", "over keys", "over keys by query head"):
        case = CASES[name]
        given = {of: x.requires_grad_() for of, x in case.tensors().items()}
        q, k, v, ln_weights = (given[of] for of in ("q", "k", "v", "log_prior"))
        rest = (given.get("temperature"), given.get("key_prior"), None)
        ids = case.rules.get("documents")
        of = (None, None) if ids is None else (ids.int(), ids.int())
        causal = case.rules.get("causal", True)
        first, _ = lags(case.queries, case.keys, causal=causal)
        rules = (causal, 0, None, first, "likelihood_and_prior", "added", "exact")
        opcheck(attend_op, (q, k, v, ln_weights, *rest, *of, *rules))
    theta = [torch.randn(4, 1, requires_grad=True) for _ in range(3)]
    opcheck(torch.ops.bam_attention.ln_weights.default, (theta, "generalized_gaussian", -8, 12, False))
    opcheck(torch.ops.bam_attention.visible_counts.default, (None, None, 9, 9, True, 0, 4))


def test_whole_graphs_compile_also_for_other_lengths():
    compiled = torch.compile(lambda **given: attend(**given), fullgraph=True, dynamic=True)
    for tokens in (33, 40):
        case = Case(queries=tokens, keys=tokens, tempered=True, over_keys=2)
        expected, got = run(case), run(case, compiled)
        for of, x in expected.items():
            assert torch.equal(got[of], x), of


def test_decoding_compiles_once_for_all_lengths():
    prior, tau = GeneralizedGaussian(4), ScalableSoftmax(4)
    q, k, v, _ = Case(key_heads=4).tensors().values()
    expected = attend(q, k, v, prior(33), temperature=tau(33))
    graphs = []

    def step(q, k, v, place):
        place = {"query_offset": place}
        return attend(q, k, v, prior(1, k.shape[2], **place), temperature=tau(1, k.shape[2], **place), **place)

    count = lambda graph, _inputs: graphs.append(graph) or graph
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=count)
    for n in range(5, 33):
        out = compiled(q[:, :, n : n + 1], k[:, :, : n + 1], v[:, :, : n + 1], n)
        assert torch.allclose(out, expected[:, :, n : n + 1], atol=1e-5)
    assert len(graphs) <= 2


def test_transforms_that_there_are_not_are_refused_by_name():
    tensors = Case().tensors()
    several = {of: torch.stack([x, x]) for of, x in tensors.items()}
    with pytest.raises(NotImplementedError, match="vmap.*batch"):
        torch.func.vmap(lambda given: attend(**given))(several)
    given = lambda q: attend(**tensors | {"q": q}).square().sum()
    prior = GeneralizedGaussian(4)
    by_prior = lambda scale: functional_call(prior, {"scale": scale}, (9,)).ln_weights.square().sum()
    for function, at in [(given, tensors["q"]), (by_prior, prior.scale.detach())]:
        leaf = at.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
        with pytest.raises(NotImplementedError, match="first derivatives, got second"):
            gradient.sum().backward()
        with pytest.raises(NotImplementedError, match="first derivatives, got second"):
            torch.func.grad(lambda x: torch.func.grad(function)(x).sum())(at)
        for forwards in (torch.func.jacfwd(function), torch.func.hessian(function)):
            with pytest.raises(NotImplementedError, match="reverse mode, got forward mode"):
                forwards(at)
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="reverse mode, got forward mode"):
            function(forward_ad.make_dual(at, torch.ones_like(at)))


def test_functional_gradients():
    tensors = Case().tensors()
    given = lambda q: attend(**tensors | {"q": q}).square().sum()
    leaf = tensors["q"].clone().requires_grad_()
    given(leaf).backward()
    assert torch.allclose(torch.func.grad(given)(tensors["q"]), leaf.grad)
    _, pull = torch.func.vjp(given, tensors["q"])
    assert torch.allclose(pull(torch.ones(()))[0], leaf.grad)
    of_heads = lambda q: attend(**tensors | {"q": q}).square().sum((0, 2, 3))
    assert torch.allclose(torch.func.jacrev(of_heads)(tensors["q"]).sum(0), leaf.grad, atol=1e-6)


def test_functional_gradients_of_a_layer():
    layer, x = BayesianAttention(32, 4, scalable_softmax="likelihood"), torch.randn(2, 9, 32)
    given = lambda parameters: functional_call(layer, parameters, (x,))[0].square().sum()
    got = torch.func.grad(given)(dict(layer.named_parameters()))
    layer(x)[0].square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert torch.allclose(got[name], parameter.grad, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint32, torch.uint64])
def test_documents_of_more_bits_are_others_or_none(dtype):
    """2³² is not 0, and what 32 bits can't hold is refused, also in a compiled graph."""
    tensors = Case().tensors()
    ids = packed(2, 33).clamp(min=0)
    expected = attend(**tensors, documents=ids)
    assert torch.equal(attend(**tensors, documents=ids.to(dtype)), expected)
    large = (ids.long() + 2**31).to(dtype)
    compiled = torch.compile(lambda documents: attend(**tensors, documents=documents), fullgraph=True)
    for call in (lambda of: attend(**tensors, documents=of), compiled):
        with pytest.raises(ValueError, match="documents: expected numbers of 32 bits"):
            call(large)
    arrays = {of: x.numpy() for of, x in tensors.items()}
    with pytest.raises(ValueError, match="documents: expected numbers of 32 bits"):
        attend(**arrays, documents=large.numpy())


WRONG = {
    "float64": (lambda t: {"q": t["q"].double()}, TypeError, "q: .*float32 or bfloat16.*float64 on cpu"),
    "float16": (lambda t: {"k": t["k"].half()}, TypeError, "k: .*float16 on cpu"),
    "mixed": (lambda t: {"v": t["v"].bfloat16()}, TypeError, "v: expected float32, as q is, got bfloat16"),
    "meta": (lambda t: {"q": t["q"].to("meta")}, TypeError, "q: .*on the CPU.*meta"),
    "numpy": (lambda t: {"k": t["k"].numpy()}, TypeError, "k: expected a tensor, got ndarray"),
    "list": (lambda t: {"q": [1.0]}, TypeError, "q: expected a tensor, got list"),
    "axes": (lambda t: {"q": t["q"][0]}, ValueError, r"q: expected \[batch, heads, tokens, dim\], got \[4, 33, 16\]"),
    "heads": (lambda t: {"k": t["k"][:, :1].repeat(1, 3, 1, 1), "v": t["v"][:, :1].repeat(1, 3, 1, 1)}, ValueError,
              "query heads: expected a multiple of the 3 key heads, got 4"),
    "k unlike v": (lambda t: {"v": t["v"][:, :, 1:]}, ValueError, "v: expected shape .*33.*got .*32"),
    "batch": (lambda t: {"k": t["k"][:1]}, ValueError, "k: expected shape"),
    "empty": (lambda t: {of: t[of][:, :, :0] for of in "qkv"}, ValueError, "expected at least 1, got 0"),
    "prior": (lambda t: {"log_prior": t["log_prior"][:3]}, ValueError, "log-prior: expected shape"),
    "prior axes": (lambda t: {"log_prior": t["log_prior"][0]}, ValueError, r"log_prior: expected \[heads, lags\]"),
    "prior type": (lambda t: {"log_prior": t["log_prior"].double()}, TypeError, "log_prior: .*float64"),
    "prior of numbers": (lambda t: {"log_prior": 0.5}, TypeError, "log_prior: expected a tensor .*got float"),
    "few lags": (lambda t: {"log_prior": t["log_prior"][:, 1:]}, ValueError, "log-prior: expected the lags -32..=0"),
    "lags both ways": (lambda t: {"causal": False}, ValueError, "expected 65 lags, from -32 on.*got 33"),
    "temperature": (lambda t: {"temperature": torch.ones(3, 33)}, ValueError, r"temperature: expected \[2, 4, 33\]"),
    "temperature type": (lambda t: {"temperature": 2.0}, TypeError, "temperature: expected a tensor, got float"),
    "key prior": (lambda t: {"key_prior": torch.ones(2, 3, 33)}, ValueError, "prior over keys: expected shape .*2, 4, 33"),
    "key prior axes": (lambda t: {"key_prior": torch.ones(4, 33)}, ValueError, r"key_prior: expected \[2 or 1, heads"),
    "key prior type": (lambda t: {"key_prior": torch.ones(2, 4, 33).half()}, TypeError, "key_prior: .*float64.*float16"),
    "key prior scope": (lambda t: {"key_prior_scope": "x"}, ValueError, "key_prior_scope: expected 'added' or .*got 'x'"),
    "scope": (lambda t: {"temperature_scope": "both"}, ValueError, "temperature_scope: expected .*got 'both'"),
    "skipping": (lambda t: {"skipping": "some"}, ValueError, "skipping: expected off, exact, or a number.*some"),
    "epsilon": (lambda t: {"skipping": 2.0}, ValueError, "skipping: expected .*above 0 and below 1, got 2"),
    "documents type": (lambda t: {"documents": torch.zeros(2, 33)}, TypeError, "documents: expected integers.*float32"),
    "documents": (lambda t: {"documents": torch.zeros(2, 3, dtype=torch.int)}, ValueError, "documents .*expected shape"),
    "documents of one": (lambda t: {"documents": (torch.zeros(2, 33, dtype=torch.int),)}, ValueError, "got 1 of Tensor"),
    "offset": (lambda t: {"query_offset": 1}, ValueError, "keys: expected at least query_offset \\+ queries = 34 .*got 33"),
    "few keys": (lambda t: {of: t[of][:, :, :13] for of in "kv"}, ValueError, "keys: expected at least .*= 33 .*got 13"),
    "window of a part": (lambda t: {"window": 2.5}, TypeError, "window: expected a whole number, got float"),
    "large window": (lambda t: {"window": 2**63}, ValueError, r"window: expected less than 2\*\*62, got 9223"),
    "documents of lists": (lambda t: {"documents": [[0] * 33]}, ValueError, r"expected a tensor \[batch.*got 1 of list"),
    "module": (lambda t: {"log_prior": GeneralizedGaussian(4)}, TypeError, "got GeneralizedGaussian; a prior is called"),
    "class": (lambda t: {"log_prior": GeneralizedGaussian}, TypeError, "got GeneralizedGaussian, a class; a prior is"),
    "negative offset": (lambda t: {"query_offset": -1}, ValueError, "query_offset: expected at least 0, got -1"),
    "negative window": (lambda t: {"window": -1}, ValueError, "window: expected at least 0, got -1"),
    "no lags": (lambda t: {"log_prior": t["log_prior"][:, :0]}, ValueError, "log-prior: expected the lags -32..=0"),
    "skipping type": (lambda t: {"skipping": None}, TypeError, "skipping: expected .*NoneType"),
    "sparse": (lambda t: {"q": t["q"].to_sparse()}, TypeError, "q: .*got sparse_coo float32 on cpu"),
    "nested": (lambda t: {"q": torch.nested.nested_tensor([t["q"][0].detach(), t["q"][1, :, 1:].detach()])}, TypeError,
               "q: .*got nested float32 on cpu"),
}


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named(name, traced):
    change, kind, words = WRONG[name]
    tensors = Case().tensors()
    if traced:
        tensors = {of: x.requires_grad_() for of, x in tensors.items()}
        if "numpy" in name:
            pytest.skip("an array has no gradient")
    with pytest.raises(kind, match=words):
        attend(**tensors | change(tensors))


def test_wrong_arrays_are_named():
    arrays = {of: x.numpy() for of, x in Case().tensors().items()}
    for change, kind, words in [
        ({"q": arrays["q"].astype(np.float64)}, TypeError, "q: expected float32, got float64"),
        ({"v": torch.zeros(2, 2, 33, 16)}, TypeError, "v: expected a numpy array, as q is, got Tensor"),
        ({"k": arrays["k"][0]}, ValueError, "k: expected .batch"),
        ({"documents": np.zeros((2, 33))}, TypeError, "documents: expected integers"),
        ({"temperature": np.ones((3, 33))}, ValueError, "temperature: expected"),
        ({"q": np.ma.masked_array(arrays["q"])}, TypeError, "q: expected a numpy array.*MaskedArray"),
        ({"log_prior": arrays["log_prior"] * 1j}, TypeError, "log_prior: expected real numbers, got complex"),
        ({"log_prior": GeneralizedGaussian(4)(33)}, TypeError, r"got Tensor; of a tensor: LogPrior\(of.ln_weights.detach"),
        ({"v": arrays["v"][..., :8]}, ValueError, "v: expected 16 wide, as q is, got 8"),
        ({of: arrays[of][:0] for of in "qkv"}, ValueError, "batch: expected at least 1, got 0"),
    ]:
        with pytest.raises(kind, match=words):
            attend(**arrays | change)


FORKED = Case(batch=1, heads=2, queries=300, keys=300, dim=64)


def _in_a_child(queue):
    # PyTorch's own threads do not survive a fork, which is why its loaders have one in each worker.
    torch.set_num_threads(1)
    arrays = {of: x.numpy() for of, x in FORKED.tensors().items()}
    queue.put((attend(**arrays), run(FORKED)["q"].numpy()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_children_of_fork_compute_with_threads_of_their_own():
    expected = run(FORKED)
    attend(**{of: x.numpy() for of, x in FORKED.tensors().items()})
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue,), daemon=True)
    child.start()
    out, d_q = queue.get(timeout=60)
    assert np.array_equal(out, expected["out"].numpy()) and np.array_equal(d_q, expected["q"].numpy())


class Attended(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return attend(**Case(seed=index).tensors())


def test_workers_of_a_loader_compute():
    attend(**Case().tensors())
    loader = torch.utils.data.DataLoader(Attended(), batch_size=None, num_workers=2, timeout=60)
    for index, out in enumerate(loader):
        assert torch.equal(out, attend(**Case(seed=index).tensors()))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    batch=st.integers(1, 3),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    queries=st.integers(1, 70),
    before=st.integers(0, 70),
    dim=st.integers(1, 70),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 80),
    seed=st.integers(0, 1000),
)
def test_random_calls_are_those_of_sdpa_with_a_bias(batch, key_heads, group, queries, before, dim, causal, window, seed):
    rules = {"causal": causal, "query_offset": before, "window": window}
    keys, heads = before + queries, group * key_heads
    case = Case(batch, heads, key_heads, queries, keys, dim, seed=seed, rules=rules)
    tensors = case.tensors()
    lag = torch.arange(keys)[None] - before - torch.arange(queries)[:, None]
    first, count = lags(queries, keys, causal=causal, query_offset=before)
    hidden = (lag > 0) & causal | (lag.abs() >= (window or keys + queries))
    bias = tensors["log_prior"][:, (lag - first).clamp(0, count - 1)].masked_fill(hidden, -torch.inf)
    expected = scaled_dot_product_attention(
        tensors["q"], tensors["k"], tensors["v"], attn_mask=bias, enable_gqa=group > 1
    )
    assert torch.allclose(attend(**tensors, **rules), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("number", [torch.float32, torch.float64])
def test_nothing_hides_a_key(number):
    """ln 0 is the log-weight of a key that does not count, in both float types."""
    case = Case(batch=1)
    tensors = case.tensors()
    u = torch.zeros(1, case.heads, case.keys, dtype=number)
    u[..., 2] = -torch.inf
    low = u.clamp_min(-1e30)
    got, expected = (attend(**tensors, key_prior=of, **case.rules) for of in (u, low))
    rows = slice(3, None)  # who sees other keys
    assert torch.equal(got[..., rows, :], expected[..., rows, :]) and got[..., rows, :].isfinite().all()
    arrays = {of: x.numpy() for of, x in tensors.items()} | {"key_prior": u.numpy()}
    assert np.array_equal(attend(**arrays, **case.rules)[..., rows, :], got[..., rows, :].numpy())
    u[..., 0] = -torch.inf
    u.requires_grad_()
    got = attend(**tensors, key_prior=u, **case.rules)
    got.sum().backward()
    assert got[..., 0, :].eq(0).all() and got.isfinite().all()  # the first row sees nothing
    assert u.grad.isfinite().all() and u.grad[..., [0, 2]].eq(0).all()
