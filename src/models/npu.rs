//! The NPU as the device of packs.

use std::path::Path;
use std::sync::Arc;

use tessera_formats::npu::Target;
use tessera_formats::pack::PackReader;
use tessera_runtime::rknn::{self, Kind, LoadOptions, LoadedWeights, Npu, RknnError};

use super::Device;
use crate::progress::Progress;

/// Starts the NPU, if it is the device; `library` is the vendor's, or that which stands in for it.
pub fn start(
    device: Option<Device>,
    library: Option<&Path>,
    target: &Target,
) -> anyhow::Result<Option<Arc<Npu>>> {
    let kind = match device {
        Some(Device::Rknn) => Kind::Board,
        Some(Device::StandIn) => Kind::StandIn,
        _ => {
            anyhow::ensure!(
                library.is_none(),
                "`--library` is for `--device rknn` and `--device stand-in`"
            );
            return Ok(None);
        }
    };
    let (library, lock) = rknn::open(kind, library)?;
    Ok(Some(Npu::start(library, lock, usize::try_from(target.cores)?)?))
}

/// Reads the tiles of a pack into the NPU's memory.
pub fn load(npu: &Arc<Npu>, pack: &PackReader) -> Result<Arc<LoadedWeights>, RknnError> {
    let tiles = pack.manifest(0).map_or(0, |manifest| manifest.memory.tile_bytes);
    let progress = Progress::start("loading", tiles);
    let advance = |bytes| progress.advance(bytes);
    let loaded = LoadedWeights::load(npu, pack, LoadOptions::default(), &advance);
    progress.finish();
    loaded.map(Arc::new)
}

/// What a pack that the NPU executes is called.
pub fn form(schemes: &str, npu: &Npu) -> String {
    let [library, driver] = npu.versions();
    format!("{schemes}, librknnrt {library}, driver {driver}")
}
