//! Boards: the limits of a chip, and how fast its NPU is, as `board.json` holds both.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::probe::{CapacityEnd, Overflow, Probe};
use super::{Engine, Scheme, Target};
use crate::escape::Escaped;

/// What the field `format` says.
const FORMAT: &str = "tessera-board";

/// Major and minor version. A reader refuses another major one and a newer minor one.
/// 1.1 has `probe`.
const VERSION: [u32; 2] = [1, 1];

/// Rates and times outside of this are no board's.
const LEAST_RATE: f64 = 1e3;
const GREATEST_RATE: f64 = 1e18;
const LONGEST_SUBMIT: f64 = 1.0;

/// Limits of a chip and rates of a board.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    format: String,
    version: [u32; 2],
    /// What its NPU accepts.
    pub target: Target,
    /// How fast it is.
    pub rates: Rates,
    /// What it answered, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
}

/// How fast an NPU is, with all its cores at work.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rates {
    /// Bytes of weights that are read in a second where one row is multiplied.
    pub bytes_per_second: f64,
    /// Seconds that a matmul takes beside its work: it is submitted to every core at once, and awaited.
    pub submit_seconds: f64,
    /// Multiplications of the i4 engine, each with an addition, in a second.
    pub i4_macs_per_second: f64,
    /// The same of the i8 engine.
    pub i8_macs_per_second: f64,
    /// The same of the f16 engine.
    pub f16_macs_per_second: f64,
}

/// A matrix that rows are multiplied by, or as many alike as a token's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Weight and activation bits.
    pub scheme: Scheme,
    /// Bytes of the tiles of one matrix.
    pub tile_bytes: u64,
    /// Segments of K, each a matmul of its own.
    pub segments: u64,
    /// Matrices there are: one, or as many as experts.
    pub matrices: u64,
    /// Matrices that each row is multiplied by.
    pub used: u64,
}

/// Why a text is no board.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BoardError {
    /// No JSON, or with other fields.
    #[error("it is no description of a board: {}", Escaped(.0))]
    Json(String),
    /// Something else.
    #[error("its `format` is not `{FORMAT}`")]
    Format,
    /// Of another version.
    #[error("it has version {}.{}, and this tessera reads {}.0 to {}.{}", found[0], found[1], VERSION[0], VERSION[0], VERSION[1])]
    Version {
        /// Major and minor.
        found: [u32; 2],
    },
    /// A rate or a time that no board has.
    #[error("its `{name}` is {found}, expected {expected}")]
    Rate {
        /// The field.
        name: &'static str,
        /// Its value.
        found: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// Limits that no chip has.
    #[error("its `target.{name}` is {found}, expected {expected}")]
    Limit {
        /// The field.
        name: &'static str,
        /// Its value.
        found: u64,
        /// What it may be.
        expected: &'static str,
    },
}

impl Board {
    /// A board with a chip, as fast as others have measured theirs.
    pub fn of_chip(name: &str) -> Option<Self> {
        let target = Target::by_name(name)?;
        let rates = Rates::of_cores(target.cores);
        Some(Board { format: FORMAT.to_owned(), version: VERSION, target, rates, probe: None })
    }

    /// A board with a chip, by its answers: as fast as it was measured, where it was, and with the chip's limits,
    /// or lower ones that were found.
    pub fn of_probe(name: &str, probe: Probe) -> Option<Self> {
        let mut board = Self::of_chip(name)?;
        let Board { target, rates, .. } = &mut board;
        for products in &probe.products {
            let rate = match products.engine {
                Engine::I4 => &mut rates.i4_macs_per_second,
                Engine::I8 => &mut rates.i8_macs_per_second,
                Engine::F16 => &mut rates.f16_macs_per_second,
            };
            *rate = products.macs_per_second.clamp(LEAST_RATE, GREATEST_RATE);
        }
        let reading = probe.reading.iter().map(|reading| reading.bytes_per_second);
        if let Some(slowest) = reading.min_by(f64::total_cmp) {
            rates.bytes_per_second = slowest.clamp(LEAST_RATE, GREATEST_RATE);
        }
        if let Some(submit) = probe.submit {
            rates.submit_seconds = submit.all_cores_seconds.clamp(0.0, LONGEST_SUBMIT);
        }
        let cores = (0..target.cores).take_while(|core| {
            let accepted =
                |mask: u32| probe.core_masks.iter().any(|m| m.mask == mask && m.accepted);
            1u32.checked_shl(*core).is_some_and(accepted)
        });
        let cores = u32::try_from(cores.count()).unwrap_or(0);
        if !probe.core_masks.is_empty() {
            target.cores = cores.max(1);
        }
        if let Some(domains) = &probe.domains {
            target.domains = target.domains.min(domains.working.max(1));
            if let Some(capacity) = domains.capacity
                && capacity.ended_by == CapacityEnd::Refused
            {
                // A step more was refused; matmuls had a little of it.
                let most = capacity.bytes.saturating_add(capacity.step.saturating_mul(2));
                target.lower_domain_bytes(capacity.bytes, most);
            }
        }
        board.probe = Some(probe);
        Some(board)
    }

    /// Whether sums of 4 bits that do not fit 16 are known to wrap on this board, and not to saturate.
    pub fn int4_wraps(&self) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.int4.overflow == Some(Overflow::Wrap))
    }

    /// Reads what `board.json` holds.
    ///
    /// # Errors
    ///
    /// If it is of another version, or holds what no board has.
    pub fn parse(text: &str) -> Result<Self, BoardError> {
        /// What tells whether the rest can be understood.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: [u32; 2],
        }
        let malformed = |error: serde_json::Error| BoardError::Json(error.to_string());
        let head: Head = serde_json::from_str(text).map_err(malformed)?;
        if head.format != FORMAT {
            return Err(BoardError::Format);
        }
        if head.version[0] != VERSION[0] || head.version[1] > VERSION[1] {
            return Err(BoardError::Version { found: head.version });
        }
        let board: Board = serde_json::from_str(text).map_err(malformed)?;
        board.rates.check()?;
        check_limits(&board.target)?;
        Ok(board)
    }
}

fn check_limits(target: &Target) -> Result<(), BoardError> {
    let within = |name, found: u64, range: std::ops::RangeInclusive<u64>, expected| {
        let inside = range.contains(&found);
        if inside { Ok(()) } else { Err(BoardError::Limit { name, found, expected }) }
    };
    within("cores", target.cores.into(), 1..=64, "1 to 64")?;
    within("domains", target.domains.into(), 1..=1024, "1 to 1024")?;
    within("domain_capacity", target.domain_capacity, 1 << 20..=1 << 40, "1 MiB to 1 TiB")?;
    let align = u64::from(target.k_align);
    let aligned = align.is_multiple_of(32) && (32..=4096).contains(&align);
    if !aligned {
        let expected = "a multiple of 32 up to 4096";
        return Err(BoardError::Limit { name: "k_align", found: align, expected });
    }
    for (name, found) in [("k_segment", target.k_segment), ("k_segment_f16", target.k_segment_f16)]
    {
        let found = u64::from(found);
        if found == 0 || !found.is_multiple_of(align) || found > 1 << 20 {
            let expected = "a multiple of `target.k_align` up to 1048576";
            return Err(BoardError::Limit { name, found, expected });
        }
    }
    Ok(())
}

impl Rates {
    /// What others have measured of the RK3588's three cores, a third of it for each core: 26.6 GB/s
    /// where one row is multiplied, 32.9 µs a matmul, 3.7 and 1.83 TOPS of the integer engines on long
    /// matrices, 0.574 of the f16 engine at K = 2048. (`docs/choosing.md` says whose figures they are.)
    fn of_cores(cores: u32) -> Self {
        let of_three = f64::from(cores) / 3.0;
        Rates {
            bytes_per_second: 26.6e9 * of_three,
            submit_seconds: 32.9e-6,
            // An operation is a multiplication or an addition.
            i4_macs_per_second: 3.7e12 / 2.0 * of_three,
            i8_macs_per_second: 1.83e12 / 2.0 * of_three,
            f16_macs_per_second: 0.574e12 / 2.0 * of_three,
        }
    }

    fn check(&self) -> Result<(), BoardError> {
        for (name, found) in [
            ("bytes_per_second", self.bytes_per_second),
            ("i4_macs_per_second", self.i4_macs_per_second),
            ("i8_macs_per_second", self.i8_macs_per_second),
            ("f16_macs_per_second", self.f16_macs_per_second),
        ] {
            if !(LEAST_RATE..=GREATEST_RATE).contains(&found) {
                return Err(BoardError::Rate { name, found, expected: "1e3 to 1e18" });
            }
        }
        let found = self.submit_seconds;
        if (0.0..=LONGEST_SUBMIT).contains(&found) {
            return Ok(());
        }
        Err(BoardError::Rate { name: "submit_seconds", found, expected: "0 to 1" })
    }

    /// Seconds for `rows` rows, each of which is multiplied by the matrices it uses.
    ///
    /// Matrices that are reached are read once, for all their rows; the engine multiplies while it
    /// reads, so that the slower of the two counts. A `w4a8` row is two, its digits. What the processor
    /// does before and after is not in it.
    pub fn seconds(&self, work: &Work, rows: u64) -> f64 {
        let engine = work.scheme.engine();
        let macs_per_second = match engine {
            Engine::I4 => self.i4_macs_per_second,
            Engine::I8 => self.i8_macs_per_second,
            Engine::F16 => self.f16_macs_per_second,
        };
        let products = as_f64(rows) * as_f64(work.used);
        let reached = as_f64(work.matrices).min(products);
        let weights = as_f64(work.tile_bytes) * 8.0 / engine.weight_bits() as f64;
        let planes = if work.scheme == Scheme::W4A8 { 2.0 } else { 1.0 };
        let reading = reached * as_f64(work.tile_bytes) / self.bytes_per_second;
        let multiplying = products * planes * weights / macs_per_second;
        reached * as_f64(work.segments) * self.submit_seconds + reading.max(multiplying)
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(scheme: Scheme, tile_bytes: u64) -> Work {
        Work { scheme, tile_bytes, segments: 1, matrices: 1, used: 1 }
    }

    fn near(found: f64, expected: f64) -> bool {
        (found / expected - 1.0).abs() < 1e-9
    }

    /// Worked out by hand: 4096 × 4096.
    #[test]
    fn one_row_waits_for_weights_and_many_for_the_engine() {
        let rates = Board::of_chip("rk3588").unwrap().rates;
        let (weights, submit) = (4096u64 * 4096, 32.9e-6);
        for (scheme, bytes) in [
            (Scheme::W4A4, weights / 2),
            (Scheme::W4A8, weights / 2),
            (Scheme::W8A8, weights),
            (Scheme::W16A16, 2 * weights),
        ] {
            let seconds = rates.seconds(&work(scheme, bytes), 1);
            assert!(near(seconds, submit + bytes as f64 / 26.6e9), "{scheme}: {seconds}");
        }
        for (scheme, bytes, operations) in [
            (Scheme::W4A4, weights / 2, 3.7e12),
            (Scheme::W4A8, weights / 2, 3.7e12 / 2.0),
            (Scheme::W8A8, weights, 1.83e12),
            (Scheme::W16A16, 2 * weights, 0.574e12),
        ] {
            let seconds = rates.seconds(&work(scheme, bytes), 512);
            let expected = submit + 512.0 * 2.0 * weights as f64 / operations;
            assert!(near(seconds, expected), "{scheme}: {seconds} {expected}");
        }
    }

    #[test]
    fn experts_are_read_where_a_row_reaches_them() {
        let rates = Rates { submit_seconds: 0.0, ..Board::of_chip("rk3588").unwrap().rates };
        let experts = Work { matrices: 128, used: 8, ..work(Scheme::W4A8, 1 << 20) };
        let one = rates.seconds(&work(Scheme::W4A8, 1 << 20), 1);
        assert!(near(rates.seconds(&experts, 1), 8.0 * one));
        assert!(near(rates.seconds(&experts, 16), 128.0 * one));
        assert!(near(rates.seconds(&experts, 17), 128.0 * one));
        // Every expert has a row of them in turn.
        let rates = Board::of_chip("rk3588").unwrap().rates;
        let segmented = Work { segments: 3, ..experts };
        let more = rates.seconds(&segmented, 1) - rates.seconds(&experts, 1);
        assert!(near(more, 8.0 * 2.0 * 32.9e-6));
    }

    #[test]
    fn boards_come_back_from_json() {
        for chip in ["rk3588", "rk3576"] {
            let board = Board::of_chip(chip).unwrap();
            let text = serde_json::to_string(&board).unwrap();
            assert_eq!(Board::parse(&text).unwrap(), board);
        }
        let two = Board::of_chip("rk3576").unwrap().rates.bytes_per_second;
        assert!(near(two, 26.6e9 * 2.0 / 3.0));
        assert_eq!(Board::of_chip("rk9999"), None);
    }

    #[test]
    fn errors_quote_nothing_that_a_terminal_acts_on() {
        let board = serde_json::to_string(&Board::of_chip("rk3588").unwrap()).unwrap();
        let error =
            Board::parse(&board.replace("rates", "\u{9b}2J\u{202e}")).unwrap_err().to_string();
        assert!(error.contains(r"unknown field `\u{9b}2J\u{202e}`"), "{error}");
    }

    fn answers(text: &str) -> Probe {
        let int4 = r#"{"overflow": "wrap", "sums": [], "fits_in_the_end": null, "nibble_order": null,
            "least_in_activations": null, "least_in_weights": null}"#;
        serde_json::from_str(&format!(
            r#"{{"tessera": "", "library": "", "driver": "", "stand_in": false, "quick": false, "machine": null,
            "soc": null, "kernel": null, "self_test": [], "int4": {int4}, "odd_rows": [], "halves": [],
            "long_columns": [], "layouts": [], "few_rows": [], "failures": [], {text}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn answers_lower_limits_and_give_rates() {
        let mask = |mask: u32, accepted| {
            format!(r#"{{"mask": {mask}, "accepted": {accepted}, "code": null}}"#)
        };
        let domains = |working: u32, bytes: u64, end: &str| {
            format!(
                r#"{{"working": {working}, "refused": null,
                "capacity": {{"bytes": {bytes}, "step": 16777216, "ended_by": "{end}"}}}}"#
            )
        };
        let nothing =
            r#""core_masks": [], "domains": null, "products": [], "reading": [], "submit": null"#;
        let chip = Board::of_chip("rk3588").unwrap();
        let board = Board::of_probe("rk3588", answers(nothing)).unwrap();
        assert_eq!((&board.target, board.rates), (&chip.target, chip.rates));
        assert!(board.int4_wraps() && !chip.int4_wraps());
        assert_eq!(Board::parse(&serde_json::to_string(&board).unwrap()).unwrap(), board);
        let masks = [mask(1, true), mask(2, true), mask(4, false)].join(", ");
        for (domains, expected, capacity) in [
            (domains(16, 2032 << 20, "refused"), 16, chip.target.domain_capacity),
            (domains(16, 1 << 30, "memory"), 16, chip.target.domain_capacity),
            (domains(4, 1 << 30, "refused"), 4, (1 << 30) - (128 << 20)),
            (domains(0, 0, "refused"), 1, 1 << 20),
        ] {
            let board = Board::of_probe(
                "rk3588",
                answers(&format!(
                    r#""core_masks": [{masks}], "domains": {domains},
                    "products": [{{"engine": "i4", "m": 1, "k": 1, "n": 1, "cores": 3, "macs_per_second": 5e11}}],
                    "reading": [{{"engine": "i4", "k": 1, "n": 1, "cores": 3, "bytes_per_second": 2e10}},
                                {{"engine": "i8", "k": 1, "n": 1, "cores": 3, "bytes_per_second": 1e10}}],
                    "submit": {{"one_core_seconds": 1e-5, "all_cores_seconds": 2e-5}}"#
                )),
            )
            .unwrap();
            let Target { cores, domains, domain_capacity, .. } = board.target;
            assert_eq!((cores, domains, domain_capacity), (2, expected, capacity));
            let expected = Rates {
                bytes_per_second: 1e10,
                submit_seconds: 2e-5,
                i4_macs_per_second: 5e11,
                ..chip.rates
            };
            assert_eq!(board.rates, expected);
        }
    }

    #[test]
    fn older_files_are_read() {
        let mut value = serde_json::to_value(Board::of_chip("rk3588").unwrap()).unwrap();
        value["version"] = vec![1, 0].into();
        assert_eq!(Board::parse(&value.to_string()).unwrap().probe, None);
    }

    #[test]
    fn what_no_board_has_is_refused() {
        let board = serde_json::to_value(Board::of_chip("rk3588").unwrap()).unwrap();
        for (pointer, value, expected) in [
            ("/format", "pack".into(), "its `format` is not `tessera-board`"),
            ("/version", vec![2, 0].into(), "version 2.0, and this tessera reads 1.0 to 1.1"),
            ("/version", vec![1, 2].into(), "version 1.2"),
            ("/rates/bytes_per_second", 0.into(), "`bytes_per_second` is 0, expected 1e3 to 1e18"),
            ("/rates/i4_macs_per_second", (-1e12).into(), "`i4_macs_per_second`"),
            ("/rates/submit_seconds", 3.into(), "`submit_seconds` is 3, expected 0 to 1"),
            ("/rates/submit_seconds", serde_json::Value::Null, "no description of a board"),
            ("/target/cores", 0.into(), "`target.cores` is 0, expected 1 to 64"),
            ("/target/k_align", 33.into(), "`target.k_align` is 33"),
            ("/target/k_align", 0.into(), "`target.k_align` is 0"),
            ("/target/k_segment", 8191.into(), "`target.k_segment` is 8191"),
            ("/target/k_segment_f16", 0.into(), "`target.k_segment_f16` is 0"),
            ("/target/domains", 0.into(), "`target.domains` is 0"),
            ("/target/domain_capacity", 1.into(), "`target.domain_capacity` is 1"),
        ] {
            let mut wrong = board.clone();
            *wrong.pointer_mut(pointer).unwrap() = value;
            let error = Board::parse(&wrong.to_string()).unwrap_err().to_string();
            assert!(error.contains(expected), "{pointer}: {error}");
        }
        for text in ["", "{}", "[]", "null"] {
            assert!(matches!(Board::parse(text), Err(BoardError::Json(_))), "{text}");
        }
    }
}
