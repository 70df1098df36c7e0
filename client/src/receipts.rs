//! The gateway's copies: a receipt for each answer that passed, checked and written.
//!
//! ```text
//! RECEIPT.json            as the worker signed it
//! keyset-DIGEST.json      the keys that it names, found in the evidence of the session,
//!                         and the quote that names them where the platform gives one
//! RECEIPT.request         what was sent, what came, and the tokens: only where
//! RECEIPT.response        the user asked for them
//! RECEIPT.opening.json
//! ```

mod copied;
mod keys;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use attestation::aci::{Hash, Keyset, Signed};
use attestation::register::Digest256;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};

use crate::worker::Worker;

pub(crate) use copied::Copied;
pub use keys::{Keys, Report};

/// Where receipts go.
#[derive(Clone, Debug)]
pub struct Recorder {
    folder: PathBuf,
    transcripts: bool,
}

impl Recorder {
    /// Makes the folder if need be. With `transcripts`, texts are kept too.
    pub fn new(folder: PathBuf, transcripts: bool) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            folder,
            transcripts,
        })
    }

    /// Whether the worker is to be asked for tokens.
    #[must_use]
    pub const fn wants_opening(&self) -> bool {
        self.transcripts
    }

    /// Fetches the receipt of an answer that has passed, checks it, and writes it.
    pub async fn record(&self, worker: &Worker, exchange: Exchange) -> anyhow::Result<()> {
        let Exchange {
            id,
            request,
            response,
        } = exchange;
        let text = get(worker, &format!("/v1/aci/receipts/{id}")).await?;
        let signed = Signed::parse(&text)?;
        let keyset = self.keyset(worker, signed.keyset()).await?;
        let receipt = signed.verify(&keyset)?;
        for (name, said, bytes) in [
            ("request", receipt.received(), &request),
            ("response", receipt.returned(), &response),
        ] {
            let found = Hash::of(bytes);
            ensure!(
                said == Some(found),
                "the {name} has {found}, and the receipt {said:?}"
            );
        }
        if self.transcripts {
            let opening = get(worker, &format!("/v1/aci/receipts/{id}/opening")).await?;
            self.write(&format!("{id}.opening.json"), &opening)?;
            self.write(&format!("{id}.request"), &request)?;
            self.write(&format!("{id}.response"), &response)?;
        }
        self.write(&format!("{id}.json"), &text)
    }

    /// The keys of this digest, if the evidence of the session names them.
    async fn keyset(&self, worker: &Worker, named: &Hash) -> anyhow::Result<Keyset> {
        let path = Keys::path(&self.folder, named);
        if let Ok(text) = fs::read(&path) {
            let keyset = Keys::parse(&text)?.keyset()?;
            ensure!(
                keyset.digest() == named,
                "{} holds other keys",
                path.display()
            );
            return Ok(keyset);
        }
        let keyset = Keyset::parse(&get(worker, "/v1/aci/keyset").await?)?;
        let (trusted, _) = worker.trusted().await?;
        let proved = Hash(*trusted.keyset());
        ensure!(
            proved == *named && proved == *keyset.digest(),
            "the worker proved keys {proved}, and the receipt names {named}"
        );
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).context("no randomness")?;
        let nonce = Digest256::from_bytes(nonce);
        let report = get(worker, &format!("/v1/aci/attestation?nonce={nonce}")).await;
        let keys = Keys::new(&keyset, &nonce, report.ok().as_deref())?;
        fs::write(&path, keys.text()?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(keyset)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// What passed.
#[derive(Debug)]
pub struct Exchange {
    id: String,
    request: Bytes,
    response: Bytes,
}

impl Exchange {
    /// None where the answer has no receipt, or a name that is none.
    pub(crate) fn new(headers: &HeaderMap, request: Bytes, response: Bytes) -> Option<Self> {
        let id = headers.get("x-receipt-id")?.to_str().ok()?;
        // It becomes the name of a file.
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (id.len() <= 64 && id.bytes().all(harmless)).then(|| Self {
            id: id.into(),
            request,
            response,
        })
    }
}

async fn get(worker: &Worker, path: &str) -> anyhow::Result<Bytes> {
    let uri = format!("https://worker.cocoon.invalid{path}");
    let request = Request::get(uri).body(Body::empty())?;
    let (head, body) = worker.send(request).await?.into_parts();
    let body = Limited::new(body, MAX_DOCUMENT).collect().await;
    let body = body.map_err(|_| anyhow!("{path} gives more than {MAX_DOCUMENT} bytes"))?;
    ensure!(
        head.status == StatusCode::OK,
        "{path} gives status {}",
        head.status
    );
    Ok(body.to_bytes())
}

/// An opening has some eight bytes for each token.
const MAX_DOCUMENT: usize = 4 << 20;
