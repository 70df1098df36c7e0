//! What a client costs that comes for the first time, in processor time and in bytes:
//! evidence, the first sealed request, and an attested session beside TLS alone. Both
//! ends are in this process; the TD is emulated, a real one takes longer to quote.
//!
//!     cargo bench -p tests --bench newcomer

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a program for who measures"
)]

use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::SystemTime;

use attestation::binding::Nonce;
use attestation::cbor;
use attestation::time::UnixTime;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sealed::{Peer, START, seal};
use session::server::Worker;
use tests::td::Td;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::io::{ReadBuf, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let worker = Worker::start(Arc::new(Td::new())).await.unwrap();
    let policy = Td::new().policy();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = UnixTime(now.unwrap().as_secs());
    let keyset = worker.keyset().unwrap();
    let keyset = keyset.text().as_bytes();
    let response = worker.attest_sealed(NONCE).await;
    let judge = || Peer::judge(&policy, keyset, &NONCE, response.clone(), now);
    let peer = judge().unwrap();
    let (start, ..) = seal(&peer.key, b"envelope", [2; 64]).unwrap();

    println!("{:<52} {:>8} {:>8}", "", "CPU µs", "bytes");
    let shown = cbor::encode(&response).len();
    let time = cpu(async || judge()).await;
    row(
        "evidence judged, with its keyset",
        time,
        shown + keyset.len(),
    );
    let time = cpu(async || seal(&peer.key, b"envelope", [2; 64])).await;
    row("a request begun: X-Wing to the worker's key", time, START);
    let time = cpu(async || worker.open(b"envelope", &start)).await;
    row("its beginning opened", time, 0);

    let session = async || {
        let (client, server, count) = counted();
        let (session, accepted) = tokio::join!(
            session::client::connect(client, &policy),
            worker.accept(server)
        );
        black_box((session.unwrap(), accepted.unwrap()));
        count.load(Ordering::Relaxed)
    };
    let attested = cpu(&session).await;
    let bytes = session().await;
    row("an attested session, both ends", attested, bytes);
    let (client, server) = plain();
    let shake = async || {
        let (to_server, to_client, count) = counted();
        let name = ServerName::try_from("localhost").unwrap();
        let (mut client, mut server) =
            tokio::try_join!(client.connect(name, to_server), server.accept(to_client)).unwrap();
        // With what TLS sends behind the handshake.
        let hello = async { client.write_all(b"hello").await.unwrap() };
        tokio::join!(hello, async {
            server.read_exact(&mut [0; 5]).await.unwrap()
        });
        black_box((client, server));
        count.load(Ordering::Relaxed)
    };
    let tls = cpu(&shake).await;
    row("TLS 1.3 alone, both ends", tls, shake().await);
    println!(
        "\na session costs {:.1} times what TLS alone does",
        attested / tls
    );
}

fn row(name: &str, micros: f64, bytes: usize) {
    println!("{name:<52} {micros:>8.0} {bytes:>8}");
}

/// The least of several rounds, in microseconds, of user and kernel.
async fn cpu<T>(once: impl AsyncFn() -> T) -> f64 {
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        (usage.user_time() + usage.system_time()).num_microseconds()
    };
    let mut least = f64::MAX;
    for _ in 0..10 {
        let before = used();
        for _ in 0..ROUND {
            black_box(once().await);
        }
        least = least.min((used() - before) as f64 / f64::from(ROUND));
    }
    least
}

fn plain() -> (TlsConnector, TlsAcceptor) {
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(default_provider());
    let versions = [&rustls::version::TLS13];
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    (Arc::new(client).into(), Arc::new(server).into())
}

/// Both ends of a connection, and how many bytes went over it.
fn counted() -> (Counted, Counted, Arc<AtomicUsize>) {
    let (one, other) = duplex(1 << 16);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = |stream| Counted(stream, Arc::clone(&count));
    (counted(one), counted(other), count)
}

struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, out)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = written {
            self.1.fetch_add(written, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

const NONCE: Nonce = Nonce([7; 32]);

const ROUND: i32 = 20;
