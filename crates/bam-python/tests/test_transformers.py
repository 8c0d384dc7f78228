"""Models of transformers with their attention and with ours: logits, loss, gradients, caches, training, refusals."""

import pytest
import torch
from torch import Tensor

transformers = pytest.importorskip("transformers")

import bam_attention.transformers
from bam_attention import ALiBi, GeneralizedGaussian, KerpleLog

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
        mask = mask if padding_side in ("left", "holes") else mask.flip(1)
    if padding_side == "holes":
        mask[0, [3, 4, 11]], mask[1, 12:20] = 0, 0
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


@pytest.mark.parametrize("padding_side", [None, "left", "right", "holes"])
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


def test_bloom_counts_tokens(monkeypatch):
    """By places, as other models count, a row with holes would be another: the comparison sees it."""
    theirs, ours = pair(bloom)
    given = batch(theirs, "holes")
    monkeypatch.setattr(bam_attention.transformers, "_taken", lambda x, _index, _tokens: x)
    monkeypatch.setattr(Tensor, "gather", lambda x, _axis, _index: x)
    off = (results(ours, given)["logits"] - results(theirs, given)["logits"]).abs().max()
    assert off > 0.01


@pytest.mark.parametrize("padding_side", ["left", "right", "holes"])
@pytest.mark.parametrize("name", MODELS)
def test_generation_with_a_cache_is_as_before(name, padding_side):
    if (name, padding_side) == ("mistral in a window", "right"):
        pytest.skip("the last row sees nothing, and what follows it is any word")
    theirs, ours = (model.eval() for model in pair(MODELS[name]))
    given = {name: x for name, x in batch(theirs, padding_side).items() if name != "labels"}
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
    without = llama("bam")
    without.load_state_dict(model.state_dict(), strict=False)
    assert (without(**given).logits - model(**given).logits).abs().max() > 1e-3


def test_priors_that_nothing_would_read_are_refused():
    add_priors = bam_attention.transformers.add_priors
    for model, make, words in [
        (torch.nn.Linear(2, 2), GeneralizedGaussian, "model: expected one with layers like LLaMA's, got Linear"),
        (llama("sdpa"), GeneralizedGaussian, "model: expected attn_implementation='bam', for its priors, got 'sdpa'"),
        (llama("bam"), GeneralizedGaussian(4), "make: expected a function of heads, .* of 4, got GeneralizedGaussian"),
        (llama("bam"), lambda heads: ALiBi(3), "make: expected a function of heads, .* of 4, got 3 heads of ALiBi"),
        (llama("bam"), lambda heads: None, "make: expected a function of heads"),
    ]:
        with pytest.raises(ValueError, match=words):
            add_priors(model, make)
    model = llama("bam")
    add_priors(model, GeneralizedGaussian)
    add_priors(model, ALiBi)
    ids = torch.randint(3, WORDS, (1, 9))
    expected = model(ids).logits
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="expected attn_implementation='bam', for its priors, got 'sdpa'"):
        model(ids)
    model.set_attn_implementation("bam")
    assert torch.equal(model(ids).logits, expected)


@pytest.mark.parametrize("size", ["5GB", "20KB"])
def test_priors_come_back_from_a_folder(size, tmp_path):
    model, add_priors = rotary("llama", "bam").eval(), bam_attention.transformers.add_priors
    add_priors(model, GeneralizedGaussian)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "positional_prior" in name:
                parameter.add_(torch.randn(parameter.shape))
    ids = torch.randint(3, WORDS, (1, 30))
    expected = model(ids).logits
    model.save_pretrained(tmp_path, max_shard_size=size)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="bam")
    assert not torch.allclose(again(ids).logits, expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"folder: expected model.layers.0.self_attn.positional_prior. of .*'scale': \[4\]"):
        add_priors(again, KerpleLog, tmp_path)
    with pytest.raises(ValueError, match=r"folder: .*, got \{\} in"):
        add_priors(again, GeneralizedGaussian, tmp_path / "nowhere")
    add_priors(again, GeneralizedGaussian, tmp_path)
    assert torch.equal(again(ids).logits, expected)


ROTARY = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", {"num_key_value_heads": 2, "head_dim": 16}),
    "gemma3": ("Gemma3TextConfig", {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 7}),
    "gpt_neox": ("GPTNeoXConfig", {"attention_dropout": 0.0, "hidden_dropout": 0.0}),
    "phi": ("PhiConfig", {}),
    "deepseek_v3": ("DeepseekV3Config", {
        "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12,
        "num_key_value_heads": 4, "first_k_dense_replace": 2,
    }),
}


def rotary(name, implementation, **more):
    config, of_model = ROTARY[name]
    config = getattr(transformers, config)(
        vocab_size=WORDS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        attn_implementation=implementation, pad_token_id=1, bos_token_id=1, eos_token_id=2, **of_model, **more,
    )
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=implementation)


@pytest.mark.parametrize("name", ROTARY)
def test_rotary_models_are_as_before_also_under_autocast(name):
    """In bfloat16 as near to float32 as `sdpa` is."""
    theirs, ours = pair(lambda implementation: rotary(name, implementation))
    given = batch(theirs, "left")
    expected = results(theirs, given)
    assert_same(results(ours, given), expected)
    off = {}
    for implementation in ("bam", "sdpa"):
        ours.set_attn_implementation(implementation)
        ours.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            got = results(ours, given)
        distances = [(got[of].float() - x).norm() / x.norm() for of, x in expected.items() if x.norm() > 1e-3]
        off[implementation] = torch.stack(distances)
    assert off["bam"].mean() < 1.5 * off["sdpa"].mean(), {of: x.mean() for of, x in off.items()}
    with torch.autocast("cpu", torch.bfloat16):
        ours.set_attn_implementation("bam")
        assert ours.eval().generate(given["input_ids"], max_new_tokens=3, do_sample=False).shape == (2, 33)


def test_dropout_of_attention_weights_can_be_left_out():
    """All other dropout stays: without it, or where nothing is left to drop, results are as before."""
    def bert(implementation, **rates):
        config = transformers.BertConfig(
            vocab_size=WORDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            attn_implementation=implementation, **rates,
        )
        torch.manual_seed(0)
        return transformers.BertForMaskedLM(config).train()

    ids = torch.randint(3, WORDS, (2, 30))
    dropping = {of: bert(of, attention_probs_dropout_prob=rate) for of, rate in (("bam", 0.1), ("eager", 0.0))}
    with pytest.raises(NotImplementedError, match=r"without_attention_dropout\(model\) leaves it out.*got 0.1"):
        dropping["bam"](ids)
    bam_attention.transformers.without_attention_dropout(dropping["bam"])
    outs = []
    for model in dropping.values():
        torch.manual_seed(1)
        outs.append(model(ids).logits)
    assert torch.allclose(*outs, atol=1e-5), "hidden states are dropped as before"
    torch.manual_seed(2)
    assert not torch.allclose(dropping["bam"](ids).logits, outs[0], atol=1e-3)
    config = transformers.T5Config(vocab_size=WORDS, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.1, decoder_start_token_id=0)
    config._attn_implementation = "bam"
    model = transformers.T5ForConditionalGeneration(config).train()
    with pytest.raises(NotImplementedError, match="without_attention_dropout"):
        model(input_ids=ids, labels=ids)
    bam_attention.transformers.without_attention_dropout(model)
    model(input_ids=ids, labels=ids).loss.backward()


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
