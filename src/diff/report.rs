//! What a comparison found, for people and for programs.

use std::fmt::Write;

use serde::Serialize;
use tessera_formats::escape::escaped;

use super::beside::Difference;
use super::change::Change;
use super::file::{ModelFile, Tensor};
use crate::{size, table};

/// Differences beside the tensors that the text lists before the rest is only counted.
const LISTED: usize = 50;

/// Result of a comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The file that errors are relative to.
    a: FileReport,
    /// The file that is held against it.
    b: FileReport,
    /// Whether nothing differs.
    pub same: bool,
    /// Tensors that hold the same.
    equal: u64,
    /// Tensors that both files have, differently.
    different: u64,
    /// Tensors that B lacks.
    only_in_a: u64,
    /// Tensors that A lacks.
    only_in_b: u64,
    /// Tensors that differ, or all; in the order of A, then of B.
    tensors: Vec<TensorReport>,
    /// What differs beside them.
    #[serde(rename = "other")]
    pub(super) beside: Vec<Difference>,
}

/// A file.
#[derive(Clone, Debug, Serialize)]
struct FileReport {
    /// As the user named it.
    file: String,
    /// `gguf` or `pack`.
    kind: &'static str,
    /// Bytes of all its files.
    bytes: u64,
    /// Tensors.
    tensors: usize,
    /// Bytes of its tensors.
    tensor_bytes: u64,
}

impl FileReport {
    fn new((file, tensors): (&ModelFile<'_>, &Vec<Tensor<'_>>)) -> Self {
        FileReport {
            file: file.path.display().to_string(),
            kind: file.kind(),
            bytes: file.bytes(),
            tensors: tensors.len(),
            tensor_bytes: file.tensor_bytes(),
        }
    }
}

/// What is known of a tensor of both files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Status {
    /// Both hold the same.
    Equal,
    /// Both have it, differently.
    Different,
    /// B lacks it.
    OnlyInA,
    /// A lacks it.
    OnlyInB,
}

/// One tensor.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TensorReport {
    /// Its name.
    pub name: String,
    /// What is known of it.
    pub status: Status,
    /// What A stores.
    pub a: Option<Stored>,
    /// What B stores.
    pub b: Option<Stored>,
    /// What differs.
    pub changes: Vec<Change>,
    /// `sqrt(Σ (a − b)² / Σ a²)` of the weights; null where that cannot be told.
    pub relative_rms: Option<f64>,
    /// `Σ a·b / sqrt(Σ a² · Σ b²)`; null where that cannot be told.
    pub cosine: Option<f64>,
}

/// What a file stores of a tensor.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Stored {
    /// Its name in that file.
    pub name: String,
    /// Scheme, or ggml type.
    #[serde(rename = "type")]
    pub form: &'static str,
    /// Shape of the weights, slowest dimension first.
    pub shape: Vec<u64>,
    /// Bytes: tiles, scales and correction of a linear. 0 where they are counted under another name.
    pub bytes: u64,
}

impl Stored {
    /// What a file stores of a tensor.
    pub fn new(tensor: &Tensor<'_>) -> Self {
        Stored {
            name: tensor.name.to_owned(),
            form: tensor.form(),
            shape: tensor.dims.iter().rev().copied().collect(),
            bytes: tensor.bytes,
        }
    }
}

impl TensorReport {
    /// A tensor that one file lacks.
    pub fn alone(name: &str, a: Option<Stored>, b: Option<Stored>) -> Self {
        TensorReport {
            name: name.to_owned(),
            status: if a.is_some() { Status::OnlyInA } else { Status::OnlyInB },
            a,
            b,
            changes: Vec::new(),
            relative_rms: None,
            cosine: None,
        }
    }

    /// What differs, for people.
    fn shown_changes(&self) -> String {
        match self.status {
            Status::Equal => String::new(),
            Status::Different => {
                self.changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
            Status::OnlyInA => "only in A".to_owned(),
            Status::OnlyInB => "only in B".to_owned(),
        }
    }
}

impl Report {
    /// A report of two files, without findings.
    pub fn new(
        a: (&ModelFile<'_>, &Vec<Tensor<'_>>),
        b: (&ModelFile<'_>, &Vec<Tensor<'_>>),
    ) -> Self {
        Report {
            a: FileReport::new(a),
            b: FileReport::new(b),
            same: true,
            equal: 0,
            different: 0,
            only_in_a: 0,
            only_in_b: 0,
            tensors: Vec::new(),
            beside: Vec::new(),
        }
    }

    /// Counts a tensor, and keeps it if it differs or `all` are wanted.
    pub(super) fn add(&mut self, tensor: TensorReport, all: bool) {
        *match tensor.status {
            Status::Equal => &mut self.equal,
            Status::Different => &mut self.different,
            Status::OnlyInA => &mut self.only_in_a,
            Status::OnlyInB => &mut self.only_in_b,
        } += 1;
        if all || tensor.status != Status::Equal {
            self.tensors.push(tensor);
        }
    }

    /// Tells whether anything differs.
    pub(super) fn finish(mut self) -> Self {
        self.same = self.different + self.only_in_a + self.only_in_b == 0 && self.beside.is_empty();
        self
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, file) in [("A", &self.a), ("B", &self.b)] {
            let bytes = size::show(file.bytes);
            let _ = writeln!(text, "{name}: {}, {}, {bytes}", escaped(&file.file), file.kind);
        }
        if !self.tensors.is_empty() {
            let _ = writeln!(text, "\n{}", self.tensor_table());
        }
        if !self.beside.is_empty() {
            let mut rows = table::with_headers(&["beside the tensors", "A", "B"], &[]);
            for difference in self.beside.iter().take(LISTED) {
                let (a, b) = &difference.shown;
                rows.add_row([&escaped(&difference.field), a, b]);
            }
            let _ = writeln!(text, "\n{rows}");
            if self.beside.len() > LISTED {
                let _ = writeln!(text, "… and {} more", self.beside.len() - LISTED);
            }
        }
        let _ = writeln!(
            text,
            "\ntensors: {} equal, {} different, {} only in A, {} only in B; {} in A, {} in B",
            self.equal,
            self.different,
            self.only_in_a,
            self.only_in_b,
            size::show(self.a.tensor_bytes),
            size::show(self.b.tensor_bytes),
        );
        text
    }

    fn tensor_table(&self) -> table::Table {
        let headers =
            ["tensor", "A", "B", "bytes A", "bytes B", "rel. rms", "cosine", "what differs"];
        let mut rows = table::with_headers(&headers, &[3, 4, 5, 6]);
        for tensor in &self.tensors {
            let form = |stored: &Option<Stored>| stored.as_ref().map_or("", |stored| stored.form);
            let bytes = |stored: &Option<Stored>| {
                stored.as_ref().map_or_else(String::new, |stored| stored.bytes.to_string())
            };
            let figure = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.6}"));
            rows.add_row([
                escaped(&tensor.name),
                form(&tensor.a).to_owned(),
                form(&tensor.b).to_owned(),
                bytes(&tensor.a),
                bytes(&tensor.b),
                figure(tensor.relative_rms),
                figure(tensor.cosine),
                tensor.shown_changes(),
            ]);
        }
        rows
    }
}
