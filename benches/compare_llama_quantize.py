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
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python==0.3.36"
ARCHIVE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
PAIRS = [("w8a8", "Q8_0"), ("w4a4", "Q4_0")]
MIB = 1 << 20


def fail(message, hint=None):
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"\nhint: {hint}", file=sys.stderr)
    sys.exit(3)


def say(message):
    print(message, file=sys.stderr, flush=True)


def run(command, **options):
    """A preparatory step; its output goes to stderr."""
    say("$ " + " ".join(map(str, command)))
    subprocess.run(command, check=True, stdout=sys.stderr, stdin=subprocess.DEVNULL, **options)


def target_directory():
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version=1", "--no-deps"],
        cwd=ROOT, check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )
    return Path(json.loads(metadata.stdout)["target_directory"])


def build_peer(folder):
    """Path of llama-quantize in `folder`, built there if it is not there yet."""
    binary = folder / "build" / "bin" / "llama-quantize"
    if binary.exists():
        return binary
    if not shutil.which("cmake"):
        fail("`cmake` is not installed", "apt-get install cmake g++, or --peer PATH")
    folder.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:",
         "--dest", folder, PACKAGE])
    archive = next(folder.glob("llama_cpp_python-*.tar.gz"))
    # In blocks: on Linux a child's peak memory is at least what its parent held when it was started.
    digest = hashlib.sha256()
    with open(archive, "rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    found = digest.hexdigest()
    if found != ARCHIVE_SHA256:
        fail(f"SHA-256 of `{archive}` is {found}, must be {ARCHIVE_SHA256}")
    with tarfile.open(archive) as files:
        if hasattr(tarfile, "data_filter"):
            files.extraction_filter = tarfile.data_filter
        files.extractall(folder)
    source = folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(["cmake", *generator, "-S", source, "-B", folder / "build", "-DCMAKE_BUILD_TYPE=Release",
         "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF",
         "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"])
    run(["cmake", "--build", folder / "build", "--target", "llama-quantize",
         "--parallel", str(os.cpu_count() or 1)])
    return binary


def measure(name, command, output):
    """Runs a command once; seconds, and the peak of its resident set in MiB."""
    os.sync()
    log = output.with_suffix(".log")
    with open(log, "wb") as text:
        start = time.monotonic()
        child = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL,
                                 stdout=text, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        say(log.read_text(errors="replace"))
        fail(f"{name}: exit code {child.returncode}")
    result = {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": wall,
        "peak_rss_mib": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB,
        "output_bytes": output.stat().st_size,
    }
    output.unlink()
    log.unlink()
    say(f"{name:7} {result['cpu_seconds']:8.2f} CPU s {result['wall_seconds']:8.2f} s wall "
        f"{result['peak_rss_mib']:7.0f} MiB {result['output_bytes']:12} bytes out")
    return result


def summarize(runs):
    """Medians of the seconds, and the largest peak: a limit must hold for every run."""
    return {
        "cpu_seconds": statistics.median(r["cpu_seconds"] for r in runs),
        "wall_seconds": statistics.median(r["wall_seconds"] for r in runs),
        "peak_rss_mib": max(r["peak_rss_mib"] for r in runs),
        "output_bytes": runs[-1]["output_bytes"],
    }


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(l.split(":", 1)[1].strip() for l in lines if l.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


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
    parser.add_argument("--model", default="llama-1b", help="shapes, see the synthetic-gguf example")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--vocabulary", type=int, help="fewer tokens than the model has")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--memory-budget", default="256M")
    parser.add_argument("--peer", type=Path, default=os.environ.get("PEER"),
                        help="llama-quantize to use instead of building one")
    parser.add_argument("--tessera", type=Path, help="binary to use instead of building one")
    parser.add_argument("--directory", type=Path, help="where the files go (default: target/compare)")
    parser.add_argument("--json", action="store_true", help="print JSON, every run included")
    arguments = parser.parse_args()
    if arguments.runs < 1 or arguments.threads < 1:
        parser.error("--runs and --threads must be at least 1")

    target = target_directory()
    directory = (arguments.directory or target / "compare").resolve()
    directory.mkdir(parents=True, exist_ok=True)
    sizes = [arguments.model, arguments.layers, arguments.vocabulary]
    source = directory / ("-".join(str(size) for size in sizes if size is not None) + ".gguf")
    builds = ["--bin=tessera"] if arguments.tessera is None else []
    builds += ["--example=synthetic-gguf"] if not source.exists() else []
    if builds:
        run(["cargo", "build", "--release", *builds], cwd=ROOT)
    tessera = (arguments.tessera or target / "release" / "tessera").resolve()
    peer = (Path(arguments.peer) if arguments.peer else build_peer(target / "peer")).resolve()
    for binary in (tessera, peer):
        if not binary.is_file():
            fail(f"`{binary}` does not exist")

    if not source.exists():
        options = [f"--{name}={value}" for name in ("layers", "vocabulary")
                   if (value := getattr(arguments, name)) is not None]
        run([target / "release" / "examples" / "synthetic-gguf", arguments.model, source, *options])
    with open(source, "rb") as file:
        while file.read(4 * MIB):
            pass

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
            runs[name].append(measure(name, command, output))

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
