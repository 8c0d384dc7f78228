"""`bam export hf` beside transformers: the same logits, generation, and the way back.

    python transformers_client.py BAM MODEL [quick]

BAM is the program, MODEL a folder with a tokenizer; `quick` tries each position with one kind of temperature only. Wants
torch, transformers and safetensors.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

BAM, MODEL, *QUICK = sys.argv[1:]
# Largest difference of two logits.
TOLERANCE = 1e-4
POSITIONS = [
    "nope", "sinusoidal", "rotary", "rotary_local", "alibi", "bam", "laplace", "gaussian", "kerple_log", "kerple_power",
    "student_t", "t5_buckets", "table", "laplace_slab", "alibi:1,bam:2,nope:1,table:2",
    "rotary_local:5*2,bam", "alibi*1,nope", "(alibi:2,bam:4)*1,rotary_local",
    "fox", "fox+bam", "fox+rotary_local", "fox+alibi:2,bam:4", "bam,fox*2", "fox+(alibi:2,bam:4)*2,nope",
]
# MPT's, Bloom's, Alilama's, and a LLaMA with biases and a tied head: encodings with designs that are not the usual one.
DESIGNS = {
    "alibi": {"norm": "layer_without_bias", "activation": "gelu", "gated": False, "tied_head": True, "clip_qkv": 1.5},
    "bam": {
        "norm": "layer", "activation": "gelu_tanh", "gated": False, "attention_bias": True, "feed_forward_bias": True,
        "embedding_norm": True, "attention_residual": "normed", "feed_forward_residual": "normed", "tied_head": True,
    },
    "laplace": {
        "norm": "layer", "gated": False, "output_projection": False, "attention_residual": "normed",
        "final_norm": False, "tied_head": True,
    },
    "rotary": {"attention_bias": True, "feed_forward_bias": True, "tied_head": True},
}


def bam(*words):
    subprocess.run([BAM, *map(str, words)], check=True, stderr=subprocess.DEVNULL)


def bam_logits(folder, tokens):
    save_file({"tokens": tokens}, folder / "tokens.safetensors")
    bam("logits", folder, "--tokens", folder / "tokens.safetensors", "--out", folder / "logits.safetensors")
    return load_file(folder / "logits.safetensors")["logits"]


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()


@torch.no_grad()
def logits(model, tokens):
    return model(tokens).logits


def farthest(a, b):
    return (a - b).abs().max().item()


def exported_model(work):
    """The model that was given, text and all."""
    out = work / "exported"
    bam("export", "hf", MODEL, "--out", out)
    # Without trust it asks first, because the folder has code, and then loads the tokenizer all the same.
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    text = pathlib.Path(__file__).read_text() * 3
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    model = load(out)
    length = min(len(ids), 4 * model.config.train_length)
    tokens = torch.tensor([([tokenizer.bos_token_id] + ids)[:length]])
    theirs = logits(model, tokens)
    error = farthest(bam_logits(out, tokens), theirs)
    print(f"{MODEL}: {length} tokens, logits up to {theirs.abs().max():.1f}, differ by at most {error:.1e}")
    assert error < TOLERANCE
    # bfloat16 has three digits.
    narrow = logits(load(out, dtype=torch.bfloat16), tokens).float()
    assert (narrow - theirs).norm() < 0.05 * theirs.norm()
    generated = model.generate(tokens[:, :40], max_new_tokens=12, do_sample=False)
    prompt = tokenizer.decode(tokens[0, 1:40])
    said = subprocess.run(
        [BAM, "generate", out, "--prompt", prompt, "--tokens", "12", "--temperature", "0"],
        check=True, capture_output=True, text=True,
    ).stdout
    assert said.rstrip("\n") == tokenizer.decode(generated[0], skip_special_tokens=True).rstrip("\n"), said
    return out


def variant(source, work, position, ssmax, index, design=None):
    """A random model of another encoding, made by transformers and read by bam."""
    folder = work / f"variant{index}"
    shutil.copytree(source, folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("history", None)
    config.update(
        position_embedding_type=position + ssmax, hidden_size=48, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=[6, 3, 2, 1][index % 4], intermediate_size=56, vocab_size=71, train_length=16,
        max_position_embeddings=16,
    )
    # Layers that differ have priors of their own.
    config["attn_prior"]["scope"] = ["layer", "global"][index % 2 if "*" not in position else 0]
    config["ssmax"] = {"enabled": ssmax != "", "scale_prior": ssmax in ("+ssmax", "+adaptive"), "from_layer": index % 3 if ssmax else 0}
    for name in ("bos_token_id", "eos_token_id"):
        config.pop(name, None)
    if design is not None:
        config.update(design=design, tie_word_embeddings=design.get("tied_head", False))
    path.write_text(json.dumps(config))
    torch.manual_seed(index)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=True), trust_remote_code=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matrix = parameter.dim() == 2 and "prior" not in name
            parameter += torch.randn_like(parameter) * (0.14 if matrix else 0.3)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "output.weight" or not model.config.tie_word_embeddings}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def impostor(model):
    """The same weights without what the encoding says, or with something where it says nothing."""
    config = AutoConfig.from_pretrained(model.config._name_or_path, trust_remote_code=True)
    config.position_embedding_type = "alibi" if config.position_embedding_type == "nope" else "nope"
    config.ssmax = {"enabled": False, "scale_prior": False, "from_layer": 0}
    other = type(model)(config).eval()
    other.load_state_dict(model.state_dict(), strict=False)
    return other


@torch.no_grad()
def check_variant(folder):
    model = load(folder)
    tokens = torch.randint(1, 71, (2, 61))  # 0 pads
    theirs = logits(model, tokens)
    ours = bam_logits(folder, tokens)
    error, control = farthest(ours, theirs), farthest(ours, logits(impostor(model), tokens))
    name = model.config.position_embedding_type
    print(f"{name:32} differ by at most {error:.1e}; an impostor by {control:.1e}")
    assert error < TOLERANCE < 0.1 * control
    # With a cache and without, in one piece and in two.
    greedy = dict(max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None)
    cached = model.generate(tokens[:, :20], **greedy)
    assert torch.equal(cached, model.generate(tokens[:, :20], use_cache=False, **greedy))
    # A shorter row beside a longer one, padded on the left.
    padded = torch.cat([torch.zeros(1, 7, dtype=torch.long), tokens[1:, 7:20]], 1)
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, :7] = 0
    both = model.generate(torch.cat([tokens[:1, :20], padded]), attention_mask=mask, **greedy)
    assert torch.equal(both[:1], cached[:1])
    assert torch.equal(both[1:, 7:], model.generate(tokens[1:, 7:20], **greedy))
    # Blocks of rows.
    module = sys.modules[type(model).__module__]
    module.BLOCK = 2 * 6 * 61 * 5
    assert farthest(logits(model, tokens), theirs) < TOLERANCE
    module.BLOCK = 1 << 24
    # A gradient for everything that is learned.
    model.train()
    with torch.enable_grad():
        model(tokens, labels=tokens).loss.backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, missing
    # Lags have more digits than bfloat16.
    narrow = load(folder, dtype=torch.bfloat16)
    wide = {name for name, tensor in narrow.state_dict().items() if tensor.dtype == torch.float32}
    assert all(any(part in name for part in ("prior", "seq_scale", "temperature", "wf")) for name in wide)
    assert logits(narrow, tokens).isfinite().all()
    # What transformers saves is a model of ours.
    again = folder / "again"
    model.eval().save_pretrained(again)
    assert farthest(bam_logits(again, tokens), theirs) < TOLERANCE


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        source = exported_model(work)
        kinds = ("", "+ssmax", "+ssmax-content", "+adaptive", "+adaptive-content")
        variants = [(position, kind) for position in POSITIONS for kind in kinds]
        if QUICK:
            variants = [(position, kinds[index % len(kinds)]) for index, position in enumerate(POSITIONS)]
        for index, (position, ssmax) in enumerate(variants):
            check_variant(variant(source, work, position, ssmax, index))
        for index, (position, design) in enumerate(DESIGNS.items()):
            check_variant(variant(source, work, position, kinds[index % len(kinds)], 100 + index, design))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: {len(variants)} encodings and "
          f"{len(DESIGNS)} designs agree")


main()
