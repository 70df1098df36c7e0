//! `POST /v1/embeddings`
//!
//! * Honoured: `model`, `input` (a text, the ids of tokens of this model, or up to 2048
//!   of either), `encoding_format`, `dimensions` (the first ones, made as long as one).
//! * Without effect: `user`.
//! * Refused: everything else.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::aside;
use super::asker::Asker;
use super::error::ApiError;
use super::fields::Fields;
use super::models::Models;

pub(super) async fn create(
    State(models): State<Models>,
    asker: Asker,
    mut fields: Fields,
) -> Result<Json<Response>, ApiError> {
    let name: String = fields.require("model", "a string")?;
    let expected = "a string, an array of strings, of token ids, or of arrays of token ids";
    let input = match fields.require("input", expected)? {
        Input::Text(text) => Input::Texts(vec![text]),
        Input::Tokens(ids) if !ids.is_empty() => Input::TokenLists(vec![ids]),
        other => other,
    };
    if input.len() > MAX_TEXTS {
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
    let dimensions: Option<usize> = fields.take("dimensions", "an integer")?;
    fields.ignore(&["user"]);
    fields.finish()?;

    // Many texts take long to tokenise.
    let model = name.clone();
    let tenant = asker.tenant.clone();
    let pending = aside(&tenant, move || {
        let model = models.get(&model)?;
        let (tenant, witness) = (asker.tenant.clone(), asker.witness(model, None));
        let pending = match input {
            Input::Texts(texts) => model.engine().embed_before(tenant, witness, &texts),
            Input::TokenLists(lists) => model.engine().embed_tokens_before(tenant, witness, &lists),
            Input::Text(_) | Input::Tokens(_) => model.engine().embed(&[]),
        };
        Ok(pending?)
    });
    let embeddings = pending.await?.await?;
    let vectors = (0..).zip(embeddings.vectors);
    let data = vectors.map(|(index, vector)| {
        Ok(Embedding {
            object: "embedding",
            index,
            embedding: encode(shorten(vector, dimensions)?),
        })
    });
    Ok(Json(Response {
        object: "list",
        data: data.collect::<Result<_, ApiError>>()?,
        model: name,
        usage: Usage {
            prompt_tokens: embeddings.usage.prompt,
            total_tokens: embeddings.usage.prompt,
        },
    }))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

impl Input {
    fn len(&self) -> usize {
        match self {
            Self::Text(_) => 1,
            Self::Tokens(ids) => ids.len(),
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }
}

/// The first dimensions, of length one again.
fn shorten(mut vector: Vec<f32>, dimensions: Option<usize>) -> Result<Vec<f32>, ApiError> {
    let Some(dimensions) = dimensions else {
        return Ok(vector);
    };
    if !(1..=vector.len()).contains(&dimensions) {
        let most = vector.len();
        let message = format!("Invalid value for 'dimensions': expected 1 to {most}.");
        return Err(ApiError::invalid("dimensions", "invalid_value", message));
    }
    vector.truncate(dimensions);
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    Ok(vector)
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
