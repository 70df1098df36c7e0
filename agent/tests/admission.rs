//! GPUs that may work and GPUs that may not, from recorded reports and manifests.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agent::admission::{Refused, Shown, admit};
use agent::collateral::FetchError;
use agent::fleet::Fleet;
use agent::gpu::{GpuError, Gpus, Machine, Mode};
use agent::manifests::Manifests;
use attestation::evidence::GpuEvidence;
use attestation::nvidia::Trusted;
use attestation::time::UnixTime;

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
fn manifests_are_fetched_twice_a_day_and_kept_while_there_are_no_newer_ones() {
    let Some(recorded) = Recorded::read() else {
        return;
    };
    let (asked, gone) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let service = Service {
        shelf: recorded.shelf(),
        asked: Arc::clone(&asked),
        gone: Arc::clone(&gone),
    };
    let fleet = Fleet::new(Machine::new(Box::new(NoGpus), 1), Box::new(service));
    let shown = [recorded.gpu()];
    let collateral = |at| fleet.collateral(&shown, UnixTime(at));
    let fetched = || asked.load(Ordering::Relaxed);

    let first = collateral(AT).unwrap();
    assert_eq!(first.rims.len(), 2);
    assert_eq!(collateral(AT + 12 * 60 * 60 - 1).unwrap(), first);
    assert_eq!(fetched(), 2);
    assert_eq!(collateral(AT + 12 * 60 * 60).unwrap(), first);
    assert_eq!(fetched(), 4);
    gone.store(true, Ordering::Relaxed);
    assert_eq!(collateral(AT + 24 * 60 * 60).unwrap(), first);
    assert_eq!(fetched(), 5);
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

/// The same, counting, and out of order when told so.
struct Service {
    shelf: Shelf,
    asked: Arc<AtomicUsize>,
    gone: Arc<AtomicBool>,
}

impl Manifests for Service {
    fn fetch(&self, id: &str) -> Result<Vec<u8>, FetchError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.gone.load(Ordering::Relaxed) {
            let url = id.into();
            return Err(FetchError::Status { url, found: 503 });
        }
        self.shelf.fetch(id)
    }
}

/// A driver that nobody asks.
struct NoGpus;

impl Gpus for NoGpus {
    fn count(&self) -> Result<u32, GpuError> {
        panic!("nobody asks")
    }

    fn mode(&self) -> Result<Mode, GpuError> {
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

/// The chain of causes.
fn reason(error: &dyn Error) -> String {
    attestation::appraisal::chain(error)
}
