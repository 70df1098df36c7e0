//! OCSP responses and revocation lists that OpenSSL makes, before our parser.
//!
//! Where there is no `openssl`, nothing is made and nothing tested, but in CI.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod paper_gpu;

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use attestation::certificate::Certificate;
use attestation::crl::Crl;
use attestation::nvidia::{Report, Revocation, Rim, Unasked, verify_under};
use attestation::ocsp::{OcspError, Response, Status, request};
use attestation::time::UnixTime;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use paper_gpu::rim::Manifest;
use paper_gpu::{Device, NONCE, manifests, pki, roots};

#[test]
fn what_openssl_answers_is_understood() {
    let Some(pki) = Pki::new() else {
        return;
    };
    let read = |name: &str| fs::read(pki.path(name)).unwrap();
    let (ca_der, good_der, bad_der) = (read("ca.der"), read("good.der"), read("bad.der"));
    let ca = Certificate::parse(&ca_der).unwrap();
    let good = Certificate::parse(&good_der).unwrap();
    let bad = Certificate::parse(&bad_der).unwrap();
    let at = soon();

    for (name, signer) in [("direct", "ca"), ("delegated", "responder")] {
        let ders = [
            ("good", Status::Good),
            ("bad", Status::Revoked),
            ("unknown", Status::Unknown),
        ]
        .map(|(subject, status)| (pki.answer(name, signer, subject), subject, status));
        for (der, subject, status) in &ders {
            let response = Response::parse(der).unwrap();
            let number = match *subject {
                "good" => good.serial,
                "bad" => bad.serial,
                _ => Certificate::parse(&read("unknown.der")).unwrap().serial,
            };
            assert!(response.is_about(number, &ca), "{name} {subject}");
            let (found, window) = response.verify(number, &ca, at).unwrap();
            assert_eq!(found, *status, "{name} {subject}");
            assert!(window.check(at).is_ok());
            let late = response.verify(number, &ca, UnixTime(at.0 + 3 * 86_400));
            assert!(matches!(late, Err(OcspError::Window(_))), "{late:?}");
            assert!(!response.is_about(ca.serial, &ca));
            for cut in 0..der.len() {
                assert!(Response::parse(&der[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    let list = read("list.crl");
    let (revoked, _) = Crl::parse(&list)
        .unwrap()
        .verify(ca.subject, ca.key, at)
        .unwrap();
    assert!(revoked.contains(bad.serial));
    assert!(!revoked.contains(good.serial));
}

#[test]
fn our_request_is_the_one_that_openssl_makes() {
    let Some(pki) = Pki::new() else {
        return;
    };
    let read = |name: &str| fs::read(pki.path(name)).unwrap();
    let ca = read("ca.der");
    // Numbers of two bytes, and of twenty, whatever they begin with.
    for subject in ["good", "unknown"] {
        pki.run(&format!(
            "ocsp -sha384 -issuer ca.pem -cert {subject}.pem -no_nonce -reqout {subject}.request"
        ));
        let der = read(&format!("{subject}.der"));
        let serial = Certificate::parse(&der).unwrap().serial;
        let ours = request(serial, &Certificate::parse(&ca).unwrap());
        assert_eq!(ours, read(&format!("{subject}.request")));
    }
}

#[test]
fn once_all_requests_are_answered_nothing_is_left_to_ask() {
    let Some(pki) = Pki::new() else {
        return;
    };
    let [device_root, manifest_root] = roots();
    let device = Device::gpu(0);
    let [manifest, ..] = manifests().map(Manifest::lasting);
    let (bytes, chain) = (device.report(), device.chain_pem());
    let unasked = |answers: &[Vec<u8>]| {
        let revocation = Revocation::parse([], answers.iter().map(Vec::as_slice)).unwrap();
        let (anchor, at) = (&device_root, soon());
        let report = Report::parse(&bytes).unwrap();
        let device = verify_under(anchor, report, chain.as_bytes(), &revocation, &NONCE, at);
        let rim = Rim::verify_under(&manifest_root, &manifest.sign(), &revocation, at);
        [device.unwrap().unasked(), rim.unwrap().unasked()].map(<[Unasked]>::to_vec)
    };
    let [of_device, of_manifest] = unasked(&[]);
    assert_eq!((of_device.len(), of_manifest.len()), (3, 3));

    let mut answers = pki.answer_all(&device.chain, &of_device);
    answers.extend(pki.answer_all(&manifest.chain, &of_manifest));
    assert_eq!(unasked(&answers), [[], []]);
}

/// When the answers of this test are made.
fn soon() -> UnixTime {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixTime(now.as_secs() + 60)
}

/// A CA of one's own, made by `openssl`.
struct Pki(tempfile::TempDir);

impl Pki {
    fn new() -> Option<Self> {
        if let Err(error) = Command::new("openssl").arg("version").output() {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(std::env::var_os("CI").is_none(), "CI needs openssl");
            println!("skipped: no openssl");
            return None;
        }
        let pki = Self(tempfile::tempdir().unwrap());
        fs::write(pki.path("conf"), CONF).unwrap();
        fs::write(pki.path("index"), "").unwrap();
        for counter in ["number", "serial"] {
            fs::write(pki.path(counter), "1000\n").unwrap();
        }
        pki.run(&format!(
            "req -x509 {KEY} ca.key -out ca.pem -subj /CN=ca -days 30"
        ));
        for (name, extensions) in [("good", "end"), ("bad", "end"), ("responder", "responder")] {
            pki.issue(name, extensions, "ca -batch -config conf -notext");
        }
        // Issued beside the books.
        pki.issue(
            "unknown",
            "end",
            "x509 -req -CA ca.pem -CAkey ca.key -days 30",
        );
        pki.run("ca -config conf -revoke bad.pem");
        pki.run("ca -config conf -gencrl -md sha256 -crldays 2 -out list.pem");
        pki.run("crl -in list.pem -outform der -out list.crl");
        for name in ["ca", "good", "bad", "unknown"] {
            pki.run(&format!("x509 -in {name}.pem -outform der -out {name}.der"));
        }
        Some(pki)
    }

    fn issue(&self, name: &str, extensions: &str, how: &str) {
        self.run(&format!(
            "req -new {KEY} {name}.key -out {name}.csr -subj /CN={name}"
        ));
        let file = if how.starts_with("x509") {
            "-extfile conf"
        } else {
            ""
        };
        self.run(&format!(
            "{how} {file} -extensions {extensions} -in {name}.csr -out {name}.pem"
        ));
    }

    fn answer(&self, name: &str, signer: &str, subject: &str) -> Vec<u8> {
        let ask = format!("-sha384 -issuer ca.pem -cert {subject}.pem");
        let certificates = if name == "direct" {
            "-resp_no_certs"
        } else {
            ""
        };
        self.run(&format!(
            "ocsp -index index -CA ca.pem -rsigner {signer}.pem -rkey {signer}.key -rmd sha384 \
             {certificates} -ndays 1 {ask} -noverify -respout {name}.{subject}"
        ));
        fs::read(self.path(&format!("{name}.{subject}"))).unwrap()
    }

    /// Each by the one above, who knows all below.
    fn answer_all(&self, chain: &[pki::Certificate], unasked: &[Unasked]) -> Vec<Vec<u8>> {
        let mut index = String::new();
        for (number, certificate) in chain.iter().enumerate() {
            let serial = hex::encode_upper(&certificate.serial);
            writeln!(index, "V\t491231235959Z\t\t{serial}\tunknown\t/CN={number}").unwrap();
        }
        fs::write(self.path("paper"), index).unwrap();
        let issuers = chain.iter().rev();
        let answer = |(issuer, unasked): (&pki::Certificate, &Unasked)| {
            fs::write(self.path("paper.pem"), pki::pem(&[issuer.sign()])).unwrap();
            let key = STANDARD.encode(issuer.key.sec1());
            let key =
                format!("-----BEGIN EC PRIVATE KEY-----\n{key}\n-----END EC PRIVATE KEY-----\n");
            fs::write(self.path("paper.key"), key).unwrap();
            fs::write(self.path("request"), &unasked.request).unwrap();
            self.run(
                "ocsp -index paper -CA paper.pem -rsigner paper.pem -rkey paper.key -rmd sha384 \
                 -resp_no_certs -ndays 1 -reqin request -noverify -respout answer",
            );
            fs::read(self.path("answer")).unwrap()
        };
        issuers.zip(unasked).map(answer).collect()
    }

    fn run(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_ascii_whitespace())
            .current_dir(&self.0)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}: {said}");
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.0.path()).join(name)
    }
}

const KEY: &str = "-config conf -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -sha384 -keyout";

const CONF: &str = "
[req]
distinguished_name = name
x509_extensions = authority
[name]
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
[end]
keyUsage = critical, digitalSignature
[responder]
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, OCSPSigning
noCheck = yes
[ca]
default_ca = books
[books]
database = index
serial = serial
crlnumber = number
new_certs_dir = .
certificate = ca.pem
private_key = ca.key
default_md = sha384
default_days = 30
policy = any
crl_extensions = list
[list]
authorityKeyIdentifier = keyid
[any]
commonName = supplied
";
