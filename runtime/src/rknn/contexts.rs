//! Matmuls of one core, kept for the next linear of the same shape, on a thread of the core's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use super::{Core, Library, Matmul, Operand, RknnError, Shape};

/// Most matmuls that a core keeps: each has two file descriptors, and the library some of its own.
const MOST: usize = 64;

/// Most bytes of activations and results that a core's matmuls have together.
const MOST_BYTES: u64 = 32 << 20;

/// Matmuls of a core by shape. Those that were not used for longest go first.
pub(super) struct Contexts {
    library: Arc<Library>,
    core: Core,
    matmuls: HashMap<Shape, Kept>,
    bytes: u64,
    uses: u64,
}

struct Kept {
    matmul: Matmul,
    last_use: u64,
}

/// Bytes of memory that a matmul of a shape has.
pub(super) fn buffer_bytes(shape: Shape) -> u64 {
    shape.bytes(Operand::A).saturating_add(shape.bytes(Operand::C))
}

impl Contexts {
    fn new(library: Arc<Library>, core: Core) -> Self {
        Contexts { library, core, matmuls: HashMap::new(), bytes: 0, uses: 0 }
    }

    /// The matmul of a shape, made if it is not there.
    pub(super) fn matmul(&mut self, shape: Shape) -> Result<&mut Matmul, RknnError> {
        self.uses += 1;
        if !self.matmuls.contains_key(&shape) {
            let bytes = buffer_bytes(shape);
            while !self.matmuls.is_empty()
                && (self.matmuls.len() >= MOST || self.bytes + bytes > MOST_BYTES)
            {
                self.drop_oldest();
            }
            let matmul = match Matmul::new(&self.library, shape, self.core) {
                // Memory may be short, or descriptors: what is only kept can go.
                Err(_) if !self.matmuls.is_empty() => {
                    self.matmuls.clear();
                    self.bytes = 0;
                    Matmul::new(&self.library, shape, self.core)?
                }
                made => made?,
            };
            self.bytes += bytes;
            self.matmuls.insert(shape, Kept { matmul, last_use: 0 });
        }
        let uses = self.uses;
        let kept = self.matmuls.get_mut(&shape).map(|kept| {
            kept.last_use = uses;
            &mut kept.matmul
        });
        kept.ok_or(RknnError::CoreLost)
    }

    fn drop_oldest(&mut self) {
        let oldest = self.matmuls.iter().min_by_key(|(_, kept)| kept.last_use);
        let Some(shape) = oldest.map(|(shape, _)| *shape) else { return };
        self.matmuls.remove(&shape);
        self.bytes = self.bytes.saturating_sub(buffer_bytes(shape));
    }
}

type Job = Box<dyn FnOnce(&mut Contexts) + Send>;

/// A core of the NPU with its thread.
pub(super) struct CoreThread {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl CoreThread {
    pub(super) fn start(library: &Arc<Library>, number: usize) -> Result<Self, RknnError> {
        let (jobs, received) = channel::<Job>();
        let mut contexts = Contexts::new(Arc::clone(library), Core::Number(number));
        let thread = thread::Builder::new()
            .name(format!("npu core {number}"))
            .spawn(move || {
                for job in received {
                    job(&mut contexts);
                }
            })
            .map_err(|source| RknnError::Thread { source })?;
        Ok(CoreThread { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Has the core's thread do a job, after those it was given before.
    pub(super) fn give(
        &self,
        job: impl FnOnce(&mut Contexts) + Send + 'static,
    ) -> Result<(), RknnError> {
        let jobs = self.jobs.as_ref().ok_or(RknnError::CoreLost)?;
        jobs.send(Box::new(job)).map_err(|_| RknnError::CoreLost)
    }
}

impl Drop for CoreThread {
    fn drop(&mut self) {
        // The thread ends when no one can give it jobs.
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
