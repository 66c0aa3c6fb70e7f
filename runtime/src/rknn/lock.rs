//! One process at a time on the NPU: two that use several IOMMU domains can panic the kernel.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::RknnError;

/// The right to drive the NPU, among processes of tessera, for as long as it lives. The system takes the lock
/// back however the process ends.
#[derive(Debug)]
pub struct NpuLock {
    _file: File,
}

impl NpuLock {
    /// Takes the lock that the file is. It may belong to another user: it need only be readable.
    ///
    /// # Errors
    ///
    /// [`RknnError::Busy`] if another process holds it; if the file cannot be made or read.
    pub fn take(path: &Path) -> Result<Self, RknnError> {
        let read = |source| RknnError::Read { path: path.to_owned(), source };
        let file = open(path).map_err(read)?;
        match file.try_lock() {
            Ok(()) => Ok(NpuLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(RknnError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(read(source)),
        }
    }
}

/// Opens the file, or makes it. In folders that everybody may write to, the system refuses `O_CREAT` for files that
/// others have made, so what is there is opened without.
fn open(path: &Path) -> std::io::Result<File> {
    // A pipe of that name would wait for its writer.
    let there = || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    match there() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        opened => return opened,
    }
    match OpenOptions::new().read(true).write(true).create_new(true).open(path) {
        Ok(file) => {
            // Whatever the mask of files is that are made.
            file.set_permissions(Permissions::from_mode(0o644))?;
            Ok(file)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => there(),
        Err(error) => Err(error),
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
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        // As of another user: it can be read alone, and nothing be made beside it.
        let only_read = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        only_read(&path, 0o444);
        only_read(folder.path(), 0o555);
        NpuLock::take(&path).unwrap();
        only_read(folder.path(), 0o755);
        assert!(matches!(
            NpuLock::take(&folder.path().join("none/npu.lock")),
            Err(RknnError::Read { .. })
        ));
    }
}
