"""Writes tails.jsonl, rows.jsonl and t5_buckets.jsonl beside this file.

Each law is written here a second time, from its paper, in 50-digit arithmetic (mpmath 1.3); the
parameters are the exact values of the doubles, the results are rounded once to double.
T5 buckets are decided in whole numbers, so ties between buckets are exact.

Run: python generate.py     (about ten seconds; the output is deterministic)
"""

import json
from pathlib import Path

from mpmath import mp, mpf, exp, fabs, gamma, gammainc, inf, log, pi, sqrt

mp.dps = 50
HERE = Path(__file__).parent
EPSILON = 1e-5
LAGS = [0, -1, -2, -3, -7, -63, -1000, -4096.5, -65536, -999_999, -1_000_000, 1, 12, 1_000_000]


def ln_weight(prior, lag):
    p = {k: mpf(v) for k, v in prior.items() if isinstance(v, (int, float))}
    d = mpf(lag)
    match prior["family"]:
        case "uniform":
            return mpf(0)
        case "laplace":
            return -p["slope"] * fabs(d)
        case "gaussian":
            return -((d - p["location"]) ** 2) / (2 * p["deviation"] ** 2)
        case "generalized_gaussian":
            epsilon = p.get("epsilon", mpf(EPSILON))
            return -p["scale"] * (fabs(d - p["location"]) + epsilon) ** p["shape"]
        case "kerple_log":
            return -p["r1"] * log(1 + p["r2"] * fabs(d))
        case "kerple_power":
            return -p["r1"] * fabs(d) ** p["r2"]
        case "student_t":
            nu = p["degrees_of_freedom"]
            z = (d - p["location"]) / p["scale"]
            return -(nu + 1) / 2 * log(1 + z**2 / nu)
        case "mixture":
            return log(sum(mpf(c["weight"]) * exp(ln_weight(c["prior"], lag)) for c in prior["components"]))


def normaliser(prior):
    """The integral of exp(ln_weight) over the line; None where it diverges."""
    p = {k: mpf(v) for k, v in prior.items() if isinstance(v, (int, float))}
    match prior["family"]:
        case "laplace":
            return 2 / p["slope"]
        case "gaussian":
            return p["deviation"] * sqrt(2 * pi)
        case "generalized_gaussian" if prior["shape"] > 0:
            a, b = p["scale"], p["shape"]
            lower = a * p.get("epsilon", mpf(EPSILON)) ** b
            return 2 / b * a ** (-1 / b) * gammainc(1 / b, lower, inf)
        case "kerple_log" if prior["r1"] > 1:
            return 2 / (p["r2"] * (p["r1"] - 1))
        case "kerple_power":
            return 2 / p["r2"] * p["r1"] ** (-1 / p["r2"]) * gamma(1 / p["r2"])
        case "student_t":
            nu = p["degrees_of_freedom"]
            return p["scale"] * sqrt(nu * pi) * gamma(nu / 2) / gamma((nu + 1) / 2)
        case "mixture":
            parts = [(mpf(c["weight"]), normaliser(c["prior"])) for c in prior["components"]]
            return None if any(z is None for _, z in parts) else sum(w * z for w, z in parts)


def generalized(location, scale, shape, **more):
    return dict(family="generalized_gaussian", location=location, scale=scale, shape=shape, **more)


def student(location, scale, degrees):
    return dict(family="student_t", location=location, scale=scale, degrees_of_freedom=degrees)


def mixture(*parts):
    return dict(family="mixture", components=[dict(weight=w, prior=p) for w, p in parts])


LAPLACE = dict(family="laplace", slope=0.5)
SLAB = dict(family="uniform")
PRIORS = [
    SLAB,
    *(dict(family="laplace", slope=m) for m in (1e-9, 0.00390625, 0.3, 0.5, 1e6)),
    *(dict(family="gaussian", location=l, deviation=s)
      for l, s in ((0.0, 1.0), (-12.5, 0.01), (300.0, 1e5), (-1e6, 3.0))),
    *(generalized(*v) for v in (
        (0.0, 0.5, 1.0), (0.0, 0.125, 0.5), (0.0, 2.0, 2.0), (0.0, 0.7, 3.7),
        (-2.3504023872876028, 0.5, 1.0), (7.25, 0.03, 0.8), (-4000.0, 1e-4, 2.5), (-1e6, 0.1, 1.5),
        (0.0, 0.5, 0.0), (3.5, 2.0, 0.0), (0.0, 0.5, -0.25), (0.0, 1.0, -1.0), (-5.0, 0.2, -1.75),
        (-0.5, 3.0, -3.0), (0.0, 1e-12, 1.0), (0.0, 1e12, 0.5), (1.5, 1e-300, 2.0),
        (0.0, 1e6, -0.5), (0.0, 0.9, 0.05), (-1.0, 40.0, 0.1), (0.0, 0.25, 0.01), (0.0, 5.0, 12.0))),
    generalized(0.0, 0.5, 1.0, epsilon=0.0),
    generalized(-3.0, 0.02, 1.3, epsilon=0.0),
    generalized(0.25, 0.5, 0.6, epsilon=0.5),
    *(dict(family="kerple_log", r1=a, r2=b)
      for a, b in ((0.5, 1.0), (1.0, 1e-8), (1.0000001, 2.0), (3.0, 1e9), (250.0, 1e-5))),
    *(dict(family="kerple_power", r1=a, r2=b)
      for a, b in ((0.5, 1.0), (1e-6, 2.0), (3.0, 0.25), (1e4, 0.02), (0.7, 1.999))),
    *(student(*v) for v in (
        (0.0, 1.0, 1.0), (-40.0, 2.5, 3.0), (5.0, 1e-200, 0.5), (0.0, 300.0, 1e9), (0.0, 0.1, 0.01),
        (-1e6, 10.0, 40.0), (0.0, 1e8, 2.0))),
    mixture((0.99, LAPLACE), (0.01, SLAB)),
    mixture((0.5, generalized(0.0, 0.1, 0.5)), (0.25, student(-100.0, 5.0, 2.0)), (0.25, LAPLACE)),
    mixture((0.75, mixture((0.5, LAPLACE), (0.5, SLAB))), (0.25, generalized(0.0, 2.0, -1.0))),
]

ROWS = [
    (LAPLACE, 2000),
    (generalized(0.0, 1.0, -0.5), 2000),
    (generalized(-300.0, 0.05, 1.2), 2000),
    (generalized(-5e4, 2.0, 2.0), 1500),
    (dict(family="kerple_log", r1=1.0, r2=1.0), 3000),
    (mixture((0.9, LAPLACE), (0.1, SLAB)), 257),
]


def tail(prior):
    z = normaliser(prior)
    return dict(
        prior=prior,
        ln_normaliser=None if z is None else float(log(z)),
        points=[[float(lag), float(ln_weight(prior, lag))] for lag in LAGS],
    )


def row(prior, keys):
    ln_weights = [ln_weight(prior, -r) for r in range(keys)]
    most = max(ln_weights)
    weights = [exp(l - most) for l in ln_weights]
    total = sum(weights)
    probabilities = [w / total for w in weights]
    cumulative, so_far = [], mpf(0)
    for p in probabilities:
        so_far += p
        cumulative.append(so_far)
    quantile = lambda p: next(r for r, c in enumerate(cumulative) if c >= p)
    return dict(
        prior=prior,
        keys=keys,
        entropy=float(-sum(p * log(p) for p in probabilities)),
        mean_distance=float(sum(r * p for r, p in enumerate(probabilities))),
        mass_lags=dict(p50=quantile(mpf("0.5")), p90=quantile(mpf("0.9")), p99=quantile(mpf("0.99"))),
        mass_within_10=float(cumulative[10]),
    )


def bucket(lag, buckets, max_distance, direction):
    """The T5 rule; floor((B-E)·ln(r/E)/ln(M/E)) is the largest k with (r/E)^(B-E) >= (M/E)^k."""
    offset = 0
    if direction == "bidirectional":
        buckets //= 2
        offset = buckets if lag > 0 else 0
        distance = abs(lag)
    else:
        distance = max(-lag, 0)
    exact = buckets // 2
    if distance < exact:
        return offset + distance
    coarse, k = buckets - exact, 0
    reached = distance**coarse
    while exact + k < buckets - 1 and reached * exact ** (k + 1) >= max_distance ** (k + 1) * exact**coarse:
        k += 1
    return offset + exact + k


def changes(buckets, max_distance, direction, reach):
    """[[lag, bucket], …] from -reach to reach, where the bucket changes."""
    pairs = []
    for lag in range(-reach, reach + 1):
        b = bucket(lag, buckets, max_distance, direction)
        if not pairs or pairs[-1][1] != b:
            pairs.append([lag, b])
    return dict(buckets=buckets, max_distance=max_distance, direction=direction, reach=reach, changes=pairs)


T5 = [
    (32, 128, "causal", 300), (32, 128, "bidirectional", 300), (64, 65536, "causal", 70_000),
    (12, 1000, "bidirectional", 2000), (2, 2, "causal", 10), (5, 81, "causal", 100), (4, 9, "bidirectional", 20),
    (8, 1_000_000, "causal", 1_000_100), (20, 10240, "causal", 11_000),
]


def write(name, records):
    (HERE / name).write_text("".join(json.dumps(record) + "\n" for record in records))


if __name__ == "__main__":
    write("tails.jsonl", map(tail, PRIORS))
    write("rows.jsonl", (row(*case) for case in ROWS))
    write("t5_buckets.jsonl", (changes(*case) for case in T5))
