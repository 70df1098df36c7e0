//! Engines that write down what is said.

use std::sync::Arc;

use futures_channel::oneshot;
use zeroize::Zeroizing;

use super::{Engine, HEAVY, Kind, Limits, Loaded, Task, enqueue, run};
use crate::answer::Pending;
use crate::deadline::Deadline;
use crate::error::{LoadError, RequestError};
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::queue::Queue;
use crate::tokens::Tokens;
use crate::whisper::{Job, Transcript, TranscriptRequest, Vocabulary, Whisper, Worker};

/// What its requests need.
pub(super) struct Transcription {
    pub(super) tokens: Arc<Tokens>,
    vocabulary: Arc<Vocabulary>,
    pub(super) queue: Arc<Queue<Job>>,
}

impl Transcription {
    pub(super) fn load(
        mut pool: Pool,
        dir: &ModelDir,
        limits: &Limits,
    ) -> Result<Loaded, LoadError> {
        let model = Whisper::load(&mut pool, dir)?;
        let tokens = Arc::new(Tokens::load(dir, model.tokens())?);
        let vocabulary = model.vocabulary(dir, &tokens)?;
        let (tally, context) = (model.tally().clone(), model.context());
        let worker = Worker {
            model,
            pool,
            vocabulary: Arc::clone(&vocabulary),
            tokens: Arc::clone(&tokens),
        };
        Ok(Loaded {
            architecture: Whisper::ARCHITECTURE,
            tally,
            context,
            kind: Kind::Transcription(Self {
                tokens,
                vocabulary,
                queue: run(limits.queue.min(HEAVY), move |jobs| worker.run(jobs))?,
            }),
        })
    }
}

impl Engine {
    /// Queues a sound to be written down.
    pub fn transcribe(
        &self,
        request: TranscriptRequest,
    ) -> Result<Pending<Transcript>, RequestError> {
        let Kind::Transcription(Transcription {
            tokens,
            vocabulary,
            queue,
        }) = &self.kind
        else {
            return Err(self.wrong_task(Task::Transcription));
        };
        if !(0.0..=1.0).contains(&request.temperature) {
            return Err(RequestError::OutOfRange {
                parameter: "temperature",
                found: request.temperature.to_string(),
                expected: "0 to 1",
            });
        }
        if request.translate && !vocabulary.multilingual() {
            return Err(RequestError::OutOfRange {
                parameter: "model",
                found: "of one language".into(),
                expected: "one that translates",
            });
        }
        let language = match &request.language {
            Some(code) if vocabulary.multilingual() => {
                let token = vocabulary.language(code);
                Some(token.ok_or_else(|| unknown_language("a code of a language it knows"))?)
            }
            Some(code) if code != "en" => return Err(unknown_language("en")),
            _ => None,
        };
        let seed = match request.temperature {
            0.0 => 0,
            _ => getrandom::u64().map_err(|_| RequestError::NoRandomness)?,
        };
        let (result, pending) = oneshot::channel();
        let job = Job {
            audio: request.audio,
            prompt: self.previous(tokens, vocabulary, &request.prompt)?,
            language,
            translate: request.translate,
            temperature: request.temperature,
            times: request.times,
            seed,
            deadline: Deadline::after(self.limits.time),
            result,
        };
        enqueue(queue, request.tenant, job)?;
        Ok(Pending { result: pending })
    }

    /// Tokens of text that came before.
    fn previous(
        &self,
        tokens: &Tokens,
        vocabulary: &Vocabulary,
        text: &str,
    ) -> Result<Zeroizing<Vec<u32>>, RequestError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Zeroizing::default());
        }
        // Half of the context is used; more is cut, but not without end.
        if tokens.at_least(text.len()) > self.info.context.saturating_mul(8) {
            return Err(RequestError::OutOfRange {
                parameter: "prompt",
                found: format!("{} bytes", text.len()),
                expected: "a short text",
            });
        }
        let text = Zeroizing::new(format!(" {text}"));
        let mut prompt = tokens.encode_prompt(&tokens.disarm(&text))?;
        prompt.retain(|token| vocabulary.is_text(*token));
        Ok(prompt)
    }
}

fn unknown_language(expected: &'static str) -> RequestError {
    RequestError::OutOfRange {
        parameter: "language",
        found: "unknown to the model".into(),
        expected,
    }
}
