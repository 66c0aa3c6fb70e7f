"""Writes gptq.json: integers that GPTQ gives on three small problems, by NumPy.

This is Algorithm 1 of Frantar et al. 2022 (arXiv 2210.17323) as the paper has it: the inverse of the
damped Hessian, its upper Cholesky factor, blocks of columns, lazily updated weights; with columns
in the order of their diagonal elements if asked for (the authors' "act-order"). Scales are those of
the largest magnitude, one per row and segment, and fixed; where there is one integer more below zero,
it stands for the element of largest magnitude, whose sign the scale then has the opposite of, as
ggml's Q4_0 has it. It shares no formula with the crate, which
factors the Hessian itself and never inverts it. Run in this directory: python3 gptq.py (numpy).
"""

import json

import numpy as np

DAMPING = 0.01
BLOCK = 8


def gptq(weights, hessian, scales, bounds, act_order):
    """Integers, losses of rows, and how near the closest call was, in units of a scale."""
    w = weights.astype(np.float64).copy()
    h = hessian.astype(np.float64).copy()
    k = h.shape[0]
    order = np.argsort(-np.diag(h), kind="stable") if act_order else np.arange(k)
    w, h, s = w[:, order], h[np.ix_(order, order)], scales.astype(np.float64)[:, order]
    h += DAMPING * np.mean(np.diag(h)) * np.eye(k)
    inverse = np.linalg.cholesky(np.linalg.inv(h)).T
    integers = np.zeros(w.shape, dtype=np.int64)
    losses, margin = np.zeros(len(w)), np.inf
    for start in range(0, k, BLOCK):
        end = min(start + BLOCK, k)
        errors = np.zeros((len(w), end - start))
        for j in range(start, end):
            x = w[:, j] / s[:, j]
            fraction = np.abs(x - np.floor(x) - 0.5)
            margin = min(margin, np.min(fraction[inside(x, bounds, 0)], initial=np.inf))
            integers[:, j] = np.clip(np.rint(x), *bounds)
            errors[:, j - start] = (w[:, j] - s[:, j] * integers[:, j]) / inverse[j, j]
            w[:, j:end] -= np.outer(errors[:, j - start], inverse[j, j:end])
            losses += errors[:, j - start] ** 2
        w[:, end:] -= errors @ inverse[start:end, end:]
    return integers[:, np.argsort(order)], losses, margin


def inside(x, bounds, by):
    return (x > bounds[0] + by) & (x < bounds[1] - by)


def rounding_losses(weights, hessian, scales, bounds):
    w, s = weights.astype(np.float64), scales.astype(np.float64)
    errors = w - s * np.clip(np.rint(w / s), *bounds)
    h = hessian + DAMPING * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    return np.einsum("ni,ij,nj->n", errors, h, errors)


def problem(random, rows, k, segments):
    # Correlated inputs of unequal energies; everything is a multiple of a power of two, so that JSON
    # and f32 hold it exactly.
    mixing = random.standard_normal((k, k)) * np.exp(-np.arange(k) / (k / 3))[:, None]
    inputs = random.standard_normal((4 * k, k)) @ mixing + 0.2 * random.standard_normal((4 * k, k))
    inputs *= np.exp(0.5 * random.standard_normal(k))
    hessian = np.rint(1024 * (inputs.T @ inputs) / len(inputs)) / 1024
    weights = np.rint(4096 * random.standard_normal((rows, k)) * 0.05) / 4096
    ends = np.linspace(0, k, segments + 1).astype(int)
    result = {
        "rows": rows,
        "k": k,
        "segments": [[int(a), int(b)] for a, b in zip(ends, ends[1:])],
        "hessian_times_1024": [
            [int(1024 * v) for v in row[: i + 1]] for i, row in enumerate(hessian)
        ],
        "weights_times_4096": (4096 * weights).astype(int).ravel().tolist(),
        "cases": [],
    }
    for bounds in ((-7, 7), (-8, 7), (-127, 127)):
        scales = np.zeros((rows, segments), dtype=np.float32)
        for index, (a, b) in enumerate(zip(ends, ends[1:])):
            largest = np.argmax(np.abs(weights[:, a:b]), axis=1)
            extreme = weights[np.arange(rows), a + largest].astype(np.float32)
            if -bounds[0] == bounds[1]:
                extreme = -np.abs(extreme)
            scales[:, index] = extreme / np.float32(bounds[0])
        columns = np.repeat(scales, np.diff(ends), axis=1)
        # NumPy knows nothing of f32's reciprocal: no quotient may be near a tie, as f32's errors grow
        # with the integers.
        x = weights / columns
        for act_order in (False, True):
            integers, losses, margin = gptq(weights, hessian, columns, bounds, act_order)
            rounding = rounding_losses(weights, hessian, columns, bounds)
            margin = min(margin, np.min(np.abs(x - np.floor(x) - 0.5)[inside(x, bounds, 0.5)]))
            # Nor is a row of any use where rounding to nearest happens to be better, for the crate
            # keeps that.
            if margin < 1.6e-6 * bounds[1] or np.any(losses >= rounding):
                return None
            result["cases"].append({
                "range": bounds,
                "act_order": act_order,
                "damping": DAMPING,
                "scales": [float(v) for v in scales.ravel()],
                "integers": integers.ravel().tolist(),
                "losses": losses.tolist(),
                "rounding_losses": rounding.tolist(),
            })
    return result


def main():
    random = np.random.Generator(np.random.PCG64(20221031))
    problems = []
    for rows, k, segments in ((8, 16, 1), (24, 48, 2), (32, 96, 1)):
        while (found := problem(random, rows, k, segments)) is None:
            pass
        problems.append(found)
    with open("gptq.json", "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(p, separators=(",", ":")) for p in problems) + "\n]\n")


if __name__ == "__main__":
    main()
