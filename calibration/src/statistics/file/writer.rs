//! Writing statistics, one input at a time.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tessera_formats::temporary::TemporaryFile;

use super::layout::{Head, LENGTH_BYTES, Layout, Part};
use crate::clip::TensorStatistics;
use crate::statistics::sample;
use crate::statistics::{ExpertStatistics, InputStatistics, Provenance, StatisticsError};

/// Elements that are encoded at a time.
const CHUNK: usize = 1 << 18;

/// Writes a file whose header is known, into a temporary file beside its place.
pub(in crate::statistics) struct Writer<'a> {
    path: PathBuf,
    file: TemporaryFile,
    heads: &'a [Head],
    layout: Layout,
    written: usize,
}

impl<'a> Writer<'a> {
    /// Begins the file that will stand at `path`.
    pub(in crate::statistics) fn create(
        path: &Path,
        provenance: &Provenance,
        heads: &'a [Head],
    ) -> Result<Self, StatisticsError> {
        let layout = Layout::new(path, provenance, heads)?;
        let file = TemporaryFile::beside(path)
            .map_err(StatisticsError::io("create a file beside", path))?;
        Ok(Writer { path: path.to_owned(), file, heads, layout, written: 0 })
    }

    /// Writes the tensors of input `index`; every input is written once, in order.
    pub(in crate::statistics) fn write(
        &mut self,
        index: usize,
        input: &InputStatistics,
    ) -> Result<(), StatisticsError> {
        input.check(&self.path)?;
        let head = Head::of(input);
        let planned = self.heads.get(index).filter(|_| index == self.written);
        if planned != Some(&head) {
            return Err(StatisticsError::Field {
                path: self.path.clone(),
                input: input.name().to_owned(),
                field: "head",
                expected: format!("{planned:?}"),
                found: format!("{head:?}"),
            });
        }
        self.written += 1;
        for (part, _) in &head.tensors {
            self.write_part(index, *part, input)?;
        }
        Ok(())
    }

    fn write_part(
        &self,
        index: usize,
        part: Part,
        input: &InputStatistics,
    ) -> Result<(), StatisticsError> {
        let offset = self.layout.offsets.get(&(index, part)).copied().unwrap_or_default();
        let mut offset = self.layout.data_start + offset;
        let f64s = |values: &[f64]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let f32s = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let u64s = |values: &[u64]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut put = |bytes: Vec<u8>| {
            let written = self.file.as_file().write_all_at(&bytes, offset);
            offset += super::layout::wide(bytes.len());
            written.map_err(StatisticsError::io("write", &self.path))
        };
        let counts = |histogram: &TensorStatistics| u64s(histogram.histogram().0);
        let experts = &input.experts;
        let each = |figure: fn(&ExpertStatistics) -> f64| {
            f64s(&experts.iter().map(figure).collect::<Vec<_>>())
        };
        match part {
            Part::Sum => put(f64s(&input.sum)),
            Part::Squares => put(f64s(&input.squares)),
            Part::RobustSquares => put(f64s(&input.robust_squares)),
            Part::Magnitudes => put(counts(&input.magnitudes)),
            Part::Rotated => put(counts(&input.rotated)),
            Part::ExpertTokens => {
                put(u64s(&experts.iter().map(|expert| expert.tokens).collect::<Vec<_>>()))
            }
            Part::ExpertHessianWeight => put(each(|expert| expert.hessian_weight)),
            Part::ExpertSum => experts.iter().try_for_each(|expert| put(f64s(&expert.sum))),
            Part::ExpertSquares => experts.iter().try_for_each(|expert| put(f64s(&expert.squares))),
            Part::Hessian => {
                let values = input.hessian.as_deref().unwrap_or_default();
                values.chunks(CHUNK).try_for_each(|values| put(f32s(values)))
            }
            Part::ReferenceSum => put(f64s(&input.reference_sum)),
            Part::Cross => {
                let values = input.cross.as_deref().unwrap_or_default();
                values.chunks(CHUNK).try_for_each(|values| put(f32s(values)))
            }
            Part::ExpertHessian => experts
                .iter()
                .flat_map(|expert| expert.hessian.as_deref().unwrap_or_default().chunks(CHUNK))
                .try_for_each(|values| put(f32s(values))),
            Part::Rows => {
                input.rows.chunks(CHUNK).try_for_each(|values| put(sample::encode(values)))
            }
        }
    }

    /// Completes the file, syncs it and moves it to its place.
    pub(in crate::statistics) fn finish(self) -> Result<(), StatisticsError> {
        let Writer { path, file, heads, layout, written } = self;
        if written != heads.len() {
            let reason = format!("{written} of {} inputs were written", heads.len());
            return Err(StatisticsError::Header { path, reason });
        }
        let length = super::layout::wide(layout.header.len());
        let target = file.as_file();
        target
            .write_all_at(&length.to_le_bytes(), 0)
            .and_then(|()| target.write_all_at(&layout.header, LENGTH_BYTES))
            .and_then(|()| target.set_len(layout.bytes))
            .map_err(StatisticsError::io("write", &path))?;
        file.place(&path, true).map_err(StatisticsError::place)
    }
}
