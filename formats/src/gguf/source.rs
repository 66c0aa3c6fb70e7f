//! A regular file read by position.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::error::GgufError;

/// An open file and what the system said of it at open; or the name and length of bytes that a
/// cursor has in memory.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    /// `None` of bytes in memory, which are never read from here.
    file: Option<File>,
    stamp: Stamp,
    /// Serializes seek and read where the system has no positioned read for shared files.
    #[cfg(not(unix))]
    seeking: std::sync::Mutex<()>,
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
    /// Device and inode.
    #[cfg(unix)]
    identity: (u64, u64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        use std::os::unix::fs::MetadataExt;
        Self {
            length: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            identity: (metadata.dev(), metadata.ino()),
        }
    }
}

impl Source {
    /// Opens a regular file. Anything else is refused before it is opened, because opening a
    /// FIFO waits for a writer and opening a device may act on it.
    pub(super) fn open(path: &Path) -> Result<Self, GgufError> {
        let open_error = |source| GgufError::Open { path: path.to_owned(), source };
        refuse_special(path, &std::fs::metadata(path).map_err(open_error)?)?;
        let file = File::open(path).map_err(open_error)?;
        // Again on what was opened: the path may have been replaced in between.
        let metadata = file.metadata().map_err(open_error)?;
        refuse_special(path, &metadata)?;
        Ok(Self {
            path: path.to_owned(),
            file: Some(file),
            stamp: Stamp::of(&metadata),
            #[cfg(not(unix))]
            seeking: std::sync::Mutex::new(()),
        })
    }

    /// What stands for `length` bytes in memory that came from `path`.
    pub(super) fn in_memory(path: &Path, length: u64) -> Self {
        Self {
            path: path.to_owned(),
            file: None,
            stamp: Stamp {
                length,
                modified: None,
                #[cfg(unix)]
                identity: (0, 0),
            },
            #[cfg(not(unix))]
            seeking: std::sync::Mutex::new(()),
        }
    }

    fn file(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Length at open, in bytes.
    pub(super) fn len(&self) -> u64 {
        self.stamp.length
    }

    /// Fills `buf` from byte `offset` of the file. `tensor` is for the error.
    pub(super) fn read_exact_at(
        &self,
        buf: &mut [u8],
        offset: u64,
        tensor: Option<&str>,
    ) -> Result<(), GgufError> {
        self.read_positioned(buf, offset).map_err(|source| {
            let (path, tensor) = (self.path.clone(), tensor.map(str::to_owned));
            if source.kind() == io::ErrorKind::UnexpectedEof {
                let length = buf.len() as u64;
                GgufError::Shrunk { path, offset, length, tensor, expected: self.len() }
            } else {
                GgufError::Read { path, offset, tensor, source }
            }
        })
    }

    #[cfg(unix)]
    fn read_positioned(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(self.file()?, buf, offset)
    }

    #[cfg(not(unix))]
    fn read_positioned(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let _seeking = self.seeking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = self.file()?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(buf)
    }

    /// Compares the open file, and what its path leads to now, with what was seen at open.
    pub(super) fn check_unchanged(&self) -> Result<(), GgufError> {
        let open_error = |source| GgufError::Open { path: self.path.clone(), source };
        let file = self.file().map_err(open_error)?;
        self.compare(&Stamp::of(&file.metadata().map_err(open_error)?))?;
        self.compare(&Stamp::of(&std::fs::metadata(&self.path).map_err(open_error)?))
    }

    fn compare(&self, now: &Stamp) -> Result<(), GgufError> {
        let then = &self.stamp;
        let (property, expected, found) = if now.length != then.length {
            ("length", then.length.to_string(), now.length.to_string())
        } else if now.modified != then.modified {
            ("modification time", seconds(then.modified), seconds(now.modified))
        } else {
            #[cfg(unix)]
            if now.identity != then.identity {
                let name = |(device, inode)| format!("inode {inode} on device {device}");
                return Err(GgufError::Changed {
                    path: self.path.clone(),
                    property: "identity",
                    expected: name(then.identity),
                    found: name(now.identity),
                });
            }
            return Ok(());
        };
        Err(GgufError::Changed { path: self.path.clone(), property, expected, found })
    }
}

/// A time as seconds of the Unix epoch.
fn seconds(time: Option<SystemTime>) -> String {
    match time.map(|time| time.duration_since(SystemTime::UNIX_EPOCH)) {
        Some(Ok(since)) => format!("{}.{:09} s", since.as_secs(), since.subsec_nanos()),
        Some(Err(_)) => "before 1970".to_owned(),
        None => "unknown".to_owned(),
    }
}

fn refuse_special(path: &Path, metadata: &Metadata) -> Result<(), GgufError> {
    if metadata.is_file() {
        return Ok(());
    }
    let found = if metadata.is_dir() { "a directory" } else { special(metadata) };
    Err(GgufError::NotRegular { path: path.to_owned(), found })
}

#[cfg(unix)]
fn special(metadata: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() {
        "a block device"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "a special file"
    }
}

#[cfg(not(unix))]
fn special(_metadata: &Metadata) -> &'static str {
    "a special file"
}
