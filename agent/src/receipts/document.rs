//! From what passed and what was executed to a receipt.

use attestation::aci::{
    Counted, Engine, Event, Executed, Forwarded, Hash, Json, JsonError, Opening, Output, Prompt,
    Receipt, Run, Sampling, SeedSource, Settings, VERSION, hash_ids,
};
use attestation::register::Digest256;
use inference::RequestError;
use zeroize::Zeroizing;

use super::ledger::{Count, Entry, Ledger};
use crate::api::{reason_name, unix_time};

/// One request and its answer, complete.
pub(super) struct Exchange<'a> {
    pub(super) id: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) received: Hash,
    pub(super) returned: Hash,
    pub(super) ledger: &'a Ledger,
}

impl Exchange<'_> {
    /// The receipt, but for its signature; and what opens it, if that is wanted.
    pub(super) fn receipt(
        &self,
        open: bool,
    ) -> Result<(Receipt, Option<Zeroizing<String>>), NoReceipt> {
        let entry = self.ledger.entry();
        let mut event_log = vec![Event::Received {
            body_hash: self.received,
        }];
        let mut opening = None;
        if let Some(entry) = &entry {
            let executed = entry.witness.take();
            let opened = opened(&executed)?;
            let forwarded = Zeroizing::new(opened.forwarded.canonical()?);
            event_log.push(Event::Forwarded {
                body_hash: Hash::of(forwarded.as_bytes()),
            });
            let Count { read, made } = self.ledger.count();
            let event = Executed {
                counted: entry.unit.map(|unit| Counted { unit, read, made }),
                ..event(entry, &executed, &opened)
            };
            let made = event.outputs.iter().map(|output| output.tokens);
            // An embedder reads each text, also one that it has just read.
            let texts = executed.iter().filter(|one| one.reason.is_none());
            let texts = texts.map(|one| wide(one.usage.prompt));
            let texts = texts.fold(0, u64::saturating_add);
            // What was promised is within what is paid for.
            self.ledger.charge(Count {
                read: event.prompt.tokens.max(texts),
                made: made.fold(0, u64::saturating_add),
            })?;
            event_log.push(Event::Executed(Box::new(event)));
            if open {
                opening = Some(Zeroizing::new(Json::of(&opened)?.canonical()));
            }
        }
        event_log.push(Event::Returned {
            body_hash: self.returned,
        });
        let receipt = Receipt {
            api_version: VERSION.into(),
            receipt_id: self.id.into(),
            chat_id: entry.as_ref().and_then(|entry| entry.chat_id.clone()),
            model: entry.map(|entry| entry.model.name),
            // Key and keyset are the signer's.
            workload_keyset_digest: Hash(Digest256::ZERO),
            key_id: String::new(),
            endpoint: self.endpoint.into(),
            method: "POST".into(),
            served_at: unix_time(),
            event_log,
        };
        Ok((receipt, opening))
    }
}

fn opened(executed: &[inference::Executed]) -> Result<Opening, NoReceipt> {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt).map_err(|_| NoReceipt::Random)?;
    let runs = executed.iter().map(|one| Run {
        prompt: one.prompt.to_vec(),
        images: wide(one.images),
        form: one.form.as_deref().cloned(),
        max_tokens: wide(one.max_tokens),
        stop: one.stop.clone(),
        settings: one.reason.map(|_| settings(&one.sampling)),
    });
    let answers = executed.iter().filter(|one| one.reason.is_some());
    Ok(Opening {
        forwarded: Forwarded {
            salt: Digest256::from_bytes(salt),
            runs: runs.collect(),
        },
        outputs: answers.map(|one| one.answer.to_vec()).collect(),
    })
}

fn event(entry: &Entry, executed: &[inference::Executed], opened: &Opening) -> Executed {
    let Forwarded { salt, .. } = &opened.forwarded;
    let first = executed.first();
    let answers = executed.iter().zip(0..);
    let outputs = answers.filter_map(|(one, index)| {
        Some(Output {
            index,
            tokens: wide(one.usage.completion),
            ids_hash: hash_ids(salt, [one.answer.as_slice()]),
            finish: reason_name(one.reason?).into(),
            seed: one.sampling.seed.unwrap_or_default().to_string(),
        })
    });
    let prompts = opened.forwarded.prompts();
    let read = prompts.clone().map(|ids| wide(ids.len()));
    Executed {
        model: entry.model.clone(),
        engine: Engine {
            version: env!("CARGO_PKG_VERSION").into(),
            kernels: entry.kernels.into(),
            device: if cfg!(feature = "cuda") {
                "cuda"
            } else {
                "cpu"
            }
            .into(),
            deterministic: entry.deterministic,
        },
        sampling: first.filter(|one| one.reason.is_some()).map(sampling),
        prompt: Prompt {
            tokens: read.fold(0, u64::saturating_add),
            cached: first.map_or(0, |one| wide(one.usage.cached)),
            ids_hash: hash_ids(salt, prompts),
        },
        outputs: outputs.collect(),
        counted: None,
        price: entry.price,
    }
}

fn settings(sampling: &inference::Sampling) -> Settings {
    let exact = |number: Option<f64>| number.unwrap_or_default().to_string();
    let biases = sampling.logit_bias.iter();
    Settings {
        temperature: exact(sampling.temperature),
        top_p: exact(sampling.top_p),
        top_k: wide(sampling.top_k.unwrap_or_default()),
        min_p: exact(sampling.min_p),
        repetition_penalty: exact(sampling.repetition_penalty),
        presence_penalty: exact(sampling.presence_penalty),
        frequency_penalty: exact(sampling.frequency_penalty),
        logit_bias: biases
            .map(|(token, bias)| (token.to_string(), bias.to_string()))
            .collect(),
        seed: sampling.seed.unwrap_or_default().to_string(),
    }
}

fn sampling(one: &inference::Executed) -> Sampling {
    let sampling = &one.sampling;
    Sampling {
        temperature_e6: millionths(sampling.temperature),
        top_p_e6: millionths(sampling.top_p),
        top_k: wide(sampling.top_k.unwrap_or_default()),
        min_p_e6: millionths(sampling.min_p),
        repetition_penalty_e6: millionths(sampling.repetition_penalty),
        presence_penalty_e6: millionths(sampling.presence_penalty),
        frequency_penalty_e6: millionths(sampling.frequency_penalty),
        logit_bias: wide(sampling.logit_bias.len()),
        seed_source: match one.own_seed {
            true => SeedSource::Engine,
            false => SeedSource::Client,
        },
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "settings are small, and were checked"
)]
fn millionths(number: Option<f64>) -> i64 {
    (number.unwrap_or_default() * 1e6).round() as i64
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoReceipt {
    /// A number beyond what JSON can say.
    #[error("cannot write it")]
    Document(#[from] JsonError),
    /// The engine's own defect.
    #[error("more was executed than is paid for")]
    Unpaid(#[from] RequestError),
    /// The system gives none.
    #[error("no randomness")]
    Random,
}
