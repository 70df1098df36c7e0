//! What to trust, from the command line to a policy.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use attestation::nvidia::DevicePolicy;
use attestation::pem;
use attestation::policy::{GpuPolicy, Policy, TdxPolicy, VtpmBuild, VtpmPolicy};
use attestation::tdx::PlatformPolicy;
use clap::Args;
use measurements::release::Release;

use crate::artefacts::read;
use crate::platform::Platform;
use crate::release::{SignerArgs, load};

/// Which machines to take.
#[derive(Args, Debug)]
pub struct TrustArgs {
    /// Release manifest to take instead of the published one.
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    #[command(flatten)]
    signers: SignerArgs,
    /// What has to speak for the machine.
    #[arg(long, value_enum, default_value_t = Platform::Tdx)]
    platform: Platform,
    /// Policy for the TDX platform, TOML; strict without it.
    #[arg(long, value_name = "FILE")]
    tdx_policy: Option<PathBuf>,
    /// Policy for each GPU and switch, TOML; without it any that NVIDIA vouches for and
    /// is known not to have taken back.
    #[arg(long, value_name = "FILE")]
    gpu_policy: Option<PathBuf>,
    /// Root certificate of endorsement keys, PEM or DER, for vtpm; may be repeated.
    #[arg(long, value_name = "FILE", required_if_eq("platform", "vtpm"))]
    vtpm_root: Vec<PathBuf>,
    /// Root certificate of an emulated Intel, DER.
    #[cfg(feature = "test-root")]
    #[arg(long, value_name = "FILE")]
    test_root: Option<PathBuf>,
}

impl TrustArgs {
    /// For a machine of this very host, whose TPM has a certificate of its own.
    pub(crate) fn of_host(
        release: PathBuf,
        platform: Platform,
        vtpm_root: PathBuf,
        tdx_policy: Option<PathBuf>,
    ) -> Self {
        Self {
            release: Some(release),
            signers: SignerArgs::default(),
            platform,
            tdx_policy,
            gpu_policy: None,
            vtpm_root: [vtpm_root].into(),
            #[cfg(feature = "test-root")]
            test_root: None,
        }
    }

    /// Reads what the arguments name. Says so when it is less than a TD.
    pub fn policy(&self) -> anyhow::Result<Policy> {
        let release = self.release()?;
        match self.platform {
            Platform::Tdx => Ok(Policy::Tdx(Box::new(self.tdx(&release)?))),
            Platform::Vtpm => {
                eprintln!("cocoon: platform vtpm: measured boot proved, memory not confidential");
                self.vtpm(&release).map(Policy::Vtpm)
            }
        }
    }

    /// The release that is to be taken, signed by whom the arguments ask for.
    pub(crate) fn release(&self) -> anyhow::Result<Release> {
        match &self.release {
            Some(path) => self.signers.release(path),
            None => release(None),
        }
    }

    fn tdx(&self, release: &Release) -> anyhow::Result<TdxPolicy> {
        let platform = match &self.tdx_policy {
            Some(path) => toml::from_slice(&read(path)?)
                .with_context(|| format!("{} is no TDX platform policy", path.display()))?,
            None => PlatformPolicy::strict(),
        };
        let accepted = attestation::tdx::Policy {
            platform,
            identity: release.td_identity(),
        };
        let device = match &self.gpu_policy {
            Some(path) => toml::from_slice(&read(path)?)
                .with_context(|| format!("{} is no GPU policy", path.display()))?,
            None => DevicePolicy::strict(),
        };
        let policy = TdxPolicy::new(accepted, GpuPolicy::new(release.td_devices(), device));
        #[cfg(feature = "test-root")]
        if let Some(path) = &self.test_root {
            let anchor = attestation::tdx::TrustAnchor::from_certificate(&read(path)?)
                .with_context(|| format!("{} is no certificate", path.display()))?;
            return Ok(policy.under(anchor));
        }
        Ok(policy)
    }

    fn vtpm(&self, release: &Release) -> anyhow::Result<VtpmPolicy> {
        if self.vtpm_root.is_empty() {
            bail!("platform vtpm needs --vtpm-root");
        }
        let anchors = self.vtpm_root.iter().map(|path| certificate(path));
        let builds = release.pcrs().map(|(name, pcrs)| VtpmBuild { name, pcrs });
        Ok(VtpmPolicy {
            anchors: anchors.collect::<Result<_, _>>()?,
            builds: builds.collect(),
        })
    }
}

/// The release in a file, or else the published one.
pub(crate) fn release(path: Option<&Path>) -> anyhow::Result<Release> {
    match path {
        Some(path) => load(path),
        None => Release::parse(PUBLISHED).context("the published release is damaged"),
    }
}

/// The release that this program was published with.
const PUBLISHED: &[u8] = include_bytes!("../../measurements/releases/current.json");

fn certificate(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = read(path)?;
    if !bytes.starts_with(b"-----BEGIN") {
        return Ok(bytes);
    }
    let [der] = pem::certificates(&bytes)
        .with_context(|| format!("{} is not one certificate", path.display()))?;
    Ok(der)
}
