"""The module: beside `torch.nn.MultiheadAttention`, trained, compiled, refused; and pictures."""

import pytest
import torch
from torch import nn

from bam_attention import ALiBi, BayesianAttention, Uniform, plot_prior


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
        (lambda: BayesianAttention(32, 4)(x, need_weights=True), "need_weights: expected none"),
        (lambda: BayesianAttention(32, 4)(x, attn_mask=torch.zeros(9, 9)), "attn_mask: expected none"),
        (lambda: BayesianAttention(32, 4)(x, key_padding_mask=torch.zeros(1, 9)), "key_padding_mask: expected bool"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


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
