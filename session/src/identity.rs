//! The worker's TLS key and the certificate that carries it.
//!
//! The key is made here, lives in memory, and dies with the process. The
//! certificate is self-signed and shows evidence in the interoperable RA-TLS
//! form, for verifiers that look no further; our own client asks for fresh
//! evidence instead. Its dates come from a clock that the host controls and mean
//! nothing.
//!
//! Source: Interoperable RA-TLS (Confidential Computing Consortium), "X.509 Cert
//! and Evidence Formats" and "SGX / TDX Evidence Tags and Formats".

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use attestation::binding::{ALPN, ReportData};
use attestation::evidence::PlatformEvidence;
use attestation::ratls;
use attestation::register::{Digest256, Digest384};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;

use crate::provider::{Provider, ProviderError};
use crate::receipts::KeyError;

/// A key, its certificate, and the TLS settings that use them.
#[derive(Debug)]
pub struct Identity {
    pub(crate) tls: Arc<ServerConfig>,
    /// SHA-384 of SubjectPublicKeyInfo: what evidence is bound to.
    pub spki: Digest384,
    /// SHA-256 of the same, for a keyset.
    pub(crate) pin: Digest256,
}

impl Identity {
    /// How long a certificate says that it is valid.
    pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);

    /// Makes a key and has the platform speak for it. Blocks as the platform does.
    pub fn new(provider: &dyn Provider) -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(IdentityError::Make)?;
        let spki = key.subject_public_key_info();
        let mut params = CertificateParams::new([String::from("worker.cocoon.invalid")])
            .map_err(IdentityError::Make)?;
        let now = SystemTime::now();
        params.not_before = now.into();
        params.not_after = now.checked_add(Self::LIFETIME).unwrap_or(now).into();
        if provider.endorsement().is_none() {
            let claims = ratls::claims_for(&spki);
            let evidence = provider
                .attest(&ReportData::of_claims(&claims), None)
                .map_err(IdentityError::NoEvidence)?;
            if let PlatformEvidence::Tdx { quote, .. } = evidence {
                params
                    .custom_extensions
                    .push(CustomExtension::from_oid_content(
                        ratls::EVIDENCE_OID,
                        ratls::extension(&quote, &claims),
                    ));
            }
        }
        let certificate = params.self_signed(&key).map_err(IdentityError::Make)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut tls = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::Tls)?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .map_err(IdentityError::Tls)?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.max_early_data_size = 0;
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            tls: Arc::new(tls),
            spki: Digest384::of(&spki),
            pin: Digest256::of(&spki),
        })
    }
}

/// Why a worker has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Keys for receipts.
    #[error("cannot make a keyset")]
    Keyset(#[source] KeyError),
    /// Key or certificate.
    #[error("cannot make a key and its certificate")]
    Make(#[source] rcgen::Error),
    /// The platform is silent.
    #[error("the platform does not speak for the new key")]
    NoEvidence(#[source] ProviderError),
    /// A defect of ours.
    #[error("making an identity panicked")]
    Panicked(#[source] tokio::task::JoinError),
    /// Settings that rustls refuses.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}
