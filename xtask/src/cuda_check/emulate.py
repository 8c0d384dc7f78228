"""Kernels in CUDA C++, matrix instructions among them, run on a processor and compared with the definition.

    emulate.py FOLDER WIDTH-TYPE...

takes forward, by_rows and by_keys of each, such as 64-bf16 or 64-f32, from `cargo xtask cuda-check`; causal, two query heads
on one key head, 130 tokens, so that the last block is short. Needs g++. Ends with 1 where a number is off.
"""

import array
import ctypes
import math
import pathlib
import random
import re
import subprocess
import sys

HEADS, TOKENS, SEGMENTS = 2, 130, 3


def program(folder, name):
    """The kernel as a library, its number of tensors, and its struct of numbers."""
    text = (folder / f"{name}.cu").read_text()
    text = re.sub(r"typedef (?:un)?signed [a-z ]+ u?int\d+_t;\n", "", text).replace("#include <cuda_bf16.h>", "")
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


def run(folder, name, tensors, lags, scale, cubes):
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
        numbers = array.array({"scalars_f32": "f", "scalars_i32": "i"}.get(kind, "I"), [0] * int(length))
        for at, number in enumerate({"scalars_f32": [scale, 0.0], "scalars_i32": [0, 1 << 29, 1 - lags]}.get(kind, [])):
            numbers[at] = number
        if kind == "static_meta":
            numbers[count : 3 * count] = array.array("I", starts)
        info += numbers.tobytes()
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
    print(f"{what}: off by {error:.1e} of the largest, {tolerance:.0e} allowed")
    return error <= tolerance


def of_width(folder, width, kind):
    # Keys of a block in by_keys, and the digits that weights keep on the way into a product.
    keys, exact = (64, 1.0) if kind == "bf16" else (32, 1e-3)
    n, size = TOKENS, TOKENS * width
    (q, q_bits), (k, k_bits), (v, v_bits), (g, g_bits) = (
        numbers_of(kind, count * size, spread, seed) for count, spread, seed in [(HEADS, 2, 1), (1, 2, 2), (1, 3, 3), (HEADS, 1, 4)]
    )
    draw = random.Random(5)
    ln_weights = array.array("f", [draw.uniform(-3, 3) for _ in range(HEADS * n)])
    scale = 1 / math.sqrt(width)
    dot = lambda a, at, b, of: sum(x * y for x, y in zip(a[at * width : (at + 1) * width], b[of * width : (of + 1) * width]))

    out, ln_evidence, deltas = zeros(HEADS * size), zeros(HEADS * n), zeros(HEADS * n)
    d_q, d_k, d_v, d_ln_weights = zeros(HEADS * size), zeros(size), zeros(size), zeros(HEADS * n)
    for row in range(HEADS * n):
        head, i = divmod(row, n)
        logits = [dot(q, row, k, j) * scale + ln_weights[head * n + n - 1 - (i - j)] for j in range(i + 1)]
        largest = max(logits)
        ln_evidence[row] = largest + math.log(sum(math.exp(x - largest) for x in logits))
        weights = [math.exp(x - ln_evidence[row]) for x in logits]
        by_values = [dot(g, row, v, j) for j in range(i + 1)]
        deltas[row] = sum(p * x for p, x in zip(weights, by_values))
        for j, (p, x) in enumerate(zip(weights, by_values)):
            d_logit = p * (x - deltas[row])
            d_ln_weights[head * n + n - 1 - (i - j)] += d_logit
            for c in range(width):
                out[row * width + c] += p * v[j * width + c]
                d_q[row * width + c] += d_logit * scale * k[j * width + c]
                d_k[j * width + c] += d_logit * scale * q[row * width + c]
                d_v[j * width + c] += p * g[row * width + c]

    many, few, none = (1, HEADS, n, width), (1, 1, n, width), ((1, 1, 1), zeros(1))
    ids = ((1,), array.array("i", [0]))
    of_prior, of_rows, blocks = ((HEADS, n), ln_weights), (1, HEADS, n), -(-n // 64)
    got = zeros(HEADS * size), zeros(HEADS * n), zeros(HEADS * size), zeros(HEADS * SEGMENTS * n), zeros(size), zeros(size)
    run(
        folder, f"forward-{width}-causal-{kind}",
        [(many, q_bits), (few, k_bits), (few, v_bits), of_prior, none, ids, ids, none, none, none, (many, got[0]), (of_rows, got[1]), none],
        n, scale, (blocks, HEADS),
    )
    back = [(many, q_bits), (few, k_bits), (few, v_bits), (many, g_bits), of_prior, none, ids, ids]
    back += [(of_rows, ln_evidence), (of_rows, deltas), none, none, none]
    diagonals = ((1, HEADS, SEGMENTS, n), got[3])
    run(folder, f"by_rows-{width}-causal-{kind}", [*back, (many, got[2]), none, diagonals, none], n, scale, (SEGMENTS, HEADS))
    run(folder, f"by_keys-{width}-causal-{kind}", [*back, (few, got[4]), (few, got[5])], n, scale, (-(-n // keys), 1))
    by_lag = [sum(got[3][(h * SEGMENTS + s) * n + lag] for s in range(SEGMENTS)) for h in range(HEADS) for lag in range(n)]
    # Weights, and gradients of logits, are rounded to eight digits on the way into a product.
    return all([
        check(f"{width} wide, {kind}: output", got[0], out, 4e-3 * exact),
        check(f"{width} wide, {kind}: ln evidence", got[1], ln_evidence, 1e-6),
        check(f"{width} wide, {kind}: dq", got[2], d_q, 8e-3 * exact),
        check(f"{width} wide, {kind}: d ln w", by_lag, d_ln_weights, 1e-5),
        check(f"{width} wide, {kind}: dk", got[4], d_k, 8e-3 * exact),
        check(f"{width} wide, {kind}: dv", got[5], d_v, 4e-3 * exact),
    ])


asked = [word.split("-") for word in sys.argv[2:]]
sys.exit(not all([of_width(pathlib.Path(sys.argv[1]), int(width), kind) for width, kind in asked]))
