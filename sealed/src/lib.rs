//! Requests that only one worker can open, answers that only their client can, and the
//! words around them.
//!
//! ```text
//! worker id   = SHA-256(seal public key)
//! envelope    = CBOR map, in clear beside the sealed request
//! HPKE        = base mode, X-Wing, HKDF-SHA256, export-only
//!               info = "cocoon/sealed/v1\0" || SHA-256(envelope)
//! request     = 0x01 || enc[1120] || chunks
//! response    = salt[32] || chunks || settlement, in clear, to the end
//! chunk       = len u32 (top bit: the last one) || AES-256-GCM of data || 0x01 || 0x00 ...
//! ```
//!
//! Integers are big-endian. A chunk's nonce is the direction's base XOR its number, its
//! associated data are the four bytes before it; so order, number and end of the chunks
//! are authenticated. What is sealed is padded to a multiple of 256 bytes: the length of
//! a token does not show, that of a text only roughly.
//!
//! Whoever passes requests on sees envelope, settlement, sizes and times. It may drop a
//! request or cut an answer, which the other end notices; it cannot read, change, or mix
//! them. A request can be sent again as it is: the worker that opens it has to remember
//! `enc`. Nothing here says who a client is, nor what runs behind a key: see evidence.
//!
//! Source: RFC 9180 (HPKE), draft-connolly-cfrg-xwing-kem (X-Wing), RFC 9458, section
//! 4.4 (a response's keys), draft-ietf-ohai-chunked-ohttp (order and end). It follows
//! them in construction and speaks with no other implementation of theirs.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod aead;
mod chunk;
mod digest;
mod envelope;
mod frame;
mod head;
mod kem;
mod key;
mod offer;
mod peer;
mod response;
mod settlement;
mod transcript;

pub use chunk::{Opener, Place, Sealer};
pub use envelope::{Envelope, EnvelopeError, SizeClass};
pub use frame::{ChunkError, MAX_CHUNK};
pub use head::{HeadError, Header, RequestHead, ResponseHead};
pub use key::{MAX_REQUEST, OpenError, PublicKey, START, SealError, SecretKey, seal};
pub use offer::{Assignment, AssignmentRequest, Offer, OfferedModel};
pub use peer::{Peer, PeerError};
pub use response::{Responder, Response};
pub use settlement::Settlement;
pub use transcript::Transcript;
