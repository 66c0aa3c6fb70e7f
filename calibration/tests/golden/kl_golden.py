"""Writes kl_golden.json: divergences and clips of the TensorRT rule on fixed histograms.

The rule is written out bin by bin, in the way NVIDIA's Model Optimizer describes it
(modelopt.torch.quantization, histogram calibrator, method "entropy"), with nothing of the closed
form that the crate uses. Run in this directory: python3 kl_golden.py (numpy).
"""

import json

import numpy as np


def divergence(counts, levels, kept):
    counts = np.asarray(counts, dtype=np.float64).copy()
    counts[0] = counts[1]
    source = counts[:kept]
    reference = source.copy()
    reference[-1] += counts[kept:].sum()

    cell = np.digitize(np.arange(kept), np.linspace(0, kept, levels + 1)) - 1
    quantized = np.zeros(kept)
    for level in range(levels):
        members = [b for b in np.flatnonzero(cell == level) if source[b] != 0]
        if members:
            quantized[members] = sum(source[b] for b in members) / len(members)

    if quantized.sum() == 0:
        return None
    p, q = reference / reference.sum(), quantized / quantized.sum()
    if np.any((p > 0) & (q == 0)):
        return None
    used = p > 0
    return float(np.sum(p[used] * np.log(p[used] / q[used])))


def case(name, counts, qmax):
    counts = [int(c) for c in counts]
    levels, bins = qmax + 1, len(counts)
    curve = [(i, divergence(counts, levels, i)) for i in range(max(levels, bins // 16), bins + 1)]
    finite = [(i, d) for i, d in curve if d is not None]
    least = min(d for _, d in finite)
    best = max(i for i, d in finite if d == least)
    # The choice must not hang on the last bits.
    rivals = [d for i, d in finite if i != best]
    assert not rivals or min(rivals) - least > 1e-10, name
    shown = sorted(set([curve[0][0], best - 1, best, bins]) | set(range(curve[0][0], bins, bins // 12)))
    return {
        "name": name,
        "qmax": qmax,
        "counts": counts,
        "bins": best,
        "divergences": [[i, d] for i, d in curve if i in shown],
    }


def histogram(values, bins=2048):
    values = np.abs(values)
    return np.histogram(values, bins=bins, range=(0, values.max()))[0]


def main():
    random = np.random.Generator(np.random.PCG64(20240404))
    outliers = random.standard_normal(200_000)
    outliers[::10_000] *= 6
    histograms = {
        "gaussian": histogram(random.standard_normal(200_000)),
        "gaussian with outliers": histogram(outliers),
        "laplace": histogram(random.laplace(size=50_000)),
        "student t5, 1500 bins": histogram(random.standard_t(5, 100_000), 1500),
        "one row of 4096": histogram(random.standard_normal(4096)),
    }
    cases = [case(n, h, qmax) for n, h in histograms.items() for qmax in (7, 127)]
    with open("kl_golden.json", "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
