//! Files of other encoders, tones of other rates, and damage.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "numbers of a test"
)]

use std::f64::consts::TAU;

use hound::{WavSpec, WavWriter};
use proptest::prelude::*;

use super::*;

fn tone(rate: u32, hertz: f64, seconds: f64) -> Vec<f32> {
    let count = (f64::from(rate) * seconds) as u32;
    let samples = (0..count).map(|i| libm::sin(TAU * hertz * f64::from(i) / f64::from(rate)));
    samples.map(|x| 0.5 * x as f32).collect()
}

fn float_wav(rate: u32, channels: u16, samples: &[f32]) -> Vec<u8> {
    let spec = WavSpec {
        channels,
        sample_rate: rate,
        bits_per_sample: 32,
        sample_format: SampleFormat::Float,
    };
    let mut file = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut file, spec).unwrap();
    for sample in samples {
        writer.write_sample(*sample).unwrap();
    }
    writer.finalize().unwrap();
    file.into_inner()
}

fn int_wav(bits: u16, samples: &[i32]) -> Vec<u8> {
    let spec = WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: bits,
        sample_format: SampleFormat::Int,
    };
    let mut file = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut file, spec).unwrap();
    for sample in samples {
        writer.write_sample(*sample).unwrap();
    }
    writer.finalize().unwrap();
    file.into_inner()
}

/// Written by libsndfile: two channels of 24 bits at 44,100 Hz, tones of 1 kHz and
/// 2 kHz at half scale, 0.2 s.
const FLAC: &[u8] = include_bytes!("../../../inference/reference/tone.flac");

/// The largest difference where no edge is near.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert!(found.len().abs_diff(expected.len()) < 2);
    let pairs = found.iter().zip(expected);
    let inner = pairs.skip(200).take(expected.len() - 400);
    inner.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_tone_of_any_rate_is_the_tone_at_ours() {
    for rate in [8_000, 11_025, 22_050, 24_000, 44_100, 48_000, 96_000] {
        for hertz in [200.0, 1000.0, 3400.0] {
            let file = float_wav(rate, 1, &tone(rate, hertz, 0.25));
            let audio = Audio::decode(&file).unwrap();
            let difference = difference(audio.samples(), &tone(16_000, hertz, 0.25));
            assert!(difference < 1e-4, "{rate} {hertz} {difference}");
        }
    }
}

#[test]
fn a_tone_that_our_rate_cannot_hold_is_gone() {
    for hertz in [9_000.0, 12_000.0, 20_000.0] {
        let file = float_wav(48_000, 1, &tone(48_000, hertz, 0.25));
        let audio = Audio::decode(&file).unwrap();
        let difference = difference(audio.samples(), &vec![0.0; 4000]);
        assert!(difference < 1e-4, "{hertz} {difference}");
    }
}

#[test]
fn integers_of_every_width_have_one_scale() {
    for (bits, samples, expected) in [
        (8, vec![-128, 0, 64], vec![-1.0, 0.0, 0.5]),
        (16, vec![-32768, 0, 16384], vec![-1.0, 0.0, 0.5]),
        (24, vec![-8_388_608, 0, 4_194_304], vec![-1.0, 0.0, 0.5]),
        (32, vec![i32::MIN, 0, 1 << 30], vec![-1.0, 0.0, 0.5]),
    ] {
        let audio = Audio::decode(&int_wav(bits, &samples)).unwrap();
        assert_eq!(audio.samples(), expected);
    }
}

#[test]
fn channels_are_averaged() {
    let audio = Audio::decode(&float_wav(16_000, 2, &[1.0, 0.0, -0.5, 0.5])).unwrap();
    assert_eq!(audio.samples(), [0.5, 0.0]);
    assert_eq!(audio.duration(), Duration::from_micros(125));
}

#[test]
fn flac_of_another_encoder_is_read() {
    let audio = Audio::decode(FLAC).unwrap();
    let [low, high] = [1000.0, 2000.0].map(|hertz| tone(16_000, hertz, 0.2));
    let expected: Vec<f32> = low.iter().zip(&high).map(|(a, b)| (a + b) / 2.0).collect();
    let difference = difference(audio.samples(), &expected);
    assert!(difference < 1e-4, "{difference}");
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    for (file, message) in [
        (
            b"ID3\x04".as_slice(),
            "the file is MP3, expected WAV or FLAC",
        ),
        (b"\xff\xfb\x90", "the file is MP3, expected WAV or FLAC"),
        (b"OggS\0\x02", "the file is Ogg, expected WAV or FLAC"),
        (b"\0\0\0 ftypM4A ", "the file is MP4, expected WAV or FLAC"),
        (
            b"\x1a\x45\xdf\xa3",
            "the file is WebM, expected WAV or FLAC",
        ),
        (b"", "the file is of an unknown kind, expected WAV or FLAC"),
        (b"RIFF\0\0\0\0WAVE", "the WAV file is damaged"),
        (b"fLaC", "the FLAC file is damaged"),
        (&float_wav(16_000, 1, &[]), "the file has no sound"),
        (
            &float_wav(16_000, 1, &[f32::NAN]),
            "the WAV file is damaged",
        ),
        (&float_wav(16_000, 1, &[1e9]), "the WAV file is damaged"),
        (
            &float_wav(16_001, 1, &[0.0]),
            "the WAV file has an unusual sample rate",
        ),
        (
            &float_wav(16_000, 9, &[0.0; 9]),
            "the WAV file has more than eight channels, or none",
        ),
    ] {
        assert_eq!(Audio::decode(file).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_sound_without_end_is_refused_before_it_is_kept() {
    let mut sink = Sink::new("WAV", 8_000, 1).unwrap();
    sink.longest = 100;
    let kept = (0..100).try_for_each(|_| sink.push(0.0));
    assert_eq!(kept, Ok(()));
    assert_eq!(sink.push(0.0), Err(AudioError::TooLong));
}

#[test]
fn every_proper_prefix_is_refused() {
    let file = float_wav(48_000, 1, &tone(48_000, 440.0, 0.01));
    for end in 0..file.len() {
        Audio::decode(&file[..end]).unwrap_err();
    }
    for end in (0..FLAC.len()).step_by(97) {
        Audio::decode(&FLAC[..end]).unwrap_err();
    }
}

proptest! {
    #[test]
    fn damaged_files_never_panic(at in 0..FLAC.len(), change: u8, wav in any::<[u8; 64]>()) {
        let mut file = FLAC.to_vec();
        file[at] ^= change;
        drop(Audio::decode(&file));
        drop(Audio::decode(&[b"RIFF\x40\0\0\0WAVEfmt \x10\0\0\0".as_slice(), &wav].concat()));
    }
}
