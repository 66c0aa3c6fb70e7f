#!/usr/bin/env python3
"""Tokens per second of `tessera calibrate` beside llama-imatrix, on a model with made-up weights.

In turn, on the same F16 file and text, with the same threads, context and number of chunks: tessera
without and with `--hessians`, and llama-imatrix with `--no-ppl`; and again. What is timed is the whole
process less the same process over fewer chunks, so that neither loading nor starting counts. Prints a
Markdown table of medians of tokens per second, the ratios tessera / llama-imatrix, and peak memory
(maxima).

llama-imatrix is built once, into target/peer, from the source archive of the PyPI package
llama-cpp-python 0.3.36; that needs pip, CMake and a C++ compiler. `--peer PATH` or PEER=PATH takes one
that is already there. Only the standard library is used.

    python3 benches/compare_llama_imatrix.py                        # 1.1 billion weights, 3 runs each
    python3 benches/compare_llama_imatrix.py --layers 4 --runs 1    # to see that it works
"""

import argparse
import json
import os
import random
import statistics

from peer import add_arguments, fail, measure, prepare, processor, say

CONTEXT = 512
PEER = "llama-imatrix"


def made_up_text(path, chunks):
    """Letters without meaning: the model's vocabulary spells them byte by byte."""
    letters = random.Random(0)
    text = "".join(letters.choices("etaoinshrdlu ", k=(chunks + 1) * CONTEXT))
    path.write_text(text)
    return path


def print_table(report):
    print(f"{report['processor']}, {report['cpus']} CPUs, {report['threads']} threads; "
          f"`{report['model']}`, F16, context {CONTEXT}, {report['tokens']} tokens timed, "
          f"{report['runs']} runs each, `--memory-budget {report['memory_budget']}`\n")
    print(f"| | tokens/s | peak RSS, MiB | ratio to {PEER} |")
    print("|---|---|---|---|")
    peer = report["results"][PEER]["tokens_per_second"]
    for name, result in report["results"].items():
        print(f"| {name} | {result['tokens_per_second']:.1f} | {result['peak_rss_mib']:.0f} "
              f"| {result['tokens_per_second'] / peer:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, PEER)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=16, help="chunks of the longer process")
    parser.add_argument("--memory-budget", default="2G")
    arguments = parser.parse_args()
    few = 4
    if arguments.runs < 1 or arguments.threads < 1 or arguments.chunks <= few:
        parser.error(f"--runs and --threads must be at least 1, --chunks more than {few}")
    tessera, peer, directory, sources = prepare(arguments, PEER, ["f16"])
    text = made_up_text(directory / "text.txt", arguments.chunks)

    def ours(*options):
        def command(chunks):
            return [tessera, "calibrate", sources["f16"], "--dataset", text, "--ctx", CONTEXT,
                    "--tokens", chunks * CONTEXT, "--threads", arguments.threads,
                    "--memory-budget", arguments.memory_budget, "--json", "--force",
                    "-o", directory / "statistics.safetensors", *options]
        return command

    def theirs(chunks):
        return [peer, "-m", sources["f16"], "-f", text, "-c", CONTEXT, "-b", CONTEXT, "--no-ppl",
                "-t", arguments.threads, "-o", directory / "imatrix.gguf", "--chunks", chunks]

    commands = {"tessera": ours(), "tessera --hessians": ours("--hessians"), PEER: theirs}
    tokens = (arguments.chunks - few) * CONTEXT
    runs = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, command in commands.items():
            short, _ = measure(command(few), directory / "run.log")
            long, _ = measure(command(arguments.chunks), directory / "run.log")
            seconds = long["wall_seconds"] - short["wall_seconds"]
            if seconds <= 0:
                fail(f"{name}: {arguments.chunks} chunks took no longer than {few}")
            result = {"tokens_per_second": tokens / seconds, "peak_rss_mib": long["peak_rss_mib"],
                      "cpu_seconds": long["cpu_seconds"] - short["cpu_seconds"]}
            say(f"{name:18} {result['tokens_per_second']:8.1f} tokens/s "
                f"{result['cpu_seconds']:7.2f} CPU s {result['peak_rss_mib']:7.0f} MiB")
            runs[name].append(result)

    results = {name: {
        "tokens_per_second": statistics.median(r["tokens_per_second"] for r in of_model),
        "cpu_seconds": statistics.median(r["cpu_seconds"] for r in of_model),
        "peak_rss_mib": max(r["peak_rss_mib"] for r in of_model),
    } for name, of_model in runs.items()}
    report = {
        "processor": processor(), "cpus": os.cpu_count(), "threads": arguments.threads,
        "model": arguments.model, "layers": arguments.layers, "vocabulary": arguments.vocabulary,
        "tokens": tokens, "memory_budget": arguments.memory_budget, "runs": arguments.runs,
        "load_average": os.getloadavg(), "results": results, "every_run": runs,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print_table(report)


if __name__ == "__main__":
    main()
