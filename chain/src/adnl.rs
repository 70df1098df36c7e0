//! ADNL over TCP: one end knows the other's Ed25519 key, and nobody else reads or changes
//! what they say.
//!
//! ```text
//! handshake: receiver [32], sender's key [32], SHA-256 of the parameters [32], parameters
//!   [160], encrypted: key = secret[0..16] || hash[16..32], counter = hash[0..4] ||
//!   secret[20..32], where the secret is agreed on by X25519 over both keys
//! parameters: key to the client [32], key to the server [32], counter to the client [16],
//!   counter to the server [16], nothing [64]
//! packet: length u32, nonce [32], payload, SHA-256 of nonce and payload [32], encrypted
//! ```
//!
//! AES-256 in counter mode throughout; integers are little-endian. A short id is the
//! SHA-256 of `pub.ed25519`. The server begins with an empty packet, which nobody can make
//! who does not know its key; the client's parameters are new each time, so nothing of an
//! earlier connection can be replayed to it.
//!
//! Source: docs.ton.org, "ADNL TCP - liteserver".

use std::io;

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tycho_crypto::ed25519::{KeyPair, PublicKey, SecretKey};
use zeroize::Zeroizing;

use crate::tl;

/// A connection whose other end is known.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    from_peer: Cipher,
    to_peer: Cipher,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Connects to the server that has a key.
    pub async fn connect(mut stream: S, server: &[u8; 32]) -> Result<Self, AdnlError> {
        let key = PublicKey::from_bytes(*server).ok_or(AdnlError::Key)?;
        let own = KeyPair::from(&SecretKey::from_bytes(random()?));
        let parameters = Zeroizing::new(random::<160>()?);
        let secret = Zeroizing::new(own.compute_shared_secret(&key));

        let hash = sha256(&[&*parameters]);
        let mut encrypted = *parameters;
        handshake_cipher(&secret, &hash)
            .0
            .apply_keystream(&mut encrypted);
        let mut packet = Vec::with_capacity(HANDSHAKE);
        packet.extend_from_slice(&short_id(server));
        packet.extend_from_slice(own.public_key.as_bytes());
        packet.extend_from_slice(&hash);
        packet.extend_from_slice(&encrypted);
        stream.write_all(&packet).await.map_err(AdnlError::Io)?;

        let [from_peer, to_peer] = ciphers(&parameters);
        let mut connection = Self {
            stream,
            from_peer,
            to_peer,
        };
        match connection.receive().await?.len() {
            0 => Ok(connection),
            found => Err(AdnlError::Greeting { found }),
        }
    }

    /// Lets a client in that knows our key.
    pub async fn accept(mut stream: S, own: &KeyPair) -> Result<Self, AdnlError> {
        let mut packet = [0; HANDSHAKE];
        stream
            .read_exact(&mut packet)
            .await
            .map_err(AdnlError::Io)?;
        let (receiver, rest) = take::<32>(&packet);
        let (sender, rest) = take::<32>(rest);
        let (hash, rest) = take::<32>(rest);
        let (mut parameters, _) = take::<160>(rest);
        if receiver != short_id(own.public_key.as_bytes()) {
            return Err(AdnlError::Receiver);
        }
        let sender = PublicKey::from_bytes(sender).ok_or(AdnlError::Key)?;
        let secret = Zeroizing::new(own.compute_shared_secret(&sender));
        handshake_cipher(&secret, &hash)
            .0
            .apply_keystream(&mut parameters);
        if sha256(&[&parameters]) != hash {
            return Err(AdnlError::Garbled);
        }
        let [to_peer, from_peer] = ciphers(&parameters);
        let mut connection = Self {
            stream,
            from_peer,
            to_peer,
        };
        connection.send(&[]).await?;
        Ok(connection)
    }

    /// Sends one packet.
    pub async fn send(&mut self, payload: &[u8]) -> Result<(), AdnlError> {
        let found = payload.len().saturating_add(OVERHEAD);
        let length = u32::try_from(found)
            .ok()
            .filter(|length| *length <= MAX_PACKET)
            .ok_or(AdnlError::Length { found })?;
        let nonce = random::<32>()?;
        let mut packet = length.to_le_bytes().to_vec();
        packet.extend_from_slice(&nonce);
        packet.extend_from_slice(payload);
        packet.extend_from_slice(&sha256(&[&nonce, payload]));
        self.to_peer.0.apply_keystream(&mut packet);
        self.stream
            .write_all(&packet)
            .await
            .map_err(AdnlError::Io)?;
        self.stream.flush().await.map_err(AdnlError::Io)
    }

    /// Waits for one packet. No memory is taken for what has not come.
    pub async fn receive(&mut self) -> Result<Vec<u8>, AdnlError> {
        let mut length = [0; 4];
        self.stream
            .read_exact(&mut length)
            .await
            .map_err(AdnlError::Io)?;
        self.from_peer.0.apply_keystream(&mut length);
        let length = u32::from_le_bytes(length);
        let found = usize::try_from(length).unwrap_or(usize::MAX);
        if found < OVERHEAD || length > MAX_PACKET {
            return Err(AdnlError::Length { found });
        }
        let mut packet = Vec::new();
        let mut limited = (&mut self.stream).take(length.into());
        limited
            .read_to_end(&mut packet)
            .await
            .map_err(AdnlError::Io)?;
        if packet.len() < found {
            return Err(AdnlError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        self.from_peer.0.apply_keystream(&mut packet);
        let hash = packet.split_off(found.saturating_sub(32));
        if sha256(&[&packet]).as_slice() != hash {
            return Err(AdnlError::Garbled);
        }
        packet.drain(..32);
        Ok(packet)
    }
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum AdnlError {
    /// Somebody else, or an earlier connection.
    #[error(
        "the packet does not decrypt to what it says: not from this peer, or not of this connection"
    )]
    Garbled,
    /// The first packet says something.
    #[error("the first packet has {found} bytes, expected none")]
    Greeting {
        /// As read.
        found: usize,
    },
    /// The stream ended or failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// A key that no signature could be of.
    #[error("the key is not a point of Ed25519")]
    Key,
    /// A packet too short or too long.
    #[error("a packet of {found} bytes, expected {OVERHEAD} to {MAX_PACKET}")]
    Length {
        /// As read.
        found: usize,
    },
    /// The system has no randomness.
    #[error("no randomness")]
    Random,
    /// Not for us.
    #[error("the handshake is for another server")]
    Receiver,
}

/// How ADNL and blocks name the owner of a key.
#[must_use]
pub fn short_id(key: &[u8; 32]) -> [u8; 32] {
    sha256(&[&tl_proto::serialize(tl::PublicKey { key: *key })])
}

struct Cipher(Ctr128BE<Aes256>);

impl core::fmt::Debug for Cipher {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str("Cipher")
    }
}

/// To the client, and to the server.
fn ciphers(parameters: &[u8; 160]) -> [Cipher; 2] {
    let (to_client, rest) = take::<32>(parameters);
    let (to_server, rest) = take::<32>(rest);
    let (client_counter, rest) = take::<16>(rest);
    let (server_counter, _) = take::<16>(rest);
    [
        Cipher(Ctr128BE::new(&to_client.into(), &client_counter.into())),
        Cipher(Ctr128BE::new(&to_server.into(), &server_counter.into())),
    ]
}

fn handshake_cipher(secret: &[u8; 32], hash: &[u8; 32]) -> Cipher {
    let mut key = *hash;
    key.iter_mut()
        .zip(secret)
        .take(16)
        .for_each(|(to, from)| *to = *from);
    let mut counter = [0; 16];
    let (head, _) = take::<4>(hash);
    let tail = secret.iter().skip(20);
    counter
        .iter_mut()
        .zip(head.iter().chain(tail))
        .for_each(|(to, from)| *to = *from);
    Cipher(Ctr128BE::new(&key.into(), &counter.into()))
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let hash = parts
        .iter()
        .fold(Sha256::new(), |hash, part| hash.chain_update(part));
    hash.finalize().into()
}

/// The first bytes of something that has them, by its type at each call; zeros otherwise.
fn take<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    match bytes.split_first_chunk::<N>() {
        Some((head, rest)) => (*head, rest),
        None => ([0; N], &[]),
    }
}

fn random<const N: usize>() -> Result<[u8; N], AdnlError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| AdnlError::Random)?;
    Ok(bytes)
}

const HANDSHAKE: usize = 256;

/// Nonce and hash.
const OVERHEAD: usize = 64;

/// What other implementations send at most is twice this.
const MAX_PACKET: u32 = 8 << 20;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    use tokio::io::{DuplexStream, duplex};

    fn key(number: u8) -> KeyPair {
        KeyPair::from(&SecretKey::from_bytes([number; 32]))
    }

    async fn pair() -> (Connection<DuplexStream>, Connection<DuplexStream>) {
        let (ours, theirs) = duplex(1 << 16);
        let server = key(1);
        let (client, server) = tokio::join!(
            Connection::connect(ours, server.public_key.as_bytes()),
            Connection::accept(theirs, &server),
        );
        (client.unwrap(), server.unwrap())
    }

    #[tokio::test]
    async fn both_ends_hear_what_the_other_says() {
        let (mut client, mut server) = pair().await;
        for length in [0, 1, 1000] {
            let said = vec![7; length];
            client.send(&said).await.unwrap();
            assert_eq!(server.receive().await.unwrap(), said);
            server.send(&said).await.unwrap();
            assert_eq!(client.receive().await.unwrap(), said);
        }
    }

    #[tokio::test]
    async fn what_a_server_said_before_is_not_taken_again() {
        let server = key(1);
        let greeting = async |connect_to: [u8; 32]| {
            let (ours, mut wire) = duplex(1 << 16);
            let client = tokio::spawn(async move { Connection::connect(ours, &connect_to).await });
            let mut handshake = [0; HANDSHAKE];
            wire.read_exact(&mut handshake).await.unwrap();
            let (mut tap, theirs) = duplex(1 << 16);
            tap.write_all(&handshake).await.unwrap();
            Connection::accept(theirs, &server).await.unwrap();
            let mut packet = Vec::new();
            tap.read_to_end(&mut packet).await.unwrap();
            (client, wire, packet)
        };
        let public = server.public_key.to_bytes();
        let (client, mut wire, good) = greeting(public).await;
        wire.write_all(&good).await.unwrap();
        client.await.unwrap().unwrap();

        let (client, mut wire, _) = greeting(public).await;
        wire.write_all(&good).await.unwrap();
        drop(wire);
        // Decrypted with other keys, its length is another too.
        let error = client.await.unwrap().unwrap_err();
        assert!(
            matches!(error, AdnlError::Length { .. } | AdnlError::Io(_)),
            "{error}"
        );
    }

    #[tokio::test]
    async fn somebody_else_is_not_the_server() {
        let (ours, theirs) = duplex(1 << 16);
        let (known, other) = (key(1), key(2));
        let (client, server) = tokio::join!(
            Connection::connect(ours, known.public_key.as_bytes()),
            Connection::accept(theirs, &other),
        );
        assert_eq!(
            server.unwrap_err().to_string(),
            "the handshake is for another server"
        );
        assert_eq!(client.unwrap_err().to_string(), "the connection failed");
        let (ours, _theirs) = duplex(1 << 16);
        let mut nobody = [0; 32];
        nobody[0] = 2;
        let error = Connection::connect(ours, &nobody).await.unwrap_err();
        assert_eq!(error.to_string(), "the key is not a point of Ed25519");
    }

    #[tokio::test]
    async fn a_handshake_that_was_changed_is_refused() {
        let (ours, mut wire) = duplex(1 << 16);
        let public = key(1).public_key.to_bytes();
        let connect = tokio::spawn(async move { Connection::connect(ours, &public).await });
        let mut handshake = [0; HANDSHAKE];
        wire.read_exact(&mut handshake).await.unwrap();
        for byte in [64, 96, 255] {
            let mut changed = handshake;
            changed[byte] ^= 1;
            let (mut ours, theirs) = duplex(1 << 16);
            ours.write_all(&changed).await.unwrap();
            let error = Connection::accept(theirs, &key(1)).await.unwrap_err();
            assert!(matches!(error, AdnlError::Garbled), "{error}");
        }
        for end in [0, 1, 255] {
            let (mut ours, theirs) = duplex(1 << 16);
            ours.write_all(&handshake[..end]).await.unwrap();
            drop(ours);
            let error = Connection::accept(theirs, &key(1)).await.unwrap_err();
            assert!(matches!(error, AdnlError::Io(_)), "{error}");
        }
        connect.abort();
    }

    #[tokio::test]
    async fn packets_that_are_too_long_changed_or_cut_off_are_refused() {
        let (mut client, mut server) = pair().await;
        let found = usize::try_from(MAX_PACKET).unwrap() - OVERHEAD + 1;
        let error = client.send(&vec![0; found]).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "a packet of 8388609 bytes, expected 64 to 8388608"
        );
        for length in [63, MAX_PACKET + 1, u32::MAX] {
            let (mut client, mut server) = pair().await;
            let mut bytes = length.to_le_bytes();
            server.to_peer.0.apply_keystream(&mut bytes);
            server.stream.write_all(&bytes).await.unwrap();
            let error = client.receive().await.unwrap_err();
            let expected = format!("a packet of {length} bytes, expected 64 to 8388608");
            assert_eq!(error.to_string(), expected);
        }

        // Announced, and then not sent: nothing was taken for it.
        let mut bytes = MAX_PACKET.to_le_bytes();
        server.to_peer.0.apply_keystream(&mut bytes);
        server.stream.write_all(&bytes).await.unwrap();
        drop(server);
        let error = client.receive().await.unwrap_err();
        assert_eq!(error.to_string(), "the connection failed");

        let (mut client, mut server) = pair().await;
        let mut packet = 100_u32.to_le_bytes().to_vec();
        packet.extend([7; 100]);
        server.to_peer.0.apply_keystream(&mut packet);
        server.stream.write_all(&packet).await.unwrap();
        assert!(matches!(client.receive().await, Err(AdnlError::Garbled)));
    }
}
