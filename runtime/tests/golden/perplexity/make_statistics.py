#!/usr/bin/env python3
"""Writes statistics.json: rows of logits and their statistics, from the definitions.

Needs Python 3.10 or later, nothing else. Sums are exact (math.fsum); percentiles are those of the
`statistics` module; errors are written as sums over pairs, not as in the Rust code.
"""
import json
import math
import pathlib
import statistics
import struct

TOKENS, VOCABULARY = 40, 19


def noise(seed):
    """Approximately normal values with three decimals, the same everywhere."""
    state = seed
    while True:
        total = 0
        for _ in range(6):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            total += state >> 33
        yield round((total / 2**31 - 3) * 4, 3)


def f32(x):
    """The nearest f32: the logits are exactly these."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def log_softmax(row):
    top = max(row)
    ln_sum = math.log(math.fsum(math.exp(x - top) for x in row))
    return [x - top - ln_sum for x in row]


def standard_error(a, b=None):
    """Of the mean of a; or the covariance of the means of a and b, over all pairs of tokens."""
    n = len(a)
    if b is None:
        return math.sqrt(standard_error(a, a))
    pairs = ((a[i] - a[j]) * (b[i] - b[j]) for i in range(n) for j in range(i))
    return math.fsum(pairs) / n**2 / (n - 1)


def estimate(values):
    return {"value": math.fsum(values) / len(values), "error": standard_error(values)}


def exponential(e):
    return {"value": math.exp(e["value"]), "error": math.exp(e["value"]) * e["error"]}


def distribution(values):
    thousandths = statistics.quantiles(values, n=1000, method="inclusive")
    names = {"p99_9": 999, "p99": 990, "p95": 950, "p90": 900, "p75": 750, "p25": 250, "p10": 100,
             "p5": 50, "p1": 10, "p0_1": 1}
    return {
        "mean": estimate(values),
        "maximum": max(values),
        "median": statistics.median(values),
        "minimum": min(values),
        **{name: thousandths[place - 1] for name, place in names.items()},
    }


def main():
    base, change = noise(1), noise(2)
    rows = []
    for token in range(TOKENS):
        reference = [next(base) for _ in range(VOCABULARY)]
        model = [round(x + 0.1 * next(change), 3) for x in reference]
        rows.append({"reference": reference, "model": model, "label": token * 7 % VOCABULARY})
    nll, nll_ref, kld, delta, same = [], [], [], [], []
    for row in rows:
        q = log_softmax([f32(x) for x in row["model"]])
        p = log_softmax([f32(x) for x in row["reference"]])
        label = row["label"]
        nll.append(-q[label])
        nll_ref.append(-p[label])
        kld.append(math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q)))
        delta.append(math.exp(q[label]) - math.exp(p[label]))
        same.append(float(p.index(max(p)) == q.index(max(q))))
    ppl, ppl_ref = exponential(estimate(nll)), exponential(estimate(nll_ref))
    ln_ratio = estimate([a - b for a, b in zip(nll, nll_ref)])
    covariance = standard_error(nll, nll_ref)
    squares = estimate([d * d for d in delta])
    summary = {
        "tokens": TOKENS,
        "ppl": ppl,
        "comparison": {
            "ppl_ref": ppl_ref,
            "correlation": statistics.correlation(nll, nll_ref),
            "ln_ratio": ln_ratio,
            "ratio": exponential(ln_ratio),
            "difference": {
                "value": ppl["value"] - ppl_ref["value"],
                "error": math.sqrt(ppl["error"]**2 + ppl_ref["error"]**2
                                   - 2 * ppl["value"] * ppl_ref["value"] * covariance),
            },
            "kld": distribution(kld),
            "delta_p": distribution(delta),
            "rms_delta_p": {"value": math.sqrt(squares["value"]),
                            "error": squares["error"] / 2 / math.sqrt(squares["value"])},
            "same_top": estimate(same),
        },
    }
    golden = {"rows": rows, "summary": summary}
    path = pathlib.Path(__file__).with_name("statistics.json")
    rows_text = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f'{{"rows": [\n{rows_text}\n],\n"summary": {json.dumps(summary)}}}\n')
    assert json.loads(path.read_text()) == golden


main()
