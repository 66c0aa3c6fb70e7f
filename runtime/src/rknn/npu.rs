//! The NPU as linears use it: the library, a thread for each core, memory in each domain.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};

use tessera_formats::npu::Engine;

use super::contexts::{Contexts, CoreThread};
use super::{Arena, Core, Layout, Library, Matmul, NpuLock, RknnError, Shape, Slice};

/// The NPU, driven by this process.
pub struct Npu {
    // Fields are dropped in this order: threads with their contexts before memory, the lock last.
    cores: Vec<CoreThread>,
    /// A small matmul in each domain that is in use: what memory there belongs to.
    domains: Mutex<HashMap<u32, Arc<Matmul>>>,
    library: Arc<Library>,
    submits: AtomicU64,
    versions: [String; 2],
    _lock: Option<NpuLock>,
}

impl fmt::Debug for Npu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Npu")
            .field("library", &self.library)
            .field("versions", &self.versions)
            .finish()
    }
}

impl Npu {
    /// So many cores of the NPU, through a library; the lock is held for as long.
    ///
    /// # Errors
    ///
    /// If the library fails, as it does where there is no NPU.
    pub fn start(
        library: Arc<Library>,
        lock: Option<NpuLock>,
        cores: usize,
    ) -> Result<Arc<Self>, RknnError> {
        let first = Matmul::new(&library, smallest(0), Core::Any)?;
        let versions = first.versions()?;
        let cores = (0..cores.max(1)).map(|number| CoreThread::start(&library, number));
        Ok(Arc::new(Npu {
            cores: cores.collect::<Result<_, _>>()?,
            domains: Mutex::new(HashMap::from([(0, Arc::new(first))])),
            library,
            submits: AtomicU64::new(0),
            versions,
            _lock: lock,
        }))
    }

    /// The library.
    pub fn library(&self) -> &Arc<Library> {
        &self.library
    }

    /// Versions of the library and of the driver, as the library says them.
    pub fn versions(&self) -> &[String; 2] {
        &self.versions
    }

    /// Matmuls that the cores have been given so far.
    pub fn submits(&self) -> u64 {
        self.submits.load(Ordering::Relaxed)
    }

    pub(super) fn count_submits(&self, matmuls: usize) {
        self.submits.fetch_add(matmuls as u64, Ordering::Relaxed);
    }

    /// Cores that are driven.
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// What memory of a domain is made with.
    fn domain(&self, domain: u32) -> Result<Arc<Matmul>, RknnError> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(matmul) = domains.get(&domain) {
            return Ok(Arc::clone(matmul));
        }
        let matmul = Arc::new(Matmul::new(&self.library, smallest(domain), Core::Any)?);
        domains.insert(domain, Arc::clone(&matmul));
        Ok(matmul)
    }

    /// Memory for weights in a domain.
    ///
    /// # Errors
    ///
    /// If the domain, or the board, does not have it.
    pub fn arena(&self, domain: u32, bytes: u64) -> Result<Arena, RknnError> {
        let matmul = self.domain(domain)?;
        Arena::new(&matmul, bytes)
    }

    /// `bytes` from byte `offset` of an arena of a domain.
    ///
    /// # Errors
    ///
    /// If the arena ends before, or the library fails.
    pub fn slice(
        &self,
        domain: u32,
        arena: &Arc<Arena>,
        offset: u64,
        bytes: u64,
    ) -> Result<Slice, RknnError> {
        let matmul = self.domain(domain)?;
        Slice::new(arena, &matmul, offset, bytes)
    }

    /// Has the thread of a core do a job; the receiver gets what it returns.
    pub(super) fn on_core<T: Send + 'static>(
        &self,
        core: usize,
        job: impl FnOnce(&mut Contexts) -> T + Send + 'static,
    ) -> Result<Receiver<T>, RknnError> {
        let (sender, receiver) = channel();
        let thread = self.cores.get(core).ok_or(RknnError::CoreLost)?;
        thread.give(move |contexts| {
            // Whoever asked may have gone.
            let _ = sender.send(job(contexts));
        })?;
        Ok(receiver)
    }
}

/// The smallest matmul there is.
const fn smallest(domain: u32) -> Shape {
    Shape { m: 1, k: 32, n: 32, engine: Engine::I8, layout: Layout::Normal, domain }
}
