//! Sealed requests: to a worker that satisfied a policy, and what it answers.

use attestation::aci::Keyset;
use attestation::binding::Nonce;
use attestation::cbor;
use attestation::register::Digest256;
use contracts::receipt::{Receipt, ReceiptError};
use contracts::voucher::cost;
use sealed::{
    Envelope, Header, PeerError, RequestHead, Response, ResponseHead, Settlement, SizeClass,
    Transcript, seal,
};
use serde::{Deserialize, Serialize};
use tycho_types::boc::Boc;
use tycho_types::cell::HashBytes;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert::{Json, bytes, from_js, time, to_js};
use crate::error::{AttestationError, refuse, reject};
use crate::policy::Policy;

/// A worker that a policy takes. To have one is to know whose its keys are.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Peer(sealed::Peer);

#[wasm_bindgen]
impl Peer {
    /// Judges a worker's answer to `Binding.challenge(nonce)`, in CBOR. `keyset` is what
    /// somebody says are its keys; `nonce` 32 fresh random bytes. Throws what differs.
    pub fn judge(
        policy: &Policy,
        keyset: &str,
        nonce: &[u8],
        answer: &[u8],
        #[wasm_bindgen(unchecked_param_type = "UnixTime")] at: f64,
    ) -> Result<Self, AttestationError> {
        let nonce = Nonce(bytes(nonce, "nonce")?);
        let answer = cbor::decode(answer).map_err(|error| refuse("evidence", &error))?;
        let policy = policy.whole();
        match sealed::Peer::judge(&policy, keyset.as_bytes(), &nonce, answer, time(at)?) {
            Ok(peer) => Ok(Self(peer)),
            Err(PeerError::Rejected(rejection)) => Err(reject(&rejection, &rejection.checks)),
            Err(error) => Err(refuse("peer", &error)),
        }
    }

    /// Under which the network knows the worker: SHA-256 of the key.
    #[wasm_bindgen(getter, unchecked_return_type = "Hex")]
    #[must_use]
    pub fn id(&self) -> String {
        self.0.key.id().to_string()
    }

    /// Unix time after which its keys do not count.
    #[wasm_bindgen(getter, js_name = notAfter, unchecked_return_type = "UnixTime")]
    #[must_use]
    pub fn not_after(&self) -> f64 {
        self.0.keyset.not_after().to_string().parse().unwrap_or(0.0)
    }

    /// Every comparison; all of them passed.
    #[wasm_bindgen(getter, unchecked_return_type = "Check[]")]
    pub fn checks(&self) -> Result<Json, AttestationError> {
        to_js(&self.0.trusted.checks())
    }

    /// Seals a request to it. `random` are 80 random bytes, used for nothing else.
    pub fn seal(
        &self,
        #[wasm_bindgen(unchecked_param_type = "SealedRequest")] request: &Json,
        body: &[u8],
        random: &[u8],
    ) -> Result<Conversation, AttestationError> {
        let asked: SealedRequest = from_js(request, "request")?;
        let random: [u8; 80] = bytes(random, "randomness")?;
        let (id, random) = random.split_at(16);
        let envelope = Envelope {
            worker: self.0.key.id(),
            model: asked.model,
            id: bytes(id, "id")?,
            limit: asked.limit,
            price: asked.price,
            deadline_ms: asked.deadline_ms,
            class: SizeClass::of(body.len()),
        };
        let head = RequestHead {
            method: asked.method,
            path: asked.path,
            headers: asked
                .headers
                .into_iter()
                .map(|(name, value)| Header(name, value))
                .collect(),
            tenant: *asked.tenant.as_bytes(),
        };
        let receipt_key = self.0.keyset.receipt_key(Keyset::RECEIPTS);
        let cipher = |error| refuse("cipher", &error);
        let encoded = envelope.encode();
        let random = bytes(random, "randomness")?;
        let (mut request, mut sealer, response) =
            seal(&self.0.key, &encoded, random).map_err(cipher)?;
        sealer.chunk(&head.encode(), &mut request).map_err(cipher)?;
        sealer.last(body, &mut request).map_err(cipher)?;
        Ok(Conversation {
            agreed: Agreed {
                limit: envelope.limit,
                price: envelope.price,
                request: Digest256::of(&request),
                receipt_key: receipt_key.map(Digest256::from_bytes),
            },
            request: Some(request),
            encoded,
            response,
            transcript: Transcript::response(),
            head: None,
        })
    }
}

/// One request and its answer.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Conversation {
    request: Option<Vec<u8>>,
    agreed: Agreed,
    encoded: Vec<u8>,
    response: Response,
    transcript: Transcript,
    head: Option<ResponseHead>,
}

#[wasm_bindgen]
impl Conversation {
    /// What travels beside the request.
    #[wasm_bindgen(getter)]
    #[must_use]
    pub fn envelope(&self) -> Vec<u8> {
        self.encoded.clone()
    }

    /// What was agreed upon, to be kept until it is known what it cost.
    #[wasm_bindgen(getter, unchecked_return_type = "Agreed")]
    pub fn agreed(&self) -> Result<Json, AttestationError> {
        to_js(&self.agreed)
    }

    /// The sealed request; it is given once.
    pub fn request(&mut self) -> Option<Vec<u8>> {
        self.request.take()
    }

    /// Takes more of the answer, and gives what of its body is whole now.
    pub fn push(&mut self, sealed: &[u8]) -> Result<Vec<u8>, AttestationError> {
        let broken = |error| refuse("answer", &error);
        self.transcript.push(sealed).map_err(broken)?;
        let opened = self.response.push(sealed).map_err(broken)?;
        let mut opened = opened.into_iter();
        if self.head.is_none()
            && let Some(first) = opened.next()
        {
            let head = ResponseHead::parse(&first).map_err(|error| refuse("answer", &error))?;
            self.head = Some(head);
        }
        Ok(opened.flatten().collect())
    }

    /// What HTTP says before a body, once it has come.
    #[wasm_bindgen(getter, unchecked_return_type = "SealedHead | null")]
    pub fn head(&self) -> Result<Json, AttestationError> {
        to_js(&self.head.as_ref().map(|head| {
            Head {
                status: head.status,
                headers: head
                    .headers
                    .iter()
                    .map(|Header(a, b)| (&**a, &**b))
                    .collect(),
            }
        }))
    }

    /// The answer is over: what was signed for it, `null` if nothing. Throws if it was
    /// cut, or if what is signed is not what was agreed and done.
    #[wasm_bindgen(unchecked_return_type = "Settled | null")]
    pub fn end(self) -> Result<Json, AttestationError> {
        let broken = |error| refuse("answer", &error);
        let settlement = self.response.end().map_err(broken)?;
        let (answered, _) = self.transcript.end().map_err(broken)?;
        let settled = match settlement.is_empty() {
            true => None,
            false => Some(
                self.agreed
                    .settled(&settlement, Some(answered))
                    .map_err(|error| refuse("settlement", &error))?,
            ),
        };
        to_js(&settled)
    }
}

/// What a worker signed for a request, by what was agreed upon and a settlement that others
/// kept: not for which answer. Throws if it is not for this very request, or for more.
#[wasm_bindgen(unchecked_return_type = "Settled")]
pub fn settled(
    settlement: &[u8],
    #[wasm_bindgen(unchecked_param_type = "Agreed")] agreed: &Json,
) -> Result<Json, AttestationError> {
    let agreed: Agreed = from_js(agreed, "agreed")?;
    let settled = agreed.settled(settlement, None);
    to_js(&settled.map_err(|error| refuse("settlement", &error))?)
}

/// Between a client, and the worker that it sealed a request to.
#[derive(Debug, Deserialize, Serialize)]
struct Agreed {
    limit: u64,
    price: u64,
    /// SHA-256 of the sealed request.
    request: Digest256,
    /// Of the worker's proved keyset, if it has one.
    receipt_key: Option<Digest256>,
}

impl Agreed {
    fn settled(
        &self,
        settlement: &[u8],
        answered: Option<Digest256>,
    ) -> Result<Settled, SettlementError> {
        let settlement = Settlement::parse(settlement).map_err(|_| SettlementError::Malformed)?;
        let receipt: Receipt = Boc::decode(&settlement.receipt)
            .map_or(Err(SettlementError::Malformed), |cell| {
                cell.parse().map_err(|_| SettlementError::Malformed)
            })?;
        let key = self.receipt_key.ok_or(SettlementError::NoKey)?;
        receipt
            .verify(&HashBytes(*key.as_bytes()), &settlement.signature)
            .map_err(SettlementError::Receipt)?;
        let found = receipt.response.0;
        if receipt.request.0 != *self.request.as_bytes()
            || answered.is_some_and(|answered| found != *answered.as_bytes())
        {
            return Err(SettlementError::Other);
        }
        let work = receipt
            .work
            .load()
            .map_err(|_| SettlementError::Malformed)?;
        let (tokens, limit) = (work.tokens(), self.limit);
        if tokens > limit || tokens != settlement.tokens {
            return Err(SettlementError::Tokens { tokens, limit });
        }
        if receipt.price > self.price {
            let (found, agreed) = (receipt.price, self.price);
            return Err(SettlementError::Price { found, agreed });
        }
        Ok(Settled {
            prompt_tokens: work.prompt_tokens,
            completion_tokens: work.completion_tokens,
            price: receipt.price,
            cost: cost(tokens, self.price).ok_or(SettlementError::Malformed)?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedRequest {
    model: String,
    limit: u64,
    price: u64,
    deadline_ms: u32,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    tenant: Digest256,
}

#[derive(Serialize)]
struct Head<'a> {
    status: u16,
    headers: Vec<(&'a str, &'a str)>,
}

#[derive(Serialize)]
struct Settled {
    prompt_tokens: u32,
    completion_tokens: u32,
    price: u64,
    cost: u64,
}

/// Why what followed an answer does not count for it.
#[derive(Debug, thiserror::Error)]
enum SettlementError {
    #[error("no settlement after the answer")]
    Malformed,
    #[error("the worker's keyset has no key for receipts")]
    NoKey,
    #[error("the receipt is of another request or answer")]
    Other,
    #[error("the receipt says {found} nanotons a million tokens, agreed were {agreed}")]
    Price { found: u64, agreed: u64 },
    #[error("the receipt does not verify")]
    Receipt(#[source] ReceiptError),
    #[error("the receipt says {tokens} tokens, agreed were at most {limit}")]
    Tokens { tokens: u64, limit: u64 },
}
