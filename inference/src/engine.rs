//! One model, ready for requests.

mod pictures;
mod speech;

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use futures_executor::block_on;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::activity::{Activity, Counters};
use crate::answer::{Answer, Embeddings, Label, Pending, Usage};
use crate::bert::Bert;
use crate::calls::Calls;
use crate::classifier;
use crate::config::{FILE, unsupported};
use crate::deadline::Deadline;
use crate::decoder::{Decoder, FAMILIES, Family, Shape};
use crate::diffusion::{self, Diffusion, Prompts};
use crate::embedder;
use crate::error::{EngineError, LoadError, RequestError};
use crate::generation::{Defaults, Generation, Ids};
use crate::grammar::{Form, Grammars};
use crate::image::{Image, ImageError};
use crate::kernel::level::Cpu;
use crate::kernel::pool::Pool;
use crate::memory::Memory;
use crate::model_dir::ModelDir;
use crate::prompt::Template;
use crate::queue::Queue;
use crate::replay::{Asked, Difference, Replay, ReplayError};
use crate::request::{Prompt, Request, Tenant};
use crate::scheduler::{self, Scheduler};
use crate::self_test;
use crate::stop::Stop;
use crate::tokens::Tokens;
use crate::vision::{Llava, LlavaConfig, Placeholder, Processor, Sight, Vit};
use crate::weights::Weights;
use crate::weights::gguf::Gguf;
use crate::whisper::{self, Vocabulary, Whisper};
use crate::witness::{Attended, Executed, Witness};

/// A loaded model with its thread, which ends with it.
#[derive(Debug)]
pub struct Engine {
    info: Info,
    limits: Limits,
    card: Card,
    kind: Kind,
}

enum Kind {
    Chat {
        tokens: Arc<Tokens>,
        template: Box<Template>,
        /// What stands for images, if the model takes them.
        placeholder: Option<Placeholder>,
        defaults: Defaults,
        /// Tokens that end an answer.
        ends: Vec<u32>,
        /// Made when the first answer has to be of a form.
        grammars: Box<OnceLock<Option<Grammars>>>,
        counters: Arc<Counters>,
        queue: Arc<Queue<scheduler::Job>>,
    },
    Classification {
        processor: Arc<Processor>,
        queue: Arc<Queue<classifier::Job>>,
    },
    Embedding {
        tokens: Box<Tokens>,
        queue: Arc<Queue<embedder::Job>>,
    },
    Generation {
        prompts: Box<Prompts>,
        /// Pixels that a side is a multiple of, and those that it has at most.
        sides: (usize, usize),
        queue: Arc<Queue<diffusion::Job>>,
    },
    Transcription {
        tokens: Arc<Tokens>,
        vocabulary: Arc<Vocabulary>,
        queue: Arc<Queue<whisper::Job>>,
    },
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat { .. } => "Chat",
            Self::Classification { .. } => "Classification",
            Self::Embedding { .. } => "Embedding",
            Self::Generation { .. } => "Generation",
            Self::Transcription { .. } => "Transcription",
        })
    }
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
    /// Most tokens of a prompt with its answer, or of a text to embed; 0 without either.
    pub context: usize,
    /// Whether messages may show images.
    pub images: bool,
    /// Whether it came with a known answer, and gave it.
    pub self_tested: bool,
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
    /// How the file holds most of the numbers, in its own words.
    pub format: Option<String>,
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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch: 16,
            queue: 64,
            time: Duration::from_secs(600),
            memory: 1 << 30,
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
        let mut engine = match dir.gguf()? {
            Some(path) => Self::load_gguf(&dir, path, limits)?,
            None if dir.path(Diffusion::INDEX).exists() => Self::load_generation(&dir, limits)?,
            None => Self::load_hub(&dir, limits)?,
        };
        engine.card = engine.identify(&dir)?;
        engine.info.self_tested = self_test::run(&dir, &engine)?;
        Ok(engine)
    }

    fn identify(&self, dir: &ModelDir) -> Result<Card, LoadError> {
        let (tokenizer, template) = match &self.kind {
            Kind::Chat {
                tokens, template, ..
            } => (Some(*tokens.digest()), Some(*template.digest())),
            Kind::Embedding { tokens, .. } => (Some(*tokens.digest()), None),
            Kind::Transcription { tokens, .. } => (Some(*tokens.digest()), None),
            Kind::Classification { .. } | Kind::Generation { .. } => (None, None),
        };
        let format = match (&self.kind, dir.gguf()?) {
            // Several models, each in a folder of its own.
            (Kind::Generation { .. }, _) => None,
            (_, Some(path)) => Gguf::open(path)?.weights.most(),
            (_, None) => Weights::open(dir)?.most(),
        };
        let manifest = dir.optional_bytes(MANIFEST)?;
        Ok(Card {
            manifest: manifest.map(|text| Sha256::digest(text).into()),
            tokenizer,
            template,
            format,
            kernels: Cpu::detect().name(),
        })
    }

    /// As the Hugging Face hub lays a model out.
    fn load_hub(dir: &ModelDir, limits: Limits) -> Result<Self, LoadError> {
        let config: Config = dir.json(FILE)?;
        let names: Vec<_> = config.architectures.iter().map(String::as_str).collect();
        let family = match names.as_slice() {
            [Bert::ARCHITECTURE] => return Self::load_embedding(dir, limits),
            [Llava::ARCHITECTURE] => return Self::load_seeing(dir, limits),
            [Vit::ARCHITECTURE] => return Self::load_classification(dir, limits),
            [Whisper::ARCHITECTURE] => return Self::load_transcription(dir, limits),
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
        let shape = Shape::of_config(family, dir.json(FILE)?)?;
        let tokens = Tokens::load(dir, shape.vocabulary)?;
        let generation = Generation::load(dir)?;
        let chat = Chat {
            template: Template::load(dir)?,
            ends: generation.ends.or(config.eos_token_id),
            defaults: generation.defaults,
            tower: None,
        };
        Self::start(shape, Weights::open(dir)?, tokens, chat, limits)
    }

    /// A decoder with a tower.
    fn load_seeing(dir: &ModelDir, limits: Limits) -> Result<Self, LoadError> {
        let config: LlavaConfig = dir.json(FILE)?;
        let shape = config.shape()?;
        let tokens = Tokens::load(dir, shape.vocabulary)?;
        if !tokens.is_control(config.image_token_index) {
            let (found, expected) = (config.image_token_index, "a control token");
            return Err(unsupported(FILE, "image_token_index", found, expected));
        }
        let mut weights = Weights::open(dir)?;
        let spawn = |source| LoadError::Spawn { source };
        let mut pool = Pool::new(false).map_err(spawn)?;
        let tower = Llava::load(&mut pool, dir, &config, &mut weights)?;
        let generation = Generation::load(dir)?;
        let chat = Chat {
            template: Template::load(dir)?.with_parts(),
            ends: generation.ends.or(config.ends()),
            defaults: generation.defaults,
            tower: Some((tower.placeholder(&config), tower)),
        };
        Self::start(shape, weights, tokens, chat, limits)
    }

    /// As llama.cpp has it: all in one file.
    fn load_gguf(dir: &ModelDir, path: PathBuf, limits: Limits) -> Result<Self, LoadError> {
        let mut gguf = Gguf::open(path)?;
        let shape = Shape::of_gguf(&gguf)?;
        let end = gguf.integer("tokenizer.ggml.eos_token_id");
        let end = end.and_then(|end| u32::try_from(end).ok()).map(Ids::One);
        let generation = Generation::load(dir)?;
        let chat = Chat {
            template: Template::load_gguf(dir, &gguf)?,
            ends: generation.ends.or(end),
            defaults: generation.defaults,
            tower: None,
        };
        let tokens = Tokens::load_gguf(dir, &mut gguf, shape.vocabulary)?;
        Self::start(shape, gguf.weights, tokens, chat, limits)
    }

    fn start(
        shape: Shape,
        weights: Weights,
        tokens: Tokens,
        chat: Chat,
        limits: Limits,
    ) -> Result<Self, LoadError> {
        let spawn = |source| LoadError::Spawn { source };
        let ends = chat.ends.ok_or_else(|| {
            unsupported(
                FILE,
                "eos_token_id",
                "absent",
                "a token here or in generation_config.json",
            )
        })?;
        let memory = Memory::new(shape.heads, shape.layers, limits.memory);
        let mut pool = Pool::new(false).map_err(spawn)?;
        let model = Decoder::load(&mut pool, shape, weights)?;
        let info = Info {
            task: Task::Chat,
            architecture: match &chat.tower {
                Some(_) => Llava::ARCHITECTURE,
                None => model.shape().family.architecture,
            },
            parameters: model.parameters(),
            context: model.shape().context.min(memory.capacity()),
            images: chat.tower.is_some(),
            self_tested: false,
        };
        if info.parameters < SMALL {
            pool = Pool::new(true).map_err(spawn)?;
        }
        let ends: Vec<u32> = ends.into();
        let counters = Arc::<Counters>::default();
        let tokens = Arc::new(tokens);
        let (placeholder, tower) = chat.tower.unzip();
        let scheduler = Scheduler {
            model,
            tower,
            pool,
            memory,
            tokens: Arc::clone(&tokens),
            ends: ends.clone(),
            batch: limits.batch.max(1),
            counters: Arc::clone(&counters),
        };
        let queue = Arc::new(Queue::new(limits.queue));
        let jobs = Arc::clone(&queue);
        let thread = thread::Builder::new().name("engine-0".into());
        thread.spawn(move || scheduler.run(&jobs)).map_err(spawn)?;
        let kind = Kind::Chat {
            tokens,
            template: Box::new(chat.template),
            placeholder,
            defaults: chat.defaults,
            ends,
            grammars: Box::default(),
            counters,
            queue,
        };
        Ok(Self {
            info,
            limits,
            card: Card::default(),
            kind,
        })
    }

    fn load_embedding(dir: &ModelDir, limits: Limits) -> Result<Self, LoadError> {
        let spawn = |source| LoadError::Spawn { source };
        let mut pool = Pool::new(false).map_err(spawn)?;
        let model = Bert::load(&mut pool, dir)?;
        let tokens = Box::new(Tokens::load(dir, model.vocabulary())?);
        let info = Info {
            task: Task::Embedding,
            architecture: Bert::ARCHITECTURE,
            parameters: model.parameters(),
            context: model.context(),
            images: false,
            self_tested: false,
        };
        let queue = Arc::new(Queue::new(limits.queue));
        let jobs = Arc::clone(&queue);
        let thread = thread::Builder::new().name("engine-0".into());
        thread
            .spawn(move || embedder::run(&model, &mut pool, &jobs))
            .map_err(spawn)?;
        Ok(Self {
            info,
            limits,
            card: Card::default(),
            kind: Kind::Embedding { tokens, queue },
        })
    }

    fn load_classification(dir: &ModelDir, limits: Limits) -> Result<Self, LoadError> {
        let spawn = |source| LoadError::Spawn { source };
        let mut pool = Pool::new(false).map_err(spawn)?;
        let model = Vit::load(&mut pool, dir)?;
        let processor = model.processor();
        let info = Info {
            task: Task::Classification,
            architecture: Vit::ARCHITECTURE,
            parameters: model.parameters(),
            context: 0,
            images: false,
            self_tested: false,
        };
        let queue = Arc::new(Queue::new(limits.queue));
        let jobs = Arc::clone(&queue);
        let thread = thread::Builder::new().name("engine-0".into());
        thread
            .spawn(move || classifier::run(&model, &mut pool, &jobs))
            .map_err(spawn)?;
        Ok(Self {
            info,
            limits,
            card: Card::default(),
            kind: Kind::Classification { processor, queue },
        })
    }

    /// What this model is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// What its answers come from.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Queues an answer. Tokenises its prompt here, which takes milliseconds for a
    /// long one, so that a request that cannot be answered fails at once.
    pub fn answer(&self, request: Request) -> Result<Answer, RequestError> {
        let Kind::Chat {
            tokens,
            template,
            placeholder,
            defaults,
            ends,
            grammars,
            queue,
            ..
        } = &self.kind
        else {
            return Err(self.wrong_task(Task::Chat));
        };
        request.check()?;
        let style = match request.tools.list.is_empty() {
            true => None,
            false => Some(template.style.ok_or(RequestError::Tools)?),
        };
        let form = Form::of(&request, style)?;
        let prompt = self.prompt(tokens, template, &request)?;
        let (prompt, sights) = self.place(placeholder.as_ref(), prompt, &request.prompt)?;
        let room = self.check_context(prompt.len(), request.max_tokens)?;
        let grammar = match form {
            None => None,
            Some(form) => {
                let grammars = grammars.get_or_init(|| Grammars::new(tokens, ends));
                let grammars = grammars.as_ref().ok_or(RequestError::Tokenize)?;
                Some(grammars.compile(form)?)
            }
        };
        let own_seed = request.sampling.seed.is_none();
        let constrained = grammar.is_some();
        let sampler = defaults.sampler(request.sampling, &prompt)?.under(grammar);
        let max_tokens = request.max_tokens.unwrap_or(room);
        let attended = request.witness.map(|witness| Attended {
            executed: Executed {
                index: witness.ask(),
                prompt: prompt.clone(),
                images: sights.len(),
                constrained,
                answer: Zeroizing::default(),
                sampling: sampler.sampling(),
                own_seed,
                max_tokens,
                stop: request.stop.clone(),
                reason: None,
                usage: Usage::default(),
            },
            witness,
        });
        let (events, answer) = mpsc::unbounded();
        let job = scheduler::Job {
            prompt,
            sights,
            max_tokens,
            sampler,
            attended,
            replay: None,
            stop: Stop::new(request.stop),
            logprobs: request.logprobs,
            deadline: Deadline::after(self.limits.time),
            events,
        };
        enqueue(queue, request.tenant, job)?;
        Ok(Answer {
            events: Some(answer),
            calls: style.map(Calls::new),
            ready: VecDeque::new(),
        })
    }

    /// The tokens of a prompt.
    fn prompt(
        &self,
        tokens: &Tokens,
        template: &Template,
        request: &Request,
    ) -> Result<Zeroizing<Vec<u32>>, RequestError> {
        match &request.prompt {
            Prompt::Chat(messages) => {
                let bytes = messages.iter().map(|message| message.content.len());
                self.check_context(tokens.at_least(bytes.sum()), None)?;
                let prompt = template.render(tokens, messages, &request.tools)?;
                tokens.encode_prompt(&prompt)
            }
            Prompt::Text(text) => {
                self.check_context(tokens.at_least(text.len()), None)?;
                let prompt = Zeroizing::new(tokens.encode(text)?);
                match prompt.is_empty() {
                    true => Err(RequestError::Empty {
                        parameter: "prompt",
                    }),
                    false => Ok(prompt),
                }
            }
            Prompt::Tokens(prompt) if tokens.know(prompt) => Ok(prompt.clone()),
            Prompt::Tokens(_) => Err(RequestError::UnknownToken {
                parameter: "prompt",
            }),
        }
    }

    /// Makes room for the images of a prompt.
    fn place(
        &self,
        placeholder: Option<&Placeholder>,
        tokens: Zeroizing<Vec<u32>>,
        prompt: &Prompt,
    ) -> Result<(Zeroizing<Vec<u32>>, Vec<Sight>), RequestError> {
        let Prompt::Chat(messages) = prompt else {
            return Ok((tokens, Vec::new()));
        };
        let images = messages.iter().flat_map(|message| &message.images);
        let images: Vec<_> = images.map(|(_, image)| image).collect();
        match placeholder {
            Some(placeholder) => {
                // Before any is decoded.
                self.check_context(placeholder.expanded(&tokens, images.len()), None)?;
                placeholder.expand(&tokens, &images)
            }
            None if images.is_empty() => Ok((tokens, Vec::new())),
            None => Err(RequestError::Image {
                index: 0,
                reason: ImageError::NotSeen,
            }),
        }
    }

    /// The text of tokens, control tokens left out.
    pub fn text(&self, tokens: &[u32]) -> Option<Zeroizing<String>> {
        let Kind::Chat { tokens: known, .. } = &self.kind else {
            return None;
        };
        known.decode(tokens).map(Zeroizing::new)
    }

    /// Queues texts to embed; all or none.
    pub fn embed(&self, texts: &[String]) -> Result<Pending<Embeddings>, RequestError> {
        self.embed_before(None, texts)
    }

    /// As [`Self::embed`]; the witness hears of each text.
    pub fn embed_before(
        &self,
        witness: Option<Witness>,
        texts: &[String],
    ) -> Result<Pending<Embeddings>, RequestError> {
        self.embed_each(witness, texts, |tokens, text| {
            self.check_context(tokens.at_least(text.len()), Some(0))?;
            match text.is_empty() {
                true => Err(RequestError::Empty { parameter: "input" }),
                false => tokens.encode(text),
            }
        })
    }

    /// The same for texts that are tokens of this model already, without those that
    /// frame a text.
    pub fn embed_tokens_before(
        &self,
        witness: Option<Witness>,
        texts: &[Vec<u32>],
    ) -> Result<Pending<Embeddings>, RequestError> {
        let parameter = "input";
        self.embed_each(witness, texts, |tokens, ids| {
            match (ids.is_empty(), tokens.know(ids)) {
                (true, _) => Err(RequestError::Empty { parameter }),
                (_, false) => Err(RequestError::UnknownToken { parameter }),
                _ => tokens.frame(ids),
            }
        })
    }

    fn embed_each<T>(
        &self,
        witness: Option<Witness>,
        texts: &[T],
        encode: impl Fn(&Tokens, &T) -> Result<Vec<u32>, RequestError>,
    ) -> Result<Pending<Embeddings>, RequestError> {
        let Kind::Embedding { tokens, queue } = &self.kind else {
            return Err(self.wrong_task(Task::Embedding));
        };
        if texts.is_empty() {
            return Err(RequestError::Empty { parameter: "input" });
        }
        let texts = texts.iter().map(|text| {
            let tokens = Zeroizing::new(encode(tokens, text)?);
            self.check_context(tokens.len(), Some(0))?;
            Ok(tokens)
        });
        let texts = texts.collect::<Result<_, _>>()?;
        let (result, pending) = oneshot::channel();
        let job = embedder::Job {
            texts,
            deadline: Deadline::after(self.limits.time),
            witness,
            result,
        };
        enqueue(queue, Tenant::new(), job)?;
        Ok(Pending { result: pending })
    }

    /// Queues images, of each of which the `top` likeliest labels are wanted; all or
    /// none. Decodes them here, so that what is no image fails at once.
    pub fn classify(
        &self,
        images: &[Image],
        top: usize,
    ) -> Result<Pending<Vec<Vec<Label>>>, RequestError> {
        let Kind::Classification { processor, queue } = &self.kind else {
            return Err(self.wrong_task(Task::Classification));
        };
        if images.is_empty() {
            return Err(RequestError::Empty { parameter: "input" });
        }
        let (result, pending) = oneshot::channel();
        let job = classifier::Job {
            images: processor.fit_all(images.iter())?,
            top,
            deadline: Deadline::after(self.limits.time),
            result,
        };
        enqueue(queue, Tenant::new(), job)?;
        Ok(Pending { result: pending })
    }

    /// What a chat model has done and is doing.
    pub fn activity(&self) -> Activity {
        match &self.kind {
            Kind::Chat { counters, .. } => counters.activity(),
            _ => Activity::default(),
        }
    }

    /// Reads a prompt with an answer at once, and compares each token of the answer with
    /// the one that is chosen there. Blocks.
    pub fn replay(&self, replay: Replay) -> Result<Option<Difference>, ReplayError> {
        let Kind::Chat {
            queue, defaults, ..
        } = &self.kind
        else {
            return Err(ReplayError::Request(self.wrong_task(Task::Chat)));
        };
        let Replay {
            prompt,
            answer,
            sampling,
        } = replay;
        if sampling.seed.is_none() {
            return Err(ReplayError::NoSeed);
        }
        let job = || {
            let parameter = "prompt";
            if prompt.is_empty() {
                return Err(RequestError::Empty { parameter });
            }
            self.check_context(prompt.len(), Some(answer.len()))?;
            sampling.check()?;
            let sampler = defaults.sampler(sampling, &prompt)?;
            let (outcome, pending) = oneshot::channel();
            // Held until the end, or nobody would want it.
            let (events, held) = mpsc::unbounded();
            let job = scheduler::Job {
                max_tokens: answer.len(),
                prompt,
                sights: Vec::new(),
                sampler,
                stop: Stop::new(Vec::new()),
                deadline: Deadline::after(self.limits.time),
                attended: None,
                logprobs: None,
                replay: Some(Asked { answer, outcome }),
                events,
            };
            enqueue(queue, Tenant::new(), job)?;
            Ok((pending, held))
        };
        let (pending, _held) = job().map_err(ReplayError::Request)?;
        block_on(pending).unwrap_or(Err(ReplayError::Engine(EngineError::Stopped)))
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
    queue.push(tenant, job).map_err(|_| RequestError::Busy {
        retry_after: RETRY_AFTER,
    })
}

impl Drop for Engine {
    /// The thread answers what it has, and ends.
    fn drop(&mut self) {
        match &self.kind {
            Kind::Chat { queue, .. } => queue.close(),
            Kind::Classification { queue, .. } => queue.close(),
            Kind::Embedding { queue, .. } => queue.close(),
            Kind::Generation { queue, .. } => queue.close(),
            Kind::Transcription { queue, .. } => queue.close(),
        }
    }
}

/// What a chat model comes with, beside its weights.
struct Chat {
    template: Template,
    defaults: Defaults,
    /// Tokens that end an answer.
    ends: Option<Ids>,
    /// What sees, and what stands for what is seen.
    tower: Option<(Placeholder, Llava)>,
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

/// Most requests that wait for a model whose requests are large and take long.
const HEAVY: usize = 8;

/// What a model pack says of its files.
const MANIFEST: &str = "manifest.json";

const RETRY_AFTER: Duration = Duration::from_secs(1);
