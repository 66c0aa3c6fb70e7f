//! What was observed, for people and for programs.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tessera_calibration::statistics::{DataSource, InputStatistics, StatisticsFile};
use tessera_formats::escape::{escaped, escaped_path};

use crate::convert::roles;
use crate::progress;
use crate::size;
use crate::table;

/// Rows below which an expert's statistics say little of it.
const FEW_ROWS: u64 = 256;

/// Inputs whose experts are told one by one in the text.
const LISTED: usize = 8;

/// How long a run took.
pub struct Run {
    /// All of it.
    pub whole: Duration,
    /// The model's layers, where all tokens passed through all of them.
    pub observing: Option<Duration>,
}

/// What a statistics file holds.
#[derive(Serialize)]
pub struct Report {
    /// The file.
    output: String,
    /// Its bytes.
    bytes: u64,
    architecture: String,
    data: Vec<Data>,
    tokens: u64,
    context: u64,
    seed: u64,
    hessians: bool,
    inputs: Vec<InputReport>,
    seconds: Option<f64>,
    tokens_per_second: Option<f64>,
    /// Largest resident set of the process, where the system tells.
    peak_memory: Option<u64>,
    warnings: Vec<String>,
}

/// A text.
#[derive(Serialize)]
struct Data {
    name: String,
    bytes: u64,
    sha256: String,
}

/// What was observed of an input.
#[derive(Serialize)]
struct InputReport {
    /// Its kind, such as `attn_input`.
    kind: String,
    linears: Vec<String>,
    k: usize,
    /// Rows seen.
    rows: u64,
    sampled_rows: usize,
    hessian: bool,
    amax: f32,
    rms: f64,
    /// amax/rms.
    crest: f64,
    /// The same after the default rotation.
    rotated_crest: f64,
    /// Largest energy of a channel, over that of the mean channel.
    channel_ratio: f64,
    /// That channel.
    channel: usize,
    /// Rows that count less than one in weighted sums.
    massive_rows: u64,
    experts: Option<ExpertsReport>,
}

/// Rows that came to experts.
#[derive(Serialize)]
struct ExpertsReport {
    count: usize,
    fewest_rows: u64,
    most_rows: u64,
    /// Those that saw too few to say much.
    few: Vec<FewRows>,
}

/// An expert that saw few rows.
#[derive(Serialize)]
struct FewRows {
    expert: usize,
    rows: u64,
}

impl Report {
    /// What stands in a file.
    pub fn read(path: &Path, run: Option<Run>, warnings: Vec<String>) -> anyhow::Result<Self> {
        let file = StatisticsFile::open(path)?;
        let provenance = file.provenance();
        let inputs = (0..file.inputs().len()).map(|index| {
            let entry = &file.inputs()[index];
            let mut input = InputReport::new(&file.load_sums(index)?);
            (input.sampled_rows, input.hessian) = (entry.sampled, entry.hessian);
            Ok(input)
        });
        let data = |source: &DataSource| Data {
            name: source.name.clone(),
            bytes: source.bytes,
            sha256: source.sha256.clone(),
        };
        let observing = run.as_ref().and_then(|run| run.observing);
        let named = || format!("`{}`", escaped_path(path));
        Ok(Report {
            output: path.display().to_string(),
            bytes: path.metadata().with_context(named)?.len(),
            architecture: provenance.architecture.clone(),
            data: provenance.data.iter().map(data).collect(),
            tokens: provenance.tokens,
            context: provenance.context,
            seed: provenance.seed,
            hessians: provenance.options.hessians,
            inputs: inputs.collect::<anyhow::Result<_>>()?,
            seconds: run.map(|run| run.whole.as_secs_f64()),
            tokens_per_second: observing
                .map(|time| count(provenance.tokens) / time.as_secs_f64().max(1e-9)),
            peak_memory: progress::peak_memory(),
            warnings,
        })
    }

    /// What the user should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// For people: a row for each kind of input, with the worst of each figure.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let names: Vec<_> = self.data.iter().map(|data| escaped(&data.name)).collect();
        let _ = writeln!(
            text,
            "{} tokens in chunks of {}, of {}\n\n{}",
            self.tokens,
            self.context,
            names.join(", "),
            self.kinds(),
        );
        let few: Vec<_> = self.inputs.iter().filter_map(InputReport::few).collect();
        if !few.is_empty() {
            let _ = writeln!(text, "\nexperts with fewer than {FEW_ROWS} rows:");
            for line in few.iter().take(LISTED) {
                let _ = writeln!(text, "  {line}");
            }
            if few.len() > LISTED {
                let _ = writeln!(text, "  and of {} more inputs", few.len() - LISTED);
            }
        }
        text.push('\n');
        if let Some(seconds) = self.seconds {
            let _ = write!(text, "{seconds:.2} s");
            if let Some(rate) = self.tokens_per_second {
                let _ = write!(text, ", {rate:.1} tokens/s");
            }
            if let Some(peak) = self.peak_memory {
                let _ = write!(text, ", peak memory {}", size::show(peak));
            }
            text.push('\n');
        }
        let _ = writeln!(text, "{}, {}", escaped(&self.output), size::show(self.bytes));
        text
    }

    fn kinds(&self) -> table::Table {
        let headers = [
            "input",
            "inputs",
            "K",
            "rows",
            "amax",
            "crest",
            "rotated",
            "channel ratio",
            "massive rows",
        ];
        let mut table = table::with_headers(&headers, &[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut kinds: Vec<&str> = Vec::new();
        for input in &self.inputs {
            if !kinds.contains(&input.kind.as_str()) {
                kinds.push(&input.kind);
            }
        }
        for kind in kinds {
            let of_kind = || self.inputs.iter().filter(|input| input.kind == kind);
            let greatest =
                |figure: fn(&InputReport) -> f64| of_kind().map(figure).fold(0.0, f64::max);
            let rows = of_kind().map(|input| input.rows);
            table.add_row([
                kind.to_owned(),
                of_kind().count().to_string(),
                range(of_kind().map(|input| input.k as u64)),
                range(rows),
                format!("{:.4}", greatest(|input| f64::from(input.amax))),
                format!("{:.1}", greatest(|input| input.crest)),
                format!("{:.1}", greatest(|input| input.rotated_crest)),
                format!("{:.1}", greatest(|input| input.channel_ratio)),
                of_kind().map(|input| input.massive_rows).sum::<u64>().to_string(),
            ]);
        }
        table
    }
}

impl InputReport {
    fn new(input: &InputStatistics) -> Self {
        let name = input.linears.first().map_or("", String::as_str);
        let elements = count(input.tokens) * input.k as f64;
        let energy: f64 = input.squares.iter().sum();
        let rms = if elements > 0.0 { (energy / elements).sqrt() } else { 0.0 };
        let of_rms = |amax: f32| if rms > 0.0 { f64::from(amax) / rms } else { 0.0 };
        let largest = (0..input.squares.len())
            .max_by(|&a, &b| input.squares[a].total_cmp(&input.squares[b]).then(b.cmp(&a)));
        let (channel, largest) = largest.map_or((0, 0.0), |k| (k, input.squares[k]));
        let experts = (!input.experts.is_empty()).then(|| {
            let rows = || input.experts.iter().map(|expert| expert.tokens);
            let few = rows().enumerate().filter(|&(_, rows)| rows < FEW_ROWS);
            ExpertsReport {
                count: input.experts.len(),
                fewest_rows: rows().min().unwrap_or(0),
                most_rows: rows().max().unwrap_or(0),
                few: few.map(|(expert, rows)| FewRows { expert, rows }).collect(),
            }
        });
        InputReport {
            kind: kind(name, experts.is_some()),
            linears: input.linears.clone(),
            k: input.k,
            rows: input.tokens,
            sampled_rows: 0,
            hessian: false,
            amax: input.magnitudes.amax(),
            rms,
            crest: of_rms(input.magnitudes.amax()),
            rotated_crest: of_rms(input.rotated.amax()),
            channel_ratio: if energy > 0.0 { largest * input.k as f64 / energy } else { 0.0 },
            channel,
            massive_rows: input.massive,
            experts,
        }
    }

    /// A line about experts that saw few rows.
    fn few(&self) -> Option<String> {
        let experts = self.experts.as_ref().filter(|experts| !experts.few.is_empty())?;
        let fewest = experts.few.iter().min_by_key(|few| few.rows)?;
        Some(format!(
            "{}: {} of {}, fewest {} of expert {}",
            escaped(self.linears.first().map_or("", String::as_str)),
            experts.few.len(),
            experts.count,
            fewest.rows,
            fewest.expert,
        ))
    }
}

/// What kind of input a linear reads: the input's name without its layer.
fn kind(linear: &str, experts: bool) -> String {
    let name = roles::input_of(linear).name;
    let kind = name.rsplit_once('.').map_or(&*name, |(_, kind)| kind).to_owned();
    // A shared expert reads what the others read, but all rows.
    if kind == "ffn_experts_input" && !experts { "ffn_shared_input".to_owned() } else { kind }
}

/// `64`, or `64-172`.
fn range(values: impl Iterator<Item = u64> + Clone) -> String {
    let (least, most) = (values.clone().min().unwrap_or(0), values.max().unwrap_or(0));
    if least == most { least.to_string() } else { format!("{least}-{most}") }
}

fn count(count: u64) -> f64 {
    count as f64
}
