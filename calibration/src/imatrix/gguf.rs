//! Importance matrices in GGUF.
//!
//! A linear `NAME` of `e` matrices has `NAME.in_sum2` (F32 `[e, k]`, Σ x²), `NAME.counts` (F32 `[e]`,
//! or of one element for all matrices) and sometimes `NAME.in_sum` (F32 `[e, k]`, Σ x). Other tensors
//! are left alone, as llama.cpp leaves them.

use std::collections::BTreeMap;
use std::path::Path;

use tessera_formats::ggml::GgmlType;
use tessera_formats::gguf::{Gguf, TensorInfo, Value};

use super::{Entry, ImatrixError, ImportanceMatrix};
use crate::statistics::MOST_ELEMENTS;

const SQUARES: &str = ".in_sum2";
const SUMS: &str = ".in_sum";
const COUNTS: &str = ".counts";

/// Reads the file.
pub(super) fn read(path: &Path) -> Result<ImportanceMatrix, ImatrixError> {
    let gguf = Gguf::open(path)?;
    let metadata = gguf.metadata();
    let kind = metadata.get("general.type");
    if kind.and_then(Value::as_str) != Some("imatrix") {
        let found = kind.map_or("absent".to_owned(), |kind| match kind.as_str() {
            Some(name) => format!("`{name}`"),
            None => kind.type_name().to_owned(),
        });
        return Err(ImatrixError::NotImatrix { path: path.to_owned(), found });
    }
    let datasets = metadata.get("imatrix.datasets").and_then(Value::as_strings);
    let chunk = metadata.get("imatrix.chunk_size").and_then(Value::as_u64);
    let mut entries = BTreeMap::new();
    for tensor in gguf.tensors() {
        let of = |suffix| tensor.name.strip_suffix(suffix).filter(|name| !name.is_empty());
        if let Some(name) = of(SQUARES) {
            entries.insert(name.to_owned(), entry(path, &gguf, name, tensor)?);
        } else if let Some(name) = of(COUNTS).or(of(SUMS)) {
            find(path, &gguf, name, SQUARES)?;
        }
    }
    if entries.is_empty() {
        return Err(ImatrixError::Empty { path: path.to_owned() });
    }
    Ok(ImportanceMatrix {
        path: path.to_owned(),
        entries,
        datasets: datasets.map_or(Vec::new(), |names| names.iter().map(str::to_owned).collect()),
        chunk: chunk.and_then(|chunk| u32::try_from(chunk).ok()),
    })
}

fn find<'a>(
    path: &Path,
    gguf: &'a Gguf,
    name: &str,
    suffix: &str,
) -> Result<&'a TensorInfo, ImatrixError> {
    let tensor = format!("{name}{suffix}");
    gguf.tensor(&tensor).ok_or_else(|| ImatrixError::Tensor {
        path: path.to_owned(),
        tensor,
        expected: "F32".to_owned(),
        found: "missing".to_owned(),
    })
}

/// The entry of a linear, from its sums of squares on.
fn entry(
    path: &Path,
    gguf: &Gguf,
    name: &str,
    squares: &TensorInfo,
) -> Result<Entry, ImatrixError> {
    let counts = find(path, gguf, name, COUNTS)?;
    let sums = gguf.tensor(&format!("{name}{SUMS}"));
    let matrices = squares.elements() / squares.dims.first().copied().unwrap_or(1).max(1);
    let shape = |tensor: &TensorInfo, expected: String| ImatrixError::Tensor {
        path: path.to_owned(),
        tensor: tensor.name.clone(),
        expected,
        found: format!("of {} elements", tensor.elements()),
    };
    if counts.elements() != 1 && counts.elements() != matrices {
        return Err(shape(counts, format!("of {matrices} elements")));
    }
    if let Some(sums) = sums.filter(|sums| sums.elements() != squares.elements()) {
        return Err(shape(sums, format!("of {} elements", squares.elements())));
    }
    let counted = values(path, gguf, counts)?;
    let tokens = counted.iter().enumerate().map(|(index, &found)| {
        whole(found).ok_or_else(|| ImatrixError::Value {
            path: path.to_owned(),
            entry: counts.name.clone(),
            index,
            found,
            expected: "a count below 2^53",
        })
    });
    let tokens: Vec<u64> = tokens.collect::<Result<_, _>>()?;
    let found = values(path, gguf, squares)?;
    if let Some(index) = found.iter().position(|x| !x.is_finite() || *x < 0.0) {
        return Err(ImatrixError::Value {
            path: path.to_owned(),
            entry: squares.name.clone(),
            index,
            found: found[index],
            expected: "a finite number that is not negative",
        });
    }
    let summed = sums.map_or(Ok(Vec::new()), |sums| values(path, gguf, sums))?;
    if let (Some(sums), Some(index)) = (sums, summed.iter().position(|x| !x.is_finite())) {
        return Err(ImatrixError::Value {
            path: path.to_owned(),
            entry: sums.name.clone(),
            index,
            found: summed[index],
            expected: "a finite number",
        });
    }
    // There are as many values as the file has room for.
    let per_count = found.len() / tokens.len().max(1);
    Ok(Entry {
        mean_squares: means(&found, &tokens, per_count),
        means: means(&summed, &tokens, per_count),
        tokens,
    })
}

/// Sums over their counts; 0 where nothing was counted.
fn means(sums: &[f32], tokens: &[u64], per_count: usize) -> Vec<f32> {
    let counts = tokens.iter().flat_map(|&tokens| std::iter::repeat_n(tokens, per_count));
    let mean = |(&sum, tokens): (&f32, u64)| {
        #[expect(clippy::cast_possible_truncation, reason = "rounded to f32 on purpose")]
        let mean = (f64::from(sum) / super::count(tokens.max(1))) as f32;
        if tokens == 0 { 0.0 } else { mean }
    };
    sums.iter().zip(counts).map(mean).collect()
}

/// The count that a float holds.
fn whole(found: f32) -> Option<u64> {
    let limit = super::count(MOST_ELEMENTS);
    let fits = found >= 0.0 && f64::from(found) < limit && found.fract() == 0.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "was checked")]
    fits.then_some(found as u64)
}

/// All of a tensor, whose size the header proved to be in the file.
fn values(path: &Path, gguf: &Gguf, tensor: &TensorInfo) -> Result<Vec<f32>, ImatrixError> {
    if tensor.ggml_type != GgmlType::F32 {
        return Err(ImatrixError::Tensor {
            path: path.to_owned(),
            tensor: tensor.name.clone(),
            expected: GgmlType::F32.name().to_owned(),
            found: tensor.ggml_type.name().to_owned(),
        });
    }
    let mut bytes = vec![0; usize::try_from(tensor.bytes).unwrap_or(usize::MAX)];
    gguf.read_at(tensor, 0, &mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
}
