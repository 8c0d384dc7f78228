"""Times attention under positional priors in PyTorch, on the CPU or a GPU, to compare the Rust implementations with.

Prints one JSON object per measurement and line on standard output, and everything else on standard error:

    implementation, prior, head_class, pass, dtype, threads, batch, heads, head_dim, length,
    milliseconds (the median), gflops (the causal half only), peak_bytes (growth of the resident memory, or of
    the GPU's, during one call, null where the system does not tell), answer_error, device

Some rows of an answer, gradients by the queries included, are compared with an oracle in float64 before it is timed;
a wrong answer is not timed, and the program exits with 1 at its end.

Implementations:

    pytorch-matmul        a square matrix product, what the machine can do at most
    pytorch-materialised  every score, log-weight and probability in memory, the prior computed in every call;
                          its backward pass under `ggd` goes on to the prior's scale and shape
    pytorch-flex          flex_attention, compiled, the prior computed per score; it has no backward pass on a CPU,
                          and on a GPU its backward pass under `ggd` goes on to scale and shape
    pytorch-flex-table    the same, the prior read by lag from a table, which gets a gradient; on a GPU only
    pytorch-sdpa-bias     scaled_dot_product_attention with prior and mask as a bias that is built beforehand
                          (neither its time nor its memory is counted) and gets no gradient
    pytorch-sdpa          scaled_dot_product_attention without a prior

Run: python attention_pytorch.py --threads 2 --lengths 1024 4096
     python attention_pytorch.py --device cuda --heads 16 --head-dim 128 --dtypes bf16 --lengths 1024 4096 16384
"""

import argparse
import ctypes
import gc
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

try:
    import numpy as np
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    from torch.nn.functional import scaled_dot_product_attention
except ImportError:
    print("PyTorch is not installed: pip install torch numpy", file=sys.stderr)
    sys.exit(3)

EPSILON = 1e-5
FORWARD, FORWARD_BACKWARD = "forward", "forward+backward"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"f32": 1e-4, "bf16": 3e-2}
HEAD_CLASS = {"ggd": "mixed", "alibi": "local", "uniform": "flat", "none": "none"}
MATMUL_SIZE = 2048
CHECKED_ROWS = 8
SCORE_MATRICES = 4
SCORES_LIMIT_BYTES = 8 << 30
DEVICE = "cpu"


class Unavailable(Exception):
    """An implementation cannot run here at this size; the message says why."""


class WrongAnswer(Exception):
    """An implementation whose answer is not that of the oracle; the message says by how much."""


def signed_numbers(shape, spread, seed):
    """Numbers in (-spread, spread) from a SplitMix64 stream: those of `bam_attention::testing::signed_numbers`."""
    step = np.uint64(0x9E3779B97F4A7C15)
    z = (np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.uint64(seed)) * step
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    unit = (z >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return torch.from_numpy(unit * np.float32(spread)).reshape(shape)


def alibi_slopes(heads):
    """Slopes of the nearest lower power of two, then every other one of the next power."""

    def geometric(n):
        return [2.0 ** (-8.0 * i / n) for i in range(1, n + 1)]

    lower = 1 << (heads.bit_length() - 1)
    return (geometric(lower) + geometric(2 * lower)[::2])[:heads]


def generalized_gaussian(lags, location, scale, shape):
    """BAM's log-weight of each lag, from parameters as they are trained."""
    return -(((lags - 2 * location.sinh()).abs() + EPSILON) ** shape) * scale.exp()


class Prior:
    """`ggd` (BAM), `alibi` or `uniform`, for all heads."""

    def __init__(self, name, heads):
        self.name = name
        self.slopes = np.array(alibi_slopes(heads)).reshape(heads, 1, 1)
        self.shapes = np.linspace(0.3, 1.0, heads).reshape(heads, 1, 1)
        self.slope = torch.tensor(self.slopes, dtype=torch.float32, device=DEVICE)
        self.scale = self.slope.log()
        self.shape = torch.tensor(self.shapes, dtype=torch.float32, device=DEVICE)
        self.location = torch.zeros_like(self.scale)

    def ln_weight(self, lags):
        """[queries, keys] to [heads, queries, keys]."""
        match self.name:
            case "ggd":
                return generalized_gaussian(lags, self.location, self.scale, self.shape)
            case "alibi":
                return -self.slope * lags.abs()

    def score_mod(self):
        """The same for flex_attention, which computes it score by score."""
        slope, shape = self.scale.exp().flatten(), self.shape.flatten()
        mean = 2 * self.location.sinh().flatten()

        def ggd(score, _batch, head, query, key):
            return score - ((key - query - mean[head]).abs() + EPSILON) ** shape[head] * slope[head]

        def alibi(score, _batch, head, query, key):
            return score - slope[head] * (query - key)

        return {"ggd": ggd, "alibi": alibi}[self.name]

    def ln_weight_oracle(self, lags):
        """The same in float64, for every prior."""
        match self.name:
            case "ggd":
                return -((np.abs(lags) + EPSILON) ** self.shapes) * self.slopes
            case "alibi":
                return -self.slopes * np.abs(lags)
            case "uniform":
                return np.zeros(lags.shape)


class Inputs:
    """[batch, heads, length, head_dim] each; `out_gradient` is what the backward pass starts from."""

    def __init__(self, shape, dtype):
        self.shape = shape
        self.q = signed_numbers(shape, 2.0, 1).to(DEVICE, dtype)
        self.k = signed_numbers(shape, 2.0, 2).to(DEVICE, dtype)
        self.v = signed_numbers(shape, 3.0, 3).to(DEVICE, dtype)
        # Narrow enough that gradients are no larger than outputs, so that one tolerance fits both.
        self.out_gradient = signed_numbers(shape, 0.25, 4).to(DEVICE, dtype)

    def qkv(self):
        return [self.q, self.k, self.v]


def lags_and_future(length):
    """[queries, keys]: key position - query position, and which keys a causal row does not see."""
    positions = torch.arange(length, device=DEVICE)
    lags = positions[None, :] - positions[:, None]
    return lags.float(), lags > 0


def refuse_too_many_scores(shape):
    batch, heads, length, _ = shape
    expected = SCORE_MATRICES * batch * heads * length**2 * 4
    limit = SCORES_LIMIT_BYTES if DEVICE == "cpu" else torch.cuda.get_device_properties(0).total_memory // 2
    if expected > limit:
        raise Unavailable(f"its scores would take about {expected / 2**30:.0f} GiB")


def materialised(prior, inputs):
    refuse_too_many_scores(inputs.shape)
    lags, future = lags_and_future(inputs.shape[2])

    def attend(q, k, v):
        logits = q @ k.mT / math.sqrt(q.shape[-1]) + prior.ln_weight(lags)
        probabilities = logits.masked_fill_(future, -math.inf).softmax(-1)
        return probabilities.to(v.dtype) @ v

    return attend


def compiled_flex(inputs, score_mod_of_now, learned=()):
    """flex_attention under a score_mod that is made anew for every call, so that its gradients reach the leaves.

    With fewer stages where what it would choose by itself needs more shared memory than there is.
    """
    length = inputs.shape[2]
    block_mask = create_block_mask(lambda b, h, query, key: query >= key, None, None, length, length, device=DEVICE)

    def attend_with(stages):
        torch.compiler.reset()
        compiled = torch.compile(flex_attention, dynamic=False)
        options = None if stages is None else {"num_stages": stages}

        def attend(q, k, v):
            return compiled(q, k, v, score_mod=score_mod_of_now(), block_mask=block_mask, kernel_options=options)

        return attend

    def try_out(attend):
        leaves = [*inputs.qkv(), *learned] if DEVICE != "cpu" else []
        for leaf in leaves:
            leaf.requires_grad_(True)
        out = attend(*inputs.qkv())
        if leaves:
            torch.autograd.grad(out, leaves, inputs.out_gradient)

    for stages in [None] if DEVICE == "cpu" else [None, 2, 1]:
        attend = attend_with(stages)
        try:
            try_out(attend)
            if stages is not None:
                print(f"num_stages={stages}: with more it does not fit into shared memory", file=sys.stderr)
            return attend
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if stages == 1 or "out of resource" not in str(error):
                raise Unavailable(f"it does not compile or run: {reason}") from error
    raise Unavailable(f"it does not compile or run: {reason}")


def flex(prior, inputs):
    return compiled_flex(inputs, prior.score_mod, [prior.scale, prior.shape] if prior.name == "ggd" else [])


def flex_table(prior, inputs):
    if DEVICE == "cpu":
        raise Unavailable("on a CPU it has no backward pass, and pytorch-flex stands for it")
    distances = torch.arange(inputs.shape[2], device=DEVICE)
    prior.table = prior.ln_weight(-distances.float()[None]).reshape(-1, inputs.shape[2]).contiguous()

    def by_lag():
        table = prior.table
        return lambda score, _batch, head, query, key: score + table[head, (query - key).abs()]

    return compiled_flex(inputs, by_lag, [prior.table])


def sdpa_bias(prior, inputs):
    refuse_too_many_scores(inputs.shape)
    lags, future = lags_and_future(inputs.shape[2])
    bias = prior.ln_weight(lags).masked_fill_(future, -math.inf)[None]
    # A GPU's kernels take a bias of the inputs' type only.
    bias = bias if DEVICE == "cpu" else bias.to(inputs.q.dtype)

    def attend(q, k, v):
        return scaled_dot_product_attention(q, k, v, attn_mask=bias)

    return attend


def sdpa(_prior, _inputs):
    def attend(q, k, v):
        return scaled_dot_product_attention(q, k, v, is_causal=True)

    return attend


@dataclass
class Implementation:
    build: Callable
    priors: list
    passes: list
    """Of what of the prior the backward pass gives gradients, by names of its attributes."""
    learns: tuple = ()
    """Passes on a GPU, where they are others."""
    gpu_passes: list = None


ATTENTION = {
    "pytorch-materialised": Implementation(materialised, ["ggd", "alibi"], [FORWARD, FORWARD_BACKWARD], ("scale", "shape")),
    "pytorch-flex": Implementation(flex, ["ggd", "alibi"], [FORWARD], ("scale", "shape"), [FORWARD, FORWARD_BACKWARD]),
    "pytorch-flex-table": Implementation(flex_table, ["ggd"], [FORWARD, FORWARD_BACKWARD], ("table",)),
    "pytorch-sdpa-bias": Implementation(sdpa_bias, ["ggd"], [FORWARD, FORWARD_BACKWARD]),
    "pytorch-sdpa": Implementation(sdpa, ["uniform"], [FORWARD, FORWARD_BACKWARD]),
}
MATMUL = "pytorch-matmul"


def oracle(prior, inputs, rows):
    """Outputs, and gradients by q, of some query rows in float64."""
    q, k, v, out_gradient = (x.detach().cpu().double().numpy() for x in [*inputs.qkv(), inputs.out_gradient])
    q, out_gradient = q[:, :, rows], out_gradient[:, :, rows]
    root = math.sqrt(q.shape[-1])
    lags = np.arange(k.shape[2])[None, :] - rows[:, None]
    logits = np.where(lags > 0, -np.inf, q @ k.swapaxes(2, 3) / root + prior.ln_weight_oracle(lags))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    posterior = weights / weights.sum(-1, keepdims=True)
    out = posterior @ v
    surprise = out_gradient @ v.swapaxes(2, 3) - (out_gradient * out).sum(-1, keepdims=True)
    return out, (posterior * surprise) @ k / root


def largest_error(answers, expected, rows):
    """Over the outputs and, where the call gives gradients, those by q."""
    differences = [got.detach().cpu().double().numpy()[:, :, rows] - want for got, want in zip(answers, expected)]
    return max(float(np.abs(difference).max()) for difference in differences)


def resident_bytes(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak_growth(call):
    """Bytes by which the resident memory was larger at its peak during `call` than before it."""
    gc.collect()
    if DEVICE != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        # Freed memory that the allocator keeps would hide what the call needs.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = resident_bytes("VmRSS")
    call()
    return max(0, resident_bytes("VmHWM") - before)


def median_seconds(call, repeats):
    """Of `repeats` calls; by default at least 3, as many as take a second, and at most 50."""
    times = []
    while len(times) < (repeats or 3) or (repeats is None and sum(times) < 1.0 and len(times) < 50):
        start = time.perf_counter()
        call()
        if DEVICE != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report(labels, call, flop, answer_error, repeats):
    """Measures a call that has run before, if its answer was right."""
    if not answer_error <= TOLERANCE[labels["dtype"]]:
        raise WrongAnswer(f"wrong answer, an error of {answer_error}: {json.dumps(labels)}")
    peak_bytes = peak_growth(call)
    seconds = median_seconds(call, repeats)
    measured = {"milliseconds": seconds * 1e3, "gflops": flop / seconds / 1e9, "peak_bytes": peak_bytes}
    device = "cpu" if DEVICE == "cpu" else torch.cuda.get_device_name()
    print(json.dumps({**labels, **measured, "answer_error": answer_error, "device": device}), flush=True)


def labels(implementation, prior, pass_name, dtype, threads, shape):
    batch, heads, length, head_dim = shape
    return {
        "implementation": implementation,
        "prior": prior,
        "head_class": HEAD_CLASS[prior],
        "pass": pass_name,
        "dtype": dtype,
        "threads": threads,
        "batch": batch,
        "heads": heads,
        "head_dim": head_dim,
        "length": length,
    }


def benchmark_matmul(dtype, args):
    n = MATMUL_SIZE if DEVICE == "cpu" else 4 * MATMUL_SIZE
    # Narrow enough that the entries of the product are about 1.
    a, b = (signed_numbers([n, n], 0.2, seed).to(DEVICE, DTYPES[dtype]) for seed in (1, 2))

    def product():
        # Transposed as a linear layer's weights are; PyTorch's bf16 is many times slower without, on some CPUs.
        return a @ b.mT

    entries = np.linspace(0, n - 1, CHECKED_ROWS).astype(int)
    expected = a[entries].double() @ b[entries].double().mT
    error = float((product()[entries][:, entries].double() - expected).abs().max())
    what = labels(MATMUL, "none", FORWARD, dtype, args.threads, [1, 1, n, n])
    report(what, product, 2 * n**3, error, args.repeats)


def benchmark_attention(name, prior_name, dtype, length, args):
    implementation = ATTENTION[name]
    shape = [args.batch, args.heads, length, args.head_dim]
    prior, inputs = Prior(prior_name, args.heads), Inputs(shape, DTYPES[dtype])
    attend = implementation.build(prior, inputs)
    rows = np.linspace(0, length - 1, CHECKED_ROWS).astype(int)
    expected = oracle(prior, inputs, rows)
    leaves = inputs.qkv()
    if prior_name == "ggd":
        leaves += [getattr(prior, name) for name in implementation.learns]

    def forward():
        return (attend(*inputs.qkv()),)

    def forward_and_backward():
        out = attend(*inputs.qkv())
        return out, *torch.autograd.grad(out, leaves, inputs.out_gradient)

    forward_flop = 2 * length**2 * args.head_dim * args.batch * args.heads
    passes = implementation.passes if DEVICE == "cpu" else implementation.gpu_passes or implementation.passes
    for pass_name in passes:
        backward = pass_name == FORWARD_BACKWARD
        for leaf in leaves:
            leaf.requires_grad_(backward)
        call, products = (forward_and_backward, 7) if backward else (forward, 2)
        error = largest_error(call(), expected, rows)
        what = labels(name, prior_name, pass_name, dtype, args.threads, shape)
        report(what, call, forward_flop * products / 2, error, args.repeats)


def arguments():
    names = [MATMUL, *ATTENTION]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--repeats", type=lambda text: None if text == "auto" else int(text), default="auto")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    return parser.parse_args()


def main():
    args = arguments()
    torch.set_num_threads(args.threads)
    global DEVICE
    DEVICE = args.device
    wrong = 0
    for dtype in args.dtypes:
        if MATMUL in args.only:
            benchmark_matmul(dtype, args)
        for length in args.lengths:
            for name in [name for name in ATTENTION if name in args.only]:
                for prior_name in ATTENTION[name].priors:
                    try:
                        benchmark_attention(name, prior_name, dtype, length, args)
                    except WrongAnswer as error:
                        wrong += 1
                        print(error, file=sys.stderr)
                    except Unavailable as reason:
                        print(f"skipped {name}, {prior_name}, {dtype}, length {length}: {reason}", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
