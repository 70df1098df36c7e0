//! Engines that answer.

mod load;

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use futures_channel::oneshot;
use futures_executor::block_on;
use media::ImageError;
use zeroize::Zeroizing;

use super::{Engine, Kind, Task, check_room, enqueue};
use crate::activity::{Activity, Counters};
use crate::answer::{Answer, Usage};
use crate::calls::Calls;
use crate::channel::channel;
use crate::deadline::Deadline;
use crate::error::{EngineError, RequestError};
use crate::generation::Defaults;
use crate::grammar::{Form, Grammar, Grammars};
use crate::prompt::Template;
use crate::queue::Queue;
use crate::replay::{Asked, Difference, Replay, ReplayError};
use crate::request::{Prompt, Request, Tenant};
use crate::scheduler::{Job, Work};
use crate::stop::Stop;
use crate::tokens::Tokens;
use crate::tools::{Style, Tools};
use crate::vision::{Placeholder, Sight};
use crate::witness::{Attended, Executed, Witness};

/// What its requests need.
pub(super) struct Chat {
    pub(super) tokens: Arc<Tokens>,
    pub(super) template: Template,
    /// What stands for images, if the model takes them.
    pub(super) placeholder: Option<Placeholder>,
    defaults: Defaults,
    /// Tokens that end an answer.
    ends: Vec<u32>,
    /// Made when the first answer has to be of a form.
    grammars: OnceLock<Option<Grammars>>,
    counters: Arc<Counters>,
    pub(super) queue: Arc<Queue<Work>>,
}

impl Chat {
    /// What an answer has to be, if it is not free, and the text of that. If all of it
    /// costs too much, schemas that need not be followed are left out.
    fn constrain(
        &self,
        request: &Request,
        style: Option<&Style>,
    ) -> Result<Option<(String, Grammar)>, RequestError> {
        let constrain = |tools: &Tools| {
            let Some(form) = Form::of(&request.format, tools, style)? else {
                return Ok(None);
            };
            let text = form.text().to_owned();
            Ok(Some((text, self.compile(form)?)))
        };
        constrain(&request.tools).or_else(|error| match request.tools.lenient() {
            Some(tools) => constrain(&tools),
            None => Err(error),
        })
    }

    fn compile(&self, form: Form) -> Result<Grammar, RequestError> {
        let grammars = self
            .grammars
            .get_or_init(|| Grammars::new(&self.tokens, &self.ends));
        let grammars = grammars.as_ref().ok_or(RequestError::Tokenize)?;
        grammars.compile(form)
    }
}

/// What a request comes to, before anything is chosen.
#[derive(Clone)]
struct Read {
    style: Option<&'static Style>,
    /// The text of the grammar.
    form: Option<Zeroizing<String>>,
    grammar: Option<Grammar>,
    prompt: Zeroizing<Vec<u32>>,
}

impl Engine {
    /// Queues an answer. Tokenises its prompt here, which takes milliseconds for a
    /// long one, so that a request that cannot be answered fails at once.
    pub fn answer(&self, request: Request) -> Result<Answer, RequestError> {
        let (chat, read) = self.read(&request)?;
        self.begin(chat, &request, read, 0)
    }

    /// So many answers to one request, whose seeds follow one another. If one is refused,
    /// so are all.
    pub fn answers(&self, request: &Request, count: u64) -> Result<Vec<Answer>, RequestError> {
        let (chat, read) = self.read(request)?;
        let answers = (0..count).map(|choice| self.begin(chat, request, read.clone(), choice));
        answers.collect()
    }

    /// What all answers to a request have in common.
    fn read(&self, request: &Request) -> Result<(&Chat, Read), RequestError> {
        let Kind::Chat(chat) = &self.kind else {
            return Err(self.wrong_task(Task::Chat));
        };
        request.check()?;
        check_room(&chat.queue, &request.tenant)?;
        let style = match request.tools.list.is_empty() {
            true => None,
            false => Some(chat.template.style.ok_or(RequestError::Tools)?),
        };
        let (form, grammar) = chat.constrain(request, style)?.unzip();
        let read = Read {
            style,
            form: form.map(Zeroizing::new),
            grammar,
            prompt: self.prompt(chat, request)?,
        };
        Ok((chat, read))
    }

    fn begin(
        &self,
        chat: &Chat,
        request: &Request,
        read: Read,
        choice: u64,
    ) -> Result<Answer, RequestError> {
        let (prompt, sights) =
            self.place(chat.placeholder.as_ref(), read.prompt, &request.prompt)?;
        let room = self.check_context(prompt.len(), request.max_tokens)?;
        let mut sampling = request.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(choice));
        let own_seed = sampling.seed.is_none();
        let sampler = chat.defaults.sampler(sampling, &prompt)?;
        let sampler = sampler.under(read.grammar);
        let deadline = Witness::deadline(request.witness.as_ref(), self.limits.time);
        let max_tokens = match &request.witness {
            Some(witness) => witness.allow(&prompt, request.max_tokens, room)?,
            None => request.max_tokens.unwrap_or(room),
        };
        let attended = request.witness.clone().map(|witness| Attended {
            executed: Executed {
                index: witness.ask(),
                prompt: prompt.clone(),
                images: sights.len(),
                form: read.form,
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
        let names = request.tools.list.iter().map(|tool| tool.name.clone());
        let (events, answer) = channel(chat.queue.clone());
        let job = Job {
            prompt,
            sights,
            max_tokens,
            sampler,
            attended,
            replay: None,
            stop: Stop::new(request.stop.clone()),
            logprobs: request.logprobs,
            deadline,
            events,
        };
        enqueue(&chat.queue, request.tenant.clone(), Work::New(job))?;
        Ok(Answer {
            events: Some(answer),
            calls: read.style.map(|style| Calls::new(style, names.collect())),
            ready: VecDeque::new(),
        })
    }

    /// The tokens of a prompt.
    fn prompt(&self, chat: &Chat, request: &Request) -> Result<Zeroizing<Vec<u32>>, RequestError> {
        let Chat {
            tokens, template, ..
        } = chat;
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
        let Kind::Chat(chat) = &self.kind else {
            return None;
        };
        chat.tokens.decode(tokens).map(Zeroizing::new)
    }

    /// Whether it would refuse whatever comes.
    pub fn is_full(&self) -> bool {
        self.kind.line().is_full()
    }

    /// What a chat model has done and is doing; of others, only what waits.
    pub fn activity(&self) -> Activity {
        let waiting = self.kind.line().waiting();
        match &self.kind {
            Kind::Chat(chat) => chat.counters.activity(waiting),
            _ => Counters::default().activity(waiting),
        }
    }

    /// Reads a prompt with an answer at once, and compares each token of the answer with
    /// the one that is chosen there. Blocks.
    pub fn replay(&self, replay: Replay) -> Result<Option<Difference>, ReplayError> {
        let Kind::Chat(chat) = &self.kind else {
            return Err(ReplayError::Request(self.wrong_task(Task::Chat)));
        };
        let Replay {
            prompt,
            answer,
            form,
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
            let grammar = form
                .map(|form| chat.compile(Form::again(form, chat.template.style)))
                .transpose()?;
            let sampler = chat.defaults.sampler(sampling, &prompt)?.under(grammar);
            let (outcome, pending) = oneshot::channel();
            // Held until the end, or nobody would want it.
            let (events, held) = channel(chat.queue.clone());
            let job = Job {
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
            enqueue(&chat.queue, Tenant::new(), Work::New(job))?;
            Ok((pending, held))
        };
        let (pending, _held) = job().map_err(ReplayError::Request)?;
        block_on(pending).unwrap_or(Err(ReplayError::Engine(EngineError::Stopped)))
    }
}
