//! `POST /v1/classify`: what images show, by a model that knows so many labels. OpenAI
//! has no such endpoint; this one is ours.
//!
//! ```json
//! {"model": "vit", "input": ["data:image/png;base64,..."], "top_k": 2}
//! {"object": "list", "model": "vit", "data": [
//!     {"object": "classification", "index": 0, "labels": [
//!         {"label": "tabby cat", "probability": 0.83},
//!         {"label": "tiger cat", "probability": 0.11}]}]}
//! ```
//!
//! * Honoured: `model`, `input` (the `data:` URL of an image, or up to 8), `top_k` (1
//!   to 1000, 5 if nothing is said; a model with fewer labels gives all).
//! * Without effect: `user`.
//! * Refused: everything else.

use attestation::aci::Unit;
use axum::Json;
use axum::extract::State;
use inference::Image;
use serde::Serialize;

use super::asker::Asker;
use super::error::ApiError;
use super::fields::Fields;
use super::models::Models;
use super::options::Texts;
use super::{aside, images};
use crate::receipts::Count;

pub(super) async fn create(
    State(models): State<Models>,
    asker: Asker,
    mut fields: Fields,
) -> Result<Json<Response>, ApiError> {
    let name: String = fields.require("model", "a string")?;
    let input = fields.require("input", "a string or an array of strings")?;
    let top = fields.take("top_k", "an integer")?.unwrap_or(5);
    if !(1..=MAX_LABELS).contains(&top) {
        let message = format!("Invalid value for 'top_k': expected 1 to {MAX_LABELS}.");
        return Err(ApiError::invalid("top_k", "invalid_value", message));
    }
    fields.ignore(&["user"]);
    fields.finish()?;

    // Large images take long to decode.
    let model = name.clone();
    let tenant = asker.tenant.clone();
    let pending = aside(&tenant, move || {
        let model = models.get(&model)?;
        let (places, images) = read(input)?;
        // An image is counted as a token.
        let count = Count {
            read: u64::try_from(images.len()).unwrap_or(u64::MAX),
            made: 0,
        };
        asker.charge(model, Unit::Image, count)?;
        let pending = model.engine().classify(asker.tenant.clone(), &images, top);
        pending.map_err(|error| images::named(error, &places))
    });
    let data = (0..)
        .zip(pending.await?.await?)
        .map(|(index, labels)| Classification {
            object: "classification",
            index,
            labels: labels
                .into_iter()
                .map(|label| Label {
                    label: label.name.to_string(),
                    probability: label.probability,
                })
                .collect(),
        });
    Ok(Json(Response {
        object: "list",
        data: data.collect(),
        model: name,
    }))
}

/// The images, and where each was.
fn read(input: Texts) -> Result<(Vec<String>, Vec<Image>), ApiError> {
    let urls = match input {
        Texts::One(url) => vec![("input".to_owned(), url)],
        Texts::Several(urls) => {
            let places = (0..).map(|index: usize| format!("input[{index}]"));
            places.zip(urls).collect()
        }
    };
    let image = |(place, url): (String, String)| {
        let image = images::read(&place, url)?;
        Ok::<_, ApiError>((place, image))
    };
    let (places, images): (_, Vec<_>) = urls.into_iter().map(image).collect::<Result<_, _>>()?;
    images::check("input", images.iter())?;
    Ok((places, images))
}

#[derive(Debug, Serialize)]
pub(super) struct Response {
    object: &'static str,
    data: Vec<Classification>,
    model: String,
}

#[derive(Debug, Serialize)]
struct Classification {
    object: &'static str,
    index: usize,
    labels: Vec<Label>,
}

#[derive(Debug, Serialize)]
struct Label {
    label: String,
    probability: f32,
}

/// More than anyone reads.
const MAX_LABELS: usize = 1000;
