"""Models that a script of transformers is tried on: a Llama, and exports of several encodings."""

import contextlib
import json
import os
import pathlib
import subprocess

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

VOCABULARY, LAYERS, HEADS, WIDTH = 101, 3, 4, 32
# Largest difference of two logits; those of other rows differ by a hundred times as much.
TOLERANCE = 5e-5
ENCODINGS = [
    "alibi", "bam+ssmax", "rotary", "rotary_local", "sinusoidal+ssmax-content", "nope+ssmax", "t5_buckets", "table+ssmax",
    "gaussian", "kerple_power+ssmax", "kerple_log", "student_t", "laplace_slab", "alibi:1,bam:2,nope:1+ssmax",
    "rotary_local:3*2,nope+ssmax",
]

BEHAVIOURS = []


def behaviour(encodings=3, wants=()):
    """A function of a subject; `encodings` says with how many of them."""
    def register(function):
        BEHAVIOURS.append((function, encodings, wants))
        return function
    return register


class Subject:
    """A model that can be loaded again and again."""

    def __init__(self, name, folder, bam=None):
        self.name, self.folder, self.bam, self.is_llama = name, folder, bam, name.startswith("llama")

    def load(self, **options):
        return AutoModelForCausalLM.from_pretrained(self.folder, trust_remote_code=True, **options).eval()


def near(a, b, tolerance=TOLERANCE):
    difference = (a.float() - b.float()).abs().max().item()
    assert difference < tolerance, f"differ by {difference:.1e}"


def far(a, b):
    difference = (a.float() - b.float()).abs().max().item()
    assert difference > 20 * TOLERANCE, f"the null control differs by {difference:.1e} only"


@contextlib.contextmanager
def refuses(*words, kind=(ValueError, TypeError)):
    try:
        yield
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"expected {missing} in: {error}"
    else:
        raise AssertionError(f"expected a refusal that names {words}")


def some(*shape, seed=1):
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def cache_of(out):
    return out["cache"] if "cache" in out else out.past_key_values


def logits(model, ids=None, **arguments):
    with torch.no_grad():
        return model(ids, **arguments).logits


def bam_logits(bam, folder, tokens):
    from safetensors.torch import load_file, save_file

    folder = pathlib.Path(folder)
    save_file({"tokens": tokens}, folder / "tokens.safetensors")
    words = ["logits", folder, "--tokens", folder / "tokens.safetensors", "--out", folder / "logits.safetensors"]
    subprocess.run([bam, *map(str, words)], check=True, stderr=subprocess.DEVNULL)
    return load_file(folder / "logits.safetensors")["logits"]


def disturb(model):
    """Weights that differ, so that attention sees something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matrix = parameter.dim() == 2 and "prior" not in name
            parameter += torch.randn_like(parameter) * (0.2 if matrix else 0.3)
    return model


def llama(work, tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )
    name = "llama, tied" if tied else "llama"
    disturb(LlamaForCausalLM(config)).save_pretrained(work / name)
    return Subject(name, work / name)


def bayesian(bam, source, work, index, encoding):
    position, _, kind = encoding.partition("+")
    config = AutoConfig.from_pretrained(source, trust_remote_code=True)
    design = {"tied_head": index % 2 == 1, "embedding_norm": index % 3 == 2}
    options = json.loads((source / "config.json").read_text())
    for name in ("bos_token_id", "eos_token_id", "history", "architectures", "model_type", "dtype", "torch_dtype"):
        options.pop(name, None)
    options.update(
        position_embedding_type=encoding, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=[4, 2, 1][index % 3], intermediate_size=40, vocab_size=VOCABULARY, train_length=4, design=design,
        tie_word_embeddings=design["tied_head"],
        ssmax={"enabled": kind != "", "scale_prior": kind == "ssmax", "from_layer": index % 2},
    )
    options["attn_prior"]["scope"] = ["global", "layer"][index % 2 if "*" not in encoding else 1]
    torch.manual_seed(index)
    kind = type(AutoModelForCausalLM.from_config(config, trust_remote_code=True))
    model = disturb(kind(type(config)(**options)))
    folder = work / f"model{index}"
    model.save_pretrained(folder)
    assert (folder / "modeling_bam.py").exists() and (folder / "configuration_bam.py").exists()
    return Subject(encoding, folder, bam)
