"""Behaviours of rows: padding, masks, documents, and what distances are then."""

import copy

import torch
import transformers
from transformers import DynamicCache
from transformers_subjects import ENCODINGS, behaviour, cache_of, far, logits, near, refuses, some


@behaviour(encodings=len(ENCODINGS))
def rows_are_as_alone_whatever_pads_them(subject):
    model = subject.load()
    short, long = some(1, 5), some(1, 11, seed=2)
    alone = [logits(model, short), logits(model, long)]
    nexts = some(2, 3, seed=3)
    afterwards = [logits(model, torch.cat([row, nexts[i : i + 1]], 1))[:, -3:] for i, row in enumerate((short, long))]
    far(afterwards[0], afterwards[1])
    for side in ("left", "right"):
        filler, none = torch.ones(1, 6, dtype=torch.long), torch.zeros(1, 6, dtype=torch.long)
        pad = lambda row, by: torch.cat([by, row] if side == "left" else [row, by], 1)
        ids = torch.cat([pad(short, filler), long])
        mask = torch.cat([pad(torch.ones_like(short), none), torch.ones_like(long)])
        # Llama counts places unless it is told positions.
        told = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if subject.is_llama else {}
        for given in (mask, mask.bool(), mask.float()):
            with torch.no_grad():
                out = model(ids, attention_mask=given, use_cache=True, **told)
            near(out.logits[:1][mask[:1].bool()], alone[0][0])
            near(out.logits[1:], alone[1])
            assert out.logits.isfinite().all()
        # Then with the cache: three tokens one by one, and at once.
        positions = mask.sum(-1, keepdim=True) + torch.arange(3)
        for pieces in ([1, 1, 1], [3], [2, 1]):
            cache, so_far, got = copy.deepcopy(cache_of(out)), mask, []
            for piece, where in zip(nexts.split(pieces, 1), positions.split(pieces, 1)):
                so_far = torch.cat([so_far, torch.ones_like(piece)], 1)
                told = {"position_ids": where} if subject.is_llama or pieces == [2, 1] else {}
                got.append(logits(model, piece, attention_mask=so_far, past_key_values=cache, **told))
            got = torch.cat(got, 1)
            for row in (0, 1):
                near(got[row], afterwards[row][0])


@behaviour(encodings=len(ENCODINGS))
def generation_of_a_batch_is_that_of_its_rows(subject):
    model = subject.load()
    greedy = dict(max_new_tokens=9, do_sample=False, pad_token_id=1, eos_token_id=None)
    rows = [some(1, 4), some(1, 9, seed=2)]
    alone = [model.generate(row, **greedy)[0, row.shape[1] :] for row in rows]
    ids = torch.cat([torch.cat([torch.ones(1, 5, dtype=torch.long), rows[0]], 1), rows[1]])
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    for more in ({}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 1}, {"cache_implementation": "dynamic"}):
        if "cache_implementation" in more and transformers.__version__.startswith("4") and more["cache_implementation"] == "dynamic":
            continue
        both = model.generate(ids, attention_mask=mask, **greedy, **more)[:, 9:]
        assert all(torch.equal(a, b) for a, b in zip(both, alone)), more
    # Beams: each row its own.
    beams = dict(greedy, num_beams=3)
    alone = [model.generate(row, **beams)[0, row.shape[1] :] for row in rows]
    for more in ({}, {"use_cache": False}):
        both = model.generate(ids, attention_mask=mask, **beams, **more)[:, 9:]
        assert all(torch.equal(a, b) for a, b in zip(both, alone)), more


@behaviour(encodings=len(ENCODINGS))
def masks_of_four_dimensions(subject):
    model = subject.load(attn_implementation="eager")
    ids = some(2, 10)
    least = torch.finfo(torch.float32).min
    causal = torch.ones(10, 10, dtype=torch.bool).tril()
    real = torch.ones(2, 10, dtype=torch.bool)
    real[0, :3] = False
    visible = (causal & real[:, None])[:, None]
    expected = logits(model, ids, attention_mask=real.long())
    additive = torch.zeros(visible.shape).masked_fill(~visible, least)
    near(logits(model, ids, attention_mask=additive)[real], expected[real])
    near(logits(model, ids, attention_mask=torch.zeros(1, 1, 10, 10).masked_fill(~causal, -torch.inf)), logits(model, ids))
    if not subject.is_llama:  # Its eager attention adds truth values.
        near(logits(model, ids, attention_mask=visible)[real], expected[real])
    # Documents side by side.
    document = torch.tensor([0] * 4 + [1] * 6)
    apart = (causal & (document[:, None] == document))[None, None]
    got = logits(model, ids, attention_mask=torch.zeros(apart.shape).masked_fill(~apart, least), use_cache=False)
    near(got, torch.cat([logits(model, ids[:, :4]), logits(model, ids[:, 4:])], 1))
    # A tree: two branches of one stem, behind a cache.
    stem, one, other = ids[:1, :4], ids[:1, 4:6], ids[1:, 4:7]
    tree = torch.zeros(5, 9, dtype=torch.bool)
    tree[:, :4] = True
    tree[:2, 4:6], tree[2:, 6:] = torch.ones(2, 2).tril().bool(), torch.ones(3, 3).tril().bool()
    with torch.no_grad():
        cache = cache_of(model(stem, use_cache=True))
    depths = {"position_ids": torch.tensor([[4, 5, 4, 5, 6]])}
    for told in [depths] if subject.is_llama else [{}, depths]:
        mask = torch.zeros(1, 1, 5, 9).masked_fill(~tree, least)
        got = logits(model, torch.cat([one, other], 1), attention_mask=mask, past_key_values=copy.deepcopy(cache), **told)
        near(got[:, :2], logits(model, torch.cat([stem, one], 1))[:, -2:])
        near(got[:, 2:], logits(model, torch.cat([stem, other], 1))[:, -3:])
    if not subject.is_llama:
        with refuses("attention_mask", "ahead"):
            model(ids, attention_mask=torch.ones(2, 1, 10, 10, dtype=torch.bool))
        with refuses("attention_mask", "[2, 4, 10, 10]"):
            model(ids, attention_mask=visible.expand(2, 4, 10, 10))
        with refuses("attention_mask", "[2, 10]", "[2, 7]"):
            model(ids, attention_mask=real[:, :7])
        # A mask that is added is: of scores before the softmax.
        soft = additive.clone()
        soft[..., 4] -= 1.5
        far(logits(model, ids, attention_mask=soft)[real], expected[real])


@behaviour(encodings=len(ENCODINGS))
def positions_that_begin_anew_are_documents(subject):
    model = subject.load()
    parts = [some(1, length, seed=length) for length in (5, 1, 8)]
    ids, positions = torch.cat(parts, 1), torch.cat([torch.arange(part.shape[1]) for part in parts])[None]
    alone = torch.cat([logits(model, part) for part in parts], 1)
    packed = logits(model, ids, position_ids=positions, use_cache=False)
    near(packed, alone)
    far(logits(model, ids), alone)
    # All positions shifted, and the whole step by step with its positions, leaps included.
    steps = torch.tensor([[3, 4, 5, 9, 10, 20]])
    whole = logits(model, ids[:, :6], position_ids=steps)
    cache, got = DynamicCache(config=model.config), []
    for piece, where in zip(ids[:, :6].split([2, 3, 1], 1), steps.split([2, 3, 1], 1)):
        got.append(logits(model, piece, position_ids=where, past_key_values=cache))
    near(torch.cat(got, 1), whole)
    if subject.is_llama:
        return
    if model.config.position_embedding_type.split("+")[0] != "nope":
        far(logits(model, ids[:, :6], position_ids=3 * steps), logits(model, ids[:, :6]))
    # With a cache too, which knows the documents afterwards.
    with torch.no_grad():
        out = model(ids, position_ids=positions)
    near(out.logits, alone)
    more = some(1, 2, seed=9)
    got = logits(model, more, position_ids=torch.tensor([[8, 9]]), past_key_values=cache_of(out))
    near(got, logits(model, torch.cat([parts[2], more], 1))[:, -2:])
    # And beside padding.
    mask = torch.ones(1, 18, dtype=torch.long)
    mask[:, :2] = mask[:, -2:] = 0
    zeros = torch.zeros(1, 2, dtype=torch.long)
    padded = logits(model, torch.cat([zeros, ids, zeros], 1), attention_mask=mask, position_ids=torch.cat([zeros, positions, zeros], 1))
    near(padded[:, 2:-2], alone)
    with refuses("position_ids", "[1, 14]"):
        model(ids, position_ids=positions[:, :4])
