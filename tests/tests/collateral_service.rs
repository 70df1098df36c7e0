//! The agent fetches what Intel says from a service that it need not trust.

#![cfg(test)]

use std::net::TcpListener;
use std::sync::Arc;

use agent::collateral::{PckCa, Service, Subject};
use attestation::evidence::Collateral;
use attestation::time::UnixTime;
use tests::collateral::Statements;
use tests::pcs::{Answer, Pcs};
use tests::pki::{Intel, Platform};

#[test]
fn what_intel_signed_arrives_byte_for_byte() {
    let (pcs, signed) = start();
    let fetched = Service::new(pcs.url()).collateral(SUBJECT, NOW).unwrap();
    assert_eq!(*fetched, signed);
}

#[test]
fn a_trailing_slash_and_binary_lists_are_as_good() {
    let (pcs, signed) = start();
    change(&pcs, ROOT_CRL, |answer| {
        answer.body = signed.root_ca_crl.clone()
    });
    let service = Service::new(&format!("{}/", pcs.url()));
    assert_eq!(*service.collateral(SUBJECT, NOW).unwrap(), signed);
}

#[test]
fn a_set_is_kept_for_half_a_day() {
    let (pcs, _) = start();
    let service = Service::new(pcs.url());
    let first = service.collateral(SUBJECT, NOW).unwrap();
    let later = service.collateral(SUBJECT, after(HALF_DAY_S - 1)).unwrap();
    assert!(Arc::ptr_eq(&first, &later));
    let renewed = service.collateral(SUBJECT, after(HALF_DAY_S)).unwrap();
    assert!(!Arc::ptr_eq(&first, &renewed));
}

#[test]
fn a_set_that_ends_sooner_is_renewed_sooner() {
    let (pcs, _) = start();
    let service = Service::new(pcs.url());
    let last_hour = after(DAYS_LEFT * 2 * HALF_DAY_S - 3600);
    let first = service.collateral(SUBJECT, last_hour).unwrap();
    let end = UnixTime(last_hour.0 + 3600);
    let renewed = service.collateral(SUBJECT, end).unwrap();
    assert!(!Arc::ptr_eq(&first, &renewed));
}

#[test]
fn a_service_that_is_down_costs_nothing_until_the_set_ends() {
    let (pcs, _) = start();
    let service = Service::new(pcs.url());
    let first = service.collateral(SUBJECT, NOW).unwrap();
    drop(pcs);
    let last = after(DAYS_LEFT * 2 * HALF_DAY_S - 1);
    assert!(Arc::ptr_eq(
        &first,
        &service.collateral(SUBJECT, last).unwrap()
    ));
    assert!(service.collateral(SUBJECT, UnixTime(last.0 + 1)).is_err());
}

#[test]
fn another_platform_gets_another_set() {
    let (pcs, _) = start();
    let service = Service::new(pcs.url());
    service.collateral(SUBJECT, NOW).unwrap();
    let other = Subject {
        ca: PckCa::Processor,
        ..SUBJECT
    };
    let error = service.collateral(other, NOW).unwrap_err();
    let path = PCK_CRL.replace("platform", "processor");
    let expected = format!("{}{path} answered with status 404, expected 200", pcs.url());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn each_fault_of_the_service_has_its_error() {
    type Change = fn(&mut Answer);
    let cases: [(&str, Change, &str); 10] = [
        (
            TCB,
            |a| a.status = 404,
            "answered with status 404, expected 200",
        ),
        (
            QE,
            |a| a.status = 301,
            "answered with status 301, expected 200",
        ),
        (
            TCB,
            |a| a.issuers = None,
            "answered without certificates in TCB-Info-Issuer-Chain",
        ),
        (
            QE,
            |a| a.issuers = None,
            "answered without certificates in SGX-Enclave-Identity-Issuer-Chain",
        ),
        (
            PCK_CRL,
            |a| a.issuers = None,
            "answered without certificates in SGX-PCK-CRL-Issuer-Chain",
        ),
        (
            TCB,
            |a| a.body = vec![0xff],
            "answered something else than text",
        ),
        (
            ROOT_CRL,
            |a| a.body = b"<html>".to_vec(),
            "answered something else than DER or hex",
        ),
        (
            PCK_CRL,
            |a| a.body.clear(),
            "answered something else than DER or hex",
        ),
        (TCB, |a| a.body = vec![b' '; (256 << 10) + 1], ""),
        (QE, |a| a.body = b"{}".to_vec(), ""),
    ];
    for (path, fault, expected) in cases {
        let (pcs, _) = start();
        change(&pcs, path, fault);
        let error = Service::new(pcs.url())
            .collateral(SUBJECT, NOW)
            .unwrap_err();
        let expected = match (path, expected) {
            (TCB, "") => format!("cannot fetch {}{TCB}", pcs.url()),
            (_, "") => "TCB info or QE identity has no nextUpdate".into(),
            (path, clause) => format!("{}{path} {clause}", pcs.url()),
        };
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_service_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = Service::new(&format!("http://{free}"))
        .collateral(SUBJECT, NOW)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot fetch http://{free}{TCB}")
    );
}

const TCB: &str = "/tdx/certification/v4/tcb?fmspc=C0C00A000000";
const QE: &str = "/tdx/certification/v4/qe/identity";
const PCK_CRL: &str = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der";
const ROOT_CRL: &str = "/sgx/certification/v4/rootcacrl";

const SUBJECT: Subject = Subject {
    fmspc: Platform::SAMPLE.fmspc,
    ca: PckCa::Platform,
};

/// 2026-11-01T12:00:00Z
const NOW: UnixTime = UnixTime(1_793_534_400);

const HALF_DAY_S: u64 = 12 * 60 * 60;

/// Of [`Statements::good`].
const DAYS_LEFT: u64 = 29;

fn after(seconds: u64) -> UnixTime {
    UnixTime(NOW.0.saturating_add(seconds))
}

fn start() -> (Pcs, Collateral) {
    let intel = Intel::new(&[1; 32], &Platform::SAMPLE);
    let now = i64::try_from(NOW.0).unwrap();
    let signed = Statements::good(&Platform::SAMPLE, now).sign(&intel);
    let any_port = "127.0.0.1:0".parse().unwrap();
    let pcs = Pcs::start(any_port, Platform::SAMPLE.fmspc, &signed).unwrap();
    (pcs, signed)
}

fn change(pcs: &Pcs, path: &str, fault: impl FnOnce(&mut Answer)) {
    fault(pcs.answers().get_mut(path).unwrap());
}
