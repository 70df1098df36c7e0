//! Sealed requests beside what they are made of, side by side on one core: medians of
//! rounds in which each does its work once.
//!
//! `cargo bench -p sealed`: bodies beside AES-256-GCM alone, once over the whole body; what
//! the hash of a receipt takes; the beginning of a request beside HPKE with X25519 alone,
//! and beside a handshake of TLS 1.3.
//!
//! Whoever works, AES-GCM or we, reads a body from one place and writes it to another, both
//! of them memory that was there before: first the place for the result was written over,
//! then what is to be read. Pieces of 16 KiB are written where they are read from one by
//! one, as what comes from a connection is, before the clock runs.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a benchmark may panic"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hpke::aead::{AeadCtxR, AeadCtxS, ExportOnlyAead};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Kem as _, OpModeR, OpModeS, setup_receiver, setup_sender_with_rng};
use rustls::crypto::aws_lc_rs as backend;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use sealed::{Opener, START, Sealer, SecretKey, Transcript, seal};

fn main() {
    println!("of AES-256-GCM's own speed:");
    for (size, name) in [
        (64, "64 B"),
        (4 << 10, "4 KiB"),
        (64 << 10, "64 KiB"),
        (16 << 20, "16 MiB"),
    ] {
        Bodies::new(size).compare(name);
    }
    beginning();
}

/// As many of one size as a clock can tell from none.
struct Bodies {
    cipher: LessSafeKey,
    count: usize,
    /// What is read.
    body: Vec<u8>,
    whole: Vec<u8>,
    tag: [u8; 16],
    stream: Vec<u8>,
    /// What is written.
    out: Vec<u8>,
}

impl Bodies {
    fn new(size: usize) -> Self {
        let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).unwrap());
        let body = vec![7; size];
        let mut whole = body.clone();
        let tag = cipher.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut whole);
        let count = (64_usize << 10).div_ceil(size);
        Self {
            cipher,
            count,
            whole,
            tag: tag.unwrap().as_ref().try_into().unwrap(),
            stream: Vec::new(),
            out: vec![1; size + size / 64 + 1024],
            body,
        }
    }

    fn compare(mut self, name: &str) {
        let mut seals = [(); 2].map(|()| Vec::new());
        let mut opens = [(); 4].map(|()| Vec::new());
        for _ in 0..ROUNDS {
            seals[0].push(self.seals_alone());
            seals[1].push(self.seals());
            opens[0].push(self.opens_alone());
            opens[1].push(self.opens());
            if self.body.len() > PIECE {
                opens[2].push(self.opens_pieces());
                opens[3].push(self.hashes());
            }
        }
        let count = u32::try_from(self.count).unwrap();
        let [alone, ours] = seals.map(|times| median(times) / count);
        print(&format!("{name} sealed"), alone, ours);
        let [alone, others @ ..] = opens.map(|times| median(times) / count);
        for (how, ours) in ["opened", "opened by 16 KiB", "hashed for a receipt"]
            .into_iter()
            .zip(others)
            .filter(|(_, ours)| !ours.is_zero())
        {
            print(&format!("{name} {how}"), alone, ours);
        }
    }

    fn seals_alone(&mut self) -> Duration {
        written(&mut self.out, &mut self.body);
        let (cipher, body, tag) = (&self.cipher, &self.body, &mut self.tag.clone());
        let out = &mut self.out[..body.len()];
        timed(|| {
            for _ in 0..self.count {
                let done = cipher.seal_out_of_place_scatter(
                    nonce(),
                    Aad::empty(),
                    body,
                    black_box(out),
                    &[],
                    tag,
                );
                done.unwrap();
            }
        })
    }

    fn seals(&mut self) -> Duration {
        let (mut sealer, _) = conversation();
        written(&mut self.out, &mut self.body);
        timed(|| {
            for _ in 0..self.count {
                let mut place = &mut self.out[..];
                sealer.chunk(&self.body, black_box(&mut place)).unwrap();
            }
        })
    }

    fn opens_alone(&mut self) -> Duration {
        written(&mut self.out, &mut self.whole);
        let (cipher, whole, tag) = (&self.cipher, &self.whole, &self.tag);
        let out = &mut self.out[..whole.len()];
        timed(|| {
            for _ in 0..self.count {
                let done =
                    cipher.open_separate_gather(nonce(), Aad::empty(), whole, tag, black_box(out));
                done.unwrap();
            }
        })
    }

    fn opens(&mut self) -> Duration {
        let mut opener = self.sealed();
        timed(|| {
            let mut bytes = &self.stream[..];
            while !bytes.is_empty() {
                let mut place = &mut self.out[..];
                for _ in 0..self.body.len().div_ceil(LARGEST) {
                    assert!(opener.open(&mut bytes, black_box(&mut place)).unwrap());
                }
            }
        })
    }

    fn opens_pieces(&mut self) -> Duration {
        let mut opener = self.sealed();
        let mut received = vec![1; PIECE];
        let mut place = &mut self.out[..];
        let pieces = self.stream.chunks(PIECE).map(|piece| {
            let received = &mut received[..piece.len()];
            received.copy_from_slice(piece);
            timed(|| {
                let mut bytes = black_box(&*received);
                while opener.open(&mut bytes, &mut place).unwrap() {}
            })
        });
        pieces.sum()
    }

    fn hashes(&mut self) -> Duration {
        self.sealed();
        let mut transcript = Transcript::request();
        transcript.push(&[1; START]).unwrap();
        timed(|| transcript.push(&self.stream).unwrap())
    }

    /// All of them in one stream, and what opens it.
    fn sealed(&mut self) -> Opener {
        let (mut sealer, opener) = conversation();
        self.stream.clear();
        for _ in 0..self.count {
            sealer.chunk(&self.body, &mut self.stream).unwrap();
        }
        written(&mut self.out, &mut self.stream);
        opener
    }
}

/// What is written to and what is read from: in the same caches each time.
fn written(out: &mut [u8], read: &mut [u8]) {
    out.fill(black_box(1));
    let copy = black_box(read.to_vec());
    read.copy_from_slice(&copy);
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([2; 12])
}

const ROUNDS: usize = 60;

/// What one chunk holds at most.
const LARGEST: usize = 65_216;

/// Of HTTP/2 and of TLS.
const PIECE: usize = 16 << 10;

/// What each request costs however short it is.
fn beginning() {
    let secret = SecretKey::from_seed([1; 32]).unwrap();
    let public = secret.public();
    let (start, ..) = seal(&public, b"envelope", [2; 64]).unwrap();
    let (x_secret, x_public) = X25519HkdfSha256::derive_keypair(&[1; 32]);
    let send = || {
        let made: (_, AeadCtxS<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>) =
            setup_sender_with_rng(&OpModeS::Base, &x_public, b"info", &mut Seven).unwrap();
        made
    };
    let enc = send().0;
    let receive = || {
        let made: AeadCtxR<ExportOnlyAead, HkdfSha256, X25519HkdfSha256> =
            setup_receiver(&OpModeR::Base, &x_secret, &enc, b"info").unwrap();
        made
    };
    let tls = Tls::new();
    let mut times = [(); 5].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        times[0].push(timed(send));
        times[1].push(timed(|| seal(&public, b"envelope", [2; 64]).unwrap()));
        times[2].push(timed(receive));
        times[3].push(timed(|| secret.open(b"envelope", &start).unwrap()));
        times[4].push(timed(|| tls.shake_hands()));
    }
    let [sends, seals, receives, opens, handshake] = times.map(median);
    println!("of the speed of HPKE with X25519 alone, and of TLS 1.3, both ends:");
    print("a request is begun", sends, seals);
    print("and begun to be opened", receives, opens);
    print("both, beside a handshake", handshake, seals + opens);
}

fn conversation() -> (Sealer, Opener) {
    let secret = SecretKey::from_seed([1; 32]).unwrap();
    let (start, sealer, _) = seal(&secret.public(), b"envelope", [2; 64]).unwrap();
    assert_eq!(start.len(), START);
    (sealer, secret.open(b"envelope", &start).unwrap().0)
}

/// Both ends of a connection, without a network between them.
struct Tls(Arc<ClientConfig>, Arc<ServerConfig>);

impl Tls {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["worker.invalid".into()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let provider = Arc::new(backend::default_provider());
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        Self(client.into(), server.into())
    }

    fn shake_hands(&self) {
        let name = ServerName::try_from("worker.invalid").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&self.0), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&self.1)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut &*bytes).unwrap();
            server.process_new_packets().unwrap();
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut &*bytes).unwrap();
            client.process_new_packets().unwrap();
        }
    }
}

fn timed<T>(what: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(what());
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn print(what: &str, theirs: Duration, ours: Duration) {
    let ratio = theirs.div_duration_f64(ours);
    println!("  {ratio:.2}  {what}: {ours:.1?} against {theirs:.1?}");
}

/// Whose randomness does not matter here.
struct Seven;

impl TryRng for Seven {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(7)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(7)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        out.fill(7);
        Ok(())
    }
}

impl TryCryptoRng for Seven {}
