//! The check of a pack: against itself, and against its source.

mod linear;
mod report;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use tessera_formats::escape::Escaped;
use tessera_formats::gguf::Gguf;
use tessera_formats::pack::manifest::Carried;
use tessera_formats::pack::{PackReader, names};
use tessera_runtime::golden::GoldenInputs;

pub use self::report::Report;
use crate::hash::{hash_file, hash_tensor, hex};

/// What is to be checked.
pub struct Request<'a> {
    /// The pack.
    pub pack: &'a Path,
    /// The GGUF it was made from.
    pub source: Option<&'a Path>,
    /// Whether another GGUF of the same model may stand in for it.
    pub any_source: bool,
}

/// Checks a pack. An error means that it could not be read at all; what is wrong with a readable
/// pack is in the report.
pub fn verify(request: &Request<'_>) -> anyhow::Result<Report> {
    let pack = PackReader::open(request.pack)?;
    let source = request.source.map(Gguf::open).transpose()?;
    let mut report = Report::new(request.pack, request.source);
    if let Some(source) = &source
        && !request.any_source
    {
        check_sources(&pack, source, &mut report)?;
    }
    check_domains(&pack, &mut report)?;
    let golden = golden_inputs(&pack)?;
    for linear in pack.linears() {
        let source = source.as_ref().map(|source| (source, request.any_source));
        linear::check(&pack, linear, source, golden.as_ref(), &mut report)
            .with_context(|| format!("`{}`", Escaped(&linear.name)))?;
    }
    for shard in pack.shards() {
        for (tensor, digest) in &shard.manifest().digests {
            if pack.hash_tensor(tensor)? != *digest {
                report.problem(tensor, "its bytes do not have the recorded SHA-256");
            }
        }
    }
    for carried in pack.carried() {
        if pack.hash_tensor(&carried.name)? != carried.sha256 {
            report.problem(&carried.name, "its bytes do not have the recorded SHA-256");
        }
        if let Some(source) = &source {
            check_carried(source, carried, request.any_source, &mut report)?;
        }
    }
    Ok(report.finish())
}

/// The rows of golden vectors, if the pack has them.
fn golden_inputs(pack: &PackReader) -> anyhow::Result<Option<GoldenInputs>> {
    if pack.tensor_info(names::GOLDEN_INPUTS).is_none() {
        return Ok(None);
    }
    let bytes = pack.read_tensor(names::GOLDEN_INPUTS, u64::MAX)?;
    Ok(Some(GoldenInputs::from_bytes(&bytes)?))
}

/// Holds the IOMMU domains against the target's capacity, which not every reader needs to.
fn check_domains(pack: &PackReader, report: &mut Report) -> anyhow::Result<()> {
    let manifest = pack.manifest(0).context("the pack has no shard")?;
    let capacity = manifest.target.domain_capacity;
    for (domain, &bytes) in manifest.memory.domain_bytes.iter().enumerate() {
        if bytes > capacity {
            report.problem(
                "memory",
                &format!("domain {domain} has {bytes} bytes of tiles and room for {capacity}"),
            );
        }
    }
    Ok(())
}

/// Compares the digests of the source's files with the recorded ones.
fn check_sources(pack: &PackReader, source: &Gguf, report: &mut Report) -> anyhow::Result<()> {
    let manifest = pack.manifest(0).context("the pack has no shard")?;
    let recorded: Vec<_> = manifest.sources.iter().map(|source| source.sha256.clone()).collect();
    let found = source
        .shards()
        .iter()
        .map(|shard| hash_file(shard.path(), &AtomicBool::new(false)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if recorded != found {
        report.problem(
            "source",
            "the pack was made from another file: its SHA-256 is not the recorded one \
             (`--any-source` compares all the same)",
        );
    }
    Ok(())
}

/// Compares a carried tensor with the source's.
fn check_carried(
    source: &Gguf,
    carried: &Carried,
    any_source: bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    let Some(tensor) = source.tensor(&carried.name) else {
        report.problem(&carried.name, "the source has no such tensor");
        return Ok(());
    };
    let shape: Vec<u64> = tensor.dims.iter().rev().copied().collect();
    if shape != carried.shape {
        report.problem(
            &carried.name,
            &format!("its shape is {:?}, and {shape:?} in the source", carried.shape),
        );
    } else if tensor.ggml_type.name() != carried.ggml_type {
        if !any_source {
            report.problem(&carried.name, "its type is not the source's");
        }
    } else if !any_source && hex(&hash_tensor(source, tensor, |_, _| Ok(()))?) != carried.sha256 {
        report.problem(&carried.name, "its bytes are not the source's");
    }
    Ok(())
}
