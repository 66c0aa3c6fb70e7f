//! What a signal that ends the process leaves: nothing that is half written.

use std::fs;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use tessera_formats::temporary;

use crate::talk::say;

/// From now on, a signal that ends the process removes its temporary files first. Signals that the
/// process was started to ignore, as under `nohup`, stay ignored.
pub fn clean_up_when_interrupted() {
    let ignored = fs::read_to_string("/proc/self/status").ok().and_then(|status| mask(&status));
    let heeded = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| {
        ignored.is_none_or(|mask| !signals(mask).any(|ignored| ignored == signal))
    });
    // Without the handler a signal ends the process all the same: the next run removes what it left.
    let Ok(mut signals) = Signals::new(heeded) else { return };
    let _ = thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            temporary::remove_all();
            say(format_args!("interrupted: no half-written file is left"));
            let _ = emulate_default_handler(signal);
        }
    });
}

/// The signals that are ignored, as bits from that of signal 1 on, of `/proc/PID/status`.
fn mask(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn signals(mask: u64) -> impl Iterator<Item = i32> {
    (1..=64).filter(move |signal| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "Name:\ttessera\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\n";
        let ignored: Vec<_> = signals(mask(status).unwrap()).collect();
        assert_eq!(ignored, [SIGHUP, SIGINT, 13]);
        assert_eq!(mask("Name:\ttessera\n"), None);
    }
}
