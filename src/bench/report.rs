//! What was measured, for people and for programs.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use tessera_formats::escape::escaped;
use tessera_formats::gguf::Value;
use tessera_runtime::checkpoint::Checkpoint;
use tessera_runtime::rknn::Npu;

use super::operators::Operator;
use super::sensors::{Power, Range, Recording, Sensors};
use super::{Test, bytes_and_elements};
use crate::models::{Device, Model};
use crate::{size, table};

/// What is measured: fields that all tests have. Names are llama-bench's where they mean the same.
#[derive(Debug, Serialize)]
pub struct Subject {
    /// Version of tessera.
    tessera: &'static str,
    model_filename: String,
    /// Architecture and scheme.
    model_type: String,
    /// Bytes of all tensors as they are stored.
    model_size: u64,
    model_n_params: u64,
    /// What executes linears.
    device: String,
    /// Whether the NPU of a board executes them.
    is_npu: bool,
    /// What is to be known of the rates.
    note: Option<&'static str>,
    /// Version of librknnrt.
    library: Option<String>,
    /// Version of the driver.
    driver: Option<String>,
    /// Cores of the NPU.
    cores: Option<usize>,
    n_threads: usize,
}

impl Subject {
    /// A model on a device.
    pub fn new(
        model: &Model,
        checkpoint: &dyn Checkpoint,
        (device, npu): (Device, Option<&Npu>),
        threads: usize,
    ) -> Self {
        let architecture = checkpoint.metadata().get("general.architecture");
        let architecture = architecture.and_then(Value::as_str).unwrap_or("?");
        let (model_size, model_n_params) = bytes_and_elements(model, checkpoint);
        let [library, driver] = match npu {
            Some(npu) => npu.versions().clone().map(Some),
            None => [None, None],
        };
        let name = device.to_possible_value();
        Subject {
            tessera: env!("CARGO_PKG_VERSION"),
            model_filename: model.name.clone(),
            model_type: format!("{architecture} {}", model.scheme),
            model_size,
            model_n_params,
            device: name.map(|name| name.get_name().to_owned()).unwrap_or_default(),
            is_npu: device == Device::Rknn,
            note: note(device),
            library,
            driver,
            cores: npu.map(Npu::cores),
            n_threads: threads,
        }
    }
}

/// What is to be known of rates of a device.
fn note(device: Device) -> Option<&'static str> {
    match device {
        Device::Rknn => None,
        Device::StandIn => Some(
            "the library is a stand-in for tests, which computes on this processor: these are rates of no NPU",
        ),
        Device::Sim => Some(
            "the simulator computes what the NPU would, on this processor: these are rates of no NPU",
        ),
        _ => Some("linears are computed in floats, not on an NPU: these are rates of no NPU"),
    }
}

/// What was measured of a test.
pub struct Measured {
    /// Time of each repetition.
    pub samples: Vec<Duration>,
    /// What sensors said.
    pub recording: Recording,
    /// What operators took, of all repetitions.
    pub operators: Vec<Operator>,
    /// Matmuls that the NPU was given, in all repetitions.
    pub submits: Option<u64>,
}

/// A test and its figures.
#[derive(Debug, Serialize)]
pub struct TestReport {
    n_batch: usize,
    n_prompt: usize,
    n_gen: usize,
    /// Layers that were loaded again for every batch.
    passing_layers: usize,
    avg_ns: u64,
    stddev_ns: u64,
    avg_ts: f64,
    stddev_ts: f64,
    samples_ns: Vec<u64>,
    samples_ts: Vec<f64>,
    /// Matmuls that the NPU was given for a token.
    submits_per_token: Option<f64>,
    /// What operators took, the longest first; then everything else.
    operators: Vec<OperatorReport>,
    sensors: Sensors,
    /// `pp512` or `tg128`.
    #[serde(skip)]
    name: String,
}

/// What an operator took.
#[derive(Debug, Serialize)]
struct OperatorReport {
    /// Its name, or `other` for everything that is not a linear.
    name: String,
    /// How often it was applied for a token; null for `other`.
    calls_per_token: Option<f64>,
    ns_per_token: f64,
    /// Its part of the time of the test.
    share: f64,
}

/// All tests.
pub struct Report {
    subject: Subject,
    passing_layers: usize,
    tests: Vec<TestReport>,
}

/// A test as it stands in the JSON.
#[derive(Serialize)]
pub struct Row<'a> {
    #[serde(flatten)]
    subject: &'a Subject,
    #[serde(flatten)]
    test: &'a TestReport,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(subject: Subject, passing_layers: usize) -> Self {
        Report { subject, passing_layers, tests: Vec::new() }
    }

    /// Adds a test.
    pub fn add(&mut self, test: Test, measured: Measured) {
        self.tests.push(TestReport::new(test, measured, self.passing_layers));
    }

    /// One object for each test.
    pub fn tests(&self) -> Vec<Row<'_>> {
        self.tests.iter().map(|test| Row { subject: &self.subject, test }).collect()
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let Subject { model_type, model_size, model_n_params, device, n_threads, .. } =
            &self.subject;
        let mut text = String::new();
        if let Some(note) = self.subject.note {
            let _ = writeln!(text, "note: {note}\n");
        }
        if let (Some(library), Some(driver), Some(cores)) =
            (&self.subject.library, &self.subject.driver, self.subject.cores)
        {
            let (library, driver) = (escaped(library), escaped(driver));
            let _ = writeln!(text, "librknnrt {library}, driver {driver}, {cores} cores\n");
        }
        let headers = [
            "model",
            "size",
            "params",
            "device",
            "threads",
            "batch",
            "test",
            "t/s",
            "submits/token",
        ];
        let mut rows = table::with_headers(&headers, &[1, 2, 4, 5, 6, 7, 8]);
        for test in &self.tests {
            rows.add_row([
                escaped(model_type),
                size::show(*model_size),
                count(*model_n_params),
                device.clone(),
                n_threads.to_string(),
                test.n_batch.to_string(),
                test.name.clone(),
                format!("{:.2} ± {:.2}", test.avg_ts, test.stddev_ts),
                test.submits_per_token.map_or_else(|| "-".to_owned(), |n| format!("{n:.1}")),
            ]);
        }
        let _ = writeln!(text, "{rows}\n");
        for test in &self.tests {
            let _ = writeln!(text, "{}, batch {}:\n", test.name, test.n_batch);
            let _ = writeln!(text, "{}\n", test.operators());
            text += &test.sensors.text();
        }
        let unread = self.tests.iter().flat_map(|test| &test.sensors.unread);
        for (field, why) in unread.collect::<BTreeSet<_>>() {
            let _ = writeln!(text, "no {field}: {}", escaped(why));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }
}

impl TestReport {
    fn new(test: Test, measured: Measured, passing_layers: usize) -> Self {
        let Measured { samples, recording, operators, submits } = measured;
        let time: Duration = samples.iter().sum();
        let tokens = float(test.tokens());
        let all_tokens = tokens * float(samples.len());
        let samples_ns: Vec<_> = samples.iter().copied().map(nanoseconds).collect();
        let samples_ts: Vec<_> =
            samples.iter().map(|sample| tokens / sample.as_secs_f64().max(1e-9)).collect();
        let (avg_ns, stddev_ns) = of_integers(&samples_ns);
        let (avg_ts, stddev_ts) = of_floats(&samples_ts);
        let (n_prompt, n_gen, name) = match test {
            Test::Prompt { tokens, .. } => (tokens, 0, format!("pp{tokens}")),
            Test::Generation { tokens } => (0, tokens, format!("tg{tokens}")),
        };
        TestReport {
            n_batch: test.batch(),
            n_prompt,
            n_gen,
            passing_layers,
            avg_ns,
            stddev_ns,
            avg_ts,
            stddev_ts,
            samples_ns,
            samples_ts,
            submits_per_token: submits.map(|submits| wide(submits) / all_tokens),
            operators: OperatorReport::all(operators, time, all_tokens),
            sensors: recording.report(time, all_tokens),
            name,
        }
    }

    /// A row for each operator.
    fn operators(&self) -> table::Table {
        let headers = ["operator", "calls/token", "µs/token", "share"];
        let mut rows = table::with_headers(&headers, &[1, 2, 3]);
        for OperatorReport { name, calls_per_token, ns_per_token, share } in &self.operators {
            rows.add_row([
                escaped(name),
                calls_per_token.map_or_else(|| "-".to_owned(), |calls| format!("{calls:.3}")),
                format!("{:.1}", ns_per_token / 1e3),
                format!("{:.1} %", 100.0 * share),
            ]);
        }
        rows
    }
}

impl OperatorReport {
    /// Every operator, and the rest of the time.
    fn all(mut operators: Vec<Operator>, time: Duration, tokens: f64) -> Vec<Self> {
        operators.sort_by(|a, b| b.time.cmp(&a.time).then_with(|| a.name.cmp(&b.name)));
        let linears: Duration = operators.iter().map(|operator| operator.time).sum();
        let of = |name: String, calls: Option<u64>, taken: Duration| OperatorReport {
            name,
            calls_per_token: calls.map(|calls| wide(calls) / tokens),
            ns_per_token: taken.as_secs_f64() * 1e9 / tokens,
            share: taken.as_secs_f64() / time.as_secs_f64().max(1e-9),
        };
        let other = of("other".to_owned(), None, time.saturating_sub(linears));
        let operators = operators
            .into_iter()
            .map(|Operator { name, calls, time, .. }| of(name, Some(calls), time));
        operators.chain([other]).collect()
    }
}

impl Sensors {
    /// A row for each sensor that could be read, and energies.
    fn text(&self) -> String {
        let mut rows = table::with_headers(&["sensor", "min", "mean", "max"], &[1, 2, 3]);
        let mut row = |name: String, range: Range, digits: usize| {
            let [min, mean, max] =
                [range.min, range.mean, range.max].map(|value| format!("{value:.digits$}"));
            rows.add_row([name, min, mean, max]);
        };
        let mut any = false;
        for (core, load) in self.npu_load.iter().flatten().enumerate() {
            row(format!("NPU core {core}, % load"), *load, 0);
            any = true;
        }
        let ranges = [
            ("NPU, MHz", self.npu_mhz, 0),
            ("memory, MHz", self.ddr_mhz, 0),
            ("NPU, °C", self.npu_celsius, 1),
        ];
        for (name, range, digits) in ranges {
            if let Some(range) = range {
                row(name.to_owned(), range, digits);
                any = true;
            }
        }
        for (policy, range) in self.cpu_mhz.iter().flatten() {
            row(format!("CPU {policy}, MHz"), *range, 0);
            any = true;
        }
        for Power { name, watts, .. } in self.power.iter().flatten() {
            row(format!("{}, W", escaped(name)), *watts, 3);
            any = true;
        }
        let mut text = if any { format!("{rows}\n") } else { String::new() };
        for Power { name, joules, joules_per_token, .. } in self.power.iter().flatten() {
            let name = escaped(name);
            let _ = writeln!(text, "{name}: {joules:.3} J, {joules_per_token:.4} J/token");
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }
}

/// A number of parameters, such as `1.10 B`.
fn count(number: u64) -> String {
    let number = wide(number);
    match number {
        _ if number >= 1e9 => format!("{:.2} B", number / 1e9),
        _ if number >= 1e6 => format!("{:.2} M", number / 1e6),
        _ => format!("{:.2} K", number / 1e3),
    }
}

/// Mean and standard deviation of a sample, as llama-bench's: 0 of one value.
fn of_floats(values: &[f64]) -> (f64, f64) {
    let count = float(values.len()).max(1.0);
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, if values.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 })
}

/// The same of integers.
fn of_integers(values: &[u64]) -> (u64, u64) {
    let (mut sum, mut squares) = (0u128, 0u128);
    let count = values.len() as u128;
    for &value in values {
        sum = sum.saturating_add(value.into());
    }
    let mean = sum.checked_div(count).and_then(|mean| u64::try_from(mean).ok()).unwrap_or(0);
    for &value in values {
        squares = squares.saturating_add(u128::from(value.abs_diff(mean)).pow(2));
    }
    let variance = squares.checked_div(count.saturating_sub(1)).unwrap_or(0);
    (mean, u64::try_from(variance.isqrt()).unwrap_or(u64::MAX))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn float(value: usize) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn wide(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviations_are_those_of_samples() {
        assert_eq!(of_floats(&[2.0, 4.0, 9.0]), (5.0, 13f64.sqrt()));
        assert_eq!(of_integers(&[20, 40, 90]), (50, 36));
        assert_eq!((of_floats(&[7.0]), of_integers(&[7])), ((7.0, 0.0), (7, 0)));
        assert_eq!((of_floats(&[]), of_integers(&[])), ((0.0, 0.0), (0, 0)));
        assert_eq!(of_integers(&[0, u64::MAX]).0, u64::MAX / 2);
    }

    #[test]
    fn parameters_are_shown_as_llama_bench_does() {
        let shown = [999, 260_000, 3_500_000, 1_100_048_384].map(count);
        assert_eq!(shown, ["1.00 K", "260.00 K", "3.50 M", "1.10 B"]);
    }
}
