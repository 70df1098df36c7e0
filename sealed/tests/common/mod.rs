//! A request and its answer, the same each time.

use attestation::register::Digest256;
use sealed::{
    Envelope, Header, Opener, RequestHead, Responder, Response, ResponseHead, START, SecretKey,
    Settlement, SizeClass, seal,
};

/// The worker's key.
pub(crate) fn key() -> SecretKey {
    SecretKey::from_seed([7; 32]).unwrap()
}

/// Beside the request.
pub(crate) fn envelope() -> Envelope {
    Envelope {
        worker: key().public().id(),
        model: "tiny".into(),
        id: [9; 16],
        limit: 4096,
        price: 2_000_000,
        deadline_ms: 30_000,
        class: SizeClass::of(BODY.len()),
    }
}

/// What is asked for.
pub(crate) fn head() -> RequestHead {
    RequestHead {
        method: "POST".into(),
        path: "/v1/chat/completions".into(),
        headers: vec![Header("content-type".into(), "application/json".into())],
        tenant: [3; 32],
    }
}

/// And of what.
pub(crate) const BODY: &[u8] = br#"{"model":"tiny","messages":[]}"#;

/// As many chunks as parts; the last of them is the last.
pub(crate) fn request(parts: &[&[u8]], random: u8) -> (Vec<u8>, Response) {
    let (mut out, mut sealer, response) =
        seal(&key().public(), &envelope().encode(), [random; 64]).unwrap();
    let (last, before) = parts.split_last().unwrap();
    for part in before {
        sealer.chunk(part, &mut out).unwrap();
    }
    sealer.last(last, &mut out).unwrap();
    (out, response)
}

/// Opens the start of it.
pub(crate) fn open(request: &[u8]) -> (Opener, Responder) {
    key().open(&envelope().encode(), &request[..START]).unwrap()
}

/// What answers it, ending with [`settlement`].
pub(crate) fn answer(responder: Responder, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sealer = responder.start([5; 32], &mut out).unwrap();
    let (last, before) = parts.split_last().unwrap();
    for part in before {
        sealer.chunk(part, &mut out).unwrap();
    }
    sealer.last(last, &mut out).unwrap();
    out.extend(settlement().encode());
    out
}

/// The first chunk of an answer.
pub(crate) fn response_head() -> ResponseHead {
    ResponseHead {
        status: 200,
        headers: vec![Header("content-type".into(), "text/event-stream".into())],
    }
}

/// What follows an answer.
pub(crate) fn settlement() -> Settlement {
    Settlement {
        receipt: Digest256::of(b"cells").as_bytes().to_vec(),
        signature: [4; 64],
        tokens: 12,
    }
}

/// Where each chunk of a stream begins, whose chunks begin at `at`, and where they end.
pub(crate) fn chunks(stream: &[u8], mut at: usize) -> Vec<usize> {
    let mut places = vec![at];
    loop {
        let header = u32::from_be_bytes(stream[at..at + 4].try_into().unwrap());
        at += 4 + usize::try_from(header & 0x7fff_ffff).unwrap();
        places.push(at);
        if header >> 31 == 1 {
            return places;
        }
    }
}
