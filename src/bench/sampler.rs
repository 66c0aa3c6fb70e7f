//! A thread that reads sensors while a test runs.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;

use super::sensors::Recording;
use crate::doctor::System;

/// Time between two readings.
const INTERVAL: Duration = Duration::from_millis(100);

/// A thread that reads sensors. It ends with this, too.
pub struct Sampler {
    stop: Sender<()>,
    thread: JoinHandle<Recording>,
}

impl Sampler {
    /// Begins to read the sensors of a system.
    pub fn start(system: &System) -> anyhow::Result<Self> {
        let mut recording = Recording::new(system);
        let (stop, stopped) = channel();
        let read = move || {
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                recording.sample();
            }
            // A short test has one reading, at its end.
            recording.sample();
            recording
        };
        let thread = thread::Builder::new().name("sensors".to_owned()).spawn(read);
        Ok(Sampler { stop, thread: thread.context("a thread for sensors")? })
    }

    /// Reads them once more, and gives what was read.
    pub fn finish(self) -> Recording {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
