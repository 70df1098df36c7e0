//! The matrix product of a layer, by cuBLAS on the first GPU.
//!
//! Weights stay in the GPU's memory. Rows go there and results come back for each
//! layer: in confidential-computing mode the driver encrypts both on the bus. The
//! order of additions is the library's, which may choose it by the number of rows.

use std::sync::OnceLock;

use candle_core::{Device, Tensor};

/// A matrix `[outputs, inputs]`, kept as `[inputs, outputs]`.
#[derive(Debug)]
pub(super) struct Product(Tensor);

impl Product {
    pub(super) fn new(weight: &Tensor) -> candle_core::Result<Self> {
        Ok(Self(weight.to_device(gpu()?)?.t()?))
    }

    /// One row of the result for each row of `x`.
    pub(super) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let product = x.to_device(gpu()?)?.matmul(&self.0)?;
        product.to_device(&Device::Cpu)
    }
}

/// One context for the whole process.
fn gpu() -> candle_core::Result<&'static Device> {
    static GPU: OnceLock<Device> = OnceLock::new();
    if let Some(gpu) = GPU.get() {
        return Ok(gpu);
    }
    let gpu = Device::new_cuda(0)?;
    Ok(GPU.get_or_init(|| gpu))
}
