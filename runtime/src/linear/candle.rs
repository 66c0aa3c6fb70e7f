//! A float device on candle: weights in f32 on the CPU or on a GPU, products by candle's matmul.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use thiserror::Error;

use super::float::FloatLinear;
use super::shape::Shape;
use super::{Activations, Linear, LinearError};

/// A device of candle. Clones are the same device.
#[derive(Clone, Debug)]
pub struct CandleDevice(Arc<Device>);

/// Why a device cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CandleDeviceError {
    /// No such GPU, or the feature `cuda` was off when this crate was compiled.
    #[error("CUDA device {ordinal} cannot be used")]
    Cuda {
        /// The GPU.
        ordinal: usize,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CandleDevice {
    /// The processor.
    pub fn cpu() -> Self {
        CandleDevice(Arc::new(Device::Cpu))
    }

    /// A GPU, counted from 0 as CUDA counts them. It needs the feature `cuda`.
    ///
    /// # Errors
    ///
    /// If there is no such GPU, or the feature is off.
    pub fn cuda(ordinal: usize) -> Result<Self, CandleDeviceError> {
        let device = Device::new_cuda(ordinal);
        let wrong = |source| CandleDeviceError::Cuda { ordinal, source: Box::new(source) };
        device.map(|device| CandleDevice(Arc::new(device))).map_err(wrong)
    }
}

/// Weights `[experts, n, k]` in f32 on a device.
///
/// The order of sums is candle's, and may depend on the number of rows that are multiplied: results
/// of other batches may differ in their last bits.
pub struct CandleLinear {
    shape: Shape,
    weights: Tensor,
    device: CandleDevice,
}

impl CandleLinear {
    /// The weights of `linear`, dequantized. Rows of x are taken as they are, also where `linear`
    /// rounds them.
    ///
    /// # Errors
    ///
    /// If there is no memory for the weights, or the device fails.
    pub fn new(linear: &FloatLinear, device: &CandleDevice) -> Result<Self, LinearError> {
        let (shape, weights) = linear.to_f32()?;
        let (n, k) = (shape.n, shape.k);
        let weights = match shape.experts {
            Some(experts) => Tensor::from_vec(weights, (experts, n, k), &device.0),
            None => Tensor::from_vec(weights, (n, k), &device.0),
        };
        let weights = weights.map_err(|source| failed(&shape, source))?;
        Ok(CandleLinear { shape, weights, device: device.clone() })
    }

    /// The rows of x on the device, once for all linears that read them.
    fn upload(&self, x: &Activations<'_>) -> candle_core::Result<Arc<Tensor>> {
        let device = &self.device.0;
        let upload =
            |x: &Activations<'_>| Tensor::from_slice(x.values(), (x.rows(), x.k()), device);
        x.prepared(Arc::as_ptr(device).addr(), upload)
    }

    /// `x[rows] · Wᵀ`; all rows of x if none are named.
    fn product(
        &self,
        weights: &Tensor,
        x: &Activations<'_>,
        rows: Option<&[usize]>,
    ) -> candle_core::Result<Vec<f32>> {
        let weights = weights.t()?;
        let x = self.upload(x)?;
        let product = match rows {
            None => x.matmul(&weights)?,
            Some(rows) => {
                let rows = rows.iter().map(|&row| u32::try_from(row));
                let rows = rows.collect::<Result<Vec<_>, _>>().map_err(candle_core::Error::wrap)?;
                let count = rows.len();
                let rows = Tensor::from_vec(rows, count, &self.device.0)?;
                x.index_select(&rows, 0)?.matmul(&weights)?
            }
        };
        product.flatten_all()?.to_vec1()
    }
}

fn failed(shape: &Shape, source: candle_core::Error) -> LinearError {
    LinearError::Device { name: shape.name.clone(), device: "candle", source: Box::new(source) }
}

impl Linear for CandleLinear {
    fn experts(&self) -> Option<usize> {
        self.shape.experts
    }

    fn n(&self) -> usize {
        self.shape.n
    }

    fn k(&self) -> usize {
        self.shape.k
    }

    fn apply(&self, x: &Activations<'_>, out: &mut [f32]) -> Result<(), LinearError> {
        self.shape.check_plain(x, out)?;
        if !out.is_empty() {
            let product = self.product(&self.weights, x, None);
            out.copy_from_slice(&product.map_err(|source| failed(&self.shape, source))?);
        }
        Ok(())
    }

    fn apply_expert(
        &self,
        expert: usize,
        x: &Activations<'_>,
        rows: &[usize],
        out: &mut [f32],
    ) -> Result<(), LinearError> {
        self.shape.check_expert(expert, x, rows, out)?;
        if !out.is_empty() {
            let weights = self.weights.get(expert);
            let product = weights.and_then(|weights| self.product(&weights, x, Some(rows)));
            out.copy_from_slice(&product.map_err(|source| failed(&self.shape, source))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tessera_formats::ggml::GgmlType;

    use super::*;

    /// Linears of the same weights on the default device and on candle.
    fn linears(experts: Option<usize>, n: usize, k: usize) -> (FloatLinear, CandleLinear) {
        let rows = experts.unwrap_or(1) * n;
        // Q8_0: a scale of 1 in f16, then 32 integers.
        let block = |block: usize| {
            let first = u8::try_from(block * 29 % 17).unwrap();
            let integers = (0u8..32).map(move |i| (first + i * 7) % 17);
            [0x00, 0x3c].into_iter().chain(integers)
        };
        let bytes = (0..rows * k / 32).flat_map(block).collect();
        let q8_0 = GgmlType::from_name("Q8_0").unwrap();
        let float = FloatLinear::new("w", q8_0, (experts, n, k), bytes).unwrap();
        let candle = CandleLinear::new(&float, &CandleDevice::cpu()).unwrap();
        (float, candle)
    }

    /// Small integers: products are exact in any order.
    fn integers(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 13) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn products_are_those_of_the_default_device() {
        // The last has more weights than a thread dequantizes at a time.
        for (m, n, k) in [(0, 2, 32), (1, 3, 64), (4, 40, 64), (70, 17, 96), (2, 600, 4096)] {
            let (float, candle) = linears(None, n, k);
            let values = integers(m * k);
            let x = Activations::new(&values, k);
            let (mut expected, mut found) = (vec![f32::NAN; m * n], vec![f32::NAN; m * n]);
            float.apply(&x, &mut expected).unwrap();
            candle.apply(&x, &mut found).unwrap();
            assert_eq!(found, expected, "{m} {n} {k}");
        }
    }

    #[test]
    fn experts_multiply_the_rows_that_come_to_them() {
        let (float, candle) = linears(Some(3), 4, 32);
        let values = integers(6 * 32);
        let x = Activations::new(&values, 32);
        for (expert, rows) in [(0, &[0][..]), (2, &[1, 5]), (1, &[0, 1, 2, 3, 4, 5]), (1, &[])] {
            let mut expected = vec![f32::NAN; rows.len() * 4];
            let mut found = expected.clone();
            float.apply_expert(expert, &x, rows, &mut expected).unwrap();
            candle.apply_expert(expert, &x, rows, &mut found).unwrap();
            assert_eq!(found, expected, "{expert} {rows:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let values = [0.0; 64];
        let x = Activations::new(&values, 32);
        let (_, plain) = linears(None, 4, 32);
        let (_, experts) = linears(Some(3), 4, 32);
        let expert = |result| matches!(result, Err(LinearError::Expert { .. }));
        let length = |result| matches!(result, Err(LinearError::Length { .. }));
        assert!(expert(plain.apply_expert(0, &x, &[0], &mut [0.0; 4])));
        assert!(expert(experts.apply(&x, &mut [0.0; 8])));
        assert!(expert(experts.apply_expert(3, &x, &[0], &mut [0.0; 4])));
        assert!(expert(experts.apply_expert(0, &x, &[2], &mut [0.0; 4])));
        assert!(length(experts.apply_expert(0, &x, &[0], &mut [0.0; 5])));
        assert!(length(plain.apply(&x, &mut [0.0; 7])));
        assert!(length(plain.apply(&Activations::new(&values, 64), &mut [0.0; 4])));
    }

    #[test]
    fn linears_of_one_input_share_its_upload() {
        let values = integers(2 * 32);
        let x = Activations::new(&values, 32);
        let (float, one) = linears(None, 4, 32);
        let other = CandleLinear::new(&float, &one.device).unwrap();
        let elsewhere = CandleLinear::new(&float, &CandleDevice::cpu()).unwrap();
        let uploads = [&one, &other, &elsewhere].map(|linear| linear.upload(&x).unwrap());
        assert!(Arc::ptr_eq(&uploads[0], &uploads[1]));
        assert!(!Arc::ptr_eq(&uploads[0], &uploads[2]));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_its_feature_there_is_no_gpu() {
        let error = CandleDevice::cuda(1).unwrap_err();
        assert_eq!(error.to_string(), "CUDA device 1 cannot be used");
    }
}
