//! One worker: it has dialled in, and is followed for as long as it proves itself and says
//! that it is there.
//!
//! On its connection the worker is the TLS server: the gate is the one that every client
//! of a worker goes through. What it offers is its own word; that it is the worker which
//! it says is not, for its keyset is in its evidence.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use attestation::aci::{Keyset, KeysetError};
use attestation::policy::{Policy, Trusted};
use attestation::register::Digest256;
use axum::body::Body;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, StatusCode};
use sealed::Offer;
use serde::Deserialize;
use session::http::{AgainError, Connection, OpenError};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;
use tycho_types::models::StdAddr;

use crate::machine::Proof;
use crate::workers::{Build, Linked, Misfit, Workers};

/// Verifies the worker behind `tcp` and keeps `workers` up to date, until it fails or falls
/// silent.
pub(crate) async fn follow(
    tcp: TcpStream,
    policy: &Policy,
    workers: &Arc<Workers>,
) -> Result<(), LinkError> {
    let mut connection = Connection::open(tcp, policy)
        .await
        .map_err(LinkError::Open)?;
    let mut requests = connection.requests.clone();
    let keyset = keyset(&mut requests, connection.trusted.keyset()).await?;
    let proof = Proof::of(&connection.trusted).ok_or(LinkError::NoMachine)?;
    let channels = channels(&mut requests).await;
    let link = workers
        .linked(keyset, proof, channels, requests.clone())
        .map_err(LinkError::Misfit)?
        .running(build(&connection.trusted));
    let offers = offers(requests, &link);
    let proofs = proofs(&mut connection, policy, &link);
    // Neither ends but by an error.
    tokio::select! {
        ended = offers => ended,
        ended = proofs => ended,
    }
}

/// The registers that its quote has.
fn build(trusted: &Trusted) -> Build {
    let checks = trusted.checks().iter();
    let registers = checks.filter(|check| REGISTERS.contains(&check.name));
    registers
        .map(|check| (check.name, check.found.clone()))
        .collect()
}

const REGISTERS: [&str; 6] = ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid"];

/// Takes each offer; one that comes too soon after the last waits, on the worker's side.
async fn offers(mut requests: SendRequest<Body>, link: &Linked) -> Result<(), LinkError> {
    let asked = requests.send_request(get("/network/offer"));
    let response = timeout(HEARTBEAT, asked).await;
    let response = response
        .map_err(|_| LinkError::Silent)?
        .map_err(LinkError::Http)?;
    let bytes = response.into_body().into_data_stream();
    let bytes = StreamReader::new(bytes.map_err(io::Error::other));
    let mut lines = FramedRead::new(bytes, LinesCodec::new_with_max_length(MAX_OFFER));
    while let Some(line) = timeout(HEARTBEAT, lines.next())
        .await
        .map_err(|_| LinkError::Silent)?
    {
        let line = line.map_err(LinkError::Line)?;
        let offer: Offer = serde_json::from_str(&line).map_err(LinkError::Offer)?;
        link.offered(offer).map_err(LinkError::Misfit)?;
        sleep(PAUSE).await;
    }
    Err(LinkError::Silent)
}

/// Has it prove itself again, whenever its evidence is old or it has other keys.
async fn proofs(
    connection: &mut Connection<TcpStream, Body>,
    policy: &Policy,
    link: &Linked,
) -> Result<(), LinkError> {
    let mut requests = connection.requests.clone();
    loop {
        sleep(CHECK).await;
        let proved = *connection.trusted.keyset();
        let same = keyset(&mut requests, &proved).await.is_ok();
        if same && connection.age() < FRESH {
            continue;
        }
        connection
            .verify_again(policy)
            .await
            .map_err(LinkError::Again)?;
        let keyset = keyset(&mut requests, connection.trusted.keyset()).await?;
        link.renewed(keyset).map_err(LinkError::Misfit)?;
    }
}

/// The Channels that its owner may be paid out of; which of them are true, the chain says.
async fn channels(requests: &mut SendRequest<Body>) -> Vec<StdAddr> {
    let exchange = async {
        let response = requests.send_request(get("/network/vouchers")).await.ok()?;
        let body = Limited::new(response.into_body(), MAX_OFFER).collect();
        let vouchers: Vouchers = serde_json::from_slice(&body.await.ok()?.to_bytes()).ok()?;
        Some(vouchers.vouchers)
    };
    let named = timeout(ASK, exchange).await.ok().flatten();
    let named = named.unwrap_or_default().into_iter().take(MAX_CHANNELS);
    named.filter_map(|it| it.channel.parse().ok()).collect()
}

#[derive(Debug, Deserialize)]
struct Vouchers {
    vouchers: Vec<Named>,
}

#[derive(Debug, Deserialize)]
struct Named {
    channel: String,
}

/// The keyset that its evidence names.
async fn keyset(requests: &mut SendRequest<Body>, proved: &Digest256) -> Result<Keyset, LinkError> {
    let exchange = async {
        let response = requests.send_request(get("/v1/aci/keyset")).await?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_KEYSET).collect().await;
        Ok((head.status, body))
    };
    let (status, body) = timeout(ASK, exchange)
        .await
        .map_err(|_| LinkError::Silent)?
        .map_err(LinkError::Http)?;
    let body = match body {
        Ok(body) if status == StatusCode::OK => body.to_bytes(),
        _ => return Err(LinkError::NoKeyset { status }),
    };
    let keyset = Keyset::parse(&body).map_err(LinkError::Keyset)?;
    match keyset.digest().0 == *proved {
        true => Ok(keyset),
        false => Err(LinkError::OtherKeyset {
            found: keyset.digest().0,
            proved: *proved,
        }),
    }
}

fn get(path: &'static str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = crate::relay::of_worker(path);
    request
}

/// A worker says every two seconds what it offers.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(6);

/// Between two offers that are read.
const PAUSE: Duration = Duration::from_millis(20);

/// Between two looks at the keys.
const CHECK: Duration = Duration::from_secs(30);

/// Age of evidence.
const FRESH: Duration = Duration::from_secs(600);

const ASK: Duration = Duration::from_secs(10);

const MAX_OFFER: usize = 64 << 10;

const MAX_CHANNELS: usize = 8;

const MAX_KEYSET: usize = 64 << 10;

/// Why a worker is followed no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// Trusted once.
    #[error("the worker did not prove itself again")]
    Again(#[source] AgainError),
    /// HTTP/2 inside the session.
    #[error("the worker's HTTP failed")]
    Http(#[source] hyper::Error),
    /// Bytes under another name.
    #[error("the worker shows no keyset")]
    Keyset(#[source] KeysetError),
    /// Too long, or broken off.
    #[error("the worker's offers broke off")]
    Line(#[source] LinesCodecError),
    /// Not what it proved, or too much of it.
    #[error("the worker's offer does not fit")]
    Misfit(#[source] Misfit),
    /// Not a TD.
    #[error("the worker's evidence names no hardware")]
    NoMachine,
    /// Nothing to seal to.
    #[error("status {status} where the worker's keyset was asked for, expected 200")]
    NoKeyset {
        /// As answered.
        status: StatusCode,
    },
    /// Not JSON of ours.
    #[error("the worker's offer is malformed")]
    Offer(#[source] serde_json::Error),
    /// Never trusted.
    #[error("no verified connection")]
    Open(#[source] OpenError),
    /// Shown and proved differ.
    #[error("keyset {found} was shown, {proved} is in the evidence")]
    OtherKeyset {
        /// As shown.
        found: Digest256,
        /// As in the evidence.
        proved: Digest256,
    },
    /// No heartbeat.
    #[error("nothing from the worker for {} s", HEARTBEAT.as_secs())]
    Silent,
}
