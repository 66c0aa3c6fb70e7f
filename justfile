# Everyday commands; `just` lists them.

_default:
    @just --list

# Format, lint, test, document: what a change must pass
check: format-check lint test doc

# Rewrite every file in the house format
format:
    cargo fmt --all

format-check:
    cargo fmt --all --check

# clippy on every target, warnings denied
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Every test; arguments go to cargo test
test *arguments:
    cargo test --workspace {{ arguments }}

# API documentation, warnings denied
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# All that continuous integration runs
ci:
    .ci/run

# The program for the board, target/aarch64-unknown-linux-gnu/release/tessera, see docs/board.md
board:
    .ci/board

# What matters on the board, tested under qemu
aarch64:
    .ci/aarch64

# Convert the model the repository carries
example:
    cargo run --release -- convert tests/data/stories260K-Q8_0.gguf -o stories260K.safetensors --scheme w8a8 --force

# Write a GGUF with the shapes of a real model: just synthetic llama-1b target/llama-1b.gguf
synthetic *arguments:
    cargo run --release --example synthetic-gguf -- {{ arguments }}

# CPU seconds, wall seconds and peak memory against llama-quantize (heavy: 2.2 GB of input)
compare *arguments:
    python3 benches/compare_llama_quantize.py {{ arguments }}

# Fuzz one target, after `just fuzz-seeds`; needs nightly and cargo-fuzz, see fuzz/README.md
fuzz target seconds="60":
    .ci/fuzz build
    .ci/fuzz run {{ target }} {{ seconds }}

# Seeds of real files for the fuzz targets
fuzz-seeds:
    .ci/fuzz seeds

# Every fuzz target, one after the other
fuzz-all seconds="60":
    .ci/fuzz all {{ seconds }}

# Compile the fuzz targets without nightly
fuzz-check:
    cd fuzz && RUSTC_BOOTSTRAP=1 cargo check
