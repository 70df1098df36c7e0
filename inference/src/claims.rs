//! What a GGUF file says that it is, read without its weights. Nothing here is checked.

use std::path::Path;

use crate::error::LoadError;
use crate::weights::gguf::Gguf;

/// As the file has it, where it says anything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Claims {
    /// Of the model definition.
    pub architecture: Option<String>,
    /// Of most of its numbers.
    pub format: Option<String>,
    /// The chat template.
    pub template: Option<String>,
}

impl Claims {
    /// Reads what stands before the weights.
    pub fn of_gguf(path: &Path) -> Result<Self, LoadError> {
        let gguf = Gguf::open(path.to_owned())?;
        let text = |key| gguf.text(key).map(str::to_owned);
        Ok(Self {
            architecture: text("general.architecture"),
            format: gguf.weights.tally().format,
            template: text("tokenizer.chat_template"),
        })
    }
}
