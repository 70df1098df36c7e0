//! The worker's end: accepts, shows evidence, then hands the stream on.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use attestation::aci::{Keyset, Receipt};
use attestation::appraisal::chain;
use attestation::binding::{Binding, Nonce, ReportData};
use attestation::evidence::PlatformEvidence;
use attestation::protocol::{Refusal, Request, Response};
use attestation::register::{Digest256, Digest384};
use attestation::vtpm;
use sealed::{OpenError, Opener, Responder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::frame::{self, FrameError};
use crate::identity::{Identity, IdentityError};
use crate::platform::{Answer, Platform};
use crate::provider::Provider;
use crate::receipts::{KeyError, SignError};
use crate::stream::{Exporter, Stream};

/// A machine that can prove what it is, to many clients.
#[derive(Debug)]
pub struct Worker {
    platform: Arc<Platform>,
    identity: RwLock<Arc<Identity>>,
}

impl Worker {
    /// Makes the first identity.
    pub async fn start(provider: Arc<dyn Provider>) -> Result<Arc<Self>, StartError> {
        let platform = Platform::new(provider).map_err(StartError::Keys)?;
        let identity = platform.identity().await.map_err(StartError::Identity)?;
        Ok(Arc::new(Self {
            platform: Arc::new(platform),
            identity: RwLock::new(Arc::new(identity)),
        }))
    }

    /// Replaces the identity. Open connections keep theirs.
    pub async fn renew(&self) -> Result<(), IdentityError> {
        let identity = Arc::new(self.platform.identity().await?);
        *self
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = identity;
        Ok(())
    }

    /// Keys that receipts count under now; evidence names them.
    pub fn keyset(&self) -> Option<Arc<Keyset>> {
        self.platform.signer.keyset()
    }

    /// What went into the registers.
    pub fn event_log(&self) -> &[u8] {
        self.platform.event_log()
    }

    /// Signs a receipt, under the keys of now.
    pub fn sign(&self, receipt: Receipt) -> Result<String, SignError> {
        self.platform.signer.sign(receipt)
    }

    /// Signs the hash of a cell that says by its tag that it is a receipt of use, and of
    /// no other. A document of [`Self::sign`] is longer than a hash: neither can be taken
    /// for the other.
    pub fn sign_hash(&self, hash: &[u8; 32]) -> Result<[u8; 64], SignError> {
        self.platform.signer.sign_hash(hash)
    }

    /// Has a TD speak for those keys and a nonce, outside any session. A TPM cannot: it
    /// speaks only to whom it has had a conversation with.
    pub async fn report(
        &self,
        nonce: Option<Digest256>,
    ) -> Result<(Arc<Keyset>, ReportData, PlatformEvidence), Refusal> {
        match self.platform.endorsement() {
            None => self.platform.report(nonce).await,
            Some(_) => Err(Refusal::OutOfOrder),
        }
    }

    /// SHA-256 of the key that requests are sealed to: under it the network knows this
    /// worker, for as long as it runs. The keyset has the key.
    pub fn seal_id(&self) -> Digest256 {
        self.platform.signer.seal.public().id()
    }

    /// Begins to open a request that was sealed to that key.
    pub fn open(&self, envelope: &[u8], start: &[u8]) -> Result<(Opener, Responder), OpenError> {
        self.platform.signer.seal.open(envelope, start)
    }

    /// Has a TD speak for those keys and a nonce to a client that has no session with it,
    /// and seals its requests. A TPM's host would read them.
    pub async fn attest_sealed(&self, nonce: Nonce) -> Response {
        let evidence = match (self.platform.endorsement(), self.keyset()) {
            (None, Some(keyset)) => {
                let binding = Binding::sealed(&keyset.digest().0, &nonce);
                self.platform.attest(binding, None).await
            }
            (None, None) => Err(Refusal::NoEvidence),
            (Some(_), _) => Err(Refusal::OutOfOrder),
        };
        respond(evidence)
    }

    /// Shakes hands and opens the gate: what comes back has seen evidence.
    pub async fn accept<S>(
        self: &Arc<Self>,
        tcp: S,
    ) -> Result<(Stream<S>, Attester<S>), AcceptError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
    {
        let identity = Arc::clone(&self.identity.read().unwrap_or_else(PoisonError::into_inner));
        let handshake = TlsAcceptor::from(Arc::clone(&identity.tls)).accept(tcp);
        let tls = timeout(HANDSHAKE, handshake)
            .await
            .map_err(|_| AcceptError::Late)?
            .map_err(AcceptError::Handshake)?;
        // A client that offers no protocol at all gets this far (RFC 7301, section 3.1).
        if tls.get_ref().1.alpn_protocol().is_none() {
            return Err(AcceptError::NoProtocol);
        }
        let mut stream = Stream::new(tls);
        let mut attester = Attester {
            platform: Arc::clone(&self.platform),
            spki: identity.spki,
            exporter: stream.exporter(),
            pending: None,
        };
        timeout(GATE, attester.open_gate(&mut stream))
            .await
            .map_err(|_| AcceptError::Late)??;
        Ok((stream, attester))
    }
}

/// Answers challenges about one session: at the gate, and on request again.
#[derive(Debug)]
pub struct Attester<S> {
    platform: Arc<Platform>,
    spki: Digest384,
    exporter: Exporter<S>,
    pending: Option<Nonce>,
}

impl<S> Attester<S> {
    /// One step of the conversation.
    pub async fn answer(&mut self, request: Request) -> Response {
        let endorsement = self.platform.endorsement();
        let evidence = match (request, endorsement, self.pending.take()) {
            (Request::Challenge(nonce), None, _) => self.attest(Nonce(nonce), None).await,
            (Request::Challenge(nonce), Some(endorsement), _) => {
                self.pending = Some(Nonce(nonce));
                return Response::Endorsement(endorsement);
            }
            (Request::Credential(credential), Some(_), Some(nonce)) => {
                self.attest(nonce, Some(credential)).await
            }
            (Request::Credential(_), _, _) => Err(Refusal::OutOfOrder),
        };
        respond(evidence)
    }

    async fn attest(&self, nonce: Nonce, credential: Option<vtpm::Credential>) -> Answer {
        let ekm = self.exporter.export(&nonce).map_err(|error| {
            tracing::warn!("no keying material: {}", chain(&error));
            Refusal::NoEvidence
        })?;
        let binding = Binding::new(&self.spki, &ekm, &nonce);
        self.platform.attest(binding, credential).await
    }

    async fn open_gate(&mut self, stream: &mut Stream<S>) -> Result<(), AcceptError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        loop {
            let request = frame::read(stream, Request::MAX)
                .await
                .map_err(AcceptError::Gate)?;
            let response = self.answer(request).await;
            frame::write(stream, &response)
                .await
                .map_err(AcceptError::Gate)?;
            match response {
                Response::Endorsement(_) => {}
                Response::Evidence(..) => return Ok(()),
                Response::Refused(refusal) => return Err(AcceptError::Refused(refusal)),
            }
        }
    }
}

fn respond(answer: Answer) -> Response {
    match answer {
        Ok((evidence, path)) => Response::Evidence(evidence, path),
        Err(refusal) => Response::Refused(refusal),
    }
}

/// From the first byte to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// From there to evidence: a TDX quote may take 30 s in the kernel alone.
const GATE: Duration = Duration::from_secs(60);

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Key, certificate, or the platform behind it.
    #[error("cannot make an identity")]
    Identity(#[source] IdentityError),
    /// For receipts and for sealed requests.
    #[error("cannot make keys")]
    Keys(#[source] KeyError),
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// Not a message of ours before the gate.
    #[error("the client did not follow the protocol at the gate")]
    Gate(#[source] FrameError),
    /// TLS.
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    /// Too slow.
    #[error("the client or the platform took too long")]
    Late,
    /// No ALPN.
    #[error("the client named no application protocol")]
    NoProtocol,
    /// Nothing to show.
    #[error("refused: {0}")]
    Refused(Refusal),
}
