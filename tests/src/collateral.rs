//! What a made-up Intel says of its platform: TCB info, identity of the quoting
//! enclave, revocation lists.
//!
//! The JSON has the members in Intel's order, which a contract relies on.
//!
//! Every fault is a value: change a field of [`Statements`] and all of it is
//! signed again, so that a verifier reaches the one check that must refuse.
//!
//! Source: Intel PCS API 4.0, "TCB info V3" and "Enclave identity V2".

use attestation::evidence::Collateral;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::pki::{Intel, Platform, Window};
use crate::quote::{MODULE_VERSION, QE_ISV_SVN, QE_MRSIGNER, QE_PRODUCT, TEE_TCB_SVN};

/// By the names of `attestation::tdx::CollateralFiles`.
#[must_use]
pub fn files(collateral: &Collateral) -> [(&'static str, &[u8]); 6] {
    [
        ("tcb_info.json", collateral.tcb_info.as_bytes()),
        (
            "tcb_info_issuer_chain.pem",
            collateral.tcb_info_issuer_chain.as_bytes(),
        ),
        ("td_qe_identity.json", collateral.qe_identity.as_bytes()),
        ("pck_crl.der", &collateral.pck_crl),
        (
            "pck_crl_issuer_chain.pem",
            collateral.pck_crl_issuer_chain.as_bytes(),
        ),
        ("root_ca_crl.der", &collateral.root_ca_crl),
    ]
}

/// What Intel is to say.
#[derive(Clone, Debug)]
pub struct Statements {
    /// The platform that it is about.
    pub platform: Platform,
    /// When it is said, and until when it holds.
    pub valid: Window,
    /// `tcbEvaluationDataNumber` of both JSON documents.
    pub evaluation: u32,
    /// Status of the platform's level.
    pub platform_status: &'static str,
    /// Status of the TDX module's level.
    pub module_status: &'static str,
    /// Status of the quoting enclave's level.
    pub qe_status: &'static str,
    /// Whether the platform's PCK certificate is on the list.
    pub revoked: bool,
}

impl Statements {
    /// All is well with `platform` at `now`, in Unix seconds, as of yesterday.
    #[must_use]
    pub fn good(platform: &Platform, now: i64) -> Self {
        Self {
            platform: platform.clone(),
            valid: Window {
                from: now.saturating_sub(DAY_S),
                until: now.saturating_add(29_i64.saturating_mul(DAY_S)),
            },
            evaluation: 20,
            platform_status: "UpToDate",
            module_status: "UpToDate",
            qe_status: "UpToDate",
            revoked: false,
        }
    }

    /// The documents, signed.
    #[must_use]
    pub fn sign(&self, intel: &Intel) -> Collateral {
        Collateral {
            tcb_info: signed(intel, "tcbInfo", &self.tcb_info()),
            tcb_info_issuer_chain: intel.tcb_chain(),
            qe_identity: signed(intel, "enclaveIdentity", &self.qe_identity()),
            qe_identity_issuer_chain: intel.tcb_chain(),
            pck_crl_issuer_chain: intel.crl_chain(),
            pck_crl: intel.pck_crl(self.valid, self.revoked),
            root_ca_crl: intel.root_crl(self.valid),
        }
    }

    fn tcb_info(&self) -> String {
        let fmspc = hex::encode_upper(self.platform.fmspc);
        let pce_id = hex::encode_upper(self.platform.pce_id);
        let module_level = level(&version(TEE_TCB_SVN[0].into()), self.module_status);
        let best = platform(self.platform.cpu_svn, self.platform.pce_svn, TEE_TCB_SVN);
        let best = level(&best, self.platform_status);
        let worst = level(&platform([0; 16], 0, [0; 16]), "OutOfDate");
        let signer = format!(
            r#""mrsigner":"{}","attributes":"{}","attributesMask":"{}""#,
            "00".repeat(48),
            "00".repeat(8),
            "FF".repeat(8)
        );
        format!(
            r#"{{"id":"TDX","version":3,{},"fmspc":"{fmspc}","pceId":"{pce_id}","tcbType":0,"tcbEvaluationDataNumber":{},"tdxModule":{{{signer}}},"tdxModuleIdentities":[{{"id":"TDX_{MODULE_VERSION:02X}",{signer},"tcbLevels":[{module_level}]}}],"tcbLevels":[{best},{worst}]}}"#,
            self.dates(),
            self.evaluation,
        )
    }

    fn qe_identity(&self) -> String {
        let level = level(&version(QE_ISV_SVN), self.qe_status);
        let signer = hex::encode_upper(QE_MRSIGNER);
        format!(
            r#"{{"id":"TD_QE","version":2,{},"tcbEvaluationDataNumber":{},"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"{signer}","isvprodid":{QE_PRODUCT},"tcbLevels":[{level}]}}"#,
            self.dates(),
            self.evaluation,
        )
    }

    fn dates(&self) -> String {
        let (from, until) = (date(self.valid.from), date(self.valid.until));
        format!(r#""issueDate":"{from}","nextUpdate":"{until}""#)
    }
}

const DAY_S: i64 = 24 * 60 * 60;

/// The signature covers the exact bytes of the inner object.
fn signed(intel: &Intel, name: &str, inner: &str) -> String {
    let signature = hex::encode(intel.sign_statement(inner.as_bytes()));
    format!(r#"{{"{name}":{inner},"signature":"{signature}"}}"#)
}

fn level(tcb: &str, status: &str) -> String {
    format!(r#"{{"tcb":{tcb},"tcbDate":"2026-03-11T00:00:00Z","tcbStatus":"{status}"}}"#)
}

fn version(svn: u16) -> String {
    format!(r#"{{"isvsvn":{svn}}}"#)
}

fn platform(sgx: [u8; 16], pce_svn: u16, tdx: [u8; 16]) -> String {
    let components = |svns: [u8; 16]| svns.map(|svn| format!(r#"{{"svn":{svn}}}"#)).join(",");
    format!(
        r#"{{"sgxtcbcomponents":[{}],"pcesvn":{pce_svn},"tdxtcbcomponents":[{}]}}"#,
        components(sgx),
        components(tdx)
    )
}

fn date(unix_s: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_s)
        .expect("a date of this era")
        .format(&Rfc3339)
        .expect("a year of four digits")
}
