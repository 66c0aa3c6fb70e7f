//! The work folder: what is on disk of a run that has not finished.
//!
//! | file | content |
//! |---|---|
//! | `run.json` | what the run is of: compared before it goes on |
//! | `lock` | locked by the process that works here |
//! | `inputs-00003.safetensors` | statistics of layer 3; the last one's are of the head |
//! | `states-00004.f32` | hidden states that layer 4 reads, `[tokens, width]`, little-endian |
//! | `reference-00004.f32` | those of the float model, where states pass quantized layers |
//! | `statistics.safetensors` | the output, before it is moved to its place |
//!
//! Each file is written under another name, synced and renamed. A layer is finished when the states of
//! the next one are there: they are renamed last.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{CollectError, Collection};

/// Version of the folder's layout.
const LAYOUT: u32 = 1;

const RECORD: &str = "run.json";
const LOCK: &str = "lock";
const WHOLE: &str = "statistics.safetensors";

/// Largest record that is read, in bytes.
const LONGEST_RECORD: u64 = 16 << 20;

/// Endings of names while a file is written.
const PART: &str = ".part";

/// A folder that this process works in.
pub(super) struct WorkFolder {
    path: PathBuf,
    /// Unlocked when it is closed.
    _lock: File,
}

impl WorkFolder {
    /// Makes the folder, or takes up the one that is there.
    pub(super) fn open(path: &Path, collection: &Collection<'_>) -> Result<Self, CollectError> {
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !path.is_dir() || !is_work_folder(path)? {
                    return Err(CollectError::NotAWorkFolder { path: path.to_owned() });
                }
                if !collection.resume {
                    return Err(CollectError::Exists { path: path.to_owned() });
                }
            }
            Err(error) => return Err(CollectError::io("create", path)(error)),
        }
        let lock = path.join(LOCK);
        let file = File::create(&lock).map_err(CollectError::io("create", &lock))?;
        match file.try_lock() {
            Ok(()) => {}
            // Some file systems of networks have no locks.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(CollectError::io("lock", &lock)(error)),
            Err(TryLockError::WouldBlock) => {
                return Err(CollectError::InUse { path: path.to_owned() });
            }
        }
        let folder = WorkFolder { path: path.to_owned(), _lock: file };
        folder.compare(&record(collection))?;
        folder.remove_unfinished()?;
        Ok(folder)
    }

    /// Number of layers that are finished.
    pub(super) fn finished(&self) -> Result<usize, CollectError> {
        let states = self.names()?.into_iter().filter_map(|name| number(&name, "states-", ".f32"));
        let finished = states.max().unwrap_or(0);
        match (0..finished).map(|index| self.part(index)).find(|path| !path.is_file()) {
            Some(path) => Err(CollectError::Damaged { path, what: "is missing".to_owned() }),
            None => Ok(finished),
        }
    }

    /// Statistics of a layer; of the head under the number of layers.
    pub(super) fn part(&self, index: usize) -> PathBuf {
        self.path.join(format!("inputs-{index:05}.safetensors"))
    }

    /// Hidden states of a stream that a layer reads.
    pub(super) fn states(&self, stream: &str, index: usize) -> PathBuf {
        self.path.join(format!("{stream}-{index:05}.f32"))
    }

    /// Statistics of all inputs.
    pub(super) fn whole(&self) -> PathBuf {
        self.path.join(WHOLE)
    }

    /// Removes the states of a stream of all layers but those in one file, and but those that a run
    /// needs that goes on at `finished`.
    pub(super) fn remove_states_but(
        &self,
        stream: &str,
        kept: &Path,
        finished: usize,
    ) -> Result<(), CollectError> {
        self.remove_if(|name| {
            let layer = number(name, &format!("{stream}-"), ".f32");
            layer.is_some_and(|layer| layer != finished) && self.path.join(name) != kept
        })
    }

    /// Removes the folder and what is its own in it.
    pub(super) fn remove(self) -> Result<(), CollectError> {
        // States first: without them the folder is that of a run that has just begun. The record last:
        // until then it is known which run's.
        self.remove_if(|name| number(name, "states-", ".f32").is_some())?;
        self.remove_if(|name| is_own(name) && name != RECORD)?;
        self.remove_if(|name| name == RECORD)?;
        fs::remove_dir(&self.path).map_err(CollectError::io("remove", &self.path))
    }

    /// Removes files that a process was writing when it ended.
    fn remove_unfinished(&self) -> Result<(), CollectError> {
        self.remove_if(|name| is_own(name) && name.ends_with(PART))
    }

    fn remove_if(&self, which: impl Fn(&str) -> bool) -> Result<(), CollectError> {
        for name in self.names()?.iter().filter(|name| which(name)) {
            let path = self.path.join(name);
            fs::remove_file(&path).map_err(CollectError::io("remove", &path))?;
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>, CollectError> {
        names(&self.path)
    }

    /// Compares what the run is of with what the folder says, or writes it there.
    fn compare(&self, expected: &Value) -> Result<(), CollectError> {
        let path = self.path.join(RECORD);
        let mut text = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(LONGEST_RECORD + 1).read_to_end(&mut text));
        match read {
            Ok(_) if u64::try_from(text.len()).is_ok_and(|length| length > LONGEST_RECORD) => {
                let what = format!("has more than the {LONGEST_RECORD} bytes it may have");
                return Err(CollectError::Damaged { path, what });
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let temporary = self.path.join(format!("{RECORD}{PART}"));
                let written = fs::write(&temporary, format!("{expected:#}\n"))
                    .and_then(|()| File::open(&temporary)?.sync_all());
                written.map_err(CollectError::io("write", &temporary))?;
                return replace(&temporary, &path);
            }
            Err(error) => return Err(CollectError::io("read", &path)(error)),
        }
        let found: Value = serde_json::from_slice(&text).map_err(|error| {
            CollectError::Damaged { path, what: format!("is malformed: {error}") }
        })?;
        let mut differences = Vec::new();
        differ("", &found, expected, &mut differences);
        if differences.is_empty() {
            return Ok(());
        }
        Err(CollectError::OtherRun { path: self.path.clone(), differences })
    }
}

/// What a run is of.
fn record(collection: &Collection<'_>) -> Value {
    let mut tokens = Sha256::new();
    for token in collection.chunks.iter().flatten() {
        tokens.update(token.to_le_bytes());
    }
    let digest = tokens.finalize();
    let digest = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let provenance = serde_json::to_value(&collection.provenance).unwrap_or_default();
    let mut record = Map::new();
    record.insert("layout".to_owned(), LAYOUT.into());
    record.insert("tokens_sha256".to_owned(), digest.into());
    record.insert("run".to_owned(), provenance);
    record.into()
}

/// Lists what differs, by name.
fn differ(name: &str, found: &Value, expected: &Value, differences: &mut Vec<String>) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            for (key, expected) in expected {
                let found = found.get(key).unwrap_or(&Value::Null);
                differ(key, found, expected, differences);
            }
        }
        _ if found == expected => {}
        (Value::Array(_) | Value::Null, _) | (_, Value::Array(_) | Value::Null) => {
            differences.push(format!("its `{name}` is another"));
        }
        _ => differences.push(format!("its `{name}` is {found}, not {expected}")),
    }
}

/// Whether a folder holds nothing but what a run leaves in one.
fn is_work_folder(path: &Path) -> Result<bool, CollectError> {
    Ok(names(path)?.iter().all(|name| is_own(name)))
}

/// Whether a file of that name is a run's.
fn is_own(name: &str) -> bool {
    let stem = name.strip_suffix(PART).unwrap_or(name);
    [RECORD, LOCK, WHOLE].contains(&stem)
        || number(stem, "inputs-", ".safetensors").is_some()
        || number(stem, "states-", ".f32").is_some()
        || number(stem, "reference-", ".f32").is_some()
        // Of files of statistics that are being written.
        || (name.starts_with(".tessera-") && name.ends_with(PART))
}

/// The number between what a name begins and ends with.
fn number(name: &str, prefix: &str, suffix: &str) -> Option<usize> {
    name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
}

/// Names of files; one that is no text is none of a run's.
fn names(folder: &Path) -> Result<Vec<String>, CollectError> {
    let entries = fs::read_dir(folder).map_err(CollectError::io("read", folder))?;
    let name = |entry: Result<fs::DirEntry, _>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    entries.map(name).collect::<Result<_, _>>().map_err(CollectError::io("read", folder))
}

/// Renames a file that is synced, and syncs the folder that it comes to stand in.
pub(super) fn replace(from: &Path, to: &Path) -> Result<(), CollectError> {
    fs::rename(from, to).map_err(CollectError::io("rename to", to))?;
    let folder = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(CollectError::io("sync", folder))
}
