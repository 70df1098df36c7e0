//! A peer in the middle: a TLS key of its own, and somebody else's evidence.
//!
//! It speaks the protocol correctly in everything but the one thing that it
//! cannot do: be at both ends of one TLS session.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use attestation::binding::ALPN;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What one conversation carried, in order, as it was on the wire.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// Frames from the client.
    pub requests: Vec<Vec<u8>>,
    /// Frames from the worker.
    pub responses: Vec<Vec<u8>>,
}

/// Serves one client by passing every frame on to the genuine `worker`, word
/// for word, and the answers back. Ends when either side does.
pub async fn relay(listener: &TcpListener, worker: SocketAddr) -> io::Result<Conversation> {
    let mut client = accept(listener).await?;
    let tcp = TcpStream::connect(worker).await?;
    let name = ServerName::try_from("worker").map_err(io::Error::other)?;
    let mut worker = TlsConnector::from(Arc::new(client_config()?))
        .connect(name, tcp)
        .await?;
    let mut conversation = Conversation::default();
    while let Ok(request) = read(&mut client).await {
        worker.write_all(&request).await?;
        let response = read(&mut worker).await?;
        client.write_all(&response).await?;
        conversation.requests.push(request);
        conversation.responses.push(response);
    }
    Ok(conversation)
}

/// Serves one client with answers that were given to somebody else before.
pub async fn replay(listener: &TcpListener, recorded: &Conversation) -> io::Result<()> {
    let mut client = accept(listener).await?;
    for response in &recorded.responses {
        read(&mut client).await?;
        client.write_all(response).await?;
    }
    client.shutdown().await
}

async fn accept(listener: &TcpListener) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let (tcp, _) = listener.accept().await?;
    TlsAcceptor::from(Arc::new(server_config()?))
        .accept(tcp)
        .await
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame).await?;
    let len = u64::from(u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]));
    stream.take(len).read_to_end(&mut frame).await?;
    Ok(frame)
}

fn server_config() -> io::Result<ServerConfig> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let certificate = CertificateParams::new([String::from("worker")])
        .and_then(|params| params.self_signed(&key))
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn client_config() -> io::Result<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Takes any certificate: the adversary does not care whom it robs.
#[derive(Debug)]
pub struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
