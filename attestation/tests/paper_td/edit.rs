//! Edits of a paper, made before whoever has to sign has signed.

use serde_json::Value;

use super::pki;
use super::{Built, Paper};

/// A stretch of something cut out and another put in; of a document, one value.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    place: u8,
    at: usize,
    cut: usize,
    put: Vec<u8>,
}

impl Edit {
    /// Reads edits from whatever a fuzzer or a random generator made up.
    pub(crate) fn read(mut bytes: &[u8]) -> Vec<Self> {
        let mut edits = Vec::new();
        while let [place, low, high, cut, len, rest @ ..] = bytes {
            let (put, after) = rest.split_at(rest.len().min((len % 9).into()));
            edits.push(Self {
                place: *place,
                at: u16::from_le_bytes([*low, *high]).into(),
                cut: (cut % 9).into(),
                put: put.into(),
            });
            bytes = after;
        }
        edits
    }

    fn splice(&self, bytes: &mut Vec<u8>) {
        let at = self.at % (bytes.len() + 1);
        let end = bytes.len().min(at + self.cut);
        drop(bytes.splice(at..end, self.put.iter().copied()));
    }

    /// Overwrites, so that lengths stay as they are.
    fn replace(&self, bytes: &mut [u8]) {
        let at = self.at % bytes.len();
        let places = bytes[at..].iter_mut().zip(&self.put);
        places.for_each(|(byte, new)| *byte = *new);
    }

    fn set(&self, document: &mut Value) {
        let mut values = Vec::new();
        leaves(document, &mut values);
        let count = values.len();
        let value = &mut values[self.at % count];
        let byte = self.put.first().copied().unwrap_or_default();
        **value = match &**value {
            Value::String(text) if byte < 0x20 => text.to_lowercase().into(),
            Value::String(text) => {
                let mut text: Vec<_> = text.chars().collect();
                let at = self.cut % text.len().max(1);
                text[at..]
                    .iter_mut()
                    .take(1)
                    .for_each(|old| *old = char::from(byte & 0x7f));
                text.into_iter().collect::<String>().into()
            }
            _ => byte.into(),
        };
    }
}

/// Signs a good paper of one of the three forms with these edits in it.
pub(crate) fn build(form: u8, edits: &[Edit]) -> Built {
    let mut paper = match form % 3 {
        0 => Paper::good(),
        1 => Paper::td15(),
        _ => Paper::td15_ex(),
    };
    let mut extension = paper_extension();
    for edit in edits {
        match edit.place % 10 {
            0 => edit.replace(&mut paper.header),
            1 | 2 => edit.replace(&mut paper.body),
            3 => edit.replace(&mut paper.qe_report),
            4 => edit.splice(&mut paper.qe_auth),
            5 => edit.splice(&mut extension),
            6 => paper.pck.serial = [&[1], &edit.put[..]].concat(),
            7 => edit.set(&mut paper.qe_identity),
            _ => edit.set(&mut paper.tcb_info),
        }
    }
    paper.pck.extensions[2] = pki::extension(pki::SGX, false, &extension);
    paper.build()
}

fn paper_extension() -> Vec<u8> {
    super::der::sequence(&pki::sgx_fields())
}

/// Everything in a document that holds nothing else.
fn leaves<'a>(value: &'a mut Value, found: &mut Vec<&'a mut Value>) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| leaves(value, found)),
        Value::Object(members) => members.values_mut().for_each(|value| leaves(value, found)),
        leaf => found.push(leaf),
    }
}
