//! What whoever passes sealed streams on can do to them.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use std::iter;

use proptest::prelude::*;
use sealed::{
    ChunkError, Envelope, MAX_CHUNK, OpenError, Opener, Response, START, SecretKey, Transcript,
    seal,
};

use common::{answer, chunks, envelope, key, open, request, settlement};

#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

const PARTS: [&[u8]; 3] = [b"first", b"second", b"third"];

fn read(mut opener: Opener, bytes: &[u8]) -> Result<Vec<Vec<u8>>, ChunkError> {
    let opened = opener.push(bytes)?;
    opener.end()?;
    Ok(opened)
}

fn hear(mut response: Response, bytes: &[u8]) -> Result<Vec<Vec<u8>>, ChunkError> {
    let opened = response.push(bytes)?;
    response.end()?;
    Ok(opened)
}

/// Opens chunks under the start of `request`.
fn judge(request: &[u8], chunks: &[u8]) -> Result<Vec<Vec<u8>>, ChunkError> {
    read(open(request).0, chunks)
}

#[test]
fn what_was_sealed_is_opened() {
    let (sealed, response) = request(&PARTS, 1);
    let opened = judge(&sealed, &sealed[START..]).unwrap();
    assert_eq!(opened, PARTS);
    let answered = answer(open(&sealed).1, &[b"yes"]);
    assert_eq!(hear(response, &answered).unwrap(), [b"yes"]);
}

#[test]
fn a_stream_without_its_end_is_truncated_wherever_it_was_cut() {
    let (sealed, _) = request(&PARTS, 1);
    let places = chunks(&sealed, START);
    for len in START..sealed.len() {
        let chunk = places.iter().filter(|place| **place <= len).count() - 1;
        let chunk = u64::try_from(chunk).unwrap();
        let cut = judge(&sealed, &sealed[START..len]);
        assert_eq!(cut, Err(ChunkError::Truncated { chunk }), "at {len}");
    }
    let answered = answer(open(&sealed).1, &PARTS);
    let end = *chunks(&answered, 32).last().unwrap();
    for len in 0..end {
        let cut = hear(request(&PARTS, 1).1, &answered[..len]);
        assert!(matches!(cut, Err(ChunkError::Truncated { .. })), "at {len}");
    }
}

#[test]
fn chunks_keep_their_order_and_number() {
    let (sealed, _) = request(&[b"one", b"two", b"end"], 1);
    let places = chunks(&sealed, START);
    let chunk = |n: usize| &sealed[places[n]..places[n + 1]];
    let reordered = [chunk(1), chunk(0), chunk(2)].concat();
    let repeated = [chunk(0), chunk(0), chunk(1), chunk(2)].concat();
    let left_out = [chunk(0), chunk(2)].concat();
    let forged = |chunk| Err(ChunkError::Forged { chunk });
    assert_eq!(judge(&sealed, &reordered), forged(0));
    assert_eq!(judge(&sealed, &repeated), forged(1));
    assert_eq!(judge(&sealed, &left_out), forged(1));
    let longer = [&sealed[START..], chunk(2)].concat();
    assert_eq!(judge(&sealed, &longer), Err(ChunkError::AfterLast));
}

#[test]
fn chunks_of_another_request_or_answer_do_not_fit() {
    let (sealed, response) = request(&PARTS, 1);
    let (other, _) = request(&PARTS, 2);
    let places = chunks(&sealed, START);
    let swapped = [
        &sealed[START..places[1]],
        &other[places[1]..places[2]],
        &sealed[places[2]..],
    ];
    let forged = |chunk| Err(ChunkError::Forged { chunk });
    assert_eq!(judge(&sealed, &swapped.concat()), forged(1));
    assert_eq!(judge(&sealed, &other[START..]), forged(0));
    let of_other = answer(open(&other).1, &PARTS);
    assert_eq!(hear(response, &of_other), forged(0));
    let own = answer(open(&sealed).1, &PARTS);
    assert_eq!(judge(&sealed, &own[32..]), forged(0), "reflected");
}

#[test]
fn another_envelope_or_another_worker_opens_nothing() {
    let (sealed, _) = request(&PARTS, 1);
    let (start, chunks) = sealed.split_at(START);
    let other = Envelope {
        limit: 4097,
        ..envelope()
    };
    let forged = Err(ChunkError::Forged { chunk: 0 });
    let (opener, _) = key().open(&other.encode(), start).unwrap();
    assert_eq!(read(opener, chunks), forged);
    let stranger = SecretKey::from_seed([8; 32]).unwrap();
    let (opener, _) = stranger.open(&envelope().encode(), start).unwrap();
    assert_eq!(read(opener, chunks), forged);
}

#[test]
fn no_bit_of_a_request_can_be_flipped() {
    let (sealed, _) = request(&[b"one", b"end"], 1);
    // The length has its own test.
    for at in (1..START).step_by(97).chain(START + 4..sealed.len()) {
        let mut spoilt = sealed.clone();
        spoilt[at] ^= 1;
        let judged = judge(&spoilt, &spoilt[START..]);
        assert!(judged.is_err(), "at {at}");
    }
}

#[test]
fn the_last_chunk_cannot_be_made_another_nor_another_the_last() {
    let (sealed, _) = request(&PARTS, 1);
    let places = chunks(&sealed, START);
    for chunk in 0..3 {
        let mut spoilt = sealed.clone();
        spoilt[places[usize::try_from(chunk).unwrap()]] ^= 0x80;
        let judged = judge(&spoilt, &spoilt[START..]);
        assert_eq!(judged, Err(ChunkError::Forged { chunk }));
    }
}

#[test]
fn a_chunk_that_announces_too_much_or_too_little_is_refused_by_its_header() {
    let (sealed, _) = request(&PARTS, 1);
    let largest = u32::try_from(MAX_CHUNK).unwrap() + 16;
    for announced in [0, 15, largest + 1, u32::MAX >> 1] {
        for last in [0, 1 << 31] {
            let header = (announced | last).to_be_bytes();
            let error = open(&sealed).0.push(&header).unwrap_err();
            assert_eq!(error, ChunkError::Size { announced });
        }
    }
    for announced in [16, largest] {
        assert_eq!(open(&sealed).0.push(&announced.to_be_bytes()), Ok(vec![]));
    }
}

#[test]
fn an_error_stays() {
    let (sealed, response) = request(&PARTS, 1);
    let mut opener = open(&sealed).0;
    let error = opener.push(&[0; 4]).unwrap_err();
    assert_eq!(opener.push(&sealed[START..]), Err(error));
    assert_eq!(opener.end(), Err(error));
    let mut response = response;
    let answered = answer(open(&sealed).1, &PARTS);
    let error = response.push(&[0; 36]).unwrap_err();
    assert_eq!(response.push(&answered[32..]), Err(error));
    assert_eq!(response.end(), Err(error));
}

#[test]
fn a_start_of_another_length_or_version_is_refused() {
    let (sealed, _) = request(&PARTS, 1);
    let open = |start: &[u8]| key().open(&envelope().encode(), start).map(drop);
    for len in [0, 1, START - 1, START + 1] {
        assert_eq!(open(&sealed[..len]), Err(OpenError::Length { found: len }));
    }
    let mut other = sealed[..START].to_vec();
    other[0] = 2;
    assert_eq!(open(&other), Err(OpenError::Version { found: 2 }));
}

#[test]
fn no_more_than_a_settlement_may_follow_an_answer() {
    let (sealed, response) = request(&PARTS, 1);
    let mut answered = answer(open(&sealed).1, &PARTS);
    let settled = settlement().encode().len();
    answered.extend(vec![0; 4096 - settled]);
    let mut response = response;
    response.push(&answered).unwrap();
    assert_eq!(response.push(&[0]), Err(ChunkError::AfterLast));
}

#[test]
fn a_chunk_never_shows_the_length_of_a_token() {
    let len = |part: &[u8]| request(&[part], 1).0.len();
    assert_eq!(len(b"a"), len(&[b'a'; 255]));
    assert_eq!(len(&[b'a'; 256]) - len(b"a"), 256);
}

proptest! {
    #[test]
    fn any_cut_of_any_stream_opens_to_the_same(
        lens in prop::collection::vec(0..150_000_usize, 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let parts: Vec<Vec<u8>> = (1_u8..).zip(&lens).map(|(n, len)| vec![n; *len]).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let (sealed, mut response) = request(&parts, 1);
        let (mut opener, responder) = open(&sealed);
        let mut opened = Vec::new();
        for piece in cut(&sealed[START..], &cuts) {
            opened.extend(opener.push(piece).unwrap());
        }
        opener.end().unwrap();
        prop_assert!(opened.concat() == parts.concat());

        let answered = answer(responder, &parts);
        let mut heard = Vec::new();
        let mut transcript = Transcript::response();
        for piece in cut(&answered, &cuts) {
            heard.extend(response.push(piece).unwrap());
            transcript.push(piece).unwrap();
        }
        prop_assert!(heard == opened);
        prop_assert_eq!(response.end().unwrap(), settlement().encode());
        let (hash, settled) = transcript.end().unwrap();
        let (hashed, after) = answered.split_at(answered.len() - settled.len());
        prop_assert_eq!(hash, attestation::register::Digest256::of(hashed));
        prop_assert_eq!(after, settlement().encode());
    }

    #[test]
    fn arbitrary_chunks_are_an_error_and_no_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let (sealed, response) = request(&PARTS, 1);
        prop_assert!(judge(&sealed, &bytes).is_err());
        prop_assert!(hear(response, &bytes).is_err());
        prop_assert!(Envelope::parse(&bytes).is_err());
    }
}

/// A stream in pieces.
fn cut<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|at| at.index(stream.len())).collect();
    places.sort_unstable();
    let ends = places.iter().copied().chain(iter::once(stream.len()));
    let starts = iter::once(0).chain(places.iter().copied());
    starts
        .zip(ends)
        .map(|(from, to)| &stream[from..to])
        .collect()
}

/// Long enough for three chunks, of which the last is not full.
fn long() -> Vec<u8> {
    (0..150_000_u32).map(|n| n.to_le_bytes()[0]).collect()
}

#[test]
fn what_is_sealed_to_a_slice_and_opened_to_one_is_what_a_vec_gets() {
    let (data, rest) = (long(), [&[][..], b"!"]);
    for end in rest {
        let (sealed, _) = request(&[&data, end], 1);
        let (start, mut sealer, _) = seal(&key().public(), &envelope().encode(), [1; 64]).unwrap();
        let mut room = vec![0xee; sealed.len()];
        let mut place = &mut room[START..];
        sealer.chunk(&data, &mut place).unwrap();
        sealer.last(end, &mut place).unwrap();
        assert!(place.is_empty());
        room[..START].copy_from_slice(&start);
        assert!(room == sealed);

        let (mut opener, mut bytes) = (open(&sealed).0, &sealed[START..]);
        let mut opened = vec![0xee; data.len() + 1024];
        let mut place = &mut opened[..];
        while opener.open(&mut bytes, &mut place).unwrap() {}
        opener.end().unwrap();
        let left = place.len();
        assert!(opened[..opened.len() - left] == [&data, end].concat());
    }
}

#[test]
fn what_has_no_room_is_neither_sealed_nor_opened() {
    let data = long();
    let (sealed, _) = request(&[&data], 1);
    for missing in [1, 70_000, sealed.len() - START] {
        let (_, sealer, _) = seal(&key().public(), b"", [1; 64]).unwrap();
        let mut room = vec![0; sealed.len() - START - missing];
        let mut place = &mut room[..];
        assert!(sealer.last(&data, &mut place).is_err());
        assert_eq!(place.len(), sealed.len() - START - missing);
    }
    let (mut opener, _) = open(&sealed);
    let (mut bytes, mut room) = (&sealed[START..], vec![0; 100_000]);
    let mut place = &mut room[..];
    assert_eq!(opener.open(&mut bytes, &mut place), Ok(true));
    let left = place.len();
    let none = Err(ChunkError::Room { needed: 65_280 });
    assert_eq!(opener.open(&mut bytes, &mut place), none);
    assert_eq!(place.len(), left);
    assert_eq!(opener.open(&mut bytes, &mut Vec::new()), none);
}

#[test]
fn nothing_of_a_chunk_that_is_forged_is_given_out() {
    let (mut sealed, _) = request(&[b"whole", &long()], 1);
    *sealed.last_mut().unwrap() ^= 1;
    for cut in [sealed.len(), 1000] {
        let (mut opener, _) = open(&sealed);
        let mut out = b"before ".to_vec();
        let forged = sealed[START..].chunks(cut).find_map(|mut piece| {
            loop {
                match opener.open(&mut piece, &mut out) {
                    Ok(true) => {}
                    Ok(false) => return None,
                    Err(error) => return Some(error),
                }
            }
        });
        assert_eq!(forged, Some(ChunkError::Forged { chunk: 3 }));
        // What came whole before: "whole" and two full chunks.
        assert!(out == [b"before whole", &long()[..2 * 65_216]].concat());
    }
}

#[test]
fn a_transcript_knows_where_a_request_ends() {
    let (sealed, _) = request(&PARTS, 1);
    let mut transcript = Transcript::request();
    transcript.push(&sealed).unwrap();
    assert_eq!(transcript.push(&[0]), Err(ChunkError::AfterLast));
    assert_eq!(transcript.push(&[]), Ok(()));
    assert_eq!(transcript.end(), Err(ChunkError::AfterLast));
    let mut transcript = Transcript::request();
    transcript.push(&sealed[..sealed.len() - 1]).unwrap();
    assert_eq!(transcript.end(), Err(ChunkError::Truncated { chunk: 2 }));
}

#[test]
fn the_same_key_and_envelope_seal_another_way_each_time() {
    let seal = |random| seal(&key().public(), b"", random).unwrap().0;
    assert_ne!(seal([1; 64]), seal([2; 64]));
}
