//! Receipts over an attested session: what is signed, who gets it, and what it shows.
#![cfg(test)]

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use agent::api::{Model, Models};
use attestation::aci::{Hash, Keyset, Opening, Receipt, SeedSource, Signed, report_data};
use attestation::appraisal::Check;
use attestation::policy::Policy;
use attestation::tdx::Quote;
use attestation::time::UnixTime;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Parser as _;
use client::address::Address;
use client::receipts::{Keys, Recorder};
use client::worker::{FRESH, Worker};
use client::{gateway, receipt};
use http_body_util::BodyExt;
use inference::{Engine, Replay, Sampling};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::td::Td;
use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

#[tokio::test]
async fn an_answer_has_a_receipt_over_what_came_and_went() {
    let (address, _running) = serve().await;
    let client = Client::new(address);
    for streamed in [false, true] {
        let request = ask(json!({"stream": streamed, "seed": 7, "temperature": 0.7}));
        let answer = client.post("/v1/chat/completions", &request, false).await;
        assert_eq!(answer.headers["x-aci-version"], "aci/1");
        assert_eq!(answer.body.ends_with(b"data: [DONE]\n\n"), streamed);
        let receipt = client.receipt(&answer).await;
        assert_eq!(receipt.received(), Some(Hash::of(request.as_bytes())));
        assert_eq!(receipt.returned(), Some(Hash::of(&answer.body)));
        assert_eq!(receipt.endpoint, "/v1/chat/completions");
        assert_eq!(receipt.model.as_deref(), Some("tiny"));
        let id = receipt.chat_id.clone().unwrap();
        assert!(String::from_utf8_lossy(&answer.body).contains(&id));
        let executed = receipt.executed().unwrap();
        assert_eq!(executed.model.root.as_deref(), Some("verity-sha256:0606"));
        assert_eq!(executed.model.quant.as_deref(), Some("bf16"));
        let sampling = executed.sampling.as_ref().unwrap();
        assert_eq!(sampling.temperature_e6, 700_000);
        assert_eq!(sampling.seed_source, SeedSource::Client);
        assert_eq!(
            (&*executed.outputs[0].seed, executed.outputs[0].tokens),
            ("7", 12)
        );
        assert_eq!(executed.outputs[0].finish, "length");
    }
}

#[tokio::test]
async fn the_evidence_of_the_session_names_the_keys() {
    let (address, _running) = serve().await;
    let client = Client::new(address);
    let (trusted, _) = client.worker.trusted().await.unwrap();
    let keyset = client.keyset().await;
    assert_eq!(keyset.digest().0, *trusted.keyset());
    let other = Client::new(serve().await.0).keyset().await;
    assert_ne!(keyset.digest(), other.digest());
}

#[tokio::test]
async fn a_quote_of_its_own_names_the_keys_and_the_nonce() {
    let (address, _running) = serve().await;
    let client = Client::new(address);
    let nonce = "0a".repeat(32);
    let report = client
        .get(&format!("/v1/aci/attestation?nonce={nonce}"))
        .await;
    let report: Value = serde_json::from_slice(&report.1).unwrap();
    let attestation = &report["attestation"];
    let keyset = Keyset::parse(attestation["workload_keyset"].to_string().as_bytes()).unwrap();
    assert_eq!(
        report["workload_keyset_digest"],
        keyset.digest().to_string()
    );
    let data = report_data(keyset.digest(), Some(&nonce.parse().unwrap()));
    let quote = hex::decode(attestation["evidence"]["quote"].as_str().unwrap()).unwrap();
    let body = *Quote::parse(&quote).unwrap().unverified_body();
    assert_eq!(body.report_data, data);
    assert_eq!(attestation["report_data"], hex::encode(&data.0[..32]));
    let build = Td::REGISTERS.build();
    assert_eq!(
        attestation["source_provenance"]["image_digest"],
        format!("sha256:{build}")
    );
    let (status, refusal) = client.get("/v1/aci/attestation?nonce=0A").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8_lossy(&refusal).contains("invalid_request_error"));
}

#[tokio::test]
async fn nobody_else_gets_a_receipt() {
    let (address, _running) = serve().await;
    let (asker, other) = (Client::new(address), Client::new(address));
    let answer = asker
        .post("/v1/chat/completions", &ask(json!({})), true)
        .await;
    for end in ["", "/opening"] {
        let path = format!("/v1/aci/receipts/{}{end}", answer.receipt_id());
        let (status, body) = other.get(&path).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let error: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(error["error"]["type"], "not_found");
        assert_eq!(asker.get(&path).await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn an_opening_is_kept_only_on_demand_and_given_once() {
    let (address, _running) = serve().await;
    let client = Client::new(address);
    for (keep, statuses) in [(false, [404, 404]), (true, [200, 404])] {
        let answer = client
            .post("/v1/chat/completions", &ask(json!({})), keep)
            .await;
        let path = format!("/v1/aci/receipts/{}/opening", answer.receipt_id());
        for status in statuses {
            assert_eq!(client.get(&path).await.0, status);
        }
    }
}

#[tokio::test]
async fn what_opens_a_receipt_makes_the_answers_again() {
    let (address, _running) = serve().await;
    let client = Client::new(address);
    let request = ask(json!({"n": 3, "temperature": 0.9, "stop": ["zebra"]}));
    let answer = client.post("/v1/chat/completions", &request, true).await;
    let receipt = client.receipt(&answer).await;
    let opening = client.opening(&answer).await;
    let checks = opening.check(&receipt).unwrap();
    assert!(checks.iter().all(|check| check.passed), "{checks:?}");
    assert_eq!(opening.outputs.len(), 3);
    let sampling = receipt.executed().unwrap().sampling.clone().unwrap();
    assert_eq!(sampling.seed_source, SeedSource::Engine);
    for (run, output) in opening.forwarded.runs.iter().zip(&opening.outputs) {
        let settings = run.settings.as_ref().unwrap();
        let replay = Replay {
            prompt: run.prompt.clone().into(),
            answer: output.clone().into(),
            form: run.form.clone(),
            sampling: Sampling {
                temperature: settings.temperature.parse().ok(),
                seed: settings.seed.parse().ok(),
                logit_bias: BIAS.into(),
                ..Sampling::default()
            },
        };
        assert_eq!(ENGINE.replay(replay).unwrap(), None);
    }
}

#[tokio::test]
async fn the_gateway_writes_what_a_verifier_takes_and_every_change_is_named() {
    let (address, _running) = serve().await;
    let client = Client::new(address);
    let folder = tempfile::tempdir().unwrap();
    let mut request = json!({"stream": true, "temperature": 1, "top_p": 0.9, "n": 2});
    // What calls a tool has a form.
    request["tools"] = json!([{"type": "function", "function": {"name": "look"}}]);
    let request = ask(request);
    let sent = ("/v1/chat/completions", JSON, request.as_bytes());
    let names = record(&client, folder.path(), sent).await;

    let report = keys_of(folder.path());
    let keyset = report.keyset().unwrap();
    let judged = |policy: &Policy| {
        let report = report.report().unwrap().unwrap();
        let checks = report.judge(policy, keyset.digest(), UnixTime(unix_time()));
        failed(&checks)
    };
    assert!(judged(&Td::new().policy()).is_empty());
    let published = Policy::Tdx(Box::new(Td::accepted()));
    assert_eq!(judged(&published), ["collateral"], "under Intel's root");
    let other = Hash::of(b"other keys");
    let checks = report.report().unwrap().unwrap();
    let checks = checks.judge(&Td::new().policy(), &other, UnixTime(unix_time()));
    assert_eq!(failed(&checks), ["report-data"]);

    let checks = || verify(&names, Some(&tiny()));
    let all = checks().unwrap();
    assert!(failed(&all).is_empty(), "{all:?}");
    assert_eq!(all.iter().filter(|check| check.name == "replay").count(), 2);
    for (name, from, to, expected) in [
        (0, "\"tokens\":12", "\"tokens\":13", "receipt"),
        (0, "verity-sha256:0606", "verity-sha256:0607", "receipt"),
        (
            0,
            "\"signature\":\"",
            "\"signature\":\"00",
            "no signature of 128",
        ),
        (
            0,
            "\"workload_keyset_digest\":\"sha256:",
            "\"workload_keyset_digest\":\"sha255:",
            "no receipt",
        ),
        (1, "house", "horse", "request"),
        (2, "[DONE]", "[done]", "response"),
        (
            3,
            "\"max_tokens\":12",
            "\"max_tokens\":13",
            "request.forwarded",
        ),
        (3, "\"form\":\"TEXT", "\"form\":\"NEXT", "request.forwarded"),
        (
            3,
            "\"top_p\":\"0.9\"",
            "\"top_p\":\"0.8\"",
            "request.forwarded",
        ),
        (
            3,
            "\"outputs\":[[",
            "\"outputs\":[[7,",
            "output.ids_hash output.tokens",
        ),
    ] {
        let named = changed(&names[name], from, to, checks);
        assert!(named.contains(expected), "{to}: {named}");
    }
    let other = other_weights();
    let caught = verify(&names, Some(other.path())).unwrap();
    assert_eq!(failed(&caught), ["replay", "replay"]);
    let named = &caught.iter().find(|check| !check.passed).unwrap().found;
    assert!(named.starts_with("answer 0, token "), "{named}");
}

/// Nothing was chosen for them, so they are not replayed, and that is said.
#[tokio::test]
async fn answers_of_other_kinds_name_their_model_and_what_was_counted() {
    let reference = |name: &str| tiny().join("../../reference").join(name);
    let mut models = vec![
        ("whisper", reference("whisper")),
        ("vit", reference("vision/vit")),
        ("draws", reference("diffusion")),
    ];
    let image = fs::read(reference("vision/image.png")).unwrap();
    let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(image));
    let seen = json!({"model": "vit", "input": [image, image]});
    let drawn = json!({"model": "draws", "prompt": "a sea", "steps": 2, "n": 2});
    let sound = fs::read(reference("tone.flac")).unwrap();
    let form = [
        b"--cut\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--cut\r\n",
        &b"Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"[..],
        &sound,
        b"\r\n--cut--\r\n",
    ];
    let read = json!({"model": "minilm", "input": ["a happy person", "a dog"]});
    let mut kinds = vec![
        (
            "/v1/audio/transcriptions",
            "multipart/form-data; boundary=cut",
            form.concat(),
            "times 20 ms of sound: 10 read, 0 made",
            ("\"sound_20ms\"", "\"image\""),
        ),
        (
            "/v1/classify",
            JSON,
            seen.to_string().into_bytes(),
            "images: 2 read, 0 made",
            ("\"read\":2", "\"read\":1"),
        ),
        (
            "/v1/images/generations",
            JSON,
            drawn.to_string().into_bytes(),
            "steps of images: 0 read, 4 made",
            ("\"made\":4", "\"made\":3"),
        ),
    ];
    if let Some(minilm) = minilm() {
        models.push(("minilm", minilm));
        kinds.push((
            "/v1/embeddings",
            JSON,
            read.to_string().into_bytes(),
            "",
            ("\"tokens\":9", "\"tokens\":8"),
        ));
    }
    let (address, _running) = serve_all(&models).await;
    let client = Client::new(address);
    let folder = tempfile::tempdir().unwrap();
    for ((path, kind, body, counted, (from, to)), (model, weights)) in kinds.iter().zip(&models) {
        let names = record(&client, folder.path(), (path, kind, body)).await;
        let checks = || verify(&names, None);
        let all = checks().unwrap();
        assert!(failed(&all).is_empty(), "{all:?}");
        let shown = |name| {
            let shown = all.iter().find(|check| check.name == name);
            shown.map(|check| check.found.as_str())
        };
        let name = format!("{model} verity-sha256:0606, {path}");
        assert_eq!(shown("model"), Some(&*name));
        assert_eq!(shown("counted").unwrap_or_default(), *counted, "{path}");
        let replay = format!("answers of {path} are not replayed");
        assert_eq!(shown("replay"), Some(&*replay));
        let asked = verify(&names, Some(weights)).unwrap();
        assert_eq!(failed(&asked), ["replay"], "{path}");

        let signed = fs::read_to_string(&names[0]).unwrap();
        let engine = Engine::load(weights).unwrap();
        // Three models that draw together have no one form.
        let quant = engine.card().format.as_ref().map(|form| {
            let form = form.to_lowercase();
            format!("\"quant\":\"{form}\"")
        });
        for said in quant.into_iter().chain(["\"kernels\":\"".into()]) {
            assert!(signed.contains(&said), "{path}: {said} in {signed}");
        }
        for (name, from, to, expected) in [
            (0, *from, *to, "receipt"),
            (0, "verity-sha256:0606", "verity-sha256:0607", "receipt"),
            (1, *model, "other", "request"),
            (2, ":", ";", "response"),
        ] {
            assert_eq!(changed(&names[name], from, to, checks), expected, "{path}");
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_has_no_receipt() {
    let (address, _running) = serve().await;
    let client = Client::new(address);
    let answer = client.post("/v1/chat/completions", "{}", true).await;
    assert_eq!(answer.headers.get("x-receipt-id"), None);
    assert_eq!(answer.headers["x-aci-version"], "aci/1");
}

/// Sends a body through a gateway that writes receipts, and gives the files: receipt,
/// request, response and opening.
async fn record(
    client: &Client,
    folder: &Path,
    (path, kind, body): (&str, &str, &[u8]),
) -> [PathBuf; 4] {
    let recorder = Recorder::new(folder.into(), true).unwrap();
    let gateway = gateway::recording(Arc::clone(&client.worker), recorder);
    let sent = Request::post(path)
        .header("content-type", kind)
        .body(Body::from(body.to_vec()));
    let (head, answer) = gateway.oneshot(sent.unwrap()).await.unwrap().into_parts();
    answer.collect().await.unwrap();
    assert_eq!(head.status, StatusCode::OK, "{path}");
    let id = head.headers["x-receipt-id"].to_str().unwrap();
    let names = [".json", ".request", ".response", ".opening.json"];
    let names = names.map(|end| folder.join(format!("{id}{end}")));
    let written = async {
        while !names[0].exists() {
            yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), written).await.unwrap();
    assert_eq!(fs::read(&names[1]).unwrap(), body);
    names
}

/// What is said with something else in a file.
fn changed(
    file: &Path,
    from: &str,
    to: &str,
    checks: impl Fn() -> anyhow::Result<Vec<Check>>,
) -> String {
    let good = fs::read(file).unwrap();
    let place = good
        .windows(from.len())
        .position(|part| part == from.as_bytes());
    let (begin, rest) = good.split_at(place.expect(from));
    let bad = [begin, to.as_bytes(), &rest[from.len()..]].concat();
    fs::write(file, bad).unwrap();
    let named = match checks() {
        Ok(checks) => failed(&checks).join(" "),
        Err(error) => format!("{error:#}"),
    };
    fs::write(file, good).unwrap();
    named
}

/// As `cocoon receipt verify` sees them, and replays them with a model.
fn verify(names: &[PathBuf; 4], model: Option<&Path>) -> anyhow::Result<Vec<Check>> {
    let [receipt, request, response, opening] = names.each_ref().map(|name| name.as_os_str());
    let mut arguments = vec!["cocoon".as_ref(), "verify".as_ref(), receipt];
    for (name, file) in [
        ("--keys-were-verified", None),
        ("--request", Some(request)),
        ("--response", Some(response)),
        ("--opening", Some(opening)),
    ] {
        arguments.push(OsStr::new(name));
        arguments.extend(file);
    }
    if let Some(model) = model {
        arguments.extend(["--replay".as_ref(), "--model".as_ref(), model.as_os_str()]);
    }
    let cli = Cli::parse_from(arguments);
    let receipt::Command::Verify(args) = cli.command;
    args.checks()
}

#[derive(clap::Parser)]
struct Cli {
    #[command(subcommand)]
    command: receipt::Command,
}

fn failed(checks: &[Check]) -> Vec<&'static str> {
    let failed = checks.iter().filter(|check| !check.passed);
    failed.map(|check| check.name).collect()
}

fn keys_of(folder: &Path) -> Keys {
    let mut files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let path = files
        .find(|path| name(path).starts_with("keyset-"))
        .unwrap();
    Keys::parse(&fs::read(path).unwrap()).unwrap()
}

/// The same model, but for its last numbers.
fn other_weights() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(tiny()).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    fs::remove_file(folder.path().join("selftest.json")).unwrap();
    let weights = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len().saturating_sub(4096);
    bytes[last..].fill(0x3c);
    fs::write(&weights, bytes).unwrap();
    folder
}

fn unix_time() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::load(&tiny()).unwrap());

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/models/cocoon-tiny")
}

/// An embedder, where `cargo xtask` has fetched it.
fn minilm() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = std::env::var_os("COCOON_MODELS").map_or(root.join("target/models"), PathBuf::from);
    let dir = dir.join("minilm");
    let there = dir.exists();
    assert!(there || std::env::var_os("CI").is_none(), "no minilm");
    there.then_some(dir)
}

/// The agent's server with a model, in a TD.
async fn serve() -> (SocketAddr, DropGuard) {
    serve_all(&[("tiny", tiny())]).await
}

async fn serve_all(models: &[(&str, PathBuf)]) -> (SocketAddr, DropGuard) {
    let worker = session::server::Worker::start(Arc::new(Td::new())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let models = models.iter().map(|(name, dir)| Model {
        name: (*name).into(),
        root: Some("0606".into()),
        engine: Engine::load(dir).unwrap(),
    });
    let api = agent::api::router(Models::new(models));
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(agent::serve::serve(listener, worker.unwrap(), api, stopped));
    (address, stop.drop_guard())
}

/// A question of which the answer does not end by itself.
fn ask(more: Value) -> String {
    let mut request = json!({
        "model": "tiny",
        "messages": [{"role": "user", "content": "Tell me about the house."}],
        "max_tokens": 12,
        "logit_bias": {"0": -100, "2": -100},
    });
    let fields = request.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    request.to_string()
}

const JSON: &str = "application/json";

const BIAS: [(u32, f64); 2] = [(0, -100.0), (2, -100.0)];

/// A gateway, and so a connection, of its own.
struct Client {
    worker: Arc<Worker>,
}

struct Answer {
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn receipt_id(&self) -> &str {
        self.headers["x-receipt-id"].to_str().unwrap()
    }
}

impl Client {
    fn new(address: SocketAddr) -> Self {
        let address: Address = address.to_string().parse().unwrap();
        let policy = Arc::new(Td::new().policy());
        Self {
            worker: Arc::new(Worker::new(address, policy, FRESH)),
        }
    }

    async fn post(&self, path: &str, body: &str, keep: bool) -> Answer {
        let mut request = Request::post(path).header("content-type", "application/json");
        if keep {
            request = request.header("x-receipt-opening", "keep");
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let gateway = gateway::router(Arc::clone(&self.worker));
        let (head, body) = gateway.oneshot(request).await.unwrap().into_parts();
        Answer {
            headers: head.headers,
            body: body.collect().await.unwrap().to_bytes().to_vec(),
        }
    }

    async fn get(&self, path: &str) -> (StatusCode, Vec<u8>) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let gateway = gateway::router(Arc::clone(&self.worker));
        let (head, body) = gateway.oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, body.to_vec())
    }

    async fn keyset(&self) -> Keyset {
        Keyset::parse(&self.get("/v1/aci/keyset").await.1).unwrap()
    }

    /// Verified under the keys of the connection.
    async fn receipt(&self, answer: &Answer) -> Receipt {
        let keyset = self.keyset().await;
        assert_eq!(
            answer.headers["x-aci-keyset-digest"],
            keyset.digest().to_string()
        );
        let path = format!("/v1/aci/receipts/{}", answer.receipt_id());
        let (status, body) = self.get(&path).await;
        assert_eq!(status, StatusCode::OK);
        Signed::parse(&body).unwrap().verify(&keyset).unwrap()
    }

    async fn opening(&self, answer: &Answer) -> Opening {
        let path = format!("/v1/aci/receipts/{}/opening", answer.receipt_id());
        Opening::parse(&self.get(&path).await.1).unwrap()
    }
}
