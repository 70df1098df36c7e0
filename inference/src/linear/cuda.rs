//! The matrix product of a layer, by cuBLAS on the first GPU: what is computed there of
//! models that do not run there as a whole (`decoder/device.rs`).
//!
//! Weights stay in the GPU's memory, as f32. Rows go there and results come back
//! for each layer: in confidential-computing mode the driver encrypts both on the
//! bus. The order of additions is the library's, which may choose it by the number
//! of rows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::cuda_backend::CudaError;
use candle_core::cuda_backend::cudarc::driver::{DriverError, sys::CUresult};
use candle_core::{Device, Error, Tensor};

use super::Job;
use crate::kernel::input::Forms;
use crate::kernel::matrix::{Matrix, Then};
use crate::kernel::pool::Pool;

/// Matrices, one below the other.
#[derive(Debug)]
pub(super) struct Product(Box<Mutex<Place>>);

#[derive(Debug)]
enum Place {
    /// Not yet on the GPU; a decoder that runs there takes them whole.
    Here(Vec<Arc<Matrix>>),
    /// `[outputs, inputs]`, kept as `[inputs, outputs]`.
    There(Tensor),
}

impl Product {
    #[expect(clippy::unnecessary_wraps, reason = "as of the processor's")]
    pub(super) fn new(parts: Vec<Arc<Matrix>>) -> candle_core::Result<Self> {
        Ok(Self(Box::new(Mutex::new(Place::Here(parts)))))
    }

    pub(super) fn leave(&mut self) {
        *self.0.get_mut().unwrap_or_else(PoisonError::into_inner) = Place::Here(Vec::new());
    }

    pub(super) fn parts(&self) -> Vec<Arc<Matrix>> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Place::Here(parts) => parts.clone(),
            Place::There(_) => Vec::new(),
        }
    }

    /// On the GPU, from the first product on.
    fn tensor(&self) -> candle_core::Result<Tensor> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = match &mut *place {
            Place::There(tensor) => return Ok(tensor.clone()),
            Place::Here(parts) => &*parts,
        };
        let mut tensors = Vec::with_capacity(parts.len());
        for part in parts {
            let (outputs, inputs) = (part.outputs(), part.inputs());
            let mut numbers = vec![0.0_f32; outputs.saturating_mul(inputs)];
            for (index, row) in numbers.chunks_exact_mut(inputs.max(1)).enumerate() {
                part.row(index, row);
            }
            tensors.push(Tensor::from_vec(numbers, (outputs, inputs), gpu()?)?);
        }
        let tensor = Tensor::cat(&tensors, 0)?.t()?;
        *place = Place::There(tensor.clone());
        Ok(tensor)
    }

    pub(super) fn forms(&self) -> Forms {
        Forms::default()
    }

    fn apply(&self, job: Job<'_>) -> candle_core::Result<()> {
        let numbers = job.rows.iter().flat_map(|row| &row.numbers);
        let x: Vec<f32> = numbers.copied().collect();
        let x = Tensor::from_vec(x, (job.rows.len(), ()), gpu()?)?;
        let product = x.matmul(&self.tensor()?)?.flatten_all()?.to_vec1::<f32>()?;
        let width = job.width.max(1);
        for (y, x) in job.y.chunks_mut(width).zip(product.chunks(width)) {
            match job.then {
                Then::Add => y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
                Then::Set([]) => y.copy_from_slice(x),
                Then::Set(bias) => {
                    let sums = x.iter().zip(bias);
                    y.iter_mut()
                        .zip(sums)
                        .for_each(|(y, (x, bias))| *y = x + bias);
                }
            }
        }
        Ok(())
    }
}

pub(super) fn apply(_pool: &mut Pool, jobs: Vec<Job<'_>>) -> candle_core::Result<()> {
    let done = jobs.into_iter().try_for_each(|job| job.product.apply(job));
    LOST.fetch_or(done.as_ref().is_err_and(loses_device), Ordering::Relaxed);
    done
}

/// Whether the GPU has failed.
pub(super) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Whether the GPU may do nothing right any more: after an error of its driver, but for
/// one about room, it gives the same one for everything. All else was refused before.
fn loses_device(error: &Error) -> bool {
    match error {
        Error::Context { inner, .. } | Error::WithBacktrace { inner, .. } => loses_device(inner),
        Error::Cuda(error) => match error.downcast_ref() {
            Some(CudaError::Cuda(DriverError(code))) => *code != CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            _ => true,
        },
        _ => false,
    }
}

static LOST: AtomicBool = AtomicBool::new(false);

/// One context for the whole process.
fn gpu() -> candle_core::Result<&'static Device> {
    static GPU: OnceLock<Device> = OnceLock::new();
    if let Some(gpu) = GPU.get() {
        return Ok(gpu);
    }
    let gpu = Device::new_cuda(0)?;
    Ok(GPU.get_or_init(|| gpu))
}
