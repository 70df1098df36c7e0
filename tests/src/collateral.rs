//! What a made-up Intel says of its platform: TCB info, identity of the quoting
//! enclave, revocation lists.
//!
//! Every fault is a value: change a field of [`Statements`] and all of it is
//! signed again, so that a verifier reaches the one check that must refuse.
//!
//! Source: Intel PCS API 4.0, "TCB info V3" and "Enclave identity V2".

use attestation::evidence::Collateral;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::pki::{Intel, Platform, Window};
use crate::quote::{MODULE_VERSION, QE_ISV_SVN, QE_MRSIGNER, QE_PRODUCT, TEE_TCB_SVN};

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

    fn tcb_info(&self) -> Value {
        let none = "00".repeat(48);
        json!({
            "id": "TDX",
            "version": 3,
            "issueDate": date(self.valid.from),
            "nextUpdate": date(self.valid.until),
            "fmspc": hex::encode_upper(self.platform.fmspc),
            "pceId": hex::encode_upper(self.platform.pce_id),
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.evaluation,
            "tdxModule": {
                "mrsigner": none,
                "attributes": "0000000000000000",
                "attributesMask": "FFFFFFFFFFFFFFFF",
            },
            "tdxModuleIdentities": [{
                "id": format!("TDX_{MODULE_VERSION:02X}"),
                "mrsigner": none,
                "attributes": "0000000000000000",
                "attributesMask": "FFFFFFFFFFFFFFFF",
                "tcbLevels": [level(json!({ "isvsvn": TEE_TCB_SVN[0] }), self.module_status)],
            }],
            "tcbLevels": [
                level(
                    json!({
                        "sgxtcbcomponents": components(self.platform.cpu_svn),
                        "pcesvn": self.platform.pce_svn,
                        "tdxtcbcomponents": components(TEE_TCB_SVN),
                    }),
                    self.platform_status,
                ),
                level(
                    json!({
                        "sgxtcbcomponents": components([0; 16]),
                        "pcesvn": 0,
                        "tdxtcbcomponents": components([0; 16]),
                    }),
                    "OutOfDate",
                ),
            ],
        })
    }

    fn qe_identity(&self) -> Value {
        json!({
            "id": "TD_QE",
            "version": 2,
            "issueDate": date(self.valid.from),
            "nextUpdate": date(self.valid.until),
            "tcbEvaluationDataNumber": self.evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": hex::encode_upper(QE_MRSIGNER),
            "isvprodid": QE_PRODUCT,
            "tcbLevels": [level(json!({ "isvsvn": QE_ISV_SVN }), self.qe_status)],
        })
    }
}

const DAY_S: i64 = 24 * 60 * 60;

/// The signature covers the exact bytes of the inner object.
fn signed(intel: &Intel, name: &str, inner: &Value) -> String {
    let inner = inner.to_string();
    let signature = hex::encode(intel.sign_statement(inner.as_bytes()));
    format!(r#"{{"{name}":{inner},"signature":"{signature}"}}"#)
}

fn level(tcb: Value, status: &str) -> Value {
    json!({ "tcb": tcb, "tcbDate": "2026-03-11T00:00:00Z", "tcbStatus": status })
}

fn components(svns: [u8; 16]) -> Vec<Value> {
    svns.map(|svn| json!({ "svn": svn })).into()
}

fn date(unix_s: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_s)
        .expect("a date of this era")
        .format(&Rfc3339)
        .expect("a year of four digits")
}
