//! One receipt: a list of events, signed.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use super::json::{Json, JsonError};
use super::keyset::Keyset;
use super::{Hash, VERSION};

/// What happened for one request (section 7.3).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Receipt {
    /// [`VERSION`].
    pub api_version: String,
    /// Where it can be had.
    pub receipt_id: String,
    /// `id` of the response, where that has one.
    pub chat_id: Option<String>,
    /// As it was asked for.
    pub model: Option<String>,
    /// Whose keys sign it.
    pub workload_keyset_digest: Hash,
    /// Path.
    pub endpoint: String,
    /// Of HTTP.
    pub method: String,
    /// Unix time, by a clock that the host sets.
    pub served_at: u64,
    /// In order.
    pub event_log: Vec<Event>,
    /// Name of the key in the keyset.
    pub key_id: String,
}

/// One event (section 7.4).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "type")]
pub enum Event {
    /// The bytes that came.
    #[serde(rename = "request.received")]
    Received {
        /// Of the whole body.
        body_hash: Hash,
    },
    /// What the model was given.
    #[serde(rename = "request.forwarded")]
    Forwarded {
        /// Of the canonical [`Forwarded`](super::Forwarded).
        body_hash: Hash,
    },
    /// What the model did.
    #[serde(rename = "inference.executed.v1")]
    Executed(Box<Executed>),
    /// The bytes that went.
    #[serde(rename = "response.returned")]
    Returned {
        /// Of the whole body; of a stream with its framing.
        body_hash: Hash,
    },
    /// Somebody else's.
    #[serde(other)]
    Other,
}

/// Model, engine, settings and counts. What is not there is not known.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Executed {
    /// Which one.
    pub model: Model,
    /// What computed.
    pub engine: Engine,
    /// How tokens were chosen; nothing of an embedder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    /// What was read.
    pub prompt: Prompt,
    /// What was said.
    pub outputs: Vec<Output>,
    /// What was done where no tokens are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
    /// Nanotons for a million tokens, where vouchers paid them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<u64>,
}

/// A model, by its digests.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Model {
    /// As in the measured configuration.
    pub name: String,
    /// Root hash of its disk: `verity-sha256:` and hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Of `manifest.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Hash>,
    /// Of `tokenizer.json`, or of what stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Hash>,
    /// Of the template's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<Hash>,
    /// How most of its numbers are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant: Option<String>,
}

/// What computed. The code is what the keyset's evidence measures.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Engine {
    /// Of the program.
    pub version: String,
    /// Instructions that its kernels use; they change no bit.
    pub kernels: String,
    /// `cpu` or `cuda`.
    pub device: String,
    /// Whether the same tokens come out whenever this is computed again, on a processor
    /// wherever.
    pub deterministic: bool,
}

/// How tokens were chosen, in millionths; the exact numbers are in the opening.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "named as the parameters of a request")]
pub struct Sampling {
    pub temperature_e6: i64,
    pub top_p_e6: i64,
    pub top_k: u64,
    pub min_p_e6: i64,
    pub repetition_penalty_e6: i64,
    pub presence_penalty_e6: i64,
    pub frequency_penalty_e6: i64,
    /// Tokens with a bias.
    pub logit_bias: u64,
    /// Who chose the seeds.
    pub seed_source: SeedSource,
}

/// Who chose a seed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SeedSource {
    /// It is in the request.
    Client,
    /// It was made up.
    Engine,
}

/// What was read, each prompt once.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Prompt {
    /// As the engine counted them.
    pub tokens: u64,
    /// Those of them that had been read before.
    pub cached: u64,
    /// See [`hash_ids`](super::hash_ids).
    pub ids_hash: Hash,
}

/// One answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Output {
    /// Which one.
    pub index: u64,
    /// As the engine counted them, one that ended the answer included.
    pub tokens: u64,
    /// See [`hash_ids`](super::hash_ids).
    pub ids_hash: Hash,
    /// `stop` or `length`.
    pub finish: String,
    /// Decimal u64: more than other readers' integers hold.
    pub seed: String,
}

/// What is counted, and paid, as tokens are.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counted {
    /// Of what.
    pub unit: Unit,
    /// As many were read.
    pub read: u64,
    /// As many were made.
    pub made: u64,
}

/// What stands for a token.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// An image that is seen.
    Image,
    /// 20 ms of sound.
    #[serde(rename = "sound_20ms")]
    Sound,
    /// A step of an image that is drawn.
    Step,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { unit, read, made } = self;
        let unit = match unit {
            Unit::Image => "images",
            Unit::Sound => "times 20 ms of sound",
            Unit::Step => "steps of images",
        };
        write!(f, "{unit}: {read} read, {made} made")
    }
}

impl Receipt {
    /// The document without its signature: what is signed (section 7.2).
    pub fn unsigned(&self) -> Result<String, JsonError> {
        Ok(Json::of(self)?.canonical())
    }

    /// The document with it.
    pub fn with(&self, signature: &[u8; 64]) -> Result<String, JsonError> {
        let mut json = Json::of(self)?;
        if let Json::Object(members) = &mut json {
            let signature = Json::Text(hex::encode(signature));
            members.insert(SIGNATURE.into(), signature);
        }
        Ok(json.canonical())
    }

    /// What the worker read.
    #[must_use]
    pub fn received(&self) -> Option<Hash> {
        self.event_log.iter().find_map(|event| match event {
            Event::Received { body_hash } => Some(*body_hash),
            _ => None,
        })
    }

    /// What the model was given.
    #[must_use]
    pub fn forwarded(&self) -> Option<Hash> {
        self.event_log.iter().find_map(|event| match event {
            Event::Forwarded { body_hash } => Some(*body_hash),
            _ => None,
        })
    }

    /// What the model did.
    #[must_use]
    pub fn executed(&self) -> Option<&Executed> {
        self.event_log.iter().find_map(|event| match event {
            Event::Executed(executed) => Some(&**executed),
            _ => None,
        })
    }

    /// What the worker wrote.
    #[must_use]
    pub fn returned(&self) -> Option<Hash> {
        self.event_log.iter().find_map(|event| match event {
            Event::Returned { body_hash } => Some(*body_hash),
            _ => None,
        })
    }
}

/// A receipt that somebody shows: nothing in it counts yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signed {
    unsigned: String,
    signature: [u8; 64],
    receipt: Receipt,
}

impl Signed {
    /// Reads a document.
    pub fn parse(text: &[u8]) -> Result<Self, ReceiptError> {
        let Json::Object(mut members) = Json::parse(text)? else {
            return Err(ReceiptError::Signature);
        };
        let Some(Json::Text(digits)) = members.remove(SIGNATURE) else {
            return Err(ReceiptError::Signature);
        };
        let mut signature = [0; 64];
        let lower = !digits.bytes().any(|byte| byte.is_ascii_uppercase());
        hex::decode_to_slice(&digits, &mut signature)
            .ok()
            .filter(|()| lower)
            .ok_or(ReceiptError::Signature)?;
        let json = Json::Object(members);
        Ok(Self {
            receipt: json.read()?,
            unsigned: json.canonical(),
            signature,
        })
    }

    /// The keyset that it names; to be found, and not to be believed.
    #[must_use]
    pub const fn keyset(&self) -> &Hash {
        &self.receipt.workload_keyset_digest
    }

    /// Checks it under a keyset whose digest was found in evidence (section 9.3).
    pub fn verify(self, keyset: &Keyset) -> Result<Receipt, ReceiptError> {
        let receipt = self.receipt;
        if receipt.api_version != VERSION {
            return Err(ReceiptError::Version {
                found: receipt.api_version,
            });
        }
        if receipt.workload_keyset_digest != *keyset.digest() {
            return Err(ReceiptError::Keyset {
                found: receipt.workload_keyset_digest,
                expected: *keyset.digest(),
            });
        }
        let Some(key) = keyset.receipt_key(&receipt.key_id) else {
            return Err(ReceiptError::Key {
                name: receipt.key_id,
            });
        };
        UnparsedPublicKey::new(&ED25519, key)
            .verify(self.unsigned.as_bytes(), &self.signature)
            .map_err(|_| ReceiptError::Forged)?;
        if receipt.served_at > keyset.not_after() {
            return Err(ReceiptError::Late {
                served_at: receipt.served_at,
                not_after: keyset.not_after(),
            });
        }
        receipt.in_order()
    }
}

impl Receipt {
    /// One request first, one response last, and neither twice (section 7.4).
    fn in_order(self) -> Result<Self, ReceiptError> {
        let count =
            |kind: fn(&Event) -> bool| self.event_log.iter().filter(|event| kind(event)).count();
        let first = matches!(self.event_log.first(), Some(Event::Received { .. }));
        let last = matches!(self.event_log.last(), Some(Event::Returned { .. }));
        let once = count(|event| matches!(event, Event::Received { .. })) == 1
            && count(|event| matches!(event, Event::Returned { .. })) == 1
            && count(|event| matches!(event, Event::Forwarded { .. })) <= 1
            && count(|event| matches!(event, Event::Executed(_))) <= 1;
        match first && last && once {
            true => Ok(self),
            false => Err(ReceiptError::Events),
        }
    }
}

const SIGNATURE: &str = "signature";

/// Why a receipt shows nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReceiptError {
    /// Events that a worker does not write so.
    #[error("the event log is not one request, what was done, and one response")]
    Events,
    /// By another key, or not what was signed.
    #[error("the signature does not verify")]
    Forged,
    /// The keyset has no such key.
    #[error("key {name:?} is not in the keyset")]
    Key {
        /// As in the receipt.
        name: String,
    },
    /// Of another worker, or another time.
    #[error("the keyset is {found}, expected {expected}")]
    Keyset {
        /// As in the receipt.
        found: Hash,
        /// As in the evidence.
        expected: Hash,
    },
    /// The keys did not count any more.
    #[error("served at {served_at}, expected {not_after} at the latest")]
    Late {
        /// By the receipt.
        served_at: u64,
        /// By the keyset.
        not_after: u64,
    },
    /// Another form.
    #[error("no receipt")]
    Malformed(#[from] JsonError),
    /// Absent, or no 64 bytes.
    #[error("no signature of 128 lower-case hex digits")]
    Signature,
    /// Not one that we know.
    #[error("the version is {found:?}, expected {VERSION:?}")]
    Version {
        /// As in the receipt.
        found: String,
    },
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::aci::{Forwarded, Opening, Run, Settings, hash_ids};
    use crate::register::Digest256;
    use alloc::format;
    use alloc::string::ToString as _;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use proptest::prelude::*;

    fn key() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap()
    }

    fn keyset() -> Keyset {
        let public = key().public_key().as_ref().try_into().unwrap();
        Keyset::new(&public, &[], &Digest256::ZERO, 2_000_000_000).unwrap()
    }

    /// Of two answers to one prompt.
    pub(in crate::aci) fn opening() -> Opening {
        let run = |seed: &str| Run {
            prompt: [1, 2, 3].into(),
            images: 0,
            form: Some("start: /[ab]/".into()),
            max_tokens: 2,
            stop: ["end".into()].into(),
            settings: Some(Settings {
                temperature: "0.7".into(),
                top_p: "1".into(),
                top_k: 0,
                min_p: "0".into(),
                repetition_penalty: "1".into(),
                presence_penalty: "0".into(),
                frequency_penalty: "0".into(),
                logit_bias: [("5".into(), "-1.5".into())].into(),
                seed: seed.into(),
            }),
        };
        Opening {
            forwarded: Forwarded {
                salt: Digest256::from_bytes([9; 32]),
                runs: [run("7"), run("8")].into(),
            },
            outputs: [[4, 5].into(), [6].into()].into(),
        }
    }

    pub(in crate::aci) fn receipt() -> Receipt {
        let opening = opening();
        let Forwarded { salt, .. } = opening.forwarded;
        let output = |(index, ids): (u64, &Vec<u32>)| Output {
            index,
            tokens: u64::try_from(ids.len()).unwrap(),
            ids_hash: hash_ids(&salt, [ids.as_slice()]),
            finish: "stop".into(),
            seed: "7".into(),
        };
        let executed = Executed {
            model: Model {
                name: "tiny".into(),
                root: Some("verity-sha256:00".into()),
                ..Model::default()
            },
            engine: Engine {
                version: "1".into(),
                kernels: "portable".into(),
                device: "cpu".into(),
                deterministic: true,
            },
            sampling: None,
            prompt: Prompt {
                tokens: 3,
                cached: 0,
                ids_hash: hash_ids(&salt, opening.forwarded.prompts()),
            },
            outputs: (0..).zip(&opening.outputs).map(output).collect(),
            counted: None,
            price: None,
        };
        let forwarded = opening.forwarded.canonical().unwrap();
        Receipt {
            api_version: VERSION.into(),
            receipt_id: "rcpt-1".into(),
            chat_id: None,
            model: Some("tiny".into()),
            workload_keyset_digest: *keyset().digest(),
            endpoint: "/v1/chat/completions".into(),
            method: "POST".into(),
            served_at: 1_900_000_000,
            event_log: [
                Event::Received {
                    body_hash: Hash::of(b"request"),
                },
                Event::Forwarded {
                    body_hash: Hash::of(forwarded.as_bytes()),
                },
                Event::Executed(executed.into()),
                Event::Returned {
                    body_hash: Hash::of(b"response"),
                },
            ]
            .into(),
            key_id: Keyset::RECEIPTS.into(),
        }
    }

    fn sign(receipt: &Receipt) -> String {
        let signature = key().sign(receipt.unsigned().unwrap().as_bytes());
        receipt
            .with(signature.as_ref().try_into().unwrap())
            .unwrap()
    }

    fn verify(text: &str) -> Result<Receipt, ReceiptError> {
        Signed::parse(text.as_bytes())?.verify(&keyset())
    }

    #[test]
    fn a_receipt_counts_in_any_encoding() {
        let text = sign(&receipt());
        assert_eq!(verify(&text), Ok(receipt()));
        assert_eq!(verify(&text.replace(',', " ,\n\t")), Ok(receipt()));
    }

    #[test]
    fn events_of_others_are_signed_and_passed_over() {
        let mut json = Json::of(&receipt()).unwrap();
        let Json::Object(members) = &mut json else {
            panic!("no object")
        };
        let Some(Json::List(events)) = members.get_mut("event_log") else {
            panic!("no list")
        };
        events.insert(
            1,
            Json::parse(br#"{"type":"route.chosen","to":"here"}"#).unwrap(),
        );
        let signature = hex::encode(key().sign(json.canonical().as_bytes()));
        let Json::Object(members) = &mut json else {
            panic!("no object")
        };
        members.insert("signature".into(), Json::Text(signature));
        let text = json.canonical();
        assert_eq!(verify(&text).unwrap().event_log[1], Event::Other);
        assert_eq!(
            verify(&text.replace("here", "there")),
            Err(ReceiptError::Forged)
        );
    }

    #[test]
    fn each_thing_that_is_changed_is_refused() {
        let text = sign(&receipt());
        for (from, to) in [
            ("\"tokens\":3", "\"tokens\":2"),
            ("\"tokens\":2", "\"tokens\":1"),
            ("verity-sha256:00", "verity-sha256:01"),
            ("\"seed\":\"7\"", "\"seed\":\"8\""),
            ("1900000000", "1900000001"),
            ("\"finish\":\"stop\"", "\"finish\":\"length\""),
            ("tiny", "tony"),
        ] {
            assert_ne!(text.replacen(from, to, 1), text, "{from}");
            assert_eq!(
                verify(&text.replacen(from, to, 1)),
                Err(ReceiptError::Forged),
                "{to}"
            );
        }
        let version = text.replace("aci/1", "aci/2");
        assert_eq!(
            verify(&version),
            Err(ReceiptError::Version {
                found: "aci/2".into()
            })
        );
        let name = text.replace("receipt-1", "receipt-2");
        assert_eq!(
            verify(&name),
            Err(ReceiptError::Key {
                name: "receipt-2".into()
            })
        );
        let signature = text.replace("\"signature\":\"", "\"signature\":\"00");
        assert_eq!(verify(&signature), Err(ReceiptError::Signature));
        let other = Keyset::new(&[1; 32], &[], &Digest256::ZERO, 2_000_000_000).unwrap();
        let found = *keyset().digest();
        let expected = *other.digest();
        assert_eq!(
            Signed::parse(text.as_bytes()).unwrap().verify(&other),
            Err(ReceiptError::Keyset { found, expected })
        );
    }

    #[test]
    fn a_signed_log_without_one_request_and_one_response_is_refused() {
        let log = receipt().event_log;
        let twice = [&log[..], &log[3..]].concat();
        let done = [&log[..3], &log[2..]].concat();
        let backwards = log.iter().rev().cloned().collect();
        for event_log in [
            Vec::new(),
            log[1..].to_vec(),
            log[..3].to_vec(),
            twice,
            done,
            backwards,
        ] {
            let other = sign(&Receipt {
                event_log,
                ..receipt()
            });
            assert_eq!(verify(&other), Err(ReceiptError::Events));
        }
    }

    #[test]
    fn a_receipt_of_an_expired_keyset_is_refused() {
        let late = sign(&Receipt {
            served_at: 2_000_000_001,
            ..receipt()
        });
        let expected = ReceiptError::Late {
            served_at: 2_000_000_001,
            not_after: 2_000_000_000,
        };
        assert_eq!(verify(&late), Err(expected));
    }

    #[test]
    fn every_proper_prefix_is_refused() {
        let text = sign(&receipt());
        for cut in 0..text.len() {
            assert!(Signed::parse(&text.as_bytes()[..cut]).is_err(), "{cut}");
        }
        let error = Signed::parse(b"{").unwrap_err();
        assert_eq!(error.to_string(), "no receipt");
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_never_the_same_receipt(at: prop::sample::Index, to: u8) {
            let mut text = sign(&receipt()).into_bytes();
            let at = at.index(text.len());
            prop_assume!(text[at] != to);
            text[at] = to;
            let read = Signed::parse(&text).and_then(|signed| signed.verify(&keyset()));
            prop_assert!(read.is_err(), "{}", format!("{read:?}"));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _read = (Signed::parse(&bytes), Keyset::parse(&bytes), Opening::parse(&bytes));
        }
    }
}
