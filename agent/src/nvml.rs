//! NVIDIA's management library, as far as confidential computing goes.
//!
//! The library is part of the measured root and is loaded when it is first
//! used, so that a program built with this starts where there is no GPU.
//!
//! Source: NVML API reference, vR550, "Confidential Computing".

use std::ffi::OsStr;

use attestation::evidence::{GpuEvidence, GpuMode};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use crate::gpu::{GpuError, Gpus};

/// The library, initialised.
#[derive(Debug)]
pub struct Library(Nvml);

impl Library {
    /// Fails where there is no driver.
    pub fn open() -> Result<Self, GpuError> {
        let library = Nvml::builder().lib_path(OsStr::new(NAME)).init();
        library.map(Self).map_err(failed("load libnvidia-ml.so.1"))
    }

    fn device(&self, index: u32) -> Result<Device<'_>, GpuError> {
        let device = self.0.device_by_index(index);
        device.map_err(failed("open a GPU"))
    }
}

impl Gpus for Library {
    fn count(&self) -> Result<u32, GpuError> {
        self.0.device_count().map_err(failed("count the GPUs"))
    }

    /// The library keeps one mode for the whole machine, and wants a GPU to ask for it.
    fn mode(&self) -> Result<GpuMode, GpuError> {
        let device = self.device(0)?;
        let mode = || {
            Ok(GpuMode {
                confidential: device.is_cc_enabled()?,
                dev_tools: device.is_cc_dev_mode_enabled()?,
                accepting_work: device.get_confidential_compute_state()?,
            })
        };
        mode().map_err(failed("ask for the mode of the GPUs"))
    }

    fn evidence(&self, index: u32, nonce: &[u8; 32]) -> Result<GpuEvidence, GpuError> {
        let device = self.device(index)?;
        let report = device.confidential_compute_gpu_attestation_report(*nonce);
        let chain = device.confidential_compute_gpu_certificate();
        Ok(GpuEvidence {
            report: report
                .map_err(failed("get a GPU's report"))?
                .attestation_report,
            chain: chain
                .map_err(failed("get a GPU's certificates"))?
                .attestation_cert_chain,
        })
    }

    fn accept_work(&self) -> Result<(), GpuError> {
        let device = self.device(0)?;
        let done = device.set_confidential_compute_state(true);
        done.map_err(failed("let the GPUs accept work"))
    }
}

fn failed(operation: &'static str) -> impl Fn(NvmlError) -> GpuError {
    move |source| GpuError::Driver {
        operation,
        source: source.into(),
    }
}

const NAME: &str = "libnvidia-ml.so.1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_library_has_one_clear_error() {
        let Err(error) = Library::open() else {
            return; // There is a driver here.
        };
        assert_eq!(error.to_string(), "cannot load libnvidia-ml.so.1");
    }
}
