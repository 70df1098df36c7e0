//! Reports and manifests that NVIDIA's devices and service made, and what others found
//! in them.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod recorded;

use std::collections::{BTreeMap, BTreeSet};

use attestation::appraisal::Verdict;
use attestation::nvidia::{
    Architecture, Demand, DevicePolicy, GpuFiles, Mode, Policy, Report, Revocation, Rim, Verified,
    appraise, judge, verify,
};
use attestation::tdx::Hex;
use attestation::time::UnixTime;

use recorded::Vectors;

/// Within the window of every recorded signer.
const AT: UnixTime = UnixTime(1_700_000_000);

#[test]
fn every_recorded_report_is_what_the_oracle_says() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    for row in vectors.table("ORACLE_reports.csv") {
        let [
            name,
            len,
            blocks,
            _,
            _,
            signature,
            chain,
            _,
            nonce,
            driver,
            vbios,
            vbios_id,
            ..,
        ] = &*row
        else {
            panic!("{row:?}");
        };
        let bytes = vectors.read(&format!("{name}.report.bin"));
        assert_eq!(bytes.len().to_string(), *len, "{name}");
        let pem = vectors.read(&format!("{name}.chain.pem"));
        let verified = device(&bytes, &pem, nonce);
        let good = signature == "True" && chain == "ok ok ok ok ok";
        assert_eq!(verified.is_ok(), good, "{name}: {verified:?}");
        let verified = verified.unwrap();
        assert_eq!(verified.measurements().len().to_string(), *blocks, "{name}");
        let opaque = verified.opaque();
        if verified.device().architecture.is_gpu() {
            assert_eq!(opaque.driver.as_ref(), Some(driver), "{name}");
            assert_eq!(opaque.vbios.as_ref(), Some(vbios), "{name}");
            let id = opaque.vbios_rim_id(verified.device().architecture);
            assert_eq!(id.as_ref(), Some(vbios_id), "{name}");
        }
    }
}

#[test]
fn every_recorded_manifest_is_what_the_oracle_says() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    for row in vectors.table("ORACLE_rims.csv") {
        let [
            name,
            version,
            _,
            product,
            digest,
            signature,
            chain,
            from,
            until,
            indices,
        ] = &*row
        else {
            panic!("{row:?}");
        };
        let document = vectors.read(name);
        let rim = Rim::verify(&document, &Revocation::default(), AT);
        let good = digest == "True" && signature == "True" && chain == "ok ok ok ok";
        assert_eq!(rim.is_ok(), good, "{name}: {rim:?}");
        let rim = rim.unwrap();
        assert_eq!(rim.version(), version, "{name}");
        assert_eq!(rim.product(), product, "{name}");
        let active: Vec<_> = rim.measurements().keys().map(u8::to_string).collect();
        assert_eq!(active.join(" "), *indices, "{name}");
        for (day, ends) in [(from, [-1, 1]), (until, [0, 2])] {
            let midnight = UnixTime::from_iso8601(&format!("{day}T00:00:00Z"))
                .unwrap()
                .0;
            let found = ends.map(|days: i64| {
                let at = UnixTime(midnight.checked_add_signed(days * 86_400).unwrap());
                Rim::verify(&document, &Revocation::default(), at).is_ok()
            });
            assert_eq!(
                found,
                if day == from {
                    [false, true]
                } else {
                    [true, false]
                },
                "{name}"
            );
        }
    }
}

#[test]
fn a_report_with_the_manifests_of_its_release_is_trusted() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    let report = judge_mock(&vectors, &[DRIVER, VBIOS]);
    assert_eq!(report.verdict, Verdict::Trusted, "{report}");
    assert_eq!(report.registers.len(), 64);
    let compared = report.checks.iter();
    let compared = compared.filter(|check| check.name.starts_with("measurement-"));
    // 21 of the driver less the video decoder that is off, 12 of the firmware.
    assert_eq!(compared.count(), 20 + 12);
}

#[test]
fn each_measurement_of_another_build_is_named() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    let report = judge_mock(&vectors, &[DRIVER, OTHER_VBIOS]);
    assert_eq!(report.verdict, Verdict::Rejected);
    let codes: Vec<_> = report.reasons.iter().map(|reason| &*reason.code).collect();
    let expected = [
        "measurement-01",
        "measurement-02",
        "measurement-03",
        "measurement-09",
    ];
    assert_eq!(codes, expected);
}

#[test]
fn nothing_is_trusted_without_both_manifests() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    for (rims, codes, verdict) in [
        (
            &[][..],
            &["driver-rim", "vbios-rim"][..],
            Verdict::Undecided,
        ),
        (&[DRIVER], &["vbios-rim"], Verdict::Undecided),
        (&[VBIOS], &["driver-rim"], Verdict::Undecided),
        (&[DRIVER, OTHER_VERSION], &["vbios-rim"], Verdict::Rejected),
        (
            &[DRIVER, VBIOS, OTHER_VBIOS],
            &["vbios-rim"],
            Verdict::Rejected,
        ),
    ] {
        let report = judge_mock(&vectors, rims);
        let found: Vec<_> = report.reasons.iter().map(|reason| &*reason.code).collect();
        assert_eq!((report.verdict, &*found), (verdict, codes), "{rims:?}");
    }
}

#[test]
fn a_recorded_machine_is_linked_all_to_all() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    let devices = machine(&vectors);
    let failed = failed_names(devices.clone());
    // There are no manifests for them.
    assert_eq!(failed, BTreeSet::from(["driver-rim", "vbios-rim"]));

    for (left_out, expected) in [
        (0, ["driver-rim", "gpus", "switch-links", "vbios-rim"]),
        (11, ["driver-rim", "gpu-links", "switches", "vbios-rim"]),
    ] {
        let mut devices = devices.clone();
        devices.remove(left_out);
        assert_eq!(failed_names(devices), BTreeSet::from(expected));
    }
    let mut twice = devices;
    twice[1] = twice[0].clone();
    assert!(failed_names(twice).contains("distinct-devices"));
}

#[test]
fn a_machine_in_another_mode_than_asked_for_is_refused() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    let policy = Policy {
        mode: Mode::Passthrough,
        ..policy()
    };
    let rejection = appraise(machine(&vectors), &[], &policy).unwrap_err();
    let modes = rejection
        .checks
        .iter()
        .filter(|check| check.name == "gpu-mode");
    assert!(modes.clone().all(|check| !check.passed));
    assert_eq!(modes.count(), 8);
}

#[test]
fn each_bit_of_a_report_is_signed() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    let (bytes, pem) = (vectors.read(MOCK_REPORT), vectors.read(MOCK_CHAIN));
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1 << (at % 8);
        let found = device(&other, &pem, MOCK_NONCE);
        assert!(found.is_err(), "byte {at}");
    }
    for at in 0..bytes.len() {
        assert!(Report::parse(&bytes[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn each_part_of_a_chain_but_the_root_is_signed() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    let (bytes, pem) = (vectors.read(MOCK_REPORT), vectors.read(MOCK_CHAIN));
    let begin = b"-----BEGIN";
    let root = pem.windows(begin.len()).rposition(|window| window == begin);
    for at in (0..root.unwrap()).step_by(7) {
        let mut other = pem.clone();
        other[at] = if pem[at] == b'A' { b'B' } else { b'A' };
        assert!(device(&bytes, &other, MOCK_NONCE).is_err(), "byte {at}");
    }
}

#[test]
fn the_devices_of_the_recordings_are_all_known() {
    let Some(vectors) = recorded::nvidia() else {
        return;
    };
    let mut kinds = BTreeMap::new();
    for device in machine(&vectors) {
        *kinds.entry(device.device().architecture).or_insert(0) += 1;
    }
    assert_eq!(
        kinds,
        BTreeMap::from([(Architecture::Hopper, 8), (Architecture::Ls10, 4)])
    );
}

fn judge_mock(vectors: &Vectors, rims: &[&str]) -> attestation::tdx::Report {
    let rims: Vec<_> = rims
        .iter()
        .map(|name| vectors.read(&format!("{RIMS}{name}")))
        .collect();
    let files = GpuFiles {
        report: &vectors.read(MOCK_REPORT),
        chain: &vectors.read(MOCK_CHAIN),
        rims: &rims,
        crls: &[],
        ocsp: &[],
    };
    judge(
        files,
        &MOCK_NONCE.parse().unwrap(),
        &DevicePolicy::any(),
        AT,
    )
}

fn device(report: &[u8], pem: &[u8], nonce: &str) -> Result<Verified, String> {
    let Hex(nonce) = nonce.parse().unwrap();
    let report = Report::parse(report).map_err(|error| error.to_string())?;
    verify(report, pem, &Revocation::default(), &nonce, AT).map_err(|error| error.to_string())
}

/// Eight GPUs, then four switches.
fn machine(vectors: &Vectors) -> Vec<Verified> {
    let gpus = (0..8).map(|index| format!("gpu_{index}"));
    let switches = (0..4).map(|index| format!("switch_{index}"));
    gpus.chain(switches)
        .map(|name| {
            let name = format!("NVIDIA__nvtrust/ppcie_{name}");
            let nonce = String::from_utf8(vectors.read(&format!("{name}.nonce.hex"))).unwrap();
            let report = vectors.read(&format!("{name}.report.bin"));
            let pem = vectors.read(&format!("{name}.chain.pem"));
            device(&report, &pem, nonce.trim()).unwrap()
        })
        .collect()
}

fn policy() -> Policy {
    Policy {
        gpus: 8,
        switches: 4,
        mode: Mode::ProtectedPcie,
        device: DevicePolicy {
            revocation: Demand::IfGiven,
            ..DevicePolicy::any()
        },
    }
}

fn failed_names(devices: Vec<Verified>) -> BTreeSet<&'static str> {
    let rejection = appraise(devices, &[], &policy()).unwrap_err();
    let failed = rejection.checks.iter().filter(|check| !check.passed);
    failed.map(|check| check.name).collect()
}

const MOCK_REPORT: &str = "confidentsecurity__go-nvtrust/mock.report.bin";
const MOCK_CHAIN: &str = "confidentsecurity__go-nvtrust/mock.chain.pem";
const MOCK_NONCE: &str = "4cff7f5380ead8fad8ec2c531c110aca4302a88f603792801a8ca29ee151af2e";
const RIMS: &str = "NVIDIA__nvtrust/rims/";
const DRIVER: &str = "Driver_RIM_test_no_gpu.swidtag";
const VBIOS: &str = "1010_0200_882_96005E0001_test_no_gpu.swidtag";
const OTHER_VBIOS: &str = "1010_0200_882_96005E0001_PROD.swidtag";
const OTHER_VERSION: &str = "1010_0200_882_96005E0003_PROD.swidtag";
