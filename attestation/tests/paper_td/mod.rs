//! A TD, its platform and its Intel, written field by field so that each can be wrong.
//!
//! Whatever is changed before [`Paper::build`] is signed by whoever has to sign it,
//! so that a verifier gets as far as the one check that must refuse.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    dead_code,
    reason = "helpers of tests, each of which uses its own part"
)]

pub(crate) mod der;
pub(crate) mod edit;
#[macro_use]
pub(crate) mod judge;
pub(crate) mod pki;

use attestation::binding::ReportData;
use attestation::register::{Digest384, TdRegisters};
use attestation::tdx::CollateralParts;
use attestation::time::UnixTime;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use pki::{Certificate, Crl, Key, pem};

/// Within every window that a good paper has.
pub(crate) const AT: UnixTime = UnixTime(1_800_000_000);

/// Everything that can be said; the default is good.
#[derive(Clone, Debug)]
pub(crate) struct Paper {
    pub(crate) root: Certificate,
    pub(crate) root_crl: Crl,
    pub(crate) ca: Certificate,
    pub(crate) pck_crl: Crl,
    pub(crate) pck: Certificate,
    pub(crate) tcb_signing: Certificate,
    /// The QE identity's own signer, where it has one.
    pub(crate) qe_signing: Option<Certificate>,
    pub(crate) tcb_info: Value,
    /// Done to its text before it is signed.
    pub(crate) tcb_info_edit: fn(String) -> String,
    pub(crate) tcb_info_key: Key,
    pub(crate) qe_identity: Value,
    pub(crate) qe_identity_key: Key,
    pub(crate) qe_report: Vec<u8>,
    pub(crate) qe_report_key: Key,
    pub(crate) qe_auth: Vec<u8>,
    /// Version, and body type with size in version 5.
    pub(crate) header: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) quote_key: Key,
    pub(crate) attestation_key: Key,
    pub(crate) certification_types: [u16; 2],
    /// What is put into the quote instead of the chain that the rest has.
    pub(crate) quote_chain: Option<String>,
}

/// Everything as a verifier gets it.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) root: Vec<u8>,
    pub(crate) quote: Vec<u8>,
    pub(crate) tcb_info: String,
    pub(crate) tcb_chain: String,
    pub(crate) qe_identity: String,
    pub(crate) qe_chain: String,
    pub(crate) pck_crl: Vec<u8>,
    pub(crate) pck_crl_chain: String,
    pub(crate) root_crl: Vec<u8>,
}

impl Built {
    pub(crate) fn parts(&self) -> CollateralParts<'_> {
        CollateralParts {
            tcb_info: &self.tcb_info,
            tcb_info_issuer_chain: self.tcb_chain.as_bytes(),
            qe_identity: &self.qe_identity,
            qe_identity_issuer_chain: self.qe_chain.as_bytes(),
            pck_crl: &self.pck_crl,
            pck_crl_issuer_chain: self.pck_crl_chain.as_bytes(),
            root_crl: &self.root_crl,
        }
    }
}

impl Paper {
    /// A TD of version 4.
    pub(crate) fn good() -> Self {
        let root = Certificate::root();
        let ca = Certificate::platform_ca();
        Self {
            root_crl: Crl::of(&root),
            pck_crl: Crl::of(&ca),
            root,
            ca,
            pck: Certificate::pck(),
            tcb_signing: Certificate::tcb_signing(),
            qe_signing: None,
            tcb_info: tcb_info(),
            tcb_info_edit: |text| text,
            tcb_info_key: Key::TCB_SIGNING,
            qe_identity: qe_identity(),
            qe_identity_key: Key::TCB_SIGNING,
            qe_report: qe_report(),
            qe_report_key: Key::PCK,
            qe_auth: vec![9; 32],
            header: header(4),
            body: body(),
            quote_key: Key::ATTESTATION,
            attestation_key: Key::ATTESTATION,
            certification_types: [6, 5],
            quote_chain: None,
        }
    }

    /// A TD on a single processor: another CA, which says less of the platform.
    pub(crate) fn processor() -> Self {
        let ca = Certificate::processor_ca();
        let mut pck = Certificate {
            issuer: ca.subject,
            signer: ca.key,
            ..Certificate::pck()
        };
        pck.extensions[2] = pki::sgx_extension(&pki::sgx_fields()[..5]);
        Self {
            pck_crl: Crl::of(&ca),
            ca,
            pck,
            ..Self::good()
        }
    }

    /// A TD of version 5 with the fields of body type 3.
    pub(crate) fn td15() -> Self {
        let mut paper = Self::good();
        paper.header = [header(5), vec![3, 0], 648_u32.to_le_bytes().into()].concat();
        // TEE_TCB_SVN_2 as TEE_TCB_SVN, no service TD.
        let current = paper.body[..16].to_vec();
        paper.body.extend([current, vec![0; 48]].concat());
        paper
    }

    /// A TD of version 5 with the fields of body type 4.
    pub(crate) fn td15_ex() -> Self {
        let mut paper = Self::td15();
        paper.header = [header(5), vec![4, 0], 885_u32.to_le_bytes().into()].concat();
        paper.body.extend([0; 237]);
        paper
    }

    pub(crate) fn build(&self) -> Built {
        let root = self.root.sign();
        let ca = self.ca.sign();
        let tcb_chain = pem(&[self.tcb_signing.sign(), root.clone()]);
        let qe_chain = match &self.qe_signing {
            Some(signing) => pem(&[signing.sign(), root.clone()]),
            None => tcb_chain.clone(),
        };
        let chain = pem(&[self.pck.sign(), ca.clone(), root.clone()]);
        Built {
            quote: self.quote(self.quote_chain.as_ref().unwrap_or(&chain)),
            tcb_info: sealed(
                "tcbInfo",
                &(self.tcb_info_edit)(self.tcb_info.to_string()),
                self.tcb_info_key,
            ),
            qe_identity: sealed(
                "enclaveIdentity",
                &self.qe_identity.to_string(),
                self.qe_identity_key,
            ),
            tcb_chain,
            qe_chain,
            pck_crl: self.pck_crl.sign(),
            pck_crl_chain: pem(&[ca, root.clone()]),
            root_crl: self.root_crl.sign(),
            root,
        }
    }

    /// Adds `bits` to the 64-bit field of the body at `offset`.
    pub(crate) fn set_bits(&mut self, offset: usize, bits: u64) {
        let field = &mut self.body[offset..offset + 8];
        let value = u64::from_le_bytes(field.try_into().unwrap()) | bits;
        field.copy_from_slice(&value.to_le_bytes());
    }

    /// Gives a member of the TCB info another value.
    pub(crate) fn set(&mut self, member: &str, value: impl Into<Value>) {
        self.tcb_info[member] = value.into();
    }

    /// Takes a member out of the TCB info.
    pub(crate) fn remove(&mut self, member: &str) {
        self.tcb_info.as_object_mut().unwrap().remove(member);
    }

    /// Gives the platform's best level another status.
    pub(crate) fn status(&mut self, status: &str) {
        self.tcb_info["tcbLevels"][0]["tcbStatus"] = status.into();
    }

    /// The TDX module's identity in the TCB info.
    pub(crate) fn module(&mut self) -> &mut Value {
        &mut self.tcb_info["tdxModuleIdentities"][0]
    }

    /// Makes the quote's key the one that its QE report names.
    fn bound_qe_report(&self) -> Vec<u8> {
        let mut report = self.qe_report.clone();
        let digest = Sha256::new()
            .chain_update(self.attestation_key.coordinates())
            .chain_update(&self.qe_auth)
            .finalize();
        for (byte, digest) in report[320..352].iter_mut().zip(digest) {
            *byte ^= digest;
        }
        report
    }

    /// The quote alone, with this chain.
    pub(crate) fn quote(&self, chain: &str) -> Vec<u8> {
        let [outer, inner] = self.certification_types;
        let report = self.bound_qe_report();
        let qe = [
            report.clone(),
            self.qe_report_key.sign_raw(&report).into(),
            u16::try_from(self.qe_auth.len())
                .unwrap()
                .to_le_bytes()
                .into(),
            self.qe_auth.clone(),
            inner.to_le_bytes().into(),
            sized(chain.as_bytes()),
        ]
        .concat();
        let signed = [self.header.clone(), self.body.clone()].concat();
        let data = [
            self.quote_key.sign_raw(&signed).into(),
            self.attestation_key.coordinates(),
            outer.to_le_bytes().into(),
            sized(&qe),
        ]
        .concat();
        [signed, sized(&data)].concat()
    }
}

/// Registers of the good TD.
pub(crate) fn registers() -> TdRegisters {
    let digest = |byte| Digest384::from_bytes([byte; 48]);
    TdRegisters {
        mrtd: digest(0x30),
        rtmr0: digest(0x40),
        rtmr1: digest(0x41),
        rtmr2: digest(0x42),
        rtmr3: digest(0x43),
    }
}

/// MRCONFIGID of the good TD.
pub(crate) const MRCONFIGID: Digest384 = Digest384::from_bytes([0x31; 48]);

/// REPORTDATA of the good TD.
pub(crate) const REPORT_DATA: ReportData = ReportData([0x44; 64]);

/// MRSEAM of the good TD.
pub(crate) const MRSEAM: Digest384 = Digest384::from_bytes([0x20; 48]);

/// Offset of MRSIGNERSEAM in the body.
pub(crate) const MRSIGNERSEAM: usize = 64;
/// Offset of SEAMATTRIBUTES in the body.
pub(crate) const SEAMATTRIBUTES: usize = 112;
/// Offset of TDATTRIBUTES in the body.
pub(crate) const TDATTRIBUTES: usize = 120;
/// Offset of XFAM in the body.
pub(crate) const XFAM: usize = 128;
/// Offset of MRTD in the body, and of what follows, 48 bytes each.
pub(crate) const MRTD: usize = 136;
/// Offset of REPORTDATA in the body.
pub(crate) const REPORTDATA: usize = 520;
/// Offset of TEE_TCB_SVN_2 in a body of type 3 or 4.
pub(crate) const TEE_TCB_SVN_2: usize = 584;
/// Offset of MRSERVICETD in a body of type 3 or 4.
pub(crate) const MRSERVICETD: usize = 600;
/// Offset of VMID in a body of type 4.
pub(crate) const VMID: usize = 648;

/// TDX module, its major version, microcode.
pub(crate) const TEE_TCB_SVN: [u8; 16] = [7, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// SGX components of the platform.
pub(crate) const COMPONENTS: [u8; 16] = [5, 5, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];

fn header(version: u8) -> Vec<u8> {
    let vendor = 0x939a_7233_f79c_4ca9_940a_0db3_957f_0607_u128;
    let mut header = vec![version, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0];
    header.extend(vendor.to_be_bytes());
    header.extend([0; 20]);
    header
}

fn body() -> Vec<u8> {
    let sept_ve_disable = 1_u64 << 28;
    let registers = registers();
    [
        &TEE_TCB_SVN[..],
        MRSEAM.as_bytes(),
        &[0; 48 + 8],
        &sept_ve_disable.to_le_bytes(),
        &0x602e7_u64.to_le_bytes(),
        registers.mrtd.as_bytes(),
        MRCONFIGID.as_bytes(),
        &[0; 96],
        registers.rtmr0.as_bytes(),
        registers.rtmr1.as_bytes(),
        registers.rtmr2.as_bytes(),
        registers.rtmr3.as_bytes(),
        &REPORT_DATA.0,
    ]
    .concat()
}

/// Report data is left zero: it is filled in, by exclusive or, when all is built.
fn qe_report() -> Vec<u8> {
    let mut report = vec![0; 384];
    report[48..56].copy_from_slice(&0x15_u64.to_le_bytes());
    report[56..64].copy_from_slice(&0xe7_u64.to_le_bytes());
    report[64..96].fill(0x9e);
    report[128..160].fill(0xdc);
    report[256..258].copy_from_slice(&2_u16.to_le_bytes());
    report[258..260].copy_from_slice(&4_u16.to_le_bytes());
    report
}

fn tcb_info() -> Value {
    let signer = json!({
        "mrsigner": "00".repeat(48),
        "attributes": "00".repeat(8),
        "attributesMask": "FF".repeat(8),
    });
    let mut identity = signer.clone();
    identity["id"] = "TDX_01".into();
    identity["tcbLevels"] = json!([
        isv_level(7, "UpToDate", json!([])),
        isv_level(5, "OutOfDate", json!(["INTEL-SA-00002"])),
        isv_level(3, "Revoked", json!([])),
    ]);
    json!({
        "id": "TDX",
        "version": 3,
        "issueDate": "2027-01-01T00:00:00Z",
        "nextUpdate": "2027-01-31T00:00:00Z",
        "fmspc": "90C06F000000",
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 20,
        "tdxModule": signer,
        "tdxModuleIdentities": [identity],
        "tcbLevels": [
            level(COMPONENTS, 13, TEE_TCB_SVN, "UpToDate"),
            level(COMPONENTS.map(|svn| svn.min(4)), 5, [0; 16], "OutOfDate"),
        ],
    })
}

/// A level of the TCB info.
pub(crate) fn level(sgx: [u8; 16], pcesvn: u16, tdx: [u8; 16], status: &str) -> Value {
    let components = |svns: [u8; 16]| svns.map(|svn| json!({ "svn": svn, "category": "BIOS" }));
    json!({
        "tcb": {
            "sgxtcbcomponents": components(sgx),
            "pcesvn": pcesvn,
            "tdxtcbcomponents": components(tdx),
        },
        "tcbDate": "2026-08-13T00:00:00Z",
        "tcbStatus": status,
    })
}

/// A level of the TDX module or of the quoting enclave.
pub(crate) fn isv_level(isvsvn: u8, status: &str, advisories: Value) -> Value {
    json!({
        "tcb": { "isvsvn": isvsvn },
        "tcbDate": "2026-08-13T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": advisories,
    })
}

fn qe_identity() -> Value {
    json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": "2027-01-01T00:00:00Z",
        "nextUpdate": "2027-01-31T00:00:00Z",
        "tcbEvaluationDataNumber": 20,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "DC".repeat(32),
        "isvprodid": 2,
        "tcbLevels": [
            isv_level(4, "UpToDate", json!([])),
            isv_level(2, "OutOfDate", json!(["INTEL-SA-00003"])),
        ],
    })
}

/// A document around `inner`, signed.
pub(crate) fn sealed(name: &str, inner: &str, key: Key) -> String {
    let signature = hex::encode(key.sign_raw(inner.as_bytes()));
    format!("{{\"{name}\":{inner},\"signature\":\"{signature}\"}}")
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u32::try_from(bytes.len()).unwrap();
    [&len.to_le_bytes(), bytes].concat()
}
