//! Events as large as each other, so that their sizes do not tell what is said: whoever
//! sees TLS pass sees how long each is, and lengths of tokens in a row tell words.
//!
//! OpenAI has `obfuscation` for it, a field of random characters that clients skip, and
//! `stream_options.include_obfuscation` to go without. Sealed answers, whose chunks are
//! padded already, go without unless they are asked for it. Sizes do tell how many events
//! there are, how much is said in all, what is longer than [`STEP`], and log probabilities.

use serde::Serialize;
use serde_json::Value;

use super::asker::Asker;
use super::error::ApiError;
use super::fields::Fields;
use super::random_id;

/// Whether events are padded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Padding(bool);

impl Padding {
    /// `stream_options.include_obfuscation`
    pub(super) fn read(options: &mut Fields, asker: &Asker) -> Result<Self, ApiError> {
        let asked = options.take("include_obfuscation", "a boolean")?;
        Ok(Self(asked.unwrap_or(!asker.is_sealed())))
    }

    /// Where nothing is said of it.
    pub(super) fn usual(asker: &Asker) -> Self {
        Self(!asker.is_sealed())
    }

    /// For an event, of which this is what differs from event to event: what makes it as
    /// large as others, or a step larger.
    pub(super) fn of(self, said: &impl Serialize) -> Option<String> {
        let size = self.0.then(|| serde_json::to_string(said))?.ok()?.len();
        let missing = size.next_multiple_of(STEP).saturating_sub(size);
        let mut random = random_id("");
        random.truncate(missing);
        Some(random)
    }

    /// The same, in the event.
    pub(super) fn add(self, said: &impl Serialize, event: &mut Value) {
        if let (Some(padding), Value::Object(event)) = (self.of(said), event) {
            event.insert("obfuscation".into(), padding.into());
        }
    }
}

/// Longer than nearly all tokens are as JSON; as many characters as an id has.
const STEP: usize = 32;
