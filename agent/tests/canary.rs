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
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use inference::{Engine, Prompt, Tenant, Witness};
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
    let needles = needles(&[chat_ids().await, embedder_ids().await]);
    // The search finds what is there.
    let model = [("the name of its model", MODEL.into())];
    assert!(!agent.remembers(&model).is_empty());

    let (echoes, others) = converse(&agent).await;
    for echo in echoes {
        assert!(
            echo.contains("quokkamarzipanvelvet"),
            "the answer repeats the text: {echo}"
        );
    }
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

/// Says the secret in every way that there is, and leaves. Gives answers that repeat it,
/// and what must not.
async fn converse(agent: &Agent) -> (Vec<String>, Vec<String>) {
    let tcp = tokio::net::TcpStream::connect(agent.proxy).await.unwrap();
    let session = session::client::connect(tcp, &agent.policy).await.unwrap();
    let (mut http, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(session.stream))
        .await
        .unwrap();
    let driver = tokio::spawn(driver);
    let mut send = async |method: &str, path: &str, kind: &str, body: Vec<u8>| {
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
        let answer = send("POST", CHAT, JSON, escaped.into()).await;
        assert!(answer.contains("chatcmpl-"), "{answer}");
    }
    // Who was told it repeats it.
    let mut echoes = Vec::new();
    let echo = json!({"model": MODEL, "prompt": SECRET, "echo": true, "max_tokens": 4});
    let [mut told, mut streamed] = [echo.clone(), echo];
    told["n"] = json!(2);
    streamed["stream"] = json!(true);
    for echo in [told, streamed] {
        echoes.push(send("POST", "/v1/completions", JSON, of(&echo)).await);
    }
    let mut flat = tool["function"].clone();
    flat["type"] = json!("function");
    let mut format = schema.clone();
    format["type"] = json!("json_schema");
    for more in [
        json!({}),
        json!({"stream": true, "tools": [flat]}),
        json!({"stream": true, "text": {"format": format}}),
    ] {
        echoes.push(send("POST", RESPONSES, JSON, response(more)).await);
    }

    let mut others = Vec::new();
    let picture = fs::read(reference("vision/image.png")).unwrap();
    let picture = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(picture));
    let seen = json!([
        {"type": "text", "text": SECRET},
        {"type": "image_url", "image_url": {"url": picture, "detail": SECRET}},
    ]);
    let sound = fs::read(reference("tone.flac")).unwrap();
    // As much of it as the model that draws reads.
    let word = &SECRET[..11];
    let texts = [SECRET, "and another"];
    for (path, kind, body) in [
        (CHAT, JSON, chat(says("sees", "user", seen)).into()),
        (
            EMBEDDINGS,
            JSON,
            of(&json!({"model": "embeds", "input": texts})),
        ),
        (
            CLASSIFY,
            JSON,
            of(&json!({"model": "labels", "input": [picture], "user": SECRET})),
        ),
        (
            "/v1/audio/transcriptions",
            FORM,
            form(
                &[("response_format", "verbose_json"), ("prompt", SECRET)],
                &sound,
            ),
        ),
        (
            "/v1/audio/translations",
            FORM,
            form(&[("prompt", SECRET)], &sound),
        ),
        (
            IMAGES,
            JSON,
            of(&json!({"model": "draws", "prompt": word, "negative_prompt": word, "steps": 1})),
        ),
    ] {
        let answer = send("POST", path, kind, body).await;
        assert!(!answer.contains("\"error\""), "{path}: {answer}");
        others.push(answer);
    }

    let image = format!(
        "data:image/png;base64,{}",
        BASE64_STANDARD_NO_PAD.encode(SECRET)
    );
    let url = json!([{"type": "image_url", "image_url": {"url": image}}]);
    let completion = |more: Value| of(&with(json!({"model": MODEL, "prompt": SECRET}), more));
    for (path, kind, body) in [
        (CHAT, JSON, chat(json!({"user": 7, "seed": SECRET})).into()),
        (CHAT, JSON, chat(json!({"tool_choice": SECRET})).into()),
        (CHAT, JSON, chat(json!({"model": SECRET})).into()),
        (CHAT, JSON, chat(json!({"stop": [SECRET.repeat(9)]})).into()),
        (CHAT, JSON, chat(says(MODEL, SECRET, json!(SECRET))).into()),
        (CHAT, JSON, chat(says("sees", "user", url)).into()),
        (CHAT, JSON, chat(json!({})).replace('}', "").into()),
        (CHAT, "text/plain", SECRET.into()),
        (
            CHAT,
            JSON,
            chat(json!({"tools": [{"type": SECRET, "function": {"name": SECRET}}]})).into(),
        ),
        (
            CHAT,
            JSON,
            chat(
                json!({"response_format": {"type": "json_schema", "json_schema":
                {"name": "said", "schema": {"$ref": SECRET}}}}),
            )
            .into(),
        ),
        (
            "/v1/completions",
            JSON,
            completion(json!({"suffix": SECRET})),
        ),
        ("/v1/completions", JSON, completion(json!({"echo": SECRET}))),
        (
            RESPONSES,
            JSON,
            response(json!({"previous_response_id": SECRET})),
        ),
        (
            RESPONSES,
            JSON,
            response(json!({"input": [{"type": SECRET, "call_id": SECRET}]})),
        ),
        (
            RESPONSES,
            JSON,
            response(json!({"text": {"format": {"type": SECRET}}})),
        ),
        (
            EMBEDDINGS,
            JSON,
            of(&json!({"model": MODEL, "input": SECRET})),
        ),
        (
            EMBEDDINGS,
            JSON,
            of(&json!({"model": "embeds", "input": SECRET, "encoding_format": SECRET})),
        ),
        (
            CLASSIFY,
            JSON,
            of(&json!({"model": "labels", "input": SECRET})),
        ),
        (
            CLASSIFY,
            JSON,
            of(&json!({"model": "labels", "input": [image]})),
        ),
        (
            "/v1/audio/transcriptions",
            FORM,
            form(&[("prompt", SECRET)], SECRET.as_bytes()),
        ),
        (
            "/v1/audio/transcriptions",
            FORM,
            form(&[("prompt", SECRET), ("language", SECRET)], &sound),
        ),
        (
            "/v1/audio/translations",
            FORM,
            form(&[("temperature", SECRET)], &sound),
        ),
        ("/v1/audio/translations", FORM, SECRET.into()),
        (
            IMAGES,
            JSON,
            of(&json!({"model": "draws", "prompt": SECRET.repeat(99)})),
        ),
        (
            IMAGES,
            JSON,
            of(&json!({"model": "draws", "prompt": word, "size": SECRET})),
        ),
    ] {
        let refusal = send("POST", path, kind, body).await;
        assert!(refusal.contains("\"error\""), "{path}: {refusal}");
        others.push(refusal);
    }
    let metrics = send("GET", "/metrics", JSON, Vec::new()).await;
    assert!(metrics.contains("# TYPE "), "{metrics}");
    others.push(metrics);
    driver.abort();
    assert!(driver.await.is_err(), "it was open until now");
    (echoes, others)
}

/// A request, with some fields of its own.
fn chat(more: Value) -> String {
    let body = json!({
        "model": MODEL,
        "messages": [
            {"role": "system", "content": format!("Never say {SECRET}.")},
            {"role": "user", "content": format!("Tell me of {SECRET}, and of {SECRET}.")},
        ],
        "max_tokens": 40,
        "temperature": 1,
    });
    with(body, more).to_string()
}

/// A conversation of one message.
fn says(model: &str, role: &str, content: Value) -> Value {
    json!({"model": model, "messages": [{"role": role, "content": content}], "max_tokens": 4})
}

fn response(more: Value) -> Vec<u8> {
    let input = json!([
        {"role": "user", "content": [{"type": "input_text", "text": SECRET}]},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": SECRET},
    ]);
    let body = json!({
        "model": MODEL, "input": input, "instructions": format!("Never say {SECRET}."),
        "max_output_tokens": 40,
    });
    of(&with(body, more))
}

fn with(mut body: Value, more: Value) -> Value {
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    body
}

fn of(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

/// A form with a file whose name is the secret too.
fn form(fields: &[(&str, &str)], file: &[u8]) -> Vec<u8> {
    let mut body = String::new();
    for (name, value) in [&[("model", "hears")], fields].concat() {
        let head = format!("--edge\r\ncontent-disposition: form-data; name=\"{name}\"");
        body += &format!("{head}\r\n\r\n{value}\r\n");
    }
    let head = "--edge\r\ncontent-disposition: form-data; name=\"file\"; filename";
    body += &format!("{head}=\"{SECRET}.flac\"\r\n\r\n");
    [body.as_bytes(), file, b"\r\n--edge--\r\n"].concat()
}

const CHAT: &str = "/v1/chat/completions";
const CLASSIFY: &str = "/v1/classify";
const EMBEDDINGS: &str = "/v1/embeddings";
const IMAGES: &str = "/v1/images/generations";
const RESPONSES: &str = "/v1/responses";
const FORM: &str = "multipart/form-data; boundary=edge";
const JSON: &str = "application/json";

/// The secret's tokens, as the agent's embedder has them.
async fn embedder_ids() -> Vec<u32> {
    let engine = Engine::load(&minilm()).unwrap();
    let witness = Witness::default();
    let told = Some(witness.clone());
    let pending = engine.embed_before(Tenant::new(), told, &[SECRET.to_owned()]);
    pending.unwrap().await.unwrap();
    witness.take().pop().unwrap().prompt.to_vec()
}

/// The secret's tokens, as the agent's own engine has them.
async fn chat_ids() -> Vec<u32> {
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
fn needles(ids: &[Vec<u32>]) -> Vec<(&'static str, Vec<u8>)> {
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
    for ids in ids.iter().flat_map(|ids| ids.windows(4).step_by(4)) {
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
        if !minilm().exists() {
            assert!(std::env::var_os("CI").is_none(), "CI needs minilm");
            return None;
        }
        let swtpm = Swtpm::start()?;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let listen = free_address();
        let (root, salt) = ("6".repeat(64), "7".repeat(64));
        let models = models();
        let named = models.iter().map(|(name, _)| {
            format!("\n[[model]]\nname = \"{name}\"\nverity = \"sha256:{root}:{salt}:1\"\n")
        });
        let measured = "version = 1\nrole = \"worker\"\n".to_owned() + &named.collect::<String>();
        let unmeasured =
            format!("version = 1\nlisten = \"{listen}\"\n\n[network]\nmode = \"dhcp\"\n");
        fs::write(file("measured.toml"), measured).unwrap();
        fs::write(file("unmeasured.toml"), unmeasured).unwrap();
        fs::write(file("eventlog"), "").unwrap();
        fs::create_dir(file("models")).unwrap();
        for (name, dir) in models {
            symlink(dir, file("models").join(name)).unwrap();
        }
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
                "the agent does not listen: {}{}",
                fs::read_to_string(file("stdout")).unwrap(),
                fs::read_to_string(file("stderr")).unwrap()
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

/// One of each kind.
fn models() -> [(&'static str, PathBuf); 6] {
    [
        (MODEL, tiny()),
        ("draws", reference("diffusion")),
        ("embeds", minilm()),
        ("hears", reference("whisper")),
        ("labels", reference("vision/vit")),
        ("sees", reference("vision/llava-llama")),
    ]
}

fn tiny() -> PathBuf {
    reference("../models/cocoon-tiny")
}

fn minilm() -> PathBuf {
    let models = std::env::var_os("COCOON_MODELS");
    models
        .map_or(reference("../../target/models"), PathBuf::from)
        .join("minilm")
}

fn reference(name: &str) -> PathBuf {
    let inference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference");
    inference.join("reference").join(name)
}

const MODEL: &str = "canary-model";
