//! `cocoon scheduler run` and `cocoon gateway` as processes: what an operator may get
//! wrong, and how they begin, are renewed, and end.
#![cfg(test)]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod guarded;
mod program;
mod several;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attestation::register::Digest256;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::Signal;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use sealed::Assignment;
use serde_json::json;
use tempfile::TempDir;
use tests::asker::{Answer, AskError, Asker, Said};
use tests::stand_in::{Manner, StandIn, Terms};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use program::{PATIENCE, Program, Scheduler, Site, Sockets};

#[tokio::test]
async fn what_makes_no_scheduler_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    certify(folder.path());
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    fs::write(file("other.pem"), other).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (chain, key) = (file("chain.pem"), file("key.pem"));
    for (arguments, said) in [
        (vec!["--certificate", &chain], "--key"),
        (vec!["--database", "sqlite:books"], "--payee"),
        (vec!["--listen", "nowhere"], "invalid socket address"),
        (vec!["--drain", "soon"], "invalid value 'soon'"),
        (vec!["--listen", &taken], "cannot listen on 127.0.0.1:"),
        (vec!["--workers", &taken], "cannot listen on 127.0.0.1:"),
        (vec!["--release", &chain], "chain.pem"),
        (vec!["--certificate", &key, "--key", &key], "no key for"),
        (
            vec!["--certificate", &chain, "--key", &chain],
            "holds no key",
        ),
        (
            vec!["--certificate", &chain, "--key", &file("other.pem")],
            "other.pem is no key for",
        ),
        (
            vec!["--certificate", &chain, "--key", &file("none.pem")],
            "none.pem",
        ),
    ] {
        let start = ["scheduler", "run", "--workers", "127.0.0.1:0"];
        let arguments = match arguments[0] {
            "--workers" => [&start[..2], &arguments].concat(),
            _ => [&start[..], &arguments].concat(),
        };
        let (code, logged) = Program::start(None, &arguments).end().await;
        assert_eq!(code, 2, "{arguments:?}: {logged}");
        assert!(logged.contains(said), "{arguments:?}: {logged}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let first = certify(folder.path());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let files = [
        "--certificate",
        &path("chain.pem"),
        "--key",
        &path("key.pem"),
    ];
    let mut scheduler = Site::new().scheduler(None, &files).await;
    assert!(shows(&scheduler, &first).await);

    let second = certify(folder.path());
    assert!(shows(&scheduler, &first).await, "nobody asked for it");
    scheduler.program.send(Signal::SIGHUP);
    scheduler
        .program
        .logs("the certificate was read again")
        .await;
    assert!(shows(&scheduler, &second).await && !shows(&scheduler, &first).await);

    fs::write(path("chain.pem"), "half of a certif").unwrap();
    scheduler.program.send(Signal::SIGHUP);
    scheduler.program.logs("the certificate stays").await;
    assert!(shows(&scheduler, &second).await && !shows(&scheduler, &first).await);
}

#[tokio::test]
async fn after_sigterm_answers_end_and_what_is_new_is_refused_by_name() {
    let site = Site::new();
    let scheduler = site.scheduler(None, &[]).await;
    let mut worker = site.worker(SLOW, &scheduler).await;
    let asker = site.asker(&scheduler).await;
    let assignment = asker.assign(&json!({})).await.unwrap();
    let texts = vec![vec![7; 9]; 300];
    let mut answer = asker.begin(&assignment, texts.clone()).await.unwrap();
    assert!(answer.next().await.unwrap().is_some());

    scheduler.program.send(Signal::SIGTERM);
    let drains = AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, "draining".into());
    soon(async || asker.assign(&json!({})).await.as_ref().err() == Some(&drains)).await;
    let late = asker.begin(&assignment, texts).await.unwrap_err();
    assert_eq!(
        late, drains,
        "on the connection that has an answer under way"
    );
    let new = Asker::connect(scheduler.clients).await.unwrap();
    let health = new.get("/health").await.unwrap_err();
    let unwell = AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, String::new());
    assert_eq!(health, unwell);

    let said = answer.whole().await.unwrap();
    assert!(said.texts.len() > 290, "to its end: {}", said.texts.len());
    assert!(said.settlement.tokens >= 900);
    let (code, logged) = scheduler.program.end().await;
    assert_eq!(code, 0, "{logged}");

    let next = site.scheduler(None, &[]).await;
    worker.dial(next.workers);
    site.asker(&next).await.ask(vec![vec![8]]).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_outlives_the_drain_is_cut_and_counted() {
    let site = Site::new();
    let scheduler = site.scheduler(None, &["--drain", "1"]).await;
    let _worker = site.worker(SLOW, &scheduler).await;
    let asker = site.asker(&scheduler).await;
    let assignment = asker.assign(&json!({})).await.unwrap();
    let mut answer = asker.begin(&assignment, vec![vec![7]; 1000]).await.unwrap();
    assert!(answer.next().await.unwrap().is_some());
    scheduler.program.send(Signal::SIGTERM);
    assert_eq!(answer.whole().await.unwrap_err(), AskError::Broken);
    let (code, logged) = scheduler.program.end().await;
    assert_eq!(code, 0);
    assert!(
        logged.contains("1 requests took longer than 1 s"),
        "{logged}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_process_takes_over_and_no_answer_is_lost() {
    let site = Site::new();
    let sockets = Sockets::bind(2);
    let old = site.scheduler(Some(&sockets), &[]).await;
    let workers = [site.worker(SLOW, &old).await, site.worker(SLOW, &old).await];
    let asker = site.asker(&old).await;
    let mut answers = Vec::new();
    for _ in 0..8 {
        let assignment = asker.assign(&json!({})).await.unwrap();
        let mut answer = asker.begin(&assignment, vec![vec![7]; 150]).await.unwrap();
        assert!(answer.next().await.unwrap().is_some());
        answers.push(answer);
    }

    let new = site.scheduler(Some(&sockets), &[]).await;
    assert_eq!(new.clients, old.clients);
    old.program.send(Signal::SIGTERM);
    // Who comes meanwhile waits for a worker that has nothing left to say to the old one.
    let asked = (0..8).map(|index| site.insist(&new, vec![vec![index]; 3]));
    let asked = join_all(asked);
    let running = answers.into_iter().map(Answer::whole);
    let running = join_all(running);
    let (asked, running) = tokio::join!(asked, running);
    for (index, said) in asked.iter().enumerate() {
        assert_eq!(usize::from(said.texts[0][0]), index);
        assert!(workers.iter().any(|worker| worker.id == said.worker));
    }
    for said in running {
        assert!(said.unwrap().texts.len() > 140);
    }
    let (code, logged) = old.program.end().await;
    assert_eq!(code, 0, "{logged}");
}

#[tokio::test]
async fn one_socket_is_not_enough() {
    let scheduler = Program::start(Some(&Sockets::bind(1)), &["scheduler", "run"]);
    let (code, logged) = scheduler.end().await;
    assert_eq!(code, 2);
    let said = "1 sockets were handed in, expected 2: for clients and workers";
    assert!(logged.contains(said), "{logged}");
}

#[tokio::test]
async fn who_asks_a_scheduler_too_often_is_told_when_to_come_again() {
    let site = Site::new();
    let scheduler = site.scheduler(None, &[]).await;
    let asker = site.asker(&scheduler).await;
    let nobody = Assignment {
        worker: Digest256::of(b"nobody"),
        price: 0,
        keyset: String::new(),
        expires_ms: 0,
    };
    let gone = AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, "worker_gone".into());
    let often = AskError::Refused(StatusCode::TOO_MANY_REQUESTS, "too_often".into());
    let (began, mut asked) = (Instant::now(), 0);
    let refused = loop {
        match asker.begin(&nobody, Vec::new()).await.unwrap_err() {
            error if error == gone && asked < 1000 => asked += 1,
            error => break error,
        }
    };
    assert_eq!(refused, often, "after {asked}");
    // And one more for each second that it took.
    let most = 64 + began.elapsed().as_secs() + 1;
    assert!((64..=most).contains(&asked), "{asked} of {most}");
}

#[tokio::test]
async fn what_is_said_is_in_no_log_count_or_page() {
    let site = Site::new();
    let scheduler = site.scheduler(None, &[]).await;
    let worker = site.worker(Terms::default(), &scheduler).await;
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(&folder, "\"*\"");
    let network = format!("http://{}", scheduler.clients);
    let arguments = [
        "--network",
        &network,
        "--max-price",
        "2000000",
        "--api-keys",
        &keys,
    ];
    let mut gateway = site.gateway(&arguments);
    let base = gateway.says("gateway ").await;

    let http = Client::builder(TokioExecutor::new()).build_http();
    let said = json!({ "model": StandIn::MODEL, "messages": [{ "content": SECRET }] });
    let request = Request::post(format!("{base}/chat/completions"))
        .header(header::AUTHORIZATION, format!("Bearer {KEY}"))
        .body(Body::from(said.to_string()));
    let response = http.request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    assert!(text(&answer).contains(SECRET), "it is said again");

    let mut seen = Vec::new();
    let base = base.trim_end_matches("/v1");
    for page in [format!("{base}/cocoon/metrics"), format!("{base}/")]
        .into_iter()
        .chain(["/metrics", "/status", "/"].map(|path| format!("{network}{path}")))
    {
        let request = Request::get(&page).header(header::AUTHORIZATION, format!("Bearer {KEY}"));
        let response = http.request(request.body(Body::empty()).unwrap());
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{page}");
        seen.push(text(
            &response.into_body().collect().await.unwrap().to_bytes(),
        ));
    }
    let settled = "cocoon_scheduler_requests_total{ending=\"settled\"} 1";
    assert!(seen.iter().any(|page| page.contains(settled)));
    assert!(
        seen.iter()
            .any(|page| page.contains(&worker.id.to_string()))
    );
    for program in [gateway, scheduler.program] {
        program.send(Signal::SIGTERM);
        seen.push(program.end().await.1);
    }
    assert!(seen.iter().any(|log| log.contains("answered")), "it logs");
    for text in seen {
        assert!(!text.contains(SECRET) && !text.contains(KEY), "{text}");
    }
}

#[tokio::test]
async fn a_key_of_the_gateways_asks_so_often_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let keys = keys(&folder, "\"small\"");
    let site = Site::new();
    let mut gateway = site.gateway(&["https://127.0.0.1:1", "--api-keys", &keys]);
    let base = gateway.says("gateway ").await;
    let http = Client::builder(TokioExecutor::new()).build_http();
    let ask = async |key: &str| {
        let request = Request::post(format!("{base}/chat/completions"))
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .body(Body::from(r#"{"model":"small"}"#));
        let response = http.request(request.unwrap()).await.unwrap();
        let retry = response.headers().contains_key(header::RETRY_AFTER);
        (response.status(), retry)
    };
    assert_eq!(ask("another").await, (StatusCode::UNAUTHORIZED, false));
    for _ in 0..2 {
        let unreachable = (StatusCode::BAD_GATEWAY, false);
        assert_eq!(ask(KEY).await, unreachable);
    }
    let often = (StatusCode::TOO_MANY_REQUESTS, true);
    assert_eq!(ask(KEY).await, often);
}

#[test]
fn systemd_takes_the_units_and_finds_them_confined() {
    let folder = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scheduler/systemd");
    for unit in fs::read_dir(units).unwrap() {
        let unit = unit.unwrap();
        let text = fs::read_to_string(unit.path()).unwrap();
        let text = text.replace("/usr/bin/cocoon", env!("CARGO_BIN_EXE_cocoon"));
        let name = unit.file_name().into_string().unwrap();
        fs::write(folder.path().join(name.replace("@.", "@blue.")), text).unwrap();
    }
    let analyze = |arguments: &[&str]| {
        let mut command = std::process::Command::new("systemd-analyze");
        command.current_dir(&folder).args(arguments).output()
    };
    let [socket, service] = [
        "./cocoon-scheduler.socket",
        "./cocoon-scheduler@blue.service",
    ];
    let Ok(verified) = analyze(&["verify", socket, service]) else {
        eprintln!("skipped: no systemd-analyze");
        return;
    };
    let said = [verified.stdout, verified.stderr].concat();
    assert!(
        verified.status.success() && said.is_empty(),
        "{}",
        text(&said)
    );
    let confined = ["security", "--offline=true", "--threshold=20", service];
    let confined = analyze(&confined).unwrap();
    assert!(confined.status.success(), "{}", text(&confined.stdout));
}

impl Site {
    /// One more, once it is known.
    async fn worker(&self, terms: Terms, scheduler: &Scheduler) -> StandIn {
        let mut worker = StandIn::on(self.td(), terms).await;
        worker.dial(scheduler.workers);
        let asker = self.asker(scheduler).await;
        let id = worker.id.to_string();
        let shows = async || text(&asker.get("/network/v1/standings").await.unwrap()).contains(&id);
        soon(shows).await;
        worker
    }

    /// Asks anew until an answer begins, as every client may.
    async fn insist(&self, scheduler: &Scheduler, texts: Vec<Vec<u8>>) -> Said {
        let insisted = async {
            loop {
                let asker = self.asker(scheduler).await;
                if let Ok(assignment) = asker.assign(&json!({})).await
                    && let Ok(answer) = asker.begin(&assignment, texts.clone()).await
                {
                    return answer.whole().await.unwrap();
                }
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, insisted).await.unwrap()
    }

    async fn asker(&self, scheduler: &Scheduler) -> Asker {
        let asker = Asker::connect(scheduler.clients).await.unwrap();
        asker.trusting(self.policy())
    }
}

/// Comes back once it is so.
async fn soon(mut is: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is().await {
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, waited).await.unwrap();
}

/// A file with one key, which may ask these models.
fn keys(folder: &TempDir, models: &str) -> String {
    let file = folder.path().join("keys.toml");
    let key = Digest256::of(KEY.as_bytes());
    let keys = format!(
        "[[key]]\nname = \"bot\"\nsha256 = \"{key}\"\nrequests_per_minute = 2\n\
         tokens_per_day = 20\nmodels = [{models}]\noperator = true\n"
    );
    fs::write(&file, keys).unwrap();
    file.to_str().unwrap().to_owned()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Makes a certificate and its key; what a client is to see of them.
fn certify(folder: &Path) -> Vec<u8> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.join("chain.pem"), made.cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().to_vec()
}

/// Whether a client that trusts nothing but this certificate is served.
async fn shows(scheduler: &Scheduler, certificate: &[u8]) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.to_vec().into()).unwrap();
    let config = ClientConfig::builder_with_provider(default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(scheduler.clients).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await.is_ok()
}

const KEY: &str = "a long random key";

const SECRET: &str = "the pumpkin is in the boathouse";

const SLOW: Terms = Terms {
    slots: 512,
    ask: 1_000_000,
    pause: Duration::from_millis(20),
    manner: Manner::Honest,
    answer: None,
};

const TICK: Duration = Duration::from_millis(5);
