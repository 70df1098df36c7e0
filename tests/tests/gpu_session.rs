//! Sessions with TDs that show GPUs: what is trusted, and what stops everything else.
//!
//! GPUs and NVIDIA are paper ones, under a made-up root; the session, the quote over the
//! reports and the judgement are the real ones.

#![cfg(test)]

#[path = "../../attestation/tests/paper_gpu/mod.rs"]
mod paper_gpu;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use attestation::batch::TreeHead;
use attestation::binding::ReportData;
use attestation::evidence::{GpuCollateral, GpuEvidence, GpuMode, PlatformEvidence};
use attestation::nvidia::{Demand, DevicePolicy};
use attestation::policy::{Anchors, Devices, GpuPolicy, Policy};
use attestation::protocol::Response;
use attestation::vtpm::{Credential, Endorsement};
use paper_gpu::pki::Ocsp;
use paper_gpu::rim::Manifest;
use paper_gpu::{Device, manifests, roots};
use session::client::{ChallengeError, ConnectError, Next, Session, connect};
use session::provider::{Gpus, Provider, ProviderError};
use session::server::{Attester, Worker};
use tests::td::Td;
use tokio::io::DuplexStream;

#[tokio::test]
async fn a_td_with_the_gpus_of_its_shape_is_trusted() {
    for (shown, shape) in [(1, 1), (2, 2)] {
        let wanted = policy(shape, Demand::IfGiven);
        assert_eq!(failed(worker(shown), &wanted).await, [""; 0]);
    }
}

#[tokio::test]
async fn as_many_gpus_as_the_shape_has_no_more_and_no_less() {
    for (shown, shape) in [(0, 1), (1, 2), (2, 1), (1, 0)] {
        let wanted = policy(shape, Demand::IfGiven);
        assert_eq!(failed(worker(shown), &wanted).await, ["gpus"], "{shown}");
    }
}

#[tokio::test]
async fn one_gpu_is_not_two() {
    let twice = |head: &TreeHead| {
        let shown = [0, 1].map(|index| report(0, head.gpu_nonce(index, 2)));
        serving(shown.into())
    };
    let wanted = policy(2, Demand::IfGiven);
    assert_eq!(failed(twice, &wanted).await, ["distinct-devices"]);
}

#[tokio::test]
async fn gpus_answer_in_this_round_and_in_their_order() {
    let exchanged = |head: &TreeHead| {
        let mut gpus = worker(2)(head);
        gpus.reports.reverse();
        gpus
    };
    let wanted = policy(2, Demand::IfGiven);
    assert_eq!(failed(exchanged, &wanted).await, ["gpu-report"]);

    let first = Mutex::new(None);
    let replayed = move |head: &TreeHead| {
        let mut first = first.lock().unwrap();
        first.get_or_insert_with(|| worker(1)(head)).clone()
    };
    let wanted = policy(1, Demand::IfGiven);
    let (session, mut attester) = dial(replayed, &wanted).await;
    let session = session.unwrap();
    let (mut challenge, request) = session.peer.challenge().unwrap();
    let answer = attester.answer(request).await;
    assert_eq!(names(challenge.next(answer, &wanted)), ["gpu-report"]);
}

#[tokio::test]
async fn another_genuine_report_is_not_what_the_td_signed_for() {
    let wanted = policy(1, Demand::IfGiven);
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&heads);
    let noting = move |head: &TreeHead| {
        noted.lock().unwrap().push(*head);
        worker(1)(head)
    };
    let (session, mut attester) = dial(noting, &wanted).await;
    let (mut challenge, request) = session.unwrap().peer.challenge().unwrap();
    let Response::Evidence(mut evidence, path) = attester.answer(request).await else {
        panic!("no evidence");
    };
    let head = *heads.lock().unwrap().last().unwrap();
    evidence.gpus[0] = report(7, head.gpu_nonce(0, 1));
    let replaced = challenge.next(Response::Evidence(evidence, path), &wanted);
    assert_eq!(names(replaced), ["report-data"]);
}

#[tokio::test]
async fn gpus_that_others_read_along_with_or_that_do_no_work_are_refused() {
    let serving = GpuMode::SERVING;
    let modes = [
        None,
        Some(GpuMode {
            confidential: false,
            ..serving
        }),
        Some(GpuMode {
            dev_tools: true,
            ..serving
        }),
        Some(GpuMode {
            accepting_work: false,
            ..serving
        }),
    ];
    for mode in modes {
        let running = move |head: &TreeHead| Gpus {
            mode,
            ..worker(1)(head)
        };
        let wanted = policy(1, Demand::IfGiven);
        assert_eq!(failed(running, &wanted).await, ["gpu-mode"], "{mode:?}");
    }
    let without = move |_: &TreeHead| Gpus {
        mode: Some(serving),
        ..Gpus::default()
    };
    assert_eq!(
        failed(without, &policy(0, Demand::IfGiven)).await,
        ["gpu-mode"]
    );
}

#[tokio::test]
async fn without_a_manifest_nobody_knows_what_runs() {
    for (missing, name) in [(0, "driver-rim"), (1, "vbios-rim")] {
        let incomplete = move |head: &TreeHead| {
            let mut gpus = worker(1)(head);
            gpus.collateral.rims.remove(missing);
            gpus
        };
        let wanted = policy(1, Demand::IfGiven);
        let failed = failed(incomplete, &wanted).await;
        assert!(failed.contains(&name), "{failed:?}");
    }
}

#[tokio::test]
async fn where_answers_of_nvidia_are_required_they_have_to_be_stapled_and_good() {
    let wanted = policy(1, Demand::Required);
    assert_eq!(failed(worker(1), &wanted).await, ["revocation"]);

    let stapled = |status: &'static [u8]| {
        move |head: &TreeHead| {
            let mut gpus = worker(1)(head);
            gpus.collateral.ocsp = answers(status).map(Into::into).collect();
            gpus
        }
    };
    assert_eq!(failed(stapled(&GOOD), &wanted).await, [""; 0]);
    for demand in [Demand::Required, Demand::IfGiven] {
        let refused = failed(stapled(&REVOKED), &policy(1, demand)).await;
        assert_eq!(refused, ["gpu-report"]);
    }
}

/// A TD with whatever this returns for a round.
struct GpuTd<F> {
    td: Td,
    gpus: F,
}

impl<F> Provider for GpuTd<F>
where
    F: Fn(&TreeHead) -> Gpus + Send + Sync + 'static,
{
    fn endorsement(&self) -> Option<Endorsement> {
        self.td.endorsement()
    }

    fn gpus(&self, head: &TreeHead) -> Result<Gpus, ProviderError> {
        Ok((self.gpus)(head))
    }

    fn attest(
        &self,
        report_data: &ReportData,
        credential: Option<&Credential>,
    ) -> Result<PlatformEvidence, ProviderError> {
        self.td.attest(report_data, credential)
    }

    fn event_log(&self) -> &[u8] {
        self.td.event_log()
    }
}

/// Good ones.
fn worker(count: u8) -> impl Fn(&TreeHead) -> Gpus + Send + Sync + 'static {
    move |head| {
        let nonce = |number| head.gpu_nonce(number, u32::from(count));
        let shown = (0..count).map(|number| report(number, nonce(u32::from(number))));
        serving(shown.collect())
    }
}

fn serving(reports: Vec<GpuEvidence>) -> Gpus {
    Gpus {
        mode: (!reports.is_empty()).then_some(GpuMode::SERVING),
        reports,
        collateral: collateral(),
    }
}

fn report(number: u8, nonce: [u8; 32]) -> GpuEvidence {
    let device = Device {
        nonce,
        ..Device::gpu(number)
    };
    GpuEvidence {
        report: device.report(),
        chain: device.chain_pem().into_bytes(),
    }
}

fn collateral() -> GpuCollateral {
    let [driver, vbios, _] = manifests().map(Manifest::lasting);
    GpuCollateral {
        rims: [driver, vbios].map(|rim| rim.sign().into()).into(),
        ..GpuCollateral::default()
    }
}

/// For each certificate between the GPU's own, or a manifest's signer, and the root.
fn answers(of_brom: &'static [u8]) -> impl Iterator<Item = Vec<u8>> {
    let [_, brom, provisioner, identity, _] = Device::gpu(0).chain;
    let [driver, ..] = manifests();
    let [signer, level_3, ca, _] = driver.chain;
    let all = [brom, provisioner, identity, signer, level_3, ca];
    all.into_iter().enumerate().map(move |(index, subject)| {
        let answer = Ocsp {
            status: if index == 0 { of_brom } else { &GOOD }.to_vec(),
            from: ALWAYS.0,
            until: Some(ALWAYS.1),
            ..Ocsp::of(&subject)
        };
        answer.sign()
    })
}

/// What goes by today's clock.
const ALWAYS: (&str, &str) = ("20200101000000Z", "99991231235959Z");

/// `certStatus` (RFC 6960, section 4.2.1).
const GOOD: [u8; 2] = [0x80, 0];
const REVOKED: [u8; 19] = *b"\xa1\x11\x18\x0f20260101000000Z";

/// Takes the TD with so many GPUs.
fn policy(gpus: usize, revocation: Demand) -> Policy {
    let [devices, manifests] = roots();
    let shape = Devices { gpus, switches: 0 };
    let machines = match gpus {
        0 => BTreeMap::new(),
        _ => BTreeMap::from([(Td::REGISTERS, shape)]),
    };
    let device = DevicePolicy {
        revocation,
        ..DevicePolicy::any()
    };
    let gpus = GpuPolicy::new(machines, device);
    Td::new().policy_with(gpus.under(Anchors { devices, manifests }))
}

/// Both ends.
async fn dial(
    gpus: impl Fn(&TreeHead) -> Gpus + Send + Sync + 'static,
    policy: &Policy,
) -> (
    Result<Session<DuplexStream>, ConnectError>,
    Attester<DuplexStream>,
) {
    let td = GpuTd {
        td: Td::new(),
        gpus,
    };
    let worker = Worker::start(Arc::new(td)).await.unwrap();
    let (client, server) = tokio::io::duplex(1 << 16);
    let (session, accepted) = tokio::join!(connect(client, policy), worker.accept(server));
    (session, accepted.unwrap().1)
}

/// What the client refuses, if anything.
async fn failed(
    gpus: impl Fn(&TreeHead) -> Gpus + Send + Sync + 'static,
    policy: &Policy,
) -> Vec<&'static str> {
    match dial(gpus, policy).await.0 {
        Ok(_) => Vec::new(),
        Err(ConnectError::Challenge(error)) => names(Err(error)),
        Err(other) => panic!("ended before it was judged: {other}"),
    }
}

fn names(judged: Result<Next, ChallengeError>) -> Vec<&'static str> {
    match judged {
        Err(ChallengeError::Rejected(rejection)) => {
            let failed = rejection.checks.iter().filter(|check| !check.passed);
            failed.map(|check| check.name).collect()
        }
        Err(other) => panic!("ended before it was judged: {other}"),
        Ok(_) => panic!("trusted"),
    }
}
