//! A NATS that lets in only whom its operator vouches for, behind TLS.

use std::fs;
use std::path::Path;

use rcgen::generate_simple_self_signed;
use tempfile::TempDir;
use tests::nats::Nats;
use tests::nats::operator::Operator;
use tests::stand_in::Terms;

use crate::program::{Program, Site};
use crate::several::{LOCALHOST, fabric, key, know};

#[tokio::test(flavor = "multi_thread")]
async fn schedulers_meet_over_tls_with_credentials_and_others_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let operator = Operator::default();
    let configuration = operator.configuration() + &tls(folder.path());
    fs::write(file("nats.conf"), configuration).unwrap();
    fs::write(file("ours"), operator.credentials()).unwrap();
    fs::write(file("others"), Operator::default().credentials()).unwrap();
    let stranger = generate_simple_self_signed([LOCALHOST.to_string()]).unwrap();
    fs::write(file("stranger.pem"), stranger.cert.pem()).unwrap();
    let Some(nats) = Nats::configured(LOCALHOST, Path::new(&file("nats.conf"))) else {
        return;
    };
    let key = key(&"5a".repeat(32));
    let fabric = fabric(&nats, &key);
    let with = |credentials: &str, root: &str| {
        let guarded = [
            "--nats-credentials",
            &file(credentials),
            "--nats-root",
            &file(root),
        ];
        [&fabric[..], &guarded.map(str::to_owned)].concat()
    };
    fn borrowed(arguments: &[String]) -> Vec<&str> {
        arguments.iter().map(|it| &**it).collect()
    }

    let site = Site::new();
    let ours = with("ours", "nats.pem");
    let here = site.scheduler(None, &borrowed(&ours)).await;
    let there = site.scheduler(None, &borrowed(&ours)).await;
    let worker = site.worker(Terms::default(), &there).await;
    know(&site.asker(&here).await, &[&worker]).await;

    for (arguments, said) in [
        (with("others", "nats.pem"), "authorization violation"),
        (with("ours", "stranger.pem"), "client error: nats: IO error"),
        (fabric.to_vec(), "client error: nats: IO error"),
    ] {
        let mut refused = site.scheduler(None, &borrowed(&arguments)).await;
        refused.program.logs(said).await;
    }
    for (arguments, said) in [
        (
            with("nats.pem", "nats.pem"),
            "nats.pem holds no credentials",
        ),
        (with("none", "nats.pem"), "none holds no credentials"),
        (with("ours", "ours"), "ours holds no certificate"),
        (with("ours", "none"), "none holds no certificate"),
    ] {
        let start = ["scheduler", "run", "--workers", "127.0.0.1:0"];
        let arguments = [&start[..], &borrowed(&arguments)].concat();
        let (code, logged) = Program::start(None, &arguments).end().await;
        assert_eq!(code, 2, "{arguments:?}: {logged}");
        assert!(logged.contains(said), "{arguments:?}: {logged}");
    }
}

/// A certificate in `nats.pem`, and the configuration of a server that shows it.
fn tls(folder: &Path) -> String {
    let made = generate_simple_self_signed([LOCALHOST.to_string()]).unwrap();
    let [certificate, key] = ["nats.pem", "nats.key"].map(|name| folder.join(name));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    format!(
        "tls {{ cert_file: {:?}, key_file: {:?} }}\n",
        certificate, key
    )
}
