//! The rotations: of the residual stream, and of the heads of values in a layer.

use std::ops::Range;

use tessera_runtime::model::Attention;
use tessera_runtime::rotation::{Rotation, RotationError, signs};

/// Columns that are rotated together: 64 bytes of each row.
const LANE: usize = 16;

/// An orthogonal matrix R·diag(s).
#[derive(Clone, Debug)]
pub struct Turn {
    rotation: Rotation,
    signs: Vec<f32>,
}

impl Turn {
    /// The rotation of the residual stream, `width` channels.
    pub fn of_residual(seed: u64, width: usize) -> Result<Self, RotationError> {
        Ok(Turn { rotation: Rotation::hadamard(width)?, signs: signs(seed, "residual", width) })
    }

    /// R.
    pub fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// s, scaled by a gain: what a row of weights is multiplied by before R.
    pub fn scaled(&self, gain: Option<&[f32]>) -> Vec<f32> {
        match gain {
            Some(gain) => self.signs.iter().zip(gain).map(|(sign, gain)| sign * gain).collect(),
            None => self.signs.clone(),
        }
    }

    /// Every row of `values`, `[_, k]`, becomes R·diag(`vector`)·row.
    pub fn rows(&self, values: &mut [f32], vector: &[f32], scratch: &mut Vec<f32>) {
        scratch.resize(self.rotation.scratch_len(), 0.0);
        for row in values.chunks_exact_mut(self.rotation.k()) {
            self.rotation.apply_scaled(row, vector, scratch);
        }
    }

    /// Every column of `values`, `[k, columns]`, becomes R·diag(s)·column.
    pub fn columns(&self, values: &mut [f32], columns: usize, scratch: &mut Vec<f32>) {
        rotate_columns(&self.rotation, &self.signs, values, columns, scratch);
    }

    /// A vector of k elements becomes R·diag(s)·vector.
    pub fn vector(&self, values: &mut [f32]) {
        self.rows(values, &self.signs, &mut Vec::new());
    }

    /// Elements of scratch space for `columns`.
    pub fn scratch_len(&self) -> usize {
        LANE * self.rotation.k() + self.rotation.scratch_len()
    }
}

/// Orthogonal matrices of a layer's heads of values, each R·diag(s) with the signs of its head.
#[derive(Clone, Debug)]
pub struct HeadTurn {
    rotation: Rotation,
    /// `[kv_heads, length]`.
    signs: Vec<f32>,
    /// Query heads that read one head of values.
    group: usize,
}

impl HeadTurn {
    /// Those of a layer.
    pub fn of_layer(seed: u64, layer: usize, attention: &Attention) -> Result<Self, RotationError> {
        let Attention { heads, kv_heads, value_length, .. } = *attention;
        Ok(HeadTurn {
            rotation: Rotation::hadamard(value_length)?,
            signs: signs(seed, &format!("blk.{layer}.value_heads"), kv_heads * value_length),
            group: heads / kv_heads,
        })
    }

    /// R.
    pub fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    /// Length of a head.
    pub fn length(&self) -> usize {
        self.rotation.k()
    }

    fn signs_of(&self, kv_head: usize) -> &[f32] {
        &self.signs[kv_head * self.length()..(kv_head + 1) * self.length()]
    }

    /// Outputs of V, `values` `[heads · length, columns]` of whole heads from `first` on: every
    /// column of each head is rotated.
    pub fn outputs(
        &self,
        values: &mut [f32],
        first: usize,
        columns: usize,
        scratch: &mut Vec<f32>,
    ) {
        for (index, head) in values.chunks_exact_mut(self.length() * columns).enumerate() {
            rotate_columns(&self.rotation, self.signs_of(first + index), head, columns, scratch);
        }
    }

    /// Inputs of the attention output: a row's elements of whole query heads from `first` on, which
    /// read the heads of values in groups.
    pub fn inputs(&self, row: &mut [f32], first: usize, scratch: &mut Vec<f32>) {
        scratch.resize(self.rotation.scratch_len(), 0.0);
        for (index, head) in row.chunks_exact_mut(self.length()).enumerate() {
            let signs = self.signs_of((first + index) / self.group);
            self.rotation.apply_scaled(head, signs, scratch);
        }
    }
}

/// Every column of `values`, `[k, columns]`, becomes R·diag(`signs`)·column.
fn rotate_columns(
    rotation: &Rotation,
    signs: &[f32],
    values: &mut [f32],
    columns: usize,
    scratch: &mut Vec<f32>,
) {
    let k = rotation.k();
    scratch.resize(LANE * k + rotation.scratch_len(), 0.0);
    let (lane, rest) = scratch.split_at_mut(LANE * k);
    for first in (0..columns).step_by(LANE) {
        let here: Range<usize> = first..columns.min(first + LANE);
        for (index, row) in values.chunks_exact(columns).enumerate() {
            for (column, value) in row[here.clone()].iter().enumerate() {
                lane[column * k + index] = *value;
            }
        }
        for column in lane.chunks_exact_mut(k).take(here.len()) {
            rotation.apply_scaled(column, signs, rest);
        }
        for (index, row) in values.chunks_exact_mut(columns).enumerate() {
            for (column, value) in row[here.clone()].iter_mut().enumerate() {
                *value = lane[column * k + index];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vector without pattern.
    fn ramp(count: usize, factor: f32) -> Vec<f32> {
        let wave = |index: usize| libm::sinf(index as f32 * factor + 1.0);
        (0..count).map(wave).collect()
    }

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// W·x with W = [n, k].
    fn product(weights: &[f32], x: &[f32]) -> Vec<f32> {
        weights.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
    }

    fn close(a: &[f32], b: &[f32]) {
        assert_eq!(a.len(), b.len());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4), "{a:?} {b:?}");
    }

    #[test]
    fn readers_and_writers_agree_on_the_stream() {
        let (width, k) = (48, 21);
        let turn = Turn::of_residual(7, width).unwrap();
        let (x, h) = (ramp(k, 1.3), ramp(width, 0.7));
        let (gain, mut scratch) = (ramp(width, 2.1), Vec::new());

        // What a writer adds is what it added, rotated; so is a bias.
        let mut writer = ramp(width * k, 0.37);
        let mut added = product(&writer, &x);
        turn.columns(&mut writer, k, &mut scratch);
        turn.vector(&mut added);
        close(&product(&writer, &x), &added);

        // A reader makes of a rotated state what it made of the state and the gain.
        let reader = ramp(5 * width, 0.53);
        let gained: Vec<_> = h.iter().zip(&gain).map(|(h, gain)| h * gain).collect();
        let mut rotated = reader.clone();
        turn.rows(&mut rotated, &turn.scaled(Some(&gain)), &mut scratch);
        let mut state = h.clone();
        turn.vector(&mut state);
        assert!((dot(&state, &state) - dot(&h, &h)).abs() < 1e-3);
        close(&product(&rotated, &state), &product(&reader, &gained));
    }

    #[test]
    fn heads_of_values_meet_the_query_heads_that_read_them() {
        let attention = Attention {
            heads: 6,
            kv_heads: 2,
            key_length: 4,
            value_length: 12,
            scale: 1.0,
            soft_cap: None,
            window: None,
            rope: None,
        };
        let turn = HeadTurn::of_layer(3, 5, &attention).unwrap();
        let (width, mut scratch) = (20, Vec::new());
        let (values, output, x) = (ramp(24 * width, 0.3), ramp(72, 0.9), ramp(width, 1.7));
        // A row of the attention output reads every query head, which has its group's values.
        let mixed = |values: &[f32]| -> Vec<f32> {
            (0..6).flat_map(|head| values[head / 3 * 12..(head / 3 + 1) * 12].to_vec()).collect()
        };
        let before = dot(&output, &mixed(&product(&values, &x)));
        let (mut turned, mut row) = (values.clone(), output.clone());
        turn.outputs(&mut turned, 0, width, &mut scratch);
        turn.inputs(&mut row, 0, &mut scratch);
        assert!((dot(&row, &mixed(&product(&turned, &x))) - before).abs() < 1e-4);
        assert!(turned.iter().zip(&values).all(|(turned, value)| turned != value));

        // In parts it is the same.
        let mut parts = values;
        let (first, second) = parts.split_at_mut(12 * width);
        turn.outputs(second, 1, width, &mut scratch);
        turn.outputs(first, 0, width, &mut scratch);
        assert_eq!(parts, turned);
        let mut parts = output;
        let (first, second) = parts.split_at_mut(4 * 12);
        turn.inputs(second, 4, &mut scratch);
        turn.inputs(first, 0, &mut scratch);
        assert_eq!(parts, row);
    }
}
