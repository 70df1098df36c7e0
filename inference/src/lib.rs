//! Answers of language models, embeddings of texts, labels of images, transcripts of
//! speech and images of texts, computed on this machine.
//!
//! An [`Engine`] is one model of one directory: in the layout of the Hugging Face
//! hub, or a GGUF file of a decoder with numbers of the types F32, F16, BF16, Q8_0,
//! Q4_K and Q6_K, beside which `tokenizer.json` and the files of the hub are used if
//! they are there. Decoders in the hub's layout may be FP8 (E4M3) as DeepSeek and Qwen
//! publish it, with a scale for each square of 128 by 128. Numbers stay in memory as
//! they are in the file, unless [`Limits::quantise`] has these decoders brought into Q8_0
//! or Q4_K; on a GPU FP8 becomes BF16.
//!
//! Decoders: Llama, Mistral, Phi-3, Qwen2 and Qwen3, Gemma 3 (its text), Mixtral,
//! Qwen2 and Qwen3 with experts, DeepSeek V2 and V3; what DeepSeek distilled into
//! Qwen2 and Llama is of those families. In GGUF: `llama` (Mixtral and Mistral are
//! that, too), `qwen2`, `qwen3`, `qwen2moe`, `qwen3moe` and `gemma3`. BERT embeds,
//! ViT classifies, Whisper hears, Stable Diffusion draws. LLaVA sees: Llama, Qwen2 or
//! Qwen3 with the tower of CLIP or SigLIP.
//!
//! It has one thread, which decodes many answers at a time, with helpers; callers
//! talk to it through channels and need no particular async runtime.
//!
//! What holds for every answer:
//! * with a seed, or greedily, the same request gives the same tokens, bit for
//!   bit, whatever else is being decoded, however it was read, however many threads
//!   work and whether the processor has AVX-512, AVX2 or neither; with feature
//!   `cuda` the GPU's library decides, and this is not promised, unless
//!   [`Limits::exact`] asks for it and the decoder is one without experts, latent
//!   attention and images, which run there as a whole; nor is it of speech
//!   and drawings on another kind of processor, where the tensor library's products
//!   differ;
//! * if it must be JSON, follow a schema or call a tool, it cannot be anything else,
//!   and a call that it begins though it need not follows the schema of its tool;
//!   only how long it may be can cut it off;
//! * what a tenant's earlier requests have read is not read again, but no tenant can
//!   tell what another has asked, and each gets its turn;
//! * an answer can be made again: a [`Witness`] hears what was executed, and
//!   [`Engine::replay`] names the first token that this machine would not have chosen;
//! * no text of a request or an answer is in an error, a `Debug` form or a log;
//!   prompts are wiped after use, keys and values when their room is needed, but
//!   what the libraries for tokens, templates and images allocate in between is not.
//!
//! It opens no socket and reads no file but those of the model directory.

mod activity;
mod alphabet;
mod answer;
mod bert;
mod calls;
mod channel;
mod claims;
mod classifier;
mod config;
mod deadline;
mod decoder;
mod detokenizer;
mod diffusion;
mod embedder;
mod encoder;
mod engine;
mod error;
mod generation;
mod grammar;
mod kernel;
mod linear;
mod logprobs;
mod memory;
mod model_dir;
mod prompt;
mod queue;
mod replay;
mod request;
mod sampler;
mod scheduler;
mod schema;
mod self_test;
mod stack;
mod stop;
mod tokens;
mod tools;
mod turns;
mod vision;
mod weights;
mod whisper;
mod witness;

pub use activity::Activity;
pub use answer::{Answer, Embeddings, Event, FinishReason, Label, Pending, Usage};

pub use claims::Claims;
pub use diffusion::{PictureRequest, Pictures};
pub use engine::{Card, Engine, Info, Limits, Task};
pub use error::{EngineError, LoadError, RequestError};
pub use logprobs::{Candidate, Logprob};
pub use media::{Audio, AudioError, Image, ImageError};
pub use replay::{Difference, Replay, ReplayError};
pub use request::{Format, Message, Prompt, Request, Role, Sampling, Tenant, ToolCall};
pub use schema::SchemaError;
pub use stack::wipe_stack;
pub use tools::{Tool, ToolChoice, Tools};
pub use weights::Quantise;
pub use whisper::{Segment, Transcript, TranscriptRequest};
pub use witness::{Bounds, Executed, Witness};
