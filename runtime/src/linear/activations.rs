//! Rows that linears read, with what devices make of them kept beside.

use std::any::{Any, TypeId};
use std::sync::{Arc, Mutex, PoisonError};

/// The rows `[m, k]` that one or more linears read.
///
/// A device prepares rows before it multiplies them: rotates, quantizes. Linears that share an input
/// share what was prepared, through [`Activations::prepared`].
pub struct Activations<'a> {
    values: &'a [f32],
    k: usize,
    batch: usize,
    prepared: Mutex<Vec<Prepared>>,
}

/// What was made of the rows, under the type and the key it was asked for with.
struct Prepared {
    kind: TypeId,
    key: usize,
    value: Arc<dyn Any + Send + Sync>,
}

impl<'a> Activations<'a> {
    /// Rows of `k` values each, row-major.
    ///
    /// # Panics
    ///
    /// If `values` is not a whole number of rows.
    pub fn new(values: &'a [f32], k: usize) -> Self {
        assert!(k > 0 && values.len().is_multiple_of(k), "whole rows of {k} values");
        Activations { values, k, batch: values.len() / k, prepared: Mutex::default() }
    }

    /// The same rows as part of a batch of `rows`, such as those of it that are routed to an expert.
    #[must_use]
    pub fn of_batch(mut self, rows: usize) -> Self {
        self.batch = rows;
        self
    }

    /// Rows of the batch that these are of: what a device may choose the order of its sums by, so that
    /// a row's result does not depend on which others are routed with it.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Values, `[m, k]`, row-major.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Length of a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.k
    }

    /// One row.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.k..(index + 1) * self.k]
    }

    /// What `make` makes of these rows, one for all callers that give the same type and `key`. Threads
    /// that ask at the same time may each make it; what the first has made is kept.
    ///
    /// A device takes as key what its preparation depends on, such as the address of an input's
    /// rotation.
    ///
    /// # Errors
    ///
    /// Those of `make`; nothing is kept then.
    pub fn prepared<T: Any + Send + Sync, E>(
        &self,
        key: usize,
        make: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let kind = TypeId::of::<T>();
        let find = |prepared: &[Prepared]| {
            let found = prepared.iter().find(|entry| entry.kind == kind && entry.key == key)?;
            Arc::clone(&found.value).downcast::<T>().ok()
        };
        let lock = || self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = find(&lock()) {
            return Ok(value);
        }
        let value = Arc::new(make(self)?);
        let mut prepared = lock();
        if let Some(first) = find(&prepared) {
            return Ok(first);
        }
        prepared.push(Prepared { kind, key, value: value.clone() });
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_prepared_once_for_a_type_and_a_key() {
        let values = [1.0f32, 2.0, 3.0, 4.0];
        let x = Activations::new(&values, 2);
        assert_eq!((x.rows(), x.row(1)), (2, &[3.0f32, 4.0][..]));
        let mut made = 0;
        let mut sum = |key: usize| {
            x.prepared(key, |x| {
                made += 1;
                Ok::<f32, ()>(x.values().iter().sum())
            })
        };
        assert_eq!(*sum(0).unwrap(), 10.0);
        assert_eq!(*sum(0).unwrap(), 10.0);
        assert_eq!(*sum(1).unwrap(), 10.0);
        assert_eq!(made, 2);
        assert_eq!(*x.prepared(0, |x| Ok::<usize, ()>(x.rows())).unwrap(), 2);
        assert!(x.prepared(7, |_| Err::<u8, ()>(())).is_err());
        assert_eq!(*x.prepared(7, |_| Ok::<u8, ()>(3)).unwrap(), 3);
    }

    #[test]
    fn threads_that_ask_at_once_get_the_same() {
        let x = Activations::new(&[1.0, 2.0], 2);
        let barrier = std::sync::Barrier::new(2);
        let ask = || {
            let make = |_: &Activations<'_>| {
                barrier.wait();
                Ok::<_, ()>(vec![3u8])
            };
            x.prepared(0, make).unwrap()
        };
        let (a, b) = std::thread::scope(|scope| {
            let other = scope.spawn(ask);
            (ask(), other.join().unwrap())
        });
        assert!(Arc::ptr_eq(&a, &b));
    }
}
