//! Attested TLS, both ends: no application byte before fresh evidence.
//!
//! ```text
//! TLS 1.3 handshake      one ALPN, no resumption, no 0-RTT, no TLS 1.2
//! the gate               Challenge -> (Endorsement, Credential ->) Evidence
//! application bytes      from here on; the client may ask again at any time
//! ```
//!
//! Evidence covers the exporter of this very session and the client's nonce
//! (`attestation::binding`), so it cannot be relayed from another session nor
//! replayed from an earlier moment. The server's certificate proves possession
//! of a key and nothing else.

pub mod client;
pub mod frame;
#[cfg(feature = "http")]
pub mod http;
pub mod identity;
mod platform;
mod possession;
pub mod provider;
pub mod receipts;
pub mod server;
pub mod stream;
