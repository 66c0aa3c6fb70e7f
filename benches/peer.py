"""What the comparisons share: building the peer and tessera, the model, the machine."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python==0.3.36"
ARCHIVE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
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


def build_peer(folder, name):
    """Path of llama.cpp's program `name` in `folder`, built there if it is not there yet."""
    binary = folder / "build" / "bin" / name
    if binary.exists():
        return binary
    if not shutil.which("cmake"):
        fail("`cmake` is not installed", "apt-get install cmake g++, or --peer PATH")
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("llama_cpp_python-*.tar.gz")):
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
    run(["cmake", "--build", folder / "build", "--target", name,
         "--parallel", str(os.cpu_count() or 1)])
    return binary


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(l.split(":", 1)[1].strip() for l in lines if l.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def add_arguments(parser, name):
    """Arguments that every comparison has; `name` is the peer's program."""
    parser.add_argument("--model", default="llama-1b", help="shapes, see the synthetic-gguf example")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--vocabulary", type=int, help="fewer tokens than the model has")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer", type=Path, default=os.environ.get("PEER"),
                        help=f"{name} to use instead of building one")
    parser.add_argument("--tessera", type=Path, help="binary to use instead of building one")
    parser.add_argument("--directory", type=Path, help="where the files go (default: target/compare)")
    parser.add_argument("--json", action="store_true", help="print JSON, every run included")


def prepare(arguments, name, types):
    """Builds what is missing: paths of tessera, of the peer, of the folder, of a model per type."""
    target = target_directory()
    directory = (arguments.directory or target / "compare").resolve()
    directory.mkdir(parents=True, exist_ok=True)
    sizes = [arguments.model, arguments.layers, arguments.vocabulary]
    stem = "-".join(str(size) for size in sizes if size is not None)
    sources = {type_: directory / (f"{stem}.gguf" if type_ == "f16" else f"{stem}-{type_}.gguf")
               for type_ in types}
    builds = ["--bin=tessera"] if arguments.tessera is None else []
    if not all(source.exists() for source in sources.values()):
        builds += ["--example=synthetic-gguf"]
    if builds:
        run(["cargo", "build", "--release", *builds], cwd=ROOT)
    tessera = (arguments.tessera or target / "release" / "tessera").resolve()
    peer = (Path(arguments.peer) if arguments.peer else build_peer(target / "peer", name)).resolve()
    for binary in (tessera, peer):
        if not binary.is_file():
            fail(f"`{binary}` does not exist")
    for type_, source in sources.items():
        if not source.exists():
            options = [f"--{option}={value}" for option in ("layers", "vocabulary")
                       if (value := getattr(arguments, option)) is not None]
            run([target / "release" / "examples" / "synthetic-gguf", arguments.model, source,
                 f"--type={type_}", *options])
        with open(source, "rb") as file:
            while file.read(4 * MIB):
                pass
    return tessera, peer, directory, sources


def measure(command, log):
    """Runs a command once: seconds, the peak of its resident set in MiB, and what it printed."""
    os.sync()
    with open(log, "wb") as text:
        start = time.monotonic()
        child = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL,
                                 stdout=text, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    output = log.read_text(errors="replace")
    log.unlink()
    if child.returncode != 0:
        say(output)
        fail(f"`{command[0]}`: exit code {child.returncode}")
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": wall,
        "peak_rss_mib": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MIB,
    }, output
