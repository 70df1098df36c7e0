//! An image in another size, bit for bit as Pillow makes it.
//!
//! Each new pixel is a weighted mean of old ones, along rows first and then along
//! columns. Where an image shrinks the weights reach as much farther, so that no pixel
//! is left out. All sums are of integers.
//!
//! Source: Pillow, `src/libImaging/Resample.c`, functions for 8 bits.

use media::Pixels;
use zeroize::Zeroizing;

/// How near a pixel must be to matter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Filter {
    Bicubic,
    Bilinear,
}

impl Filter {
    /// By Pillow's number for it.
    pub(super) fn of(number: u64) -> Option<Self> {
        match number {
            2 => Some(Self::Bilinear),
            3 => Some(Self::Bicubic),
            _ => None,
        }
    }

    /// Beyond this distance the weight is zero.
    fn reach(self) -> f64 {
        match self {
            Self::Bicubic => 2.0,
            Self::Bilinear => 1.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        let x = distance.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Bicubic => 0.0,
        }
    }
}

/// `image` with `width` times `height` pixels; one at least, as the image has.
pub(super) fn resize(image: Pixels, width: usize, height: usize, filter: Filter) -> Pixels {
    let rows = along(&image, width, filter);
    let columns = along(&turned(rows), height, filter);
    turned(columns)
}

/// Resizes each row.
fn along(image: &Pixels, width: usize, filter: Filter) -> Pixels {
    let windows = windows(image.width, width, filter);
    let row = image.width.saturating_mul(3).max(1);
    let size = width.saturating_mul(3).saturating_mul(image.height);
    let mut levels = Zeroizing::new(Vec::with_capacity(size));
    for row in image.levels.chunks_exact(row) {
        let (pixels, _) = row.as_chunks::<3>();
        for window in &windows {
            let seen = pixels.get(window.first..).unwrap_or_default();
            let mut sums = [HALF; 3];
            for (pixel, weight) in seen.iter().zip(&window.weights) {
                for (sum, level) in sums.iter_mut().zip(pixel) {
                    *sum = sum.saturating_add(weight.saturating_mul(i32::from(*level)));
                }
            }
            let whole = sums.map(|sum| (sum >> BITS).clamp(0, 255));
            levels.extend(whole.map(|level| u8::try_from(level).unwrap_or(u8::MAX)));
        }
    }
    Pixels {
        width,
        height: image.height,
        levels,
    }
}

/// The old pixels that a new one is made of.
struct Window {
    first: usize,
    /// In parts of 2^[`BITS`].
    weights: Vec<i32>,
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sides of images are small, and what is cut off is meant to be"
)]
fn windows(from: usize, to: usize, filter: Filter) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = filter.reach() * stretch;
    let window = |index| {
        let center = (f64::from(index) + 0.5) * scale;
        let first = (center - reach + 0.5).max(0.0) as usize;
        let last = ((center + reach + 0.5) as usize).min(from);
        let places = (first..last).map(|place| place as f64 - center + 0.5);
        let weights = places.map(|distance| filter.weight(distance * stretch.recip()));
        let weights: Vec<_> = weights.collect();
        let total: f64 = weights.iter().sum();
        let parts = weights.iter().map(|weight| weight / total * f64::from(ONE));
        Window {
            first,
            // Halves are rounded away from zero.
            weights: parts.map(|part| part.round() as i32).collect(),
        }
    };
    (0..u32::try_from(to).unwrap_or(0)).map(window).collect()
}

/// Rows become columns.
fn turned(image: Pixels) -> Pixels {
    let (pixels, _) = image.levels.as_chunks::<3>();
    let mut levels = Zeroizing::new(Vec::with_capacity(image.levels.len()));
    for column in 0..image.width {
        let column = pixels.iter().skip(column).step_by(image.width.max(1));
        levels.extend(column.flatten());
    }
    Pixels {
        width: image.height,
        height: image.width,
        levels,
    }
}

/// Steepness of bicubic weights, as Pillow has it.
const A: f64 = -0.5;

/// Eight bits are of a level, two are room for weights outside 0 to 1.
const BITS: u32 = 32 - 8 - 2;
const ONE: i32 = 1 << BITS;
const HALF: i32 = 1 << (BITS - 1);

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// Made by reference/vision.py.
    const REFERENCE: &str = include_str!("../../reference/vision/resample.json");

    #[derive(Deserialize)]
    struct Case {
        resample: u64,
        width: usize,
        height: usize,
        pillow: Vec<u8>,
        torchvision: Vec<u8>,
    }

    #[test]
    fn levels_are_those_of_pillow_and_next_to_those_of_torchvision() {
        for case in serde_json::from_str::<Vec<Case>>(REFERENCE).unwrap() {
            let image = crate::vision::sample().decode().unwrap();
            let filter = Filter::of(case.resample).unwrap();
            let found = resize(image, case.width, case.height, filter);
            assert_eq!((found.width, found.height), (case.width, case.height));
            assert_eq!(*found.levels, case.pillow);
            for (found, expected) in found.levels.iter().zip(&case.torchvision) {
                assert!(found.abs_diff(*expected) <= 1);
            }
        }
    }

    #[test]
    fn an_even_image_stays_even_in_any_size() {
        for filter in [Filter::Bicubic, Filter::Bilinear] {
            for (width, height) in [(1, 1), (1, 300), (7, 7), (640, 2)] {
                let image = Pixels {
                    width: 5,
                    height: 3,
                    levels: Zeroizing::new(vec![200; 45]),
                };
                let found = resize(image, width, height, filter);
                assert_eq!(*found.levels, vec![200; width * height * 3]);
            }
        }
    }
}
