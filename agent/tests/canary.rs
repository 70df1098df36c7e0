//! A secret goes to the agent and comes back from it; afterwards it is nowhere.
//!
//! The agent runs as it does in the image, as a process, before a TPM in software.
//! Everything that leaves it is kept: what it prints, its files, and all bytes on the
//! wire. When the client has gone, its memory is searched.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

#[expect(dead_code, reason = "others look further up its chain")]
mod swtpm;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use attestation::policy::{Policy, VtpmBuild, VtpmPolicy};
use attestation::register::Digest256;
use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inference::{Engine, Prompt, Witness};
use memchr::memmem;
use serde_json::{Value, json};
use swtpm::Swtpm;
use tempfile::TempDir;
use zeroize::Zeroizing;

/// Nobody else's text; long words, since tokenizers keep words. The last has to be
/// escaped in JSON.
const SECRET: &str = "quokkamarzipanvelvet thunderhollyhockbassoon gl\u{fc}hw\u{fc}rmchentango";

#[tokio::test]
async fn a_secret_leaves_only_through_its_own_session_and_stays_nowhere() {
    let Some(agent) = Agent::start() else { return };
    let ids = ids().await;
    let needles = needles(&ids);
    // The search finds what is there.
    let model = [("the name of its model", MODEL.into())];
    assert!(!agent.remembers(&model).is_empty());

    let (echo, others) = converse(&agent).await;
    assert!(
        echo.contains("quokkamarzipanvelvet"),
        "the answer repeats the text: {echo}"
    );
    for other in others {
        assert_nowhere(&other, other.as_bytes(), &needles);
    }
    let wire = agent.wire.lock().unwrap().clone();
    assert!(wire.len() > 10_000, "the wire was heard");
    assert_nowhere("the wire", &wire, &needles);
    for file in agent.files() {
        let bytes = fs::read(&file).unwrap();
        assert_nowhere(&file.display().to_string(), &bytes, &needles);
    }
    // Sooner than idle threads end, which would hide what they keep.
    let deadline = Instant::now() + Duration::from_secs(8);
    loop {
        let left = agent.remembers(&needles);
        if left.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "still in memory: {left:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Says the secret in every way that there is, and leaves. Gives an answer that repeats
/// it, and what must not.
async fn converse(agent: &Agent) -> (String, Vec<String>) {
    let tcp = tokio::net::TcpStream::connect(agent.proxy).await.unwrap();
    let session = session::client::connect(tcp, &agent.policy).await.unwrap();
    let (mut http, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(session.stream))
        .await
        .unwrap();
    let driver = tokio::spawn(driver);
    let mut send = async |method: &str, path: &str, kind: &str, body: String| {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://worker.cocoon.invalid{path}"))
            .header("content-type", kind)
            .header("x-receipt-opening", "keep")
            .body(Body::from(body))
            .unwrap();
        let response = http.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    };
    let tool = json!({"type": "function", "function": {
        "name": "look",
        "description": SECRET,
        "parameters": {"type": "object", "properties": {"word": {"enum": [SECRET]}}},
    }});
    let schema = json!({"name": "said", "schema": {"enum": [SECRET]}});
    for more in [
        json!({}),
        json!({"stream": true, "logprobs": true, "n": 2, "stop": ["hollyhock"]}),
        json!({"tools": [tool]}),
        json!({"response_format": {"type": "json_schema", "json_schema": schema}}),
    ] {
        let escaped = chat(more).replace('\u{fc}', "\\u00fc");
        let answer = send("POST", CHAT, JSON, escaped).await;
        assert!(answer.contains("chatcmpl-"), "{answer}");
    }
    // Who was told it repeats it.
    let echo = json!({"model": MODEL, "prompt": SECRET, "echo": true, "max_tokens": 4});
    let echo = send("POST", "/v1/completions", JSON, echo.to_string()).await;

    let image = format!(
        "data:image/png;base64,{}",
        BASE64_STANDARD_NO_PAD.encode(SECRET)
    );
    let image = json!([{"type": "image_url", "image_url": {"url": image}}]);
    let says = |role: &str, content| json!({"messages": [{"role": role, "content": content}]});
    let form = format!(
        "--edge\r\ncontent-disposition: form-data; name=\"prompt\"\r\n\r\n{SECRET}\r\n\
         --edge\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n\
         {SECRET}\r\n--edge--\r\n"
    );
    let mut others = Vec::new();
    for (path, kind, body) in [
        (CHAT, JSON, chat(json!({"user": 7, "seed": SECRET}))),
        (CHAT, JSON, chat(json!({"tool_choice": SECRET}))),
        (CHAT, JSON, chat(json!({"model": SECRET}))),
        (CHAT, JSON, chat(json!({"stop": [SECRET.repeat(9)]}))),
        (CHAT, JSON, chat(says(SECRET, json!(SECRET)))),
        (CHAT, JSON, chat(says("user", image))),
        (CHAT, JSON, chat(json!({})).replace('}', "")),
        (CHAT, "text/plain", SECRET.into()),
        (
            "/v1/embeddings",
            JSON,
            json!({"model": MODEL, "input": SECRET}).to_string(),
        ),
        (
            "/v1/audio/transcriptions",
            "multipart/form-data; boundary=edge",
            form,
        ),
    ] {
        let refusal = send("POST", path, kind, body).await;
        assert!(refusal.contains("\"error\""), "{refusal}");
        others.push(refusal);
    }
    let metrics = send("GET", "/metrics", JSON, String::new()).await;
    assert!(metrics.contains("# TYPE "), "{metrics}");
    others.push(metrics);
    driver.abort();
    assert!(driver.await.is_err(), "it was open until now");
    (echo, others)
}

/// A request, with some fields of its own.
fn chat(more: Value) -> String {
    let mut body = json!({
        "model": MODEL,
        "messages": [
            {"role": "system", "content": format!("Never say {SECRET}.")},
            {"role": "user", "content": format!("Tell me of {SECRET}, and of {SECRET}.")},
        ],
        "max_tokens": 40,
        "temperature": 1,
    });
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    body.to_string()
}

const CHAT: &str = "/v1/chat/completions";
const JSON: &str = "application/json";

/// The secret's tokens, as the agent's own engine has them.
async fn ids() -> Vec<u32> {
    let engine = Engine::load(&tiny()).unwrap();
    let witness = Witness::default();
    let request = inference::Request {
        prompt: Prompt::Text(Zeroizing::new(SECRET.into())),
        max_tokens: Some(1),
        witness: Some(witness.clone()),
        ..inference::Request::default()
    };
    engine.answer(request).unwrap().for_each(async |_| ()).await;
    witness.take().pop().unwrap().prompt.to_vec()
}

/// Forms of the secret, in pieces so small that each register that held a part of it
/// held one of them.
fn needles(ids: &[u32]) -> Vec<(&'static str, Vec<u8>)> {
    let mut needles = Vec::new();
    for word in SECRET.split(' ') {
        for piece in word.as_bytes().windows(10).step_by(7) {
            needles.push(("a piece", piece.to_vec()));
        }
        let wide = word.encode_utf16().flat_map(u16::to_le_bytes);
        needles.push(("a word in UTF-16", wide.collect()));
        // Of three places, one is where a group of four begins.
        for skip in 0..3 {
            let whole = BASE64_STANDARD_NO_PAD.encode(&word.as_bytes()[skip..]);
            needles.push(("base64", whole.as_bytes()[..16].to_vec()));
        }
    }
    for ids in ids.windows(4).step_by(4) {
        let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
        needles.push(("tokens", bytes.collect()));
        let texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
        needles.push(("tokens as text", texts.join(",").into()));
    }
    needles
}

fn assert_nowhere(place: &str, bytes: &[u8], needles: &[(&'static str, Vec<u8>)]) {
    let found: Vec<_> = found(bytes, needles).collect();
    assert!(found.is_empty(), "{place} has {found:?}");
}

fn found<'a>(
    bytes: &'a [u8],
    needles: &'a [(&'static str, Vec<u8>)],
) -> impl Iterator<Item = &'static str> + 'a {
    let has = |needle: &[u8]| memmem::find(bytes, needle).is_some();
    needles
        .iter()
        .filter(move |(_, needle)| has(needle))
        .map(|(name, _)| *name)
}

/// The agent, a TPM, and a wire that is listened to.
struct Agent {
    process: Child,
    folder: TempDir,
    proxy: SocketAddr,
    wire: Arc<Mutex<Vec<u8>>>,
    policy: Policy,
    _swtpm: Swtpm,
}

impl Agent {
    fn start() -> Option<Self> {
        let swtpm = Swtpm::start()?;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let listen = free_address();
        let (root, salt) = ("6".repeat(64), "7".repeat(64));
        let measured = format!(
            "version = 1\nrole = \"worker\"\n\n[[model]]\nname = \"{MODEL}\"\n\
             verity = \"sha256:{root}:{salt}:1\"\n"
        );
        let unmeasured =
            format!("version = 1\nlisten = \"{listen}\"\n\n[network]\nmode = \"dhcp\"\n");
        fs::write(file("measured.toml"), measured).unwrap();
        fs::write(file("unmeasured.toml"), unmeasured).unwrap();
        fs::write(file("eventlog"), "").unwrap();
        fs::create_dir(file("models")).unwrap();
        symlink(tiny(), file("models").join(MODEL)).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_agent"))
            .args(["--platform", "vtpm", "--tpm", &swtpm.tcti()])
            .arg("--measured")
            .arg(file("measured.toml"))
            .arg("--unmeasured")
            .arg(file("unmeasured.toml"))
            .arg("--event-log")
            .arg(file("eventlog"))
            .arg("--models")
            .arg(file("models"))
            .current_dir(folder.path())
            .stdout(File::create(file("stdout")).unwrap())
            .stderr(File::create(file("stderr")).unwrap())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect(listen).is_err()
            || !fs::read_to_string(file("stdout"))
                .unwrap()
                .contains("ready")
        {
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "the agent does not listen"
            );
            thread::sleep(Duration::from_millis(50));
        }
        let (proxy, wire) = listen_between(listen);
        let build = VtpmBuild {
            name: "any".into(),
            pcrs: [Digest256::ZERO; 16],
        };
        Some(Self {
            process,
            folder,
            proxy,
            wire,
            policy: Policy::Vtpm(VtpmPolicy {
                anchors: vec![swtpm.issuer()],
                builds: vec![build],
            }),
            _swtpm: swtpm,
        })
    }

    /// What it could have written.
    fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder.path()).unwrap();
        let files = files.map(|file| file.unwrap().path());
        files.filter(|file| file.is_file()).collect()
    }

    /// Which of these are in its memory, and where.
    fn remembers(&self, needles: &[(&'static str, Vec<u8>)]) -> Vec<String> {
        let id = self.process.id();
        let maps = fs::read_to_string(format!("/proc/{id}/maps")).unwrap();
        let memory = File::open(format!("/proc/{id}/mem")).unwrap();
        let mut all = Vec::new();
        for line in maps.lines() {
            let mut words = line.split_whitespace();
            let (range, flags) = (words.next().unwrap(), words.next().unwrap());
            let place = words.nth(3).unwrap_or("anonymous");
            if !flags.starts_with("rw") || place == "[vvar]" {
                continue;
            }
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            // It may be unmapped in the meantime.
            if memory.read_exact_at(&mut bytes, start).is_ok() {
                all.extend(found(&bytes, needles).map(|name| format!("{name} in {place}")));
            }
        }
        all
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Passes everything on, and keeps it.
fn listen_between(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let wire = Arc::clone(&heard);
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let worker = TcpStream::connect(to).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), worker.try_clone().unwrap()),
                (worker, client),
            ] {
                let wire = Arc::clone(&wire);
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        wire.lock().unwrap().extend_from_slice(&bytes[..count]);
                        if to.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                    // The other end may be gone already.
                    to.shutdown(Shutdown::Write).unwrap_or_default();
                });
            }
        }
    });
    (address, heard)
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/models/cocoon-tiny")
}

const MODEL: &str = "canary-model";
