//! What is asked of an image generator, and what comes back.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::RequestError;
use crate::request::Tenant;

/// Images to be made. No text of it is in its `Debug` form.
pub struct PictureRequest {
    /// What they show.
    pub prompt: Zeroizing<String>,
    /// What they do not show.
    pub negative: Zeroizing<String>,
    /// How many, 1 to 4; image `i` has the seed of the first plus `i`.
    pub count: u64,
    /// Pixels of both sides; as the model was trained if `None`.
    pub size: Option<[usize; 2]>,
    /// Calls of the network, 1 to 100.
    pub steps: usize,
    /// How much the text counts, 1 to 30; at 1 the network is asked but once a step.
    pub guidance: f64,
    /// The same seed gives the same image; random if `None`.
    pub seed: Option<u64>,
    /// Who asks.
    pub tenant: Tenant,
}

impl PictureRequest {
    /// One image of what the text says, with the usual settings.
    #[must_use]
    pub fn new(prompt: Zeroizing<String>) -> Self {
        Self {
            prompt,
            negative: Zeroizing::default(),
            count: 1,
            size: None,
            steps: 20,
            guidance: 7.5,
            seed: None,
            tenant: Tenant::new(),
        }
    }

    /// Checks all but the texts; `sides` are a unit and the most. Gives the size.
    pub(crate) fn check(&self, sides: (usize, usize)) -> Result<[usize; 2], RequestError> {
        let refuse = |parameter, found, expected| {
            Err(RequestError::OutOfRange {
                parameter,
                found,
                expected,
            })
        };
        if !(1..=4).contains(&self.count) {
            return refuse("n", self.count.to_string(), "1 to 4");
        }
        if !(1..=100).contains(&self.steps) {
            return refuse("steps", self.steps.to_string(), "1 to 100");
        }
        if !(1.0..=30.0).contains(&self.guidance) {
            return refuse("guidance_scale", self.guidance.to_string(), "1 to 30");
        }
        let (unit, most) = sides;
        let [width, height] = self.size.unwrap_or([most, most]);
        let fits = |side: usize| (1..=most).contains(&side) && side.checked_rem(unit) == Some(0);
        match fits(width) && fits(height) {
            true => Ok([width, height]),
            false => Err(RequestError::Size {
                found: [width, height],
                unit,
                most,
            }),
        }
    }
}

impl fmt::Debug for PictureRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PictureRequest")
            .field("prompt", &self.prompt.len())
            .field("size", &self.size)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// Images as PNG files, and the seed of the first. They are not in its `Debug` form.
#[derive(Clone)]
pub struct Pictures {
    /// One file each.
    pub files: Vec<Zeroizing<Vec<u8>>>,
    /// Of the first.
    pub seed: u64,
    /// Pixels of both sides.
    pub size: [usize; 2],
}

impl fmt::Debug for Pictures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pictures({})", self.files.len())
    }
}
