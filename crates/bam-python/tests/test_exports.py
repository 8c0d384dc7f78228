"""The code that `bam export hf` writes gives the same with the package and without it."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
CODE = Path(__file__).parents[2] / "bam-lm/src/interop/export"
pytestmark = pytest.mark.skipif(not CODE.exists(), reason="only where the sources of the exports are")


@pytest.fixture(scope="module")
def exported():
    """The module that a model's folder has, and its configuration's."""
    package = types.ModuleType("exported")
    package.__path__ = [str(CODE)]
    sys.modules["exported"] = package
    for name in ("configuration_bam", "modeling_bam"):
        spec = importlib.util.spec_from_file_location(f"exported.{name}", CODE / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return sys.modules["exported.modeling_bam"]


SSMAX = {"enabled": True, "from_layer": 1}
ENCODINGS = {
    "alibi": {"position_embedding_type": "alibi"},
    "bam+ssmax": {"position_embedding_type": "bam+ssmax", "ssmax": SSMAX | {"scale_prior": True}},
    "bam+ssmax of content": {"position_embedding_type": "bam+ssmax", "ssmax": SSMAX | {"scale_prior": False}},
    "alibi and buckets": {"position_embedding_type": "alibi:2,t5_buckets:2"},
    "rotary": {"position_embedding_type": "rotary"},
    "rotary in a window": {"position_embedding_type": "rotary_local"},
}


def model(exported, encoding):
    config = exported.BamConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
        train_length=16, **encoding,
    )
    torch.manual_seed(0)
    of = exported.BamForCausalLM(config).eval()
    for name, parameter in of.named_parameters():
        if parameter.dim() > 1 and "seq_scale" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return of


@pytest.mark.parametrize("name", ENCODINGS)
def test_logits_losses_and_gradients_are_the_same(exported, name, monkeypatch):
    of = model(exported, ENCODINGS[name])
    ids = torch.randint(3, 97, (2, 40))
    left = torch.ones_like(ids)
    left[1, :9] = 0
    hole = left.clone()
    hole[0, 5] = 0
    calls = []
    attend = exported.bam_attention.attend
    monkeypatch.setattr(exported.bam_attention, "attend", lambda *a, **k: calls.append(1) or attend(*a, **k))
    for mask, fused in [(None, True), (left, True), (left.flip(1), True), (hole, False)]:
        results = []
        for package in (exported.bam_attention, None):
            calls.clear()
            with monkeypatch.context() as patch:
                patch.setattr(exported, "bam_attention", package)
                of.zero_grad()
                out = of(input_ids=ids, attention_mask=mask, labels=ids)
                out.loss.backward()
            assert bool(calls) == (fused and package is not None)
            seen = out.logits.detach() if mask is None else out.logits.detach()[mask == 1]
            gradients = {name: x.grad.clone() for name, x in of.named_parameters() if x.grad is not None}
            results.append({"logits": seen} | (gradients if mask is None else {}))
        for of_name, x in results[1].items():
            off = (results[0][of_name] - x).abs().max() / x.abs().max().clamp(min=1e-6)
            assert off < 1e-4, (of_name, off)


@pytest.mark.parametrize("name", ENCODINGS)
def test_generation_is_the_same(exported, name, monkeypatch):
    of = model(exported, ENCODINGS[name])
    ids = torch.randint(3, 97, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    rules = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}
    with_package = of.generate(ids, attention_mask=mask, **rules)
    monkeypatch.setattr(exported, "bam_attention", None)
    assert torch.equal(of.generate(ids, attention_mask=mask, **rules), with_package)
