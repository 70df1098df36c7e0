//! One model, ready for requests.

use std::fmt;
use std::path::Path;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::answer::{Answer, PendingEmbeddings};
use crate::bert::Bert;
use crate::deadline::Deadline;
use crate::embedder;
use crate::error::{LoadError, RequestError};
use crate::generation::{Defaults, Generation, Ids};
use crate::model_dir::ModelDir;
use crate::prompt::Template;
use crate::qwen3::Qwen3;
use crate::request::ChatRequest;
use crate::scheduler::{self, Scheduler};
use crate::self_test;
use crate::stop::Stop;
use crate::tokens::Tokens;

/// A loaded model with its thread, which ends with it.
#[derive(Debug)]
pub struct Engine {
    info: Info,
    limits: Limits,
    tokens: Arc<Tokens>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Chat {
        template: Box<Template>,
        defaults: Defaults,
        queue: SyncSender<scheduler::Job>,
    },
    Embedding {
        queue: SyncSender<embedder::Job>,
    },
}

/// What a model is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Info {
    /// What it can be asked for.
    pub task: Task,
    /// Name of the model definition, as in config.json.
    pub architecture: &'static str,
    /// Numbers in the weights.
    pub parameters: u64,
    /// Most tokens of a prompt with its answer, or of a text to embed.
    pub context: usize,
    /// Whether it came with a known answer, and gave it.
    pub self_tested: bool,
}

/// What a model can be asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Task {
    /// Answers to conversations.
    Chat,
    /// Embeddings of texts.
    Embedding,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "chat",
            Self::Embedding => "embeddings",
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch: 16,
            queue: 64,
            time: Duration::from_secs(600),
        }
    }
}

impl Engine {
    /// Loads a model and, if `selftest.json` is there, asks it for its known answer.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        Self::load_with(dir, Limits::default())
    }

    /// As [`Self::load`], with other limits.
    pub fn load_with(dir: &Path, limits: Limits) -> Result<Self, LoadError> {
        let dir = ModelDir::new(dir);
        let config: Config = dir.json("config.json")?;
        let names: Vec<_> = config.architectures.iter().map(String::as_str).collect();
        let mut engine = match names.as_slice() {
            [Qwen3::ARCHITECTURE] => Self::load_chat(&dir, config, limits)?,
            [Bert::ARCHITECTURE] => Self::load_embedding(&dir, limits)?,
            _ => {
                return Err(LoadError::Architecture {
                    found: config.architectures,
                    expected: &[Bert::ARCHITECTURE, Qwen3::ARCHITECTURE],
                });
            }
        };
        engine.info.self_tested = self_test::run(&dir, &engine)?;
        Ok(engine)
    }

    fn load_chat(dir: &ModelDir, config: Config, limits: Limits) -> Result<Self, LoadError> {
        let model = Qwen3::load(dir)?;
        let tokens = Arc::new(Tokens::load(dir, model.shape().vocabulary)?);
        let info = Info {
            task: Task::Chat,
            architecture: Qwen3::ARCHITECTURE,
            parameters: model.parameters(),
            context: model.shape().context,
            self_tested: false,
        };
        let generation = Generation::load(dir)?;
        let ends = generation.ends.or(config.eos_token_id);
        let ends = ends.ok_or_else(|| LoadError::Config {
            file: "config.json",
            key: "eos_token_id",
            found: "absent".into(),
            expected: "a token here or in generation_config.json".into(),
        })?;
        let scheduler = Scheduler {
            model,
            tokens: Arc::clone(&tokens),
            ends: ends.into(),
            batch: limits.batch.max(1),
        };
        let (queue, jobs) = sync_channel(limits.queue);
        spawn(info.parameters, move || scheduler.run(&jobs))?;
        let kind = Kind::Chat {
            template: Box::new(Template::load(dir)?),
            defaults: generation.defaults,
            queue,
        };
        Ok(Self {
            info,
            limits,
            tokens,
            kind,
        })
    }

    fn load_embedding(dir: &ModelDir, limits: Limits) -> Result<Self, LoadError> {
        let model = Bert::load(dir)?;
        let tokens = Arc::new(Tokens::load(dir, model.vocabulary())?);
        let info = Info {
            task: Task::Embedding,
            architecture: Bert::ARCHITECTURE,
            parameters: model.parameters(),
            context: model.context(),
            self_tested: false,
        };
        let (queue, jobs) = sync_channel(limits.queue);
        spawn(info.parameters, move || embedder::run(&model, &jobs))?;
        Ok(Self {
            info,
            limits,
            tokens,
            kind: Kind::Embedding { queue },
        })
    }

    /// What this model is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Queues a conversation. Tokenises it here, which takes milliseconds for a
    /// long one, so that a request that cannot be answered fails at once.
    pub fn chat(&self, request: ChatRequest) -> Result<Answer, RequestError> {
        let Kind::Chat {
            template,
            defaults,
            queue,
        } = &self.kind
        else {
            return Err(self.wrong_task(Task::Chat));
        };
        request.check()?;
        let bytes = request.messages.iter().map(|message| message.content.len());
        self.check_context(self.tokens.at_least(bytes.sum()), None)?;
        let prompt = template.render(&self.tokens, &request.messages)?;
        let prompt = self.tokens.encode_prompt(&prompt)?;
        let room = self.check_context(prompt.len(), request.max_tokens)?;
        let sampler = defaults.sampler(request.sampling)?;
        let (events, answer) = mpsc::unbounded();
        let job = scheduler::Job {
            prompt,
            max_tokens: request.max_tokens.unwrap_or(room),
            sampler,
            stop: Stop::new(request.stop),
            deadline: Deadline::after(self.limits.time),
            events,
        };
        enqueue(queue, job)?;
        Ok(Answer {
            events: Some(answer),
        })
    }

    /// Queues texts to embed; all or none.
    pub fn embed(&self, texts: &[String]) -> Result<PendingEmbeddings, RequestError> {
        let Kind::Embedding { queue } = &self.kind else {
            return Err(self.wrong_task(Task::Embedding));
        };
        if texts.is_empty() {
            return Err(RequestError::Empty { parameter: "input" });
        }
        let texts = texts
            .iter()
            .map(|text| {
                if text.is_empty() {
                    return Err(RequestError::Empty { parameter: "input" });
                }
                self.check_context(self.tokens.at_least(text.len()), Some(0))?;
                let tokens = Zeroizing::new(self.tokens.encode(text)?);
                self.check_context(tokens.len(), Some(0))?;
                Ok(tokens)
            })
            .collect::<Result<_, _>>()?;
        let (result, pending) = oneshot::channel();
        let job = embedder::Job {
            texts,
            deadline: Deadline::after(self.limits.time),
            result,
        };
        enqueue(queue, job)?;
        Ok(PendingEmbeddings { result: pending })
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

fn enqueue<T>(queue: &SyncSender<T>, job: T) -> Result<(), RequestError> {
    queue.try_send(job).map_err(|error| match error {
        TrySendError::Full(_) => RequestError::Busy {
            retry_after: RETRY_AFTER,
        },
        TrySendError::Disconnected(_) => RequestError::Stopped,
    })
}

/// Runs `work` on a thread of its own that others help.
fn spawn(parameters: u64, work: impl FnOnce() + Send + 'static) -> Result<(), LoadError> {
    let threads = match parameters {
        ..SMALL => 1,
        _ => 0, // as many as there are processors
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("engine-{index}"))
        .build()
        .map_err(|source| LoadError::Spawn { source })?
        .spawn(work);
    Ok(())
}

/// The right to compute. Models of one process take turns: side by side they
/// would only take the processors from each other.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part of config.json that all models share.
#[derive(Debug, Deserialize)]
struct Config {
    architectures: Vec<String>,
    eos_token_id: Option<Ids>,
}

/// Below this, waiting for other threads takes longer than their help saves.
const SMALL: u64 = 10_000_000;

const RETRY_AFTER: Duration = Duration::from_secs(1);
