//! Images in requests: `data:` URLs of PNG, JPEG or WebP, in base64.
//!
//! No other URL is taken. A machine that fetched what a request names would tell the
//! network, and whoever answers there, what it is asked about.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use inference::{Image, RequestError};
use serde_json::Value;
use zeroize::Zeroizing;

use super::error::{ApiError, sentence};
use super::fields::Fields;

/// The image in the URL at `place`.
pub(super) fn read(place: &str, url: String) -> Result<Image, ApiError> {
    let url = Zeroizing::new(url);
    let refused = |what: &str| {
        let message = format!("Invalid value for '{place}': {what}");
        ApiError::invalid(place, "invalid_image_url", message)
    };
    let Some(scheme) = url
        .get(..5)
        .filter(|scheme| scheme.eq_ignore_ascii_case("data:"))
    else {
        return Err(refused(
            "expected a 'data:' URL; this machine fetches nothing.",
        ));
    };
    let encoded = url
        .get(scheme.len()..)
        .and_then(|rest| rest.split_once(','));
    let encoded = encoded.filter(|(kind, _)| kind.ends_with(";base64"));
    let (_, encoded) = encoded.ok_or_else(|| refused("expected an image in base64."))?;
    let bytes = BASE64_STANDARD.decode(encoded);
    let bytes = bytes.map_err(|_| refused("expected an image in base64."))?;
    Image::new(bytes)
        .map_err(|reason| ApiError::invalid(place, "image_parse_error", sentence(&reason)))
}

/// The image of a part of a message. `detail` is without effect: an image has as many
/// tokens as the model gives it.
pub(super) fn part(fields: &mut Fields) -> Result<Image, ApiError> {
    let place = fields.name("image_url");
    let value: Value = fields.require("image_url", "an object")?;
    let mut fields = Fields::nested(&place, value)?;
    let url = fields.require("url", "a string")?;
    let image = read(&fields.name("url"), url)?;
    fields.ignore(&["detail"]);
    fields.finish()?;
    Ok(image)
}

/// Refuses more images, or larger ones together, than a request may have at `place`.
pub(super) fn check<'a>(
    place: &str,
    images: impl Iterator<Item = &'a Image>,
) -> Result<(), ApiError> {
    let (count, pixels) = images.fold((0_usize, 0_u64), |(count, pixels), image| {
        let pixels = pixels.saturating_add(image.pixels());
        (count.saturating_add(1), pixels)
    });
    let expected = match (count > MAX_IMAGES, pixels > MAX_PIXELS) {
        (true, _) => format!("at most {MAX_IMAGES} images"),
        (false, true) => format!("images of at most {MAX_PIXELS} pixels in all"),
        (false, false) => return Ok(()),
    };
    let message = format!("Invalid value for '{place}': expected {expected}.");
    Err(ApiError::invalid(place, "invalid_value", message))
}

/// An error of the engine, where the places of the images that it was given are known.
pub(super) fn named(error: RequestError, places: &[String]) -> ApiError {
    match error {
        RequestError::Image { index, reason } => {
            let place = places.get(index).map_or("input", String::as_str);
            ApiError::invalid(place, "image_parse_error", sentence(&reason))
        }
        error => error.into(),
    }
}

/// Most images of a request.
const MAX_IMAGES: usize = 8;

/// Two of the largest that the engine takes; they are decoded for each choice.
const MAX_PIXELS: u64 = 1 << 25;
