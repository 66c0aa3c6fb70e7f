//! What is being checked: an entry of the manifest, and the tensors that entries name.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::path::Path;

use safetensors::Dtype;

use crate::pack::error::PackError;
use crate::pack::header::TensorEntry;

/// Greatest N, K or expert count: sizes are `i32` in the NPU's interfaces.
const GREATEST_DIM: u64 = i32::MAX as u64;

/// The tensors of a shard that no entry of the manifest has named yet.
pub(super) struct Named<'a> {
    pub path: &'a Path,
    pub data_start: u64,
    pub tensors: HashMap<&'a str, &'a TensorEntry>,
}

impl Named<'_> {
    /// Takes the tensor an entry names; a second entry that names it does not find it.
    pub fn take(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[u64],
        alignment: u64,
    ) -> Result<(), PackError> {
        let path = self.path.to_owned();
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(PackError::Missing { path, tensor: name.to_owned() });
        };
        if tensor.dtype != dtype || tensor.shape != shape {
            return Err(PackError::Tensor {
                path,
                tensor: name.to_owned(),
                expected: format!("{dtype} {shape:?}"),
                found: format!("{} {:?}", tensor.dtype, tensor.shape),
            });
        }
        let offset = self
            .data_start
            .checked_add(tensor.begin)
            .ok_or_else(|| PackError::overflow(self.path, name))?;
        if !offset.is_multiple_of(alignment) {
            let tensor = name.to_owned();
            return Err(PackError::Misaligned { path, tensor, offset, alignment });
        }
        Ok(())
    }
}

/// What is being checked, for errors.
#[derive(Clone, Copy)]
pub(in crate::pack) struct Item<'a> {
    pub path: &'a Path,
    pub name: &'a str,
}

impl Item<'_> {
    pub(in crate::pack) fn field(
        self,
        field: &'static str,
        found: impl Display,
        expected: String,
    ) -> PackError {
        PackError::Field {
            path: self.path.to_owned(),
            item: self.name.to_owned(),
            field,
            expected,
            found: found.to_string(),
        }
    }

    pub(in crate::pack) fn check(
        self,
        field: &'static str,
        holds: bool,
        found: impl Display,
        expected: impl FnOnce() -> String,
    ) -> Result<(), PackError> {
        if holds { Ok(()) } else { Err(self.field(field, found, expected())) }
    }

    pub(in crate::pack) fn equal<T: PartialEq + Debug>(
        self,
        field: &'static str,
        found: T,
        expected: T,
    ) -> Result<(), PackError> {
        self.check(field, found == expected, format!("{found:?}"), || format!("{expected:?}"))
    }

    pub(in crate::pack) fn dim(self, field: &'static str, found: u64) -> Result<(), PackError> {
        self.check(field, (1..=GREATEST_DIM).contains(&found), found, || {
            format!("1 to {GREATEST_DIM}")
        })
    }
}
