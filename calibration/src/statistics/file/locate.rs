//! Where an input's tensors are in a file, and whether they are what they should be.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use safetensors::tensor::TensorInfo;

use super::document::InputFigures;
use super::layout::{Part, wide};
use crate::clip::TensorStatistics;
use crate::statistics::StatisticsError;

/// What a file says of an input before anything is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputEntry {
    /// Names of the linears that read it.
    pub linears: Vec<String>,
    /// Channels.
    pub k: usize,
    /// Rows seen.
    pub tokens: u64,
    /// Number of experts; `None` for plain linears.
    pub experts: Option<usize>,
    /// Rows of the sample.
    pub sampled: usize,
    /// Whether there is a Hessian.
    pub hessian: bool,
    /// Whether there is one of each expert.
    pub expert_hessians: bool,
}

/// Figures of an input, and where its tensors are.
#[derive(Debug)]
pub(super) struct Places {
    pub figures: InputFigures,
    pub tensors: HashMap<Part, Place>,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// First byte of the file.
    pub offset: u64,
    pub shape: Vec<usize>,
}

/// Every input has linears, and no linear occurs twice.
pub(super) fn check_names(path: &Path, inputs: &[InputFigures]) -> Result<(), StatisticsError> {
    let mut seen = HashSet::new();
    for figures in inputs {
        let twice = figures.linears.iter().find(|name| !seen.insert(name.as_str()));
        let reason = match twice {
            Some(name) => format!("linear `{name}` occurs twice"),
            None if figures.linears.is_empty() => "an input has no linears".to_owned(),
            None => continue,
        };
        return Err(StatisticsError::Document { path: path.to_owned(), reason });
    }
    Ok(())
}

/// Takes the tensors of an input out of `tensors` and checks their types and shapes.
pub(super) fn locate(
    path: &Path,
    figures: InputFigures,
    tensors: &mut HashMap<String, &TensorInfo>,
    data_start: u64,
) -> Result<(InputEntry, Places), StatisticsError> {
    let name = figures.linears.first().cloned().unwrap_or_default();
    let length = |field, found: u64| {
        usize::try_from(found).ok().filter(|&found| found > 0).ok_or_else(|| {
            StatisticsError::Field {
                path: path.to_owned(),
                input: name.clone(),
                field,
                expected: "at least 1".to_owned(),
                found: found.to_string(),
            }
        })
    };
    let k = length("k", figures.k)?;
    let experts = figures.experts.map(|experts| length("experts", experts)).transpose()?;
    let mut places = HashMap::new();
    for part in Part::ALL {
        let tensor = part.name(&name);
        let info = tensors.remove(&tensor);
        let wrong = |found: String| StatisticsError::Tensor {
            path: path.to_owned(),
            tensor: tensor.clone(),
            expected: expected(part, k, experts),
            found,
        };
        let Some(info) = info else {
            let needed = matches!(part, Part::ExpertTokens | Part::ExpertHessianWeight);
            if needed && experts.is_some() {
                return Err(wrong("missing".to_owned()));
            }
            continue;
        };
        if info.dtype != part.dtype() || !fits(part, &info.shape, k, experts) {
            return Err(wrong(format!("{} {:?}", info.dtype, info.shape)));
        }
        let offset = data_start.saturating_add(wide(info.data_offsets.0));
        places.insert(part, Place { offset, shape: info.shape.clone() });
    }
    let entry = InputEntry {
        linears: figures.linears.clone(),
        k,
        tokens: figures.tokens,
        experts,
        sampled: places.get(&Part::Rows).map_or(0, |place| place.shape[0]),
        hessian: places.contains_key(&Part::Hessian),
        expert_hessians: places.contains_key(&Part::ExpertHessian),
    };
    Ok((entry, Places { figures, tensors: places }))
}

/// Whether the tensor may have that shape.
fn fits(part: Part, shape: &[usize], k: usize, experts: Option<usize>) -> bool {
    match (part, experts) {
        (Part::Sum | Part::Squares | Part::RobustSquares | Part::ReferenceSum, _) => shape == [k],
        (Part::Magnitudes | Part::Rotated, _) => {
            matches!(shape, [bins] if (1..=TensorStatistics::BINS).contains(bins))
        }
        (Part::Hessian | Part::Cross, _) => shape == [k, k],
        (Part::Rows, _) => matches!(shape, [rows, channels] if *rows > 0 && *channels == k),
        (Part::ExpertTokens | Part::ExpertHessianWeight, Some(e)) => shape == [e],
        (Part::ExpertSum | Part::ExpertSquares, Some(e)) => shape == [e, k],
        (Part::ExpertHessian, Some(e)) => shape == [e, k, k],
        (_, None) => false,
    }
}

/// The shapes that it may have, in words.
fn expected(part: Part, k: usize, experts: Option<usize>) -> String {
    let shape = match (part, experts) {
        (Part::Sum | Part::Squares | Part::RobustSquares | Part::ReferenceSum, _) => {
            format!("[{k}]")
        }
        (Part::Magnitudes | Part::Rotated, _) => format!("[1..={}]", TensorStatistics::BINS),
        (Part::Hessian | Part::Cross, _) => format!("[{k}, {k}]"),
        (Part::Rows, _) => format!("[1.., {k}]"),
        (Part::ExpertTokens | Part::ExpertHessianWeight, Some(e)) => format!("[{e}]"),
        (Part::ExpertSum | Part::ExpertSquares, Some(e)) => format!("[{e}, {k}]"),
        (Part::ExpertHessian, Some(e)) => format!("[{e}, {k}, {k}]"),
        (_, None) => return "absent: the input has no experts".to_owned(),
    };
    format!("{} {shape}", part.dtype())
}
