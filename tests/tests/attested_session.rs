//! Attested TLS: who gets through the gate, and what stops everybody else.

#![cfg(test)]

use std::net::SocketAddr;
use std::sync::Arc;

use attestation::binding::ALPN;
use attestation::policy::{Policy, Trusted, VtpmPolicy};
use attestation::protocol::Response;
use attestation::register::Digest384;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use session::client::{ChallengeError, ConnectError, Next, Session, connect};
use session::server::{AcceptError, Attester, Worker};
use session::stream::Stream;
use tests::adversary::{self, Anybody};
use tests::quote::{DEBUG, TdState};
use tests::td::Td;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn a_published_worker_is_trusted_and_then_spoken_to() {
    let policy = Td::new().policy();
    let (address, worker) = serve(Td::new()).await;
    let mut session = dial(address, &policy).await.unwrap();
    assert!(session.trusted.checks().iter().all(|check| check.passed));
    session.stream.write_all(b"hello").await.unwrap();
    session.stream.flush().await.unwrap();
    let (mut stream, _attester) = worker.await.unwrap().unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn each_difference_from_what_was_published_is_named() {
    let published = TdState::new(Td::REGISTERS, Td::MRCONFIGID);
    let other = Digest384::from_bytes([9; 48]);
    type Change = fn(&mut TdState, Digest384);
    let cases: [(&str, Change); 7] = [
        ("mrtd", |td, other| td.registers.mrtd = other),
        ("rtmr0", |td, other| td.registers.rtmr0 = other),
        ("rtmr1", |td, other| td.registers.rtmr1 = other),
        ("rtmr2", |td, other| td.registers.rtmr2 = other),
        ("rtmr3", |td, other| td.registers.rtmr3 = other),
        ("mrconfigid", |td, other| td.mrconfigid = other),
        ("td-debug", |td, _| td.attributes |= DEBUG),
    ];
    for (name, change) in cases {
        let mut state = published.clone();
        change(&mut state, other);
        let (address, _worker) = serve(Td::in_state(state)).await;
        let refused = dial(address, &Td::new().policy()).await;
        assert_eq!(failed(refused), [name]);
    }
}

#[tokio::test]
async fn evidence_relayed_from_a_genuine_worker_is_refused() {
    let policy = Td::new().policy();
    let (genuine, _worker) = serve(Td::new()).await;
    let middle = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = middle.local_addr().unwrap();
    let relay = tokio::spawn(async move { adversary::relay(&middle, genuine).await });
    assert_eq!(failed(dial(address, &policy).await), ["report-data"]);
    let relayed = relay.await.unwrap().unwrap();
    assert_eq!(relayed.responses.len(), 1, "the evidence did come through");
}

#[tokio::test]
async fn evidence_replayed_from_an_earlier_session_is_refused() {
    let policy = Td::new().policy();
    let (genuine, _worker) = serve(Td::new()).await;
    let middle = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = middle.local_addr().unwrap();
    let adversary = tokio::spawn(async move {
        let recorded = adversary::relay(&middle, genuine).await?;
        adversary::replay(&middle, &recorded).await
    });
    assert_eq!(failed(dial(address, &policy).await), ["report-data"]);
    assert_eq!(failed(dial(address, &policy).await), ["report-data"]);
    adversary.await.unwrap().unwrap();
}

#[tokio::test]
async fn asked_again_the_worker_proves_itself_again_and_an_old_answer_does_not_count() {
    let policy = Td::new().policy();
    let (address, worker) = serve(Td::new()).await;
    let session = dial(address, &policy).await.unwrap();
    let (_stream, mut attester) = worker.await.unwrap().unwrap();

    let (mut challenge, request) = session.peer.challenge().unwrap();
    let answer = attester.answer(request).await;
    assert!(matches!(
        challenge.next(answer.clone(), &policy),
        Ok(Next::Trusted(_))
    ));
    let (mut challenge, _request) = session.peer.challenge().unwrap();
    let Err(ChallengeError::Rejected(rejection)) = challenge.next(answer, &policy) else {
        panic!("an answer to an earlier nonce was taken");
    };
    assert_eq!(names(&rejection.checks), ["report-data"]);
}

#[tokio::test]
async fn a_place_in_a_round_is_nobody_elses() {
    let policy = Td::new().policy();
    let worker = Worker::start(Arc::new(Td::new())).await.unwrap();
    let (ours, mut our_attester) = pair(&worker, &policy).await;
    let (theirs, mut their_attester) = pair(&worker, &policy).await;
    let (mut our_challenge, our_request) = ours.peer.challenge().unwrap();
    let (mut their_challenge, their_request) = theirs.peer.challenge().unwrap();
    let (our_answer, their_answer) = tokio::join!(
        our_attester.answer(our_request),
        their_attester.answer(their_request)
    );
    for (challenge, answer) in [
        (&mut our_challenge, &their_answer),
        (&mut their_challenge, &our_answer),
    ] {
        let Err(ChallengeError::Rejected(rejection)) = challenge.next(answer.clone(), &policy)
        else {
            panic!("another client's place was taken");
        };
        assert_eq!(names(&rejection.checks), ["report-data"]);
    }
    for (mut challenge, answer) in [(our_challenge, our_answer), (their_challenge, their_answer)] {
        assert!(matches!(
            challenge.next(answer, &policy),
            Ok(Next::Trusted(_))
        ));
    }
}

#[tokio::test]
async fn a_log_that_the_platform_did_not_sign_for_is_refused() {
    let policy = Td::new().policy();
    let (address, worker) = serve(Td::new()).await;
    let session = dial(address, &policy).await.unwrap();
    let (_stream, mut attester) = worker.await.unwrap().unwrap();
    let (mut challenge, request) = session.peer.challenge().unwrap();
    let Response::Evidence(mut evidence, path) = attester.answer(request).await else {
        panic!("no evidence");
    };
    evidence.event_log.push(0);
    let Err(ChallengeError::Rejected(rejection)) =
        challenge.next(Response::Evidence(evidence, path), &policy)
    else {
        panic!("another log was taken");
    };
    assert_eq!(names(&rejection.checks), ["event-log"]);
}

#[tokio::test]
async fn a_td_is_not_taken_where_a_tpm_was_asked_for() {
    let policy = Policy::Vtpm(VtpmPolicy {
        anchors: Vec::new(),
        builds: Vec::new(),
    });
    let (address, _worker) = serve(Td::new()).await;
    assert_eq!(
        failed(dial(address, &policy).await),
        ["platform", "conversation"]
    );
}

#[tokio::test]
async fn a_td_under_another_root_is_refused() {
    let (address, _worker) = serve(Td::new()).await;
    let refused = dial(address, &Policy::Tdx(Box::new(Td::accepted()))).await;
    assert_eq!(failed(refused), ["collateral"]);
}

#[tokio::test]
async fn application_bytes_before_the_gate_end_the_connection() {
    let (address, worker) = serve(Td::new()).await;
    let mut tls = raw(address, ALPN).await.unwrap();
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut heard = Vec::new();
    drop(tls.read_to_end(&mut heard).await);
    assert_eq!(
        heard, b"",
        "nothing is said to a client that skips the gate"
    );
    let error = worker.await.unwrap().unwrap_err();
    assert!(matches!(error, AcceptError::Gate(_)), "{error}");
}

#[tokio::test]
async fn another_application_protocol_is_refused() {
    let (address, worker) = serve(Td::new()).await;
    assert!(raw(address, b"h2").await.is_err());
    let error = worker.await.unwrap().unwrap_err();
    assert!(matches!(error, AcceptError::Handshake(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_a_worker_is_not_spoken_to() {
    let policy = Td::new().policy();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await?;
        let mut hello = [0; 5];
        tcp.read_exact(&mut hello).await?;
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await
    });
    let error = dial(address, &policy).await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake(_)), "{error}");
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_session_is_never_resumed() {
    let worker = Worker::start(Arc::new(Td::new())).await.unwrap();
    let config = Arc::new(careless_client(ALPN));
    for _ in 0..2 {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let worker = Arc::clone(&worker);
        let server = tokio::spawn(async move { worker.accept(server).await.map(drop) });
        let name = "worker".try_into().unwrap();
        let tls = TlsConnector::from(Arc::clone(&config)).connect(name, &mut client);
        let tls = tls.await.unwrap();
        let (_, session) = tls.get_ref();
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
        drop(client);
        assert!(server.await.unwrap().is_err(), "it asked for nothing");
    }
}

type Accepted = Result<(Stream<TcpStream>, Attester<TcpStream>), AcceptError>;

/// A worker on loopback that takes one connection.
async fn serve(td: Td) -> (SocketAddr, JoinHandle<Accepted>) {
    let worker = Worker::start(Arc::new(td)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        worker.accept(tcp).await
    });
    (address, accepted)
}

/// A session with `worker`, both ends.
async fn pair(
    worker: &Arc<Worker>,
    policy: &Policy,
) -> (Session<DuplexStream>, Attester<DuplexStream>) {
    let (client, server) = tokio::io::duplex(1 << 16);
    let (session, accepted) = tokio::join!(connect(client, policy), worker.accept(server));
    (session.unwrap(), accepted.unwrap().1)
}

async fn dial(address: SocketAddr, policy: &Policy) -> Result<Session<TcpStream>, ConnectError> {
    connect(TcpStream::connect(address).await.unwrap(), policy).await
}

/// TLS without asking for evidence.
async fn raw(
    address: SocketAddr,
    alpn: &[u8],
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = "worker".try_into().unwrap();
    TlsConnector::from(Arc::new(careless_client(alpn)))
        .connect(name, tcp)
        .await
}

fn careless_client(alpn: &[u8]) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

fn failed(refused: Result<Session<TcpStream>, ConnectError>) -> Vec<&'static str> {
    match refused {
        Err(ConnectError::Challenge(ChallengeError::Rejected(rejection))) => {
            names(&rejection.checks)
        }
        Err(other) => panic!("ended before it was judged: {other}"),
        Ok(session) => panic!("trusted: {:?}", Trusted::checks(&session.trusted)),
    }
}

fn names(checks: &[attestation::appraisal::Check]) -> Vec<&'static str> {
    let failed = checks.iter().filter(|check| !check.passed);
    failed.map(|check| check.name).collect()
}
