//! Sounds in files: one channel at 16,000 Hz, whatever the file has.
//!
//! WAV with integers of 8 to 32 bits or floats of 32, and FLAC. Channels are
//! averaged as they are read and other rates brought to this one, so that no more
//! than the result is in memory. Files are foreign: one that is cut short, that
//! contradicts itself or that lasts longer than [`Audio::LONGEST`] is an error.

mod resample;

use std::fmt;
use std::io::Cursor;
use std::time::Duration;

use claxon::{FlacReader, FlacReaderOptions};
use hound::{SampleFormat, WavReader};
use zeroize::Zeroizing;

use resample::Resampler;

/// A sound. It is wiped when dropped, and not in its `Debug` form.
pub struct Audio {
    samples: Zeroizing<Vec<f32>>,
}

impl fmt::Debug for Audio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audio({:?})", self.duration())
    }
}

impl Audio {
    /// Numbers in a second.
    pub const RATE: u32 = 16_000;

    /// No file may last longer.
    pub const LONGEST: Duration = Duration::from_secs(1800);

    /// Reads a file.
    pub fn decode(file: &[u8]) -> Result<Self, AudioError> {
        let samples = match format(file) {
            "WAV" => wav(file)?,
            "FLAC" => flac(file)?,
            found => return Err(AudioError::Format { found }),
        };
        match samples.is_empty() {
            true => Err(AudioError::Empty),
            false => Ok(Self { samples }),
        }
    }

    /// How long it lasts.
    pub fn duration(&self) -> Duration {
        let samples = u64::try_from(self.samples.len()).unwrap_or(u64::MAX);
        // A sample lasts 62.5 microseconds.
        Duration::from_micros(samples.saturating_mul(125) / 2)
    }

    /// From -1 to 1, and beyond where it is too loud.
    #[must_use]
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }
}

/// Why a file is not a sound that can be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AudioError {
    /// There is nothing in it.
    #[error("the file has no sound")]
    Empty,
    /// It is of a kind that is not read here.
    #[error("the file is {found}, expected WAV or FLAC")]
    Format {
        /// What it looks like.
        found: &'static str,
    },
    /// It contradicts its format, or is cut short.
    #[error("the {format} file is damaged")]
    Malformed {
        /// What it should be.
        format: &'static str,
    },
    /// It lasts too long.
    #[error("the sound has more than {} s", Audio::LONGEST.as_secs())]
    TooLong,
    /// Its format allows it, but it is not read here.
    #[error("the {format} file has {what}")]
    Unsupported {
        /// What it is.
        format: &'static str,
        /// What it has.
        what: &'static str,
    },
}

/// What the first bytes say.
fn format(file: &[u8]) -> &'static str {
    match file {
        [
            b'R',
            b'I',
            b'F',
            b'F',
            _,
            _,
            _,
            _,
            b'W',
            b'A',
            b'V',
            b'E',
            ..,
        ] => "WAV",
        [b'f', b'L', b'a', b'C', ..] => "FLAC",
        [b'I', b'D', b'3', ..] | [0xff, 0xe0..=0xff, ..] => "MP3",
        [b'O', b'g', b'g', b'S', ..] => "Ogg",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "MP4",
        [0x1a, 0x45, 0xdf, 0xa3, ..] => "WebM",
        _ => "of an unknown kind",
    }
}

fn wav(file: &[u8]) -> Result<Zeroizing<Vec<f32>>, AudioError> {
    let format = "WAV";
    let damaged = |error| match error {
        hound::Error::Unsupported => AudioError::Unsupported {
            format,
            what: "an unknown encoding",
        },
        _ => AudioError::Malformed { format },
    };
    let mut reader = WavReader::new(Cursor::new(file)).map_err(damaged)?;
    let spec = reader.spec();
    let mut sink = Sink::new(format, spec.sample_rate, spec.channels.into())?;
    match spec.sample_format {
        SampleFormat::Float => {
            for sample in reader.samples::<f32>() {
                sink.push(sample.map_err(damaged)?)?;
            }
        }
        SampleFormat::Int => {
            let scale = scale(format, spec.bits_per_sample.into())?;
            for sample in reader.samples::<i32>() {
                sink.push(number(sample.map_err(damaged)?, scale))?;
            }
        }
    }
    sink.finish()
}

fn flac(file: &[u8]) -> Result<Zeroizing<Vec<f32>>, AudioError> {
    let format = "FLAC";
    let damaged = |error| match error {
        claxon::Error::Unsupported(_) => AudioError::Unsupported {
            format,
            what: "an unknown encoding",
        },
        _ => AudioError::Malformed { format },
    };
    let options = FlacReaderOptions {
        metadata_only: false,
        read_vorbis_comment: false,
    };
    let mut reader = FlacReader::new_ext(Cursor::new(file), options).map_err(damaged)?;
    let info = reader.streaminfo();
    let mut sink = Sink::new(format, info.sample_rate, info.channels)?;
    let scale = scale(format, info.bits_per_sample)?;
    let mut blocks = reader.blocks();
    let mut buffer = Vec::new();
    while let Some(block) = blocks.read_next_or_eof(buffer).map_err(damaged)? {
        if block.channels() != info.channels {
            return Err(AudioError::Malformed { format });
        }
        for at in 0..block.duration() {
            for channel in 0..block.channels() {
                sink.push(number(block.sample(channel, at), scale))?;
            }
        }
        buffer = block.into_buffer();
    }
    if info.samples.is_some_and(|samples| samples != sink.frames) {
        return Err(AudioError::Malformed { format });
    }
    sink.finish()
}

/// What an integer of so many bits is to be multiplied with.
fn scale(format: &'static str, bits: u32) -> Result<f64, AudioError> {
    match bits {
        8..=32 => Ok(libm::exp2(1.0 - f64::from(bits))),
        _ => Err(AudioError::Unsupported {
            format,
            what: "an unusual number of bits",
        }),
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "24 bits are what there is to keep"
)]
fn number(sample: i32, scale: f64) -> f32 {
    (f64::from(sample) * scale) as f32
}

/// Averages channels and changes the rate.
struct Sink {
    format: &'static str,
    channels: u32,
    /// Of the channels of the present moment: how many came, and their sum.
    heard: u32,
    sum: f32,
    /// Moments so far.
    frames: u64,
    longest: u64,
    resampler: Resampler,
}

impl Sink {
    fn new(format: &'static str, rate: u32, channels: u32) -> Result<Self, AudioError> {
        let unsupported = |what| AudioError::Unsupported { format, what };
        if !(1..=8).contains(&channels) {
            return Err(unsupported("more than eight channels, or none"));
        }
        let resampler = Resampler::new(rate).ok_or(unsupported("an unusual sample rate"))?;
        Ok(Self {
            format,
            channels,
            heard: 0,
            sum: 0.0,
            frames: 0,
            longest: Audio::LONGEST.as_secs().saturating_mul(rate.into()),
            resampler,
        })
    }

    #[expect(
        clippy::as_conversions,
        clippy::cast_precision_loss,
        reason = "there are eight channels at most"
    )]
    fn push(&mut self, sample: f32) -> Result<(), AudioError> {
        if sample.is_nan() || sample.abs() > LOUDEST {
            return Err(AudioError::Malformed {
                format: self.format,
            });
        }
        self.sum += sample;
        self.heard = self.heard.saturating_add(1);
        if self.heard == self.channels {
            self.frames = self.frames.saturating_add(1);
            if self.frames > self.longest {
                return Err(AudioError::TooLong);
            }
            self.resampler.push(self.sum / self.channels as f32);
            (self.heard, self.sum) = (0, 0.0);
        }
        Ok(())
    }

    fn finish(self) -> Result<Zeroizing<Vec<f32>>, AudioError> {
        match self.heard {
            0 => Ok(self.resampler.finish()),
            _ => Err(AudioError::Malformed {
                format: self.format,
            }),
        }
    }
}

/// Full scale is 1; floats may be louder, but not without end.
const LOUDEST: f32 = 1e6;

#[cfg(test)]
mod tests;
