//! Verification of one real GPU's report, on one core, with the manifests of its release.
//!
//! `cargo bench -p attestation --bench nvidia`. Needs the recorded vectors. The yardstick
//! is what cannot be less: the same signatures, checked by AWS-LC and nothing else.

#![allow(clippy::unwrap_used, reason = "a benchmark of broken input may panic")]

mod bench;
#[path = "../tests/recorded/mod.rs"]
mod recorded;

use attestation::certificate::Certificate;
use attestation::nvidia::{DevicePolicy, Report, Revocation, Rim, verify};
use attestation::pem;
use attestation::tdx::Hex;
use attestation::time::UnixTime;

use bench::Bench;

fn main() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    let (bytes, chain) = (vectors.read(REPORT), vectors.read(CHAIN));
    let documents = RIMS.map(|name| vectors.read(name));
    let Hex(nonce) = NONCE.parse().unwrap();
    let (none, policy) = (Revocation::default(), DevicePolicy::any());
    let read = || {
        documents
            .each_ref()
            .map(|text| Rim::verify(text, &none, AT).unwrap())
    };
    let rims = read();
    let judge = |rims: &[Rim]| {
        let report = Report::parse(&bytes).unwrap();
        let verified = verify(report, &chain, &none, &nonce, AT).unwrap();
        let checks = verified.check(&policy, rims);
        assert!(checks.iter().all(|check| check.passed));
    };
    let ders: [Vec<u8>; 5] = pem::certificates(&chain).unwrap();
    let certificates = ders.each_ref().map(|der| Certificate::parse(der).unwrap());
    // Four of the chain and one of the report; three and one of each manifest.
    let signatures = |count: usize| {
        for _ in 0..count {
            let [leaf, brom, ..] = &certificates;
            leaf.signed.verify(brom.key).unwrap();
        }
    };

    let mut bench = Bench::default();
    bench.run("5 signatures", || signatures(5));
    bench.run("13 signatures", || signatures(13));
    bench.run("report, manifests prepared", || judge(&rims));
    bench.run("report and both manifests", || judge(&read()));
    bench.run("two manifests", read);
    bench.run("parse only", || Report::parse(&bytes).unwrap());
    bench.compare("5 signatures", "report, manifests prepared");
    bench.compare("13 signatures", "report and both manifests");
    bench.compare("report and both manifests", "report, manifests prepared");
}

const REPORT: &str = "confidentsecurity__go-nvtrust/mock.report.bin";
const CHAIN: &str = "confidentsecurity__go-nvtrust/mock.chain.pem";
const NONCE: &str = "4cff7f5380ead8fad8ec2c531c110aca4302a88f603792801a8ca29ee151af2e";
const RIMS: [&str; 2] = [
    "NVIDIA__nvtrust/rims/Driver_RIM_test_no_gpu.swidtag",
    "NVIDIA__nvtrust/rims/1010_0200_882_96005E0001_test_no_gpu.swidtag",
];
const AT: UnixTime = UnixTime(1_700_000_000);
