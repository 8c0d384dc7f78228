"""A decoder whose attention rows are posteriors: softmax(temperature · (q·k/√D + ln prior(lag))).

Position is a log-weight per head and lag, so any length works: nothing here has a maximum. Attention is computed a block
of rows at a time, in float32. Tensors are named as in the files of the `bam` program.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_bam import BamConfig

# Newer versions of transformers say `cache`, older ones `past_key_values`.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
# Scores in memory at once.
BLOCK = 1 << 24


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


def make_prior(config):
    groups = [HeadGroup(family, heads) for family, heads in config.head_groups()]
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
        self.prior = make_prior(config) if config.attn_prior["scope"] == "layer" else None
        ssmax = config.ssmax
        sharpens = ssmax["enabled"] and layer >= ssmax.get("from_layer", 0)
        self.seq_scale = nn.Parameter(torch.ones(1, config.num_attention_heads, 1, 1)) if sharpens else None

    def forward(self, x, positions, prior, key_mask, cache):
        config = self.config
        split = lambda x: x.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)
        limit = config.design["clip_qkv"]
        clip = (lambda x: x.clamp(-limit, limit)) if limit else (lambda x: x)
        q, k, v = (split(clip(linear(x))) for linear in (self.wq, self.wk, self.wv))
        if config.position in ("rotary", "rotary_local"):
            q, k = (rotate(x, positions, config.rope_theta) for x in (q, k))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        keys = k.shape[2]
        distance = torch.arange(keys, dtype=torch.float32, device=x.device)[None]
        ln_weights = (self.prior or prior)(distance)
        group = config.num_attention_heads // config.num_key_value_heads
        k, v = (x.repeat_interleave(group, 1).float() for x in (k, v))
        rows = max(1, BLOCK // (x.shape[0] * config.num_attention_heads * keys))
        first = keys - q.shape[2]
        outs = [
            self.attend(part, k, v, first + rows * index, ln_weights, key_mask)
            for index, part in enumerate(q.float().split(rows, 2))
        ]
        return self.wo(torch.cat(outs, 2).transpose(1, 2).flatten(2).to(x.dtype))

    def attend(self, q, k, v, first, ln_weights, key_mask):
        """The expectation of the values under the posterior of each row; row 0 stands at position `first`."""
        keys = torch.arange(k.shape[2], device=q.device)
        lag = first + torch.arange(q.shape[2], device=q.device)[:, None] - keys
        visible = lag >= 0
        if self.config.position == "rotary_local":
            visible &= lag < self.config.train_length
        visible = visible[None, None]
        if key_mask is not None:
            visible = visible & key_mask[:, None, None, :]
        likelihood = q @ k.transpose(2, 3) / math.sqrt(self.config.head_dim)
        prior = ln_weights[:, lag.clamp(min=0)][None]
        if self.seq_scale is None:
            logits = likelihood + prior
        else:
            seen = visible.sum(-1, keepdim=True).clamp(min=1)
            temperature = self.seq_scale.float() * seen.float().log()
            scales_prior = self.config.ssmax["scale_prior"]
            logits = temperature * (likelihood + prior) if scales_prior else temperature * likelihood + prior
        logits = logits.masked_fill(~visible, torch.finfo(torch.float32).min)
        return logits.softmax(-1) @ v


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


class Block(nn.Module):
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
        x = (normed if self.from_norm[0] else x) + self.attention(normed, *context)
        normed = self.ffn_norm(x)
        return (normed if self.from_norm[1] else x) + self.feed_forward(normed)


class BamForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = BamConfig
    _supports_cache_class = True
    _no_split_modules = ["Block"]

    def __init__(self, config):
        super().__init__(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.embedding_norm = Norm(config) if config.design["embedding_norm"] else nn.Identity()
        self.norm = Norm(config) if config.design["final_norm"] else nn.Identity()
        own_head = not config.design["tied_head"]
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False) if own_head else None
        self.prior = make_prior(config) if config.attn_prior["scope"] == "global" else None
        # Lags need more digits than bfloat16 has. Names that do not occur are an error in some versions.
        names = {part for name, _ in self.named_parameters() for part in name.split(".")}
        wide = sorted(names & {"prior", "seq_scale"})
        self._keep_in_fp32_modules = self._keep_in_fp32_modules_strict = wide
        self.post_init()

    def get_input_embeddings(self):
        return self.tok_embeddings

    def set_input_embeddings(self, value):
        self.tok_embeddings = value

    def get_output_embeddings(self):
        return self.output

    def forward(
        self,
        input_ids,
        attention_mask=None,
        past_key_values=None,
        cache=None,
        use_cache=None,
        labels=None,
        logits_to_keep=0,
        **_,
    ):
        """`attention_mask` is `[batch, tokens so far]`, 0 for padding."""
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(f"attention_mask: expected [batch, tokens], got {list(attention_mask.shape)}")
        cache = cache if cache is not None else past_key_values
        if cache is None and (use_cache if use_cache is not None else not self.training):
            cache = DynamicCache()
        before = cache.get_seq_length() if cache is not None else 0
        length = input_ids.shape[1]
        key_mask = None
        positions = torch.arange(before, before + length, device=input_ids.device)[None]
        if attention_mask is not None and not attention_mask.bool().all():
            key_mask = attention_mask.bool()
            positions = (key_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        x = self.embedding_norm(self.tok_embeddings(input_ids))
        if self.config.position == "sinusoidal":
            x = x + sinusoids(positions, self.config.hidden_size, self.config.rope_theta).to(x.dtype)
        for layer in self.layers:
            x = layer(x, positions, self.prior, key_mask, cache)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        head = self.output if self.output is not None else self.tok_embeddings
        logits = F.linear(self.norm(x[:, keep]), head.weight)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache})

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
