//! `cocoon verify gpu`: the report of one device, in files.

use std::path::PathBuf;

use anyhow::Context;
use attestation::appraisal::Verdict;
use attestation::nvidia::{DevicePolicy, GpuFiles, judge};
use attestation::tdx::{Hex, Report};
use attestation::time::UnixTime;
use clap::Args;

use crate::artefacts::read;
use crate::stored::print;

/// Files of a device's report.
#[derive(Args, Debug)]
pub struct GpuArgs {
    /// SPDM request and response.
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    /// The device's certificates, PEM, its own first.
    #[arg(long, value_name = "FILE")]
    chain: PathBuf,
    /// Reference manifests of driver and firmware; can be given several times.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    rim: Vec<PathBuf>,
    /// Revocation lists, DER.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    crl: Vec<PathBuf>,
    /// OCSP responses, DER.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    ocsp: Vec<PathBuf>,
    /// The nonce that the report must answer: 64 hex digits.
    #[arg(long, value_name = "HEX")]
    nonce: String,
    /// Time to judge by, in seconds since 1970.
    #[arg(long, value_name = "UNIX")]
    at: u64,
    /// Policy, TOML; without it, any device with software that NVIDIA vouches for.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl GpuArgs {
    pub(crate) fn run(&self) -> Verdict {
        print(self.judge(), self.json)
    }

    fn judge(&self) -> anyhow::Result<Report> {
        let all = |paths: &[PathBuf]| -> anyhow::Result<Vec<_>> {
            paths.iter().map(|path| read(path)).collect()
        };
        let (rims, crls, ocsp) = (all(&self.rim)?, all(&self.crl)?, all(&self.ocsp)?);
        let policy = match &self.policy {
            Some(path) => toml::from_slice(&read(path)?)
                .with_context(|| format!("{} is no policy for a device", path.display()))?,
            None => DevicePolicy::any(),
        };
        let nonce: Hex<32> = self.nonce.parse().context("--nonce")?;
        let files = GpuFiles {
            report: &read(&self.report)?,
            chain: &read(&self.chain)?,
            rims: &rims,
            crls: &crls,
            ocsp: &ocsp,
        };
        Ok(judge(files, &nonce, &policy, UnixTime(self.at)))
    }
}
