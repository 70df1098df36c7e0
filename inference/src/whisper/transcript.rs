//! What is asked of speech, and what comes back.

use std::fmt;
use std::time::Duration;

use media::Audio;
use zeroize::Zeroizing;

use crate::request::Tenant;

/// Speech to be written down. Nothing that is said is in its `Debug` form.
pub struct TranscriptRequest {
    /// What was said.
    pub audio: Audio,
    /// ISO 639-1 code of its language; found out if `None`.
    pub language: Option<String>,
    /// Whether to write it down in English instead.
    pub translate: bool,
    /// Text that might have come before; only its end is used.
    pub prompt: Zeroizing<String>,
    /// 0 takes the likeliest token, 1 the model's own distribution; 0 to 1.
    pub temperature: f64,
    /// Whether to say when things were said. Sounds that are longer than a window
    /// of the model are always heard so.
    pub times: bool,
    /// Who asks.
    pub tenant: Tenant,
}

impl TranscriptRequest {
    /// The likeliest text of a sound, in whatever language it is.
    #[must_use]
    pub fn new(audio: Audio) -> Self {
        Self {
            audio,
            language: None,
            translate: false,
            prompt: Zeroizing::default(),
            temperature: 0.0,
            times: false,
            tenant: Tenant::new(),
        }
    }
}

impl fmt::Debug for TranscriptRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TranscriptRequest")
            .field("audio", &self.audio)
            .field("prompt", &self.prompt.len())
            .finish_non_exhaustive()
    }
}

/// What was heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Transcript {
    /// ISO 639-1 code; `None` if the model knows but one.
    pub language: Option<String>,
    /// How long the sound was.
    pub duration: Duration,
    /// In order; without times, one for each window.
    pub segments: Vec<Segment>,
}

impl Transcript {
    /// All that was said.
    #[must_use]
    pub fn text(&self) -> String {
        let texts = self.segments.iter().map(|segment| segment.text.as_str());
        texts.collect::<String>().trim().to_owned()
    }
}

/// A part of what was heard. Its text is not in its `Debug` form.
#[derive(Clone, PartialEq)]
pub struct Segment {
    /// When its window began.
    pub seek: Duration,
    /// When it began.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
    /// What was said.
    pub text: String,
    /// As the model said it, times included.
    pub tokens: Vec<u32>,
    /// Mean logarithm of the probability of a token, in the window.
    pub mean_logprob: f64,
    /// How likely it is that nobody speaks in the window.
    pub no_speech: f64,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({:?} to {:?})", self.start, self.end)
    }
}
