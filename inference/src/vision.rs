//! Models that see: what makes an image fit them, and the layers that look at it.

mod encoder;
mod llava;
mod processor;
mod resize;
mod sight;
mod vit;

pub(crate) use self::llava::{Config as LlavaConfig, Llava};
pub(crate) use self::processor::Processor;
pub(crate) use self::sight::{Mark, Placeholder, Sight};
pub(crate) use self::vit::Vit;

/// A model of reference/vision.py.
#[cfg(test)]
pub(crate) fn reference(name: &str) -> std::path::PathBuf {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    dir.join("reference/vision").join(name)
}

/// An image of reference/vision.py.
#[cfg(test)]
pub(crate) fn sample() -> media::Image {
    let bytes = include_bytes!("../reference/vision/image.png");
    media::Image::new(bytes.to_vec()).unwrap()
}
