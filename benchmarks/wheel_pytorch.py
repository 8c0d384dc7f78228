"""Times `bam_attention.attend` beside PyTorch's own attention on the CPU, in one run.

Each row checks its answers and gradients against the definition in float64 before a clock runs; a wrong answer is not timed and
ends the program with 1. Rounds go through all implementations in turn, so that a busy machine is busy for all of them; what is
reported is the fastest of the rounds, which others on the machine disturbed least. Every implementation gets tensors in the layout of `view(...).transpose(1, 2)`.

    ours            a learned log-prior by lag, its gradient included
    sdpa            scaled_dot_product_attention without a bias
    sdpa bias       with a bias that is built beforehand and gets no gradient
    sdpa learned    with a bias made in the call from a log-weight by lag, which gets its gradient
    flex            compiled flex_attention with a bias by lag, forward only: it has no backward pass on a CPU

Prints one JSON object a measurement on standard output, a table on standard error.

Run: python wheel_pytorch.py --threads 1 2 --out ../benchmarks/records/DATE-wheel/results.jsonl
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from pathlib import Path

# PyTorch reads these as it is imported.
AVX2 = any(a == "avx2" and b == "--instructions" for a, b in zip(sys.argv[1:], sys.argv))
if AVX2:
    os.environ |= {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}

import torch
from torch.nn.functional import scaled_dot_product_attention

import bam_attention
from bam_attention import _ops

if AVX2:
    _ops._INSTRUCTIONS = "avx2"

# batch × heads × tokens × width, key heads, causal.
SHAPES = [
    (1, 8, 1024, 64, 8, True),
    (16, 4, 128, 32, 4, True),
    (4, 16, 256, 32, 16, True),
    (8, 8, 512, 64, 8, True),
    (8, 8, 512, 64, 2, True),
    (1, 8, 2048, 128, 8, True),
    (1, 8, 2048, 64, 2, True),
    (1, 8, 2048, 64, 8, False),
    (1, 16, 2048, 32, 16, True),
    (1, 16, 2048, 32, 16, False),
    (4, 16, 256, 32, 16, False),
    (1, 8, 8192, 64, 8, True),
]
LEAST_ROUNDS, MOST_ROUNDS, SECONDS_OF_ROUNDS, LEAST_SECONDS = 5, 25, 20, 0.02
# Bytes of all scores of a call beyond which they are not made.
MOST_SCORES = 1 << 30
TOLERANCE = 1e-4


class Case:
    def __init__(self, shape):
        batch, heads, tokens, dim, key_heads, self.causal = shape
        self.shape, self.group = shape, heads // key_heads
        self.fits = 4 * batch * heads * tokens**2 <= MOST_SCORES
        generator = torch.Generator().manual_seed(1)
        draw = lambda count: torch.randn(batch, tokens, count, dim, generator=generator).transpose(1, 2)
        self.q, self.k, self.v = draw(heads), draw(key_heads), draw(key_heads)
        self.gradient = draw(heads)
        first, count = bam_attention.lags(tokens, tokens, causal=self.causal)
        slopes = 2.0 ** (-8 * torch.arange(1, heads + 1) / heads)
        lags = torch.arange(first, first + count)
        self.ln_weights = -slopes[:, None] * lags.abs() + 0.1 * torch.randn(heads, count, generator=generator)
        if self.fits:
            places = torch.arange(tokens)
            self.columns = (places[None] - places[:, None] - first).clamp(max=count - 1)
            self.hidden = (places[None] > places[:, None]) & self.causal

    def leaves(self):
        return [x.clone().requires_grad_() for x in (self.q, self.k, self.v, self.ln_weights)]

    def bias(self, ln_weights):
        return ln_weights[:, self.columns].masked_fill(self.hidden, -torch.inf)

    def sdpa(self, q, k, v, bias):
        causal = bias is None and self.causal
        return scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal, enable_gqa=self.group > 1)

    def definition(self, q, k, v, ln_weights):
        """In float64, every score in memory."""
        q, k, v = (x.double() for x in (q, k, v))
        k, v = (x.repeat_interleave(self.group, 1) for x in (k, v))
        logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) + self.bias(ln_weights.double())
        return logits.softmax(-1) @ v


def flex(case):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    tokens = case.shape[2]
    ln_weights, last = case.ln_weights, case.ln_weights.shape[1] - 1
    first = 1 - tokens

    def by_lag(score, _batch, head, query, key):
        return score + ln_weights[head, torch.clamp(key - query - first, max=last)]

    mask = None
    if case.causal:
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, tokens, tokens, device="cpu")
    # Made anew for each shape: code for any shape does not compile.
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, score_mod=by_lag, block_mask=mask, enable_gqa=case.group > 1)


def implementations(case, with_flex):
    """Name to a function of q, k, v and log-weights, and whether it goes back."""
    fixed = case.bias(case.ln_weights) if case.fits else None
    all_of = {
        "ours": (lambda q, k, v, w: bam_attention.attend(q, k, v, w, causal=case.causal), True),
        "sdpa": (lambda q, k, v, w: case.sdpa(q, k, v, None), True),
    }
    if case.fits:
        all_of |= {
            "sdpa bias": (lambda q, k, v, w: case.sdpa(q, k, v, fixed), True),
            "sdpa learned": (lambda q, k, v, w: case.sdpa(q, k, v, case.bias(w)), True),
        }
    if with_flex:
        attend = flex(case)
        all_of["flex"] = (lambda q, k, v, w: attend(q, k, v), False)
    return all_of


def check(name, case, call, goes_back):
    """The largest error, relative to the largest number of what is right."""
    if case.shape[2] > 2048 or name == "sdpa":
        return None
    leaves = case.leaves() if goes_back else [case.q, case.k, case.v, case.ln_weights]
    out = call(*leaves)
    exact = case.leaves()
    expected = case.definition(*exact)
    pairs = [(out, expected)]
    if goes_back:
        (out * case.gradient).sum().backward()
        (expected * case.gradient).sum().backward()
        pairs += [(x.grad, y.grad) for x, y in zip(leaves, exact) if x.grad is not None]
    error = max(((x.double() - y).abs().max() / y.abs().max()).item() for x, y in pairs)
    if not error < TOLERANCE:
        raise SystemExit(f"error: {name}, {case.shape}: off by {error:.1e}")
    return error


def seconds(work):
    """Of one call, of as many as take long enough to be told."""
    start, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - start < LEAST_SECONDS:
        work()
        count += 1
    return (time.perf_counter() - start) / count


def passes(case, call, goes_back):
    plain = [case.q, case.k, case.v, case.ln_weights]

    def forward():
        with torch.no_grad():
            call(*plain)

    leaves = case.leaves()

    def both():
        for x in leaves:
            x.grad = None
        call(*leaves).backward(case.gradient)

    return {"forward": forward} | ({"forward+backward": both} if goes_back else {})


def measure(shape, threads, with_flex):
    torch.set_num_threads(threads)
    case = Case(shape)
    works, errors = {}, {}
    for name, (call, goes_back) in implementations(case, with_flex).items():
        try:
            errors[name] = check(name, case, call, goes_back)
            found = passes(case, call, goes_back)
            for work in found.values():
                work()
        except (RuntimeError, ImportError) as error:
            print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        works |= {(name, of): work for of, work in found.items()}
    times = {key: [] for key in works}
    start = time.perf_counter()
    for rounds in range(MOST_ROUNDS):
        if rounds >= LEAST_ROUNDS and time.perf_counter() - start > SECONDS_OF_ROUNDS:
            break
        for key, work in works.items():
            times[key].append(seconds(work))
    for (name, of), each in times.items():
        yield {
            "implementation": name,
            "pass": of,
            "threads": threads,
            **dict(zip(("batch", "heads", "tokens", "width", "key_heads", "causal"), shape)),
            "milliseconds": 1e3 * min(each),
            "error": errors[name],
        }


def overhead(threads):
    """Microseconds of the smallest call."""
    torch.set_num_threads(threads)
    q, w = torch.randn(1, 1, 1, 8), torch.zeros(1, 1)
    calls = {
        "ours": lambda: bam_attention.attend(q, q, q, w),
        "sdpa": lambda: scaled_dot_product_attention(q, q, q),
    }
    for name, call in calls.items():
        yield {"implementation": name, "pass": "smallest call", "threads": threads,
               "milliseconds": 1e3 * statistics.median(seconds(call) for _ in range(31))}


def t5_encoder(implementation, threads, tokens, out):
    """One pass forward and back of T5-small's encoder: seconds, and the growth of the largest resident memory. In a process
    of its own, since memory that was once taken is not given back."""
    import resource

    import transformers

    import bam_attention.transformers

    bam_attention.transformers.register()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = transformers.T5Config(dropout_rate=0.0, attn_implementation=implementation)
    model = transformers.T5EncoderModel(config)
    ids = torch.randint(3, 1000, (1, tokens))
    # The output is normalised: the sum of its squares would have no gradient.
    weights = torch.randn(1, tokens, config.d_model)

    def step(tokens=tokens):
        model.zero_grad()
        (model(ids[:, :tokens]).last_hidden_state * weights[:, :tokens]).sum().backward()

    step(64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    gradient = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.grad
    out.put((statistics.median(times), grown, gradient.numpy().copy()))


def t5(threads, tokens):
    """T5-small's encoder with our attention and with transformers' own choice; the gradients of its bias are compared."""
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    found = {}
    for implementation in ("bam", "sdpa"):
        out = context.Queue()
        process = context.Process(target=t5_encoder, args=(implementation, threads, tokens, out))
        process.start()
        while process.is_alive() and out.empty():
            time.sleep(0.1)
        if out.empty():
            print(f"T5's encoder by {implementation}: ended with {process.exitcode}", file=sys.stderr)
            return
        found[implementation] = out.get()
        process.join()
    expected = found["sdpa"][2]
    for implementation, (seconds_of_step, grown, gradient) in found.items():
        error = float(abs(gradient - expected).max() / abs(expected).max())
        # One unit of ReLU whose input rounds to the other side of 0 is a thousandth.
        if not error < 5e-3:
            raise SystemExit(f"error: T5's encoder by {implementation}: off by {error:.1e}")
        yield {"implementation": implementation, "pass": "t5-small encoder, forward+backward", "threads": threads,
               "tokens": tokens, "milliseconds": 1e3 * seconds_of_step, "peak_bytes": grown, "error": error}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--max-tokens", type=int, default=1 << 20)
    parser.add_argument("--no-flex", action="store_true", help="leave out what takes minutes to compile")
    parser.add_argument("--no-shapes", action="store_true", help="T5-small's encoder only")
    parser.add_argument("--t5", type=int, default=4096, help="tokens of T5-small's encoder; 0 leaves it out")
    parser.add_argument("--instructions", choices=["avx2"], help="both sides, on a processor that has more")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    def keep(found):
        text = "".join(json.dumps(line) + "\n" for line in found)
        print(text, end="", flush=True)
        if options.out:
            with options.out.open("a") as out:
                out.write(text)

    for threads in options.threads:
        found = list(overhead(threads))
        print(f"threads {threads}, smallest call: " + ", ".join(
            f"{of['implementation']} {1e3 * of['milliseconds']:.1f} µs" for of in found), file=sys.stderr)
        keep(found)
        for shape in [of for of in SHAPES if of[2] <= options.max_tokens and not options.no_shapes]:
            found = list(measure(shape, threads, not options.no_flex))
            keep(found)
            for of in ("forward", "forward+backward"):
                ms = {x["implementation"]: x["milliseconds"] for x in found if x["pass"] == of}
                ratios = ", ".join(f"{name} {t:.2f} ms ({t / ms['ours']:.2f} ×)" for name, t in ms.items() if name != "ours")
                print(f"threads {threads} {shape} {of}: ours {ms['ours']:.2f} ms, {ratios}", file=sys.stderr)
        if options.t5:
            found = list(t5(threads, options.t5))
            keep(found)
            print(f"threads {threads}, T5-small's encoder, {options.t5} tokens: " + ", ".join(
                f"{x['implementation']} {x['milliseconds']:.0f} ms, {x['peak_bytes'] / 2**20:.0f} MiB" for x in found),
                file=sys.stderr)


if __name__ == "__main__":
    main()
