//! The JSON document of a statistics file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{FORMAT, VERSION_MAJOR, VERSION_MINOR};
use crate::statistics::{Medians, Provenance, Spread, StatisticsError};

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    pub format: String,
    /// Major and minor.
    pub version: [u32; 2],
    pub provenance: Provenance,
    pub inputs: Vec<InputFigures>,
}

/// What is not in tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::statistics) struct InputFigures {
    pub linears: Vec<String>,
    pub k: u64,
    pub tokens: u64,
    /// Number of experts; absent for plain linears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<u64>,
    pub magnitudes: HistogramFigures,
    pub rotated: HistogramFigures,
    pub rms: Spread,
    pub crest: Spread,
    pub medians: Medians,
    pub robust_weight: f64,
    pub massive: u64,
}

/// What is not in the tensor of a histogram's counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::statistics) struct HistogramFigures {
    /// Log2 of a bin's width.
    pub exponent: i32,
    pub amax: f32,
}

/// Parses a document, its version first: another version may have other fields.
pub(super) fn parse(path: &Path, json: &str) -> Result<Document, StatisticsError> {
    #[derive(Deserialize)]
    struct Probe {
        format: String,
        version: [u32; 2],
    }
    let malformed = |error: serde_json::Error| StatisticsError::Document {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let Probe { format, version } = serde_json::from_str(json).map_err(malformed)?;
    if format != FORMAT {
        let reason = format!("`format` is `{format}`, expected `{FORMAT}`");
        return Err(StatisticsError::Document { path: path.to_owned(), reason });
    }
    if version[0] != VERSION_MAJOR || version[1] > VERSION_MINOR {
        let supported = [VERSION_MAJOR, VERSION_MINOR];
        return Err(StatisticsError::Version { path: path.to_owned(), found: version, supported });
    }
    serde_json::from_str(json).map_err(malformed)
}
