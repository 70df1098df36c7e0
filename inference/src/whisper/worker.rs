//! The thread that transcribes, one sound at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Tensor;
use futures_channel::oneshot::Sender;
use media::Audio;
use zeroize::Zeroizing;

use super::features::HOP;
use super::transcript::{Segment, Transcript};
use super::vocabulary::Vocabulary;
use super::{Whisper, rules, segment};
use crate::deadline::Deadline;
use crate::engine::turn;
use crate::error::EngineError;
use crate::kernel::pool::Pool;
use crate::linear::{blame, is_lost};
use crate::queue::Queue;
use crate::sampler::{Sampler, Settings};
use crate::tokens::Tokens;

/// A sound to be written down.
pub(crate) struct Job {
    pub(crate) audio: Audio,
    /// Tokens of text that came before.
    pub(crate) prompt: Zeroizing<Vec<u32>>,
    /// Its token; found out if `None` and the model knows several.
    pub(crate) language: Option<u32>,
    pub(crate) translate: bool,
    pub(crate) temperature: f64,
    pub(crate) times: bool,
    pub(crate) seed: u64,
    pub(crate) deadline: Deadline,
    pub(crate) result: Sender<Result<Transcript, EngineError>>,
}

/// What works.
pub(crate) struct Worker {
    pub(crate) model: Whisper,
    pub(crate) pool: Pool,
    pub(crate) vocabulary: Arc<Vocabulary>,
    pub(crate) tokens: Arc<Tokens>,
}

impl Worker {
    /// Works until the queue is closed and empty, or the device is lost.
    pub(crate) fn run(mut self, queue: &Queue<Job>) {
        while queue.wait() {
            queue.retain(|job| !job.result.is_canceled());
            if let Some((_, job)) = queue.pop(|_| 0, |_, _| true) {
                let result = self.transcribe(&job).map_err(blame);
                // Whoever asked may be gone.
                drop(job.result.send(result));
                if is_lost() {
                    return;
                }
            }
        }
    }

    pub(super) fn transcribe(&mut self, job: &Job) -> Result<Transcript, EngineError> {
        let samples = job.audio.samples();
        let window = self.model.window;
        let features = {
            let _turn = turn();
            self.model.extractor.features(samples, window)
        };
        let features = features.map_err(fault)?;
        let frames = samples.len().div_ceil(HOP);
        let times = job.times || frames > window;
        let mut language = job.language;
        let mut segments = Vec::new();
        let mut seek = 0_usize;
        while seek < frames {
            let length = frames.saturating_sub(seek).min(window);
            let states = self.encode(&features, seek)?;
            if language.is_none() && self.vocabulary.multilingual() {
                language = Some(self.detect(job, &states)?);
            }
            let mut prompt = Zeroizing::new(Vec::new());
            if let (0, false, Some(before)) = (seek, job.prompt.is_empty(), self.vocabulary.before)
            {
                prompt.push(before);
                // The latest half of what the decoder can see.
                let room = (self.model.context / 2).saturating_sub(1);
                let skip = job.prompt.len().saturating_sub(room);
                prompt.extend(job.prompt.iter().skip(skip));
            }
            let start = prompt.len();
            prompt.push(self.vocabulary.start);
            if let (Some(language), Some(tasks)) = (language, self.vocabulary.tasks) {
                let task = if job.translate {
                    tasks.translate
                } else {
                    tasks.transcribe
                };
                prompt.extend([language, task]);
            }
            if !times {
                prompt.push(self.vocabulary.no_times);
            }
            let heard = self.decode(job, &states, &prompt, start, times, seek)?;
            let (pieces, resume) = segment::cut(&heard.tokens, self.vocabulary.times(), length);
            for piece in pieces {
                let tokens = heard.tokens.get(piece.tokens).unwrap_or_default();
                segments.push(Segment {
                    seek: moment(seek),
                    start: moment(seek.saturating_add(piece.start)),
                    end: moment(seek.saturating_add(piece.end)),
                    text: self.text(tokens)?,
                    tokens: tokens.to_vec(),
                    mean_logprob: heard.mean_logprob,
                    no_speech: heard.no_speech,
                });
            }
            seek = seek.saturating_add(resume.max(1));
        }
        let code = |token| {
            let mut languages = self.vocabulary.languages.iter();
            languages
                .find(|(_, id)| **id == token)
                .map(|(code, _)| code.clone())
        };
        Ok(Transcript {
            language: language.and_then(code),
            duration: job.audio.duration(),
            segments,
        })
    }

    /// The states of the window that begins at `seek`.
    fn encode(&mut self, features: &Tensor, seek: usize) -> Result<Tensor, EngineError> {
        let _turn = turn();
        let window = self.model.window;
        let mut states = || {
            let left = features.dim(1)?.saturating_sub(seek).min(window);
            let features = features.narrow(1, seek, left)?;
            let features = features.pad_with_zeros(1, 0, window.saturating_sub(left))?;
            self.model.encoder.forward(&mut self.pool, &features)
        };
        states().map_err(fault)
    }

    /// The likeliest language.
    fn detect(&mut self, job: &Job, states: &Tensor) -> Result<u32, EngineError> {
        check(job)?;
        let _turn = turn();
        let start = [self.vocabulary.start];
        let mut said = self
            .model
            .decoder
            .begin(&mut self.pool, states)
            .map_err(fault)?;
        let logits = self.model.decoder.read(&mut self.pool, &mut said, &start);
        let logits = logits.map_err(fault)?.pop().unwrap_or_default();
        let logit = |token: u32| usize::try_from(token).ok().and_then(|at| logits.get(at));
        let languages = self.vocabulary.languages.values().copied();
        let languages = languages.filter_map(|token| logit(token).map(|logit| (token, *logit)));
        languages
            .max_by(|(a, x), (b, y)| x.total_cmp(y).then(b.cmp(a)))
            .map(|(token, _)| token)
            .ok_or(EngineError::Fault)
    }

    fn decode(
        &mut self,
        job: &Job,
        states: &Tensor,
        prompt: &[u32],
        start: usize,
        times: bool,
        seek: usize,
    ) -> Result<Heard, EngineError> {
        let settings = Settings {
            temperature: job.temperature,
            ..Settings::default()
        };
        let seed = job.seed.wrapping_add(u64::try_from(seek).unwrap_or(0));
        let mut sampler = Sampler::new(settings, seed, &[]);
        let mut said = {
            let _turn = turn();
            self.model
                .decoder
                .begin(&mut self.pool, states)
                .map_err(fault)?
        };
        let mut next = prompt.to_vec();
        let mut heard = Heard::default();
        let mut sum = 0.0;
        let room = self.model.context.saturating_sub(prompt.len());
        while heard.tokens.len() < room {
            check(job)?;
            let logits = {
                let _turn = turn();
                self.model.decoder.read(&mut self.pool, &mut said, &next)
            };
            let mut logits = logits.map_err(fault)?;
            if heard.tokens.is_empty() {
                let logits = logits.get(start).map(Vec::as_slice).unwrap_or_default();
                heard.no_speech = libm::exp(logprob(logits, self.vocabulary.no_speech));
            }
            let mut logits = logits.pop().unwrap_or_default();
            rules::apply(&self.vocabulary, times, &heard.tokens, &mut logits);
            let token = sampler.next(self.pool.cpu(), &mut logits)?;
            sum += logprob(&logits, token);
            if token == self.vocabulary.end {
                break;
            }
            heard.tokens.push(token);
            next = vec![token];
        }
        let count = u32::try_from(heard.tokens.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        heard.mean_logprob = sum / f64::from(count);
        Ok(heard)
    }

    /// What tokens say, without times.
    fn text(&self, tokens: &[u32]) -> Result<String, EngineError> {
        let text = tokens.iter().copied();
        let text = text.filter(|token| self.vocabulary.is_text(*token));
        let text: Zeroizing<Vec<u32>> = Zeroizing::new(text.collect());
        self.tokens.decode(&text).ok_or(EngineError::Fault)
    }
}

/// What one window says.
#[derive(Default)]
struct Heard {
    tokens: Vec<u32>,
    mean_logprob: f64,
    no_speech: f64,
}

/// Whether to go on.
fn check(job: &Job) -> Result<(), EngineError> {
    job.deadline.check(Instant::now())?;
    match job.result.is_canceled() {
        true => Err(EngineError::Stopped),
        false => Ok(()),
    }
}

/// The logarithm of a token's probability.
fn logprob(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| libm::exp(f64::from(*x - most))).sum();
    let logit = usize::try_from(token).ok().and_then(|at| logits.get(at));
    logit.map_or(f64::NEG_INFINITY, |x| f64::from(*x - most) - libm::log(sum))
}

/// When a frame begins.
fn moment(frame: usize) -> Duration {
    Duration::from_millis(u64::try_from(frame).unwrap_or(u64::MAX).saturating_mul(10))
}

fn fault(_: candle_core::Error) -> EngineError {
    EngineError::Fault
}
