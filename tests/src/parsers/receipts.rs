//! A receipt, the keys that it names, and what opens it.

use attestation::aci::{Event, Forwarded, Hash, Json, Keyset, Opening, Receipt, Run, VERSION};
use attestation::register::Digest256;

/// With so many events. Nobody has signed it: its reader is before the signature.
pub(super) fn receipt(events: usize) -> Vec<u8> {
    let event = Event::Returned {
        body_hash: Hash::of(b"body"),
    };
    let receipt = Receipt {
        api_version: VERSION.into(),
        receipt_id: "rcpt-1".into(),
        chat_id: None,
        model: Some("tiny".into()),
        workload_keyset_digest: Hash::of(b"keyset"),
        endpoint: "/v1/embeddings".into(),
        method: "POST".into(),
        served_at: 1,
        event_log: vec![event; events],
        key_id: Keyset::RECEIPTS.into(),
    };
    receipt.with(&[7; 64]).expect("is JSON").into()
}

pub(super) fn keyset() -> Vec<u8> {
    let keyset = Keyset::new(&[1; 32], &[2; 1216], &Digest256::ZERO, 2).expect("is a keyset");
    keyset.text().into()
}

/// Of so many tokens.
pub(super) fn opening(tokens: usize) -> Vec<u8> {
    let run = Run {
        prompt: vec![7; tokens],
        images: 0,
        form: Some("start: /[ab]/".into()),
        max_tokens: 1,
        stop: vec!["end".into()],
        settings: None,
    };
    let opening = Opening {
        forwarded: Forwarded {
            salt: Digest256::ZERO,
            runs: vec![run],
        },
        outputs: vec![vec![1, 2]],
    };
    Json::of(&opening).expect("is JSON").canonical().into()
}
