//! IOMMU domains: how many there are, and how many bytes one gives.

use std::sync::Arc;

use tessera_formats::npu::Engine;
use tessera_formats::npu::probe::{CapacityEnd, DomainCapacity, Domains};
use tessera_runtime::rknn::check::{Operands, Trial, shape};
use tessera_runtime::rknn::{Arena, Core, Kind, Library, RknnError};

use super::Request;
use super::questions::Questions;

/// Domains that are tried at most: one more than the driver has.
const MOST: u32 = 17;

/// Bytes that are asked for at first, and in the end.
const LONGEST_STEP: u64 = 256 << 20;
const SHORTEST_STEP: u64 = 16 << 20;

/// No address of the NPU is beyond.
const ADDRESSES: u64 = 4 << 30;

/// Memory that is left to the rest of the board.
const SPARED: u64 = 1 << 30;

/// Asks.
pub fn ask(request: &Request, questions: &mut Questions) -> Option<Domains> {
    let library = request.library;
    let (working, refused) = questions.ask("domains", || count(library))?;
    let capacity = if request.memory {
        // Not that of all other matmuls.
        let domain = u32::from(working > 1);
        questions.ask("bytes of a domain", || capacity(request, domain))
    } else {
        None
    };
    Some(Domains { working, refused, capacity })
}

/// Domains that work, and what the first that does not says.
fn count(library: &Arc<Library>) -> Result<(u32, Option<String>), RknnError> {
    for domain in 0..MOST {
        let operands = Operands::random(shape(Engine::I8, 1, 64, 1, domain), domain);
        match Trial::results_of(library, &operands, Core::Any) {
            Ok(results) if operands.agree_with(&results) => {}
            Ok(_) => return Ok((domain, Some("its results are wrong".to_owned()))),
            // Nothing else works, then.
            Err(error) if domain == 0 => return Err(error),
            Err(error) => return Ok((domain, Some(error.to_string()))),
        }
    }
    Ok((MOST, None))
}

/// Bytes that a domain gives, in buffers that are freed again.
fn capacity(request: &Request, domain: u32) -> Result<DomainCapacity, RknnError> {
    let smallest = shape(Engine::I8, 1, 32, 1, domain);
    let mut trial = Trial::new(request.library, smallest, Core::Any)?;
    let most = match request.kind {
        Kind::Board => available(request).unwrap_or(0).saturating_sub(SPARED),
        // Its buffers take no memory before they are written.
        Kind::StandIn => ADDRESSES,
    };
    let (mut buffers, mut bytes, mut step) = (Vec::new(), 0, LONGEST_STEP);
    let ended_by = loop {
        if bytes + step > ADDRESSES {
            break CapacityEnd::Addresses;
        }
        if bytes + step > most {
            break CapacityEnd::Memory;
        }
        match Arena::new(trial.matmul(), step) {
            Ok(buffer) => {
                buffers.push(buffer);
                bytes += step;
            }
            Err(RknnError::NoMemory { .. }) if step > SHORTEST_STEP => step /= 2,
            Err(RknnError::NoMemory { .. }) => break CapacityEnd::Refused,
            Err(error) => return Err(error),
        }
    };
    Ok(DomainCapacity { bytes, step, ended_by })
}

/// Bytes of memory that are free, as the kernel says.
fn available(request: &Request) -> Option<u64> {
    let text = request.system.text("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}
