//! Every reader on good inputs, on changed ones and on ones that grow: it ends, it
//! does not panic, and it takes memory in proportion to what it was given.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use agent::api::Cost;
use serde_json::{Map, Value};
use tests::parsers::{PARSERS, Parser, vectors};

#[test]
fn every_reader_takes_what_was_made_for_it() {
    if vectors().is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI needs the vectors");
        println!("skipped what was recorded: no vectors");
    }
    for parser in PARSERS {
        let seeds = parser.seeds().unwrap();
        let taken = seeds.iter().filter(|seed| (parser.read)(seed)).count();
        println!("{}: {taken} of {}", parser.name, seeds.len());
        assert!(taken > 0 || seeds.is_empty(), "{}", parser.name);
        assert!(!seeds.is_empty() || vectors().is_none(), "{}", parser.name);
    }
}

#[test]
fn changed_inputs_end_in_a_verdict_and_take_memory_as_their_length_allows() {
    for parser in PARSERS {
        let mut seeds = parser.seeds().unwrap();
        seeds.push(Vec::new());
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for seed in seeds.iter().cycle().take(ROUNDS.max(seeds.len())) {
            let changed = random.change(seed);
            check(parser, &changed);
        }
    }
}

/// Inputs for each reader.
const ROUNDS: usize = 300;

/// Reads, and demands that memory stays in proportion.
fn check(parser: &Parser, bytes: &[u8]) {
    // Whatever is made once.
    (parser.read)(&[]);
    let (_, peak) = peak_of(|| (parser.read)(bytes));
    let fixed = match parser.name {
        "acpi-loader" => PADDED_TABLES,
        "volumes" => DICTIONARY,
        "image" => PIXELS,
        "sound" => SAMPLES,
        _ => FIXED,
    };
    let limit = fixed + PER_BYTE * bytes.len();
    assert!(
        peak <= limit,
        "{} took {peak} bytes for an input of {}: {}",
        parser.name,
        bytes.len(),
        hex::encode(&bytes[..bytes.len().min(256)])
    );
}

/// What any reader may take, however little it gets: tables, and an error's text.
const FIXED: usize = 32 * 1024;

/// QEMU's tables are padded to 128 KiB, and its script to 4 KiB.
const PADDED_TABLES: usize = FIXED + (128 + 4) * 1024;

/// OVMF's compressed volumes name a dictionary of 16 MiB, and no larger one is taken.
const DICTIONARY: usize = 20 << 20;

/// Sixteen bytes for each pixel that an image may have: a short file may announce all.
const PIXELS: usize = 16 << 24;

/// Twice the samples that a sound may have, four bytes each: a short file may hold silence.
const SAMPLES: usize = 2 * 4 * 16_000 * 1800;

/// What a reader may take for each byte that it gets. The most is a tree of TOML or
/// JSON whose values have one character each.
const PER_BYTE: usize = 100;

/// Numbers that are the same in every run (Marsaglia, "Xorshift RNGs", 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = u64::try_from(limit.max(1)).unwrap();
        usize::try_from(self.0 % limit).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// One to three things that somebody might do to an input.
    fn change(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = bytes.len().min(at + self.below(64));
            match self.below(7) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, [self.byte(); 9].into_iter().take(end - at))),
                // A length that is not true.
                3 => self.overwrite(&mut bytes[at..], &[0xff; 8]),
                4 => self.overwrite(&mut bytes[at..], &[0x9b, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
                5 => bytes.extend_from_within(at..end),
                _ => bytes[at..end]
                    .iter_mut()
                    .take(1)
                    .for_each(|byte| *byte = self.byte()),
            }
        }
        bytes
    }

    fn overwrite(&mut self, place: &mut [u8], with: &[u8]) {
        let len = 1 + self.below(with.len());
        let pairs = place.iter_mut().zip(with).take(len);
        pairs.for_each(|(byte, new)| *byte = *new);
    }
}

#[test]
fn what_readers_ask_for_in_sum_grows_as_their_input_does() {
    for (what, reader, grow) in GROWING {
        grows(Parser::named(reader).unwrap(), what, *grow);
    }
    for parser in PARSERS {
        if let Some(grow) = parser.grown {
            assert!(
                (parser.read)(&grow(500)),
                "{} is no good input",
                parser.name
            );
            grows(parser, parser.name, grow);
        }
    }
}

#[test]
fn json_of_a_request_takes_no_more_memory_than_it_is_charged_for() {
    let list = |unit: &str| {
        let units = vec![unit; (64 << 10) / unit.len()];
        format!("{{\"input\":[{}]}}", units.join(","))
    };
    let deep = "[".repeat(100) + &"]".repeat(100);
    let map = (0..9999).map(|name| format!("\"{name}\":{{\"a\":0}}"));
    let mut bodies = vec![
        list(&deep),
        list(&format!("[{}0]", "0,".repeat(64))),
        format!("{{\"input\":\"{}\"}}", "n".repeat(64 << 10)),
        format!("{{\"input\":\"{}\\n\"}}", "n".repeat(64 << 10)),
        format!("{{\"input\":{{{}}}}}", map.collect::<Vec<_>>().join(",")),
    ];
    let short = [
        "0",
        "null",
        "1.5",
        "[]",
        "[0]",
        "[[0]]",
        "{}",
        "\"\"",
        "\"a\"",
        "\"\\n\"",
        "[0,0,0,0,0]",
        "{\"\":0}",
        "{\"a\":{\"b\":\"c\"}}",
        "{\"a\":0,\"b\":0,\"c\":0,\"d\":0,\"e\":0,\"f\":0,\"g\":0,\"h\":0}",
    ];
    bodies.extend(short.map(list));
    for body in bodies {
        let understand = || {
            let mut fields: Map<String, Value> = serde_json::from_str(&body).unwrap();
            // As what is repeated in an answer is, and as what is taken.
            let kept = fields["input"].clone();
            drop(kept);
            serde_json::from_value::<Input>(fields.remove("input").unwrap()).is_ok()
        };
        let (_, peak) = peak_of(understand);
        let (cost, counting) = peak_of(|| serde_json::from_str::<Cost>(&body).unwrap().0);
        let begin = &body[..body.len().min(40)];
        println!("{begin}: {peak} of {cost}");
        assert!(peak <= cost, "{begin}: {peak} bytes, charged for {cost}");
        assert!(counting <= 3 * body.len(), "{begin}: {counting} to count");
        assert!(cost < 4 * peak, "{begin}: {peak} bytes, charged for {cost}");
    }
}

/// A parameter of several types.
#[derive(serde::Deserialize)]
#[serde(untagged)]
#[expect(dead_code, reason = "only how it is made matters")]
enum Input {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

/// Four times as much input takes four times the memory; quadratic work, sixteen.
fn grows(parser: &Parser, what: &str, grow: Grow) {
    let [small, large] = [250, 1000].map(|count| {
        let bytes = grow(count);
        check(parser, &bytes);
        let (_, total) = total_of(|| (parser.read)(&bytes));
        total
    });
    println!("{what}: {small}, then {large} bytes in sum");
    assert!(large < 6 * small + FIXED, "{what}: {small}, then {large}");
}

/// An input that holds so many of something.
type Grow = fn(usize) -> Vec<u8>;

/// What grows, and who reads it.
const GROWING: &[(&str, &str, Grow)] = &[
    ("nested DER", "certificate", |count| vec![0x30; 2 * count]),
    ("nested DER lengths", "crl", |count| {
        [0x30, 0x80].repeat(count)
    }),
    ("lines of a chain", "pem", |count| {
        let lines = "AAAA\n".repeat(count);
        format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n").into()
    }),
    ("certificates of a chain", "pem", |count| {
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
            .repeat(count)
            .into()
    }),
    ("nested JSON", "tcb-info", |count| {
        "[".repeat(8 * count).into()
    }),
    ("members of JSON", "tcb-info", |count| {
        format!("{{{}\"id\":\"\"}}", "\"a\":[0],".repeat(count)).into()
    }),
    ("nested JSON", "release", |count| {
        "{\"a\":".repeat(8 * count).into()
    }),
    ("escapes of JSON", "qe-identity", |count| {
        format!("{{\"id\":\"{}\"}}", "\\u0041".repeat(count)).into()
    }),
    ("nested CBOR", "response", |count| vec![0x81; 8 * count]),
    ("nested CBOR of unknown length", "response", |count| {
        vec![0x9f; 8 * count]
    }),
    ("nested CBOR tags", "ra-tls", |count| vec![0xc1; 8 * count]),
    ("strings of unknown length", "request", |count| {
        [&[0x82, 0, 0x81, 0x5f][..], &[0x41, 1].repeat(count)].concat()
    }),
    ("nested TOML", "policy", |count| {
        format!("a={}", "[".repeat(count)).into()
    }),
    ("tables of TOML", "policy", |count| {
        "[a.b.c]\n".repeat(count).into()
    }),
    ("dots of TOML", "measured-config", |count| {
        format!("a{} = 1", ".a".repeat(count)).into()
    }),
    ("elements of XML", "rim", |count| {
        format!("<a>{}</a>", "<b c=\"d\">e</b>".repeat(count)).into()
    }),
    ("nested XML", "rim", |count| "<a>".repeat(4 * count).into()),
    ("attributes of XML", "rim", |count| {
        let attributes: String = (0..count).map(|name| format!(" a{name}=\"\"")).collect();
        format!("<a{attributes}/>").into()
    }),
    ("namespaces of XML", "rim", |count| {
        let names: String = (0..count)
            .map(|name| format!(" xmlns:a{name}=\"u\""))
            .collect();
        format!("<a{names}>{}</a>", "<b/>".repeat(count)).into()
    }),
    ("entities of XML", "rim", |count| {
        format!("<a>{}</a>", "&amp;".repeat(count)).into()
    }),
    ("files of an archive", "initrd", |count| {
        Parser::named("initrd").unwrap().seeds().unwrap()[0].repeat(count)
    }),
    ("commands of a script", "acpi-loader", |count| {
        vec![0; 128 * count]
    }),
];

/// What `run` says, and the most memory that it held at a time.
fn peak_of<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    PEAK.set(before);
    let result = run();
    (result, usize::try_from(PEAK.get() - before).unwrap())
}

/// What `run` says, and the sum of all that it asked for.
fn total_of<T>(run: impl FnOnce() -> T) -> (T, usize) {
    let before = TOTAL.get();
    let result = run();
    (result, TOTAL.get() - before)
}

/// Counts what each thread asks for.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static TOTAL: Cell<usize> = const { Cell::new(0) };
}

impl Counting {
    fn count(taken: usize, given: usize) {
        let signed = |size| isize::try_from(size).unwrap_or(isize::MAX);
        // What one thread takes another may give back.
        let held = HELD
            .get()
            .saturating_add(signed(taken))
            .saturating_sub(signed(given));
        HELD.set(held);
        PEAK.set(PEAK.get().max(held));
        TOTAL.set(TOTAL.get().saturating_add(taken));
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: passes every call on as it came; the counters are no memory of anyone's,
// and need no destructor, so they can be reached as long as the thread runs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size(), 0);
        // SAFETY: the caller keeps the contract, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        Self::count(0, layout.size());
        // SAFETY: `memory` came from `alloc` above, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}
