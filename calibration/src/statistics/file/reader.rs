//! Reading statistics, one input at a time, from a file that nobody vouches for.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use tessera_formats::pack::LONGEST_HEADER;

use super::FORMAT;
use super::document::{self, HistogramFigures, InputFigures};
use super::layout::{Head, LENGTH_BYTES, Part, wide};
use crate::clip::TensorStatistics;
use crate::statistics::sample;
use crate::statistics::{ExpertStatistics, InputStatistics, Provenance, StatisticsError};

/// An open statistics file, whose header was read and checked.
#[derive(Debug)]
pub struct StatisticsFile {
    path: PathBuf,
    file: File,
    provenance: Provenance,
    inputs: Vec<InputEntry>,
    places: Vec<Places>,
}

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
struct Places {
    figures: InputFigures,
    tensors: HashMap<Part, Place>,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
struct Place {
    /// First byte of the file.
    offset: u64,
    shape: Vec<usize>,
}

impl StatisticsFile {
    /// Opens a file and checks its header: every tensor is in bounds, has its type and shape, and
    /// belongs to an input. Values are checked when they are loaded.
    ///
    /// # Errors
    ///
    /// If it is no statistics file, of a version that is not read, or damaged.
    pub fn open(path: &Path) -> Result<Self, StatisticsError> {
        let not_a_file = || StatisticsError::NotAFile { path: path.to_owned() };
        // Asked before opening too: opening a pipe waits for its writer.
        if !fs::metadata(path).map_err(StatisticsError::io("open", path))?.is_file() {
            return Err(not_a_file());
        }
        let file = File::open(path).map_err(StatisticsError::io("open", path))?;
        let kind = file.metadata().map_err(StatisticsError::io("open", path))?;
        if !kind.is_file() {
            return Err(not_a_file());
        }
        let json = read_header(path, &file, kind.len())?;
        let metadata: Metadata = serde_json::from_slice(&json).map_err(|error| {
            StatisticsError::Header { path: path.to_owned(), reason: error.to_string() }
        })?;
        let data_start = LENGTH_BYTES + wide(json.len());
        let expected = data_start.saturating_add(wide(metadata.data_len()));
        if expected != kind.len() {
            let found = kind.len();
            return Err(StatisticsError::FileLength { path: path.to_owned(), expected, found });
        }
        let json = metadata.metadata().as_ref().and_then(|entries| entries.get(FORMAT));
        let json = json.ok_or_else(|| StatisticsError::NotStatistics { path: path.to_owned() })?;
        let document = document::parse(path, json)?;
        let mut tensors = metadata.tensors();
        check_names(path, &document.inputs)?;
        let (mut inputs, mut places) = (Vec::new(), Vec::new());
        for figures in document.inputs {
            let (entry, place) = locate(path, figures, &mut tensors, data_start)?;
            inputs.push(entry);
            places.push(place);
        }
        if let Some(tensor) = tensors.into_keys().min() {
            return Err(StatisticsError::UnknownTensor { path: path.to_owned(), tensor });
        }
        let provenance = document.provenance;
        Ok(StatisticsFile { path: path.to_owned(), file, provenance, inputs, places })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the statistics come from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// The inputs, in the order of the layers.
    pub fn inputs(&self) -> &[InputEntry] {
        &self.inputs
    }

    /// Index of the input that the linear of that name reads.
    pub fn index_of(&self, linear: &str) -> Option<usize> {
        self.inputs.iter().position(|input| input.linears.iter().any(|name| name == linear))
    }

    /// Loads all of an input.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or a value cannot be what it should be.
    ///
    /// # Panics
    ///
    /// If there is no such input; so do the functions below.
    pub fn load(&self, index: usize) -> Result<InputStatistics, StatisticsError> {
        let mut input = self.sums(index)?;
        input.rows = self.rows(index)?;
        input.hessian = self.hessian_of(index, None)?;
        for (expert, statistics) in input.experts.iter_mut().enumerate() {
            statistics.hessian = self.hessian_of(index, Some(expert))?;
        }
        input.check(&self.path)?;
        Ok(input)
    }

    /// Loads an input without its rows and Hessians.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_sums(&self, index: usize) -> Result<InputStatistics, StatisticsError> {
        let input = self.sums(index)?;
        input.check(&self.path)?;
        Ok(input)
    }

    /// Loads an input without its Hessians.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_sums_and_rows(&self, index: usize) -> Result<InputStatistics, StatisticsError> {
        let mut input = self.sums(index)?;
        input.rows = self.rows(index)?;
        input.check(&self.path)?;
        Ok(input)
    }

    /// Loads one Hessian of an input, or of one of its experts, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_hessian(
        &self,
        index: usize,
        expert: Option<usize>,
    ) -> Result<Option<Vec<f32>>, StatisticsError> {
        let entry = &self.inputs[index];
        let hessian = self.hessian_of(index, expert)?;
        let (linears, k) = (entry.linears.clone(), entry.k);
        let mut input = InputStatistics { linears, k, ..InputStatistics::default() };
        if expert.is_none() {
            input.hessian = hessian;
            input.check(&self.path)?;
            return Ok(input.hessian);
        }
        input.experts = vec![ExpertStatistics { hessian, ..ExpertStatistics::default() }];
        input.check(&self.path)?;
        Ok(input.experts.pop().and_then(|expert| expert.hessian))
    }

    /// What the header says of an input.
    pub(in crate::statistics) fn head(&self, index: usize) -> Head {
        let Places { figures, tensors } = &self.places[index];
        let shape = |part| tensors.get(&part).map(|place: &Place| (part, place.shape.clone()));
        let tensors = Part::ALL.into_iter().filter_map(shape).collect();
        Head { figures: figures.clone(), tensors }
    }

    /// Everything but rows and Hessians, not checked.
    fn sums(&self, index: usize) -> Result<InputStatistics, StatisticsError> {
        let (entry, figures) = (&self.inputs[index], &self.places[index].figures);
        let f64s = |part| Ok(self.all(index, part)?.into_iter().map(f64::from_le_bytes).collect());
        let u64s = |part| {
            let elements = self.all(index, part)?;
            Ok::<Vec<u64>, StatisticsError>(elements.into_iter().map(u64::from_le_bytes).collect())
        };
        let histogram = |part: Part, field, HistogramFigures { exponent, amax }| {
            let counts = u64s(part)?;
            TensorStatistics::from_histogram(exponent, &counts, amax).ok_or_else(|| {
                StatisticsError::Field {
                    path: self.path.clone(),
                    input: entry.linears.first().cloned().unwrap_or_default(),
                    field,
                    expected: "counts that agree with amax and the width of bins".to_owned(),
                    found: format!("{} bins of 2^{exponent}, amax {amax}", counts.len()),
                }
            })
        };
        let mut input = InputStatistics {
            linears: entry.linears.clone(),
            k: entry.k,
            tokens: entry.tokens,
            magnitudes: histogram(Part::Magnitudes, "magnitudes", figures.magnitudes)?,
            rotated: histogram(Part::Rotated, "rotated", figures.rotated)?,
            sum: f64s(Part::Sum)?,
            squares: f64s(Part::Squares)?,
            rms: figures.rms,
            crest: figures.crest,
            medians: figures.medians,
            robust_squares: f64s(Part::RobustSquares)?,
            robust_weight: figures.robust_weight,
            ..InputStatistics::default()
        };
        if entry.experts.is_some() {
            let (tokens, weights) = (u64s(Part::ExpertTokens)?, f64s(Part::ExpertHessianWeight)?);
            let (sum, squares) = (f64s(Part::ExpertSum)?, f64s(Part::ExpertSquares)?);
            let row = |values: &Vec<f64>, expert: usize| {
                values.chunks_exact(entry.k).nth(expert).unwrap_or_default().to_vec()
            };
            let experts = tokens.iter().zip(weights).enumerate();
            input.experts = experts
                .map(|(expert, (&tokens, hessian_weight))| ExpertStatistics {
                    tokens,
                    sum: row(&sum, expert),
                    squares: row(&squares, expert),
                    hessian: None,
                    hessian_weight,
                })
                .collect();
        }
        Ok(input)
    }

    fn rows(&self, index: usize) -> Result<Vec<f32>, StatisticsError> {
        match self.places[index].tensors.get(&Part::Rows) {
            Some(place) => {
                let elements = place.shape.iter().product::<usize>();
                Ok(sample::decode(&self.bytes(index, place.offset, elements, 2)?))
            }
            None => Ok(Vec::new()),
        }
    }

    fn hessian_of(
        &self,
        index: usize,
        expert: Option<usize>,
    ) -> Result<Option<Vec<f32>>, StatisticsError> {
        let part = expert.map_or(Part::Hessian, |_| Part::ExpertHessian);
        let Some(place) = self.places[index].tensors.get(&part) else { return Ok(None) };
        let k = self.inputs[index].k;
        let (elements, size) = (k * k, size_of::<f32>());
        let experts = self.inputs[index].experts.unwrap_or(1);
        let expert = expert.unwrap_or(0);
        assert!(expert < experts, "expert {expert} of {experts}");
        let offset = place.offset + wide(expert * elements * size);
        let bytes = self.bytes(index, offset, elements, size)?;
        Ok(Some(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
    }

    /// The elements of a tensor of 8 bytes each; none if there is no such tensor.
    fn all(&self, index: usize, part: Part) -> Result<Vec<[u8; 8]>, StatisticsError> {
        let Some(place) = self.places[index].tensors.get(&part) else { return Ok(Vec::new()) };
        let elements = place.shape.iter().product::<usize>();
        Ok(self.bytes(index, place.offset, elements, 8)?.as_chunks().0.to_vec())
    }

    /// Bytes that the header proved to be in the file.
    fn bytes(
        &self,
        index: usize,
        offset: u64,
        elements: usize,
        size: usize,
    ) -> Result<Vec<u8>, StatisticsError> {
        let count = elements * size;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(count).map_err(|_| StatisticsError::Memory {
            input: self.inputs[index].linears.first().cloned().unwrap_or_default(),
            bytes: count as u128,
        })?;
        bytes.resize(count, 0);
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(StatisticsError::io("read", &self.path))?;
        Ok(bytes)
    }
}

/// The header's JSON.
fn read_header(path: &Path, file: &File, bytes: u64) -> Result<Vec<u8>, StatisticsError> {
    let limit = LONGEST_HEADER.min(bytes.saturating_sub(LENGTH_BYTES));
    let mut length = [0; 8];
    if bytes >= LENGTH_BYTES {
        file.read_exact_at(&mut length, 0).map_err(StatisticsError::io("read", path))?;
    }
    let found = u64::from_le_bytes(length);
    let length = match usize::try_from(found) {
        Ok(possible) if (2..=limit).contains(&found) => possible,
        _ => return Err(StatisticsError::HeaderLength { path: path.to_owned(), found, limit }),
    };
    let mut json = vec![0; length];
    file.read_exact_at(&mut json, LENGTH_BYTES).map_err(StatisticsError::io("read", path))?;
    Ok(json)
}

/// Every input has linears, and no linear occurs twice.
fn check_names(path: &Path, inputs: &[InputFigures]) -> Result<(), StatisticsError> {
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
fn locate(
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
        (Part::Sum | Part::Squares | Part::RobustSquares, _) => shape == [k],
        (Part::Magnitudes | Part::Rotated, _) => {
            matches!(shape, [bins] if (1..=TensorStatistics::BINS).contains(bins))
        }
        (Part::Hessian, _) => shape == [k, k],
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
        (Part::Sum | Part::Squares | Part::RobustSquares, _) => format!("[{k}]"),
        (Part::Magnitudes | Part::Rotated, _) => format!("[1..={}]", TensorStatistics::BINS),
        (Part::Hessian, _) => format!("[{k}, {k}]"),
        (Part::Rows, _) => format!("[1.., {k}]"),
        (Part::ExpertTokens | Part::ExpertHessianWeight, Some(e)) => format!("[{e}]"),
        (Part::ExpertSum | Part::ExpertSquares, Some(e)) => format!("[{e}, {k}]"),
        (Part::ExpertHessian, Some(e)) => format!("[{e}, {k}, {k}]"),
        (_, None) => return "absent: the input has no experts".to_owned(),
    };
    format!("{} {shape}", part.dtype())
}
