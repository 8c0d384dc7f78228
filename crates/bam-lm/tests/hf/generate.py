"""Tiny random models by the classes of `transformers`, with their logits: the oracle of `import_hf.rs`.

    python3 generate.py

Writes a folder for each case: `config.json`, the weights as `transformers` saves them, and
`io.safetensors` with `tokens` [rows, length], `logits` [rows, length, vocabulary] computed in float64,
and `rounding` [1], how far off `transformers` is in float32. The committed folders were made with the versions in VERSIONS, CPU.
"""

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM,
)

HERE = Path(__file__).parent
VOCABULARY = 29
LENGTH = 23


def mpt(**attention):
    sizes = {"n_heads": 6, "d_model": 12}
    sizes.update(attention.pop("sizes", {}))
    return MptForCausalLM, MptConfig(
        n_layers=2, max_seq_len=32, vocab_size=VOCABULARY, attn_config=attention, **sizes)


def bloom(**more):
    sizes = {"n_head": 5, "hidden_size": 10, **more}
    return BloomForCausalLM, BloomConfig(vocab_size=VOCABULARY, n_layer=2, seq_length=32, **sizes)


def llama(**more):
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 24, **more}
    return LlamaForCausalLM, LlamaConfig(
        vocab_size=VOCABULARY, intermediate_size=20, num_hidden_layers=2, max_position_embeddings=32,
        **sizes)


CASES = {
    # Six heads: no power of two, so the slopes come in the papers' odd order.
    "mpt_six_heads": mpt(),
    "mpt_clipped": mpt(sizes={"n_heads": 4, "d_model": 8}, clip_qkv=1.5),
    "mpt_softmax_scale": mpt(sizes={"n_heads": 3, "d_model": 12}, softmax_scale=0.3),
    "mpt_bias_max": mpt(sizes={"n_heads": 4, "d_model": 8}, alibi_bias_max=4),
    "bloom_five_heads": bloom(),
    "bloom_normed_residual": bloom(n_head=4, hidden_size=12, apply_residual_connection_post_layernorm=True),
    "llama_grouped": llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama_biases_tied": llama(
        num_attention_heads=3, num_key_value_heads=1, hidden_size=12, attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True),
    "llama_nope": llama(num_attention_heads=4, num_key_value_heads=4, hidden_size=8),
}


def lively(model):
    """Weights as large as trained ones, every kind of them random: biases and gains too."""
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name or "ln_f" in name:
                parameter.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise if "emb" in name or "wte" in name else noise / parameter.shape[1] ** 0.5 * 1.6)


def patched(name, config):
    """What the classes of `transformers` do not do, though their configuration says it."""
    from transformers.models.mpt import modeling_mpt
    from transformers.models.llama import modeling_llama
    saved = modeling_mpt.build_mpt_alibi_tensor, modeling_llama.apply_rotary_pos_emb
    if name == "mpt_bias_max":
        largest = config.attn_config.alibi_bias_max
        modeling_mpt.build_mpt_alibi_tensor = lambda heads, length, _=8, device=None: saved[0](
            heads, length, largest, device)
    if name == "llama_nope":
        modeling_llama.apply_rotary_pos_emb = lambda q, k, *_, **__: (q, k)

    def restore():
        modeling_mpt.build_mpt_alibi_tensor, modeling_llama.apply_rotary_pos_emb = saved
    return restore


def main():
    for name, (kind, config) in CASES.items():
        torch.manual_seed(1)
        config._attn_implementation = "eager"
        model = kind(config).eval()
        lively(model)
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        # Grouped heads are also the case with several shards.
        shards = {"max_shard_size": "8KB"} if name == "llama_grouped" else {}
        model.save_pretrained(folder, **shards)
        (folder / "generation_config.json").unlink(missing_ok=True)
        if name == "llama_nope":
            path = folder / "config.json"
            stated = json.loads(path.read_text())
            stated["position_embedding_type"] = "nope"
            path.write_text(json.dumps(stated, indent=2) + "\n")
        tokens = torch.randint(VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(3))
        restore = patched(name, config)
        with torch.no_grad():
            single = model(tokens).logits
            exact = model.double()(tokens).logits
        restore()
        io = {"tokens": tokens.int(), "logits": exact.float().contiguous(),
              "rounding": (single - exact).abs().max().float().reshape(1)}
        for file in folder.iterdir():
            file.chmod(0o644)
        save_file(io, folder / "io.safetensors")
        (folder / "io.safetensors").chmod(0o644)
        print(name, f"{exact.std():.2f} {io['rounding'].item():.1e}", sum(p.numel() for p in model.parameters()))
    (HERE / "VERSIONS").write_text(f"torch {torch.__version__}\ntransformers {transformers.__version__}\n")


if __name__ == "__main__":
    main()
