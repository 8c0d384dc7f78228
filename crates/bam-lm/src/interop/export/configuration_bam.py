"""The shape of a BAM model, as its config.json says it."""

import re
from dataclasses import dataclass

from transformers import PretrainedConfig

# Families of priors with parameters to learn; `bam` is the generalised Gaussian.
FAMILIES = (
    "bam", "laplace", "gaussian", "kerple_log", "kerple_power", "student_t", "t5_buckets", "table", "laplace_slab",
)
OTHER_POSITIONS = ("sinusoidal", "rotary", "rotary_local")
# What scalable softmax, or a temperature that rows learn, multiplies, by the suffix of an encoding.
SCOPES = {
    "": None, "+ssmax": "likelihood_and_prior", "+ssmax-content": "likelihood",
    "+adaptive": "likelihood_and_prior", "+adaptive-content": "likelihood",
}
# How a model is built besides its sizes, where nothing else is said.
DESIGN = {
    "norm": "rms",
    "activation": "silu",
    "gated": True,
    "attention_bias": False,
    "feed_forward_bias": False,
    "output_projection": True,
    "clip_qkv": None,
    "attention_residual": "stream",
    "feed_forward_residual": "stream",
    "embedding_norm": False,
    "final_norm": True,
    "tied_head": False,
}

# No length is refused. Programs that cut texts at `max_position_embeddings` cut them here.
NO_LIMIT = 1 << 24


@dataclass(frozen=True)
class LayerEncoding:
    """How position enters a layer."""

    # One of OTHER_POSITIONS, or `prior`.
    position: str
    # (family, heads) of neighbouring heads; every head is uniform where position enters elsewhere.
    groups: tuple
    # Keys at this distance and beyond are hidden.
    window: int | None
    # What the temperature of rows multiplies, if they have one.
    scope: str | None
    # Whether rows learn it, instead of scalable softmax.
    adapts: bool
    # Whether heads have forget gates.
    forgets: bool

    @property
    def rotates(self):
        return self.position in ("rotary", "rotary_local")


class BamConfig(PretrainedConfig):
    """`position_embedding_type` is the encoding: `bam`, `alibi:2,bam:6+ssmax`, `rotary_local:64*3,nope`, `fox+bam`, …"""

    model_type = "bam"

    def __init__(
        self,
        position_embedding_type="bam",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=None,
        intermediate_size=128,
        vocab_size=300,
        train_length=128,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        attn_prior=None,
        ssmax=None,
        design=None,
        max_position_embeddings=NO_LIMIT,
        use_cache=True,
        tie_word_embeddings=None,
        **kwargs,
    ):
        self.position_embedding_type = position_embedding_type
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads or num_attention_heads
        self.intermediate_size = intermediate_size
        self.vocab_size = vocab_size
        self.train_length = train_length
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = rope_theta
        self.attn_prior = attn_prior or {"scope": "layer"}
        self.ssmax = ssmax or {"enabled": False, "scale_prior": False, "from_layer": 0}
        self.design = {**DESIGN, **(design or {})}
        unknown = self.design.keys() - DESIGN.keys()
        if unknown:
            raise ValueError(f"design: expected some of {', '.join(DESIGN)}, got {', '.join(unknown)}")
        self.head_dim = hidden_size // num_attention_heads
        self.max_position_embeddings = max_position_embeddings
        self.use_cache = use_cache
        tied = self.design["tied_head"] if tie_word_embeddings is None else tie_word_embeddings
        super().__init__(tie_word_embeddings=tied, **kwargs)
        self.period()  # An encoding that is none is refused here.

    def to_dict(self):
        """The head is tied, or has been untied, in both places that say so."""
        fields = super().to_dict()
        fields["design"] = {**self.design, "tied_head": self.tie_word_embeddings}
        return fields

    def period(self):
        """The encodings of the layers of one period: one, or those of a pattern."""
        text = self.position_embedding_type
        # Commas between items; those within parentheses, and of a mixture of heads, stay.
        mixture = re.fullmatch(r"(fox\+)?\w+:\d+(,\w+:\d+)*(\+[\w-]+)?", text)
        items = [text] if mixture else re.split(r",(?![^(]*\))", text)
        layers = []
        for item in items:
            # Forget gates alone are gates beside no position.
            item = re.sub(r"^fox(?=\*|\+ssmax|\+adaptive|$)", "fox+nope", item)
            parts = re.fullmatch(r"(fox\+)?\(?([\w:,]+)\)?(?:\*([1-9]\d*))?(\+[\w-]+)?", item)
            if not parts or (parts[4] or "") not in SCOPES:
                raise ValueError(f"position_embedding_type: no such encoding: {text}")
            gates, position, count, suffix = parts.groups(default="")
            temperature = {"scope": SCOPES[suffix], "adapts": "adaptive" in suffix}
            layers += [LayerEncoding(*self._place(position), **temperature, forgets=gates != "")] * int(count or 1)
        if len(layers) > max(1, self.num_hidden_layers):
            raise ValueError(f"position_embedding_type: expected {self.num_hidden_layers} layers at most, got {text}")
        return layers

    def _place(self, position):
        """How a layer's position is said, the families of its heads, and its window."""
        name, _, number = position.partition(":")
        if name in OTHER_POSITIONS and number.isdecimal() == (":" in position) and (not number or name == "rotary_local"):
            window = int(number or self.train_length) if name == "rotary_local" else None
            return name, (("nope", self.num_attention_heads),), window
        groups = []
        for group in position.split(","):
            family, _, heads = group.partition(":")
            family = {"uniform": "nope", "generalized_gaussian": "bam"}.get(family, family)
            if family not in (*FAMILIES, "nope", "alibi"):
                raise ValueError(f"position_embedding_type: no such encoding: {self.position_embedding_type}")
            groups.append((family, int(heads) if heads else self.num_attention_heads))
        if sum(heads for _, heads in groups) != self.num_attention_heads:
            raise ValueError(f"position_embedding_type: expected {self.num_attention_heads} heads, got {position}")
        return "prior", tuple(groups), None

    def encoding(self, layer):
        """That of a layer."""
        period = self.period()
        return period[layer % len(period)]

    @property
    def adds_sinusoids(self):
        return self.encoding(0).position == "sinusoidal"
