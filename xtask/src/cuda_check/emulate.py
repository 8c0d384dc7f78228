"""Kernels in CUDA C++, matrix instructions among them, run on a processor and compared with the definition.

    emulate.py FOLDER WIDTH-RULES-TYPE[-cmma]...

takes forward, by_rows and by_keys of each, such as 64-causal-f32, from `cargo xtask cuda-check`; two query heads on one key
head, 129 tokens, so that the last block is short. Rules are `causal`, or `certified`: a window, documents and padding, a
temperature of content and priors, a prior over keys of the key head, tiles left out and counted. Needs g++. Ends with 1 where a number is off.
"""

import array
import ctypes
import math
import pathlib
import random
import re
import subprocess
import sys

HEADS, TOKENS, SEGMENTS = 2, 129, 3
# As the kernels have them: tokens that share a bound, no number, and no document.
GRAIN, BIG, PADDING = 64, 1e30, -(1 << 31)


def program(folder, name):
    """The kernel as a library, its number of tensors, and its struct of numbers."""
    text = (folder / f"{name}.cu").read_text()
    text = re.sub(r"typedef (?:un)?signed [a-z ]+ u?int\d+_t;\n", "", text)
    text = re.sub(r"#include <.*>", "", text)
    text = re.sub(
        r'asm volatile\("ldmatrix[^"]*x4(\.trans)?\.shared.*?"r"\((\w+)\) : "memory"\);',
        lambda m: f"ldmatrix_x4(result, {m[2]}, {'true' if m[1] else 'false'});",
        text,
    )
    text = re.sub(
        r'asm volatile\("mma\.sync\.aligned\.m16n8k16.*?"r"\((\w+)\.i_0\).*?"r"\(\w+\.i_3\), "r"\((\w+)\.i_0\).*?"f"\((\w+)\.i_0\).*?\);',
        r"mma_m16n8k16(result, \1, \2, \3);",
        text,
    )
    text = re.sub(r"extern __shared__ __align__\(\d+\) char (\w+)\[\];", r"char *const \1 = shared_memory;", text)
    if "asm" in text:
        sys.exit(f"{name}: an instruction that is not known: {text[text.index('asm'):][:100]}")
    of = re.search(r"__launch_bounds__\((\d+)\)\s+(\w+)\((.*?)\) \{", text, re.S)
    types = [re.sub(r"\s\w+$", "", part.strip()).replace("__restrict__", "") for part in of[3].split(",")]
    count = len(types) - 2
    passed = "".join(f"({re.sub(r'const $', '', types[i].strip() + ' ').strip()})tensors[{i}], " for i in range(count))
    text = (
        f'#include "emulate.h"\n{text}\nextern "C" void run(void **tensors, uint32_t *shapes, info_st *info, unsigned x, unsigned y) {{\n'
        f"launch({of[1]}, {{x, y, 1}}, [=] {{ {of[2]}({passed}shapes, *info); }});\n}}\n"
    )
    source, library = folder / f"{name}.cpp", folder / f"{name}.so"
    source.write_text(text)
    here = pathlib.Path(__file__).parent
    options = ["-std=c++20", "-O1", "-w", "-fpermissive", "-fno-strict-aliasing", "-shared", "-fPIC", "-pthread"]
    subprocess.run(["g++", *options, f"-I{here}", source, "-o", library], check=True)
    return ctypes.CDLL(str(library)), count, re.search(r"struct info_st \{(.*?)\};", text, re.S)[1]


def run(folder, name, tensors, numbers, cubes):
    """Launches a kernel on `(shape, numbers)`, which it may change."""
    library, count, struct = program(folder, name)
    assert count == len(tensors), f"{name}: {count} tensors, not {len(tensors)}"
    shapes, starts = [], []
    for of in (lambda shape: shape, lambda shape: [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]):
        for shape, _ in tensors:
            starts.append(len(shapes))
            shapes.extend(of(shape))
    info = b""
    for kind, length in re.findall(r"(scalars_\w+|static_meta)\[(\d+)\]", struct):
        of_kind = array.array({"scalars_f32": "f", "scalars_i32": "i"}.get(kind, "I"), [0] * int(length))
        for at, number in enumerate(numbers.get(kind, [])):
            of_kind[at] = number
        if kind == "static_meta":
            of_kind[count : 3 * count] = array.array("I", starts)
        info += of_kind.tobytes()
    pointers = (ctypes.c_void_p * count)(*[numbers.buffer_info()[0] for _, numbers in tensors])
    of_shapes = array.array("I", shapes)
    library.run(pointers, ctypes.c_void_p(of_shapes.buffer_info()[0]), info, *cubes)


def numbers_of(kind, count, spread, seed):
    """Numbers that the type has, and as they lie in memory."""
    draw = random.Random(seed)
    if kind == "f32":
        plain = array.array("f", [draw.uniform(-spread, spread) for _ in range(count)])
        return list(plain), plain
    wide = array.array("I", array.array("f", [draw.uniform(-spread, spread) for _ in range(count)]).tobytes())
    bits = array.array("H", [(x + 0x7FFF + (x >> 16 & 1)) >> 16 for x in wide])
    return list(array.array("f", array.array("I", [x << 16 for x in bits]).tobytes())), bits


def zeros(count):
    return array.array("f", [0.0] * count)


def check(what, got, expected, tolerance):
    largest = max(map(abs, expected))
    error = max(abs(a - b) for a, b in zip(got, expected, strict=True)) / largest
    print(f"  {what}: off by {error:.1e} of the largest, {tolerance:.0e} allowed")
    return error <= tolerance


def pair_of(number):
    """A number as two of 32 bits whose sum it is."""
    high = array.array("f", [number])[0]
    return [high, array.array("f", [number - high])[0]]


def ends(pairs):
    """Smallest and largest parts."""
    return [of(part) for of in (min, max) for part in zip(*pairs)]


def bounds_of(q, k, width, scale, tau, ln_weights, ln_evidence, references):
    """The bounds of rows before and with evidence, of keys, and of the prior, as docs/kernel.md has them."""
    n, of_grain = TOKENS, -(-TOKENS // GRAIN)
    norm = lambda x, at: math.sqrt(sum(y * y for y in x[at * width : (at + 1) * width]))
    before, back, norms, ranges = [], [], [], []
    for grain in range(HEADS * of_grain):
        head, block = divmod(grain, of_grain)
        here = range(head * n + block * GRAIN, head * n + min((block + 1) * GRAIN, n))
        factors = [min(tau[r] for r in here), max(tau[r] for r in here)]
        of_rows = [max(tau[r] * norm(q, r) for r in here) * scale * 1.0001, *factors]
        by_key = [*factors, *ends([references[r % n] for r in here if references[r % n][0] > -BIG])]
        before += [*of_rows, BIG, *by_key]
        back += [*of_rows, min(ln_evidence[r] for r in here), *by_key]
        ranges += [min(ln_weights[r] for r in here), max(ln_weights[r] for r in here)]
    for block in range(of_grain):
        norms.append(max(norm(k, r) for r in range(block * GRAIN, min((block + 1) * GRAIN, n))) * 1.0001)
    of_rows = (1, HEADS, of_grain, 10)
    numbers = [(of_rows, before), (of_rows, back), ((1, 1, of_grain), norms), ((HEADS, of_grain, 2), ranges)]
    return [(shape, array.array("f", of)) for shape, of in numbers]


def of_kernels(folder, width, rules, kind):
    n, size, certified = TOKENS, TOKENS * width, rules == "certified"
    dtype, cmma = kind.removesuffix("-cmma"), kind.endswith("-cmma")
    # Rows and keys of a block, and the digits that weights keep on the way into a product.
    rows, keys, exact = (32, 32, 1.0) if cmma else (64, 64, 1.0) if dtype == "bf16" else (64, 32, 1e-3)
    (q, q_bits), (k, k_bits), (v, v_bits), (g, g_bits) = (
        numbers_of(dtype, count * size, spread, seed) for count, spread, seed in [(HEADS, 2, 1), (1, 2, 2), (1, 3, 3), (HEADS, 1, 4)]
    )
    draw = random.Random(5)
    # Those of the second head fall, so that tiles can be left out.
    falls = [0.0, 4.0 if certified else 0.0]
    prior = [draw.uniform(-3, 3) - falls[h] * (n - 1 - lag) for h in range(HEADS) for lag in range(n)]
    ln_weights = array.array("f", prior)
    tau = array.array("f", [draw.uniform(0.5, 1.5) if certified else 1.0 for _ in range(HEADS * n)])
    ids = [PADDING if certified and i in (7, 100) else 2 if certified and i > 29 else 1 for i in range(n)]
    window = 80 if certified else 1 << 29
    # So large that 32 bits have few digits of what differs.
    pairs = [pair_of(5000 + draw.uniform(-3, 3) if certified else 0.0) for _ in range(n)]
    sees = lambda i, j: i - j < window and ids[i] == ids[j] != PADDING
    references = [max((pairs[j] for j in range(i + 1) if sees(i, j)), default=[-BIG, -BIG]) for i in range(n)]
    scale, epsilon = 1 / math.sqrt(width), 1e-6
    numbers = {"scalars_f32": [scale, math.log(epsilon)], "scalars_i32": [0, window, 1 - n]}
    dot = lambda a, at, b, of: sum(x * y for x, y in zip(a[at * width : (at + 1) * width], b[of * width : (of + 1) * width]))

    out, ln_evidence, deltas, d_tau = zeros(HEADS * size), zeros(HEADS * n), zeros(HEADS * n), zeros(HEADS * n)
    d_q, d_k, d_v, d_ln_weights, d_u = zeros(HEADS * size), zeros(size), zeros(size), zeros(HEADS * n), zeros(n)
    for row in range(HEADS * n):
        head, i = divmod(row, n)
        seen = [j for j in range(i + 1) if sees(i, j)]
        if not seen:
            ln_evidence[row] = BIG
            continue
        by_key = [sum(pairs[j]) - sum(references[i]) for j in seen]
        plain = [dot(q, row, k, j) * scale + ln_weights[head * n + n - 1 - (i - j)] + u for j, u in zip(seen, by_key)]
        largest = max(tau[row] * x for x in plain)
        ln_evidence[row] = largest + math.log(sum(math.exp(tau[row] * x - largest) for x in plain))
        weights = [math.exp(tau[row] * x - ln_evidence[row]) for x in plain]
        by_values = [dot(g, row, v, j) for j in seen]
        deltas[row] = sum(p * x for p, x in zip(weights, by_values))
        for j, x, p, by_value in zip(seen, plain, weights, by_values):
            d_logit = p * (by_value - deltas[row])
            d_tau[row] += d_logit * x
            d_u[j] += d_logit * tau[row]
            d_ln_weights[head * n + n - 1 - (i - j)] += d_logit * tau[row]
            for c in range(width):
                out[row * width + c] += p * v[j * width + c]
                d_q[row * width + c] += d_logit * tau[row] * scale * k[j * width + c]
                d_k[j * width + c] += d_logit * tau[row] * scale * q[row * width + c]
                d_v[j * width + c] += p * g[row * width + c]

    many, few, none = (1, HEADS, n, width), (1, 1, n, width), ((1, 1, 1), zeros(1))
    of_ids = ((1, n), array.array("i", ids))
    of_prior, of_rows, blocks = ((HEADS, n), ln_weights), (1, HEADS, n), -(-n // rows)
    before, back, norms, ranges = bounds_of(q, k, width, scale, tau, ln_weights, ln_evidence, references)
    numbers_in = lambda shape, rows: (shape, array.array("f", [x for row in rows for x in row]))
    grains = [[pairs[j] for j in range(first, min(first + GRAIN, n)) if ids[j] != PADDING] for first in range(0, n, GRAIN)]
    of_keys = [numbers_in((1, 1, n, 2), pairs), numbers_in((1, 1, n, 2), references)]
    key_ranges = numbers_in((1, 1, len(grains), 2, 2), map(ends, grains))
    got = {of: zeros(count) for of, count in [("out", HEADS * size), ("evidence", HEADS * n), ("dq", HEADS * size), ("dtau", HEADS * n)]}
    got |= {of: zeros(count) for of, count in [("diagonals", HEADS * SEGMENTS * n), ("dk", size), ("dv", size), ("du", HEADS * n)]}
    logs = [((1, HEADS, blocks, 3), zeros(HEADS * blocks * 3)) for _ in range(2)]
    operands, of_tau = [(many, q_bits), (few, k_bits), (few, v_bits)], (of_rows, tau)
    run(
        folder, f"forward-{width}-{rules}-{kind}",
        [
            *operands, of_prior, of_tau, *of_keys, of_ids, of_ids, before, norms, ranges, key_ranges,
            (many, got["out"]), (of_rows, got["evidence"]), logs[0],
        ],
        numbers, (blocks, HEADS),
    )
    given = [*operands, (many, g_bits), of_prior, of_tau, *of_keys, of_ids, of_ids, (of_rows, ln_evidence), (of_rows, deltas)]
    given += [back, norms, ranges, key_ranges]
    diagonals = ((1, HEADS, SEGMENTS, n), got["diagonals"])
    run(
        folder, f"by_rows-{width}-{rules}-{kind}",
        [*given, (many, got["dq"]), (of_rows, got["dtau"]), diagonals, logs[1]], numbers, (SEGMENTS, HEADS),
    )
    run(folder, f"by_keys-{width}-{rules}-{kind}", [*given, (few, got["dk"]), (few, got["dv"]), (of_rows, got["du"])], numbers, (-(-n // keys), 1))
    by_lag = [sum(got["diagonals"][(h * SEGMENTS + s) * n + lag] for s in range(SEGMENTS)) for h in range(HEADS) for lag in range(n)]
    seen = [x < BIG for x in ln_evidence]
    # Weights, and gradients of logits, are rounded to eight digits on the way into a product.
    right = [
        check("output", got["out"], out, 4e-3 * exact),
        check("ln evidence", [x for x, s in zip(got["evidence"], seen) if s], [x for x, s in zip(ln_evidence, seen) if s], 1e-6),
        check("dq", got["dq"], d_q, 8e-3 * exact),
        check("d ln w", by_lag, d_ln_weights, 1e-5),
        check("dk", got["dk"], d_k, 8e-3 * exact),
        check("dv", got["dv"], d_v, 4e-3 * exact),
    ]
    if certified:
        right.append(check("d tau", got["dtau"], d_tau, 8e-3 * exact))
        right.append(check("d u", [sum(got["du"][h * n + j] for h in range(HEADS)) for j in range(n)], d_u, 1e-5))
        for name, (_, log) in zip(("forward", "backward"), logs):
            print(f"  {name}: {sum(log[1::3]):.0f} of {sum(log[0::3]):.0f} tiles left out")
            right.append(0 < sum(log[1::3]) < sum(log[0::3]))
    return all(right)


def right(word):
    width, rules, kind = word.split("-", 2)
    print(f"{width} wide, {rules}, {kind}:", flush=True)
    return of_kernels(pathlib.Path(sys.argv[1]), int(width), rules, kind)


sys.exit(not all([right(word) for word in sys.argv[2:]]))
