//! The hidden states of all chunks, between two layers: in memory, or in a file.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::work::{WorkFolder, replace};
use super::{CollectError, Collection};

/// Values that are encoded or decoded at a time.
const PIECE: usize = 1 << 18;

/// Hidden states `[tokens, width]`, f32. What the first layer reads is not stored: it is the
/// embedding.
pub(super) struct States<'a> {
    collection: &'a Collection<'a>,
    /// What its files are called.
    stream: &'static str,
    /// Values of a chunk.
    chunk: usize,
    /// Those of all chunks, if they are in memory; of the next layer as far as they are known.
    memory: Option<Vec<f32>>,
    /// Where they are read from.
    current: Current,
    /// Where those of the next layer are written to.
    next: Option<NextFile>,
}

enum Current {
    Embedding,
    Memory,
    File(File, PathBuf),
}

/// A file that is being written under a temporary name.
struct NextFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl<'a> States<'a> {
    /// Those that the first layer reads.
    pub(super) fn embedded(
        collection: &'a Collection<'a>,
        stream: &'static str,
        in_memory: bool,
    ) -> Self {
        let chunk =
            collection.chunks.first().map_or(0, Vec::len) * collection.decoder.model().width;
        let memory = in_memory.then(|| vec![0.0; chunk * collection.chunks.len()]);
        States { collection, stream, chunk, memory, current: Current::Embedding, next: None }
    }

    /// Those that layer `index` reads, from the work folder.
    pub(super) fn load(&mut self, work: &WorkFolder, index: usize) -> Result<(), CollectError> {
        if index == 0 {
            return Ok(());
        }
        let path = work.states(self.stream, index);
        let file = File::open(&path).map_err(CollectError::io("open", &path))?;
        let found = file.metadata().map_err(CollectError::io("read", &path))?.len();
        let expected = offset(self.chunk, self.collection.chunks.len());
        if found != expected {
            let what = format!("has {found} bytes, expected {expected}");
            return Err(CollectError::Damaged { path, what });
        }
        self.current = match &mut self.memory {
            Some(memory) => {
                read(&file, &path, 0, memory)?;
                Current::Memory
            }
            None => Current::File(file, path),
        };
        Ok(())
    }

    /// Those of some chunks.
    pub(super) fn of(&self, chunks: Range<usize>) -> Result<Vec<f32>, CollectError> {
        match (&self.current, &self.memory) {
            (Current::Embedding, _) => {
                let tokens = self.collection.chunks[chunks].concat();
                let embedded = self.collection.decoder.embed(&tokens);
                embedded.map_err(|source| CollectError::Model { layer: None, source })
            }
            (Current::File(file, path), _) => {
                let mut values = vec![0.0; chunks.len() * self.chunk];
                read(file, path, offset(self.chunk, chunks.start), &mut values)?;
                Ok(values)
            }
            (Current::Memory, memory) => {
                let memory = memory.as_deref().unwrap_or_default();
                Ok(memory[chunks.start * self.chunk..chunks.end * self.chunk].to_vec())
            }
        }
    }

    /// Begins those that layer `index` will read.
    pub(super) fn begin(
        &mut self,
        work: Option<&WorkFolder>,
        index: usize,
    ) -> Result<(), CollectError> {
        let Some(work) = work else { return Ok(()) };
        let path = work.states(self.stream, index);
        let temporary = path.with_extension("f32.part");
        let file = File::create(&temporary).map_err(CollectError::io("create", &temporary))?;
        self.next = Some(NextFile { file, temporary, path });
        Ok(())
    }

    /// Those of the chunks from `first` on, after the layer. They replace those before it.
    pub(super) fn put(&mut self, first: usize, values: &[f32]) -> Result<(), CollectError> {
        if let Some(memory) = &mut self.memory {
            let start = first * self.chunk;
            memory[start..start + values.len()].copy_from_slice(values);
        }
        if let Some(NextFile { file, temporary, .. }) = &self.next {
            let mut at = offset(self.chunk, first);
            for piece in values.chunks(PIECE) {
                let bytes: Vec<u8> = piece.iter().flat_map(|value| value.to_le_bytes()).collect();
                let written = file.write_all_at(&bytes, at);
                written.map_err(CollectError::io("write", temporary))?;
                at += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// Removes the states of layers before `index`.
    pub(super) fn remove_old(&self, work: &WorkFolder, index: usize) -> Result<(), CollectError> {
        work.remove_states_but(self.stream, &work.states(self.stream, index), index)
    }

    /// Passes on to the states of the next layer, all of which were put. In a work folder they are on
    /// the disk then.
    pub(super) fn advance(
        &mut self,
        work: Option<&WorkFolder>,
        finished: usize,
    ) -> Result<(), CollectError> {
        self.current = Current::Memory;
        let Some((NextFile { file, temporary, path }, work)) = self.next.take().zip(work) else {
            return Ok(());
        };
        file.sync_all().map_err(CollectError::io("write", &temporary))?;
        replace(&temporary, &path)?;
        work.remove_states_but(self.stream, &path, finished)?;
        if self.memory.is_none() {
            let file = File::open(&path).map_err(CollectError::io("open", &path))?;
            self.current = Current::File(file, path);
        }
        Ok(())
    }
}

/// First byte of a chunk of so many values.
fn offset(values: usize, chunk: usize) -> u64 {
    (values as u64).saturating_mul(chunk as u64).saturating_mul(size_of::<f32>() as u64)
}

fn read(file: &File, path: &Path, mut at: u64, out: &mut [f32]) -> Result<(), CollectError> {
    let mut bytes = Vec::new();
    for piece in out.chunks_mut(PIECE) {
        bytes.resize(size_of_val(piece), 0);
        file.read_exact_at(&mut bytes, at).map_err(CollectError::io("read", path))?;
        for (value, bytes) in piece.iter_mut().zip(bytes.as_chunks().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        at += bytes.len() as u64;
    }
    Ok(())
}
