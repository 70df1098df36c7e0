//! HTTP/2 on a connection whose peer satisfied a policy, and satisfies it again later.

use std::time::{Duration, Instant};

use attestation::cbor;
use attestation::policy::{Policy, Trusted};
use attestation::protocol;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::client::{
    ChallengeError, ConnectError, MAX_STEPS, Next, Peer, Session, Timing, connect,
};

/// A verified connection that takes requests with bodies `B`.
#[derive(Debug)]
pub struct Connection<S, B> {
    /// Takes requests for as long as the connection lasts; a clone is another handle.
    pub requests: SendRequest<B>,
    /// What was proved last.
    pub trusted: Trusted,
    /// How long the first proof took.
    pub timing: Timing,
    peer: Peer<S>,
    verified: Instant,
}

impl<S, B> Connection<S, B>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + From<Vec<u8>>
        + Send
        + Unpin
        + 'static,
{
    /// Verifies the peer at the other end of `tcp`, which is the server either way.
    pub async fn open(tcp: S, policy: &Policy) -> Result<Self, OpenError> {
        let Session {
            stream,
            peer,
            trusted,
            timing,
        } = connect(tcp, policy).await.map_err(OpenError::Untrusted)?;
        let (requests, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            // Together never more than the connection takes: a response that nobody
            // reads does not hold up the others.
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(OpenError::Http)?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::info!("connection to the worker ended: {error}");
            }
        });
        Ok(Self {
            requests,
            trusted,
            timing,
            peer,
            verified: Instant::now(),
        })
    }

    /// Since the peer proved itself last.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.verified.elapsed()
    }

    /// The conversation of the gate once more, as HTTP requests.
    pub async fn verify_again(&mut self, policy: &Policy) -> Result<(), AgainError> {
        let (mut challenge, mut request) = self.peer.challenge().map_err(AgainError::Stale)?;
        for _ in 0..MAX_STEPS {
            let response = self.ask(&request).await?;
            match challenge
                .next(response, policy)
                .map_err(AgainError::Stale)?
            {
                Next::Send(next) => request = next,
                Next::Trusted(trusted) => {
                    self.trusted = trusted;
                    self.verified = Instant::now();
                    return Ok(());
                }
            }
        }
        Err(AgainError::Stale(ChallengeError::Endless))
    }

    async fn ask(&mut self, request: &protocol::Request) -> Result<protocol::Response, AgainError> {
        let mut request = Request::new(B::from(cbor::encode(request)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("http://worker.cocoon.invalid/attestation");
        let exchange = async {
            let response: Response<Incoming> = self.requests.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, protocol::Response::MAX).collect().await;
            Ok::<_, hyper::Error>((head.status, body))
        };
        let (status, body) = timeout(ASK, exchange)
            .await
            .map_err(|_| AgainError::Late)?
            .map_err(AgainError::Http)?;
        let body = body
            .map_err(|_| AgainError::NoEvidence { status })?
            .to_bytes();
        cbor::decode(&body).map_err(|_| AgainError::NoEvidence { status })
    }
}

const ASK: Duration = Duration::from_secs(90);

/// Bytes of one response that wait here.
const STREAM_WINDOW: u32 = 64 << 10;

/// Of all: a worker has 1024 under way at most.
const CONNECTION_WINDOW: u32 = 1024 * STREAM_WINDOW;

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// HTTP/2 inside the session.
    #[error("the worker's HTTP failed")]
    Http(#[source] hyper::Error),
    /// Never trusted.
    #[error("the worker is not trusted")]
    Untrusted(#[source] ConnectError),
}

/// Why a peer that was trusted is not any more.
#[derive(Debug, thiserror::Error)]
pub enum AgainError {
    /// HTTP/2 inside the session.
    #[error("the worker's HTTP failed")]
    Http(#[source] hyper::Error),
    /// Too slow.
    #[error("the worker took too long")]
    Late,
    /// It answered something else.
    #[error("the worker answered with status {status} where evidence was asked for")]
    NoEvidence {
        /// As answered.
        status: StatusCode,
    },
    /// Trusted once.
    #[error("the worker did not prove itself again")]
    Stale(#[source] ChallengeError),
}
