//! Memory: what is free, the CMA, swap.

use super::finding::{Check, Finding};
use super::system::System;
use crate::size;

/// Memory for weights.
pub const AVAILABLE: Check = Check {
    id: "memory.available",
    title: "memory",
    why: "weights, the key-value cache and buffers of the NPU stay in memory; `tessera inspect` says how much",
};

/// Memory in one piece.
pub const CMA: Check = Check {
    id: "memory.cma",
    title: "contiguous memory (CMA)",
    why: "only an NPU without its IOMMU takes buffers from it",
};

/// Swap.
pub const SWAP: Check = Check {
    id: "memory.swap",
    title: "swap",
    why: "buffers of the NPU cannot be swapped out; what is swapped already will be slow",
};

/// Memory below which even a small model does not load.
const LEAST: u64 = 1 << 30;

const MEMINFO: &str = "/proc/meminfo";

/// What is to be said of memory.
pub fn findings(system: &System) -> Vec<Finding> {
    let text = match system.text(MEMINFO) {
        Ok(text) => text,
        Err(unread) => {
            return [&AVAILABLE, &CMA, &SWAP].map(|check| check.unread(MEMINFO, &unread)).into();
        }
    };
    let bytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    vec![
        available(bytes("MemAvailable"), bytes("MemTotal")),
        match (bytes("CmaFree"), bytes("CmaTotal")) {
            (Some(free), Some(total)) => CMA.ok(of(free, total)),
            _ => CMA.info(format!("not checked: {MEMINFO} does not tell")),
        },
        swap(bytes("SwapFree"), bytes("SwapTotal")),
    ]
}

fn available(available: Option<u64>, total: Option<u64>) -> Finding {
    let (Some(available), Some(total)) = (available, total) else {
        return AVAILABLE.info(format!("not checked: {MEMINFO} does not tell"));
    };
    let value = of(available, total);
    match available < LEAST {
        true => AVAILABLE.warning(value, "ps aux --sort=-rss | head   # end what needs much of it"),
        false => AVAILABLE.ok(value),
    }
}

fn swap(free: Option<u64>, total: Option<u64>) -> Finding {
    let (Some(free), Some(total)) = (free, total) else {
        return SWAP.info(format!("not checked: {MEMINFO} does not tell"));
    };
    let used = total.saturating_sub(free);
    match total > 0 && used > total / 2 {
        true => SWAP
            .info(format!("{} of {} used", size::show(used), size::show(total)))
            .with_fix("ps aux --sort=-rss | head   # end what needs much memory"),
        false => SWAP.ok(format!("{} of {} used", size::show(used), size::show(total))),
    }
}

/// A part of a whole.
fn of(free: u64, total: u64) -> String {
    format!("{} free of {}", size::show(free), size::show(total))
}
