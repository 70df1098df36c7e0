//! What the receipt of an answer comes to on chain: one function.
//!
//! ```text
//! aci/1                          on chain
//! request.received, .returned    request, response
//! model.root                     model
//! prompt.tokens, all outputs     prompt_tokens, completion_tokens
//! served_at                      time
//! ```
//!
//! Channel, network, build and price are what payer and payee have agreed upon; a price
//! that the receipt names has to be that one.

use attestation::aci;
use attestation::register::Digest256;
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::receipt::{Receipt, Work};

/// What both sides know before an answer is given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// Which network.
    pub global_id: i32,
    /// Out of which it is paid.
    pub channel: StdAddr,
    /// For a million tokens.
    pub price: u64,
    /// As the Registry knows it.
    pub build: HashBytes,
}

impl Receipt {
    /// Of an answer whose receipt was verified; still to be signed in this form.
    pub fn of_answer(answer: &aci::Receipt, terms: &Terms) -> Result<Self, AnswerError> {
        let absent = |what| AnswerError::Absent { what };
        let executed = answer.executed().ok_or(absent("inference.executed.v1"))?;
        if let Some(found) = executed.price.filter(|price| *price != terms.price) {
            let expected = terms.price;
            return Err(AnswerError::Price { found, expected });
        }
        let root = executed.model.root.as_deref().ok_or(absent("model.root"))?;
        let root = root.strip_prefix("verity-sha256:").map(str::parse);
        let Some(Ok(model)) = root else {
            return Err(absent("model.root"));
        };
        let said = executed.outputs.iter().map(|output| output.tokens);
        let work = Work {
            model: hash(&model),
            build: terms.build,
            prompt_tokens: small("prompt.tokens", executed.prompt.tokens)?,
            completion_tokens: small("output.tokens", said.fold(0, u64::saturating_add))?,
        };
        let request = answer.received().ok_or(absent("request.received"))?;
        let response = answer.returned().ok_or(absent("response.returned"))?;
        Ok(Self {
            global_id: terms.global_id,
            channel: terms.channel.clone(),
            request: hash(&request.0),
            response: hash(&response.0),
            price: terms.price,
            time: small("served_at", answer.served_at)?,
            work: Lazy::new(&work)?,
        })
    }
}

fn hash(digest: &Digest256) -> HashBytes {
    HashBytes(*digest.as_bytes())
}

fn small(what: &'static str, found: u64) -> Result<u32, AnswerError> {
    u32::try_from(found).map_err(|_| AnswerError::TooLarge { what, found })
}

/// Why an answer has no place on chain.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AnswerError {
    /// Nothing to pay for, or not known of what.
    #[error("the receipt has no {what}")]
    Absent {
        /// Event or field.
        what: &'static str,
    },
    /// No such cell.
    #[error("a receipt that no cell holds")]
    Cell(#[from] Error),
    /// Another than was agreed.
    #[error("the price is {found}, expected {expected}")]
    Price {
        /// In the receipt.
        found: u64,
        /// Agreed.
        expected: u64,
    },
    /// Beyond 32 bits.
    #[error("{what} is {found}, expected less than 2^32")]
    TooLarge {
        /// Which number.
        what: &'static str,
        /// As in the receipt.
        found: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use attestation::aci::{Engine, Event, Executed, Hash, Model, Output, Prompt};

    fn executed() -> Executed {
        let output = |index, tokens| Output {
            index,
            tokens,
            ids_hash: Hash::of(b"ids"),
            finish: "stop".into(),
            seed: "0".into(),
        };
        Executed {
            model: Model {
                root: Some(format!("verity-sha256:{}", "01".repeat(32))),
                ..Model::default()
            },
            engine: Engine {
                version: String::new(),
                kernels: String::new(),
                device: "cpu".into(),
                deterministic: true,
            },
            sampling: None,
            prompt: Prompt {
                tokens: 900,
                cached: 800,
                ids_hash: Hash::of(b"ids"),
            },
            outputs: vec![output(0, 60), output(1, 40)],
            counted: None,
            price: None,
        }
    }

    fn convert(executed: Executed) -> Result<Receipt, AnswerError> {
        let answer = aci::Receipt {
            api_version: aci::VERSION.into(),
            receipt_id: String::new(),
            chat_id: None,
            model: None,
            workload_keyset_digest: Hash::of(b"keyset"),
            endpoint: String::new(),
            method: String::new(),
            served_at: 5,
            event_log: vec![
                Event::Received {
                    body_hash: Hash::of(b"request"),
                },
                Event::Executed(Box::new(executed)),
                Event::Returned {
                    body_hash: Hash::of(b"response"),
                },
            ],
            key_id: String::new(),
        };
        let terms = Terms {
            global_id: -239,
            channel: StdAddr::new(0, HashBytes([3; 32])),
            price: 2_000_000,
            build: HashBytes([2; 32]),
        };
        Receipt::of_answer(&answer, &terms)
    }

    #[test]
    fn hashes_counts_and_model_are_the_answers() {
        let receipt = convert(executed()).unwrap();
        assert_eq!(receipt.request, hash(&Digest256::of(b"request")));
        assert_eq!(receipt.response, hash(&Digest256::of(b"response")));
        assert_eq!((receipt.time, receipt.price), (5, 2_000_000));
        let work = receipt.work.load().unwrap();
        assert_eq!((work.prompt_tokens, work.completion_tokens), (900, 100));
        assert_eq!(work.model, HashBytes([1; 32]));
        assert_eq!(receipt.cost(), Some(2000));
        let same = convert(Executed {
            price: Some(2_000_000),
            ..executed()
        });
        assert_eq!(same, Ok(receipt));
    }

    #[test]
    fn what_cannot_be_paid_for_is_refused() {
        let model = |root: Option<&str>| Model {
            root: root.map(str::to_owned),
            ..Model::default()
        };
        let what = "model.root";
        for root in [None, Some("verity-sha256:01"), Some("sha256:01")] {
            let model = model(root);
            let refused = convert(Executed {
                model,
                ..executed()
            });
            assert_eq!(refused, Err(AnswerError::Absent { what }));
        }
        let price = Some(1);
        let refused = convert(Executed {
            price,
            ..executed()
        });
        let (found, expected) = (1, 2_000_000);
        assert_eq!(refused, Err(AnswerError::Price { found, expected }));
        let mut many = executed();
        many.outputs[1].tokens = u64::MAX;
        let refused = convert(many);
        let (what, found) = ("output.tokens", u64::MAX);
        assert_eq!(refused, Err(AnswerError::TooLarge { what, found }));
    }
}
