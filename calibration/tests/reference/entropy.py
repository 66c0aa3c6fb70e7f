"""Writes entropy.json: the clips that public implementations of TensorRT's search choose.

Ten histograms of magnitudes, 2048 bins over [0, amax]. For each:

* `nvidia`: bins kept by NVIDIA's own code, `_compute_amax_entropy` of Model Optimizer, at 8 and at 4
  bits. The function is taken out of the installed package and run as it is; it needs only NumPy and
  SciPy, where importing the package would need PyTorch.
* `onnxruntime`: the clip of onnxruntime's `HistogramCollector`, in bins, at 8 bits. It has a histogram
  of signed values, here with 2048 bins and a half on either side and 255 cells.
* `onnxruntime_cells`, `kept_zeros`: NVIDIA's rules but for one or two of onnxruntime's, to see which of
  them makes the difference: cells of `floor(i / 128)` bins each and the rest of the mass in the last,
  with its smoothing; and the count of zeros left as it is.

Run in this directory: python3 entropy.py, with
    pip install numpy scipy onnxruntime==1.31.1 onnx
    pip install --no-deps nvidia-modelopt==0.47.0
It takes a minute or two, most of it onnxruntime's.
"""

import ast
import collections
import contextlib
import importlib.util
import io
import json
import pathlib
import types

import numpy as np
import scipy.stats
from onnxruntime.quantization.calibrate import HistogramCollector
from onnxruntime.quantization.quant_utils import smooth_distribution

BINS = 2048
SAMPLES = 60_000


def nvidia():
    root = pathlib.Path(importlib.util.find_spec("modelopt").submodule_search_locations[0])
    tree = ast.parse((root / "torch/quantization/calib/histogram.py").read_text())
    name = "_compute_amax_entropy"
    function = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    scope = {
        "np": np,
        "Counter": collections.Counter,
        "entropy": scipy.stats.entropy,
        "torch": types.SimpleNamespace(tensor=float),
    }
    exec(compile(ast.Module(function, []), "histogram.py", "exec"), scope)
    return scope[name]


def onnxruntime(values):
    collector = HistogramCollector("entropy", True, 2 * BINS + 1, 255, 99.99, "same")
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": values})
        clip = collector.compute_entropy()["x"][1]
    return float(clip) / float(np.abs(values).max()) * BINS


def with_cells_of_onnxruntime(counts, keep_zeros):
    counts = counts.astype(np.float64)
    if not keep_zeros:
        counts[0] = counts[1]
    levels, best = 128, (np.inf, None)
    for kept in range(levels, BINS + 1):
        p, source = counts[:kept].copy(), counts[:kept]
        p[-1] += counts[kept:].sum()
        cell = np.minimum(np.arange(kept) // (kept // levels), levels)
        mass = np.bincount(cell, weights=source, minlength=levels + 1)
        occupied = np.bincount(cell, weights=p != 0, minlength=levels + 1)
        mass[levels - 1] += mass[levels]
        occupied[levels] = 0
        each = np.divide(mass, occupied, out=np.zeros_like(mass), where=occupied > 0)
        p, q = smooth_distribution(p), smooth_distribution(each[cell])
        if p is None or q is None:
            continue
        p, q = p.astype(np.float64) / p.sum(), q.astype(np.float64) / q.sum()
        divergence = np.sum(p * np.log(p / q))
        if divergence <= best[0]:
            best = (divergence, kept)
    return best[1]


def samples(random):
    gaussian = random.standard_normal
    outliers = gaussian(SAMPLES)
    outliers[::5000] *= 8
    signs = random.choice([-1, 1], SAMPLES)
    return {
        "gaussian": gaussian(SAMPLES),
        "laplace": random.laplace(size=SAMPLES),
        "student t5": random.standard_t(5, SAMPLES),
        "student t3": random.standard_t(3, SAMPLES),
        "uniform": random.uniform(-1, 1, SAMPLES),
        "gaussian with outliers": outliers,
        "nine of ten zero": np.where(random.random(SAMPLES) < 0.9, 0, gaussian(SAMPLES)),
        "after a ReLU": np.maximum(gaussian(SAMPLES) - 0.5, 0),
        "bimodal": signs * np.abs(0.6 + 0.2 * gaussian(SAMPLES)),
        "log-normal": signs * np.exp(gaussian(SAMPLES)),
    }


def main():
    random = np.random.Generator(np.random.PCG64(20170508))
    published = nvidia()
    cases = []
    for name, values in samples(random).items():
        values = values.astype(np.float32)
        magnitudes = np.abs(values)
        counts, _ = np.histogram(magnitudes, bins=BINS, range=(0, magnitudes.max()))
        edges = np.arange(BINS + 1)
        case = {
            "name": name,
            "nvidia": {
                bits: int(published(counts.astype(np.int64), edges, bits, False)) for bits in (8, 4)
            },
            "onnxruntime": round(onnxruntime(values), 2),
            "onnxruntime_cells": with_cells_of_onnxruntime(counts, False),
            "kept_zeros": with_cells_of_onnxruntime(counts, True),
            "counts": counts.tolist(),
        }
        cases.append(case)
        print(*(f"{key} {value};" for key, value in case.items() if key != "counts"), flush=True)
    with open("entropy.json", "w") as file:
        file.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


if __name__ == "__main__":
    main()
