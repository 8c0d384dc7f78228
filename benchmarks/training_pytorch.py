"""Times training steps of the reference program's operations in PyTorch on the CPU.

A LLaMA-like decoder whose attention holds every score in memory, under the learned generalised Gaussian prior with
scalable softmax in every layer, trained by RAdam on random tokens: one document a row, the same batch every step.
Loading data is not measured.

Prints one JSON object on standard output:

    implementation, model, dtype, threads, batch, length, parameters, tokens_per_second, milliseconds_per_step
    (the median after one warm-up step), first_loss (of the warm-up step), last_loss

`bf16` is PyTorch's automatic mixed precision. Run: python training_pytorch.py --threads 2 --model quickstart
"""

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass

# Comes first: it says so where PyTorch is missing.
from attention_pytorch import alibi_slopes, generalized_gaussian

import torch
from torch import nn
from torch.nn import functional

LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1
CLIP = 1.0
SEED = 1


@dataclass
class Size:
    """A model, and the batch that it is trained on."""

    dim: int
    layers: int
    heads: int
    vocabulary: int
    batch: int
    length: int


# `quickstart` is recipes/quickstart.toml.
SIZES = {
    "quickstart": Size(dim=128, layers=2, heads=4, vocabulary=1024, batch=16, length=128),
    "l6": Size(dim=512, layers=6, heads=16, vocabulary=8192, batch=4, length=256),
}


def linear(inputs, outputs):
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=0.02)
    return layer


class Prior(nn.Module):
    """Starts as ALiBi."""

    def __init__(self, heads):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(alibi_slopes(heads)).log().reshape(heads, 1, 1))
        self.shape = nn.Parameter(torch.ones(heads, 1, 1))
        self.location = nn.Parameter(torch.zeros(heads, 1, 1))

    def forward(self, lags):
        return generalized_gaussian(lags, self.location, self.scale, self.shape)


class Attention(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.heads = size.heads
        self.query, self.key, self.value, self.out = (linear(size.dim, size.dim) for _ in range(4))
        self.prior = Prior(size.heads)
        self.ssmax = nn.Parameter(torch.ones(size.heads, 1, 1))

    def forward(self, x, lags, visible, ln_count):
        projections = (self.query, self.key, self.value)
        q, k, v = (project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for project in projections)
        temperature = self.ssmax * ln_count
        logits = (q @ k.mT / math.sqrt(q.shape[-1]) + self.prior(lags)) * temperature
        posterior = logits.masked_fill(~visible, -math.inf).softmax(-1)
        return self.out((posterior @ v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gate, self.up, self.down = linear(dim, 2 * dim), linear(dim, 2 * dim), linear(2 * dim, dim)

    def forward(self, x):
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.attention_norm, self.attention = nn.RMSNorm(size.dim, eps=1e-5), Attention(size)
        self.feed_forward_norm, self.feed_forward = nn.RMSNorm(size.dim, eps=1e-5), FeedForward(size.dim)

    def forward(self, x, *positions):
        x = x + self.attention(self.attention_norm(x), *positions)
        return x + self.feed_forward(self.feed_forward_norm(x))


class Decoder(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.embedding = nn.Embedding(size.vocabulary, size.dim)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.norm = nn.RMSNorm(size.dim, eps=1e-5)
        self.head = linear(size.dim, size.vocabulary)

    def forward(self, tokens, documents):
        """[batch, length] each, to [batch, length, vocabulary]."""
        positions = torch.arange(tokens.shape[1])
        lags = positions[None, :] - positions[:, None]
        visible = (lags <= 0) & (documents[:, None, :, None] == documents[:, None, None, :])
        ln_count = visible.sum(-1, keepdim=True).log()
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, lags.float(), visible, ln_count)
        return self.head(self.norm(x))


def optimizer(model):
    """Weight decay is for matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.RAdam(groups, lr=LEARNING_RATE, betas=(0.9, 0.95), decoupled_weight_decay=True)


def train(model, size, dtype, steps):
    """Losses and seconds of every step; the first one warms up."""
    rows = torch.randint(size.vocabulary, (size.batch, size.length + 1))
    tokens, targets = rows[:, :-1], rows[:, 1:]
    documents = torch.zeros_like(tokens)
    radam = optimizer(model)
    losses, seconds = [], []
    for _ in range(1 + steps):
        start = time.perf_counter()
        radam.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"):
            logits = model(tokens, documents)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        radam.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    return losses, seconds


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", choices=SIZES, default="quickstart")
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, help="rows; the model's own number if not given")
    parser.add_argument("--length", type=int, help="tokens of a row; the model's own number if not given")
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    size = SIZES[args.model]
    size.batch, size.length = args.batch or size.batch, args.length or size.length
    model = Decoder(size)
    losses, seconds = train(model, size, args.dtype, args.steps)
    if not losses[-1] < losses[0]:
        sys.exit(f"wrong answer, training does not lower the loss: {losses}")
    step = statistics.median(seconds[1:])
    result = {
        "implementation": "pytorch-reference",
        "model": args.model,
        "dtype": args.dtype,
        "threads": args.threads,
        "batch": size.batch,
        "length": size.length,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tokens_per_second": size.batch * size.length / step,
        "milliseconds_per_step": step * 1e3,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
