//! `POST /v1/images/generations`
//!
//! * Honoured: `model`, `prompt`, `n` up to 4, `size`, `seed`; and as other servers
//!   have them `steps`, `guidance_scale` and `negative_prompt`.
//! * Without effect: `user`.
//! * Refused unless they say what happens anyway: `response_format` other than
//!   `b64_json` (nothing is stored that a `url` could name), `output_format` other than
//!   `png`, and [`neutral`].
//! * Refused: everything else.

use attestation::aci::Unit;
use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use inference::{PictureRequest, Pictures};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::asker::Asker;
use super::error::ApiError;
use super::fields::Fields;
use super::models::Models;
use super::unix_time;
use crate::receipts::Count;

pub(super) async fn create(
    State(models): State<Models>,
    asker: Asker,
    mut fields: Fields,
) -> Result<Json<Value>, ApiError> {
    let name: String = fields.require("model", "a string")?;
    let model = models.get(&name)?;
    let mut request = request(&mut fields)?;
    fields.ignore(&["user"]);
    fields.allow_only(&neutral())?;
    fields.finish()?;
    // A step of an image is counted as a token.
    let steps = u64::try_from(request.steps).unwrap_or(u64::MAX);
    let count = Count {
        read: 0,
        made: steps.saturating_mul(request.count),
    };
    asker.charge(model, Unit::Step, count)?;
    request.tenant = asker.tenant.clone();
    let pending = model.engine().picture(request);
    let pictures = pending.map_err(|error| ApiError::from(error).of("input", "prompt"))?;
    Ok(Json(respond(&pictures.await?)))
}

fn request(fields: &mut Fields) -> Result<PictureRequest, ApiError> {
    let prompt: String = fields.require("prompt", "a string")?;
    let usual = PictureRequest::new(Zeroizing::new(prompt));
    let negative: Option<String> = fields.take("negative_prompt", "a string")?;
    let size: Option<String> = fields.take("size", "a string")?;
    let seed: Option<i64> = fields.take("seed", "an integer")?;
    Ok(PictureRequest {
        negative: Zeroizing::new(negative.unwrap_or_default()),
        count: fields.take("n", "an integer")?.unwrap_or(usual.count),
        size: size
            .filter(|size| size != "auto")
            .map(|size| sides(&size))
            .transpose()?,
        steps: fields.take("steps", "an integer")?.unwrap_or(usual.steps),
        guidance: fields
            .take("guidance_scale", "a number")?
            .unwrap_or(usual.guidance),
        seed: seed.map(i64::cast_unsigned),
        ..usual
    })
}

/// `512x512`
fn sides(size: &str) -> Result<[usize; 2], ApiError> {
    let sides = size
        .split_once('x')
        .map(|(width, height)| [width, height].map(str::parse));
    match sides {
        Some([Ok(width), Ok(height)]) => Ok([width, height]),
        _ => {
            let message = "Invalid value for 'size': expected 'auto' or 'WIDTHxHEIGHT'.";
            Err(ApiError::invalid("size", "invalid_value", message))
        }
    }
}

/// `seed` is ours; clients skip what they do not know.
fn respond(pictures: &Pictures) -> Value {
    let files = pictures.files.iter();
    let data = files.map(|file| json!({"b64_json": BASE64_STANDARD.encode(file.as_slice())}));
    let [width, height] = pictures.size;
    json!({
        "created": unix_time(),
        "data": data.collect::<Vec<_>>(),
        "output_format": "png",
        "size": format!("{width}x{height}"),
        "seed": pictures.seed.cast_signed(),
    })
}

/// Values that ask for nothing more than is done.
fn neutral() -> [(&'static str, Vec<Value>); 8] {
    [
        ("background", vec![json!("auto"), json!("opaque")]),
        ("moderation", vec![json!("auto"), json!("low")]),
        ("output_compression", vec![json!(100)]),
        ("output_format", vec![json!("png")]),
        ("partial_images", vec![json!(0)]),
        ("quality", vec![json!("auto"), json!("standard")]),
        ("response_format", vec![json!("b64_json")]),
        ("stream", vec![json!(false)]),
    ]
}
