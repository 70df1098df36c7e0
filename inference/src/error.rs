//! What can go wrong: while loading, before an answer begins, and during one.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use media::ImageError;

use crate::engine::Task;
use crate::schema::SchemaError;
use crate::weights::Quantise;

/// Why a directory is not a model that this crate can serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No model definition here has that name.
    #[error("architecture is {found:?}, expected one of {expected:?}")]
    Architecture {
        /// As in the file.
        found: Vec<String>,
        /// What this crate knows.
        expected: Vec<&'static str>,
    },
    /// A setting that would change what is computed and that is not implemented.
    #[error("{file}: {key} is {found}, expected {expected}")]
    Config {
        /// File in the model directory.
        file: &'static str,
        /// Key in that file.
        key: &'static str,
        /// As in the file.
        found: String,
        /// What is supported.
        expected: String,
    },
    /// The tensor library refused the weights.
    #[error("cannot build the model")]
    Build {
        /// What it said.
        source: candle_core::Error,
    },
    /// The GPU refused the weights, or there is none.
    #[cfg(feature = "cuda")]
    #[error("cannot use the GPU")]
    Card {
        /// What it said.
        source: gpu::Error,
    },
    /// What the GPU's library multiplies depends on its company.
    #[cfg(feature = "cuda")]
    #[error("exact is true, expected false for a model that does not run on the GPU as a whole")]
    Exact,
    /// The file is not JSON of the expected shape.
    #[error("cannot parse {path}")]
    Json {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        source: serde_json::Error,
    },
    /// Only decoders in the layout of the hub are quantised here.
    #[error("quantise is {found}, expected none for {of}")]
    Quantise {
        /// As asked for.
        found: Quantise,
        /// What stays as it is.
        of: &'static str,
    },
    /// The file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The model did not give the answer that it must give.
    #[error("self-test: {found}, expected {expected}")]
    SelfTest {
        /// What came out.
        found: String,
        /// What `selftest.json` asks for.
        expected: String,
    },
    /// The self-test could not be run.
    #[error("cannot run the self-test")]
    SelfTestRun {
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine's thread could not be started.
    #[error("cannot start the engine's thread")]
    Spawn {
        /// What the system said.
        source: io::Error,
    },
    /// The chat template is not one.
    #[error("cannot compile the chat template in {file}")]
    Template {
        /// File in the model directory.
        file: &'static str,
        /// What the template engine said.
        source: minijinja::Error,
    },
    /// A tensor is not what the configuration says.
    #[error("weights: {name} has {found}, expected {expected}")]
    Tensor {
        /// Name in the file.
        name: String,
        /// As in the file.
        found: String,
        /// As by the configuration.
        expected: String,
    },
    /// The tokenizer could not be built from its file.
    #[error("cannot use tokenizer.json")]
    Tokenizer {
        /// What the tokenizer library said.
        source: tokenizers::Error,
    },
    /// A file is larger than any real one.
    #[error("{path} has {found} bytes, expected at most {limit}")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// The limit for this kind of file.
        limit: u64,
    },
    /// The header of the weights contradicts itself or the file.
    #[error("weights: {what} is {found}, expected {expected}")]
    Weights {
        /// Which part of the header.
        what: String,
        /// As in the file.
        found: String,
        /// What the format asks for.
        expected: String,
    },
}

/// Why a request was refused before any token was made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// As many requests wait as may; nothing of this one was kept.
    #[error("the engine is busy, try again in {} s", retry_after.as_secs())]
    Busy {
        /// When a place is likely to be free.
        retry_after: Duration,
    },
    /// The prompt and the answer it asks for do not fit the model.
    #[error(
        "prompt and answer have at least {prompt} and {answer} tokens, the context has room for {context}"
    )]
    ContextLength {
        /// Tokens of the prompt; a lower bound when it was too long to count.
        prompt: usize,
        /// Tokens that the answer must have room for.
        answer: usize,
        /// Tokens that the model can see.
        context: usize,
    },
    /// Nothing to answer.
    #[error("{parameter} is empty, expected at least one")]
    Empty {
        /// Field of the request.
        parameter: &'static str,
    },
    /// An image is none that can be read.
    #[error("image {index}: {reason}")]
    Image {
        /// Which of the request's, from 0.
        index: usize,
        /// What is wrong with it.
        reason: ImageError,
    },
    /// The chat template has a place for another number of images.
    #[error("the model's chat template has room for {found} images, the messages have {expected}")]
    Images {
        /// As the template wrote them.
        found: usize,
        /// As in the messages.
        expected: usize,
    },
    /// More than whoever asks has agreed to pay for.
    #[error("prompt and answer come to {found} tokens, {left} are left of the limit")]
    Limit {
        /// Tokens of the prompt and most of the answer.
        found: usize,
        /// Tokens that are paid for, less what other answers of the request may take.
        left: usize,
    },
    /// No seed was given and the system has no randomness.
    #[error("the system gives no random seed")]
    NoRandomness,
    /// A number or a list out of its range.
    #[error("{parameter} is {found}, expected {expected}")]
    OutOfRange {
        /// Field of the request.
        parameter: &'static str,
        /// As asked for; never text of the prompt.
        found: String,
        /// The range.
        expected: &'static str,
    },
    /// A form that no grammar can be made of.
    #[error("the schema in {parameter} is refused")]
    Schema {
        /// Field of the request.
        parameter: &'static str,
        /// What is wrong with it.
        source: SchemaError,
    },
    /// The model cannot make images of this size.
    #[error("size is {}x{}, expected sides of multiples of {unit} up to {most}", found[0], found[1])]
    Size {
        /// Pixels of both sides, as asked for.
        found: [usize; 2],
        /// What each must be a multiple of.
        unit: usize,
        /// What each may be at most.
        most: usize,
    },
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
    /// The chat template cannot express these messages.
    #[error("the model's chat template refused the messages, template line {line}")]
    Template {
        /// Line of the template, 0 if unknown.
        line: usize,
    },
    /// The tokenizer could not encode the text.
    #[error("the tokenizer cannot encode the text")]
    Tokenize,
    /// The chat template does not say how tools are called.
    #[error("the model has not learnt to call tools")]
    Tools,
    /// A token that the model does not have.
    #[error("{parameter} has a token id that the model does not know")]
    UnknownToken {
        /// Field of the request.
        parameter: &'static str,
    },
    /// The model is for another task.
    #[error("the model does {found}, not {asked}")]
    WrongTask {
        /// What was asked for.
        asked: Task,
        /// What the model does.
        found: Task,
    },
}

/// Why an answer ended before it was finished.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The form that the answer must have took too many steps to follow.
    #[error("the form of the answer is too complex")]
    Constraint,
    /// It took too long, waiting included.
    #[error("no answer within {} s", limit.as_secs())]
    Deadline {
        /// How long it was given.
        limit: Duration,
    },
    /// What it was computed on has failed, and the engine ends.
    #[error("the device has failed")]
    Device,
    /// The tensor library failed, or the model gave a number that is none.
    #[error("the model could not be evaluated")]
    Fault,
    /// The engine's thread is gone.
    #[error("the engine has stopped")]
    Stopped,
    /// Too many answers waited to be read.
    #[error("the answer was not read")]
    Unread,
}
