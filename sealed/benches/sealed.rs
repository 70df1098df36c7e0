//! Sealed requests beside what they are made of, in one run, on one core.
//!
//! `cargo bench -p sealed`: bodies beside AES-256-GCM alone, in place; the beginning of a
//! request beside HPKE with X25519 alone, and beside a handshake of TLS 1.3.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a benchmark may panic"
)]

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::Criterion;
use hpke::aead::{AeadCtxR, AeadCtxS, ExportOnlyAead};
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng};
use hpke::{Kem as _, OpModeR, OpModeS, setup_receiver, setup_sender_with_rng};
use rustls::crypto::aws_lc_rs as backend;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use sealed::{MAX_CHUNK, Opener, START, Sealer, SecretKey, seal};

fn main() {
    let mut bench = Bench::new();
    for (size, of) in [
        (64, "64 B"),
        (4 << 10, "4 KiB"),
        (64 << 10, "64 KiB"),
        (16 << 20, "16 MiB"),
    ] {
        body(&mut bench, of, &vec![7; size]);
    }
    beginning(&mut bench);
}

/// Chunks alone: what grows with a body.
fn body(bench: &mut Bench, of: &str, body: &[u8]) {
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; 32]).unwrap());
    let nonce = || Nonce::assume_unique_for_key([2; 12]);
    let mut text = body.to_vec();
    let alone = bench.run(&format!("AES-256-GCM seals {of}"), || {
        timed(|| cipher.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut text))
    });
    let mut sealer = conversation().0;
    let mut out = Vec::with_capacity(2 * MAX_CHUNK);
    let ours = bench.run(&format!("sealed seals {of}"), || {
        timed(|| {
            for part in body.chunks(LARGEST) {
                out.clear();
                sealer.chunk(part, &mut out).unwrap();
                black_box(&out);
            }
        })
    });
    compare(alone, ours);

    let alone = bench.run(&format!("AES-256-GCM opens {of}"), || {
        text.clear();
        text.extend_from_slice(body);
        cipher
            .seal_in_place_append_tag(nonce(), Aad::empty(), &mut text)
            .unwrap();
        timed(|| {
            cipher
                .open_in_place(nonce(), Aad::empty(), &mut text)
                .is_ok()
        })
    });
    for (how, cut) in [("chunk by chunk", WHOLE), ("16 KiB by 16 KiB", 16 << 10)] {
        let (mut sealer, mut opener) = conversation();
        let mut stream = Vec::new();
        let ours = bench.run(&format!("sealed opens {of}, {how}"), || {
            stream.clear();
            sealer.chunk(body, &mut stream).unwrap();
            // Somebody has the one before while the next is opened.
            let mut held = Vec::new();
            timed(|| {
                for piece in stream.chunks(cut) {
                    held = black_box(opener.push(piece).unwrap());
                }
                held.len()
            })
        });
        compare(alone, ours);
    }
}

/// What one chunk holds at most.
const LARGEST: usize = MAX_CHUNK - 64;

/// Header, text and tag of the largest chunk.
const WHOLE: usize = 4 + MAX_CHUNK + 16;

/// What each request costs however short it is.
fn beginning(bench: &mut Bench) {
    let secret = SecretKey::from_seed([1; 32]).unwrap();
    let public = secret.public();
    let (start, ..) = seal(&public, b"envelope", [2; 64]).unwrap();
    let sealing = bench.run("sealed begins", || {
        timed(|| seal(&public, b"envelope", [2; 64]).unwrap())
    });
    let opening = bench.run("sealed is begun to be opened", || {
        timed(|| secret.open(b"envelope", &start).unwrap())
    });

    let (secret, public) = X25519HkdfSha256::derive_keypair(&[1; 32]);
    let send = || {
        let made: (_, AeadCtxS<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>) =
            setup_sender_with_rng(&OpModeS::Base, &public, b"info", &mut Seven).unwrap();
        made
    };
    let enc = send().0;
    let x_sealing = bench.run("HPKE with X25519 alone begins", || timed(send));
    let x_opening = bench.run("HPKE with X25519 alone is begun to be opened", || {
        timed(|| {
            let made: AeadCtxR<ExportOnlyAead, HkdfSha256, X25519HkdfSha256> =
                setup_receiver(&OpModeR::Base, &secret, &enc, b"info").unwrap();
            made
        })
    });
    compare(x_sealing, sealing);
    compare(x_opening, opening);

    let tls = Tls::new();
    let handshake = bench.run("TLS 1.3 handshake, both ends", || {
        timed(|| tls.shake_hands())
    });
    println!("  against both ends of a request: {:.2}", {
        handshake.div_duration_f64(sealing + opening)
    });
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

/// Criterion, which asks each for its own time.
struct Bench(Criterion);

impl Bench {
    fn new() -> Self {
        Self(
            Criterion::default()
                .configure_from_args()
                .sample_size(20)
                .measurement_time(Duration::from_secs(2)),
        )
    }

    /// What it took at best.
    fn run(&mut self, name: &str, mut once: impl FnMut() -> Duration) -> Duration {
        let best = Cell::new(Duration::MAX);
        self.0.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let all: Duration = (0..iterations).map(|_| once()).sum();
                best.set(best.get().min(all / u32::try_from(iterations).unwrap()));
                all
            });
        });
        best.get()
    }
}

fn timed<T>(what: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(what());
    start.elapsed()
}

fn compare(theirs: Duration, ours: Duration) {
    let ratio = theirs.div_duration_f64(ours);
    println!("  {ratio:.2} of its speed: {ours:.1?} against {theirs:.1?}");
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
