//! Answers of language models and embeddings of texts, computed on this machine.
//!
//! An [`Engine`] is one model of one directory, in the layout of the Hugging
//! Face hub. It has one thread, which decodes many answers at a time; callers
//! talk to it through channels and need no particular async runtime.
//!
//! What holds for every answer:
//! * with a seed, or greedily, the same request gives the same tokens, bit for
//!   bit, whatever else is being decoded and however many threads work (the same
//!   build on another kind of processor is meant to, but that is not tested);
//!   with feature `cuda` the GPU's library decides, and this is not promised;
//! * no text of a request or an answer is in an error, a `Debug` form or a log;
//!   prompts and keys and values are wiped after use, but what the tokenizer and
//!   the template engine allocate in between is not.
//!
//! It opens no socket and reads no file but those of the model directory.

mod answer;
mod attention;
mod bert;
mod deadline;
mod detokenizer;
mod embedder;
mod engine;
mod error;
mod generation;
mod linear;
mod model_dir;
mod prompt;
mod qwen3;
mod request;
mod sampler;
mod scheduler;
mod self_test;
mod stop;
mod tokens;
mod weights;

pub use answer::{Answer, Embeddings, Event, FinishReason, PendingEmbeddings, Usage};
pub use engine::{Engine, Info, Limits, Task};
pub use error::{EngineError, LoadError, RequestError};
pub use request::{ChatRequest, Message, Role, Sampling};
