//! `tessera validate`: does a device compute what a pack says?

use tessera_formats::pack::PackReader;

use crate::cli::{ValidateArguments, ValidateDevice};
use crate::exit::Verdict;
use crate::models::{self, Device};
use crate::validate::{Depth, Request, validate};
use crate::workers;

/// Validates and prints what was found.
pub fn run(arguments: &ValidateArguments) -> anyhow::Result<Verdict> {
    let device = match arguments.device {
        ValidateDevice::Rknn => Device::Rknn,
        ValidateDevice::Sim => Device::Sim,
        ValidateDevice::StandIn => Device::StandIn,
    };
    let pack = PackReader::open(&arguments.pack)?;
    let report = workers::pool(super::threads(arguments.threads)?)?.install(|| {
        let cores = pack.manifest(0).map(|manifest| &manifest.target);
        let npu = match cores {
            Some(target) => models::npu::start(Some(device), arguments.library.as_deref(), target)?,
            None => None,
        };
        validate(&Request {
            pack: &arguments.pack,
            npu,
            depth: match (arguments.quick, arguments.full) {
                (true, _) => Depth::Quick,
                (_, true) => Depth::Full,
                _ => Depth::Normal,
            },
            prompt: &arguments.prompt,
            reference: arguments.reference.as_deref(),
        })
    })?;
    if arguments.json {
        super::print_json(&report)?;
    } else {
        super::print(&report.text())?;
    }
    Ok(if report.ok { Verdict::Passed } else { Verdict::Failed })
}
