//! TLS between schedulers of one deployment: both ends show the same public key, by itself
//! (RFC 7250), and prove that they hold its secret.
//!
//! Who connects is a member, not a certain one. TLS 1.3 only, without resumption.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key,
};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::key::Key;

/// The end that connects.
pub(super) fn connector(key: &Key) -> Result<TlsConnector, Error> {
    let member = Member::of(key)?;
    let shown = AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&member.shown));
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&member.provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(member)
        .with_client_cert_resolver(Arc::new(shown));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config).into())
}

/// The end that listens.
pub(super) fn acceptor(key: &Key) -> Result<TlsAcceptor, Error> {
    let member = Member::of(key)?;
    let shown = AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&member.shown));
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&member.provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(member)
        .with_cert_resolver(Arc::new(shown));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config).into())
}

/// What each of them is, and takes the other for.
#[derive(Debug)]
struct Member {
    provider: Arc<CryptoProvider>,
    shown: Arc<CertifiedKey>,
}

impl Member {
    fn of(key: &Key) -> Result<Arc<Self>, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let secret = [&PKCS8[..], &key.of(b"tls")].concat();
        let secret = PrivatePkcs8KeyDer::from(secret).into();
        let secret = provider.key_provider.load_private_key(secret)?;
        let public = secret.public_key().ok_or(CertificateError::BadEncoding)?;
        let public = CertificateDer::from(public.to_vec());
        let shown = Arc::new(CertifiedKey::new(vec![public], secret));
        Ok(Arc::new(Self { provider, shown }))
    }

    fn same(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        match self.shown.cert.first() == Some(shown) {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn proved(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let shown = SubjectPublicKeyInfoDer::from(shown.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &shown, signature, algorithms)
    }
}

impl ServerCertVerifier for Member {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.same(shown).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.proved(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Member {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.same(shown).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _shown: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.proved(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

const ALPN: &[u8] = b"cocoon-fabric/1";

/// Before the 32 bytes of an Ed25519 key (RFC 8410, section 7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn members_take_each_other_and_nobody_else() {
        let [ours, theirs] = ["11", "22"].map(|pair| Key::parse(&pair.repeat(32)).unwrap());
        assert_eq!(shake(&ours, &ours).await, (true, true));
        assert_eq!(shake(&ours, &theirs).await, (false, false));
    }

    async fn shake(here: &Key, there: &Key) -> (bool, bool) {
        let (near, far) = duplex(1 << 16);
        let name = ServerName::try_from("member").unwrap();
        let (connector, acceptor) = (connector(here).unwrap(), acceptor(there).unwrap());
        let (connected, accepted) =
            tokio::join!(connector.connect(name, near), acceptor.accept(far));
        (connected.is_ok(), accepted.is_ok())
    }
}
