//! The verdict on a paper, as one word.

use attestation::nvidia::{
    Demand, DevicePolicy, Mode, Policy, Report, Revocation, Rim, Verified, appraise, verify_under,
};

use super::pki::{Crl, Ocsp};
use super::rim::Manifest;
use super::{AT, Device, NONCE, manifests, roots};

/// Devices of one machine, and all that is needed to judge them.
#[derive(Clone, Debug)]
pub(crate) struct Paper {
    pub(crate) devices: Vec<Device>,
    pub(crate) manifests: Vec<Manifest>,
    pub(crate) crls: Vec<Crl>,
    pub(crate) ocsp: Vec<Ocsp>,
    pub(crate) policy: Policy,
}

impl Paper {
    /// One GPU.
    pub(crate) fn good() -> Self {
        let [driver, vbios, _] = manifests();
        Self {
            devices: vec![Device::gpu(0)],
            manifests: vec![driver, vbios],
            crls: Vec::new(),
            ocsp: Vec::new(),
            policy: Policy {
                gpus: 1,
                switches: 0,
                mode: Mode::Passthrough,
                device: DevicePolicy::any(),
            },
        }
    }

    /// Two GPUs and two switches.
    pub(crate) fn machine() -> Self {
        let mut paper = Self::good();
        paper.devices = Device::machine();
        paper.manifests = manifests().into();
        paper.policy.gpus = 2;
        paper.policy.switches = 2;
        paper.policy.mode = Mode::ProtectedPcie;
        paper
    }

    /// One GPU, of whose certificates and manifests everything is known.
    pub(crate) fn answered() -> Self {
        let mut paper = Self::good();
        paper.policy.device.revocation = Demand::Required;
        let [_, brom, provisioner, identity, root] = paper.device().chain.clone();
        paper.ocsp = vec![Ocsp::of(&brom)];
        paper.crls = vec![Crl::of(&root), Crl::of(&identity)];
        let [signer, level_3, ca, _] = paper.manifests[0].chain.clone();
        paper
            .ocsp
            .extend([Ocsp::of(&signer), Ocsp::of(&level_3), Ocsp::of(&ca)]);
        assert_eq!(provisioner.issuer, identity.subject);
        paper
    }

    /// The first of them.
    pub(crate) fn device(&mut self) -> &mut Device {
        &mut self.devices[0]
    }

    /// The first failure, if any.
    pub(crate) fn judge(&self) -> Result<(), String> {
        let [_, manifest_root] = roots();
        let (crls, ocsp) = self.revocation();
        let revocation = parse(&crls, &ocsp)?;
        let verified = self.devices.iter().map(|device| self.verify(device));
        let verified: Vec<_> = verified.collect::<Result<_, _>>()?;
        let mut rims = Vec::new();
        for manifest in &self.manifests {
            let rim = Rim::verify_under(&manifest_root, &manifest.sign(), &revocation, AT);
            rims.push(rim.map_err(|error| error.code())?);
        }
        match appraise(verified, &rims, &self.policy) {
            Ok(_) => Ok(()),
            Err(rejection) => {
                let failed = rejection.checks.iter().find(|check| !check.passed);
                Err(failed.unwrap().name.into())
            }
        }
    }

    pub(crate) fn verify(&self, device: &Device) -> Result<Verified, String> {
        let [device_root, _] = roots();
        let (crls, ocsp) = self.revocation();
        let revocation = parse(&crls, &ocsp)?;
        let (bytes, chain) = (device.report(), device.chain_pem());
        let report = Report::parse(&bytes).map_err(|error| String::from(error.code()))?;
        verify_under(
            &device_root,
            report,
            chain.as_bytes(),
            &revocation,
            &NONCE,
            AT,
        )
        .map_err(|error| error.code())
    }

    fn revocation(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let crls = self.crls.iter().map(Crl::sign).collect();
        (crls, self.ocsp.iter().map(Ocsp::sign).collect())
    }
}

fn parse<'a>(crls: &'a [Vec<u8>], ocsp: &'a [Vec<u8>]) -> Result<Revocation<'a>, String> {
    let slices = |ders: &'a [Vec<u8>]| ders.iter().map(Vec::as_slice);
    Revocation::parse(slices(crls), slices(ocsp)).map_err(|error| error.code().into())
}

/// Rows of a table: `"reason": "what is wrong" => |paper| how;`.
#[allow(unused_macros, reason = "not every test has a table")]
macro_rules! faults {
    ($($code:literal: $what:literal => $change:expr;)*) => {
        &[$(($what, $change, $code)),*]
    };
}

/// A fault, and the reason that it must give.
pub(crate) type Row = (&'static str, fn(&mut Paper), &'static str);

pub(crate) fn check(good: fn() -> Paper, rows: &[Row]) {
    assert_eq!(good().judge(), Ok(()));
    for (what, change, expected) in rows {
        let mut paper = good();
        change(&mut paper);
        assert_eq!(paper.judge(), Err((*expected).into()), "{what}");
    }
}
