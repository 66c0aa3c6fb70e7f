//! What files hold, without reading their weights.

mod gguf;
mod memory;
mod pack;

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, ensure};

pub use self::gguf::GgufReport;
pub use self::pack::PackReport;

/// Whether a file begins like GGUF; packs, their indices and folders do not.
pub fn is_gguf(path: &Path) -> anyhow::Result<bool> {
    let context = || format!("`{}`", path.display());
    let metadata = fs::metadata(path).with_context(context)?;
    if metadata.is_dir() {
        return Ok(false);
    }
    ensure!(metadata.is_file(), "`{}` is not a regular file", path.display());
    let mut magic = [0; 4];
    match File::open(path).with_context(context)?.read_exact(&mut magic) {
        Ok(()) => Ok(&magic == b"GGUF" || path.extension().is_some_and(|e| e == "gguf")),
        // Too short for either: let the reader of GGUF say so.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(true),
        Err(error) => Err(error).with_context(context),
    }
}
