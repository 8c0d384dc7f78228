"""A decoder whose attention rows are posteriors: softmax(temperature · (q·k/√D + ln prior(distance)) + u(key)).

Position is a log-weight per head and distance, so any length works: nothing here has a maximum. A distance is a number of
tokens, so padding is none, and forgets nothing. Attention is computed a block of rows at a time, in float32, or by the package bam_attention
where it is installed and the model is on the CPU. Tensors are named as in the files
of the `bam` program.
"""

import inspect
import math
import sys

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_layers import GenericForSequenceClassification, GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from .configuration_bam import BamConfig
from .sight_bam import BLOCK, Sight, begins_of, expect, is_known, packed

try:
    import bam_attention
except ModuleNotFoundError:
    bam_attention = None

logger = logging.get_logger(__name__)
# Newer versions of transformers say `cache`, older ones `past_key_values`.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


def location(theta):
    return 2 * torch.sinh(theta)


def bam(distance, loc, scale, shape):
    ln_distance = torch.log((distance + location(loc)).abs() + 1e-5)
    return -torch.exp((ln_distance * shape + scale).clamp(max=60))


def gaussian(distance, location_, scale):
    return -torch.exp(scale) * (distance + location(location_)) ** 2


def student_t(distance, location_, scale, shape):
    nu = torch.exp(shape)
    standardised = (distance + location(location_)) / torch.exp(scale)
    return -(nu + 1) / 2 * torch.log1p(standardised**2 / nu)


def kerple_power(distance, scale, exponent):
    power = torch.exp(torch.log(distance.clamp(min=1)) * 2 * torch.sigmoid(exponent))
    return -torch.exp(scale) * torch.where(distance == 0, 0, power)


def laplace_slab(distance, scale, slab):
    ln_laplace = -torch.exp(scale) * distance
    return torch.logaddexp(ln_laplace, slab.expand_as(ln_laplace)) - F.softplus(slab)


def t5_buckets(distance, weights):
    """32 buckets, the first 16 exact, the others logarithmic up to a distance of 128."""
    far = 16 + 16 * torch.log(distance.double().clamp(min=16) / 16) / math.log(128 / 16)
    bucket = torch.where(distance < 16, distance.double(), far + 1e-9).long().clamp(max=31)
    return weights[:, bucket[0]]


def table(distance, weights):
    return weights[:, distance[0].long().clamp(max=63)]


# ln w by family, of whole distances (query position − key position) and unconstrained parameters, a row a head. Each
# with its parameters' names and their numbers per head, in the order of the function.
FAMILIES = {
    "nope": (lambda distance: torch.zeros_like(distance), {}),
    "bam": (bam, {"loc": 1, "scale": 1, "shape": 1}),
    "laplace": (lambda distance, scale: -torch.exp(scale) * distance, {"scale": 1}),
    "gaussian": (gaussian, {"location": 1, "scale": 1}),
    "kerple_log": (
        lambda distance, scale, rate: -torch.exp(scale) * torch.log1p(torch.exp(rate) * distance),
        {"scale": 1, "rate": 1},
    ),
    "kerple_power": (kerple_power, {"scale": 1, "exponent": 1}),
    "student_t": (student_t, {"location": 1, "scale": 1, "shape": 1}),
    "t5_buckets": (t5_buckets, {"weights": 32}),
    "table": (table, {"weights": 64}),
    "laplace_slab": (laplace_slab, {"scale": 1, "slab": 1}),
}


def alibi_slopes(heads):
    lower = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * i / lower) for i in range(1, lower + 1)]
    between = [2 ** (-8 * i / (2 * lower)) for i in range(1, 2 * lower, 2)]
    return (slopes + between)[:heads]


class HeadGroup(nn.Module):
    """The priors of neighbouring heads of one family."""

    def __init__(self, family, heads):
        super().__init__()
        self.family, self.heads = family, heads
        for name, width in {} if family == "alibi" else FAMILIES[family][1].items():
            shape = (1, heads, 1, 1) if width == 1 else (heads, width)
            setattr(self, name, nn.Parameter(torch.zeros(shape)))

    def forward(self, distance):
        """`[1, lags]` → ln w, `[heads, lags]`."""
        if self.family == "alibi":
            return -distance.new_tensor(alibi_slopes(self.heads))[:, None] * distance
        ln_weight, names = FAMILIES[self.family]
        theta = [getattr(self, name).float().reshape(self.heads, -1) for name in names]
        return ln_weight(distance, *theta).expand(self.heads, -1)


class Prior(nn.ModuleList):
    """Several groups, named by their number."""

    def forward(self, distance):
        return torch.cat([group(distance) for group in self])


def make_prior(encoding):
    groups = [HeadGroup(family, heads) for family, heads in encoding.groups]
    return groups[0] if len(groups) == 1 else Prior(groups)


class Norm(nn.Module):
    """RMS norm; layer norm, with a bias or without."""

    def __init__(self, config):
        super().__init__()
        self.centred = config.design["norm"] != "rms"
        self.epsilon = config.rms_norm_eps
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.bias = nn.Parameter(torch.zeros(config.hidden_size)) if config.design["norm"] == "layer" else None

    def forward(self, x):
        wide = x.float()
        if self.centred:
            wide = wide - wide.mean(-1, keepdim=True)
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        normed = self.weight * normed.to(x.dtype)
        return normed if self.bias is None else normed + self.bias


def rotate(x, positions, theta):
    """Turns the pairs (2i, 2i + 1) of `[batch, heads, length, dim]` by position · θ^(−2i/dim)."""
    dim = x.shape[-1]
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=x.device) / dim)
    angles = positions.double()[:, None, :, None] * frequencies
    cos, sin = angles.cos().float(), angles.sin().float()
    first, second = x.float()[..., 0::2], x.float()[..., 1::2]
    turned = torch.stack((first * cos - second * sin, first * sin + second * cos), -1)
    return turned.flatten(-2).to(x.dtype)


def sinusoids(positions, width, theta):
    """Column c turns with θ^(−c/width), as a sine where c is even and a cosine where it is odd."""
    columns = torch.arange(width, device=positions.device)
    angles = positions.double()[..., None] * theta ** (-columns.double() / width)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()


class Attention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer = config, layer
        key_width = config.num_key_value_heads * config.head_dim
        linear = lambda width: nn.Linear(config.hidden_size, width, bias=config.design["attention_bias"])
        self.wq, self.wk, self.wv = linear(config.hidden_size), linear(key_width), linear(key_width)
        self.wo = linear(config.hidden_size) if config.design["output_projection"] else nn.Identity()
        self.encoding = config.encoding(layer)
        self.prior = make_prior(self.encoding) if config.attn_prior["scope"] == "layer" else None
        heads, sharpens = config.num_attention_heads, self.encoding.scope is not None and layer >= config.ssmax.get("from_layer", 0)
        self.seq_scale = nn.Parameter(torch.ones(1, heads, 1, 1)) if sharpens and not self.encoding.adapts else None
        of_row = lambda: nn.Linear(config.hidden_size, heads, bias=False)
        adapts = sharpens and self.encoding.adapts
        self.temperature = nn.ModuleDict({"beta": of_row(), "gamma": of_row()}) if adapts else None
        self.wf = nn.Linear(config.hidden_size, heads) if self.encoding.forgets else None

    def forward(self, x, sight, prior, cache, keep_weights):
        config = self.config
        split = lambda x: x.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
        limit = config.design["clip_qkv"]
        clip = (lambda x: x.clamp(-limit, limit)) if limit else (lambda x: x)
        q, k, v = (split(clip(linear(x))) for linear in (self.wq, self.wk, self.wv))
        if self.encoding.rotates:
            q, k = (rotate(x, sight.positions, config.rope_theta) for x in (q, k))
        if self.wf is not None:
            # Logarithms of gates are cached as further columns of their keys, since caches know of keys and values alone.
            ln_forget = F.logsigmoid(self.wf(x.float())).transpose(1, 2)
            k = torch.cat([k, ln_forget.unflatten(1, (k.shape[1], -1)).transpose(2, 3).to(k.dtype)], 3)
        if cache is not None:
            k, v = cache.update(k, v, self.layer, {"cache_position": sight.places})
        keys, key_prior = k.shape[2], None
        if self.wf is not None:
            k, ln_forget = k.split([config.head_dim, k.shape[3] - config.head_dim], 3)
            # u = −Σ ln f up to the key; differences of long sums want float64.
            key_prior = -sight.of_tokens(ln_forget.transpose(2, 3).flatten(1, 2).double()).cumsum(2)
        prior = self.prior if self.prior is not None else prior
        reach = sight.farthest(keys)
        if reach is not None:
            # Each distance once; rows take theirs.
            table = prior(torch.arange(reach, dtype=torch.float32, device=x.device)[None])
            ln_weights = lambda lag: table[:, lag.clamp(max=reach - 1)]
        else:
            ln_weights = lambda lag: prior(lag.flatten().float()[None]).unflatten(1, lag.shape)
        fusable = bam_attention is not None and x.device.type == "cpu" and not keep_weights
        fusable = fusable and q.dtype in (torch.float32, torch.bfloat16)
        runs = sight.runs(q.shape[2], keys, bam_attention.PADDING) if fusable else False
        if runs is not False:
            out = self.fused(q, k, v, x, sight.before, table.flip(1), key_prior, runs)
            return self.wo(out.transpose(1, 2).flatten(2)), None
        group = config.num_attention_heads // config.num_key_value_heads
        k, v = (x.repeat_interleave(group, 1).float() for x in (k, v))
        rows = max(1, BLOCK // (x.shape[0] * config.num_attention_heads * keys))
        parts = zip(q.float().split(rows, 2), x.split(rows, 1))
        blocks = [
            self.attend(*part, k, v, rows * index, sight, ln_weights, key_prior, keep_weights)
            for index, part in enumerate(parts)
        ]
        outs, weights = zip(*blocks)
        out = self.wo(torch.cat(outs, 2).transpose(1, 2).flatten(2).to(x.dtype))
        return out, torch.cat(weights, 2).to(x.dtype) if keep_weights else None

    def row_temperature(self, x, counts):
        """What multiplies the scores of rows, `[batch or 1, heads, rows]`; `counts()` are the keys that each sees, `[batch or 1, rows]`."""
        if self.seq_scale is None and self.temperature is None:
            return None
        seen = counts().clamp(min=1).float()[:, None]
        if self.seq_scale is not None:
            return self.seq_scale.float()[..., 0] * seen.log()
        beta, gamma = (self.temperature[name](x.float()).transpose(1, 2) for name in ("beta", "gamma"))
        return 1 + F.softplus(beta) * (seen + 1).log() ** (2 * torch.tanh(gamma))

    def fused(self, q, k, v, x, before, ln_weights, key_prior, documents):
        """`attend` of all rows, by the package."""
        rules = {"query_offset": before, "documents": documents, "window": self.encoding.window}
        temperature = self.row_temperature(x, lambda: bam_attention.visible_counts(q.shape[2], k.shape[2], **rules))
        rules |= {"temperature": temperature, "temperature_scope": self.encoding.scope or "likelihood"}
        return bam_attention.attend(q, k, v, ln_weights, key_prior=key_prior, **rules)

    def attend(self, q, x, k, v, first, sight, ln_weights, key_prior, keep_weights):
        """The expectation of the values under the posterior of each row, and the posterior."""
        visible, lag = sight.rows(first, q.shape[2], k.shape[2])
        if self.encoding.window is not None:
            visible = visible & (lag < self.encoding.window)
        likelihood = q @ k.transpose(2, 3) / math.sqrt(self.config.head_dim)
        prior = ln_weights(lag.clamp(min=0)).transpose(0, 1)
        temperature = self.row_temperature(x, lambda: visible.sum(-1))
        if temperature is None:
            logits = likelihood + prior
        else:
            scales_prior = self.encoding.scope == "likelihood_and_prior"
            temperature = temperature[..., None]
            logits = temperature * (likelihood + prior) if scales_prior else temperature * likelihood + prior
        if key_prior is not None:
            own = key_prior[:, :, sight.places[first : first + q.shape[2]]]
            logits = logits + (key_prior[:, :, None] - own[..., None]).float()
        if sight.bias is not None:
            logits = logits + sight.bias[:, None, first : first + q.shape[2]]
        posterior = logits.masked_fill(~visible[:, None], torch.finfo(torch.float32).min).softmax(-1)
        return posterior @ v, posterior if keep_weights else None


ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        linear = lambda *widths: nn.Linear(*widths, bias=config.design["feed_forward_bias"])
        self.activation = ACTIVATIONS[config.design["activation"]]
        self.w1 = linear(config.hidden_size, config.intermediate_size)
        self.w2 = linear(config.intermediate_size, config.hidden_size)
        self.w3 = linear(config.hidden_size, config.intermediate_size) if config.design["gated"] else None

    def forward(self, x):
        inner = self.activation(self.w1(x))
        return self.w2(inner if self.w3 is None else inner * self.w3(x))


class Block(GradientCheckpointingLayer):
    def __init__(self, config, layer):
        super().__init__()
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config)
        self.attention_norm = Norm(config)
        self.ffn_norm = Norm(config)
        # Whether a residual starts behind the norm.
        starts = ("attention_residual", "feed_forward_residual")
        self.from_norm = [config.design[start] == "normed" for start in starts]

    def forward(self, x, *context):
        normed = self.attention_norm(x)
        out, weights = self.attention(normed, *context)
        x = (normed if self.from_norm[0] else x) + out
        normed = self.ffn_norm(x)
        return (normed if self.from_norm[1] else x) + self.feed_forward(normed), weights


# Llama's names of layers, and ours.
LLAMA = {
    "q_proj": "wq", "k_proj": "wk", "v_proj": "wv", "o_proj": "wo", "gate_proj": "w1", "down_proj": "w2", "up_proj": "w3",
    "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "norm": "norm",
}


def tell_peft():
    """Layers that PEFT adapts where it is not told which: those that it takes of Llama."""
    constants = sys.modules.get("peft.utils.constants")
    for name, of_models in vars(constants).items() if constants else ():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and isinstance(of_models.get("llama"), list):
            of_models[BamConfig.model_type] = [LLAMA[layer] for layer in of_models["llama"]]


class BamPreTrainedModel(PreTrainedModel):
    config_class = BamConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]

    def set_attn_implementation(self, attn_implementation, *_, **__):
        expect(attn_implementation == "eager", "attn_implementation", "eager, which is all there is", attn_implementation)

    @torch.no_grad()
    def _init_weights(self, module):
        """As a new model starts: ALiBi's slopes in every family that has a place for them."""
        fresh = lambda tensor: not getattr(tensor, "_is_hf_initialized", False)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter) and fresh(bias):
            bias.zero_()
        if isinstance(module, (nn.Linear, nn.Embedding)) and fresh(module.weight):
            module.weight.normal_(std=0.02)
        elif isinstance(module, Norm) and fresh(module.weight):
            module.weight.fill_(1)
        elif isinstance(module, Attention) and module.seq_scale is not None and fresh(module.seq_scale):
            module.seq_scale.fill_(1)
        elif isinstance(module, HeadGroup):
            slopes = torch.tensor(alibi_slopes(module.heads)).log()
            starts = {
                ("kerple_log", "scale"): 0 * slopes, ("kerple_log", "rate"): slopes,
                ("student_t", "scale"): -slopes, ("gaussian", "scale"): 2 * slopes - math.log(4),
                ("student_t", "shape"): 0 * slopes, ("bam", "shape"): 0 * slopes + 1,
                ("laplace_slab", "slab"): 0 * slopes - 4.6,
            }
            for name, tensor in module.named_parameters():
                start = starts.get((module.family, name), slopes if name == "scale" else 0 * slopes)
                if fresh(tensor):
                    tensor.copy_(start.reshape(tensor.shape) if tensor.dim() == 4 else torch.zeros(tensor.shape))


class BamModel(BamPreTrainedModel):
    """The decoder, of whose classes one has a head."""

    # Of the decoder's tensors in files of classifiers.
    base_model_prefix = "model"
    _auto_class = "AutoModel"

    def __init__(self, config):
        super().__init__(config)
        tell_peft()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.embedding_norm = Norm(config) if config.design["embedding_norm"] else nn.Identity()
        self.norm = Norm(config) if config.design["final_norm"] else nn.Identity()
        if isinstance(self, BamForCausalLM):
            self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.prior = make_prior(config.encoding(0)) if config.attn_prior["scope"] == "global" else None
        # Lags, and gates that are nearly 1, need more digits than bfloat16 has. Names that do not occur are an error in some versions.
        names = {part for name, _ in self.named_parameters() for part in name.split(".")}
        wide = sorted(names & {"prior", "seq_scale", "temperature", "wf"})
        self._keep_in_fp32_modules = self._keep_in_fp32_modules_strict = wide
        self.post_init()

    def get_input_embeddings(self):
        return self.tok_embeddings

    def set_input_embeddings(self, value):
        self.tok_embeddings = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
        cache=None,
        cache_position=None,
        cu_seq_lens_q=None,
        cu_seq_lens_k=None,
        max_length_q=None,
        max_length_k=None,
        seq_idx=None,
        is_causal=None,
        output_router_logits=None,
        num_items_in_batch=None,
    ):
        """As of every decoder of transformers.

        `attention_mask` is `[batch, tokens so far]`, 0 for padding, or `[batch, 1, tokens, tokens so far]`: true, or
        near 0, where a token sees a key. `position_ids` that go back begin documents, as `cu_seq_lens_q` and `seq_idx`
        tell them, of which `max_length_q` follows. `num_items_in_batch` is for the losses of heads.
        """
        chosen = lambda given, name: given if given is not None else getattr(self.config, name)
        expect((input_ids is None) != (inputs_embeds is None), "input_ids", "these or inputs_embeds", "both or neither")
        expect(cache is None or past_key_values is None, "cache", "one", "past_key_values too, which are the same")
        expect(is_causal is not False, "is_causal", "attention that looks back", is_causal)
        expect(not output_router_logits, "output_router_logits", "none, for no layer has experts", output_router_logits)
        kind = self.config._attn_implementation
        expect(kind in (None, "eager"), "attn_implementation", "eager, which is all there is", kind)
        cache = self._chosen_cache(cache if cache is not None else past_key_values, use_cache)
        x = self.tok_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        for places in (cu_seq_lens_q, cu_seq_lens_k):
            if places is not None:
                position_ids = packed(position_ids, begins_of(places, *x.shape[:2], x.device))
        if seq_idx is not None:
            position_ids = packed(position_ids, F.pad(seq_idx.diff() != 0, (1, 0), value=True))
        sight = Sight(*x.shape[:2], x.device, attention_mask, position_ids, cache)
        elsewhere = cache_position is not None and is_known((cache_position != sight.places).any())
        expect(not elsewhere, "cache_position", "the places behind the cached tokens", cache_position)
        x = self.embedding_norm(x)
        if self.config.adds_sinusoids:
            x = x + sinusoids(sight.positions, self.config.hidden_size, self.config.rope_theta).to(x.dtype)
        keep_weights = chosen(output_attentions, "output_attentions")
        hidden, attentions = [], []
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden.append(x)
            x, weights = layer(x, sight, self.prior, cache, keep_weights)
            attentions.append(weights)
        x = self.norm(x)
        out = BaseModelOutputWithPast(
            last_hidden_state=x,
            hidden_states=(*hidden, x) if chosen(output_hidden_states, "output_hidden_states") else None,
            attentions=tuple(attentions) if keep_weights else None,
            **{CACHE: cache},
        )
        return out if chosen(return_dict, "return_dict") else out.to_tuple()

    def _chosen_cache(self, cache, use_cache):
        """The cache to use: the one given, a new one, or none."""
        expect(cache is None or isinstance(cache, Cache), "past_key_values", "a Cache", type(cache).__name__)
        twice = any(layer.gradient_checkpointing for layer in self.layers)
        if twice and self.training and torch.is_grad_enabled():
            expect(cache is None, "past_key_values", "none while layers are computed twice", type(cache).__name__)
            if use_cache:
                logger.warning_once("use_cache=True means nothing while layers are computed twice, in gradient checkpointing")
            return None
        if cache is None and (use_cache if use_cache is not None else self.config.use_cache):
            cache = DynamicCache(config=self.config)
        return cache


class BamForCausalLM(BamModel, GenerationMixin):
    base_model_prefix = ""
    # The loss is divided by `num_items_in_batch`.
    accepts_loss_kwargs = True
    _auto_class = "AutoModelForCausalLM"
    _tied_weights_keys = {"output.weight": "tok_embeddings.weight"}

    def __getattr__(self, name):
        # The decoder, as transformers asks for it by the prefix of its tensors.
        return self if name == self.base_model_prefix else super().__getattr__(name)

    def get_output_embeddings(self):
        return self.output

    def set_output_embeddings(self, value):
        self.output = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        return_dict=None,
        logits_to_keep=0,
        num_items_in_batch=None,
        shift_labels=None,
        ignore_index=-100,
        cache=None,
        **of_decoder,
    ):
        """As of every causal model of transformers; the decoder says what else there is."""
        shared = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        out = super().forward(*shared, cache=cache, return_dict=True, **of_decoder)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.output(out.last_hidden_state[:, keep])
        loss = None
        if labels is not None:
            rules = {"num_items_in_batch": num_items_in_batch, "shift_labels": shift_labels, "ignore_index": ignore_index}
            loss = self.loss_function(logits, labels, self.config.vocab_size, **rules)
        rest = {name: value for name, value in out.items() if name != "last_hidden_state"}
        out = CausalLMOutputWithPast(loss=loss, logits=logits, **rest)
        return out if (return_dict if return_dict is not None else self.config.return_dict) else out.to_tuple()

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, **kwargs):
        inputs = super().prepare_inputs_for_generation(input_ids, inputs_embeds=inputs_embeds, **kwargs)
        # Older versions say what the cache knows, and all hand on what is their own, such as a tokenizer.
        inputs = {name: value for name, value in inputs.items() if name in TAKEN}
        # PEFT knows the cache by this name.
        return {"past_key_values": inputs.pop("cache"), **inputs} if "cache" in inputs else inputs

    def _prepare_attention_mask_for_generation(self, inputs_tensor, generation_config, model_kwargs):
        """Without a mask, padding is what can be nothing else: where a beginning pads too, none is made up from it."""
        if generation_config.pad_token_id is not None and generation_config.pad_token_id == generation_config.bos_token_id:
            return inputs_tensor.new_ones(inputs_tensor.shape[:2], dtype=torch.long)
        return super()._prepare_attention_mask_for_generation(inputs_tensor, generation_config, model_kwargs)

    @staticmethod
    def create_masks_for_generate(attention_mask=None, **_):
        """Keeps the mask of tokens, from which distances are counted, where caches of a fixed size would have rows."""
        return attention_mask


class BamForSequenceClassification(GenericForSequenceClassification, BamPreTrainedModel):
    _auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config):
        super(GenericForSequenceClassification, self).__init__(config)
        self.num_labels = config.num_labels
        self.model = BamModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self._keep_in_fp32_modules = self._keep_in_fp32_modules_strict = self.model._keep_in_fp32_modules
        self.post_init()


TAKEN = {name for model in (BamModel, BamForCausalLM) for name in inspect.signature(model.forward).parameters}
TAKEN.discard("cache_position")
# Trainer's label smoothing and pipelines know causal models by their names in this list.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[BamConfig.model_type] = BamForCausalLM.__name__
