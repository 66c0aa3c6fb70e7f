//! Which tensors an input has, and where they are in the file.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use tessera_formats::pack::{DATA_ALIGNMENT, LONGEST_HEADER, tensor_bytes};

use super::document::{Document, HistogramFigures, InputFigures};
use super::{FORMAT, VERSION_MAJOR, VERSION_MINOR};
use crate::clip::TensorStatistics;
use crate::statistics::{ExpertStatistics, InputStatistics, Provenance, StatisticsError};

/// Bytes before the header: its length, u64 little-endian.
pub(super) const LENGTH_BYTES: u64 = 8;

/// What a tensor of an input holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::statistics) enum Part {
    Sum,
    Squares,
    RobustSquares,
    Magnitudes,
    Rotated,
    ExpertTokens,
    ExpertSum,
    ExpertSquares,
    ExpertHessianWeight,
    Hessian,
    ExpertHessian,
    Rows,
    ReferenceSum,
    Cross,
}

impl Part {
    /// In the order of the file, of tensors of one input and one size of elements.
    pub(super) const ALL: [Part; 14] = [
        Part::Sum,
        Part::Squares,
        Part::RobustSquares,
        Part::Magnitudes,
        Part::Rotated,
        Part::ExpertTokens,
        Part::ExpertSum,
        Part::ExpertSquares,
        Part::ExpertHessianWeight,
        Part::ReferenceSum,
        Part::Hessian,
        Part::Cross,
        Part::ExpertHessian,
        Part::Rows,
    ];

    /// The tensor's name after the input's.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Part::Sum => "sum",
            Part::Squares => "squares",
            Part::RobustSquares => "robust_squares",
            Part::Magnitudes => "magnitudes",
            Part::Rotated => "rotated",
            Part::ExpertTokens => "experts.tokens",
            Part::ExpertSum => "experts.sum",
            Part::ExpertSquares => "experts.squares",
            Part::ExpertHessianWeight => "experts.hessian_weight",
            Part::Hessian => "hessian",
            Part::ExpertHessian => "experts.hessian",
            Part::Rows => "rows",
            Part::ReferenceSum => "reference_sum",
            Part::Cross => "cross",
        }
    }

    pub(super) fn dtype(self) -> Dtype {
        match self {
            Part::Magnitudes | Part::Rotated | Part::ExpertTokens => Dtype::U64,
            Part::Hessian | Part::Cross | Part::ExpertHessian => Dtype::F32,
            Part::Rows => Dtype::BF16,
            _ => Dtype::F64,
        }
    }

    /// The tensor's name.
    pub(super) fn name(self, input: &str) -> String {
        format!("{input}.{}", self.suffix())
    }
}

/// What the header says of an input.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::statistics) struct Head {
    pub figures: InputFigures,
    /// Its tensors and their shapes, in the order of [`Part::ALL`].
    pub tensors: Vec<(Part, Vec<usize>)>,
}

impl Head {
    pub(in crate::statistics) fn of(input: &InputStatistics) -> Self {
        let (k, e) = (input.k, input.experts.len());
        let histogram = |histogram: &TensorStatistics| HistogramFigures {
            exponent: histogram.exponent(),
            amax: histogram.amax(),
        };
        let any = |has: fn(&ExpertStatistics) -> bool| input.experts.first().is_some_and(has);
        let bins = |histogram: &TensorStatistics| histogram.histogram().0.len();
        let tensors = Part::ALL.into_iter().filter_map(|part| {
            let shape = match part {
                Part::Sum => (!input.sum.is_empty()).then(|| vec![k]),
                Part::Squares => (!input.squares.is_empty()).then(|| vec![k]),
                Part::RobustSquares => (!input.robust_squares.is_empty()).then(|| vec![k]),
                Part::Magnitudes => Some(vec![bins(&input.magnitudes)]).filter(|s| s[0] > 0),
                Part::Rotated => Some(vec![bins(&input.rotated)]).filter(|s| s[0] > 0),
                Part::ExpertTokens | Part::ExpertHessianWeight => (e > 0).then(|| vec![e]),
                Part::ExpertSum => any(|expert| !expert.sum.is_empty()).then(|| vec![e, k]),
                Part::ExpertSquares => any(|expert| !expert.squares.is_empty()).then(|| vec![e, k]),
                Part::Hessian => input.hessian.is_some().then(|| vec![k, k]),
                Part::ReferenceSum => (!input.reference_sum.is_empty()).then(|| vec![k]),
                Part::Cross => input.cross.is_some().then(|| vec![k, k]),
                Part::ExpertHessian => {
                    any(|expert| expert.hessian.is_some()).then(|| vec![e, k, k])
                }
                Part::Rows => Some(vec![input.sampled(), k]).filter(|shape| shape[0] > 0),
            };
            Some((part, shape?))
        });
        Head {
            tensors: tensors.collect(),
            figures: InputFigures {
                linears: input.linears.clone(),
                k: wide(k),
                tokens: input.tokens,
                experts: (e > 0).then(|| wide(e)),
                magnitudes: histogram(&input.magnitudes),
                rotated: histogram(&input.rotated),
                rms: input.rms,
                crest: input.crest,
                medians: input.medians,
                robust_weight: input.robust_weight,
                massive: input.massive,
            },
        }
    }

    pub(in crate::statistics) fn name(&self) -> &str {
        self.figures.linears.first().map_or("", String::as_str)
    }
}

/// A usize fits in 64 bits on every platform there is.
pub(super) fn wide(x: usize) -> u64 {
    u64::try_from(x).unwrap_or(u64::MAX)
}

/// Where everything is.
pub(super) struct Layout {
    /// The header, padded with spaces.
    pub header: Vec<u8>,
    /// First byte of the data.
    pub data_start: u64,
    /// Length of the file.
    pub bytes: u64,
    /// First byte of each tensor, from the start of the data.
    pub offsets: HashMap<(usize, Part), u64>,
}

impl Layout {
    /// Of a file with these inputs; `path` is for the error.
    pub(super) fn new(
        path: &Path,
        provenance: &Provenance,
        heads: &[Head],
    ) -> Result<Self, StatisticsError> {
        let refused = |reason: String| StatisticsError::Header { path: path.to_owned(), reason };
        let overflow = || refused("the tensors are larger than a file can be".to_owned());
        let mut names = HashSet::new();
        for name in heads.iter().flat_map(|head| &head.figures.linears) {
            if !names.insert(name) {
                return Err(refused(format!("`{name}` occurs twice")));
            }
        }
        let mut tensors = Vec::new();
        let mut offsets = HashMap::new();
        let mut end = 0u64;
        for size in [64, 32, 16] {
            for (index, head) in heads.iter().enumerate() {
                for (part, shape) in &head.tensors {
                    if part.dtype().bitsize() != size {
                        continue;
                    }
                    let dims: Vec<u64> = shape.iter().copied().map(wide).collect();
                    let begin = end;
                    end = tensor_bytes(part.dtype(), &dims)
                        .and_then(|bytes| begin.checked_add(bytes))
                        .filter(|end| i64::try_from(*end).is_ok())
                        .ok_or_else(overflow)?;
                    offsets.insert((index, *part), begin);
                    let narrow = |x: u64| usize::try_from(x).map_err(|_| overflow());
                    let info = TensorInfo {
                        dtype: part.dtype(),
                        shape: shape.clone(),
                        data_offsets: (narrow(begin)?, narrow(end)?),
                    };
                    tensors.push((part.name(head.name()), info));
                }
            }
        }
        let mut names = HashSet::new();
        if let Some((name, _)) = tensors.iter().find(|(name, _)| !names.insert(name.as_str())) {
            return Err(refused(format!("tensor `{name}` occurs twice")));
        }
        let document = Document {
            format: FORMAT.to_owned(),
            version: [VERSION_MAJOR, VERSION_MINOR],
            provenance: provenance.clone(),
            inputs: heads.iter().map(|head| head.figures.clone()).collect(),
        };
        let json = serde_json::to_string(&document).map_err(|error| refused(error.to_string()))?;
        let metadata = HashMap::from([(FORMAT.to_owned(), json)]);
        let metadata =
            Metadata::new(Some(metadata), tensors).map_err(|error| refused(error.to_string()))?;
        let mut header =
            serde_json::to_vec(&metadata).map_err(|error| refused(error.to_string()))?;
        let data_start = wide(header.len())
            .checked_add(LENGTH_BYTES)
            .and_then(|bytes| bytes.checked_next_multiple_of(DATA_ALIGNMENT))
            .filter(|start| start - LENGTH_BYTES <= LONGEST_HEADER)
            .ok_or_else(|| refused(format!("it is longer than {LONGEST_HEADER} bytes")))?;
        header.resize(usize::try_from(data_start - LENGTH_BYTES).map_err(|_| overflow())?, b' ');
        let bytes = data_start.checked_add(end).ok_or_else(overflow)?;
        Ok(Layout { header, data_start, bytes, offsets })
    }
}
