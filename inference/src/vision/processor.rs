//! An image as a model wants it: its size, a piece of it, and the scale of its numbers.
//!
//! Source: `preprocessor_config.json` as the image processors of Hugging Face
//! transformers read it, with Pillow.

use media::{Image, ImageError, Pixels};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::resize::{Filter, resize};
use crate::config::{check_sizes, unsupported};
use crate::error::{LoadError, RequestError};
use crate::model_dir::ModelDir;
use crate::turns::TURNS;

/// What is done to an image.
#[derive(Debug)]
pub(crate) struct Processor {
    size: Size,
    filter: Filter,
    /// Width and height of the model's image, which is a square.
    side: usize,
    /// Of each colour, what each level becomes.
    scales: [Vec<f32>; 3],
}

impl Processor {
    /// For a model that sees squares with sides of `side` pixels. `filter` is what its
    /// class in transformers resizes with if nothing else is said.
    pub(super) fn load(dir: &ModelDir, side: usize, filter: Filter) -> Result<Self, LoadError> {
        let config: Config = dir.json(FILE)?;
        let size = config.check(side)?;
        let filter = match config.resample {
            None => filter,
            Some(found) => Filter::of(found).ok_or_else(|| {
                unsupported(FILE, "resample", found, "2 (bilinear) or 3 (bicubic)")
            })?,
        };
        let channels = [0, 1, 2].map(|channel| config.scale(channel));
        let [red, green, blue] = channels;
        Ok(Self {
            size,
            filter,
            side,
            scales: [red?, green?, blue?],
        })
    }

    /// As [`Self::fit`], for all images of a request.
    pub(crate) fn fit_all<'a>(
        &self,
        images: impl Iterator<Item = &'a Image>,
    ) -> Result<Vec<Pixels>, RequestError> {
        let _turn = TURNS.take()?;
        let fit = |(index, image)| {
            let error = |reason| RequestError::Image { index, reason };
            self.fit(image).map_err(error)
        };
        images.enumerate().map(fit).collect()
    }

    /// Decodes an image and makes it the model's square.
    pub(super) fn fit(&self, image: &Image) -> Result<Pixels, ImageError> {
        let image = image.decode()?;
        let (width, height) = self.size.of(image.width, image.height);
        Ok(crop(resize(image, width, height, self.filter), self.side))
    }

    /// The numbers of each patch of `patch` times `patch` pixels, which divide the side:
    /// colour by colour, row by row.
    pub(super) fn patches(&self, image: &Pixels, patch: usize) -> Zeroizing<Vec<f32>> {
        let (pixels, _) = image.levels.as_chunks::<3>();
        let mut numbers = Zeroizing::new(Vec::with_capacity(image.levels.len()));
        for top in (0..self.side).step_by(patch) {
            for left in (0..self.side).step_by(patch) {
                for (channel, scale) in self.scales.iter().enumerate() {
                    let rows = pixels.chunks_exact(self.side).skip(top).take(patch);
                    let pixels = rows.flat_map(|row| row.iter().skip(left).take(patch));
                    let levels = pixels.filter_map(|pixel| pixel.get(channel));
                    numbers.extend(levels.filter_map(|level| scale.get(usize::from(*level))));
                }
            }
        }
        numbers
    }
}

/// How large an image becomes, before it is cut.
#[derive(Clone, Copy, Debug)]
enum Size {
    /// So large, whatever its shape.
    Exact { width: usize, height: usize },
    /// In its own shape.
    Shortest(usize),
}

impl Size {
    fn of(self, width: usize, height: usize) -> (usize, usize) {
        let longer = |side: usize, long: usize, short: usize| {
            side.saturating_mul(long).checked_div(short).unwrap_or(side)
        };
        match self {
            Self::Exact { width, height } => (width, height),
            Self::Shortest(side) if width <= height => (side, longer(side, height, width)),
            Self::Shortest(side) => (longer(side, width, height), side),
        }
    }
}

/// The middle of an image with sides of `side` at least.
fn crop(image: Pixels, side: usize) -> Pixels {
    if (image.width, image.height) == (side, side) {
        return image;
    }
    let before = |length: usize| length.saturating_sub(side) >> 1;
    let (pixels, _) = image.levels.as_chunks::<3>();
    let rows = pixels.chunks_exact(image.width.max(1));
    let rows = rows.skip(before(image.height)).take(side);
    let left = before(image.width);
    let pixels = rows.flat_map(|row| row.iter().skip(left).take(side));
    Pixels {
        width: side,
        height: side,
        levels: Zeroizing::new(pixels.flatten().copied().collect()),
    }
}

#[derive(Debug, Deserialize)]
struct Config {
    size: Sides,
    resample: Option<u64>,
    #[serde(default)]
    do_center_crop: bool,
    crop_size: Option<Sides>,
    #[serde(default = "yes")]
    do_resize: bool,
    #[serde(default = "yes")]
    do_rescale: bool,
    #[serde(default = "yes")]
    do_normalize: bool,
    #[serde(default)]
    do_pad: bool,
    rescale_factor: Option<f64>,
    image_mean: [f32; 3],
    image_std: [f32; 3],
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Sides {
    Exact {
        width: usize,
        height: usize,
    },
    Shortest {
        shortest_edge: usize,
    },
    /// As older files have it.
    One(usize),
}

fn yes() -> bool {
    true
}

impl Config {
    /// Refuses what is not implemented and what does not give the model's square.
    fn check(&self, side: usize) -> Result<Size, LoadError> {
        for (key, found, expected) in [
            ("do_resize", self.do_resize, true),
            ("do_rescale", self.do_rescale, true),
            ("do_normalize", self.do_normalize, true),
            ("do_pad", self.do_pad, false),
        ] {
            if found != expected {
                return Err(unsupported(FILE, key, found, expected.to_string()));
            }
        }
        let size = match (self.size, self.do_center_crop) {
            (Sides::Exact { width, height }, _) => Size::Exact { width, height },
            (
                Sides::Shortest {
                    shortest_edge: side,
                },
                _,
            )
            | (Sides::One(side), true) => Size::Shortest(side),
            (Sides::One(side), false) => Size::Exact {
                width: side,
                height: side,
            },
        };
        let shortest = match size {
            Size::Exact { width, height } => {
                check_sizes(
                    FILE,
                    [("width", width, MAX_SIDE), ("height", height, MAX_SIDE)],
                )?;
                width.min(height)
            }
            Size::Shortest(side) => {
                check_sizes(FILE, [("shortest_edge", side, MAX_SIDE)])?;
                side
            }
        };
        let expected = || format!("{side}, image_size of the model");
        if !self.do_center_crop {
            return match size {
                Size::Exact { width, height } if (width, height) == (side, side) => Ok(size),
                _ => Err(unsupported(FILE, "size", format!("{size:?}"), expected())),
            };
        }
        match self.crop_size {
            Some(Sides::One(found)) if found == side => {}
            Some(Sides::Exact { width, height }) if (width, height) == (side, side) => {}
            found => {
                return Err(unsupported(
                    FILE,
                    "crop_size",
                    format!("{found:?}"),
                    expected(),
                ));
            }
        }
        match shortest >= side {
            true => Ok(size),
            false => {
                let expected = format!("at least crop_size, {side}");
                Err(unsupported(FILE, "size", shortest, expected))
            }
        }
    }

    /// What each level of a colour becomes.
    fn scale(&self, channel: usize) -> Result<Vec<f32>, LoadError> {
        let of = |numbers: &[f32; 3]| numbers.get(channel).copied().unwrap_or(f32::NAN);
        let (mean, deviation) = (of(&self.image_mean), of(&self.image_std));
        let factor = self.rescale_factor.unwrap_or(1.0 / 255.0);
        let scale = (0..=u8::MAX).map(|level| {
            let level = narrow(f64::from(level) * factor);
            (level - mean) / deviation
        });
        let scale: Vec<_> = scale.collect();
        match scale.iter().all(|number| number.is_finite()) {
            true => Ok(scale),
            false => Err(unsupported(
                FILE,
                "image_std",
                deviation,
                "a deviation that gives finite numbers with image_mean and rescale_factor",
            )),
        }
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest is what is wanted"
)]
fn narrow(x: f64) -> f32 {
    x as f32
}

const FILE: &str = "preprocessor_config.json";

/// No model sees more at a time.
const MAX_SIDE: usize = 1 << 12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::reference;
    use crate::vision::sample;
    use serde_json::{Value, json};

    /// Patches of one pixel give the numbers of each pixel, all colours together.
    #[test]
    fn pixels_are_those_of_transformers() {
        for (name, filter) in [
            ("vit", Filter::Bilinear),
            ("llava-llama", Filter::Bicubic),
            ("llava-qwen2", Filter::Bicubic),
        ] {
            let expected = std::fs::read(reference(name).join("expected.json")).unwrap();
            let expected: Value = serde_json::from_slice(&expected).unwrap();
            let expected: Vec<f32> = serde_json::from_value(expected["pixels"].clone()).unwrap();
            let processor = Processor::load(&ModelDir::new(&reference(name)), 24, filter).unwrap();
            let pixels = processor.fit(&sample()).unwrap();
            let found = processor.patches(&pixels, 1);
            assert_eq!(found.len(), expected.len());
            for (index, found) in found.iter().enumerate() {
                let expected = expected[index % 3 * 576 + index / 3];
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{name}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_patch_is_a_square_of_each_colour() {
        let dir = ModelDir::new(&reference("vit"));
        let processor = Processor::load(&dir, 24, Filter::Bilinear).unwrap();
        let pixels = processor.fit(&sample()).unwrap();
        let single = processor.patches(&pixels, 1);
        let patches = processor.patches(&pixels, 6);
        // The second patch of the third row: green, second row, fourth column.
        let at = (2 * 4 + 1) * 108 + 36 + 6 + 3;
        let (x, y) = (6 + 3, 2 * 6 + 1);
        assert_eq!(
            patches[at].to_bits(),
            single[(y * 24 + x) * 3 + 1].to_bits()
        );
    }

    #[test]
    fn the_shorter_side_is_met_and_the_middle_is_taken() {
        assert_eq!(Size::Shortest(24).of(61, 45), (32, 24));
        assert_eq!(Size::Shortest(24).of(45, 61), (24, 32));
        let row = |y: u8| (0..4).flat_map(move |x| [x, y, 0]);
        let image = Pixels {
            width: 4,
            height: 3,
            levels: Zeroizing::new((0..3).flat_map(row).collect()),
        };
        assert_eq!(*crop(image, 2).levels, [1, 0, 0, 2, 0, 0, 1, 1, 0, 2, 1, 0]);
    }

    #[test]
    fn settings_that_are_not_implemented_are_refused_by_name() {
        for (key, value, message) in [
            (
                "resample",
                json!(1),
                "resample is 1, expected 2 (bilinear) or 3 (bicubic)",
            ),
            ("do_pad", json!(true), "do_pad is true, expected false"),
            (
                "do_resize",
                json!(false),
                "do_resize is false, expected true",
            ),
            (
                "size",
                json!({"height": 24, "width": 32}),
                "size is Exact { width: 32, height: 24 }, expected 24, image_size of the model",
            ),
            (
                "size",
                json!({"shortest_edge": 24}),
                "size is Shortest(24), expected 24, image_size of the model",
            ),
            (
                "size",
                json!({"height": 9_999_999, "width": 1}),
                "height is 9999999, expected 1 to 4096",
            ),
            (
                "image_std",
                json!([0.5, 0.5, 0]),
                "image_std is 0, expected a deviation that gives finite numbers with image_mean and rescale_factor",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let config = std::fs::read(reference("vit").join(FILE)).unwrap();
            let mut config: Value = serde_json::from_slice(&config).unwrap();
            config[key] = value;
            std::fs::write(dir.path().join(FILE), config.to_string()).unwrap();
            let error = Processor::load(&ModelDir::new(dir.path()), 24, Filter::Bilinear);
            assert_eq!(error.unwrap_err().to_string(), format!("{FILE}: {message}"));
        }
    }

    #[test]
    fn a_crop_larger_than_the_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let config = std::fs::read(reference("llava-llama").join(FILE)).unwrap();
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        config["size"] = json!(20);
        std::fs::write(dir.path().join(FILE), config.to_string()).unwrap();
        let error = Processor::load(&ModelDir::new(dir.path()), 24, Filter::Bicubic);
        assert_eq!(
            error.unwrap_err().to_string(),
            format!("{FILE}: size is 20, expected at least crop_size, 24"),
        );
    }
}
