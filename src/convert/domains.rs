//! Placement of tiles in IOMMU domains.

use anyhow::ensure;
use tessera_formats::escape::Escaped;
use tessera_formats::npu::Target;
use tessera_formats::pack::manifest::MemoryPlan;

use super::roles;
use crate::size;

/// Domain of each linear, given by name and bytes of tiles, and the totals.
///
/// Linears are placed in the order in which a forward pass uses them, each in the domain of its
/// predecessor while there is room: then a pass switches domains as often as there are domains.
pub fn place(linears: &[(&str, u64)], target: &Target) -> anyhow::Result<(Vec<u32>, MemoryPlan)> {
    let mut order: Vec<usize> = (0..linears.len()).collect();
    // The sort is stable: within a layer the file's order stays; the head comes last.
    order.sort_by_key(|&index| roles::layer(linears[index].0).unwrap_or(u64::MAX));
    let mut domains = vec![0; linears.len()];
    let mut filled = vec![0u64];
    for index in order {
        let (name, bytes) = linears[index];
        ensure!(
            bytes <= target.domain_capacity,
            "`{}` has {} of tiles, more than the {} that one IOMMU domain of {} holds",
            Escaped(name),
            size::show(bytes),
            size::show(target.domain_capacity),
            target.name,
        );
        let mut last = filled.len() - 1;
        if filled[last] + bytes > target.domain_capacity {
            filled.push(0);
            last += 1;
        }
        filled[last] += bytes;
        domains[index] = u32::try_from(last)?;
    }
    let tile_bytes = filled.iter().sum();
    Ok((domains, MemoryPlan { domain_bytes: filled, tile_bytes }))
}
