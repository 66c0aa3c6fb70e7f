#!/usr/bin/env python3
"""CPU seconds, wall seconds and peak memory of `tessera convert` beside llama-quantize.

Both convert the same file with made-up weights on the same machine, in turn: w8a8, Q8_0, w4a4, Q4_0,
and again. The file is in the page cache before the first run. Prints a Markdown table of medians (peak
memory: maxima) and the ratios tessera / llama-quantize.

llama-quantize is built once, into target/peer, from the source archive of the PyPI package
llama-cpp-python 0.3.36; that needs pip, CMake and a C++ compiler. `--peer PATH` or PEER=PATH takes one
that is already there. Only the standard library is used.

    python3 benches/compare_llama_quantize.py                          # 2.2 GB of F16, 3 runs each
    python3 benches/compare_llama_quantize.py --layers 1 --runs 1      # to see that it works
"""

import argparse
import json
import os
import statistics

from peer import add_arguments, measure, prepare, processor, say

PAIRS = [("w8a8", "Q8_0"), ("w4a4", "Q4_0")]


def summarize(runs):
    """Medians of the seconds, and the largest peak: a limit must hold for every run."""
    return {
        "cpu_seconds": statistics.median(r["cpu_seconds"] for r in runs),
        "wall_seconds": statistics.median(r["wall_seconds"] for r in runs),
        "peak_rss_mib": max(r["peak_rss_mib"] for r in runs),
        "output_bytes": runs[-1]["output_bytes"],
    }


def print_table(report):
    print(f"{report['processor']}, {report['cpus']} CPUs, {report['threads']} threads; "
          f"`{report['model']}` F16, {report['input_bytes']} bytes; "
          f"{report['runs']} runs each, `--memory-budget {report['memory_budget']}`\n")
    header = [""]
    for scheme, peer_type in PAIRS:
        header += [f"tessera {scheme}", f"llama-quantize {peer_type}", "ratio"]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for field, label, digits in [
        ("cpu_seconds", "CPU seconds", 2), ("wall_seconds", "wall seconds", 2),
        ("peak_rss_mib", "peak RSS, MiB", 0), ("output_bytes", "output bytes", 0),
    ]:
        row = [label]
        for scheme, peer_type in PAIRS:
            ours, theirs = report["results"][scheme][field], report["results"][peer_type][field]
            row += [f"{ours:.{digits}f}", f"{theirs:.{digits}f}", f"{ours / theirs:.2f}"]
        print("| " + " | ".join(row) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "llama-quantize")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory-budget", default="256M")
    arguments = parser.parse_args()
    if arguments.runs < 1 or arguments.threads < 1:
        parser.error("--runs and --threads must be at least 1")
    tessera, peer, directory, sources = prepare(arguments, "llama-quantize", ["f16"])
    source = sources["f16"]

    commands = {}
    for scheme, peer_type in PAIRS:
        pack = directory / f"{scheme}.safetensors"
        commands[scheme] = [tessera, "convert", source, "-o", pack, "--scheme", scheme, "--force",
                            "--threads", arguments.threads,
                            "--memory-budget", arguments.memory_budget], pack
        gguf = directory / f"{peer_type}.gguf"
        commands[peer_type] = [peer, source, gguf, peer_type, arguments.threads], gguf
    runs = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, (command, output) in commands.items():
            result, _ = measure(command, output.with_suffix(".log"))
            result["output_bytes"] = output.stat().st_size
            output.unlink()
            say(f"{name:7} {result['cpu_seconds']:8.2f} CPU s {result['wall_seconds']:8.2f} s wall "
                f"{result['peak_rss_mib']:7.0f} MiB {result['output_bytes']:12} bytes out")
            runs[name].append(result)

    report = {
        "processor": processor(), "cpus": os.cpu_count(), "threads": arguments.threads,
        "model": arguments.model, "layers": arguments.layers, "vocabulary": arguments.vocabulary,
        "input_bytes": source.stat().st_size, "memory_budget": arguments.memory_budget,
        "runs": arguments.runs, "results": {name: summarize(r) for name, r in runs.items()},
        "every_run": runs,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print_table(report)


if __name__ == "__main__":
    main()
