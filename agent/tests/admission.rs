//! GPUs that may work and GPUs that may not, from recorded reports and manifests.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

#[path = "../../attestation/tests/paper_td/der.rs"]
#[allow(dead_code, reason = "made for other tests too")]
mod der;
#[path = "../../attestation/tests/paper_gpu/pki.rs"]
#[allow(dead_code, reason = "made for other tests too")]
mod pki;

use std::error::Error;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use agent::admission::{Refused, Shown, admit};
use agent::collateral::FetchError;
use agent::fleet::Fleet;
use agent::gpu::{GpuError, Gpus, Machine};
use agent::manifests::Manifests;
use agent::ocsp::{self, Responder};
use attestation::evidence::{GpuCollateral, GpuEvidence, GpuMode};
use attestation::nvidia::Trusted;
use attestation::time::UnixTime;
use pki::{Certificate, Key, Ocsp};

#[test]
fn a_gpu_that_runs_what_nvidia_released_may_work() {
    let Some(recorded) = Recorded::read() else {
        return;
    };
    let shelf = recorded.shelf();
    let trusted = recorded.admit(&[recorded.gpu()], &shelf).unwrap();
    assert_eq!(trusted.devices().len(), 1);
    let asked = shelf.asked.lock().unwrap();
    assert_eq!(
        *asked,
        [
            "NV_GPU_DRIVER_GH100_545.00",
            "NV_GPU_VBIOS_1010_0200_882_96005E0001"
        ]
    );
}

#[test]
fn an_answer_to_another_question_is_refused_before_anything_is_fetched() {
    let Some(recorded) = Recorded::read() else {
        return;
    };
    let (evidence, mut nonce) = recorded.gpu();
    nonce[0] ^= 1;
    let shelf = recorded.shelf();
    let refused = recorded.admit(&[(evidence, nonce)], &shelf).unwrap_err();
    assert!(matches!(refused, Refused::Device { index: 0, .. }));
    assert!(reason(&refused).contains("nonce"), "{}", reason(&refused));
    assert_eq!(*shelf.asked.lock().unwrap(), [""; 0]);
}

#[test]
fn a_report_that_was_changed_is_refused() {
    let Some(recorded) = Recorded::read() else {
        return;
    };
    let (mut evidence, nonce) = recorded.gpu();
    evidence.report[60] ^= 1;
    let refused = recorded.admit(&[(evidence, nonce)], &recorded.shelf());
    assert!(matches!(refused, Err(Refused::Device { index: 0, .. })));
}

#[test]
fn one_gpu_shown_twice_is_not_two() {
    let Some(recorded) = Recorded::read() else {
        return;
    };
    let refused = recorded.admit(&[recorded.gpu(), recorded.gpu()], &recorded.shelf());
    assert!(matches!(refused, Err(Refused::Measurements(_))));
}

#[test]
fn without_a_manifest_nothing_works() {
    let Some(recorded) = Recorded::read() else {
        return;
    };
    let mut shelf = recorded.shelf();
    shelf.driver.clear();
    let refused = recorded.admit(&[recorded.gpu()], &shelf).unwrap_err();
    assert!(matches!(refused, Refused::Unavailable(_)));
}

#[test]
fn a_manifest_that_was_changed_or_is_another_ones_is_refused() {
    let Some(recorded) = Recorded::read() else {
        return;
    };
    let mut shelf = recorded.shelf();
    shelf.driver[4000] ^= 1;
    let refused = recorded.admit(&[recorded.gpu()], &shelf).unwrap_err();
    assert!(matches!(refused, Refused::Manifest { .. }));

    let mut shelf = recorded.shelf();
    shelf.driver = shelf.vbios.clone();
    let refused = recorded.admit(&[recorded.gpu()], &shelf).unwrap_err();
    assert!(matches!(refused, Refused::Measurements(_)));
}

#[test]
fn manifests_and_answers_are_fetched_twice_a_day_and_kept_while_there_are_no_newer_ones() {
    let Some(staple) = Staple::new("20231231000000Z") else {
        return;
    };
    let first = staple.collateral(AT);
    assert_eq!((first.rims.len(), first.ocsp.len()), (2, QUESTIONS));
    assert_eq!(staple.collateral(AT + HALF_DAY_S - 1), first);
    assert_eq!(staple.asked(), (2, QUESTIONS));
    assert_eq!(staple.collateral(AT + HALF_DAY_S), first);
    assert_eq!(staple.asked(), (4, 2 * QUESTIONS));

    // Whoever is gone is left alone for a minute.
    staple.manifests.gone.store(true, Ordering::Relaxed);
    staple.responder.gone.store(true, Ordering::Relaxed);
    for wait in [0, 59] {
        assert_eq!(staple.collateral(AT + 2 * HALF_DAY_S + wait), first);
        assert_eq!(staple.asked(), (5, 2 * QUESTIONS + 1));
    }
    assert_eq!(staple.collateral(AT + 2 * HALF_DAY_S + 60), first);
    assert_eq!(staple.asked(), (6, 2 * QUESTIONS + 2));
}

#[test]
fn answers_are_renewed_before_they_end_and_not_shown_after() {
    // Six hours after AT.
    let Some(staple) = Staple::new("20231115041320Z") else {
        return;
    };
    let end = AT + HALF_DAY_S / 2;
    let first = staple.collateral(AT);
    assert_eq!(staple.collateral(end - 1), first);
    assert_eq!(staple.asked().1, QUESTIONS);
    staple.responder.gone.store(true, Ordering::Relaxed);
    let ended = staple.collateral(end);
    assert_eq!((ended.rims.len(), ended.ocsp.len()), (2, 0));
    staple.responder.gone.store(false, Ordering::Relaxed);
    assert_eq!(staple.collateral(end + 60).ocsp.len(), 0, "they ended too");
}

#[test]
fn without_a_responder_manifests_are_shown_alone() {
    let Some(staple) = Staple::new("20231231000000Z") else {
        return;
    };
    staple.responder.gone.store(true, Ordering::Relaxed);
    let alone = staple.collateral(AT);
    assert_eq!((alone.rims.len(), alone.ocsp.len()), (2, 0));
    staple.responder.gone.store(false, Ordering::Relaxed);
    assert_eq!(staple.collateral(AT + 60).ocsp.len(), QUESTIONS);
}

#[test]
fn what_is_no_answer_is_not_shown() {
    let Some(staple) = Staple::new("20231231000000Z") else {
        return;
    };
    // tryLater (RFC 6960, section 4.2.1), a web page, and an answer to no question.
    let silent = Ocsp {
        answers: 0,
        ..Ocsp::of(&certificate())
    };
    let no_answers = [vec![0x30, 3, 0x0a, 1, 3], b"<html>".to_vec(), silent.sign()];
    for (wait, answer) in (0..).zip(no_answers) {
        *staple.answer.lock().unwrap() = answer;
        let alone = staple.collateral(AT + 60 * wait);
        assert_eq!((alone.rims.len(), alone.ocsp.len()), (2, 0));
    }
}

#[test]
fn a_responder_is_asked_by_post() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = ocsp::Service::new(&format!("http://{}/", listener.local_addr().unwrap()));
    let server = thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        while !heard.ends_with(b"the question") {
            let mut some = [0; 1024];
            let len = tcp.read(&mut some).unwrap();
            assert_ne!(len, 0, "it left");
            heard.extend(&some[..len]);
        }
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nanswer")
            .unwrap();
        String::from_utf8(heard).unwrap().to_ascii_lowercase()
    });
    assert_eq!(service.ask(b"the question").unwrap(), b"answer");
    let heard = server.join().unwrap();
    assert!(heard.starts_with("post / http/1.1\r\n"), "{heard}");
    let kind = "\r\ncontent-type: application/ocsp-request\r\n";
    assert!(heard.contains(kind), "{heard}");
}

/// A fleet of the one recorded GPU, with services that can go.
struct Staple {
    shown: Shown,
    fleet: Fleet,
    manifests: Arc<Counter>,
    responder: Arc<Counter>,
    answer: Arc<Mutex<Vec<u8>>>,
}

impl Staple {
    /// With answers that hold from then on until that time.
    fn new(until: &'static str) -> Option<Self> {
        let recorded = Recorded::read()?;
        let answer = Ocsp {
            from: "20231114221320Z",
            until: Some(until),
            ..Ocsp::of(&certificate())
        };
        let answer = Arc::new(Mutex::new(answer.sign()));
        let (manifests, responder) = (Arc::<Counter>::default(), Arc::<Counter>::default());
        let service = Service {
            shelf: recorded.shelf(),
            counter: Arc::clone(&manifests),
        };
        let answers = Answers {
            answer: Arc::clone(&answer),
            counter: Arc::clone(&responder),
        };
        let machine = Machine::new(Box::new(NoGpus), 1);
        Some(Self {
            shown: recorded.gpu(),
            fleet: Fleet::new(machine, Box::new(service), Box::new(answers)),
            manifests,
            responder,
            answer,
        })
    }

    fn collateral(&self, at: u64) -> GpuCollateral {
        let shown = std::slice::from_ref(&self.shown);
        self.fleet.collateral(shown, UnixTime(at)).unwrap()
    }

    /// Manifests, answers.
    fn asked(&self) -> (usize, usize) {
        let [manifests, answers] = [&self.manifests.asked, &self.responder.asked];
        (
            manifests.load(Ordering::Relaxed),
            answers.load(Ordering::Relaxed),
        )
    }
}

/// Somebody's: a responder may say of whom it likes.
fn certificate() -> Certificate {
    Certificate::end("somebody", Key(1), "issuer", Key(2))
}

/// One recorded GPU, and the manifests of what it runs.
struct Recorded {
    evidence: GpuEvidence,
    driver: Vec<u8>,
    vbios: Vec<u8>,
}

impl Recorded {
    fn read() -> Option<Self> {
        let root = std::env::var_os("COCOON_VECTORS").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors")),
            PathBuf::from,
        );
        if !root.exists() {
            assert!(std::env::var_os("CI").is_none(), "CI needs the vectors");
            println!("skipped: no vectors");
            return None;
        }
        let read = |name: &str| fs::read(root.join("nvidia").join(name)).unwrap();
        Some(Self {
            evidence: GpuEvidence {
                report: read("confidentsecurity__go-nvtrust/mock.report.bin"),
                chain: read("confidentsecurity__go-nvtrust/mock.chain.pem"),
            },
            driver: read("NVIDIA__nvtrust/rims/Driver_RIM_test_no_gpu.swidtag"),
            vbios: read("NVIDIA__nvtrust/rims/1010_0200_882_96005E0001_test_no_gpu.swidtag"),
        })
    }

    /// With the nonce that it was asked.
    fn gpu(&self) -> Shown {
        let nonce = self.evidence.report[4..36].try_into().unwrap();
        (self.evidence.clone(), nonce)
    }

    fn shelf(&self) -> Shelf {
        Shelf {
            driver: self.driver.clone(),
            vbios: self.vbios.clone(),
            asked: Mutex::default(),
        }
    }

    fn admit(&self, shown: &[Shown], shelf: &Shelf) -> Result<Trusted, Refused> {
        admit(shown, shelf, UnixTime(AT))
    }
}

/// A service that has two manifests, or one.
struct Shelf {
    driver: Vec<u8>,
    vbios: Vec<u8>,
    asked: Mutex<Vec<String>>,
}

impl Manifests for Shelf {
    fn fetch(&self, id: &str) -> Result<Vec<u8>, FetchError> {
        self.asked.lock().unwrap().push(id.into());
        let document = match id.starts_with("NV_GPU_DRIVER") {
            true => &self.driver,
            false => &self.vbios,
        };
        if document.is_empty() {
            let url = id.into();
            return Err(FetchError::Status { url, found: 404 });
        }
        Ok(document.clone())
    }
}

/// The same, counted.
struct Service {
    shelf: Shelf,
    counter: Arc<Counter>,
}

impl Manifests for Service {
    fn fetch(&self, id: &str) -> Result<Vec<u8>, FetchError> {
        self.counter.count()?;
        self.shelf.fetch(id)
    }
}

/// A responder with one answer to everything.
struct Answers {
    answer: Arc<Mutex<Vec<u8>>>,
    counter: Arc<Counter>,
}

impl Responder for Answers {
    fn ask(&self, _: &[u8]) -> Result<Vec<u8>, FetchError> {
        self.counter.count()?;
        Ok(self.answer.lock().unwrap().clone())
    }
}

/// How often a service was asked, which is out of order when told so.
#[derive(Default)]
struct Counter {
    asked: AtomicUsize,
    gone: AtomicBool,
}

impl Counter {
    fn count(&self) -> Result<(), FetchError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.gone.load(Ordering::Relaxed) {
            true => Err(FetchError::Status {
                url: "here".into(),
                found: 503,
            }),
            false => Ok(()),
        }
    }
}

/// A driver that nobody asks.
struct NoGpus;

impl Gpus for NoGpus {
    fn count(&self) -> Result<u32, GpuError> {
        panic!("nobody asks")
    }

    fn mode(&self) -> Result<GpuMode, GpuError> {
        panic!("nobody asks")
    }

    fn evidence(&self, _: u32, _: &[u8; 32]) -> Result<GpuEvidence, GpuError> {
        panic!("nobody asks")
    }

    fn accept_work(&self) -> Result<(), GpuError> {
        panic!("nobody asks")
    }
}

/// Within the window of the recorded signers.
const AT: u64 = 1_700_000_000;

const HALF_DAY_S: u64 = 12 * 60 * 60;

/// Certificates of the recorded GPU and its manifests, less roots and the GPU's own.
const QUESTIONS: usize = 3 + 2 + 2;

/// The chain of causes.
fn reason(error: &dyn Error) -> String {
    attestation::appraisal::chain(error)
}
