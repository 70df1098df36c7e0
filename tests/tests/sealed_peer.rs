//! Sealed requests: to whom a client seals, and to whom it does not.

#![cfg(test)]

use std::sync::Arc;

use attestation::aci::Keyset;
use attestation::binding::{Binding, Nonce};
use attestation::evidence::PlatformEvidence;
use attestation::policy::Policy;
use attestation::protocol::{Refusal, Response};
use attestation::register::Digest384;
use attestation::time::UnixTime;
use attestation::vtpm::{Credential, Endorsement};
use sealed::{Envelope, Peer, PeerError, RequestHead, START, SecretKey, SizeClass, seal};
use session::provider::{Provider, ProviderError};
use session::server::Worker;
use tests::quote::TdState;
use tests::td::Td;

#[tokio::test]
async fn what_is_sealed_to_a_proved_worker_is_opened_by_it_alone_and_answered() {
    let (worker, peer) = (start(Td::new()).await, Td::new().policy());
    let peer = ask(&worker, &peer).await.unwrap();
    assert!(peer.trusted.checks().iter().all(|check| check.passed));
    assert_eq!(peer.key.id(), worker.seal_id());
    assert!(peer.keyset.receipt_key(Keyset::RECEIPTS).is_some());
    let envelope = Envelope {
        worker: peer.key.id(),
        model: "tiny".into(),
        id: [1; 16],
        limit: 100,
        price: 1,
        deadline_ms: 1000,
        class: SizeClass::Small,
    };
    let head = RequestHead {
        method: "POST".into(),
        path: "/v1/completions".into(),
        headers: Vec::new(),
        tenant: [2; 32],
    };
    let (mut request, mut sealer, mut response) =
        seal(&peer.key, &envelope.encode(), [3; 64]).unwrap();
    sealer.chunk(&head.encode(), &mut request).unwrap();
    sealer.last(b"{}", &mut request).unwrap();

    let (start_of, chunks) = request.split_at(START);
    let (mut opener, responder) = worker.open(&envelope.encode(), start_of).unwrap();
    assert_eq!(opener.push(chunks).unwrap(), [head.encode(), b"{}".into()]);
    opener.end().unwrap();
    let mut answer = Vec::new();
    let sealer = responder.start([4; 32], &mut answer).unwrap();
    sealer.last(b"yes", &mut answer).unwrap();
    assert_eq!(response.push(&answer).unwrap(), [b"yes"]);

    let other = start(Td::new()).await;
    let (mut opener, _) = other.open(&envelope.encode(), start_of).unwrap();
    assert!(opener.push(chunks).is_err(), "the same build, another boot");
}

#[tokio::test]
async fn keys_that_the_evidence_is_not_about_are_refused() {
    let (worker, policy) = (start(Td::new()).await, Td::new().policy());
    let response = worker.attest_sealed(NONCE).await;
    let own = worker.keyset().unwrap();
    let swapped = SecretKey::from_seed([9; 32]).unwrap().public();
    let swapped = own.text().replace(
        &hex::encode(own.seal_key().unwrap()),
        &hex::encode(swapped.bytes()),
    );
    let stranger = start(Td::new()).await.keyset().unwrap();
    for keyset in [&*swapped, stranger.text()] {
        let judged = judge(&policy, keyset, NONCE, response.clone());
        assert_eq!(failed(judged), ["report-data"]);
    }
    let judged = judge(&policy, own.text(), Nonce([8; 32]), response.clone());
    assert_eq!(failed(judged), ["report-data"], "an earlier moment");
    assert!(judge(&policy, own.text(), NONCE, response).is_ok());
}

#[tokio::test]
async fn evidence_for_a_session_is_none_for_who_seals() {
    let (worker, policy) = (start(Td::new()).await, Td::new().policy());
    let (client, server) = tokio::io::duplex(1 << 16);
    let (session, accepted) = tokio::join!(
        session::client::connect(client, &policy),
        worker.accept(server)
    );
    let (_, request) = session.unwrap().peer.challenge().unwrap();
    let attestation::protocol::Request::Challenge(nonce) = request else {
        panic!("no challenge");
    };
    let response = accepted.unwrap().1.answer(request).await;
    let keyset = worker.keyset().unwrap();
    let judged = judge(&policy, keyset.text(), Nonce(nonce), response);
    assert_eq!(failed(judged), ["report-data"]);
}

#[tokio::test]
async fn another_build_is_named_and_gets_no_request() {
    let mut state = TdState::new(Td::REGISTERS, Td::MRCONFIGID);
    state.registers.rtmr1 = Digest384::from_bytes([9; 48]);
    let worker = start(Td::in_state(state)).await;
    assert_eq!(failed(ask(&worker, &Td::new().policy()).await), ["rtmr1"]);
}

#[tokio::test]
async fn keys_count_until_their_day_and_no_longer() {
    let (worker, policy) = (start(Td::new()).await, Td::new().policy());
    let response = worker.attest_sealed(NONCE).await;
    let keyset = worker.keyset().unwrap();
    let last = UnixTime(keyset.not_after());
    let at = |at| {
        Peer::judge(
            &policy,
            keyset.text().as_bytes(),
            &NONCE,
            response.clone(),
            at,
        )
    };
    assert!(at(last).is_ok());
    let late = at(UnixTime(last.0 + 1)).unwrap_err();
    assert_eq!(late, PeerError::Expired { not_after: last });
}

/// Made by hand, as no worker of ours would show it.
#[tokio::test]
async fn a_keyset_without_a_key_of_that_kind_is_refused() {
    let td = Td::new();
    let made = Keyset::new(&[1; 32], &[2; 1215], &NOBODY, u64::from(u32::MAX)).unwrap();
    let worker = start(Td::new()).await;
    let Response::Evidence(mut evidence, _) = worker.attest_sealed(NONCE).await else {
        panic!("no evidence");
    };
    let (head, paths) = attestation::batch::tree(&[Binding::sealed(&made.digest().0, &NONCE)]);
    let data = evidence.report_data(&head);
    evidence.platform = td.attest(&data, None).unwrap();
    let response = Response::Evidence(evidence, paths[0].clone());
    let judged = judge(&td.policy(), made.text(), NONCE, response);
    assert_eq!(judged.unwrap_err(), PeerError::NoKey);
}

#[tokio::test]
async fn a_tpm_shows_no_evidence_to_who_seals() {
    let worker = start(Tpm).await;
    let response = worker.attest_sealed(NONCE).await;
    assert_eq!(response, Response::Refused(Refusal::OutOfOrder));
    let keyset = worker.keyset().unwrap();
    let policy = Td::new().policy();
    let judged = judge(&policy, keyset.text(), NONCE, response);
    assert_eq!(judged.unwrap_err(), PeerError::Refused(Refusal::OutOfOrder));
    let judged = judge(
        &policy,
        keyset.text(),
        NONCE,
        Response::Endorsement(endorsement()),
    );
    assert_eq!(judged.unwrap_err(), PeerError::NotATd);
}

/// A machine whose root of trust is a TPM.
struct Tpm;

impl Provider for Tpm {
    fn endorsement(&self) -> Option<Endorsement> {
        Some(endorsement())
    }

    fn attest(
        &self,
        _: &attestation::binding::ReportData,
        _: Option<&Credential>,
    ) -> Result<PlatformEvidence, ProviderError> {
        Err("nobody asks it".into())
    }

    fn event_log(&self) -> &[u8] {
        &[]
    }
}

fn endorsement() -> Endorsement {
    Endorsement {
        ek_certificate: Vec::new(),
        chain: Vec::new(),
        ak_public: Vec::new(),
    }
}

async fn start(provider: impl Provider) -> Arc<Worker> {
    Worker::start(Arc::new(provider)).await.unwrap()
}

/// As a client does.
async fn ask(worker: &Worker, policy: &Policy) -> Result<Peer, PeerError> {
    let response = worker.attest_sealed(NONCE).await;
    judge(policy, worker.keyset().unwrap().text(), NONCE, response)
}

fn judge(
    policy: &Policy,
    keyset: &str,
    nonce: Nonce,
    response: Response,
) -> Result<Peer, PeerError> {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let now = UnixTime(now.as_secs());
    Peer::judge(policy, keyset.as_bytes(), &nonce, response, now)
}

fn failed(judged: Result<Peer, PeerError>) -> Vec<&'static str> {
    let Err(PeerError::Rejected(rejection)) = judged else {
        panic!("not rejected");
    };
    let failed = rejection.checks.iter().filter(|check| !check.passed);
    failed.map(|check| check.name).collect()
}

const NONCE: Nonce = Nonce([7; 32]);
const NOBODY: attestation::register::Digest256 = attestation::register::Digest256::ZERO;
