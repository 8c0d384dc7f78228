"""The module: beside `torch.nn.MultiheadAttention`, trained, compiled, refused; and pictures."""

import pytest
import torch
from torch import nn

from bam_attention import PADDING, ALiBi, BayesianAttention, ScalableSoftmax, Uniform, plot_prior


def pair(causal):
    """Ours without a prior, and PyTorch's with the same weights."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True)
    ours = BayesianAttention(32, 4, Uniform(4), causal=causal)
    for at, name in enumerate(["q_proj", "k_proj", "v_proj"]):
        ours.get_submodule(name).weight.data = theirs.in_proj_weight.data[at * 32 :][:32]
        ours.get_submodule(name).bias.data = theirs.in_proj_bias.data[at * 32 :][:32] + 0.1
    theirs.in_proj_bias.data += 0.1
    ours.out_proj.load_state_dict(theirs.out_proj.state_dict())
    return ours, theirs


def test_without_a_prior_it_is_pytorchs():
    x, memory = torch.randn(2, 19, 32), torch.randn(2, 11, 32)
    padding = torch.arange(11)[None] >= torch.tensor([11, 6])[:, None]
    ours, theirs = pair(causal=True)
    hidden = torch.ones(19, 19, dtype=torch.bool).triu(1)
    assert torch.allclose(ours(x)[0], theirs(x, x, x, attn_mask=hidden, need_weights=False)[0], atol=1e-5)
    ours, theirs = pair(causal=False)
    got = ours(x, memory, memory, key_padding_mask=padding)[0]
    assert torch.allclose(got, theirs(x, memory, memory, key_padding_mask=padding)[0], atol=1e-5)
    itself, mask = torch.randn(2, 11, 32), padding
    got = ours(itself, key_padding_mask=mask)[0]
    expected = theirs(itself, itself, itself, key_padding_mask=mask)[0]
    assert torch.allclose(got[~mask], expected[~mask], atol=1e-5)
    # Where there is no token, what is there is not read.
    itself[mask] = float("nan")
    assert torch.equal(ours(itself, key_padding_mask=mask)[0], got)


def test_a_prior_changes_it():
    torch.manual_seed(0)
    x = torch.randn(2, 19, 32)
    with_prior, without = BayesianAttention(32, 4), BayesianAttention(32, 4, Uniform(4))
    without.load_state_dict(with_prior.state_dict(), strict=False)
    assert not torch.allclose(with_prior(x)[0], without(x)[0], atol=1e-3)


def test_it_goes_on_after_a_cache():
    torch.manual_seed(0)
    layer = BayesianAttention(32, 4, num_kv_heads=2, window=9, scalable_softmax="likelihood")
    x = torch.randn(1, 20, 32)
    whole, _ = layer(x)
    last, none = layer(x[:, 15:], x, query_offset=15)
    assert none is None and torch.allclose(last, whole[:, 15:], atol=1e-6)


def test_gates_forget():
    """Rows of the Forgetting Transformer: a sum of ln f between key and row, beside what the layer has otherwise."""
    torch.manual_seed(0)
    starts = [-1.0, 0.0, 0.5, 2.0]
    layer = BayesianAttention(
        32, 4, Uniform(4), num_kv_heads=2, kdim=24, vdim=24, scalable_softmax="likelihood", forget_gate=True, forget_bias=starts
    )
    assert layer.forget_gate.bias.tolist() == starts
    x, memory = torch.randn(2, 21, 32), torch.randn(2, 21, 24)
    heads = lambda projected, count: projected.unflatten(2, (count, 8)).transpose(1, 2).repeat_interleave(4 // count, 1)
    q, k, v = heads(layer.q_proj(x), 4), heads(layer.k_proj(memory), 2), heads(layer.v_proj(memory), 2)
    sums = torch.nn.functional.logsigmoid(layer.forget_gate(memory)).transpose(1, 2).cumsum(-1)
    seen = torch.arange(1, 22).log()[:, None]
    expected = seen * (q @ k.transpose(2, 3)) / 8**0.5 + sums[..., None] - sums[:, :, None]
    later = torch.ones(21, 21, dtype=torch.bool).triu(1)
    rows = expected.masked_fill(later, -torch.inf).softmax(-1) @ v
    expected = layer.out_proj(rows.transpose(1, 2).flatten(2))
    got, _ = layer(x, memory, memory)
    assert torch.allclose(got, expected, atol=1e-5)
    last, _ = layer(x[:, 15:], memory, memory, query_offset=15)
    assert torch.allclose(last, got[:, 15:], atol=1e-5)
    gradients = [torch.autograd.grad(out.square().sum(), layer.forget_gate.parameters()) for out in (got, expected)]
    for ours, theirs in zip(*gradients):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        layer.forget_gate.bias.fill_(30)
    assert not torch.allclose(layer(x, memory, memory)[0], expected, atol=1e-2)
    layer.reset_parameters()
    assert layer.forget_gate.bias.tolist() == starts
    assert BayesianAttention(32, 4, forget_gate=True, forget_bias=5).forget_gate.bias.tolist() == [5.0] * 4


def test_padding_forgets_nothing():
    """Under a uniform prior, tokens attend as if padding between them were not there."""
    torch.manual_seed(0)
    layer = BayesianAttention(32, 4, Uniform(4), forget_gate=True)
    x, none = torch.randn(1, 20, 32), torch.randn(1, 5, 32)
    padded = torch.cat([x[:, :8], none, x[:, 8:]], 1)
    padding = torch.zeros(1, 25, dtype=torch.bool)
    padding[:, 8:13] = True
    expected, tokens = layer(x)[0], ~padding[0]
    got = layer(padded, key_padding_mask=padding)[0][:, tokens]
    assert torch.allclose(got, expected, atol=1e-5)
    assert not torch.allclose(layer(padded)[0][:, tokens], expected, atol=1e-2)


def test_it_learns_a_lag():
    """To copy the token seven places back is to find a location of −7."""
    torch.manual_seed(0)
    layer = BayesianAttention(32, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-2)
    for _ in range(150):
        x = torch.randn(4, 40, 32)
        loss = (layer(x)[0][:, 7:] - x[:, :-7]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5
    locations = [dict(layer.prior.distribution(head).parameters)["location"] for head in range(2)]
    assert any(abs(location + 7) < 1.5 for location in locations), locations


def test_whole_graphs_compile():
    torch.manual_seed(0)
    layer = BayesianAttention(32, 4, scalable_softmax="likelihood_and_prior")
    x = torch.randn(2, 19, 32)
    padding = torch.arange(19)[None] >= torch.tensor([19, 6])[:, None]
    compiled = torch.compile(layer, fullgraph=True)
    assert torch.allclose(compiled(x, key_padding_mask=padding)[0], layer(x, key_padding_mask=padding)[0], atol=1e-6)


def test_it_comes_back_from_a_file(tmp_path):
    layer = BayesianAttention(32, 4, ALiBi(4, learned=True))
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    again = BayesianAttention(32, 4, ALiBi(4))
    again.load_state_dict(torch.load(tmp_path / "layer.pt"))
    x = torch.randn(1, 9, 32)
    assert torch.equal(again(x)[0], layer(x)[0])


def test_wrong_settings_are_named():
    x = torch.randn(1, 9, 32)
    for call, words in [
        (lambda: BayesianAttention(30, 4), "embed_dim: expected a multiple of 4, got 30"),
        (lambda: BayesianAttention(32, 4, num_kv_heads=3), "num_heads: expected a multiple of 3, got 4"),
        (lambda: BayesianAttention(32, 4, ALiBi(3)), "prior: expected 4 heads, got 3"),
        (lambda: BayesianAttention(32, 4, scalable_softmax="yes"), "scalable_softmax: expected .*'yes'"),
        (lambda: BayesianAttention(32, 4, causal=False, forget_gate=True), "forget_gate: expected False .*, got True"),
        (lambda: BayesianAttention(32, 4, forget_gate=True, forget_bias=[1, 2]), r"forget_bias: expected .* 4, got \[1, 2\]"),
        (lambda: BayesianAttention(32, 4, forget_bias=5), "forget_bias: expected forget_gate=True beside it, got 5"),
        (lambda: BayesianAttention(32, 4, window=-1), "window: expected at least 0, got -1"),
        (lambda: BayesianAttention(32, 4, skipping="foo"), "skipping: expected off, exact, or a number"),
        (lambda: BayesianAttention(32, 4, causal=False)(x, is_causal=True), "is_causal: expected False"),
        (lambda: BayesianAttention(32, 4)(x, attn_mask=HIDING), "attn_mask: expected .* no more than causal=True and win"),
        (lambda: BayesianAttention(32, 4)(x, attn_mask=HIDING[1:]), r"attn_mask: expected \[9, 9\], got \[8, 9\]"),
        (lambda: BayesianAttention(32, 4)(x[None]), r"query: expected \[batch, tokens, width\], got \[1, 1, 9, 32\]"),
        (lambda: BayesianAttention(32, 4)(x, key_padding_mask=torch.ones(1, 9)), "numbers that are 0 or -inf, got others"),
        (lambda: BayesianAttention(32, 4)(x, documents=torch.zeros(1, 8, dtype=torch.int)), r"documents: expected \[1, 9\]"),
        (lambda: BayesianAttention(32, 4)(x, need_weights=True), "need_weights: expected False"),
        (lambda: BayesianAttention(32, 4)(x, attn_mask=torch.ones(9, 9)), "attn_mask: expected numbers that are 0 or -inf"),
        (lambda: BayesianAttention(32, 4)(x, key_padding_mask=torch.zeros(1, 8)), r"key_padding_mask: expected \[1, 9\]"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match=r"prior: expected a prior, such as ALiBi\(4\), got ALiBi, a class"):
        BayesianAttention(32, 4, ALiBi)
    with pytest.raises(TypeError, match="window: expected a whole number, got float"):
        BayesianAttention(32, 4, window=2.5)


def test_it_says_its_settings():
    layer = BayesianAttention(32, 4, num_kv_heads=2, window=9)
    assert "32, heads=4, key_heads=2, causal=True, window=9, scalable_softmax=None, skipping='exact'" in repr(layer)


def test_nothing_of_padding_reaches_a_weight():
    """The gradient of a projection's weight is a sum over tokens, in which 0·NaN is NaN."""
    torch.manual_seed(0)
    mask = torch.arange(19)[None] >= torch.tensor([19, 6])[:, None]
    ids = torch.zeros(2, 19, dtype=torch.int32).masked_fill(mask, PADDING)
    x, seen = torch.randn(2, 19, 32), ~mask
    for given in ({"key_padding_mask": mask}, {"documents": ids}, {"documents": (ids, ids.long())}):
        for arguments in (1, 3):
            layer, gradients = BayesianAttention(32, 4, causal=False), []
            for at_padding in (0.0, float("nan")):
                layer.zero_grad()
                rows = x.masked_fill(mask[..., None], at_padding).requires_grad_()
                layer(*[rows] * arguments, **given)[0][seen].square().sum().backward()
                gradients.append([of.grad.clone() for of in (*layer.parameters(), rows)])
            assert all(map(torch.equal, *gradients))
            assert all(of.abs().max() > 0 for of in gradients[0][3:])


HIDING = torch.ones(9, 9, dtype=torch.bool).triu()
HIDING[0, 0] = False
KINDS = {
    "encoder": lambda: nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True),
    "encoder, norm first": lambda: nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, batch_first=True, norm_first=True),
    "decoder": lambda: nn.TransformerDecoderLayer(32, 4, 48, dropout=0.0, batch_first=True),
}


def stacks(kind, causal):
    """Stacks of PyTorch's layers with their attention and with ours without a prior, of the same weights."""
    torch.manual_seed(0)
    theirs, ours = KINDS[kind](), KINDS[kind]()
    ours.load_state_dict(theirs.state_dict())
    for name in ("self_attn", "multihead_attn"):
        if hasattr(theirs, name):
            of, attention = getattr(theirs, name), BayesianAttention(32, 4, Uniform(4), causal=causal and name == "self_attn")
            for at, projection in enumerate((attention.q_proj, attention.k_proj, attention.v_proj)):
                projection.weight.data = of.in_proj_weight.data[at * 32 :][:32].clone()
                projection.bias.data = of.in_proj_bias.data[at * 32 :][:32].clone()
            attention.out_proj.load_state_dict(of.out_proj.state_dict())
            setattr(ours, name, attention)
    if kind == "decoder":
        return nn.TransformerDecoder(ours, 2), nn.TransformerDecoder(theirs, 2)
    return [nn.TransformerEncoder(of, 2, enable_nested_tensor=False) for of in (ours, theirs)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_stands_in_pytorchs_layers(kind, causal, training):
    ours, theirs = (of.train(training) for of in stacks(kind, causal))
    x, memory = torch.randn(2, 9, 32), torch.randn(2, 7, 32)
    padding = torch.arange(9)[None] >= torch.tensor([9, 5])[:, None]
    order = nn.Transformer.generate_square_subsequent_mask(9) if causal else None
    before = (memory,) if kind == "decoder" else ()
    masked = ("tgt_mask", "tgt_key_padding_mask") if before else ("mask", "src_key_padding_mask")
    for mask in (None, padding):
        with torch.set_grad_enabled(training):
            got, expected = (of(x, *before, **dict(zip(masked, (order, mask)))) for of in (ours, theirs))
        seen = slice(None) if mask is None else ~mask
        assert torch.allclose(got[seen], expected[seen], atol=1e-5)
        if order is not None:
            otherwise = theirs(x, *before)
            assert not torch.allclose(otherwise[seen], expected[seen], atol=1e-3), "the order is seen"
    compiled = torch.compile(ours, backend="aot_eager")
    assert torch.allclose(compiled(x, *before, **dict(zip(masked, (order, padding))))[~padding], got[~padding], atol=1e-6)


def test_a_stand_in_refuses_what_it_does_not():
    ours, _ = stacks("encoder", causal=False)
    with pytest.raises(ValueError, match="attn_mask: expected .* no more than causal=False"):
        ours(torch.randn(2, 9, 32), mask=HIDING, is_causal=False)
    with pytest.raises(ValueError, match="is_causal: expected False"):
        ours(torch.randn(2, 9, 32), mask=nn.Transformer.generate_square_subsequent_mask(9))


def test_rows_without_a_batch():
    layer, x, memory = BayesianAttention(32, 4, causal=False), torch.randn(9, 32), torch.randn(7, 32)
    mask = torch.arange(9) > 6
    for given, more in (((x,), {}), ((x, x, x), {"key_padding_mask": mask}), ((x, memory), {}), ((x, memory, memory + 1), {})):
        batched = [of[None] for of in (given if given[-1] is not x else (x,))]
        expected = layer(*batched, **{name: of[None] for name, of in more.items()})[0][0]
        assert torch.allclose(layer(*given, **more)[0], expected, atol=1e-6)


def test_initial_values_come_back():
    with torch.device("meta"):
        layer = BayesianAttention(32, 4, scalable_softmax="likelihood")
    layer.to_empty(device="cpu")
    with torch.no_grad():
        for of in layer.parameters():
            of.fill_(float("nan"))
    layer.reset_parameters()
    fresh = dict(BayesianAttention(32, 4, scalable_softmax="likelihood").named_parameters())
    for name, of in layer.named_parameters():
        if name.startswith(("prior", "scalable")):
            assert torch.equal(of, fresh[name])
        assert of.isfinite().all()


def test_defaults_of_pytorch_change_nothing():
    """What the package makes has the type and the device that it says, whatever a program makes by default."""
    layer = BayesianAttention(32, 4, Uniform(4), scalable_softmax="likelihood")
    x, mask = torch.randn(2, 9, 32), torch.arange(9).expand(2, 9) > 6
    expected, counts = layer(x, key_padding_mask=mask)[0], ScalableSoftmax(4)(9)
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        got = layer(x, key_padding_mask=mask)[0]
        got.sum().backward()
        assert torch.equal(got, expected) and torch.equal(layer.scalable_softmax(9), counts)
        torch.set_default_device("cpu")
        assert all(of.dtype == torch.float32 for of in (*ALiBi(4).parameters(), *ScalableSoftmax(4).parameters()))
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_pictures(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    layer = BayesianAttention(32, 4)
    ax = plot_prior(layer.prior, keys=500)
    assert len(ax.lines) == 4 and ax.get_xscale() == "log"
    mass = ax.lines[0].get_ydata()
    assert len(mass) == 500 and abs(mass.sum() - 1) < 1e-9 and mass[0] == mass.max()
    q, k = torch.zeros(4, 8), torch.randn(4, 60, 8)
    ax = plot_prior(layer.prior, heads=[1], q=q, k=k)
    prior, posterior = (line.get_ydata() for line in ax.lines)
    assert abs(prior - posterior).max() < 1e-12, "without content the posterior is the prior"
    q = torch.randn(4, 8)
    ax = plot_prior(layer.prior, heads=[1], q=q, k=k)
    prior, posterior = (line.get_ydata() for line in ax.lines)
    assert abs(prior - posterior).max() > 1e-3
    ax.figure.savefig(tmp_path / "prior.png")
    with pytest.raises(ValueError, match="q and k"):
        plot_prior(layer.prior, q=q)
    with pytest.raises(ValueError, match="heads: expected"):
        plot_prior(layer.prior, heads=[4])
    several = plot_prior([layer.prior, Uniform(2), ALiBi(1).distribution(0)], keys=50)
    assert [line.get_label() for line in several.lines] == [f"head {head}" for head in range(7)]
    assert several.lines[4].get_ydata() == pytest.approx(1 / 50)
    assert len(plot_prior(layer.prior, heads=1, keys=5).lines) == 1
    grouped, each = (plot_prior(Uniform(4), q=q, k=of.bfloat16()).lines[-1].get_ydata() for of in (k[:2], k[[0, 0, 1, 1]]))
    assert (grouped == each).all()
    for given, kind, words in [
        ({"prior": layer}, TypeError, "prior: expected a PositionalPrior.*got BayesianAttention; a layer has one"),
        ({"prior": ALiBi}, TypeError, "prior: expected .*got ALiBi, a class"),
        ({"keys": 0}, ValueError, "keys: expected at least 1, got 0"),
        ({"q": q[None], "k": k[None]}, ValueError, r"q and k: expected .*got \[1, 4, 8\] and \[1, 4, 60, 8\]"),
        ({"q": q, "k": k[:3]}, ValueError, r"q and k: expected .* of 4 heads, got \[4, 8\] and \[3, 60, 8\]"),
    ]:
        with pytest.raises(kind, match=words):
            plot_prior(**{"prior": layer.prior} | given)
