//! Loads a pack's tiles through the stand-in for librknnrt and says how fast: `load_pack PACK LIBRARY`.
//!
//! The peer is `cat PACK > /dev/null`, which reads the same bytes and keeps none of them. With
//! `RKNN_STAND_IN_RESIDENT=1` arenas have their pages before they are filled, as a driver's memory has.

#![allow(clippy::print_stdout, reason = "an example talks")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use tessera_formats::pack::PackReader;
use tessera_runtime::rknn::{Kind, LoadOptions, LoadedWeights, Npu, open};

/// Most memory that the process has had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kilobytes.unwrap_or(0u64) * 1024
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pack, library] = &arguments[..] else { return Err("load_pack PACK LIBRARY".into()) };
    let (library, lock) = open(Kind::StandIn, Some(Path::new(library)))?;
    let npu = Npu::start(library, lock, 3)?;
    let pack = PackReader::open(Path::new(pack))?;
    let before = peak_memory();
    let started = Instant::now();
    let loaded = LoadedWeights::load(&npu, &pack, LoadOptions::default(), &|_| {})?;
    let whole = started.elapsed().as_secs_f64();
    let bytes = loaded.bytes() as f64;
    println!("tiles            {:.3} GB", bytes / 1e9);
    println!("loaded           {whole:.3} s, {:.2} GB/s", bytes / whole / 1e9);
    println!(
        "read             {:.3} s, {:.2} GB/s",
        loaded.reading().as_secs_f64(),
        bytes / loaded.reading().as_secs_f64() / 1e9
    );
    println!("memory before    {:.1} MiB", before as f64 / 1048576.0);
    println!("peak memory      {:.1} MiB", peak_memory() as f64 / 1048576.0);
    println!("arenas           {:.1} MiB", bytes / 1048576.0);
    Ok(())
}
