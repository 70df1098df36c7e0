//! TDX quotes over configfs-tsm, the kernel's report interface.
//!
//! ```text
//! <entry>/provider    "tdx_guest\n"
//! <entry>/generation  decimal; one more with each inblob that is committed
//! <entry>/inblob      REPORTDATA, 64 bytes; committed when the file is closed
//! <entry>/outblob     the quote; made by the first read, in 1 to 2 s
//! ```
//!
//! Close reports no error, a second writer cuts or mixes what is being read,
//! and some failures of the host read as an empty file. Hence the generation
//! before and after, and a look at the REPORTDATA that came back. Nothing here
//! shows that a quote is genuine: that is the verifier's part.
//!
//! All calls block.
//!
//! Source: Linux 6.12, `Documentation/ABI/testing/configfs-tsm`,
//! `drivers/virt/coco/tsm.c`, `drivers/virt/coco/tdx-guest/tdx-guest.c`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use attestation::reader::{Reader, Truncated};
use nix::errno::Errno;

/// One report entry, with one request in flight at a time.
pub struct Tsm {
    entry: Mutex<Entry>,
    pause: fn(Duration),
}

impl Tsm {
    /// Takes the entry at `path`, and makes it where it is missing: then it is
    /// removed again with this value.
    pub fn open(path: PathBuf) -> Result<Self, TsmError> {
        Self::over(Box::new(Configfs(path)), thread::sleep)
    }

    /// The same over other files, with another way to wait.
    pub fn over(files: Box<dyn ReportFiles>, pause: fn(Duration)) -> Result<Self, TsmError> {
        let entry = Entry::open(files)?;
        let provider = entry.read_text("provider")?;
        match provider.trim_end() {
            PROVIDER => Ok(Self {
                entry: Mutex::new(entry),
                pause,
            }),
            _ => Err(TsmError::Provider { found: provider }),
        }
    }

    /// A quote over `report_data`. Takes 1 to 2 s on real hardware.
    pub fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, TsmError> {
        let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 1..ATTEMPTS {
            match entry.quote(report_data) {
                Err(TsmError::Busy) => (self.pause)(BUSY_PAUSE),
                Err(TsmError::Interference { .. } | TsmError::Interrupted) => {}
                result => return result,
            }
        }
        entry.quote(report_data)
    }
}

/// How often one quote is asked for.
const ATTEMPTS: usize = 10;

/// The kernel looks at the host's answer once a second.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Name of the kernel's TDX provider.
const PROVIDER: &str = "tdx_guest";

/// Longest outblob, in bytes: `TSM_REPORT_OUTBLOB_MAX`.
const OUTBLOB_MAX: usize = 32 * 1024;

/// Longest text attribute that we read, in bytes.
const TEXT_MAX: usize = 64;

/// A directory of report files, which goes with this value if it came with it.
struct Entry {
    files: Box<dyn ReportFiles>,
    ours: bool,
}

impl Entry {
    fn open(files: Box<dyn ReportFiles>) -> Result<Self, TsmError> {
        let ours = match files.create() {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed("create the entry", error)),
        };
        Ok(Self { files, ours })
    }

    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, TsmError> {
        let before = self.generation()?;
        self.files
            .write("inblob", report_data)
            .map_err(|error| failed("write inblob", error))?;
        let outblob = self
            .files
            .read("outblob", OUTBLOB_MAX)
            .map_err(|error| failed("read outblob", error))?;
        let after = self.generation()?;
        // Each commit counts one; anything else means that another process writes here too.
        if after != before.wrapping_add(1) {
            return Err(TsmError::Interference { before, after });
        }
        quote_in(&outblob, report_data).map(<[u8]>::to_vec)
    }

    fn generation(&self) -> Result<u64, TsmError> {
        let text = self.read_text("generation")?;
        text.trim_end()
            .parse()
            .map_err(|_| TsmError::Generation { found: text })
    }

    fn read_text(&self, attribute: &'static str) -> Result<String, TsmError> {
        let bytes = self
            .files
            .read(attribute, TEXT_MAX)
            .map_err(|error| failed(attribute, error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = self.files.remove()
        {
            tracing::warn!(%error, "report entry left behind");
        }
    }
}

/// What an entry's files do, errno for errno.
pub trait ReportFiles: Send {
    /// Makes the entry.
    fn create(&self) -> io::Result<()>;

    /// Opens, reads to the end or to one byte beyond `limit`, closes.
    fn read(&self, attribute: &'static str, limit: usize) -> io::Result<Vec<u8>>;

    /// Removes the entry.
    fn remove(&self) -> io::Result<()>;

    /// Opens, writes, closes.
    fn write(&self, attribute: &'static str, bytes: &[u8]) -> io::Result<()>;
}

/// An entry in `/sys/kernel/config/tsm/report`, by its path.
pub struct Configfs(pub PathBuf);

impl ReportFiles for Configfs {
    fn create(&self) -> io::Result<()> {
        fs::create_dir(&self.0)
    }

    fn read(&self, attribute: &'static str, limit: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.0.join(attribute))?;
        let mut bytes = vec![0; limit.saturating_add(1)];
        let mut len = 0_usize;
        // Not `read_to_end`, which repeats a read that a signal interrupted:
        // the kernel has given up on that request.
        while let Some(space) = bytes.get_mut(len..).filter(|space| !space.is_empty()) {
            match file.read(space)? {
                0 => break,
                read => len = len.saturating_add(read),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    fn remove(&self) -> io::Result<()> {
        fs::remove_dir(&self.0)
    }

    fn write(&self, attribute: &'static str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(attribute);
        OpenOptions::new().write(true).open(path)?.write_all(bytes)
    }
}

/// The quote for the question, without the zeros that some hosts add.
fn quote_in<'a>(outblob: &'a [u8], asked: &[u8; 64]) -> Result<&'a [u8], TsmError> {
    match outblob {
        [] => return Err(TsmError::Empty),
        _ if outblob.len() > OUTBLOB_MAX => return Err(TsmError::TooLong),
        // CBOR major type 6, a tag (RFC 8949, section 3.4.5): a DICE token, which
        // newer TDX modules may give in place of a quote.
        [first, ..] if first >> 5 == 6 => return Err(TsmError::Token),
        _ => {}
    }
    let (quote, found) = read_quote(outblob).map_err(TsmError::NotAQuote)?;
    match found == asked {
        true => Ok(quote),
        false => Err(TsmError::ReportData {
            asked: hex::encode(asked),
            found: hex::encode(found),
        }),
    }
}

/// A quote at the front of `bytes`, and its REPORTDATA, which ends the TDX 1.0
/// part of the body in every version. The rest is the verifier's to judge.
fn read_quote(bytes: &[u8]) -> Result<(&[u8], &[u8; 64]), Truncated> {
    let mut reader = Reader::new(bytes);
    let version = reader.u16_le("version")?;
    reader.array::<46>("header")?;
    let body_len = match version {
        0..=4 => TD10_LEN,
        _ => {
            reader.u16_le("body type")?;
            reader.u32_le("body size")?
        }
    };
    let mut body = Reader::new(reader.slice("TD report body", size(body_len))?);
    body.array::<520>("TD report body")?;
    let report_data = body.array("REPORTDATA")?;
    let data_len = reader.u32_le("signature data length")?;
    reader.slice("signature data", size(data_len))?;
    Ok((reader.consumed(), report_data))
}

/// Body of a version 4 quote, in bytes.
const TD10_LEN: u32 = 584;

fn size(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// Why the platform gave no quote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TsmError {
    /// Also after a timeout, until the host answers.
    #[error("the host still holds an earlier quote request")]
    Busy,
    /// So some kernels report a host that failed or never answered.
    #[error("outblob is empty: the host gave no quote")]
    Empty,
    /// The kernel's counter is not a number.
    #[error("generation is {found:?}, expected a decimal number")]
    Generation {
        /// As read.
        found: String,
    },
    /// The host refused the request, or its quoting service failed.
    #[error("the host failed to make a quote")]
    HostFailed,
    /// Another process uses the entry.
    #[error(
        "generation went from {before} to {after} over one request: the entry has another user"
    )]
    Interference {
        /// Before our request.
        before: u64,
        /// After it.
        after: u64,
    },
    /// Signals kept coming.
    #[error("signals interrupted every quote request")]
    Interrupted,
    /// The files do not behave like an entry.
    #[error("cannot {operation}")]
    Io {
        /// What was tried, on what.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel has no TDX guest driver, or it went away.
    #[error("no confidential-computing driver is registered with configfs-tsm")]
    NoProvider,
    /// What came is no quote.
    #[error("outblob is not a TDX quote")]
    NotAQuote(#[source] Truncated),
    /// Another kind of machine.
    #[error("provider is {found:?}, expected {PROVIDER:?}")]
    Provider {
        /// As read.
        found: String,
    },
    /// A quote for another question.
    #[error("REPORTDATA is {found}, asked for {asked}")]
    ReportData {
        /// As written to inblob.
        asked: String,
        /// As read from the quote.
        found: String,
    },
    /// The host answered too late.
    #[error("the host took too long to make a quote")]
    TimedOut,
    /// A DICE evidence token.
    #[error("outblob is a CBOR token, expected a TDX quote")]
    Token,
    /// More than any quote.
    #[error("outblob is longer than {OUTBLOB_MAX} bytes")]
    TooLong,
}

/// Gives an errno the meaning that the TDX guest driver gives it.
fn failed(operation: &'static str, source: io::Error) -> TsmError {
    match source.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => TsmError::Busy,
        Some(Errno::EINTR) => TsmError::Interrupted,
        Some(Errno::EIO) => TsmError::HostFailed,
        Some(Errno::ENXIO) => TsmError::NoProvider,
        Some(Errno::ETIMEDOUT) => TsmError::TimedOut,
        _ => TsmError::Io { operation, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;
    use std::collections::VecDeque;
    use std::iter;
    use std::sync::Arc;

    #[test]
    fn the_answer_to_the_question_is_handed_on() {
        let steps = round(41, Ok(quote_over(ASKED)), 42);
        assert_eq!(ask(steps).unwrap(), quote_over(ASKED));
    }

    #[test]
    fn version_5_has_a_body_of_the_length_it_says() {
        let header = [&[5, 0][..], &[0; 46], &[3, 0], &648_u32.to_le_bytes()].concat();
        let quote = [&header[..], &[0; 520], &ASKED, &[0; 64], &[0; 4]].concat();
        assert_eq!(ask(round(0, Ok(quote.clone()), 1)).unwrap(), quote);
    }

    #[test]
    fn padding_after_the_quote_is_cut() {
        let padded = [quote_over(ASKED), vec![0; 39]].concat();
        assert_eq!(ask(round(0, Ok(padded), 1)).unwrap(), quote_over(ASKED));
    }

    #[test]
    fn a_signal_costs_one_more_try() {
        let interrupted = round(0, Err(Errno::EINTR), 1);
        let answered = round(1, Ok(quote_over(ASKED)), 2);
        assert_eq!(
            ask([interrupted, answered].concat()).unwrap(),
            quote_over(ASKED)
        );
        assert_eq!(PAUSED.get(), Duration::ZERO);
    }

    #[test]
    fn a_busy_host_is_asked_again_after_a_pause() {
        let busy = vec![round(5, Err(Errno::EBUSY), 6); 3].concat();
        let answered = round(8, Ok(quote_over(ASKED)), 9);
        assert_eq!(ask([busy, answered].concat()).unwrap(), quote_over(ASKED));
        assert_eq!(PAUSED.get(), 3 * BUSY_PAUSE);
    }

    #[test]
    fn another_writer_costs_one_more_try() {
        let disturbed = round(0, Ok(quote_over(ASKED)), 2);
        let answered = round(2, Ok(quote_over(ASKED)), 3);
        assert_eq!(
            ask([disturbed, answered].concat()).unwrap(),
            quote_over(ASKED)
        );
    }

    #[test]
    fn the_counter_may_wrap() {
        let steps = round(u64::MAX, Ok(quote_over(ASKED)), 0);
        assert!(ask(steps).is_ok());
    }

    #[test]
    fn what_goes_on_failing_is_an_error_of_its_own() {
        let cases = [
            (
                Err(Errno::EBUSY),
                1,
                "the host still holds an earlier quote request",
            ),
            (
                Err(Errno::EINTR),
                1,
                "signals interrupted every quote request",
            ),
            (
                Ok(quote_over(ASKED)),
                2,
                "generation went from 0 to 2 over one request: the entry has another user",
            ),
        ];
        for (outblob, after, message) in cases {
            let steps = vec![round(0, outblob, after); ATTEMPTS].concat();
            assert_eq!(ask(steps).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn each_failure_has_one_error_and_no_second_try() {
        let cases = [
            (Ok(vec![]), "outblob is empty: the host gave no quote"),
            (
                Ok(quote_over([8; 64])),
                &format!(
                    "REPORTDATA is {}, asked for {}",
                    "08".repeat(64),
                    "07".repeat(64)
                ),
            ),
            (
                Ok(quote_over(ASKED)[..631].to_vec()),
                "outblob is not a TDX quote",
            ),
            (
                Ok(vec![4; OUTBLOB_MAX + 1]),
                "outblob is longer than 32768 bytes",
            ),
            (
                Ok(vec![0xd2; 9000]),
                "outblob is a CBOR token, expected a TDX quote",
            ),
            (Err(Errno::EIO), "the host failed to make a quote"),
            (
                Err(Errno::ETIMEDOUT),
                "the host took too long to make a quote",
            ),
            (
                Err(Errno::ENXIO),
                "no confidential-computing driver is registered with configfs-tsm",
            ),
            (Err(Errno::EINVAL), "cannot read outblob"),
            (Err(Errno::ENOMEM), "cannot read outblob"),
            (Err(Errno::EFBIG), "cannot read outblob"),
        ];
        for (outblob, message) in cases {
            assert_eq!(ask(round(0, outblob, 1)).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn every_proper_prefix_is_refused() {
        let quote = quote_over(ASKED);
        for cut in 1..quote.len() {
            let error = quote_in(&quote[..cut], &ASKED).unwrap_err();
            assert!(matches!(error, TsmError::NotAQuote(_)), "cut at {cut}");
        }
    }

    #[test]
    fn a_counter_that_is_no_number_is_refused() {
        let steps = [("generation", Ok(b"many\n".to_vec()))];
        assert_eq!(
            ask(steps.to_vec()).unwrap_err().to_string(),
            r#"generation is "many\n", expected a decimal number"#,
        );
    }

    #[test]
    fn inblob_errors_name_the_file() {
        let steps = [text("generation", 0), ("inblob", Err(Errno::EFBIG))];
        let error = ask(steps.to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "cannot write inblob");
    }

    #[test]
    fn a_made_entry_is_removed_and_a_found_one_stays() {
        let provider = ("provider", Ok(b"tdx_guest\n".to_vec()));
        let made = [
            ("create", Ok(vec![])),
            provider.clone(),
            ("remove", Ok(vec![])),
        ];
        let script = Script::new(made.to_vec());
        drop(Tsm::over(Box::new(script.clone()), pause).unwrap());
        script.assert_played();

        let found = Script::new(vec![("create", Err(Errno::EEXIST)), provider]);
        drop(Tsm::over(Box::new(found.clone()), pause).unwrap());
        found.assert_played();
    }

    #[test]
    fn a_machine_that_is_no_td_is_refused_at_once() {
        let cases = [
            (
                vec![("create", Err(Errno::ENXIO))],
                "no confidential-computing driver is registered with configfs-tsm",
            ),
            (
                vec![("create", Err(Errno::EACCES))],
                "cannot create the entry",
            ),
            (
                vec![
                    ("create", Err(Errno::EEXIST)),
                    ("provider", Ok(b"sev_guest\n".to_vec())),
                ],
                r#"provider is "sev_guest\n", expected "tdx_guest""#,
            ),
        ];
        for (steps, message) in cases {
            let script = Script::new(steps);
            let error = Tsm::over(Box::new(script.clone()), pause).err().unwrap();
            assert_eq!(error.to_string(), message);
            script.assert_played();
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _quote = quote_in(&bytes, &ASKED);
        }
    }

    const ASKED: [u8; 64] = [7; 64];

    /// The parts of a quote that a client reads.
    fn quote_over(report_data: [u8; 64]) -> Vec<u8> {
        let signature = [&3_u32.to_le_bytes()[..], b"sig"].concat();
        [&[4, 0][..], &[0; 46 + 520], &report_data, &signature].concat()
    }

    /// A call and its answer.
    type Step = (&'static str, Result<Vec<u8>, Errno>);

    fn text(attribute: &'static str, value: u64) -> Step {
        (attribute, Ok(format!("{value}\n").into_bytes()))
    }

    /// One request; after an error nobody looks at the counter.
    fn round(before: u64, outblob: Result<Vec<u8>, Errno>, after: u64) -> Vec<Step> {
        let read = outblob.is_ok();
        [
            text("generation", before),
            ("inblob", Ok(vec![])),
            ("outblob", outblob),
        ]
        .into_iter()
        .chain(iter::once(text("generation", after)).filter(|_| read))
        .collect()
    }

    /// Asks an entry that was there before, and wants every step to be played.
    fn ask(steps: Vec<Step>) -> Result<Vec<u8>, TsmError> {
        PAUSED.set(Duration::ZERO);
        let opening = [
            ("create", Err(Errno::EEXIST)),
            ("provider", Ok(b"tdx_guest\n".to_vec())),
        ];
        let script = Script::new([opening.to_vec(), steps].concat());
        let result = Tsm::over(Box::new(script.clone()), pause)?.quote(&ASKED);
        script.assert_played();
        result
    }

    thread_local! {
        static PAUSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn pause(time: Duration) {
        PAUSED.set(PAUSED.get().saturating_add(time));
    }

    /// Files that give the answers of a list, and insist on its order.
    #[derive(Clone)]
    struct Script(Arc<Mutex<VecDeque<Step>>>);

    impl Script {
        fn new(steps: Vec<Step>) -> Self {
            Self(Arc::new(Mutex::new(steps.into())))
        }

        fn play(&self, call: &str) -> io::Result<Vec<u8>> {
            let (expected, answer) = self.0.lock().unwrap().pop_front().expect(call);
            assert_eq!(call, expected);
            answer.map_err(io::Error::from)
        }

        fn assert_played(&self) {
            assert_eq!(*self.0.lock().unwrap(), []);
        }
    }

    impl ReportFiles for Script {
        fn create(&self) -> io::Result<()> {
            self.play("create").map(drop)
        }

        fn read(&self, attribute: &'static str, limit: usize) -> io::Result<Vec<u8>> {
            let bytes = self.play(attribute)?;
            assert!(bytes.len() <= limit.saturating_add(1));
            Ok(bytes)
        }

        fn remove(&self) -> io::Result<()> {
            self.play("remove").map(drop)
        }

        fn write(&self, attribute: &'static str, bytes: &[u8]) -> io::Result<()> {
            assert_eq!(bytes, ASKED);
            self.play(attribute).map(drop)
        }
    }
}
