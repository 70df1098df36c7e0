//! What clients that ask for TLS are shown: a certificate in a file, with its key, which
//! are read again when they were renewed. What cannot be read replaces nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::artefacts::read;

/// As read last.
#[derive(Debug)]
pub(super) struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    shown: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Of these two files, PEM.
    pub(super) fn read(chain: PathBuf, key: PathBuf) -> Result<Arc<Self>> {
        let shown = RwLock::new(certified(&chain, &key)?);
        Ok(Arc::new(Self { chain, key, shown }))
    }

    /// Shows from now on what the files hold now.
    pub(super) fn renew(&self) -> Result<()> {
        let renewed = certified(&self.chain, &self.key)?;
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    pub(super) fn acceptor(self: Arc<Self>) -> Result<TlsAcceptor> {
        let mut config = ServerConfig::builder_with_provider(default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config).into())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&shown))
    }
}

/// Refuses a key that is another certificate's.
fn certified(chain: &Path, key: &Path) -> Result<Arc<CertifiedKey>> {
    let certificates = CertificateDer::pem_slice_iter(&read(chain)?)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("{} holds no certificates", chain.display()))?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .with_context(|| format!("{} holds no key", key.display()))?;
    let certified = CertifiedKey::from_der(certificates, private, &default_provider());
    let (chain, key) = (chain.display(), key.display());
    let certified = certified.with_context(|| format!("{key} is no key for {chain}"))?;
    Ok(Arc::new(certified))
}
