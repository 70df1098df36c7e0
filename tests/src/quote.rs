//! Quotes of a TD that does not exist, version 4, signed under a made-up Intel.
//!
//! ```text
//! offset  size  field
//!      0    48  header
//!     48   584  TD report body
//!    632     4  n: length of the signature data
//!    636    64  signature over 0..632 by the attestation key
//!    700    64  attestation key
//!    764     6  certification data type 6, size
//!    770   384  report of the quoting enclave, over attestation key and auth data
//!   1154    64  its signature by the PCK
//!   1218    34  auth data with its length
//!   1252     6  certification data type 5, size
//!   1258        PEM: PCK certificate, platform CA, root
//! ```
//!
//! A TD with a fault is one with another [`TdState`]; broken bytes are the
//! recorded vectors' business.
//!
//! Source: Intel TDX DCAP Quoting Library API, 0.9, "Version 4 Quote Format".

use attestation::register::{Digest384, TdRegisters};
use sha2::{Digest, Sha256};

use crate::pki::{Intel, Key};

/// What the TDX module knows of a TD.
#[derive(Clone, Debug)]
pub struct TdState {
    /// Measurements.
    pub registers: TdRegisters,
    /// TDATTRIBUTES.
    pub attributes: u64,
    /// Extended features that the TD may use.
    pub xfam: u64,
    /// The host's word at launch: for us, the digest of the measured config.
    pub mrconfigid: Digest384,
}

impl TdState {
    /// A TD as we run it.
    #[must_use]
    pub const fn new(registers: TdRegisters, mrconfigid: Digest384) -> Self {
        Self {
            registers,
            attributes: SEPT_VE_DISABLE,
            xfam: 0x0006_02e7,
            mrconfigid,
        }
    }

    /// The TD report body.
    fn body(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let TdRegisters {
            mrtd,
            rtmr0,
            rtmr1,
            rtmr2,
            rtmr3,
        } = &self.registers;
        [
            &TEE_TCB_SVN[..],
            // MRSEAM, any; MRSIGNERSEAM and SEAMATTRIBUTES of Intel's module.
            &[0x5e; 48],
            &[0; 48],
            &[0; 8],
            &self.attributes.to_le_bytes(),
            &self.xfam.to_le_bytes(),
            mrtd.as_bytes(),
            self.mrconfigid.as_bytes(),
            // MROWNER, MROWNERCONFIG.
            &[0; 48],
            &[0; 48],
            rtmr0.as_bytes(),
            rtmr1.as_bytes(),
            rtmr2.as_bytes(),
            rtmr3.as_bytes(),
            report_data,
        ]
        .concat()
    }
}

/// TDATTRIBUTES.DEBUG: the host may read and write the TD.
pub const DEBUG: u64 = 1;

/// TDATTRIBUTES.SEPT_VE_DISABLE: no exceptions that the host can cause.
pub const SEPT_VE_DISABLE: u64 = 1 << 28;

/// SVNs of the TDX module and of the platform beneath it.
pub(crate) const TEE_TCB_SVN: [u8; 16] =
    [11, MODULE_VERSION, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Major version of the TDX module: 1.5.
pub(crate) const MODULE_VERSION: u8 = 1;

/// Intel's TD quoting enclave.
pub(crate) const QE_MRSIGNER: [u8; 32] = [
    0xdc, 0x9e, 0x2a, 0x7c, 0x6f, 0x94, 0x8f, 0x17, 0x47, 0x4e, 0x34, 0xa7, 0xfc, 0x43, 0xed, 0x03,
    0x0f, 0x7c, 0x15, 0x63, 0xf1, 0xba, 0xbd, 0xdf, 0x63, 0x40, 0xc8, 0x2e, 0x0e, 0x54, 0xa8, 0xc5,
];

/// ISVPRODID of the TD quoting enclave.
pub(crate) const QE_PRODUCT: u16 = 2;

/// ISVSVN of the TD quoting enclave.
pub(crate) const QE_ISV_SVN: u16 = 4;

/// A quoting enclave on the platform that `intel` certified.
#[derive(Debug)]
pub struct QuotingEnclave {
    attestation_key: Key,
    /// QE report with its signature, auth data, PCK chain.
    certification: Vec<u8>,
}

impl QuotingEnclave {
    /// The same seed gives the same attestation key.
    #[must_use]
    pub fn new(seed: &[u8; 32], intel: &Intel) -> Self {
        let attestation_key = Key::derive(seed, "attestation key");
        let auth_data: [u8; 32] = Sha256::digest("auth data").into();
        let report = qe_report(attestation_key.public(), &auth_data);
        let certification = [
            &report[..],
            &intel.sign_qe_report(&report),
            &(32_u16.to_le_bytes()),
            &auth_data,
            &certification_data(PCK_CHAIN, intel.pck_chain().as_bytes()),
        ]
        .concat();
        Self {
            attestation_key,
            certification,
        }
    }

    /// A quote of `td` over `report_data`.
    #[must_use]
    pub fn quote(&self, td: &TdState, report_data: &[u8; 64]) -> Vec<u8> {
        self.sign(&[&header()[..], &td.body(report_data)].concat())
    }

    /// Whatever is said, as a quote.
    #[must_use]
    pub fn sign(&self, signed: &[u8]) -> Vec<u8> {
        let signature_data = [
            &self.attestation_key.sign_raw(signed)[..],
            self.attestation_key.public(),
            &certification_data(QE_REPORT, &self.certification),
        ]
        .concat();
        [signed, &len_u32(&signature_data), &signature_data].concat()
    }
}

/// Version 4, ECDSA P-256, TDX, SVNs unused, Intel, no user data.
fn header() -> [u8; 48] {
    let mut header = [0; 48];
    header[..8].copy_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0]);
    header[12..28].copy_from_slice(&INTEL_QE_VENDOR);
    header
}

/// Vendor of the quoting enclave.
const INTEL_QE_VENDOR: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];

/// SGX report body of the quoting enclave.
fn qe_report(attestation_key: &[u8], auth_data: &[u8]) -> Vec<u8> {
    let key_hash = Sha256::new()
        .chain_update(attestation_key)
        .chain_update(auth_data)
        .finalize();
    [
        // CPUSVN, MISCSELECT, reserved.
        &[0; 16 + 4 + 28][..],
        // INIT, MODE64BIT, PROVISION_KEY; XFRM.
        &[0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7, 0, 0, 0, 0, 0, 0, 0],
        // MRENCLAVE, any.
        &[0x9e; 32],
        &[0; 32],
        &QE_MRSIGNER,
        &[0; 96],
        &QE_PRODUCT.to_le_bytes(),
        &QE_ISV_SVN.to_le_bytes(),
        &[0; 60],
        &key_hash,
        &[0; 32],
    ]
    .concat()
}

/// Certification data type: a QE report and what certifies it.
const QE_REPORT: u16 = 6;

/// Certification data type: PCK chain, PEM.
const PCK_CHAIN: u16 = 5;

fn certification_data(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len_u32(data), data].concat()
}

fn len_u32(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len())
        .expect("a quote is a few kilobytes")
        .to_le_bytes()
}
