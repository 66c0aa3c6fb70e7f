//! What can go wrong between tessera and the NPU, with what it usually means.

use std::ffi::c_int;
use std::path::PathBuf;

use tessera_formats::escape::{Escaped, escaped_path};
use tessera_formats::pack::PackError;
use thiserror::Error;

use super::open::Kind;
use super::version::{LEAST_VERSION, Version};
use crate::host::WeightsError;

/// A failure of the library, or of reaching it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RknnError {
    /// No library in any of the places.
    #[error(
        "no `librknnrt.so` in {searched}: install the vendor's runtime, or name it with `--library`"
    )]
    NotFound {
        /// Folders that were looked into.
        searched: String,
    },
    /// A file that cannot be read.
    #[error("`{}` cannot be read", escaped_path(path))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that the loader does not take.
    #[error("`{}` cannot be loaded", escaped_path(path))]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: libloading::Error,
    },
    /// A library that does not say its version.
    #[error(
        "`{}` does not say its version: it is no librknnrt, or one that is not known",
        escaped_path(path)
    )]
    NoVersion {
        /// The file.
        path: PathBuf,
    },
    /// A library whose structures are others.
    #[error(
        "`{}` has version {found}, and {LEAST_VERSION} is the least: older ones lay out their structures differently, and \
         would write into the wrong memory",
        escaped_path(path)
    )]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// A library without a function that is needed.
    #[error("`{}` has no `{name}`", escaped_path(path))]
    Symbol {
        /// The file.
        path: PathBuf,
        /// The function.
        name: &'static str,
    },
    /// A call that failed.
    #[error("`{call}` returned {code} ({}) for {what}{}", meaning(*code), hint(call, *code))]
    Call {
        /// The function.
        call: &'static str,
        /// What it returned.
        code: c_int,
        /// Shape, sizes or domain of what it was called for.
        what: String,
    },
    /// Memory that the library did not give.
    #[error(
        "`{call}` gave no memory for {what}: the domain or the board's memory is full, or the process has no file \
         descriptors left (`ulimit -n`)"
    )]
    NoMemory {
        /// The function.
        call: &'static str,
        /// Bytes and domain.
        what: String,
    },
    /// A tensor that the library wants otherwise than packs have it.
    #[error("the library wants {found} bytes of {tensor} for {what}, where packs have {expected}")]
    Size {
        /// `A`, `B` or `C`.
        tensor: &'static str,
        /// The matmul.
        what: String,
        /// Bytes by the layouts of `formats/spec/pack.md`.
        expected: u64,
        /// Bytes that the library says.
        found: u64,
    },
    /// A shape that no matmul has.
    #[error("{what}: {why}")]
    Shape {
        /// The matmul.
        what: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A pack that cannot be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Weights that cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Tiles that are not those of the manifest.
    #[error("`{}` does not have the SHA-256 that the manifest records", Escaped(tensor))]
    Digest {
        /// The tensor.
        tensor: String,
    },
    /// A size that this machine, or the library, cannot address.
    #[error("`{}` is too large", Escaped(tensor))]
    Unaddressable {
        /// The tensor, or the linear.
        tensor: String,
    },
    /// Tiles that were not loaded.
    #[error("the tiles of segment {segment} of `{}` are not in the NPU's memory", Escaped(linear))]
    NotLoaded {
        /// The linear.
        linear: String,
        /// The segment.
        segment: usize,
    },
    /// A core's thread that cannot be started.
    #[error("a thread for a core of the NPU")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
    /// A core's thread that has ended.
    #[error("the thread of a core of the NPU has ended: this is a bug")]
    CoreLost,
    /// A library that drives something else than it was opened for.
    #[error("`{}` is {}: it is for `--device {found}`, not for `--device {asked}`", escaped_path(path), kind(*found))]
    Kind {
        /// The library.
        path: PathBuf,
        /// What it drives.
        found: Kind,
        /// What it was to drive.
        asked: Kind,
    },
    /// Another process drives the NPU.
    #[error(
        "another process of tessera drives the NPU (`{}` is locked): two at once can panic the kernel",
        escaped_path(path)
    )]
    Busy {
        /// The lock.
        path: PathBuf,
    },
}

/// What a library is.
fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Board => "the vendor's library",
        Kind::StandIn => "a stand-in for tests, which computes without an NPU",
    }
}

/// The name of a code.
fn meaning(code: c_int) -> &'static str {
    match code {
        -1 => "failure",
        -2 => "timeout",
        -3 => "device unavailable",
        -4 => "no memory",
        -5 => "wrong parameter",
        -6 => "wrong model",
        -7 => "wrong context",
        -8 => "wrong input",
        -9 => "wrong output",
        -10 => "device and library do not match",
        -11 | -12 => "incompatible version",
        -13 => "wrong platform",
        _ => "unknown code",
    }
}

/// What a code of a call usually means.
fn hint(call: &str, code: c_int) -> &'static str {
    match (call, code) {
        ("rknn_matmul_create", -1 | -3) => {
            ": the NPU's driver was not found or not opened; `tessera doctor` says what is missing"
        }
        ("rknn_matmul_create", -4) => ": memory of the domain, or file descriptors, have run out",
        ("rknn_matmul_create", -5) => ": K, N or the type is not one that this chip has",
        ("rknn_matmul_set_core_mask", _) => ": one core is what a matmul can be given",
        ("rknn_matmul_set_io_mem", -5) => {
            ": the memory is smaller than the tensor, or of another domain"
        }
        ("rknn_matmul_run", -1 | -2) => {
            ": the NPU did not finish; `dmesg` has what the driver says, and another client may have reset it"
        }
        _ => "",
    }
}
