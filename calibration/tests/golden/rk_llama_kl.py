#!/usr/bin/env python3
"""Golden scales of rk-llama.cpp's INT4 clip search, by an implementation in numpy that shares no
code with the crate.

    python3 rk_llama_kl.py > rk_llama_kl.json      # needs numpy; made with numpy 2.4.6

Blocks are drawn by arithmetic that any language can repeat bit for bit: splitmix64, then the
inverse survival function of |x| read from a table of f32 with linear interpolation in f64. The
table has, for each octave of the probability from 1 down to 2^-28, 17 points; it is written into
the golden file as f32 bit patterns.
"""

import json
import math
from statistics import NormalDist

import numpy as np

OCTAVES = 28
POINTS = 16
BINS = 2048
STEPS = 128


def student5_survival(x):
    """P(|T| > x), T Student with 5 degrees of freedom, in closed form."""
    theta = math.atan2(math.sqrt(5.0), x)  # pi/2 - atan(x / sqrt 5), accurate in the tail
    if x > 50.0:  # the closed form cancels: series of the density's tail
        c = 8.0 / (3.0 * math.sqrt(5.0) * math.pi) * 125.0
        return 2.0 * c * (x**-5 / 5 - 15.0 * x**-7 / 7 + 150.0 * x**-9 / 9)
    return 2.0 / math.pi * (theta - math.sin(theta) * math.cos(theta) * (1.0 + 2.0 / 3.0 * math.sin(theta) ** 2))


def bisect(survival, s):
    low, high = 0.0, 1.0
    while survival(high) > s:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if survival(middle) > s else (low, middle)
    return (low + high) / 2


def inverse_survival(distribution, s):
    if s >= 1.0:
        return 0.0
    if distribution == "gauss":
        return -NormalDist().inv_cdf(s / 2.0)
    if distribution == "laplace":  # unit variance
        return -math.log(s) / math.sqrt(2.0)
    return bisect(student5_survival, s)


def table(distribution):
    """f32 [OCTAVES, POINTS + 1]: |x| at survival 2^-(octave+1) * (1 + point/POINTS)."""
    return np.array(
        [
            [inverse_survival(distribution, 2.0 ** -(octave + 1) * (1.0 + point / POINTS)) for point in range(POINTS + 1)]
            for octave in range(OCTAVES)
        ],
        dtype=np.float32,
    )


def splitmix64(seed, count):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def draw(points, seed, count):
    z = splitmix64(seed, count)
    u = np.maximum((z >> np.uint64(8)) & np.uint64(0xFFFFFFFF), np.uint64(1 << (32 - OCTAVES)))
    octave = 32 - np.frexp(u.astype(np.float64))[1].astype(np.int64)
    mantissa = (u << (octave + 1).astype(np.uint64)) & np.uint64(0xFFFFFFFF)
    point = (mantissa >> np.uint64(28)).astype(np.int64)
    fraction = (mantissa & np.uint64(0x0FFFFFFF)).astype(np.float64) / 2.0**28
    a = points[octave, point].astype(np.float64)
    b = points[octave, point + 1].astype(np.float64)
    magnitude = (a + (b - a) * fraction).astype(np.float32)
    return np.where(z >> np.uint64(63) == 1, -magnitude, magnitude).astype(np.float32)


def bin_of(x, amax, width):
    """Sum in f32, quotient in f64, truncation."""
    index = ((x + amax).astype(np.float64) / width).astype(np.int64)
    return np.clip(index, 0, BINS - 1)


def quantize(x, scale):
    """Round half away from zero, then the low byte as i8 (the original casts before it clamps)."""
    v = (x * (np.float32(1.0) / scale)).astype(np.float64)
    integer = np.trunc(v + np.copysign(0.5, v)).astype(np.int64)
    return np.clip((integer + 128) % 256 - 128, -7, 7)


def clip_search(x):
    amax = np.max(np.abs(x))
    if amax == 0:
        return {"amax": 0.0, "low": 0.0, "step": None, "clip": 0.0, "scale": 1.0, "kl": []}
    width = float(amax) * 2.0 / BINS
    p = np.bincount(bin_of(x, amax, width), minlength=BINS).astype(np.float64) / float(len(x)) + 1e-9
    rank = min(int(np.float32(len(x)) * np.float32(99.5) / np.float32(100.0)), len(x) - 1)
    low = np.sort(np.abs(x))[rank]
    step = (amax - low) / np.float32(STEPS)
    center = (-float(amax) + (np.arange(BINS).astype(np.float32) + np.float32(0.5)).astype(np.float64) * width).astype(np.float32)
    best, curve = None, []
    for i in range(STEPS):
        clip = low + np.float32(i) * step
        scale = clip / np.float32(7.0)
        if scale < np.float32(1e-9):
            curve.append(None)
            continue
        restored = quantize(center, scale).astype(np.float32) * scale
        q = np.zeros(BINS)
        np.add.at(q, bin_of(restored, amax, width), p)  # in bin order
        q += 1e-9
        kept = p > 1.1e-9
        kl = math.fsum(p[kept] * np.log(p[kept] / q[kept]))
        curve.append(kl)
        if best is None or kl < best[0]:
            best = (kl, i, clip)
    clip = best[2] if best else amax
    return {
        "amax": amax,
        "low": low,
        "step": best[1] if best else None,
        "clip": clip,
        "scale": clip / np.float32(7.0),
        "kl": curve,
    }


def bits(value):
    return int(np.float32(value).view(np.uint32))


def main():
    tables = {name: table(name) for name in ("gauss", "laplace", "student5")}
    blocks = [
        ("gauss", 1, 1 << 20, []),
        ("laplace", 2, 1 << 20, []),
        ("student5", 3, 1 << 20, []),
        ("gauss", 4, 4096, []),
        ("laplace", 5, 4096, []),
        ("student5", 6, 4096, []),
        ("gauss", 7, 65536 + 37, []),
        # an outlier beyond 18 clips: the cast to i8 wraps in the search
        ("gauss", 8, 65536, [(77, 120.0)]),
        ("gauss", 9, 1000, [(0, -3000.0)]),
        ("laplace", 10, 3, []),
        ("student5", 11, 1, []),
    ]
    cases = []
    for distribution, seed, count, outliers in blocks:
        x = draw(tables[distribution], seed, count)
        for index, value in outliers:
            x[index] = np.float32(value)
        found = clip_search(x)
        ordered = sorted(k for k in found["kl"] if k is not None)
        cases.append(
            {
                "distribution": distribution,
                "seed": seed,
                "count": count,
                "outliers": [[index, bits(value)] for index, value in outliers],
                "amax": bits(found["amax"]),
                "low": bits(found["low"]),
                "step": found["step"],
                "scale": bits(found["scale"]),
                "clip_over_sigma": round(float(found["clip"]) / float(np.sqrt(np.mean(x.astype(np.float64) ** 2))), 4),
                "kl_least": ordered[0],
                "kl_next": ordered[1] if len(ordered) > 1 else None,
                "kl_greatest": ordered[-1],
            }
        )
    print("{\n \"tables\": {")
    print(",\n".join(f"  {json.dumps(name)}: {json.dumps([[bits(v) for v in row] for row in points])}" for name, points in tables.items()))
    print(" },\n \"blocks\": [")
    print(",\n".join("  " + json.dumps(case) for case in cases))
    print(" ]\n}")


main()
