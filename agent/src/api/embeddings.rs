//! `POST /v1/embeddings`
//!
//! * Honoured: `model`, `input` (a text or up to 2048), `encoding_format`.
//! * Without effect: `user`.
//! * Refused: token ids as `input`, since they are those of another tokenizer,
//!   `dimensions`, and everything else.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::error::ApiError;
use super::fields::Fields;
use super::models::Models;
use super::options::Texts;

pub(super) async fn create(
    State(models): State<Models>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Response>, ApiError> {
    let mut fields = Fields::read(&headers, body)?;
    let name: String = fields.require("model", "a string")?;
    let texts = match fields.require("input", "a string or an array of strings")? {
        Texts::One(text) => vec![text],
        Texts::Several(texts) => texts,
    };
    if texts.len() > MAX_TEXTS {
        let message = format!("Invalid value for 'input': expected at most {MAX_TEXTS} texts.");
        return Err(ApiError::invalid("input", "invalid_value", message));
    }
    let format: Option<String> = fields.take("encoding_format", "a string")?;
    let encode = match format.as_deref() {
        None | Some("float") => Encoding::Float,
        Some("base64") => base64,
        Some(_) => {
            let message = "Invalid value for 'encoding_format': expected 'float' or 'base64'.";
            return Err(ApiError::invalid(
                "encoding_format",
                "invalid_value",
                message,
            ));
        }
    };
    fields.ignore(&["user"]);
    fields.allow_only(&[("dimensions", vec![])])?;
    fields.finish()?;

    // Many texts take long to tokenise.
    let model = name.clone();
    let pending = spawn_blocking(move || {
        let model = models.get(&model)?;
        Ok::<_, ApiError>(model.engine().embed(&texts)?)
    });
    let pending = pending.await.map_err(|_| ApiError::internal())??;
    let embeddings = pending.await?;
    let data = (0..)
        .zip(embeddings.vectors)
        .map(|(index, vector)| Embedding {
            object: "embedding",
            index,
            embedding: encode(vector),
        });
    Ok(Json(Response {
        object: "list",
        data: data.collect(),
        model: name,
        usage: Usage {
            prompt_tokens: embeddings.usage.prompt,
            total_tokens: embeddings.usage.prompt,
        },
    }))
}

/// The numbers as little-endian f32.
fn base64(vector: Vec<f32>) -> Encoding {
    let bytes: Vec<u8> = vector.into_iter().flat_map(f32::to_le_bytes).collect();
    Encoding::Base64(BASE64_STANDARD.encode(bytes))
}

#[derive(Debug, Serialize)]
pub(super) struct Response {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Encoding,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Encoding {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// As many as the real API takes.
const MAX_TEXTS: usize = 2048;
