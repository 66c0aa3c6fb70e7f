//! The tiles of a pack in the NPU's memory, read from its files straight into arenas.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tessera_formats::npu::Engine;
use tessera_formats::npu::tiles::{TILE_BYTES, TILE_K};
use tessera_formats::pack::PackReader;
use tessera_formats::pack::manifest::{Linear, Segment};

use super::{Arena, Npu, RknnError};

/// Bytes of an arena, unless a segment has more: a domain has a few of them, and each is one descriptor.
const ARENA_BYTES: u64 = 512 << 20;

/// Bytes that one task reads at a time, about, as many panels as they hold: sums are taken while they are cached.
const READ_BYTES: usize = 512 << 10;

/// Where the tiles of a segment are.
#[derive(Clone, Debug)]
pub(crate) struct Tiles {
    pub(crate) arena: Arc<Arena>,
    /// Their first byte in the arena.
    pub(crate) offset: u64,
    /// IOMMU domain.
    pub(crate) domain: u32,
    /// Sums of the integers of each row, `[matrices, n_padded]`, where inputs have zero points.
    pub(crate) sums: Option<Arc<Vec<i32>>>,
}

/// The tiles of a pack in the NPU's memory.
#[derive(Debug)]
pub struct LoadedWeights {
    npu: Arc<Npu>,
    tiles: HashMap<String, Tiles>,
    bytes: u64,
    reading: Duration,
}

/// What is read besides the tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Whether tiles are held against their SHA-256, in the NPU's memory: that takes several times as long as
    /// reading them.
    pub check: bool,
}

/// A segment that is to be loaded.
struct Wanted<'a> {
    linear: &'a Linear,
    segment: &'a Segment,
    bytes: u64,
}

/// Segments that share an arena.
struct Batch<'a> {
    domain: u32,
    bytes: u64,
    segments: Vec<Wanted<'a>>,
}

/// Some panels of a segment, and where they go.
struct Piece<'a> {
    tensor: &'a str,
    offset: u64,
    bytes: &'a mut [u8],
    panel_bytes: usize,
    sums: Option<(Engine, &'a mut [i32])>,
}

impl LoadedWeights {
    /// Reads the tiles of all linears of a pack into the domains that its plan says. `progress` is told the
    /// bytes that are read, as they are.
    ///
    /// # Errors
    ///
    /// If a domain or the board has not as much memory, the pack cannot be read, or its tiles are not those of
    /// the manifest.
    pub fn load(
        npu: &Arc<Npu>,
        pack: &PackReader,
        options: LoadOptions,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Self, RknnError> {
        let mut tiles = HashMap::new();
        let (mut total, mut reading) = (0, Duration::ZERO);
        for batch in batches(pack) {
            let Batch { domain, bytes, segments } = batch;
            let mut arena = npu.arena(domain, bytes)?;
            let started = Instant::now();
            let sums = fill(pack, &segments, arena.bytes_mut(), progress)?;
            reading += started.elapsed();
            if options.check {
                check(&segments, arena.bytes_mut())?;
            }
            let arena = arena.finish()?;
            let mut offset = 0;
            for (wanted, sums) in segments.iter().zip(sums) {
                let arena = Arc::clone(&arena);
                let sums = sums.map(Arc::new);
                let placed = Tiles { arena, offset, domain, sums };
                tiles.insert(wanted.segment.tiles.clone(), placed);
                offset += wanted.bytes;
            }
            total += bytes;
        }
        Ok(LoadedWeights { npu: Arc::clone(npu), tiles, bytes: total, reading })
    }

    /// The NPU.
    pub fn npu(&self) -> &Arc<Npu> {
        &self.npu
    }

    /// Bytes of all arenas.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Time that reading them took, without making memory and handing it over.
    pub fn reading(&self) -> Duration {
        self.reading
    }

    /// The tiles of that name.
    pub(crate) fn tiles(&self, tensor: &str) -> Option<Tiles> {
        self.tiles.get(tensor).cloned()
    }
}

/// Segments of all linears, domain after domain, in arenas.
fn batches(pack: &PackReader) -> Vec<Batch<'_>> {
    let mut linears: Vec<&Linear> = pack.linears().collect();
    // The sort is stable: within a domain the pack's order stays.
    linears.sort_by_key(|linear| linear.domain);
    let mut batches: Vec<Batch<'_>> = Vec::new();
    for linear in linears {
        for segment in &linear.segments {
            let bytes = pack.tensor_info(&segment.tiles).map_or(0, |tensor| tensor.bytes);
            let wanted = Wanted { linear, segment, bytes };
            let fits = |batch: &&mut Batch<'_>| {
                batch.domain == linear.domain && batch.bytes.saturating_add(bytes) <= ARENA_BYTES
            };
            match batches.last_mut().filter(fits) {
                Some(batch) => {
                    batch.bytes += bytes;
                    batch.segments.push(wanted);
                }
                None => {
                    batches.push(Batch { domain: linear.domain, bytes, segments: vec![wanted] })
                }
            }
        }
    }
    batches
}

/// Fills an arena with the tiles of its segments, one behind the other, and gives the sums of those that need
/// them.
fn fill(
    pack: &PackReader,
    segments: &[Wanted<'_>],
    arena: &mut [u8],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Option<Vec<i32>>>, RknnError> {
    let sums = segments.iter().map(Wanted::no_sums);
    let mut sums = sums.collect::<Result<Vec<_>, _>>()?;
    let mut pieces = Vec::new();
    let mut rest = arena;
    for (wanted, sums) in segments.iter().zip(&mut sums) {
        let too_large = || RknnError::Unaddressable { tensor: wanted.segment.tiles.clone() };
        let length = usize::try_from(wanted.bytes).map_err(|_| too_large())?;
        let columns = usize::try_from(wanted.segment.length).map_err(|_| too_large())?;
        let (tiles, behind) = rest.split_at_mut(length);
        rest = behind;
        let panel_bytes = columns / TILE_K * TILE_BYTES;
        let per_piece = (READ_BYTES / panel_bytes).max(1);
        let engine = wanted.linear.scheme.engine();
        let mut of_pieces = sums.as_mut().map(|sums| sums.chunks_mut(per_piece * engine.tile_n()));
        for (index, bytes) in tiles.chunks_mut(per_piece * panel_bytes).enumerate() {
            let offset = u64::try_from(index * per_piece * panel_bytes).map_err(|_| too_large())?;
            let sums = of_pieces.as_mut().and_then(Iterator::next).map(|sums| (engine, sums));
            let tensor = &wanted.segment.tiles;
            pieces.push(Piece { tensor, offset, bytes, panel_bytes, sums });
        }
    }
    pieces.into_par_iter().try_for_each(|piece| {
        let Piece { tensor, offset, bytes, panel_bytes, sums } = piece;
        pack.read_tensor_at(tensor, offset, bytes)?;
        if let Some((engine, sums)) = sums {
            let panels = bytes.chunks_exact(panel_bytes);
            for (panel, sums) in panels.zip(sums.chunks_exact_mut(engine.tile_n())) {
                sums::add_panel(engine, panel, sums);
            }
        }
        progress(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok::<(), RknnError>(())
    })?;
    Ok(sums)
}

impl Wanted<'_> {
    /// Room for the sums of each row, if the input's integers have a zero point.
    fn no_sums(&self) -> Result<Option<Vec<i32>>, RknnError> {
        if !self.linear.activation.is_asymmetric() {
            return Ok(None);
        }
        let rows = self.linear.n_padded.checked_mul(self.linear.experts.unwrap_or(1));
        let rows = rows.and_then(|rows| usize::try_from(rows).ok());
        let too_large = || RknnError::Unaddressable { tensor: self.segment.tiles.clone() };
        Ok(Some(vec![0; rows.ok_or_else(too_large)?]))
    }
}

/// Holds the tiles in an arena against their digests.
fn check(segments: &[Wanted<'_>], arena: &[u8]) -> Result<(), RknnError> {
    let mut rest = arena;
    let mut parts = Vec::new();
    for wanted in segments {
        let length = usize::try_from(wanted.bytes).unwrap_or(usize::MAX).min(rest.len());
        let (tiles, behind) = rest.split_at(length);
        rest = behind;
        parts.push((wanted.segment, tiles));
    }
    // The first in order, whichever thread finds it.
    let wrong = Mutex::new(None);
    parts.into_par_iter().enumerate().for_each(|(index, (segment, tiles))| {
        let digest = Sha256::digest(tiles);
        let found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if found != segment.sha256 {
            let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
            if wrong.as_ref().is_none_or(|(first, _)| index < *first) {
                *wrong = Some((index, segment.tiles.clone()));
            }
        }
    });
    match wrong.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => Ok(()),
        Some((_, tensor)) => Err(RknnError::Digest { tensor }),
    }
}

mod sums {
    //! Sums of the integers of a panel's rows.

    use super::{Engine, TILE_BYTES, TILE_K};

    /// Adds the integers of each row of a panel to the row's sum: 32 rows of bytes, or 64 of nibbles.
    pub(super) fn add_panel(engine: Engine, panel: &[u8], sums: &mut [i32]) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return x86::add_panel(engine, panel, sums);
        }
        add(engine, panel, sums);
    }

    /// What every instruction set compiles for itself.
    #[inline(always)]
    fn add(engine: Engine, panel: &[u8], sums: &mut [i32]) {
        for tile in panel.as_chunks::<TILE_BYTES>().0 {
            match engine {
                Engine::I8 => {
                    let rows = tile.as_chunks::<TILE_K>().0;
                    for (row, sum) in rows.iter().zip(&mut *sums) {
                        // Bytes plus 128, whose sums there are instructions for.
                        let raised: u32 = row.iter().map(|byte| u32::from(byte ^ 0x80)).sum();
                        *sum += raised.cast_signed() - 128 * 32;
                    }
                }
                Engine::I4 => {
                    let rows = tile.as_chunks::<{ TILE_K / 2 }>().0;
                    for (row, sum) in rows.iter().zip(&mut *sums) {
                        // Both nibbles plus 8.
                        let raised: u32 = row
                            .iter()
                            .map(|byte| u32::from(((byte & 15) ^ 8) + ((byte >> 4) ^ 8)))
                            .sum();
                        *sum += raised.cast_signed() - 8 * 32;
                    }
                }
                Engine::F16 => {}
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        #![expect(unsafe_code, reason = "SIMD intrinsics")]

        use std::arch::x86_64::*;

        use super::{Engine, TILE_BYTES};

        /// Rows whose sums are in registers.
        const ROWS: usize = 8;

        pub(super) fn add_panel(engine: Engine, panel: &[u8], sums: &mut [i32]) {
            match engine {
                // SAFETY: the caller has found that the machine has AVX2.
                Engine::I8 => unsafe { add_bytes(panel, sums) },
                // SAFETY: as above.
                Engine::I4 => unsafe { add_nibbles(panel, sums) },
                Engine::F16 => {}
            }
        }

        /// The four sums of eight bytes each, added.
        #[target_feature(enable = "avx2")]
        fn total(sums: __m256i) -> i32 {
            let mut parts = [0i64; 4];
            // SAFETY: the array is 32 writable bytes.
            unsafe { _mm256_storeu_si256(parts.as_mut_ptr().cast(), sums) };
            // At most 255 for each of a panel's bytes.
            i32::try_from(parts.iter().sum::<i64>()).unwrap_or(i32::MAX)
        }

        #[target_feature(enable = "avx2")]
        fn load(bytes: &[u8; 32]) -> __m256i {
            // SAFETY: the array is 32 readable bytes.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        }

        /// Rows of 32 bytes, 32 in a tile.
        #[target_feature(enable = "avx2")]
        fn add_bytes(panel: &[u8], sums: &mut [i32]) {
            let (tiles, _) = panel.as_chunks::<TILE_BYTES>();
            let flip = _mm256_set1_epi8(-128);
            let excess = i32::try_from(128 * 32 * tiles.len()).unwrap_or(i32::MAX);
            for (index, sums) in sums.chunks_exact_mut(ROWS).enumerate() {
                let mut of_rows = [_mm256_setzero_si256(); ROWS];
                for tile in tiles {
                    let rows = &tile.as_chunks::<32>().0[index * ROWS..];
                    for (sum, row) in of_rows.iter_mut().zip(rows) {
                        let raised = _mm256_xor_si256(load(row), flip);
                        let eights = _mm256_sad_epu8(raised, _mm256_setzero_si256());
                        *sum = _mm256_add_epi64(*sum, eights);
                    }
                }
                for (sum, of_row) in sums.iter_mut().zip(of_rows) {
                    *sum += total(of_row) - excess;
                }
            }
        }

        /// Rows of 16 bytes of two nibbles, 64 in a tile: two of them in a register.
        #[target_feature(enable = "avx2")]
        fn add_nibbles(panel: &[u8], sums: &mut [i32]) {
            let (tiles, _) = panel.as_chunks::<TILE_BYTES>();
            let (low, flip) = (_mm256_set1_epi8(15), _mm256_set1_epi8(8));
            let excess = i64::try_from(8 * 32 * tiles.len()).unwrap_or(i64::MAX);
            for (index, sums) in sums.chunks_exact_mut(2 * ROWS).enumerate() {
                let mut of_pairs = [_mm256_setzero_si256(); ROWS];
                for tile in tiles {
                    let pairs = &tile.as_chunks::<32>().0[index * ROWS..];
                    for (sum, pair) in of_pairs.iter_mut().zip(pairs) {
                        let bytes = load(pair);
                        let even = _mm256_and_si256(bytes, low);
                        let odd = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), low);
                        let raised = _mm256_add_epi8(
                            _mm256_xor_si256(even, flip),
                            _mm256_xor_si256(odd, flip),
                        );
                        let eights = _mm256_sad_epu8(raised, _mm256_setzero_si256());
                        *sum = _mm256_add_epi64(*sum, eights);
                    }
                }
                for (sums, of_pair) in sums.as_chunks_mut::<2>().0.iter_mut().zip(of_pairs) {
                    let mut parts = [0i64; 4];
                    // SAFETY: the array is 32 writable bytes.
                    unsafe { _mm256_storeu_si256(parts.as_mut_ptr().cast(), of_pair) };
                    let [a, b, c, d] = parts;
                    for (sum, of_row) in sums.iter_mut().zip([a + b, c + d]) {
                        *sum += i32::try_from(of_row - excess).unwrap_or(i32::MAX);
                    }
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn sums_are_those_of_the_integers() {
            for (engine, rows) in [(Engine::I8, 32), (Engine::I4, 64)] {
                for fill in [0u8, 0x80, 0x7f, 0x88, 0x77, 1] {
                    let panel: Vec<u8> = (0..3 * TILE_BYTES)
                        .map(|at| match fill {
                            1 => (at * 37 + at / 11).to_le_bytes()[0],
                            byte => byte,
                        })
                        .collect();
                    let mut expected = vec![5; rows];
                    let in_row = TILE_BYTES / rows;
                    for (at, &byte) in panel.iter().enumerate() {
                        let sum: &mut i32 = &mut expected[at % TILE_BYTES / in_row];
                        *sum += match engine {
                            Engine::I8 => i32::from(byte.cast_signed()),
                            _ => {
                                i32::from((byte << 4).cast_signed() >> 4)
                                    + i32::from(byte.cast_signed() >> 4)
                            }
                        };
                    }
                    let mut found = vec![5; rows];
                    add_panel(engine, &panel, &mut found);
                    assert_eq!(found, expected);
                    let mut twin = vec![5; rows];
                    add(engine, &panel, &mut twin);
                    assert_eq!(twin, expected);
                }
            }
        }
    }
}
