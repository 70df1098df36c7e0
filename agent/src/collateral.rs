//! Intel's statements about this platform, fetched so that clients need not.
//!
//! From any service that speaks Intel's PCS API, version 4: Intel's own, or a
//! cache (PCCS) that the host runs.
//! ```text
//! GET /tdx/certification/v4/tcb?fmspc=...               TCB-Info-Issuer-Chain
//! GET /tdx/certification/v4/qe/identity                 SGX-Enclave-Identity-Issuer-Chain
//! GET /sgx/certification/v4/pckcrl?ca=...&encoding=der  SGX-PCK-CRL-Issuer-Chain
//! GET /sgx/certification/v4/rootcacrl                   of a cache; Intel's is elsewhere
//! ```
//! The header on the right holds the issuers: PEM, percent-encoded.
//!
//! Nothing is verified here. Intel signed it all, and the client who gets it
//! looks at that, so the service may be anybody's and the transport plain HTTP:
//! the worst it can do is to have no news.
//!
//! Calls block, for a fetch up to 40 s.
//!
//! Source: Intel PCS API 4.0; the root's list of Intel's own service is at the
//! distribution point that the root certificate names.

use std::fmt;
use std::str;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use attestation::appraisal::chain;
use attestation::evidence::Collateral;
use attestation::time::UnixTime;
use rustls::crypto::aws_lc_rs;
use serde::Deserialize;
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

/// A place to fetch from, and what was fetched last.
pub struct Service {
    base: String,
    http: Agent,
    kept: Mutex<Option<Kept>>,
}

impl Service {
    /// `base` is what comes before `/tdx` and `/sgx`.
    #[must_use]
    pub fn new(base: &str) -> Self {
        Self {
            base: base.trim_end_matches('/').to_owned(),
            http: client(),
            kept: Mutex::new(None),
        }
    }

    /// What holds for `subject` at `now`: kept for half a day, unless it ends sooner.
    pub fn collateral(
        &self,
        subject: Subject,
        now: UnixTime,
    ) -> Result<Arc<Collateral>, FetchError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.as_ref().filter(|kept| kept.subject == subject);
        if let Some(known) = known.filter(|known| now < known.fresh_until) {
            return Ok(Arc::clone(&known.collateral));
        }
        match (self.fetch(subject), known) {
            (Ok(collateral), _) => {
                let next = Kept::new(subject, collateral, now)?;
                Ok(Arc::clone(&kept.insert(next).collateral))
            }
            (Err(error), Some(known)) if now < known.valid_until => {
                tracing::warn!("collateral was not renewed: {}", chain(&error));
                Ok(Arc::clone(&known.collateral))
            }
            (Err(error), _) => Err(error),
        }
    }

    fn fetch(&self, Subject { fmspc, ca }: Subject) -> Result<Collateral, FetchError> {
        let base = &self.base;
        let fmspc = hex::encode_upper(fmspc);
        let tcb_info = self.get(format!("{base}/tdx/certification/v4/tcb?fmspc={fmspc}"))?;
        let qe_identity = self.get(format!("{base}/tdx/certification/v4/qe/identity"))?;
        let pck_crl = format!("{base}/sgx/certification/v4/pckcrl?ca={ca}&encoding=der");
        let pck_crl = self.get(pck_crl)?;
        let root_ca_crl = self.get(match &base[..] {
            INTEL => INTEL_ROOT_CRL.to_owned(),
            _ => format!("{base}/sgx/certification/v4/rootcacrl"),
        })?;
        Ok(Collateral {
            tcb_info: tcb_info.text()?,
            tcb_info_issuer_chain: tcb_info.issuers("TCB-Info-Issuer-Chain")?,
            qe_identity: qe_identity.text()?,
            qe_identity_issuer_chain: qe_identity.issuers("SGX-Enclave-Identity-Issuer-Chain")?,
            pck_crl: pck_crl.der()?,
            pck_crl_issuer_chain: pck_crl.issuers("SGX-PCK-CRL-Issuer-Chain")?,
            root_ca_crl: root_ca_crl.der()?,
        })
    }

    fn get(&self, url: String) -> Result<Reply, FetchError> {
        get(&self.http, url)
    }
}

/// Asks whoever an address names, over TLS where it says so.
pub(crate) fn client() -> Agent {
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .build();
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .timeout_global(Some(TIMEOUT))
        .tls_config(tls)
        .build()
        .new_agent()
}

pub(crate) fn get(http: &Agent, url: String) -> Result<Reply, FetchError> {
    let answered = http.get(&url).call();
    read(url, answered)
}

pub(crate) fn post(
    http: &Agent,
    url: String,
    content_type: &str,
    body: &[u8],
) -> Result<Reply, FetchError> {
    let answered = http.post(&url).content_type(content_type).send(body);
    read(url, answered)
}

fn read(
    url: String,
    answered: Result<ureq::http::Response<Body>, ureq::Error>,
) -> Result<Reply, FetchError> {
    let failed = |source| FetchError::Http {
        url: url.clone(),
        source,
    };
    let (head, mut body) = answered.map_err(failed)?.into_parts();
    let body = body.with_config().limit(BODY_MAX).read_to_vec();
    let body = body.map_err(failed)?;
    match head.status.as_u16() {
        200 => Ok(Reply { url, head, body }),
        found => Err(FetchError::Status { url, found }),
    }
}

/// Intel's service.
pub const INTEL: &str = "https://api.trustedservices.intel.com";

const INTEL_ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";

/// For one request with its answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest answer, in bytes: the largest list in use is a third of it.
const BODY_MAX: u64 = 256 * 1024;

/// How long a set is used before a newer one is looked for.
const KEEP_S: u64 = 12 * 60 * 60;

/// Which statements are wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subject {
    /// Processor family, from the PCK certificate.
    pub fmspc: [u8; 6],
    /// Issuer of the PCK certificate.
    pub ca: PckCa,
}

/// The authorities that issue PCK certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PckCa {
    /// Of platforms that were registered as a whole.
    Platform,
    /// Of single processors.
    Processor,
}

impl fmt::Display for PckCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Platform => "platform",
            Self::Processor => "processor",
        })
    }
}

struct Kept {
    subject: Subject,
    collateral: Arc<Collateral>,
    fresh_until: UnixTime,
    valid_until: UnixTime,
}

impl Kept {
    fn new(subject: Subject, collateral: Collateral, now: UnixTime) -> Result<Self, FetchError> {
        let documents = [&collateral.tcb_info, &collateral.qe_identity];
        let ends = documents.map(|document| next_update(document));
        let [tcb_info, qe_identity] = ends;
        let valid_until = tcb_info?.min(qe_identity?);
        let fresh_until = UnixTime(now.0.saturating_add(KEEP_S)).min(valid_until);
        Ok(Self {
            subject,
            collateral: Arc::new(collateral),
            fresh_until,
            valid_until,
        })
    }
}

/// When a TCB info or an enclave identity ends. The lists end no sooner: the
/// service signs all of them for the same thirty days.
fn next_update(document: &str) -> Result<UnixTime, FetchError> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(rename = "tcbInfo", alias = "enclaveIdentity")]
        statement: Statement,
    }
    #[derive(Deserialize)]
    struct Statement {
        #[serde(rename = "nextUpdate")]
        next_update: String,
    }
    serde_json::from_str::<Document>(document)
        .ok()
        .and_then(|document| UnixTime::from_iso8601(&document.statement.next_update))
        .ok_or(FetchError::NextUpdate)
}

/// An answer with status 200.
pub(crate) struct Reply {
    url: String,
    head: ureq::http::response::Parts,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> Result<String, FetchError> {
        match str::from_utf8(&self.body) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.unexpected("text")),
        }
    }

    /// Some caches answer with hex digits.
    fn der(&self) -> Result<Vec<u8>, FetchError> {
        let bytes = match hex::decode(self.body.trim_ascii()) {
            Ok(decoded) => decoded,
            Err(_) => self.body.clone(),
        };
        match bytes.first() {
            Some(&DER_SEQUENCE) => Ok(bytes),
            _ => Err(self.unexpected("DER or hex")),
        }
    }

    fn issuers(&self, header: &'static str) -> Result<String, FetchError> {
        self.head
            .headers
            .get(header)
            .and_then(|value| {
                percent_encoding::percent_decode(value.as_bytes())
                    .decode_utf8()
                    .ok()
            })
            .filter(|text| text.starts_with("-----BEGIN CERTIFICATE-----"))
            .map(|text| text.into_owned())
            .ok_or_else(|| FetchError::Header {
                url: self.url.clone(),
                header,
            })
    }

    pub(crate) fn unexpected(&self, expected: &'static str) -> FetchError {
        FetchError::Body {
            url: self.url.clone(),
            expected,
        }
    }
}

/// First byte of a certificate revocation list.
const DER_SEQUENCE: u8 = 0x30;

/// Why there is no collateral.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Another content than the API has.
    #[error("{url} answered something else than {expected}")]
    Body {
        /// What was fetched.
        url: String,
        /// What it should be.
        expected: &'static str,
    },
    /// No issuers with a statement.
    #[error("{url} answered without certificates in {header}")]
    Header {
        /// What was fetched.
        url: String,
        /// Where the issuers should be.
        header: &'static str,
    },
    /// No answer, or one that is too long or too slow.
    #[error("cannot fetch {url}")]
    Http {
        /// What was to be fetched.
        url: String,
        /// What happened.
        source: ureq::Error,
    },
    /// Documents of an unknown form.
    #[error("TCB info or QE identity has no nextUpdate")]
    NextUpdate,
    /// The service does not have it.
    #[error("{url} answered with status {found}, expected 200")]
    Status {
        /// What was fetched.
        url: String,
        /// HTTP status.
        found: u16,
    },
}
