//! Opening the library for a device: the board's NPU, which one process at a time drives, or the stand-in of tests.
#![expect(unsafe_code, reason = "the C library's allocator is told how to allocate")]

use std::fmt;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use super::abi::{self, layout, matmul_type};
use super::{FOLDERS, Library, NpuLock, RknnError, VERSION_MARK, Version};

/// What the versions of a stand-in say that those of no librknnrt do.
const STAND_IN: &str = "stand-in";

/// Where programs keep locks, as long as the system runs.
const LOCKS: &str = "/run/lock";

/// The lock's file.
const LOCK: &str = "tessera-npu.lock";

/// What a library drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The NPU of the board.
    Board,
    /// Plain arithmetic in this process.
    StandIn,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Board => "rknn",
            Kind::StandIn => STAND_IN,
        })
    }
}

/// Opens the library of a device: the file that is named, else the first in [`FOLDERS`]. For a board the lock
/// among processes is taken, too: it must be kept as long as the library is used.
///
/// # Errors
///
/// If there is no library, it cannot be loaded, it is of another kind, or another process drives the NPU.
pub fn open(kind: Kind, path: Option<&Path>) -> Result<(Arc<Library>, Option<NpuLock>), RknnError> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => Library::find(&FOLDERS.map(PathBuf::from))?,
    };
    // By the file's text, before anything of it runs.
    let found = kind_of(&path).map_err(|source| RknnError::Read { path: path.clone(), source })?;
    if let Some(found) = found.filter(|found| *found != kind) {
        return Err(RknnError::Kind { path, found, asked: kind });
    }
    let lock = match kind {
        Kind::Board => {
            allocate_without_mappings();
            Some(NpuLock::of_machine()?)
        }
        Kind::StandIn => None,
    };
    Ok((Arc::new(Library::open(&path)?), lock))
}

/// What a library drives, by what stands behind its version; `None` if it says no version.
fn kind_of(path: &Path) -> std::io::Result<Option<Kind>> {
    // Asked before opening: opening a pipe waits for its writer, and a device may have no end.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "it is no regular file"));
    }
    let found = Version::with_text(VERSION_MARK, &mut File::open(path)?)?;
    let is_stand_in = |(_, text): (_, String)| text.contains(STAND_IN);
    Ok(found.map(|found| if is_stand_in(found) { Kind::StandIn } else { Kind::Board }))
}

/// Versions of the library and of the driver, as the library says them. It finds the NPU for that.
///
/// # Errors
///
/// If it does not.
pub fn versions(library: &Library) -> Result<[String; 2], RknnError> {
    let mut info = abi::MatmulInfo {
        m: 1,
        k: 32,
        n: 32,
        matmul_type: matmul_type::I8_I8_I32,
        b_layout: layout::NATIVE,
        b_quant_type: 0,
        ac_layout: layout::NORMAL,
        ac_quant_type: 0,
        iommu_domain_id: 0,
        group_size: 0,
        reserved: [0; 34],
    };
    let (context, _) = library.matmul_create(&mut info, "the smallest matmul")?;
    let versions = library.sdk_version(context);
    // Nothing is left to do about a context that cannot be destroyed.
    let _ = library.matmul_destroy(context);
    versions
}

impl NpuLock {
    /// Takes the lock of this machine's NPU: `/run/lock/tessera-npu.lock`, or, where nothing can be made there,
    /// that file in the folder for temporary files.
    ///
    /// # Errors
    ///
    /// As [`NpuLock::take`].
    pub fn of_machine() -> Result<Self, RknnError> {
        match NpuLock::take(&Path::new(LOCKS).join(LOCK)) {
            Err(RknnError::Read { .. }) => NpuLock::take(&std::env::temp_dir().join(LOCK)),
            taken => taken,
        }
    }
}

/// Tells the allocator to map nothing for large allocations, once.
///
/// Users of librknnrt report that it unmaps addresses where the allocator has mapped a large allocation. Without such
/// mappings there is none to lose.
fn allocate_without_mappings() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            // SAFETY: `mallopt` takes two integers, may be called at any time, and changes only where memory that
            // is allocated from now on comes from.
            let _ = unsafe { libc::mallopt(libc::M_MMAP_MAX, 0) };
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_library_is_told() {
        let error = open(Kind::StandIn, Some(Path::new("/nonexistent/librknnrt.so"))).unwrap_err();
        assert!(matches!(error, RknnError::Read { .. }), "{error}");
        assert_eq!([Kind::Board, Kind::StandIn].map(|kind| kind.to_string()), ["rknn", "stand-in"]);
        allocate_without_mappings();
    }
}
