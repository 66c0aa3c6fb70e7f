//! Pools of worker threads.

use std::error::Error as _;
use std::io;

use anyhow::{Context, anyhow};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// A pool of so many threads, whatever the environment says of threads.
pub fn pool(threads: usize) -> anyhow::Result<ThreadPool> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    // Its text is that of the error at its root, which tells what the environment lacks.
    pool.map_err(|error| match error.source().and_then(|root| root.downcast_ref::<io::Error>()) {
        Some(root) => anyhow!(io::Error::from(root.kind())),
        None => anyhow!(error),
    })
    .with_context(|| format!("{threads} worker threads cannot be started"))
}
