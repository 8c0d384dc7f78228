"""Models of transformers with their attention and with ours: logits, loss, gradients, caches, training, refusals."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

import bam_attention.transformers
from bam_attention import GeneralizedGaussian

bam_attention.transformers.register()
bam_attention.transformers.register()

# Logits of a few layers in float32, in other orders of summation.
TOLERANCE = 2e-5
WORDS = 97


def t5(implementation):
    config = transformers.T5Config(
        vocab_size=WORDS, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0, attn_implementation=implementation,
    )
    return transformers.T5ForConditionalGeneration(config)


def umt5(implementation):
    config = transformers.UMT5Config(
        vocab_size=WORDS, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=0, attn_implementation=implementation,
    )
    return transformers.UMT5ForConditionalGeneration(config)


def mpt(implementation):
    config = transformers.MptConfig(
        d_model=64, n_heads=4, n_layers=2, max_seq_len=128, vocab_size=WORDS, attn_implementation=implementation
    )
    return transformers.MptForCausalLM(config)


def bloom(implementation):
    config = transformers.BloomConfig(
        vocab_size=WORDS, hidden_size=64, n_layer=2, n_head=4, hidden_dropout=0.0, attention_dropout=0.0,
        attn_implementation=implementation,
    )
    return transformers.BloomForCausalLM(config)


def llama(implementation, **more):
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation=implementation, **more,
    )
    model = transformers.LlamaForCausalLM(config)
    still = lambda x, position_ids: (x.new_ones(1, x.shape[1], 16), x.new_zeros(1, x.shape[1], 16))
    model.model.rotary_emb.forward = still
    return model


def mistral(implementation):
    config = transformers.MistralConfig(
        vocab_size=WORDS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=7, attn_implementation=implementation,
    )
    return transformers.MistralForCausalLM(config)


MODELS = {"t5": t5, "umt5": umt5, "mpt": mpt, "bloom": bloom, "llama without rotary": llama, "mistral in a window": mistral}


def pair(make, spread=0.2):
    """A model with transformers' eager attention and with ours, with the same random weights of this spread."""
    models = []
    for implementation in ("eager", "bam"):
        torch.manual_seed(0)
        model = make(implementation)
        assert model.config._attn_implementation == implementation
        for name, parameter in model.named_parameters():
            if "norm" not in name and "ln" not in name:
                torch.nn.init.normal_(parameter, std=spread)
        models.append(model.train())
    return models


def batch(model, padding_side=None):
    torch.manual_seed(1)
    ids = torch.randint(3, WORDS, (2, 30))
    mask = torch.ones_like(ids)
    if padding_side:
        mask[1, :9] = 0
        mask = mask if padding_side == "left" else mask.flip(1)
    # No loss where there is no token, nor by what padding would predict.
    seen = mask * mask.roll(1, dims=1)
    given = {"input_ids": ids, "labels": ids.masked_fill(seen == 0, -100)}
    if padding_side:
        given["attention_mask"] = mask
    if model.config.is_encoder_decoder:
        given["labels"] = torch.randint(3, WORDS, (2, 17))
    return given


def results(model, given):
    out = model(**given)
    out.loss.backward()
    gradients = {name: x.grad for name, x in model.named_parameters() if x.grad is not None}
    logits = out.logits.detach()
    if not model.config.is_encoder_decoder and "attention_mask" in given:
        logits = logits[given["attention_mask"] == 1]
    return {"logits": logits, "loss": out.loss.detach()} | gradients


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, x in expected.items():
        off = (got[name] - x).abs().max() / x.abs().max().clamp(min=1e-6)
        assert off < TOLERANCE * (1 if name in ("logits", "loss") else 10), (name, off.item())


@pytest.mark.parametrize("padding_side", [None, "left", "right"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_loss_and_gradients_are_as_before(name, padding_side):
    theirs, ours = pair(MODELS[name])
    given = batch(theirs, padding_side)
    expected, got = results(theirs, given), results(ours, given)
    assert_same(got, expected)


@pytest.mark.parametrize("name", ["t5", "umt5", "mpt", "bloom"])
def test_the_comparison_sees_the_bias(name, monkeypatch):
    theirs, ours = pair(MODELS[name])
    given = batch(theirs)
    expected = results(theirs, given)
    attention = bam_attention.transformers.attend

    def without(q, k, v, log_prior, **rules):
        return attention(q, k, v, log_prior._replace(ln_weights=0 * log_prior.ln_weights), **rules)

    monkeypatch.setattr(bam_attention.transformers, "attend", without)
    off = (results(ours, given)["logits"] - expected["logits"]).abs().max() / expected["logits"].abs().max()
    assert off > 100 * TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_generation_with_a_cache_is_as_before(name):
    theirs, ours = (model.eval() for model in pair(MODELS[name]))
    given = {name: x for name, x in batch(theirs, "left").items() if name != "labels"}
    rules = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}
    assert torch.equal(ours.generate(**given, **rules), theirs.generate(**given, **rules))


def test_a_cache_as_long_as_the_window_is_read_as_before():
    """Generation makes the mask of such a cache itself, and the model reads it as one of padding."""
    theirs, ours = (model.eval() for model in pair(mistral))
    for side in (None, "left"):
        given = {name: x for name, x in batch(theirs, side).items() if name != "labels"}
        rules = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 1, "cache_implementation": "static"}
        assert torch.equal(ours.generate(**given, **rules), theirs.generate(**given, **rules))


def test_every_name_it_was_registered_as_is_known():
    bam_attention.transformers.register("bam again")
    theirs, ours = pair(t5)
    given = batch(theirs)
    expected = results(theirs, given)
    assert_same(results(ours, given), expected)
    ours.zero_grad()
    ours.set_attn_implementation("bam again")
    assert_same(results(ours, given), expected)


def test_packed_rows_do_not_see_each_other():
    theirs, ours = pair(llama)
    ids = torch.randint(3, WORDS, (1, 30))
    positions = torch.cat([torch.arange(11), torch.arange(19)])[None]
    given = {"input_ids": ids, "labels": ids, "position_ids": positions, "use_cache": False}
    expected = results(theirs, given)
    assert_same(results(ours, given), expected)
    apart = results(pair(llama)[1], {"input_ids": ids, "labels": ids})
    assert (apart["logits"] - expected["logits"]).abs().max() > 1e-2


def test_models_take_priors_and_learn_them():
    torch.manual_seed(0)
    model = llama("bam")
    bam_attention.transformers.add_priors(model, GeneralizedGaussian)
    given = batch(model)
    learned = [name for name in results(model, given) if "positional_prior" in name]
    assert len(learned) == 2 * 3
    with pytest.raises(ValueError, match="layers like LLaMA's"):
        bam_attention.transformers.add_priors(torch.nn.Linear(2, 2), GeneralizedGaussian)


@pytest.mark.parametrize("name", ["t5", "bloom"])
def test_fifty_steps_of_training_are_as_before(name):
    losses = []
    for model in pair(MODELS[name], spread=0.1):
        # Not one that divides by small gradients, which makes rounding large.
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        given = batch(model, "right")
        losses.append([])
        for _ in range(50):
            loss = model(**given).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    theirs, ours = (torch.tensor(of) for of in losses)
    assert theirs[-1] < 0.9 * theirs[0]
    assert torch.allclose(ours, theirs, rtol=2e-3), (ours - theirs).abs().max()


def test_gradient_checkpointing():
    theirs, ours = pair(t5)
    given = batch(theirs)
    expected = results(theirs, given)
    ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(results(ours, given), expected)


def test_memory_of_t5s_encoder_is_linear():
    """No tensor of queries × keys is ever made."""
    torch.manual_seed(0)
    model = t5("bam").encoder
    tokens = 700

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for x in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(x, torch.Tensor):
                    self.largest = max(self.largest, x.numel())
            return out

    for implementation, quadratic in (("bam", False), ("eager", True)):
        model.set_attn_implementation(implementation)
        with Watch() as watch:
            model(torch.randint(3, WORDS, (1, tokens))).last_hidden_state.sum().backward()
        assert (watch.largest >= tokens * tokens) == quadratic


def test_what_there_is_not_is_refused_by_name():
    ids = torch.randint(3, WORDS, (1, 9))
    dropping = llama("bam", attention_dropout=0.5).train()
    with pytest.raises(NotImplementedError, match="dropout of attention weights"):
        dropping(ids)
    dropping.eval()(ids)
    with pytest.raises(NotImplementedError, match="mask of queries × keys"):
        llama("bam")(ids, attention_mask=torch.ones(1, 1, 9, 9, dtype=torch.bool))
    with pytest.raises(NotImplementedError, match=r"attention_mask: expected \[batch, keys\]"):
        t5("bam")(ids, attention_mask=torch.ones(1, 9, 9), labels=ids)
    with pytest.raises(NotImplementedError, match="no s_aux, got Parameter"):
        q = torch.randn(1, 4, 9, 16)
        bam_attention.transformers.attention(torch.nn.Module(), q, q, q, None, s_aux=torch.nn.Parameter(torch.ones(4)))
    with pytest.raises(NotImplementedError, match="cache that grows"):
        llama("bam").eval().generate(ids, max_new_tokens=3, do_sample=False, cache_implementation="static")
