//! One model, ready for requests.

mod chat;
mod embeddings;
mod info;
mod labels;
mod pictures;
mod speech;
mod turn;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use self::chat::Chat;
use self::embeddings::Embedding;
pub use self::info::{Card, Info, Limits, Task};
use self::labels::Classification;
use self::pictures::Generation;
use self::speech::Transcription;
pub(crate) use self::turn::turn;
use crate::bert::Bert;
use crate::config::FILE;
use crate::decoder::{FAMILIES, Family};
use crate::diffusion::Diffusion;
use crate::error::{LoadError, RequestError};
use crate::generation::Ids;
use crate::kernel::level::Cpu;
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::queue::{Line, Queue, Served};
use crate::request::Tenant;
use crate::self_test;
use crate::vision::{Llava, Vit};
use crate::weights::Tally;
use crate::whisper::Whisper;

/// A loaded model with its thread, which ends with it.
#[derive(Debug)]
pub struct Engine {
    info: Info,
    limits: Limits,
    card: Card,
    kind: Kind,
}

enum Kind {
    Chat(Box<Chat>),
    Classification(Classification),
    Embedding(Box<Embedding>),
    Generation(Box<Generation>),
    Transcription(Transcription),
}

impl Engine {
    /// Loads a model and, if `selftest.json` is there, asks it for its known answer.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        Self::load_with(dir, Limits::default())
    }

    /// As [`Self::load`], with other limits.
    pub fn load_with(dir: &Path, limits: Limits) -> Result<Self, LoadError> {
        let dir = ModelDir::new(dir);
        let pool = threads(false)?;
        let loaded = match dir.gguf()? {
            Some(path) => Chat::load_gguf(pool, &dir, path, &limits)?,
            None if dir.path(Diffusion::INDEX).exists() => Generation::load(pool, &dir, &limits)?,
            None => Loaded::of_hub(pool, &dir, &limits)?,
        };
        let kind = loaded.kind;
        if let (Some(found), false) = (limits.quantise, matches!(kind, Kind::Chat(_))) {
            let of = "a model that is no decoder";
            return Err(LoadError::Quantise { found, of });
        }
        #[cfg(feature = "cuda")]
        if limits.exact && !matches!(kind, Kind::Chat(_)) {
            return Err(LoadError::Exact);
        }
        let mut engine = Self {
            info: Info {
                task: kind.task(),
                architecture: loaded.architecture,
                parameters: loaded.tally.parameters,
                context: loaded.context,
                images: matches!(&kind, Kind::Chat(chat) if chat.placeholder.is_some()),
            },
            limits,
            card: kind.card(&dir, loaded.tally.format)?,
            kind,
        };
        engine.card.self_test = self_test::run(&dir, &engine)?;
        Ok(engine)
    }

    /// What this model is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// What its answers come from.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// What it takes on.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether its thread has ended, as it does when the device is lost that it computes
    /// on: it will answer nothing any more.
    pub fn has_stopped(&self) -> bool {
        self.kind.line().is_closed()
    }

    /// The room that a prompt leaves for the answer, if that is enough.
    fn check_context(&self, prompt: usize, answer: Option<usize>) -> Result<usize, RequestError> {
        let context = self.info.context;
        // An answer has a token at least.
        let answer = answer.unwrap_or(1);
        let room = context.saturating_sub(prompt);
        match prompt <= context && answer <= room {
            true => Ok(room),
            false => Err(RequestError::ContextLength {
                prompt,
                answer,
                context,
            }),
        }
    }

    fn wrong_task(&self, asked: Task) -> RequestError {
        RequestError::WrongTask {
            asked,
            found: self.info.task,
        }
    }
}

fn enqueue<T>(queue: &Queue<T>, tenant: Tenant, job: T) -> Result<(), RequestError> {
    queue
        .push(tenant, job)
        .map_err(|_| match queue.is_closed() {
            true => RequestError::Stopped,
            false => BUSY,
        })
}

/// Looks before any work, whether it would be in vain.
fn check_room<T>(queue: &Queue<T>, tenant: &Tenant) -> Result<(), RequestError> {
    match queue.is_closed() {
        true => Err(RequestError::Stopped),
        false => queue.has_room(tenant).then_some(()).ok_or(BUSY),
    }
}

impl Drop for Engine {
    /// The thread answers what it has, and ends.
    fn drop(&mut self) {
        self.kind.line().close();
    }
}

impl Kind {
    fn task(&self) -> Task {
        match self {
            Self::Chat(_) => Task::Chat,
            Self::Classification(_) => Task::Classification,
            Self::Embedding(_) => Task::Embedding,
            Self::Generation(_) => Task::Generation,
            Self::Transcription(_) => Task::Transcription,
        }
    }

    fn line(&self) -> &dyn Line {
        match self {
            Self::Chat(model) => &*model.queue,
            Self::Classification(model) => &*model.queue,
            Self::Embedding(model) => &*model.queue,
            Self::Generation(model) => &*model.queue,
            Self::Transcription(model) => &*model.queue,
        }
    }

    fn card(&self, dir: &ModelDir, format: Option<String>) -> Result<Card, LoadError> {
        let (tokens, template) = match self {
            Self::Chat(model) => (Some(&*model.tokens), Some(model.template.digest())),
            Self::Embedding(model) => (Some(&model.tokens), None),
            Self::Transcription(model) => (Some(&*model.tokens), None),
            Self::Classification(_) | Self::Generation(_) => (None, None),
        };
        let manifest = dir.optional_bytes(MANIFEST)?;
        Ok(Card {
            manifest: manifest.map(|text| Sha256::digest(text).into()),
            tokenizer: tokens.map(|tokens| *tokens.digest()),
            template: template.copied(),
            format,
            self_test: None,
            kernels: Cpu::detect().name(),
        })
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.task(), f)
    }
}

/// A model with its thread.
struct Loaded {
    architecture: &'static str,
    tally: Tally,
    context: usize,
    kind: Kind,
}

impl Loaded {
    /// As the Hugging Face hub lays a model out.
    fn of_hub(pool: Pool, dir: &ModelDir, limits: &Limits) -> Result<Self, LoadError> {
        let config: Config = dir.json(FILE)?;
        let names: Vec<_> = config.architectures.iter().map(String::as_str).collect();
        let family = match names.as_slice() {
            [Bert::ARCHITECTURE] => return Embedding::load(pool, dir, limits),
            [Llava::ARCHITECTURE] => return Chat::load_seeing(pool, dir, limits),
            [Vit::ARCHITECTURE] => return Classification::load(pool, dir, limits),
            [Whisper::ARCHITECTURE] => return Transcription::load(pool, dir, limits),
            [name] => Family::find(name),
            _ => None,
        };
        let Some(family) = family else {
            let families = FAMILIES.iter().map(|family| family.architecture);
            return Err(LoadError::Architecture {
                found: config.architectures,
                expected: families
                    .chain([Bert::ARCHITECTURE, Llava::ARCHITECTURE])
                    .chain([Vit::ARCHITECTURE, Whisper::ARCHITECTURE])
                    .collect(),
            });
        };
        Chat::load(pool, dir, family, config.eos_token_id, limits)
    }
}

/// The part of config.json that all models share.
#[derive(Debug, Deserialize)]
struct Config {
    architectures: Vec<String>,
    eos_token_id: Option<Ids>,
}

/// The queue of a thread that does `work` on it.
fn run<J: Send + 'static>(
    limit: usize,
    work: impl FnOnce(&Queue<J>) + Send + 'static,
) -> Result<Arc<Queue<J>>, LoadError> {
    let queue = Arc::new(Queue::new(limit));
    let jobs = Served(Arc::clone(&queue));
    let thread = thread::Builder::new().name("engine-0".into());
    match thread.spawn(move || {
        let jobs = jobs;
        work(&jobs.0);
    }) {
        Ok(_) => Ok(queue),
        Err(source) => Err(LoadError::Spawn { source }),
    }
}

/// What computes.
fn threads(small: bool) -> Result<Pool, LoadError> {
    Pool::new(small).map_err(|source| LoadError::Spawn { source })
}

/// Most requests that wait for a model whose requests are large and take long.
const HEAVY: usize = 8;

/// What a model pack says of its files.
const MANIFEST: &str = "manifest.json";

const BUSY: RequestError = RequestError::Busy {
    retry_after: Duration::from_secs(1),
};

#[cfg(test)]
mod tests {
    use super::*;
    use futures_channel::oneshot::{Sender, channel};
    use futures_executor::block_on;

    fn quantised(folder: &str) -> Result<Engine, LoadError> {
        let limits = Limits {
            quantise: Some(crate::Quantise::Q8_0),
            ..Limits::default()
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        Engine::load_with(&folder, limits)
    }

    #[test]
    fn a_model_that_was_quantised_says_so_and_knows_what_it_knew() {
        let engine = quantised("models/cocoon-tiny").unwrap();
        assert_eq!(engine.card().format.as_deref(), Some("Q8_0"));
        assert!(engine.card().self_test.is_some());
    }

    #[test]
    fn what_is_not_quantised_here_is_named() {
        for (folder, of) in [
            ("reference/families/gemma3.gguf", "GGUF"),
            ("reference/whisper", "a model that is no decoder"),
        ] {
            let error = quantised(folder).unwrap_err().to_string();
            assert_eq!(error, format!("quantise is q8_0, expected none for {of}"));
        }
    }

    #[test]
    fn a_thread_that_ends_refuses_what_comes_and_lets_go_of_what_waits() {
        let queue = run(4, |queue: &Queue<Sender<()>>| {
            assert!(!queue.wait(), "a job that it cannot do");
        });
        let queue = queue.unwrap();
        let (job, outcome) = channel();
        enqueue(&queue, Tenant::new(), job).unwrap();
        block_on(outcome).unwrap_err();
        let refused = enqueue(&queue, Tenant::new(), channel().0).unwrap_err();
        assert_eq!(refused, RequestError::Stopped);
    }
}
