//! Logs that real firmware wrote, and logs that no firmware may write.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use std::path::PathBuf;

use attestation::eventlog::{EventError, Kind, Log, LogError, ReplayError};
use attestation::reader::Truncated;
use attestation::register::{Digest256, Digest384};
use proptest::prelude::*;

const NO_ACTION: u32 = 3;
const SEPARATOR: u32 = 4;
const EVENT_TAG: u32 = 6;
const DRIVER_CONFIG: u32 = 0x8000_0001;
const VARIABLE_BOOT: u32 = 0x8000_0002;
const EFI_ACTION: u32 = 0x8000_0007;
const SHA256: u16 = 0x0b;
const SHA384: u16 = 0x0c;

/// A recorded file, or `None` where the vectors are not.
fn vector(name: &str) -> Option<Vec<u8>> {
    let root = std::env::var_os("COCOON_VECTORS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors")),
        PathBuf::from,
    );
    if !root.exists() {
        assert!(std::env::var_os("CI").is_none(), "CI needs the vectors");
        eprintln!("skipped: no vectors");
        return None;
    }
    Some(std::fs::read(root.join("boot").join(name)).unwrap())
}

/// RTMR0 to RTMR3 of a version 4 quote: after the header, the SEAM's fields,
/// MRTD and three digests of configuration.
fn quoted_rtmrs(quote: &[u8]) -> [Digest384; 4] {
    let (rtmrs, _) = quote[48 + 136 + 4 * 48..].as_chunks::<48>();
    std::array::from_fn(|index| Digest384::from_bytes(rtmrs[index]))
}

#[test]
fn a_log_replays_to_the_quote_of_its_boot() {
    let Some(log) = vector("google+go-tdx-guest/ccel_data.dat") else {
        return;
    };
    let quote = vector("google+go-tdx-guest/cos-113-tdx-quote.dat").unwrap();
    let log = Log::parse_ccel(&log).unwrap();
    let mut quoted = quoted_rtmrs(&quote);
    let replayed = log.clone().verify_rtmrs(&quoted).unwrap();
    assert_eq!(replayed.events().len(), 43);
    quoted[3] = Digest384::of(b"measured at run time");
    let error = log.verify_rtmrs(&quoted).unwrap_err();
    assert!(error.to_string().starts_with("RTMR3 is "), "{error}");
}

#[test]
fn a_tpm_log_replays_to_the_registers_of_its_boot() {
    let bytes = include_bytes!("vectors/ovmf-direct-boot.eventlog.bin");
    let pcrs = include_str!("vectors/ovmf-direct-boot.pcrs.txt");
    let pcrs: Vec<Digest256> = pcrs.lines().map(|line| line.parse().unwrap()).collect();
    let log = Log::parse_tpm(bytes).unwrap();
    assert_eq!(log.replay_pcrs().unwrap().as_slice(), pcrs);
    let replayed = log.verify_pcrs(pcrs.first_chunk().unwrap(), &[]).unwrap();
    let words: Vec<_> = (replayed.events().iter())
        .map(|event| format!("{}: {event}", event.register))
        .collect();
    assert_eq!(words.len(), 28);
    assert_eq!(words[0], "PCR 0: firmware version \"2025.02-8+deb13u1\"");
    assert_eq!(words[13], "PCR 4: kernel (-kernel)");
    assert_eq!(words[24], "PCR 9: kernel command line");
    assert_eq!(words[25], "PCR 9: initrd");
}

#[test]
fn a_register_that_the_kernel_extended_later_does_not_replay() {
    let Some(log) = vector("cc-api+cc-trusted-api/ccel_data.bin") else {
        return;
    };
    let quote = vector("cc-api+cc-trusted-api/quote.bin").unwrap();
    let log = Log::parse_ccel(&log).unwrap();
    let (replayed, quoted) = (log.replay_rtmrs().unwrap(), quoted_rtmrs(&quote));
    assert_eq!(replayed[..2], quoted[..2]);
    assert_eq!(
        log.verify_rtmrs(&quoted).unwrap_err().to_string(),
        format!("RTMR2 is {}, the log gives {}", quoted[2], replayed[2]),
    );
}

#[test]
fn a_second_separator_is_refused() {
    let name = "google+go-eventlog/cos-113-intel-tdx-dupe-separator-unpadded.bin";
    let Some(log) = vector(name) else { return };
    let log = Log::parse_ccel(&log).unwrap();
    let rtmrs = log.replay_rtmrs().unwrap();
    assert_eq!(
        log.verify_rtmrs(&rtmrs).unwrap_err().to_string(),
        "event 15 is a second separator in RTMR0",
    );
}

#[test]
fn logs_of_every_firmware_are_read() {
    for (name, events) in [
        (
            "confidential-containers+trustee/eventlog/CCEL_AAEL_alibabacloud",
            87,
        ),
        ("confidential-containers+trustee/eventlog/CCEL_data", 5),
        ("confidential-containers+trustee/eventlog/CCEL_data_gcp", 21),
        (
            "confidential-containers+trustee/eventlog/CCEL_data_grub",
            37,
        ),
        (
            "confidential-containers+trustee/eventlog/CCEL_data_grub_gke",
            35,
        ),
        (
            "confidential-containers+trustee/eventlog/CCEL_data_ovmf",
            20,
        ),
        ("confidential-containers+trustee/verifier/CCEL_data", 5),
        ("google+go-eventlog/CCEL_unpadded.data.bin", 19),
        ("google+go-eventlog/cos-113-intel-tdx.bin", 43),
        ("google+go-eventlog/event_log.bin", 27),
    ] {
        let Some(bytes) = vector(name) else { return };
        let log = Log::parse_ccel(&bytes).unwrap();
        assert_eq!(log.unverified_events().len(), events, "{name}");
    }
}

#[test]
fn a_direct_boot_is_told_in_words() {
    let name = "confidential-containers+trustee/eventlog/CCEL_data_ovmf";
    let Some(bytes) = vector(name) else { return };
    let log = Log::parse_ccel(&bytes).unwrap();
    let words: Vec<_> = (log.unverified_events().iter())
        .map(|event| format!("{}: {event}", event.register))
        .collect();
    for expected in [
        "RTMR0: memory map (TD HOB): \"TdxTable\"",
        "RTMR0: UEFI variable SecureBoot, 0 bytes",
        "RTMR0: settings from the VMM: \"ACPI DATA\"",
        "RTMR0: UEFI variable Boot0000, 62 bytes",
        "RTMR1: kernel (-kernel)",
        "RTMR1: firmware: \"Exit Boot Services Invocation\"",
        "RTMR2: kernel command line",
        "RTMR2: initrd",
    ] {
        assert!(words.iter().any(|found| found == expected), "{expected}");
    }
}

#[test]
fn a_log_cut_short_is_refused_or_is_a_shorter_log() {
    let Some(bytes) = vector("google+go-eventlog/CCEL_unpadded.data.bin") else {
        return;
    };
    let whole = Log::parse_ccel(&bytes).unwrap();
    let mut shorter = 0;
    for cut in 0..bytes.len() {
        match Log::parse_ccel(&bytes[..cut]) {
            Ok(log) => {
                let events = log.unverified_events();
                assert_eq!(events, &whole.unverified_events()[..events.len()]);
                shorter += 1;
            }
            Err(LogError::Truncated(_)) => {}
            Err(LogError::Event { source, .. }) => {
                assert!(matches!(source, EventError::Truncated(_)), "cut at {cut}");
            }
            Err(error) => panic!("cut at {cut}: {error}"),
        }
    }
    assert_eq!(shorter, whole.unverified_events().len());
}

const BANKS: &[(u16, u16)] = &[(SHA256, 32), (SHA384, 48)];

/// A log of both banks.
fn log(events: &[Vec<u8>]) -> Vec<u8> {
    [header(BANKS), events.concat()].concat()
}

/// TCG_PCR_EVENT around TCG_EfiSpecIDEvent.
fn header(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for (id, size) in algorithms {
        data.extend([id.to_le_bytes(), size.to_le_bytes()].concat());
    }
    data.push(0);
    first_event(NO_ACTION, &data)
}

/// TCG_PCR_EVENT.
fn first_event(kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&[0; 4][..], &kind.to_le_bytes(), &[0; 20], &len, data].concat()
}

/// TCG_PCR_EVENT2 whose digests are those of `hashed`.
fn event(index: u32, kind: u32, hashed: &[u8], data: &[u8]) -> Vec<u8> {
    let (sha256, sha384) = match kind {
        NO_ACTION => (Digest256::ZERO, Digest384::ZERO),
        _ => (Digest256::of(hashed), Digest384::of(hashed)),
    };
    [
        &index.to_le_bytes()[..],
        &kind.to_le_bytes(),
        &2_u32.to_le_bytes(),
        &SHA256.to_le_bytes(),
        sha256.as_bytes(),
        &SHA384.to_le_bytes(),
        sha384.as_bytes(),
        &u32::try_from(data.len()).unwrap().to_le_bytes(),
        data,
    ]
    .concat()
}

/// An event that hashes its data.
fn honest(index: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    event(index, kind, data, data)
}

fn separator(index: u32) -> Vec<u8> {
    honest(index, SEPARATOR, &[0; 4])
}

/// UEFI_VARIABLE_DATA.
fn variable(name: &str, data: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let chars = u64::try_from(name.len() / 2).unwrap().to_le_bytes();
    let len = u64::try_from(data.len()).unwrap().to_le_bytes();
    [&[7; 16][..], &chars, &len, &name, data].concat()
}

#[test]
fn a_tpm_log_gives_pcrs_and_the_rtmrs_of_the_same_boot() {
    let calling = b"Calling EFI Application from Boot Option";
    let bytes = log(&[
        honest(0, NO_ACTION, b"StartupLocality\0\x03"),
        honest(4, EFI_ACTION, calling),
        separator(4),
        separator(7),
        event(
            9,
            EVENT_TAG,
            b"its bytes",
            b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0",
        ),
    ]);
    let log = Log::parse_tpm(&bytes).unwrap();

    let pcrs = log.replay_pcrs().unwrap();
    let (calling256, zeros256) = (Digest256::of(calling), Digest256::of(&[0; 4]));
    assert_eq!(pcrs[0].to_string(), format!("{:064x}", 3));
    assert_eq!(pcrs[4], Digest256::ZERO.extend(calling256).extend(zeros256));
    assert_eq!(pcrs[16], Digest256::ZERO);
    assert_eq!(pcrs[17], Digest256::from_bytes([0xff; 32]));

    let rtmrs = log.replay_rtmrs().unwrap();
    let (calling384, zeros384) = (Digest384::of(calling), Digest384::of(&[0; 4]));
    assert_eq!(rtmrs[0], Digest384::ZERO.extend(zeros384));
    assert_eq!(
        rtmrs[1],
        Digest384::ZERO.extend(calling384).extend(zeros384)
    );
    assert_eq!(
        rtmrs[2],
        Digest384::ZERO.extend(Digest384::of(b"its bytes"))
    );
    assert_eq!(rtmrs[3], Digest384::ZERO);
}

#[test]
fn what_was_measured_after_the_log_must_be_stated() {
    let bytes = log(&[separator(7)]);
    let log = Log::parse_tpm(&bytes).unwrap();
    let config = Digest256::of(b"config");
    let mut signed = *log.replay_pcrs().unwrap().first_chunk::<16>().unwrap();
    signed[8] = Digest256::ZERO.extend(config);
    assert!(log.clone().verify_pcrs(&signed, &[(8, config)]).is_ok());
    let error = log.clone().verify_pcrs(&signed, &[]).unwrap_err();
    assert!(error.to_string().starts_with("PCR 8 is "), "{error}");
    let error = log.verify_pcrs(&signed, &[(24, config)]);
    assert_eq!(error, Err(ReplayError::NoSuchPcr { index: 24 }));
}

#[test]
fn separators_close_each_pcr_once() {
    let bytes = log(&[separator(0), separator(1), separator(0)]);
    let log = Log::parse_tpm(&bytes).unwrap();
    let signed = *log.replay_pcrs().unwrap().first_chunk::<16>().unwrap();
    assert_eq!(
        log.verify_pcrs(&signed, &[]).unwrap_err().to_string(),
        "event 2 is a second separator in PCR 0",
    );
}

#[test]
fn a_bank_that_the_log_lacks_is_named() {
    let missing = |algorithm| ReplayError::MissingBank { algorithm };
    let bytes = header(&[(SHA384, 48)]);
    let log = Log::parse_tpm(&bytes).unwrap();
    assert_eq!(log.replay_pcrs(), Err(missing(SHA256)));
    let bytes = header(&[(SHA256, 32)]);
    let log = Log::parse_tpm(&bytes).unwrap();
    assert_eq!(log.replay_rtmrs(), Err(missing(SHA384)));
    let log = Log::parse_ccel(&bytes).unwrap();
    assert_eq!(log.replay_pcrs(), Err(missing(SHA256)), "not PCRs");
}

#[test]
fn events_that_disagree_with_their_data_are_refused() {
    let secure_boot = variable("SecureBoot", &[1]);
    let cut = &secure_boot[..secure_boot.len() - 1];
    let longer = [&secure_boot[..], &[0]].concat();
    for (event, message) in [
        (
            event(4, EFI_ACTION, b"Exit Boot Services Invocation", b"Nothing"),
            "EV_EFI_ACTION in PCR 4: the digest is not that of the event data",
        ),
        (
            event(7, DRIVER_CONFIG, b"other", &secure_boot),
            "EV_EFI_VARIABLE_DRIVER_CONFIG in PCR 7: the digest is not that of the event data",
        ),
        (
            honest(1, VARIABLE_BOOT, &secure_boot),
            "EV_EFI_VARIABLE_BOOT in PCR 1: the digest is not that of the event data",
        ),
        (
            honest(7, SEPARATOR, &[1, 0, 0, 0]),
            "separator is neither 00000000 nor ffffffff: the firmware reports an error",
        ),
        (
            honest(7, DRIVER_CONFIG, &longer),
            "1 bytes follow the UEFI variable",
        ),
        (
            honest(7, DRIVER_CONFIG, cut),
            "variable data at offset 52 needs 1 bytes, 0 left",
        ),
        (separator(24), "register index 24 does not exist"),
    ] {
        let bytes = log(&[separator(0), event]);
        let Err(LogError::Event { index: 1, source }) = Log::parse_tpm(&bytes) else {
            panic!("expected: {message}");
        };
        assert_eq!(source.to_string(), message);
    }
}

#[test]
fn each_bank_is_recomputed() {
    let event = separator(4);
    let (sha256, sha384) = (4 + 4 + 4 + 2, 4 + 4 + 4 + 2 + 32 + 2);
    for offset in [sha256, sha384] {
        let mut forged = event.clone();
        forged[offset] ^= 1;
        let bytes = log(&[forged]);
        let error = Log::parse_tpm(&bytes).unwrap_err();
        let LogError::Event { source, .. } = error else {
            panic!("{error}");
        };
        assert!(
            matches!(
                source,
                EventError::Digest {
                    kind: Kind::SEPARATOR,
                    ..
                }
            ),
            "{source}"
        );
    }
}

#[test]
fn only_the_data_of_a_boot_variable_is_hashed() {
    let order = variable("BootOrder", &[0, 0]);
    let bytes = log(&[event(1, VARIABLE_BOOT, &[0, 0], &order)]);
    let log = Log::parse_tpm(&bytes).unwrap();
    let [event] = log.unverified_events() else {
        panic!("one event");
    };
    assert!(event.proved());
    assert_eq!(event.to_string(), "UEFI variable BootOrder, 2 bytes");
}

#[test]
fn a_remark_extends_nothing_and_has_no_digest() {
    let remark = honest(0, NO_ACTION, b"SP800-155 Event3");
    let bytes = log(std::slice::from_ref(&remark));
    let pcrs = Log::parse_tpm(&bytes).unwrap().replay_pcrs().unwrap();
    assert_eq!(pcrs[0], Digest256::ZERO);
    let mut forged = remark;
    forged[20] = 1;
    let source = EventError::NoActionDigest;
    let error = LogError::Event { index: 0, source };
    assert_eq!(Log::parse_tpm(&log(&[forged])), Err(error));
}

#[test]
fn mrtd_cannot_be_extended_by_a_log() {
    let source = EventError::Mrtd {
        kind: Kind::SEPARATOR,
    };
    let error = LogError::Event { index: 0, source };
    assert_eq!(Log::parse_ccel(&log(&[separator(0)])), Err(error));
    let source = EventError::Register { index: 5 };
    let error = LogError::Event { index: 0, source };
    assert_eq!(Log::parse_ccel(&log(&[separator(5)])), Err(error));
}

#[test]
fn digests_follow_the_header() {
    let (mut count, mut order) = (separator(0), separator(0));
    count[8] = 1;
    order[12] = 0x0d;
    let few = EventError::DigestCount {
        count: 1,
        expected: 2,
    };
    let other = EventError::Algorithm {
        id: 0x0d,
        expected: SHA256,
    };
    for (event, source) in [(count, few), (order, other)] {
        let error = LogError::Event { index: 0, source };
        assert_eq!(Log::parse_tpm(&log(&[event])), Err(error));
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let spec_id = &header(BANKS)[32..];
    let longer = [spec_id, &[0]].concat();
    let other = [b"X", &spec_id[1..]].concat();
    let wrong = |id, size| (header(&[(id, size)]), LogError::Algorithm { id, size });
    let short = Truncated {
        field: "pcrIndex",
        offset: 0,
        needed: 4,
        left: 3,
    };
    let len = Log::MAX_LEN + 1;
    for (bytes, expected) in [
        (first_event(NO_ACTION, &other), LogError::NoSpecId),
        (first_event(SEPARATOR, spec_id), LogError::NoSpecId),
        (
            first_event(NO_ACTION, &longer),
            LogError::TrailingHeader { len: 1 },
        ),
        (header(&[]), LogError::AlgorithmCount { count: 0 }),
        (header(&[(4, 20); 9]), LogError::AlgorithmCount { count: 9 }),
        (
            header(&[(4, 20); 2]),
            LogError::Algorithm { id: 4, size: 20 },
        ),
        wrong(4, 65),
        wrong(SHA256, 20),
        wrong(SHA384, 32),
        (vec![0; 3], LogError::Truncated(short)),
        (vec![0; len], LogError::TooLong { len }),
    ] {
        assert_eq!(Log::parse_tpm(&bytes), Err(expected));
    }
}

#[test]
fn a_log_of_too_many_events_is_refused() {
    let mut events = vec![honest(1, EFI_ACTION, b""); Log::MAX_EVENTS];
    assert!(Log::parse_tpm(&log(&events)).is_ok());
    events.push(separator(1));
    assert_eq!(Log::parse_tpm(&log(&events)), Err(LogError::TooManyEvents));
}

#[test]
fn only_a_ccel_has_an_unused_tail_and_only_a_uniform_one() {
    let bytes = log(&[separator(1)]);
    for filler in [0xff, 0] {
        let padded = [&bytes[..], &[filler; 100]].concat();
        assert_eq!(Log::parse_ccel(&padded), Log::parse_ccel(&bytes));
        assert!(Log::parse_tpm(&padded).is_err());
        let junk = [&padded[..], &[1]].concat();
        assert!(Log::parse_ccel(&junk).is_err());
    }
}

#[test]
fn words_of_a_log_cannot_drive_a_terminal() {
    let bytes = log(&[
        honest(4, EFI_ACTION, b"\x1b[2J\"quoted\"\n"),
        honest(7, DRIVER_CONFIG, &variable("\u{1b}[2J", &[])),
    ]);
    let log = Log::parse_tpm(&bytes).unwrap();
    for event in log.unverified_events() {
        assert!(!event.to_string().contains(char::is_control));
    }
}

proptest! {
    #[test]
    fn arbitrary_events_never_panic(kind: u8, data: Vec<u8>, tail: Vec<u8>) {
        let kinds = [1, 6, 13, 0x8000_0001_u32, 0x8000_0002, 0x8000_0003, 0x8000_000b];
        let kind = kinds[usize::from(kind) % kinds.len()];
        let bytes = [log(&[honest(1, kind, &data)]), tail].concat();
        for log in [Log::parse_tpm(&bytes), Log::parse_ccel(&bytes)].into_iter().flatten() {
            log.replay_rtmrs().unwrap();
            for event in log.unverified_events() {
                prop_assert!(!event.to_string().contains(char::is_control));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        prop_assert!(Log::parse_tpm(&bytes).is_err());
        prop_assert!(Log::parse_ccel(&bytes).is_err());
    }
}
