//! The finished shards of a pack that is not whole yet, and going on with them.
//!
//! They wait in the folder `NAME.safetensors.partial` beside the pack's place:
//!
//! | file | content |
//! |---|---|
//! | `run.json` | what is converted, how and by what version: compared before a run goes on |
//! | `lock` | locked by the process that works here |
//! | `NAME-00003-of-00007.safetensors` | a finished shard, under the name that it will have |
//! | `finished-00003.json` | its header's hash, and what the summary says of its linears |
//!
//! A shard's record is written first: a shard that is here is finished. When all are, each moves to its
//! place, then the index is written, then the folder goes. Records stay until then, so that a run that
//! ended in between knows which shards stand in their places already.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tessera_formats::escape::escaped_path;
use tessera_formats::pack::manifest::{Manifest, Source};
use tessera_formats::pack::{FinishedShard, SealedShard};
use tessera_formats::temporary::{self, TemporaryFile};

use super::shards::ShardPlan;
use super::write::WrittenLinear;

/// Version of the folder's layout.
const LAYOUT: u32 = 1;

/// Largest record that is read, in bytes: that of a shard of a hundred thousand linears has less.
const LARGEST_RECORD: u64 = 64 << 20;

const RUN: &str = "run.json";
const LOCK: &str = "lock";
const ENDING: &str = ".partial";

/// What is known of a finished shard beside its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// SHA-256 of its header, hexadecimal.
    header_sha256: String,
    /// Its linears, for the summary.
    linears: Vec<WrittenLinear>,
}

/// A shard that need not be made again.
pub struct Finished {
    /// The file, in the folder or in its place.
    pub shard: FinishedShard,
    /// What its header says.
    pub manifest: Manifest,
    /// Its linears, for the summary.
    pub linears: Vec<WrittenLinear>,
}

/// What a run is of. Two that are equal make the same shards.
pub struct Run(Value);

impl Run {
    /// Of the manifest that all shards share, and of what stands in each. Hashes of the sources are not
    /// in it: they stand in the shards, and are compared with those.
    pub fn new(common: &Manifest, shards: &[ShardPlan]) -> anyhow::Result<Self> {
        Ok(Run(serde_json::json!({
            "layout": LAYOUT,
            "manifest": serde_json::to_value(common)?,
            "shards": serde_json::to_value(shards)?,
        })))
    }
}

/// The folder of a pack of several files, made when its first shard is finished.
pub struct PartialPack<'a> {
    path: PathBuf,
    places: &'a [PathBuf],
    run: Run,
    /// Unlocked when it is closed; absent while there is no folder.
    lock: Option<File>,
}

impl<'a> PartialPack<'a> {
    /// Takes up what an earlier run left, if it left something. `places` is where the shards will stand.
    ///
    /// # Errors
    ///
    /// If shards of an earlier run are there and `resume` is not asked for, if the run was another, or
    /// if another process works there.
    pub fn open(
        output: &Path,
        places: &'a [PathBuf],
        run: Run,
        resume: bool,
    ) -> anyhow::Result<Self> {
        let mut folder = PartialPack { path: folder(output), places, run, lock: None };
        let path = escaped_path(&folder.path);
        let kind = match folder.path.symlink_metadata() {
            Ok(kind) => kind,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(folder),
            Err(error) => return Err(error).with_context(|| format!("`{path}`")),
        };
        let own = kind.is_dir() && folder.is_own()?;
        ensure!(
            own,
            "`{path}` is in the way: it is not what an unfinished conversion of this pack left; move or \
             remove it",
        );
        folder.take_lock()?;
        if !folder.path.join(RUN).exists() && folder.records()?.is_empty() {
            // Its process ended before anything was in it.
            return Ok(folder);
        }
        ensure!(
            resume,
            "`{path}` has finished shards of a conversion that was interrupted: go on with it by \
             `--resume`, or remove the folder to start anew",
        );
        folder.compare()?;
        Ok(folder)
    }

    /// Places of shards that this run put there before it was interrupted.
    pub fn placed(&self) -> anyhow::Result<Vec<&'a Path>> {
        let mut placed = Vec::new();
        for index in self.records()? {
            if let Some(place) = self.places.get(index)
                && place.exists()
                && self.record(index)?.is_some_and(|record| is_header_of(place, &record))
            {
                placed.push(place.as_path());
            }
        }
        Ok(placed)
    }

    /// Number of shards that are finished, as far as records say.
    pub fn count_finished(&self) -> anyhow::Result<usize> {
        Ok(self.records()?.len())
    }

    /// A shard that is finished, all of whose bytes are those that were written; it must have been made
    /// from `sources`.
    pub fn finished(&self, index: usize, sources: &[Source]) -> anyhow::Result<Option<Finished>> {
        if self.lock.is_none() {
            return Ok(None);
        }
        let Some(record) = self.record(index)? else { return Ok(None) };
        let waiting = self.waiting(index);
        let place = self.places.get(index).map_or(waiting.as_path(), PathBuf::as_path);
        // Where a file system moves by linking, an interrupted move leaves both.
        let path = if place.exists() && is_header_of(place, &record) {
            place
        } else if waiting.exists() {
            waiting.as_path()
        } else {
            // Its process ended before the shard was in the folder.
            return Ok(None);
        };
        let (shard, manifest) = FinishedShard::reopen(path, &record.header_sha256)
            .with_context(|| format!("remove `{}` to start anew", escaped_path(&self.path)))?;
        ensure!(
            manifest.sources == sources,
            "the model is not the one that `{}` was begun with: its SHA-256 differs; convert that one, or \
             remove the folder to start anew",
            escaped_path(&self.path),
        );
        Ok(Some(Finished { shard, manifest, linears: record.linears }))
    }

    /// Keeps a shard, which is then finished.
    pub fn keep(
        &mut self,
        index: usize,
        sealed: SealedShard,
        linears: &[WrittenLinear],
    ) -> anyhow::Result<FinishedShard> {
        if self.lock.is_none() {
            match fs::create_dir(&self.path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("`{}`", escaped_path(&self.path)));
                }
                _ => self.take_lock()?,
            }
        }
        if !self.path.join(RUN).exists() {
            self.write_json(RUN, &self.run.0)?;
        }
        let record =
            Record { header_sha256: sealed.header_sha256().to_owned(), linears: linears.to_vec() };
        self.write_json(&record_name(index), &record)?;
        Ok(sealed.set_aside(&self.waiting(index))?)
    }

    /// Removes the folder: all shards are in their places.
    pub fn remove(self) -> anyhow::Result<()> {
        if self.lock.is_none() {
            return Ok(());
        }
        let waiting: Vec<_> = (0..self.places.len()).map(|index| self.waiting(index)).collect();
        let names = self.names()?;
        let foreign = names.iter().map(|name| self.path.join(name)).filter(|path| {
            !waiting.contains(path)
                && !path.file_name().is_some_and(|name| is_record(&name.to_string_lossy()))
        });
        ensure!(
            foreign.count() == 0,
            "the pack is complete, and `{}` holds files that are not of its conversion: look at them and \
             remove the folder",
            escaped_path(&self.path),
        );
        // In one step, so that no run finds a folder that lacks something.
        let place = self.places.first().map_or(self.path.as_path(), PathBuf::as_path);
        temporary::discard_folder(&self.path, place)
            .with_context(|| format!("`{}`", escaped_path(&self.path)))?;
        Ok(temporary::sync_folder(temporary::folder(&self.path))?)
    }

    /// Where a finished shard waits.
    fn waiting(&self, index: usize) -> PathBuf {
        let name = self.places.get(index).and_then(|place| place.file_name()).unwrap_or_default();
        self.path.join(name)
    }

    fn take_lock(&mut self) -> anyhow::Result<()> {
        let path = self.path.join(LOCK);
        let context = || format!("`{}`", escaped_path(&path));
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(context)?;
        match file.try_lock() {
            Ok(()) => {}
            // Some file systems of networks have no locks.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(error).with_context(context),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another process converts into `{}`: wait until it has ended",
                    escaped_path(&self.path)
                )
            }
        }
        self.lock = Some(file);
        Ok(())
    }

    /// Compares what the run is of with what the folder says.
    fn compare(&self) -> anyhow::Result<()> {
        let found: Value = self
            .read_json(RUN)?
            .with_context(|| format!("`{}` is missing", escaped_path(self.path.join(RUN))))?;
        let fields = [
            ("the version of tessera", "/manifest/tool"),
            ("the model", "/manifest/sources"),
            ("the model", "/manifest/model"),
            ("the target", "/manifest/target"),
            ("the recipe", "/manifest/recipe"),
            ("the seed", "/manifest/seed"),
            ("the calibration", "/manifest/calibration"),
            ("the division among files", "/shards"),
        ];
        let differs = |pointer: &str| found.pointer(pointer) != self.run.0.pointer(pointer);
        let what = fields.into_iter().find(|(_, pointer)| differs(pointer));
        if found == self.run.0 {
            return Ok(());
        }
        bail!(
            "`{}` is that of another conversion ({} differs): go on with the options it was begun with, \
             or remove the folder to start anew",
            escaped_path(&self.path),
            what.map_or("its layout", |(name, _)| name),
        )
    }

    /// Numbers, from 0, of shards that have a record.
    fn records(&self) -> anyhow::Result<Vec<usize>> {
        let mut numbers: Vec<_> =
            self.names_if_any()?.iter().filter_map(|name| record_number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn record(&self, index: usize) -> anyhow::Result<Option<Record>> {
        self.read_json(&record_name(index))
    }

    fn read_json<T: for<'d> Deserialize<'d>>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let path = self.path.join(name);
        let context = || format!("`{}`", escaped_path(&path));
        let bytes = match fs::symlink_metadata(&path) {
            Ok(kind) => {
                ensure!(
                    kind.is_file() && kind.len() <= LARGEST_RECORD,
                    "`{}` is not a file of at most {LARGEST_RECORD} bytes: remove `{}` to start anew",
                    escaped_path(&path),
                    escaped_path(&self.path),
                );
                fs::read(&path).with_context(context)?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(context),
        };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).with_context(|| {
            format!(
                "`{}` is damaged: remove `{}` to start anew",
                escaped_path(&path),
                escaped_path(&self.path)
            )
        })
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        let path = self.path.join(name);
        let context = || format!("`{}`", escaped_path(&path));
        let mut file = TemporaryFile::beside(&path).with_context(context)?;
        let mut text = serde_json::to_vec_pretty(value)?;
        text.push(b'\n');
        file.write_all(&text).with_context(context)?;
        Ok(file.place(&path, true)?)
    }

    fn names_if_any(&self) -> anyhow::Result<Vec<String>> {
        self.lock.as_ref().map_or(Ok(Vec::new()), |_| self.names())
    }

    /// Whether there is nothing but what runs leave: regular files, because a link would come to stand
    /// in the pack's place, and opening a pipe waits.
    fn is_own(&self) -> anyhow::Result<bool> {
        let context = || format!("`{}`", escaped_path(&self.path));
        for entry in fs::read_dir(&self.path).with_context(context)? {
            let entry = entry.with_context(context)?;
            let is_file = entry.file_type().with_context(context)?.is_file();
            if !is_file || !is_own(&entry.file_name().to_string_lossy()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Names of files; one that is no text is none of a run's.
    fn names(&self) -> anyhow::Result<Vec<String>> {
        let context = || format!("`{}`", escaped_path(&self.path));
        fs::read_dir(&self.path)
            .with_context(context)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()
            .with_context(context)
    }
}

/// Whether a file of that name is one that runs leave.
fn is_own(name: &str) -> bool {
    // Shards of a run that divided the pack otherwise too: `compare` tells so.
    name.ends_with(".safetensors") || is_record(name)
}

/// Whether a file of that name is one that serves the run alone.
fn is_record(name: &str) -> bool {
    [RUN, LOCK].contains(&name) || record_number(name).is_some() || temporary::is_temporary(name)
}

/// The folder of a pack's finished shards.
fn folder(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(ENDING);
    output.with_file_name(name)
}

/// Whether an interrupted conversion left something.
pub fn exists(output: &Path) -> bool {
    folder(output).is_dir()
}

/// Adds to the error of a conversion that some of its shards are kept.
pub fn kept(output: &Path, error: anyhow::Error) -> anyhow::Error {
    let kept = fs::read_dir(folder(output)).is_ok_and(|entries| {
        entries.flatten().any(|entry| record_number(&entry.file_name().to_string_lossy()).is_some())
    });
    match kept {
        true => error.context("finished files are kept, to go on with by `--resume`"),
        false => error,
    }
}

fn record_name(index: usize) -> String {
    format!("finished-{:05}.json", index + 1)
}

fn record_number(name: &str) -> Option<usize> {
    let number: usize = name.strip_prefix("finished-")?.strip_suffix(".json")?.parse().ok()?;
    number.checked_sub(1)
}

/// Whether a file begins with the header of a record, whatever follows it.
fn is_header_of(path: &Path, record: &Record) -> bool {
    FinishedShard::hash_header(path).is_ok_and(|found| found == record.header_sha256)
}
