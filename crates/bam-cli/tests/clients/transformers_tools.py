"""Behaviours of what is built around a model: tools that know Llama by its class, its names and its arguments."""

import tempfile

import torch
import transformers
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import nn
from transformers import (
    AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, DataCollatorWithFlattening, GenerationConfig,
    PreTrainedTokenizerFast, Trainer, TrainingArguments,
)
from transformers_subjects import (
    ENCODINGS, LAYERS, VOCABULARY, WIDTH, bam_logits, behaviour, far, logits, near, refuses, some,
)

FIRST = ord("!")
GREEDY = dict(max_new_tokens=8, do_sample=False, pad_token_id=1, eos_token_id=None)


def letters():
    """A tokenizer with a letter for each token."""
    tokenizer = Tokenizer(WordLevel({chr(FIRST + index): index for index in range(VOCABULARY)}, unk_token=chr(FIRST)))
    tokenizer.pre_tokenizer, tokenizer.decoder = Split(Regex("."), "isolated"), Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@behaviour(encodings=2)
def what_generate_takes_for_itself(subject):
    model, ids = subject.load(), some(1, 7)
    expected = model.generate(ids, **GREEDY)
    third = expected[0, 9].item()
    place = 7 + expected[0, 7:].tolist().index(third)
    stopped = model.generate(ids, stop_strings=[chr(FIRST + third)], tokenizer=letters(), **GREEDY)
    assert torch.equal(stopped, expected[:, : place + 1]), (stopped, expected)
    guided = dict(negative_prompt_ids=ids[:, :3], guidance_scale=1.5)
    far(*(torch.stack(model.generate(
        ids, return_dict_in_generate=True, output_scores=True, **more, **GREEDY).scores) for more in (guided, {})))
    heard = []
    streamer = type("Streamer", (), {"put": lambda _, value: heard.extend(value.flatten().tolist()), "end": lambda _: None})()
    assert model.generate(ids, streamer=streamer, **GREEDY)[0].tolist() == heard
    own = lambda model, input_ids, generation_config, more=0, **_: input_ids + more
    assert torch.equal(model.generate(ids, custom_generate=own, more=2, trust_remote_code=True), ids + 2)
    with refuses("head_mask"):
        model.generate(ids, head_mask=torch.ones(LAYERS, 4), **GREEDY)


@behaviour(encodings=4)
def layers_that_are_left_out(subject):
    model, ids = subject.load(), some(1, 7)
    expected = model.generate(ids, **GREEDY)
    assert torch.equal(model.generate(ids, assistant_early_exit=1, **GREEDY), expected)
    full = logits(model, ids)
    model.config.num_hidden_layers = 1
    with torch.no_grad():
        early = model(ids, output_hidden_states=True)
    assert len(early.hidden_states) == 2
    far(early.logits, full)


@behaviour(encodings=3, wants=("accelerate",))
def smoothed_labels_are_those_of_the_next_tokens(subject):
    ids = some(2, 12)
    labels = ids.clone()
    labels[0, :5] = -100
    model = subject.load()
    arguments = TrainingArguments(output_dir=tempfile.mkdtemp(), label_smoothing_factor=0.1, report_to=[], use_cpu=True)
    trainer = Trainer(model=model, args=arguments)
    ln_p = logits(model, ids)[:, :-1].log_softmax(-1)[labels[:, 1:] != -100]
    target = labels[:, 1:][labels[:, 1:] != -100]
    expected = -0.9 * ln_p.gather(-1, target[:, None]).mean() - 0.1 * ln_p.mean()
    near(trainer.compute_loss(model, {"input_ids": ids, "labels": labels.clone()}), expected)


@behaviour(encodings=3)
def what_losses_take(subject):
    model, ids = subject.load(), some(2, 12)
    shifted = nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    near(model(ids, labels=torch.zeros_like(ids), shift_labels=shifted).loss, model(ids, labels=ids).loss)
    ignored = ids.clone()
    ignored[:, :5] = 7
    hidden = ids.masked_fill(ignored == 7, -100)
    near(model(ids, labels=ignored, ignore_index=7).loss, model(ids, labels=hidden).loss)


@behaviour(encodings=len(ENCODINGS))
def packed_rows_however_they_are_told(subject):
    rows = [{"input_ids": some(length, seed=length).tolist()} for length in (4, 9, 1, 6)]
    model = subject.load()
    alone = torch.cat([logits(model, torch.tensor([row["input_ids"]])) for row in rows], 1)
    for ways in ({"return_flash_attn_kwargs": True}, {"return_seq_idx": True}):
        batch = dict(DataCollatorWithFlattening(**ways)([dict(row) for row in rows]))
        del batch["labels"]
        near(logits(model, batch.pop("input_ids"), use_cache=False, **batch), alone)
        if subject.is_llama:
            continue  # Without positions Llama counts through, and sees everything.
        told = {name: value for name, value in batch.items() if name != "position_ids"}
        ids = torch.tensor([[token for row in rows for token in row["input_ids"]]])
        near(logits(model, ids, use_cache=False, **told), alone)
        far(logits(model, ids), alone)
        with refuses("position_ids", "documents"):
            model(ids, position_ids=torch.arange(20)[None], **told)
    if not subject.is_llama:
        with refuses("cu_seq_lens", "from 0 to 20"):
            model(ids, cu_seq_lens_q=torch.tensor([0, 4, 13]))
        with refuses("cache_position"):
            model(ids, cache_position=torch.arange(20) + 1)
        with refuses("is_causal"):
            model(ids, is_causal=False)
    near(logits(model, some(1, 20), cache_position=torch.arange(20)), logits(model, some(1, 20)))


@behaviour(encodings=3, wants=("peft",))
def adapters_where_nobody_says_which(subject):
    import peft

    ids = some(2, 9)
    kinds = [peft.LoraConfig, peft.AdaLoraConfig, peft.IA3Config, peft.LNTuningConfig, peft.VeraConfig, peft.LoHaConfig]
    for kind in kinds:
        more = {"total_step": 10} if kind is peft.AdaLoraConfig else {}
        model = peft.get_peft_model(subject.load().train(), kind(task_type="CAUSAL_LM", **more))
        model(input_ids=ids, labels=ids).loss.backward()
        learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        assert learned and all(p.grad is not None for _, p in learned), kind
    kept = ["embed_tokens", "lm_head"] if subject.is_llama else ["tok_embeddings", "output"]
    config = peft.LoraConfig(task_type="CAUSAL_LM", modules_to_save=kept)
    model = peft.get_peft_model(subject.load(), config)
    whole = [name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name]
    assert len(whole) == 2 and all(any(name in of for of in whole) for name in kept), whole


@behaviour(encodings=3)
def attention_implementations_chosen_later(subject):
    model, ids = subject.load(), some(1, 7)
    model.set_attn_implementation("eager")
    if subject.is_llama:
        return
    for name in ("sdpa", "flash_attention_2", "paged|eager"):
        with refuses("attn_implementation", name):
            model.set_attn_implementation(name)
    if not transformers.__version__.startswith("4"):  # There it wants a GPU, of Llama too.
        with refuses("attn_implementation", "paged"):
            model.generate_batch([ids[0].tolist()], generation_config=GenerationConfig(max_new_tokens=2))
    model.config._attn_implementation = "flash_attention_2"
    with refuses("attn_implementation", "flash_attention_2"):
        model(ids)


@behaviour(encodings=len(ENCODINGS))
def decoders_and_classifiers(subject):
    ids = some(2, 9)
    whole = subject.load()
    decoder = AutoModel.from_pretrained(subject.folder, trust_remote_code=True).eval()
    with torch.no_grad():
        out = decoder(ids, output_hidden_states=True)
        near(whole.get_output_embeddings()(out.last_hidden_state), logits(whole, ids))
    assert len(out.hidden_states) == LAYERS + 1 and out.last_hidden_state.shape == (2, 9, WIDTH)
    options = dict(trust_remote_code=True, num_labels=3, pad_token_id=1)
    classifier = AutoModelForSequenceClassification.from_pretrained(subject.folder, **options).eval()
    with torch.no_grad():
        classifier.score.weight.normal_()
        near(classifier(ids).logits, classifier.score(out.last_hidden_state)[:, -1])
        padded = torch.cat([torch.ones_like(ids[:, :2]), ids], 1)
        mask = (padded != 1).long()
        told = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if subject.is_llama else {}
        near(classifier(padded, attention_mask=mask, **told).logits, classifier(ids).logits)
    classifier.train()(ids, labels=torch.tensor([0, 2])).loss.backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())
    with tempfile.TemporaryDirectory() as folder:
        classifier.eval().save_pretrained(folder)
        again = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
        near(logits(again, ids), logits(classifier, ids))
        with torch.no_grad():
            decoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
            near(decoder(ids).last_hidden_state, out.last_hidden_state)
        narrow = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
        names = ("prior", "seq_scale")
        of_lags = [p.dtype for name, p in narrow.named_parameters() if any(each in name for each in names)]
        assert all(dtype == torch.float32 for dtype in of_lags), of_lags


@behaviour(encodings=4)
def shards_are_read_by_bam(subject):
    model, ids = subject.load(), some(2, 9)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, max_shard_size="20KB")
        again = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
        near(logits(again, ids), logits(model, ids), 1e-7)
        if not subject.is_llama:
            near(bam_logits(subject.bam, folder, ids), logits(model, ids))
