//! Images and sounds that code makes.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// One of each format.
pub(super) fn images() -> Vec<Vec<u8>> {
    [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP]
        .map(|format| image(20, format))
        .into()
}

/// So many columns of ten pixels.
pub(super) fn image(columns: usize, format: ImageFormat) -> Vec<u8> {
    let columns = u32::try_from(columns).expect("is short");
    let noise = |x: u32, y: u32| {
        let number = (x ^ y << 16).wrapping_mul(0x9e37_79b9);
        let [_, red, green, blue] = number.to_be_bytes();
        Rgb([red, green, blue])
    };
    let mut file = Cursor::new(Vec::new());
    DynamicImage::from(RgbImage::from_fn(columns, 10, noise))
        .write_to(&mut file, format)
        .expect("is written");
    file.into_inner()
}

/// One of each format.
pub(super) fn sounds() -> Vec<Vec<u8>> {
    let flac = include_bytes!("../../../inference/reference/tone.flac");
    vec![sound(400), flac.to_vec()]
}

/// A WAV file of so many samples of 16 bits, 16,000 a second.
pub(super) fn sound(samples: usize) -> Vec<u8> {
    let data = u32::try_from(samples.saturating_mul(2)).expect("is short");
    let fields = [
        (b"fmt ", 16),
        (&[1, 0, 1, 0], 16_000),
        (&32_000_u32.to_le_bytes(), 0x0010_0002),
        (b"data", data),
    ];
    let fields: Vec<u8> = fields
        .iter()
        .flat_map(|(name, number)| [**name, u32::to_le_bytes(*number)].concat())
        .collect();
    let wave = (0..samples).flat_map(|at| [0, at.to_le_bytes()[0]]);
    let head = [
        &b"RIFF"[..],
        &data.saturating_add(36).to_le_bytes(),
        b"WAVE",
    ];
    [head.concat(), fields, wave.collect()].concat()
}
