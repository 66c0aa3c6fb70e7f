//! What files hold, without reading their weights.

mod gguf;
mod memory;
mod pack;

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, ensure};
use tessera_formats::escape::escaped_path;

pub use self::gguf::GgufReport;
pub use self::pack::PackReport;

/// Whether a file is for the reader of GGUF: by its first bytes or its name, or because it is too
/// short for anything, which that reader says best. Packs, their indices and folders are not.
pub fn is_for_gguf(path: &Path) -> anyhow::Result<bool> {
    let named = path.extension().is_some_and(|extension| extension == "gguf");
    let is_file = fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    Ok(match magic(path)? {
        Some(magic) => &magic == GGUF_MAGIC || named,
        None => is_file,
    })
}

/// Whether a file begins as GGUF does.
pub fn is_gguf(path: &Path) -> anyhow::Result<bool> {
    Ok(magic(path)?.as_ref() == Some(GGUF_MAGIC))
}

/// First bytes of every GGUF file.
const GGUF_MAGIC: &[u8; 4] = b"GGUF";

/// First bytes of a file; absent where it has fewer, and of folders.
fn magic(path: &Path) -> anyhow::Result<Option<[u8; 4]>> {
    let context = || format!("`{}`", escaped_path(path));
    let metadata = fs::metadata(path).with_context(context)?;
    if metadata.is_dir() {
        return Ok(None);
    }
    ensure!(metadata.is_file(), "`{}` is not a regular file", escaped_path(path));
    let mut magic = [0; 4];
    match File::open(path).with_context(context)?.read_exact(&mut magic) {
        Ok(()) => Ok(Some(magic)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error).with_context(context),
    }
}
