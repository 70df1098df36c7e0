//! Keys of encrypted models, fetched before they are opened.
//!
//! This machine calls the key server, and then takes the server's part in TLS: the gate
//! and the evidence are those that every client sees. What comes back is believed only
//! from the server, and for the key, that the measured configuration names.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use attestation::binding::Nonce;
use attestation::config::{KEY_LEN, KeySource, Measured};
use attestation::model_key::{GrantError, KeyAnswer, KeyRefusal, KeyRequest};
use attestation::register::Digest256;
use session::frame::{self, FrameError};
use session::server::{AcceptError, Worker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Leaves the key of each encrypted model in a file of its name.
pub async fn fetch(
    worker: &Arc<Worker>,
    measured: &Measured,
    server: Option<&str>,
    folder: &Path,
) -> Result<(), FetchError> {
    for model in &measured.models {
        let Some(source) = &model.key else { continue };
        let name = model.name.as_str();
        let failed = |cause| FetchError {
            model: name.into(),
            cause,
        };
        let server = server.ok_or_else(|| failed(Cause::NoServer))?;
        let tcp = timeout(CONNECT, TcpStream::connect(server))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| {
                failed(Cause::Connect {
                    server: server.into(),
                    source,
                })
            })?;
        let asked = ask(worker, tcp, source, &model.verity.root_hash);
        let key = timeout(ANSWER, asked)
            .await
            .map_err(|_| failed(Cause::Late))?
            .map_err(failed)?;
        // A file in memory: it does not block.
        fs::write(folder.join(name), key.as_slice())
            .map_err(|source| failed(Cause::Write(source)))?;
    }
    Ok(())
}

/// Asks for one key over a fresh connection.
pub async fn ask<S>(
    worker: &Arc<Worker>,
    connection: S,
    source: &KeySource,
    root: &Digest256,
) -> Result<Zeroizing<[u8; KEY_LEN]>, Cause>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let (mut stream, _attester) = worker.accept(connection).await.map_err(Cause::Gate)?;
    let mut nonce = Nonce([0; 32]);
    getrandom::fill(&mut nonce.0).map_err(Cause::Random)?;
    let session = stream.exporter().export(&nonce).map_err(Cause::Session)?;
    let request = KeyRequest {
        nonce: nonce.0,
        root: *root.as_bytes(),
    };
    // A server that does not accept the evidence hangs up.
    frame::write(&mut stream, &request)
        .await
        .map_err(Cause::HungUp)?;
    let answer = frame::read(&mut stream, KeyAnswer::MAX)
        .await
        .map_err(Cause::HungUp)?;
    match answer {
        KeyAnswer::Key(grant) => {
            let key = grant.verify(source, &session, root);
            key.map(|key| Zeroizing::new(*key)).map_err(Cause::Grant)
        }
        KeyAnswer::Refused(refusal) => Err(Cause::Refused(refusal)),
    }
}

const CONNECT: Duration = Duration::from_secs(10);

/// Handshake, evidence and its verification; a quote may take 30 s in the kernel alone.
const ANSWER: Duration = Duration::from_secs(90);

/// A model cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("no key for model {model}")]
pub struct FetchError {
    /// Its name in the configuration.
    pub model: String,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// Nobody is there.
    #[error("cannot connect to the key server {server}")]
    Connect {
        /// As configured.
        server: String,
        /// Why.
        source: io::Error,
    },
    /// TLS, or what this machine shows of itself.
    #[error("the key server did not take part in attestation")]
    Gate(#[source] AcceptError),
    /// A key, but not the one.
    #[error("the key is refused")]
    Grant(#[source] GrantError),
    /// Without a word: it says why in its own log.
    #[error("the key server hung up: it does not accept this machine, or broke")]
    HungUp(#[source] FrameError),
    /// Too slow.
    #[error("the key server took too long")]
    Late,
    /// The host has to name one.
    #[error("the unmeasured configuration names no keyserver")]
    NoServer,
    /// The system gives none.
    #[error("no randomness")]
    Random(#[source] getrandom::Error),
    /// With a reason.
    #[error("{0}")]
    Refused(KeyRefusal),
    /// The exporter.
    #[error("the TLS session gives no keying material")]
    Session(#[source] rustls::Error),
    /// To init.
    #[error("cannot hand the key over")]
    Write(#[source] io::Error),
}
