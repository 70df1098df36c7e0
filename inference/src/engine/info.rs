//! What is known of a loaded model, and what bounds its work.

use std::fmt;
use std::time::Duration;

use crate::queue::share_of;
use crate::weights::Quantise;

/// What a model is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Info {
    /// What it can be asked for.
    pub task: Task,
    /// Name of the model definition, as in config.json.
    pub architecture: &'static str,
    /// Numbers in the weights.
    pub parameters: u64,
    /// Most tokens of a prompt with its answer, or of a text to embed; 0 without either.
    pub context: usize,
    /// Whether messages may show images.
    pub images: bool,
}

/// What a model's answers come from, by digests: SHA-256 of each.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Card {
    /// Of `manifest.json`, where there is one.
    pub manifest: Option<[u8; 32]>,
    /// Of `tokenizer.json`, or of what stands for it.
    pub tokenizer: Option<[u8; 32]>,
    /// Of the chat template's text.
    pub template: Option<[u8; 32]>,
    /// How most of the numbers are held, as the files call it.
    pub format: Option<String>,
    /// Of `selftest.json`, if it came with one: the known answer that it gave here.
    pub self_test: Option<[u8; 32]>,
    /// Instructions that the kernels use.
    pub kernels: &'static str,
}

/// What a model can be asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Task {
    /// Answers to conversations.
    Chat,
    /// Labels of images.
    Classification,
    /// Embeddings of texts.
    Embedding,
    /// Images of texts.
    Generation,
    /// Texts of what is said.
    Transcription,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Classification => "image classification",
            Self::Embedding => "embeddings",
            Self::Generation => "image generation",
            Self::Transcription => "transcriptions",
        })
    }
}

/// What one engine takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Answers at a time; one at least.
    pub batch: usize,
    /// Requests that wait beside those.
    pub queue: usize,
    /// From the request to its last token.
    pub time: Duration,
    /// Bytes of keys and values; they are taken as they are needed.
    pub memory: u64,
    /// On a GPU: whether an answer's bits may not depend on what else is being decoded.
    /// On the processor they never do; what cannot promise it on a GPU is not loaded.
    pub exact: bool,
    /// What the matrices of a decoder in the hub's layout are brought into; they stay as
    /// they are without it.
    pub quantise: Option<Quantise>,
}

impl Limits {
    /// Most requests of one tenant that may wait.
    #[must_use]
    pub fn own(&self) -> usize {
        share_of(self.queue)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch: 16,
            queue: 64,
            time: Duration::from_secs(600),
            memory: 1 << 30,
            exact: false,
            quantise: None,
        }
    }
}
