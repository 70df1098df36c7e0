//! The P-256 construction of `tolk/p256.tolk` against a library.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod tvm;

use contracts::cells::Bytes;
use contracts::code::Code;
use contracts::p256::Signature;
use p256::ecdsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};
use p256::ecdsa::{Signature as Reference, SigningKey, VerifyingKey};
use p256::elliptic_curve::PrimeField as _;
use p256::{EncodedPoint, Scalar};
use sha2::{Digest as _, Sha256};
use tycho_types::cell::{Cell, CellBuilder, HashBytes};
use tycho_types::models::StdAddr;

use tvm::{Got, Item, Tvm};

const NOW: u32 = 1_800_000_000;
const RANDOM: u32 = 10_000;

/// What a library can be asked too.
#[derive(Clone)]
struct Case {
    key: [u8; 64],
    digest: [u8; 32],
    signature: [u8; 64],
}

impl Case {
    /// Signed by a key that comes from `seed`.
    fn signed(seed: u32, digest: [u8; 32]) -> Self {
        let signer = SigningKey::from_slice(&hash(seed, "key")).unwrap();
        let point = signer.verifying_key().to_encoded_point(false);
        let signature: Reference = signer.sign_prehash(&digest).unwrap();
        Self {
            key: point.as_bytes()[1..].try_into().unwrap(),
            digest,
            signature: signature.to_bytes().into(),
        }
    }

    fn reference(&self) -> bool {
        let point = EncodedPoint::from_untagged_bytes(&self.key.into());
        let key = VerifyingKey::from_encoded_point(&point);
        let signature = Reference::from_slice(&self.signature);
        key.is_ok_and(|key| {
            signature.is_ok_and(|signature| key.verify_prehash(&self.digest, &signature).is_ok())
        })
    }

    /// With the help that an honest sender gives.
    fn helped(&self) -> Question {
        Question {
            digest: self.digest,
            x: self.key[..32].try_into().unwrap(),
            signature: Signature::new(&self.key, &self.digest, &self.signature).unwrap(),
        }
    }
}

/// What the contract is asked.
#[derive(Clone)]
struct Question {
    digest: [u8; 32],
    x: [u8; 32],
    signature: Signature,
}

#[test]
fn the_contract_says_of_random_signatures_what_a_library_says() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut questions = Vec::new();
    let mut good = 0;
    for seed in 0..RANDOM {
        let mut case = Case::signed(seed, hash(seed, "digest"));
        // Every other one has a wrong bit, and help that was made for it as it is.
        let noise = hash(seed, "noise");
        let (at, bit) = (usize::from(noise[0]), 1 << (noise[1] % 8));
        match seed % 6 {
            1 => case.digest[at % 32] ^= bit,
            3 => case.signature[at % 32] ^= bit,
            5 => case.signature[32 + at % 32] ^= bit,
            _ => good += 1,
        }
        questions.push((format!("random {seed}"), case.helped(), case.reference()));
    }
    assert_eq!(questions.iter().filter(|(.., good)| *good).count(), good);
    compare(&tvm, &questions);
}

#[test]
fn wrong_help_helps_nobody() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let mut questions = Vec::new();
    for seed in 0..200 {
        let case = Case::signed(seed, hash(seed, "digest"));
        let other = Case::signed(seed + 1, hash(seed, "digest")).helped();
        let good = case.helped();
        let mut push = |name: &str, change: &dyn Fn(&mut Question)| {
            let mut question = good.clone();
            change(&mut question);
            questions.push((format!("{name} {seed}"), question, false));
        };
        let bit = usize::try_from(seed).unwrap();
        let flip = |bytes: &mut [u8]| {
            let at = bit / 8 % bytes.len();
            bytes[at] ^= 1 << (bit % 8);
        };
        push("u", &|q| flip(&mut q.signature.u.0));
        push("v", &|q| flip(&mut q.signature.v.0));
        push("point", &|q| flip(&mut q.signature.point.0));
        push("point of another", &|q| {
            q.signature.point = other.signature.point
        });
        push("the other root", &|q| q.signature.point.0[0] ^= 1);
        push("key", &|q| flip(&mut q.x));
        push("key of another", &|q| q.x = other.x);
        push("signature of another", &|q| {
            q.signature = other.signature.clone()
        });
    }
    compare(&tvm, &questions);
}

#[test]
fn numbers_at_the_edge_are_refused_and_honest_ones_near_it_are_not() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let good = Case::signed(0, hash(0, "digest"));
    let helped = good.helped();
    let order = number(ORDER);
    let mut questions = vec![("as it is".into(), helped.clone(), true)];
    let mut push = |name: &str, change: &dyn Fn(&mut Question)| {
        let mut question = helped.clone();
        change(&mut question);
        questions.push((name.into(), question, false));
    };
    for (name, value) in [("0", [0; 32]), ("order", order), ("2^256 - 1", [0xff; 32])] {
        push(&format!("v = {name}"), &|q| q.signature.v.0 = value);
        push(&format!("u = {name}"), &|q| q.signature.u.0 = value);
        push(&format!("x = {name}"), &|q| q.x = value);
        push(&format!("digest = {name}"), &|q| q.digest = value);
        push(&format!("point at x = {name}"), &|q| {
            let point = [&[2], &value[..]].concat();
            q.signature.point = Bytes(point.try_into().unwrap());
        });
    }
    // What the contract takes for r is x - u e / E.
    push("r = x and digest = 0", &|q| {
        q.signature.u.0 = [0; 32];
        q.digest = [0; 32];
    });
    push("r = 0", &|q| {
        let u = scalar(&q.x) * scalar(&Sha256::digest([])) * scalar(&q.digest).invert().unwrap();
        q.signature.u.0 = u.to_bytes().into();
    });
    push("point at infinity", &|q| q.signature.point = Bytes([0; 33]));

    // The other valid s, a digest at and beyond the order, and small numbers.
    let mut other_s = good.clone();
    let s = scalar(&good.signature[32..]);
    other_s.signature[32..].copy_from_slice(&(-s).to_bytes());
    questions.push(("order - s".into(), other_s.helped(), true));
    for digest in [number("01"), [0xff; 32], add(&order, 1), sub(&order, 1)] {
        let case = Case::signed(1, digest);
        assert!(case.reference());
        questions.push((hex::encode(digest), case.helped(), true));
        let mut wrong = case.helped();
        wrong.digest = sub(&digest, 1);
        questions.push((format!("{} - 1", hex::encode(digest)), wrong, false));
    }
    compare(&tvm, &questions);
}

/// What a forger is left with: see `P256.md`.
#[test]
fn the_negated_digest_is_the_one_thing_more_that_verifies() {
    let Some(tvm) = tvm::start(NOW) else { return };
    let signed = Case::signed(3, hash(3, "digest"));
    let mut negated = signed.clone();
    negated.digest = (-scalar(&signed.digest)).to_bytes().into();
    assert!(!negated.reference(), "another message");
    // With the other root, the same x stands for the key's negative.
    let y = <p256::FieldBytes as Into<[u8; 32]>>::into(*p256::FieldBytes::from_slice(
        &signed.key[32..],
    ));
    negated.key[32..].copy_from_slice(&sub_from(&number(FIELD), &y));
    compare(&tvm, &[("negated".into(), negated.helped(), true)]);
}

fn compare(tvm: &Tvm, questions: &[(String, Question, bool)]) {
    let probe = probe(tvm);
    for batch in questions.chunks(255) {
        let HashBytes(bits) = run(tvm, &probe, batch).number();
        let bit = |index: usize| bits[31 - index / 8] >> (index % 8) & 1 == 1;
        assert!(bit(batch.len()), "as many answers as questions");
        let answers = (0..batch.len()).rev().map(bit);
        for ((name, _, expected), found) in batch.iter().zip(answers) {
            assert_eq!(found, *expected, "{name}");
        }
    }
}

fn probe(tvm: &Tvm) -> StdAddr {
    let empty = Cell::default();
    let code = Code::P256_PROBE.cell().unwrap();
    tvm.deploy(&code, &empty, 1_000_000_000, &empty).0
}

/// All questions in one run of the contract's get-method.
fn run(tvm: &Tvm, probe: &StdAddr, batch: &[(String, Question, bool)]) -> Got {
    let mut next = None;
    for (_, question, _) in batch.iter().rev() {
        let mut case = CellBuilder::new();
        case.store_raw(&question.digest, 256).unwrap();
        case.store_raw(&question.x, 256).unwrap();
        let signature = CellBuilder::build_from(&question.signature).unwrap();
        case.store_reference(signature).unwrap();
        case.store_bit(next.is_some()).unwrap();
        if let Some(next) = next {
            case.store_reference(next).unwrap();
        }
        next = Some(case.build().unwrap());
    }
    let first = Item::Cell(next.unwrap());
    tvm.get(probe, "verdicts", &[first])
}

fn hash(seed: u32, purpose: &str) -> [u8; 32] {
    let hash = Sha256::new().chain_update(seed.to_le_bytes());
    hash.chain_update(purpose).finalize().into()
}

fn scalar(bytes: &[u8]) -> Scalar {
    use p256::elliptic_curve::ops::Reduce;
    let number = p256::U256::from_be_slice(bytes);
    let reduced = <Scalar as Reduce<p256::U256>>::reduce(number);
    assert_eq!(reduced.to_repr().len(), 32);
    reduced
}

fn number(hex: &str) -> [u8; 32] {
    let digits = format!("{hex:0>64}");
    hex::decode(digits).unwrap().try_into().unwrap()
}

fn add(number: &[u8; 32], more: u64) -> [u8; 32] {
    calculate(number, |number| {
        number.wrapping_add(&p256::U256::from(more))
    })
}

fn sub(number: &[u8; 32], less: u64) -> [u8; 32] {
    calculate(number, |number| {
        number.wrapping_sub(&p256::U256::from(less))
    })
}

fn sub_from(whole: &[u8; 32], part: &[u8; 32]) -> [u8; 32] {
    calculate(whole, |whole| {
        whole.wrapping_sub(&p256::U256::from_be_slice(part))
    })
}

fn calculate(number: &[u8; 32], with: impl Fn(p256::U256) -> p256::U256) -> [u8; 32] {
    use p256::elliptic_curve::bigint::Encoding as _;
    with(p256::U256::from_be_slice(number)).to_be_bytes()
}

const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
const FIELD: &str = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
