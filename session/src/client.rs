//! The client's end: verifies before it sends.
//!
//! A [`Session`] exists only for a peer that satisfied the policy; there is no
//! other way to get its stream.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use attestation::appraisal::Rejection;
use attestation::binding::{ALPN, Binding, Nonce};
use attestation::merkle::PathError;
use attestation::policy::{Policy, Trusted};
use attestation::protocol::{Refusal, Request, Response};
use attestation::register::Digest384;
use attestation::time::UnixTime;
use attestation::vtpm;
use aws_lc_rs::rand;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::frame::{self, FrameError};
use crate::possession::ProofOfPossession;
use crate::stream::{Exporter, Stream};

/// A connection to a peer that satisfied a policy.
#[derive(Debug)]
pub struct Session<S> {
    /// For application bytes.
    pub stream: Stream<S>,
    /// For asking again.
    pub peer: Peer<S>,
    /// What was proved.
    pub trusted: Trusted,
    /// How long that took.
    pub timing: Timing,
}

/// Where the time at the gate went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// From the challenge to the evidence: the platform, and the way there.
    pub evidence: Duration,
    /// Judging it.
    pub verification: Duration,
}

/// Connects over `tcp`, asks for evidence, and judges it by `policy`.
pub async fn connect<S>(tcp: S, policy: &Policy) -> Result<Session<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from("worker.cocoon.invalid").map_err(|_| ConnectError::Name)?;
    let config = Arc::new(tls_config().map_err(ConnectError::Tls)?);
    let tls = timeout(HANDSHAKE, TlsConnector::from(config).connect(name, tcp))
        .await
        .map_err(|_| ConnectError::Late)?
        .map_err(ConnectError::Handshake)?;
    let (_, session) = tls.get_ref();
    if session.alpn_protocol() != Some(ALPN) {
        return Err(ConnectError::NoProtocol);
    }
    let spki = match session.peer_certificates() {
        Some([only]) => spki_of(only).ok_or(ConnectError::Certificate)?,
        _ => return Err(ConnectError::Certificate),
    };
    let mut stream = Stream::new(tls);
    let peer = Peer {
        spki,
        exporter: stream.exporter(),
    };
    let (trusted, timing) = timeout(GATE, pass_gate(&mut stream, &peer, policy))
        .await
        .map_err(|_| ConnectError::Late)??;
    Ok(Session {
        stream,
        peer,
        trusted,
        timing,
    })
}

/// The other end of one TLS session.
#[derive(Debug)]
pub struct Peer<S> {
    spki: Digest384,
    exporter: Exporter<S>,
}

impl<S> Peer<S> {
    /// Starts a conversation; every one has a nonce of its own.
    pub fn challenge(&self) -> Result<(Challenge, Request), ChallengeError> {
        let mut nonce = Nonce([0; 32]);
        rand::fill(&mut nonce.0).map_err(|_| ChallengeError::Random)?;
        let ekm = self
            .exporter
            .export(&nonce)
            .map_err(ChallengeError::KeyingMaterial)?;
        let challenge = Challenge {
            binding: Binding::new(&self.spki, &ekm, &nonce),
            tpm: None,
        };
        Ok((challenge, Request::challenge(nonce)))
    }
}

/// A conversation that has begun.
pub struct Challenge {
    binding: Binding,
    tpm: Option<vtpm::Challenge>,
}

impl Challenge {
    /// Judges an answer, by this machine's clock.
    pub fn next(&mut self, response: Response, policy: &Policy) -> Result<Next, ChallengeError> {
        let at = now().ok_or(ChallengeError::Clock)?;
        match response {
            Response::Evidence(evidence, path) => {
                let head = path.head(&self.binding).map_err(ChallengeError::Path)?;
                let trusted = policy.judge(&evidence, &head, self.tpm.take(), at);
                trusted.map(Next::Trusted).map_err(ChallengeError::Rejected)
            }
            Response::Endorsement(endorsement) => {
                let endorsed = policy
                    .endorsed(&endorsement, at)
                    .map_err(ChallengeError::Rejected)?;
                let tpm = endorsed.challenge(&randomness()?);
                let request = Request::Credential(tpm.credential().clone());
                self.tpm = Some(tpm);
                Ok(Next::Send(request))
            }
            Response::Refused(refusal) => Err(ChallengeError::Refused(refusal)),
        }
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").finish_non_exhaustive()
    }
}

/// A step of a conversation.
#[derive(Debug)]
pub enum Next {
    /// Say this, then read the answer.
    Send(Request),
    /// The peer has proved itself.
    Trusted(Trusted),
}

async fn pass_gate<S>(
    stream: &mut Stream<S>,
    peer: &Peer<S>,
    policy: &Policy,
) -> Result<(Trusted, Timing), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut timing = Timing::default();
    let (mut challenge, mut request) = peer.challenge().map_err(ConnectError::Challenge)?;
    for _ in 0..MAX_STEPS {
        let asked = Instant::now();
        frame::write(stream, &request)
            .await
            .map_err(ConnectError::Gate)?;
        let response = frame::read(stream, Response::MAX)
            .await
            .map_err(ConnectError::Gate)?;
        let answered = Instant::now();
        let next = challenge.next(response, policy);
        timing.evidence = timing
            .evidence
            .saturating_add(answered.duration_since(asked));
        timing.verification = timing.verification.saturating_add(answered.elapsed());
        match next.map_err(ConnectError::Challenge)? {
            Next::Send(next) => request = next,
            Next::Trusted(trusted) => return Ok((trusted, timing)),
        }
    }
    Err(ConnectError::Challenge(ChallengeError::Endless))
}

fn tls_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ProofOfPossession::new(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

fn spki_of(certificate: &[u8]) -> Option<Digest384> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    rest.is_empty()
        .then(|| Digest384::of(certificate.public_key().raw))
}

fn now() -> Option<UnixTime> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.ok().map(|since| UnixTime(since.as_secs()))
}

fn randomness() -> Result<vtpm::Randomness, ChallengeError> {
    let mut random = vtpm::Randomness {
        secret: [0; 32],
        seed: [0; 32],
        padding: [0; 32],
    };
    for field in [&mut random.secret, &mut random.seed, &mut random.padding] {
        rand::fill(field).map_err(|_| ChallengeError::Random)?;
    }
    Ok(random)
}

/// Challenge and credential: no platform needs more.
pub const MAX_STEPS: usize = 2;

const HANDSHAKE: Duration = Duration::from_secs(10);

/// A quote takes a second on real hardware, and others may wait before us.
const GATE: Duration = Duration::from_secs(90);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not exactly one certificate that can be read.
    #[error("the peer showed other than one readable certificate")]
    Certificate,
    /// The conversation at the gate.
    #[error("the peer did not prove what it is")]
    Challenge(#[source] ChallengeError),
    /// The connection at the gate.
    #[error("the peer did not follow the protocol at the gate")]
    Gate(#[source] FrameError),
    /// TLS.
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::io::Error),
    /// Too slow.
    #[error("the peer took too long")]
    Late,
    /// Not an attested server.
    #[error("the peer does not speak cocoon/1")]
    NoProtocol,
    /// The fixed server name.
    #[error("the server name is not a DNS name")]
    Name,
    /// Settings.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
}

/// Why a peer has not proved what it is.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    /// Before 1970.
    #[error("this machine's clock is before 1970")]
    Clock,
    /// One endorsement after the other.
    #[error("the peer does not come to an end")]
    Endless,
    /// The exporter.
    #[error("the TLS session gives no keying material")]
    KeyingMaterial(#[source] rustls::Error),
    /// The evidence is of another round.
    #[error("the evidence has no way to this session")]
    Path(#[source] PathError),
    /// The system gives no randomness.
    #[error("no randomness")]
    Random,
    /// The peer shows nothing.
    #[error("{0}")]
    Refused(Refusal),
    /// The policy says no.
    #[error("{0}")]
    Rejected(Rejection),
}
