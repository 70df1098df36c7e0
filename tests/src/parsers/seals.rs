//! What sealed requests, their answers, and the words around them take.

use attestation::register::Digest256;
use sealed::{
    Assignment, AssignmentRequest, ChunkError, Envelope, Header, Offer, OfferedModel, RequestHead,
    Responder, Response, ResponseHead, START, SecretKey, Settlement, SizeClass, Transcript, seal,
};

/// A request of so many chunks, and who hears its answer.
pub(super) fn request(chunks: usize) -> (Vec<u8>, Response) {
    let envelope = envelope().encode();
    let sealed = seal(&key().public(), &envelope, [1; 64]);
    let (mut bytes, mut sealer, response) = sealed.expect("seals");
    for _ in 0..chunks {
        sealer.chunk(b"chunk", &mut bytes).expect("seals");
    }
    sealer.last(b"end", &mut bytes).expect("seals");
    (bytes, response)
}

/// The worker's part.
pub(super) fn open(request: &[u8]) -> Result<Responder, Option<ChunkError>> {
    let (start, chunks) = request.split_at_checked(START).ok_or(None)?;
    let opened = key().open(&envelope().encode(), start);
    let (mut opener, responder) = opened.map_err(|_| None)?;
    opener.push(chunks).map_err(Some)?;
    opener.end().map_err(Some)?;
    Ok(responder)
}

/// An answer of so many chunks.
pub(super) fn response(chunks: usize) -> Vec<u8> {
    let responder = open(&request(1).0).expect("opens");
    let mut bytes = Vec::new();
    let mut sealer = responder.start([2; 32], &mut bytes).expect("seals");
    for _ in 0..chunks {
        sealer.chunk(b"chunk", &mut bytes).expect("seals");
    }
    sealer.last(b"end", &mut bytes).expect("seals");
    bytes.extend(settlement());
    bytes
}

/// The client's part, and that of who passes it on.
pub(super) fn hear(response: &[u8]) -> Result<(), ChunkError> {
    let mut listener = request(1).1;
    listener.push(response)?;
    let mut transcript = Transcript::response();
    transcript.push(response)?;
    assert_eq!(listener.end()?, transcript.end()?.1);
    Ok(())
}

pub(super) fn envelope() -> Envelope {
    Envelope {
        worker: key().public().id(),
        model: "tiny".into(),
        id: [9; 16],
        limit: 4096,
        price: 2_000_000,
        deadline_ms: 30_000,
        class: SizeClass::Small,
    }
}

/// With so many headers.
pub(super) fn head(headers: usize) -> RequestHead {
    RequestHead {
        method: "POST".into(),
        path: "/v1/chat/completions".into(),
        headers: vec![header(); headers],
        tenant: [3; 32],
    }
}

/// With so many headers.
pub(super) fn response_head(headers: usize) -> Vec<u8> {
    let head = ResponseHead {
        status: 200,
        headers: vec![header(); headers],
    };
    head.encode()
}

pub(super) fn settlement() -> Vec<u8> {
    let settlement = Settlement {
        receipt: vec![5; 200],
        signature: [6; 64],
        tokens: 7,
    };
    settlement.encode()
}

/// Of so many models.
pub(super) fn offer(models: usize) -> Vec<u8> {
    let model = OfferedModel {
        name: "tiny".into(),
        root: None,
        slots: 4,
        free: 3,
        queued: 0,
        tokens_per_second: 80,
        context: 4096,
        ask: 2_000_000,
    };
    let offer = Offer {
        worker: key().public().id(),
        draining: false,
        models: vec![model; models],
    };
    serde_json::to_vec(&offer).expect("is JSON")
}

/// What is asked, and what is answered.
pub(super) fn assignment() -> Vec<Vec<u8>> {
    let asked = AssignmentRequest {
        model: "tiny".into(),
        limit: 4096,
        max_price: 2_000_000,
        tip: 1,
        deadline_ms: 30_000,
        affinity: Some(Digest256::ZERO),
        except: vec![Digest256::ZERO],
    };
    let answered = Assignment {
        worker: key().public().id(),
        price: 2_000_000,
        keyset: "{}".into(),
        expires_ms: 1000,
    };
    let written = [serde_json::to_vec(&asked), serde_json::to_vec(&answered)];
    written.map(|text| text.expect("is JSON")).into()
}

fn header() -> Header {
    Header("accept".into(), "text/event-stream".into())
}

fn key() -> SecretKey {
    SecretKey::from_seed([7; 32]).expect("is a key")
}
