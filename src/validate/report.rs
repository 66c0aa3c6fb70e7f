//! What validation found, for people and for programs.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tessera_formats::escape::escaped;
use tessera_formats::npu::{Engine, Scheme};
use tessera_formats::pack::manifest::Linear;
use tessera_runtime::rknn::check::Finding;
use tessera_runtime::rknn::{Npu, RknnError};

use crate::table;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The pack.
    pack: String,
    /// What it was validated on.
    device: DeviceReport,
    /// Whether the device computes what the pack says.
    pub ok: bool,
    /// Whether the pack stores golden vectors; the simulator says what is right where it does not.
    pub golden: bool,
    /// What a test of the NPU itself found wrong.
    pub self_test: Vec<Fault>,
    /// Every linear.
    pub linears: Vec<LinearReport>,
    /// The forward pass.
    pub model: Option<ModelReport>,
    /// The comparison with log-probabilities of a file.
    pub reference: Option<ReferenceReport>,
}

/// A device.
#[derive(Debug, Serialize)]
pub struct DeviceReport {
    /// `sim`, `rknn` or `stand-in`.
    name: &'static str,
    /// Version of librknnrt.
    library: Option<String>,
    /// Version of the driver.
    driver: Option<String>,
    /// Cores that were used.
    cores: Option<usize>,
}

/// What is wrong with an engine on a core.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// `i8`, `i4` or `f16`.
    pub engine: &'static str,
    /// The core, from 0.
    pub core: usize,
    /// The cause's name, such as `nibble-order`.
    pub cause: String,
    /// For people.
    pub text: String,
}

/// One linear.
#[derive(Debug, Serialize)]
pub struct LinearReport {
    /// Its name.
    name: String,
    /// Its scheme.
    scheme: Scheme,
    /// Matrices of it.
    pub experts: Option<u64>,
    /// K segments.
    segments: usize,
    /// Matmuls that were run.
    pub runs: u64,
    /// Results that are wrong, over all runs that are.
    pub mismatches: u64,
    /// Results of the float engine's one lane that were a little off, as measurements say it may.
    pub lane_deviations: u64,
    /// The first that is wrong.
    pub first: Option<Mismatch>,
    /// A call that failed, or vectors that cannot be right.
    pub error: Option<String>,
    /// Time of one row with all matrices: the slowest core's, summed over segments.
    microseconds: Option<f64>,
    /// Bytes of weights read in that time, in 10⁹ bytes a second.
    gigabytes_per_second: Option<f64>,
    /// Multiplications and additions of 64 rows, in 10⁹ a second.
    gops: Option<f64>,
}

/// A result that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Mismatch {
    /// The segment, from 0.
    pub segment: usize,
    /// The expert, from 0.
    pub expert: Option<usize>,
    /// Rows of the matmul.
    pub m: usize,
    /// Row of the result.
    pub row: usize,
    /// Output channel.
    pub channel: usize,
    /// The core that had it.
    pub core: Option<usize>,
    /// What the device gave.
    pub found: f64,
    /// What is right.
    pub expected: f64,
    /// What likely explains it.
    pub cause: String,
}

/// A forward pass on the device and on the simulator.
#[derive(Debug, Default, Serialize)]
pub struct ModelReport {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Layers that were passed.
    pub layers: usize,
    /// The first layer, from 0, after which hidden states differ; the head's logits are one more.
    pub first_difference: Option<usize>,
    /// Largest difference there.
    pub difference: Option<f32>,
    /// Why it was not done.
    pub skipped: Option<String>,
    /// Why it ended early.
    pub error: Option<String>,
}

/// Log-probabilities beside those of a file.
#[derive(Debug, Serialize)]
pub struct ReferenceReport {
    /// The file.
    pub file: String,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Mean KL divergence from the file's.
    pub mean_kld: f64,
    /// What it may be at most.
    pub limit: f64,
}

/// Name of an engine.
pub fn engine_name(engine: Engine) -> &'static str {
    match engine {
        Engine::I4 => "i4",
        Engine::I8 => "i8",
        Engine::F16 => "f16",
    }
}

impl DeviceReport {
    /// The NPU, or the simulator where there is none.
    pub fn of(npu: Option<&Npu>) -> Self {
        let Some(npu) = npu else {
            return DeviceReport { name: "sim", library: None, driver: None, cores: None };
        };
        let [library, driver] = npu.versions().clone();
        let name = if library.contains("stand-in") { "stand-in" } else { "rknn" };
        let cores = Some(npu.cores());
        DeviceReport { name, library: Some(library), driver: Some(driver), cores }
    }
}

impl Fault {
    /// As it was found.
    pub fn of(finding: &Finding) -> Self {
        Fault {
            engine: engine_name(finding.engine),
            core: finding.core,
            cause: finding.cause.name().to_owned(),
            text: finding.to_string(),
        }
    }
}

impl LinearReport {
    /// Nothing found yet.
    pub fn new(linear: &Linear) -> Self {
        LinearReport {
            name: linear.name.clone(),
            scheme: linear.scheme,
            experts: linear.experts,
            segments: linear.segments.len(),
            runs: 0,
            mismatches: 0,
            lane_deviations: 0,
            first: None,
            error: None,
            microseconds: None,
            gigabytes_per_second: None,
            gops: None,
        }
    }

    /// A call that failed.
    pub fn fail(&mut self, segment: usize, matrix: usize, m: usize, error: &RknnError) {
        let expert = self.experts.map_or(String::new(), |_| format!(", expert {matrix}"));
        self.error = Some(format!("segment {segment}{expert}, M = {m}: {error}"));
    }

    /// The device and the simulator agree with each other, and not with the pack.
    pub fn disagree(&mut self, segment: usize) {
        self.error = Some(format!(
            "segment {segment}: the device gives what the simulator does with these tiles, and the pack's golden \
             vectors say otherwise: the pack is damaged, or was made by a tool that computes otherwise; \
             `tessera verify` checks its tiles"
        ));
    }

    /// Whether it is as it should be.
    fn is_ok(&self) -> bool {
        self.mismatches == 0 && self.error.is_none()
    }

    /// Sets what follows from the times of a row and of 64 rows.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn rates(&mut self, one: Option<Duration>, many: Option<Duration>, bytes: u64, macs: u64) {
        let positive = |time: Duration| time.as_secs_f64().max(1e-9);
        self.microseconds = one.map(|time| time.as_secs_f64() * 1e6);
        self.gigabytes_per_second = one.map(|time| bytes as f64 / positive(time) / 1e9);
        self.gops = many.map(|time| 2.0 * macs as f64 / positive(time) / 1e9);
    }
}

impl Report {
    /// Nothing found yet.
    pub fn new(pack: &Path, device: DeviceReport) -> Self {
        Report {
            pack: pack.display().to_string(),
            device,
            ok: true,
            golden: false,
            self_test: Vec::new(),
            linears: Vec::new(),
            model: None,
            reference: None,
        }
    }

    /// Decides.
    pub fn finish(mut self) -> Self {
        let model = self.model.as_ref();
        let model =
            model.is_none_or(|model| model.first_difference.is_none() && model.error.is_none());
        let reference = self.reference.as_ref();
        let reference = reference.is_none_or(|reference| reference.mean_kld <= reference.limit);
        self.ok = self.self_test.is_empty()
            && !self.linears.is_empty()
            && self.linears.iter().all(LinearReport::is_ok)
            && model
            && reference;
        self
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let DeviceReport { name, library, driver, cores } = &self.device;
        let _ = write!(text, "device {name}");
        if let (Some(library), Some(driver), Some(cores)) = (library, driver, cores) {
            let _ = write!(text, ", librknnrt {library}, driver {driver}, {cores} cores");
        }
        let golden = if self.golden {
            "the pack's golden vectors"
        } else {
            "the simulator (the pack has no golden vectors)"
        };
        let _ = writeln!(text, "; compared with {golden}\n");
        for fault in &self.self_test {
            let _ = writeln!(text, "the NPU itself: {}", fault.text);
        }
        if !self.self_test.is_empty() {
            text.push('\n');
        }
        let mut rows = table::with_headers(
            &["tensor", "scheme", "segments", "runs", "wrong", "µs, M=1", "GB/s", "GOPS, M=64"],
            &[2, 3, 4, 5, 6, 7],
        );
        let figure =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        for linear in &self.linears {
            rows.add_row([
                escaped(&linear.name),
                linear.scheme.to_string(),
                linear.segments.to_string(),
                linear.runs.to_string(),
                linear.mismatches.to_string(),
                figure(linear.microseconds),
                figure(linear.gigabytes_per_second),
                figure(linear.gops),
            ]);
        }
        let _ = writeln!(text, "{rows}\n");
        for linear in &self.linears {
            if let Some(first) = &linear.first {
                let _ =
                    writeln!(text, "{}: {}", escaped(&linear.name), first.text(linear.mismatches));
            }
            if let Some(error) = &linear.error {
                let _ = writeln!(text, "{}: {error}", escaped(&linear.name));
            }
        }
        let lanes: u64 = self.linears.iter().map(|linear| linear.lane_deviations).sum();
        if lanes > 0 {
            let _ = writeln!(
                text,
                "{lanes} results of f16 channels that are a multiple of 16 are a little off, as measurements of this \
                 chip say they may be",
            );
        }
        if let Some(model) = &self.model {
            let _ = writeln!(text, "{}", model.text());
        }
        if let Some(ReferenceReport { file, tokens, mean_kld, limit }) = &self.reference {
            let _ = writeln!(
                text,
                "KL divergence from `{}` over {tokens} tokens: {mean_kld:.6} (at most {limit})",
                escaped(file),
            );
        }
        let verdict = if self.ok { "ok" } else { "NOT ok" };
        let wrong = self.linears.iter().filter(|linear| !linear.is_ok()).count();
        let _ = writeln!(text, "{verdict}: {} linears, {wrong} of them wrong", self.linears.len());
        text
    }
}

impl Mismatch {
    fn text(&self, count: u64) -> String {
        let Mismatch { segment, expert, m, row, channel, core, found, expected, cause } = self;
        let expert = expert.map_or(String::new(), |expert| format!(", expert {expert}"));
        let core = core.map_or(String::new(), |core| format!(", core {core}"));
        format!(
            "segment {segment}{expert}, M = {m}{core}: row {row}, channel {channel} is {found}, not {expected}, the \
             first of {count} that are wrong: {cause}"
        )
    }
}

impl ModelReport {
    fn text(&self) -> String {
        let ModelReport { tokens, layers, first_difference, difference, skipped, error } = self;
        if let Some(why) = skipped {
            return format!("no forward pass: {why}");
        }
        if let Some(error) = error {
            return format!("forward pass: {error}");
        }
        match first_difference {
            None => format!(
                "forward pass of {tokens} tokens: hidden states after {layers} layers and logits are the simulator's, \
                 bit for bit"
            ),
            Some(layer) => {
                let place = match layer < layers {
                    true => format!("hidden states after layer {layer}"),
                    false => "logits".to_owned(),
                };
                let difference = difference.unwrap_or(f32::NAN);
                format!(
                    "forward pass of {tokens} tokens: {place} are not the simulator's, by up to {difference}"
                )
            }
        }
    }
}
