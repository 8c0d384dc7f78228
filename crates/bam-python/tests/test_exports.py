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
    "bam+ssmax of content": {"position_embedding_type": "bam+ssmax-content", "ssmax": SSMAX | {"scale_prior": False}},
    "alibi and buckets": {"position_embedding_type": "alibi:2,t5_buckets:2"},
    "rotary": {"position_embedding_type": "rotary"},
    "rotary in a window": {"position_embedding_type": "rotary_local"},
    "windows below a layer that sees all": {"position_embedding_type": "rotary_local:7,bam+ssmax", "ssmax": SSMAX},
    "forget gates": {"position_embedding_type": "fox"},
    "forget gates beside a prior": {"position_embedding_type": "fox+bam+ssmax", "ssmax": SSMAX},
    "forget gates in some layers": {"position_embedding_type": "rotary,fox+(alibi:2,bam:2)"},
    "a temperature that rows learn": {"position_embedding_type": "bam+adaptive", "ssmax": SSMAX},
    "of content": {"position_embedding_type": "fox+bam+adaptive-content", "ssmax": SSMAX},
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


def test_encodings_of_layers(exported):
    def period(text, **sizes):
        sizes = {"num_attention_heads": 4, "num_hidden_layers": 4, "train_length": 16} | sizes
        config = exported.BamConfig(position_embedding_type=text, **sizes)
        layers = list(map(config.encoding, range(4)))
        extras.append("".join("f" * of.forgets + "a" * of.adapts + "." for of in layers))
        return [(of.position, of.groups, of.window, of.scope) for of in layers]

    extras = []

    nope, bam = (("nope", 4),), (("bam", 4),)
    local = ("rotary_local", nope, 128, None)
    assert period("rotary_local:128*3,nope+ssmax") == [local] * 3 + [("prior", nope, None, "likelihood_and_prior")]
    assert period("rotary_local,bam+ssmax-content") == [("rotary_local", nope, 16, None), ("prior", bam, None, "likelihood")] * 2
    mixed = ("prior", (("alibi", 1), ("bam", 3)), None, None)
    assert period("alibi:1,bam:3") == [mixed] * 4
    assert period("(alibi:1,bam:3)*3,rotary") == [mixed] * 3 + [("rotary", nope, None, None)]
    assert set(extras) == {"...."}
    scaled = [("prior", groups, None, "likelihood_and_prior") for groups in (nope, bam)]
    for text, layers, extra in [
        ("fox", [("prior", nope, None, None)] * 4, "f.f.f.f."),
        ("fox+bam+ssmax", [scaled[1]] * 4, "f.f.f.f."),
        ("bam+adaptive", [scaled[1]] * 4, "a.a.a.a."),
        ("fox+adaptive", [scaled[0]] * 4, "fa.fa.fa.fa."),
        ("fox*3,bam+adaptive", [("prior", nope, None, None)] * 3 + [scaled[1]], "f.f.f.a."),
        ("fox+alibi:1,bam:3", [mixed] * 4, "f.f.f.f."),
        ("fox+rotary_local:128*3,fox+ssmax", [local] * 3 + [scaled[0]], "f.f.f.f."),
        ("rotary_local:128,fox+(alibi:1,bam:3)", [local, mixed] * 2, ".f..f."),
    ]:
        assert (period(text), extras[-1]) == (layers, extra), text
    for wrong in ("foxy", "fox+", "fox+fox", "bam+fox", "fox+softmax", "fox:2", "bamm", "bam:3", "bam*0", "rotary:2", "rotary_local:x,bam", "bam*5", "bam,nope+ssmx", "(alibi:1,bam:3", ""):
        with pytest.raises(ValueError, match="position_embedding_type"):
            period(wrong)


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
