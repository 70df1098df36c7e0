//! The worker's end: accepts, shows evidence, then hands the stream on.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use attestation::appraisal::chain;
use attestation::binding::{Binding, Nonce};
use attestation::evidence::{Evidence, State, report_data};
use attestation::protocol::{Refusal, Request, Response};
use attestation::register::Digest384;
use attestation::vtpm;
use aws_lc_rs::rand;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::frame::{self, FrameError};
use crate::identity::{Identity, IdentityError};
use crate::provider::{Provider, ProviderError};
use crate::stream::{Exporter, Stream};

/// A machine that can prove what it is, to many clients.
pub struct Worker {
    provider: Arc<dyn Provider>,
    identity: RwLock<Arc<Identity>>,
    state: State,
    platform: Mutex<()>,
    waiting: Semaphore,
}

impl Worker {
    /// Makes the first identity.
    pub async fn start(provider: Arc<dyn Provider>) -> Result<Arc<Self>, StartError> {
        let mut boot_seed = [0; 32];
        rand::fill(&mut boot_seed).map_err(|_| StartError::Random)?;
        let event_log = *Digest384::of(provider.event_log()).as_bytes();
        let identity = new_identity(&provider).await?;
        Ok(Arc::new(Self {
            provider,
            identity: RwLock::new(Arc::new(identity)),
            state: State {
                boot_seed,
                event_log,
            },
            platform: Mutex::new(()),
            waiting: Semaphore::new(MAX_WAITING),
        }))
    }

    /// Replaces the identity. Open connections keep theirs.
    pub async fn renew(&self) -> Result<(), StartError> {
        let _one_at_a_time = self.platform.lock().await;
        let identity = Arc::new(new_identity(&self.provider).await?);
        *self
            .identity
            .write()
            .unwrap_or_else(PoisonError::into_inner) = identity;
        Ok(())
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
            worker: Arc::clone(self),
            spki: identity.spki,
            exporter: stream.exporter(),
            pending: None,
        };
        timeout(GATE, attester.open_gate(&mut stream))
            .await
            .map_err(|_| AcceptError::Late)??;
        Ok((stream, attester))
    }

    async fn attest(
        &self,
        binding: &Binding,
        credential: Option<vtpm::Credential>,
    ) -> Result<Evidence, Refusal> {
        let _place = self.waiting.try_acquire().map_err(|_| Refusal::Busy)?;
        let _one_at_a_time = self.platform.lock().await;
        let data = report_data(binding, &[], &self.state);
        let provider = Arc::clone(&self.provider);
        let platform = spawn_blocking(move || provider.attest(&data, credential.as_ref()))
            .await
            .map_err(ProviderError::from)
            .flatten()
            .map_err(|error| {
                tracing::warn!("no evidence: {}", chain(error.as_ref()));
                Refusal::NoEvidence
            })?;
        Ok(Evidence {
            platform,
            gpus: Vec::new(),
            state: self.state.clone(),
            event_log: self.provider.event_log().to_vec(),
        })
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

/// Answers challenges about one session: at the gate, and on request again.
#[derive(Debug)]
pub struct Attester<S> {
    worker: Arc<Worker>,
    spki: Digest384,
    exporter: Exporter<S>,
    pending: Option<Nonce>,
}

impl<S> Attester<S> {
    /// One step of the conversation.
    pub async fn answer(&mut self, request: Request) -> Response {
        let endorsement = self.worker.provider.endorsement();
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
        match evidence {
            Ok(evidence) => Response::Evidence(Box::new(evidence)),
            Err(refusal) => Response::Refused(refusal),
        }
    }

    async fn attest(
        &self,
        nonce: Nonce,
        credential: Option<vtpm::Credential>,
    ) -> Result<Evidence, Refusal> {
        let ekm = self.exporter.export(&nonce).map_err(|error| {
            tracing::warn!("no keying material: {}", chain(&error));
            Refusal::NoEvidence
        })?;
        let binding = Binding::new(&self.spki, &ekm, &nonce);
        self.worker.attest(&binding, credential).await
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
                Response::Evidence(_) => return Ok(()),
                Response::Refused(refusal) => return Err(AcceptError::Refused(refusal)),
            }
        }
    }
}

async fn new_identity(provider: &Arc<dyn Provider>) -> Result<Identity, StartError> {
    let provider = Arc::clone(provider);
    spawn_blocking(move || Identity::new(&*provider))
        .await
        .map_err(StartError::Panicked)?
        .map_err(StartError::Identity)
}

/// Clients that may wait for the platform together; each quote takes about a
/// second on real hardware, and a client waits no longer than [`GATE`].
const MAX_WAITING: usize = 32;

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
    /// A defect of ours.
    #[error("making an identity panicked")]
    Panicked(#[source] JoinError),
    /// The system gives no randomness.
    #[error("no randomness")]
    Random,
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
