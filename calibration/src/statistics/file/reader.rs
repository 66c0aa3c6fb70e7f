//! Reading statistics, one input at a time, from a file that nobody vouches for.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;
use tessera_formats::pack::LONGEST_HEADER;

use super::FORMAT;
use super::document::{self, HistogramFigures};
use super::layout::{Head, LENGTH_BYTES, Part, wide};
use super::locate::{InputEntry, Place, Places, check_names, locate};
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
        input.cross = self.square(index, Part::Cross, 0)?;
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
            let histogram = TensorStatistics::from_histogram(exponent, &counts, amax);
            histogram.filter(|_| counts.last() != Some(&0)).ok_or_else(|| StatisticsError::Field {
                path: self.path.clone(),
                input: entry.linears.first().cloned().unwrap_or_default(),
                field,
                expected: "counts that agree with amax and the width of bins".to_owned(),
                found: format!("{} bins of 2^{exponent}, amax {amax}", counts.len()),
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
            reference_sum: f64s(Part::ReferenceSum)?,
            massive: figures.massive,
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
        let experts = self.inputs[index].experts.unwrap_or(1);
        let expert = expert.unwrap_or(0);
        assert!(expert < experts, "expert {expert} of {experts}");
        self.square(index, part, expert)
    }

    /// Matrix `number` of a tensor of square ones, not checked.
    fn square(
        &self,
        index: usize,
        part: Part,
        number: usize,
    ) -> Result<Option<Vec<f32>>, StatisticsError> {
        let Some(place) = self.places[index].tensors.get(&part) else { return Ok(None) };
        let k = self.inputs[index].k;
        let (elements, size) = (k * k, size_of::<f32>());
        let offset = place.offset + wide(number * elements * size);
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
