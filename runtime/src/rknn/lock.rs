//! One process at a time on the NPU: two that use several IOMMU domains can panic the kernel.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::RknnError;

/// The right to drive the NPU, among processes of tessera, for as long as it lives. The system takes the lock
/// back however the process ends.
#[derive(Debug)]
pub struct NpuLock {
    _file: File,
}

impl NpuLock {
    /// Takes the lock that the file is.
    ///
    /// # Errors
    ///
    /// [`RknnError::Busy`] if another process holds it; if the file cannot be made.
    pub fn take(path: &Path) -> Result<Self, RknnError> {
        let read = |source| RknnError::Read { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(read)?;
        match file.try_lock() {
            Ok(()) => Ok(NpuLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(RknnError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(read(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("npu.lock");
        let first = NpuLock::take(&path).unwrap();
        assert!(matches!(NpuLock::take(&path), Err(RknnError::Busy { .. })));
        drop(first);
        NpuLock::take(&path).unwrap();
        assert!(matches!(
            NpuLock::take(&folder.path().join("none/npu.lock")),
            Err(RknnError::Read { .. })
        ));
    }
}
