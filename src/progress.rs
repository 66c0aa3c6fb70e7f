//! Progress on stderr: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use crate::size;
use crate::talk::say;

/// Progress through a known number of bytes.
pub struct Progress {
    bar: ProgressBar,
    total: u64,
    done: AtomicU64,
    tenths: AtomicU64,
    started: Instant,
    plain: bool,
    verb: &'static str,
}

impl Progress {
    /// Starts at 0 of `total` bytes; `verb` says what is being done.
    pub fn start(verb: &'static str, total: u64) -> Self {
        let plain = !std::io::stderr().is_terminal();
        let bar = if plain { ProgressBar::hidden() } else { ProgressBar::new(total) };
        let template = "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} \
                        {binary_bytes_per_sec} {eta} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(verb);
        Progress {
            bar,
            total,
            done: AtomicU64::new(0),
            tenths: AtomicU64::new(0),
            started: Instant::now(),
            plain,
            verb,
        }
    }

    /// Starts at 0 of steps whose number is told with the first of them.
    pub fn of_steps(verb: &'static str) -> Self {
        let progress = Self::start(verb, 0);
        let template = "{prefix} {wide_bar} {percent} % {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            progress.bar.set_style(style);
        }
        progress
    }

    /// So much is done of `total` steps.
    pub fn set(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
        if !self.plain || total == 0 {
            return;
        }
        let tenths = done.saturating_mul(10) / total;
        let seconds = self.started.elapsed().as_secs();
        if self.tenths.fetch_max(tenths, Ordering::Relaxed) < tenths && seconds > 0 {
            let left =
                u128::from(seconds) * u128::from(total - done.min(total)) / u128::from(done.max(1));
            say(format_args!("{} {} % ({left} s left)", self.verb, tenths * 10));
        }
    }

    /// Progress that no one sees.
    pub fn silent() -> Self {
        Progress {
            bar: ProgressBar::hidden(),
            total: 0,
            done: AtomicU64::new(0),
            tenths: AtomicU64::new(0),
            started: Instant::now(),
            plain: false,
            verb: "",
        }
    }

    /// Names what is being worked on.
    pub fn name(&self, name: &str) {
        if !self.plain {
            self.bar.set_message(name.to_owned());
        }
    }

    /// Counts `bytes` more as done.
    pub fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.plain && self.total > 0 {
            let tenths = done.saturating_mul(10) / self.total;
            if self.tenths.fetch_max(tenths, Ordering::Relaxed) < tenths {
                self.line(done, tenths);
            }
        }
    }

    /// Takes back bytes of work that begins again.
    pub fn retract(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
        self.bar.set_position(self.done.load(Ordering::Relaxed));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self, done: u64, tenths: u64) {
        let seconds = self.started.elapsed();
        // Tools that keep logs need no line for work that is over at once.
        if seconds.as_secs() == 0 {
            return;
        }
        let rate = u128::from(done) * 1000 / seconds.as_millis().max(1);
        let left = u128::from(self.total.saturating_sub(done)) / rate.max(1);
        say(format_args!(
            "{} {} % ({} of {}, {}/s, {left} s left)",
            self.verb,
            tenths * 10,
            size::show(done),
            size::show(self.total),
            size::show(u64::try_from(rate).unwrap_or(u64::MAX)),
        ));
    }
}

/// Largest resident set of this process so far, in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
