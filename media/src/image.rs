//! Images as clients send them: PNG, JPEG or WebP, of bytes that nobody vouches for.
//!
//! The header is read first, and what it announces is refused before room is made for
//! it. Of an animation the first picture is taken; transparency, colour profiles and
//! 16-bit depth are dropped; what the camera says of which side is up is obeyed.

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// An image that has not been decoded. Its bytes are not in its `Debug` form and are
/// wiped when the last copy is dropped.
#[derive(Clone)]
pub struct Image {
    bytes: Arc<Zeroizing<Vec<u8>>>,
    pixels: u64,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Image({} bytes)", self.bytes.len())
    }
}

impl Image {
    /// Takes the bytes of a file whose header is that of an image of a fair size.
    pub fn new(bytes: Vec<u8>) -> Result<Self, ImageError> {
        let bytes = Arc::new(Zeroizing::new(bytes));
        let (width, height) = decoder(&bytes)?.dimensions();
        let pixels = u64::from(width).saturating_mul(u64::from(height));
        Ok(Self { bytes, pixels })
    }

    /// As its header says; work and memory grow with them.
    pub fn pixels(&self) -> u64 {
        self.pixels
    }

    /// What tells it from all others.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.bytes.as_slice()).into()
    }

    /// Decodes it. Memory grows with [`Self::pixels`], however short the file is, so
    /// images of many should take turns.
    pub fn decode(&self) -> Result<Pixels, ImageError> {
        let mut decoder = decoder(&self.bytes)?;
        let orientation = decoder.orientation();
        let orientation = orientation.map_err(|_| ImageError::Malformed)?;
        // The library's error may quote the bytes.
        let image = DynamicImage::from_decoder(decoder);
        let mut image = image.map_err(|_| ImageError::Malformed)?;
        image.apply_orientation(orientation);
        let image = image.into_rgb8();
        let side = |side| usize::try_from(side).unwrap_or(0);
        Ok(Pixels {
            width: side(image.width()),
            height: side(image.height()),
            levels: Zeroizing::new(image.into_raw()),
        })
    }
}

fn decoder(bytes: &[u8]) -> Result<impl ImageDecoder, ImageError> {
    let format = image::guess_format(bytes).map_err(|_| ImageError::Format)?;
    if ![ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP].contains(&format) {
        return Err(ImageError::Format);
    }
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(MAX_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|_| ImageError::Malformed)?;
    let (width, height) = decoder.dimensions();
    let (short, long) = (width.min(height), width.max(height));
    let pixels = u64::from(width).saturating_mul(u64::from(height));
    if pixels > MAX_PIXELS || decoder.total_bytes() > MAX_BYTES {
        return Err(ImageError::TooLarge { width, height });
    }
    match long <= short.saturating_mul(MAX_RATIO) && short > 0 {
        true => Ok(decoder),
        false => Err(ImageError::Ratio { width, height }),
    }
}

/// A decoded image.
pub struct Pixels {
    /// In a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel, row by row.
    pub levels: Zeroizing<Vec<u8>>,
}

/// Why bytes are not an image that this crate takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// It does not begin as any of those.
    #[error("the image has an unknown format, expected PNG, JPEG or WebP")]
    Format,
    /// It begins as one, and does not go on as one.
    #[error("the image cannot be decoded")]
    Malformed,
    /// One side is much longer than the other.
    #[error("the image has {width} x {height} pixels, expected sides of at most 1:{MAX_RATIO}")]
    Ratio {
        /// As in the header.
        width: u32,
        /// As in the header.
        height: u32,
    },
    /// The model reads text only.
    #[error("the model takes no images")]
    NotSeen,
    /// It has too many pixels.
    #[error("the image has {width} x {height} pixels, expected at most {MAX_PIXELS}")]
    TooLarge {
        /// As in the header.
        width: u32,
        /// As in the header.
        height: u32,
    },
}

/// That of a good camera; larger ones are made small for the model anyway.
const MAX_PIXELS: u64 = 1 << 24;

/// Eight bytes a pixel, if all are as deep and as many as PNG can have.
const MAX_BYTES: u64 = MAX_PIXELS << 3;

/// A longer image becomes very large where its short side is that of the model.
const MAX_RATIO: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn rgb(width: u32, height: u32) -> DynamicImage {
        image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([x, y, x.wrapping_mul(y)].map(|level| level.to_le_bytes()[0]))
        })
        .into()
    }

    #[test]
    fn what_is_lossless_comes_out_as_it_went_in() {
        let image = rgb(31, 20);
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let pixels = Image::new(encode(&image, format)).unwrap().decode();
            let pixels = pixels.unwrap();
            assert_eq!((pixels.width, pixels.height), (31, 20));
            assert_eq!(pixels.levels.as_slice(), image.as_bytes());
        }
    }

    #[test]
    fn jpeg_and_grey_images_become_three_colours() {
        let grey = DynamicImage::from(image::GrayImage::from_pixel(8, 8, image::Luma([128])));
        for format in [ImageFormat::Jpeg, ImageFormat::Png] {
            let pixels = Image::new(encode(&grey, format)).unwrap().decode();
            assert_eq!(*pixels.unwrap().levels, vec![128; 3 * 64]);
        }
    }

    #[test]
    fn the_right_side_is_up() {
        // The orientation 6 of Exif 2.3: what is left becomes the top.
        let mut jpeg = encode(&rgb(16, 8), ImageFormat::Jpeg);
        let exif = b"\xff\xe1\0\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        jpeg.splice(2..2, exif.iter().copied());
        let pixels = Image::new(jpeg).unwrap().decode().unwrap();
        assert_eq!((pixels.width, pixels.height), (8, 16));
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        for bytes in [b"".as_slice(), b"GIF89a", b"BM", b"<svg/>", b"secret"] {
            let error = Image::new(bytes.to_vec()).unwrap_err();
            assert_eq!(error, ImageError::Format);
            assert!(!error.to_string().contains("secret"));
        }
    }

    /// A PNG header that announces this size, and nothing after it.
    fn announced(width: u32, height: u32) -> Vec<u8> {
        let mut png = encode(&rgb(1, 1), ImageFormat::Png);
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        png
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn a_size_is_refused_before_room_is_made_for_it() {
        for (width, height, expected) in [
            (
                4097,
                4096,
                "the image has 4097 x 4096 pixels, expected at most 16777216",
            ),
            (
                50_000,
                40_000,
                "the image has 50000 x 40000 pixels, expected at most 16777216",
            ),
            (
                101,
                1,
                "the image has 101 x 1 pixels, expected sides of at most 1:100",
            ),
        ] {
            let error = Image::new(announced(width, height)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        Image::new(announced(4096, 4096)).unwrap();
    }

    #[test]
    fn a_part_of_a_lossless_image_is_none() {
        for format in [ImageFormat::Png, ImageFormat::WebP] {
            let bytes = encode(&rgb(40, 30), format);
            // What a PNG has after its last pixel means nothing.
            let needed = bytes.len().saturating_sub(24);
            for length in 0..needed {
                let part = Image::new(bytes[..length].to_vec()).and_then(|image| image.decode());
                assert!(part.is_err(), "{format:?}: {length} of {}", bytes.len());
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            format in 0_usize..3,
            at in any::<proptest::sample::Index>(),
            bytes in proptest::collection::vec(any::<u8>(), 1..40),
        ) {
            let format = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP][format];
            let mut image = encode(&rgb(24, 17), format);
            let at = at.index(image.len());
            image.splice(at.., bytes);
            if let Ok(image) = Image::new(image) {
                drop(image.decode());
            }
        }

        #[test]
        fn a_flipped_byte_does_not_panic(
            format in 0_usize..3,
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let format = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP][format];
            let mut image = encode(&rgb(24, 17), format);
            let at = at.index(image.len());
            image[at] = byte;
            if let Ok(image) = Image::new(image) {
                drop(image.decode());
            }
        }
    }
}
