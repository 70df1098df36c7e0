//! The guest kernel's report interface, without the guest: entries, commits,
//! generations, and the TDX driver that asks the host for a quote.
//!
//! It is a model of what a program can observe, call by call and errno for
//! errno; [`crate::tsm_fuse`] puts it under a directory. What it keeps of the
//! original, because clients trip over it:
//!
//! - inblob is committed when its file is closed, and the result is dropped;
//! - a write that is refused as too long is still a commit at close;
//! - the first read of outblob makes the quote, in two calls: one for the size
//!   and one for the bytes, between which another writer may come;
//! - a host that never answers reads as an empty file before Linux 7.0, and
//!   leaves the driver busy in every version;
//! - one request holds up every other call.
//!
//! Reading and writing one open file gives ETXTBSY in configfs; these
//! attributes open one way only, so EACCES comes first and nobody meets it.
//!
//! Source: Linux 6.12 and 7.0, `fs/configfs/file.c`, `drivers/virt/coco`
//! (`tsm.c`, later `guest/report.c`; `tdx-guest/tdx-guest.c`).

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

/// The host's side of a GetQuote call. It is not trusted, and may do as it likes.
pub trait Host: Send {
    /// What becomes of a request.
    fn get_quote(&mut self, report_data: &[u8; 64]) -> Answer;
}

impl<F: FnMut(&[u8; 64]) -> Answer + Send> Host for F {
    fn get_quote(&mut self, report_data: &[u8; 64]) -> Answer {
        self(report_data)
    }
}

/// What becomes of a request for a quote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// These bytes, in time. No one checks that they are a quote.
    Quote(Vec<u8>),
    /// The host completes the request with an error and no bytes.
    Failed,
    /// The hypercall itself fails.
    Refused,
    /// A signal ends the wait; the host keeps the buffer for so many requests more.
    Interrupted(u32),
    /// The answer comes in the very last second of the wait.
    Late,
    /// Nothing comes; the host keeps the buffer for so many requests more.
    Silent(u32),
}

/// Which driver is modelled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Linux {
    /// Takes any completed request for a success.
    V6_12,
    /// Looks at the host's status word.
    V7_0,
}

/// The state that all files share.
pub struct Kernel {
    version: Linux,
    host: Box<dyn Host>,
    delay: Duration,
    registered: bool,
    /// Requests that will find the driver's one buffer still with the host.
    in_flight: u32,
    entries: BTreeMap<String, Entry>,
    next_entry: u64,
    intruder: Option<Vec<u8>>,
}

impl Kernel {
    /// A TD under `host`, where each quote takes `delay`.
    #[must_use]
    pub fn new(version: Linux, host: Box<dyn Host>, delay: Duration) -> Self {
        Self {
            version,
            host,
            delay,
            registered: true,
            in_flight: 0,
            entries: BTreeMap::new(),
            next_entry: 1,
            intruder: None,
        }
    }

    /// Takes the driver away, as `rmmod` would.
    pub fn unregister(&mut self) {
        self.registered = false;
    }

    /// Another process commits `inblob` between the next two calls that read an outblob.
    pub fn intrude(&mut self, inblob: &[u8]) {
        self.intruder = Some(inblob.to_vec());
    }

    /// `mkdir`
    pub fn make(&mut self, name: &str) -> Result<EntryId, Errno> {
        if self.entries.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        if !self.registered {
            return Err(Errno::ENXIO);
        }
        let id = EntryId(self.next_entry);
        self.next_entry = self.next_entry.wrapping_add(1);
        self.entries.insert(name.to_owned(), Entry::new(id));
        Ok(id)
    }

    /// `rmdir`: works with files open, which then lead nowhere.
    pub fn remove(&mut self, name: &str) -> Result<(), Errno> {
        self.entries.remove(name).map(drop).ok_or(Errno::ENOENT)
    }

    /// `ls`
    pub fn entries(&self) -> impl Iterator<Item = (&str, EntryId)> {
        self.entries
            .iter()
            .map(|(name, entry)| (&name[..], entry.id))
    }

    /// `open`: root or not, an attribute opens only for what it can do.
    pub fn open(
        &self,
        entry: EntryId,
        attribute: Attribute,
        access: Access,
    ) -> Result<Open, Errno> {
        self.entry(entry)?;
        let possible = match attribute {
            Attribute::Inblob => Access::Write,
            Attribute::Generation | Attribute::Outblob | Attribute::Provider => Access::Read,
        };
        match access == possible {
            true => Ok(Open {
                entry,
                attribute,
                content: None,
            }),
            false => Err(Errno::EACCES),
        }
    }

    /// `read`: what the first call finds is what the file holds until it is closed.
    pub fn read<'a>(&mut self, file: &'a mut Open) -> Result<&'a [u8], Errno> {
        if file.content.is_none() {
            file.content = match file.attribute {
                Attribute::Generation => Some(self.generation(file.entry)?),
                Attribute::Provider => Some(self.provider(file.entry)?),
                Attribute::Outblob => self.outblob(file.entry)?,
                Attribute::Inblob => return Err(Errno::EBADF),
            };
        }
        Ok(file.content.as_deref().unwrap_or_default())
    }

    /// `write`: kept with the open file.
    pub fn write(&mut self, file: &mut Open, offset: usize, bytes: &[u8]) -> Result<(), Errno> {
        let content = file.content.get_or_insert_default();
        let end = offset.checked_add(bytes.len()).ok_or(Errno::EFBIG)?;
        if end > INBLOB_MAX {
            return Err(Errno::EFBIG);
        }
        content.resize(content.len().max(end), 0);
        content[offset..end].copy_from_slice(bytes);
        Ok(())
    }

    /// The last `close`: commits what was written, and tells nobody how that went.
    pub fn release(&mut self, file: Open) {
        if let (Attribute::Inblob, Some(inblob)) = (file.attribute, file.content)
            && let Ok(entry) = self.entry_mut(file.entry)
        {
            entry.commit(inblob);
        }
    }

    fn generation(&self, entry: EntryId) -> Result<Vec<u8>, Errno> {
        let generation = self.entry(entry)?.write_generation;
        Ok(format!("{generation}\n").into())
    }

    fn provider(&self, entry: EntryId) -> Result<Vec<u8>, Errno> {
        self.entry(entry)?;
        match self.registered {
            true => Ok(b"tdx_guest\n".to_vec()),
            false => Err(Errno::ENXIO),
        }
    }

    /// Asks for the size, then for the bytes; no bytes are the end of the file.
    fn outblob(&mut self, entry: EntryId) -> Result<Option<Vec<u8>>, Errno> {
        let len = self.report(entry)?.len();
        if len == 0 {
            return Ok(None);
        }
        if let Some(inblob) = self.intruder.take() {
            self.entry_mut(entry)?.commit(inblob);
        }
        let report = self.report(entry)?;
        // Fresh kernel memory, where a shorter report leaves what was there.
        let mut copy = vec![STALE; len];
        for (to, from) in copy.iter_mut().zip(report) {
            *to = *from;
        }
        Ok(Some(copy))
    }

    /// The cached report, or else a new one.
    fn report(&mut self, id: EntryId) -> Result<&[u8], Errno> {
        let entry = self.entry(id)?;
        let asked = entry.inblob.clone();
        if asked.is_empty() {
            return Err(Errno::EINVAL);
        }
        if !entry.is_current() {
            self.entry_mut(id)?.outblob = None;
            let report = self.new_report(&asked)?;
            let entry = self.entry_mut(id)?;
            entry.outblob = Some(report);
            entry.read_generation = entry.write_generation;
        }
        Ok(self.entry(id)?.outblob.as_deref().unwrap_or_default())
    }

    /// The TDX driver.
    fn new_report(&mut self, inblob: &[u8]) -> Result<Vec<u8>, Errno> {
        if !self.registered {
            return Err(Errno::ENXIO);
        }
        if let Some(left) = self.in_flight.checked_sub(1) {
            self.in_flight = left;
            return Err(Errno::EBUSY);
        }
        let report_data = inblob.try_into().map_err(|_| Errno::EINVAL)?;
        let answer = self.host.get_quote(report_data);
        if answer != Answer::Refused {
            thread::sleep(self.delay);
        }
        match answer {
            Answer::Quote(bytes) if bytes.len() > QUOTE_MAX => Err(Errno::EFBIG),
            Answer::Quote(bytes) => Ok(bytes),
            Answer::Failed => self.no_quote(),
            Answer::Refused => Err(Errno::EIO),
            Answer::Interrupted(requests) => {
                self.in_flight = requests;
                Err(Errno::EINTR)
            }
            Answer::Late => Err(Errno::ETIMEDOUT),
            Answer::Silent(requests) => {
                self.in_flight = requests;
                self.no_quote()
            }
        }
    }

    /// A completed request, or one that ran out of time, with nothing in the buffer.
    const fn no_quote(&self) -> Result<Vec<u8>, Errno> {
        match self.version {
            Linux::V6_12 => Ok(Vec::new()),
            Linux::V7_0 => Err(Errno::EIO),
        }
    }

    fn entry(&self, id: EntryId) -> Result<&Entry, Errno> {
        let mut entries = self.entries.values();
        entries.find(|entry| entry.id == id).ok_or(Errno::ENOENT)
    }

    fn entry_mut(&mut self, id: EntryId) -> Result<&mut Entry, Errno> {
        let mut entries = self.entries.values_mut();
        entries.find(|entry| entry.id == id).ok_or(Errno::ENOENT)
    }
}

/// One `mkdir`: the same name made again is another.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct EntryId(pub u64);

/// The files of an entry that the TDX provider shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Attribute {
    /// Commits so far.
    Generation,
    /// REPORTDATA.
    Inblob,
    /// The quote.
    Outblob,
    /// Name of the driver.
    Provider,
}

impl Attribute {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Generation,
        Self::Inblob,
        Self::Outblob,
        Self::Provider,
    ];

    /// File name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generation => "generation",
            Self::Inblob => "inblob",
            Self::Outblob => "outblob",
            Self::Provider => "provider",
        }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// O_RDONLY
    Read,
    /// O_RDWR
    Both,
    /// O_WRONLY
    Write,
}

/// An open file.
#[derive(Debug)]
pub struct Open {
    entry: EntryId,
    attribute: Attribute,
    /// What was read or written; none before the first call.
    content: Option<Vec<u8>>,
}

struct Entry {
    id: EntryId,
    inblob: Vec<u8>,
    outblob: Option<Vec<u8>>,
    write_generation: u64,
    read_generation: u64,
}

impl Entry {
    const fn new(id: EntryId) -> Self {
        Self {
            id,
            inblob: Vec::new(),
            outblob: None,
            write_generation: 0,
            read_generation: 0,
        }
    }

    fn commit(&mut self, inblob: Vec<u8>) {
        // So many writes that the next would look like the one last read.
        if self.write_generation == self.read_generation.wrapping_sub(1) {
            return;
        }
        self.write_generation = self.write_generation.wrapping_add(1);
        self.inblob = inblob;
    }

    fn is_current(&self) -> bool {
        self.outblob.is_some() && self.read_generation == self.write_generation
    }
}

/// `TSM_REPORT_INBLOB_MAX`
const INBLOB_MAX: usize = 64;

/// `GET_QUOTE_BUF_SIZE` less its header; so configfs's own limit of 32 KiB is
/// never met.
const QUOTE_MAX: usize = 8 * 1024 - 24;

/// Stands for memory that nobody wrote.
const STALE: u8 = 0x5a;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_about_to_meet_the_last_read_stops() {
        let mut entry = Entry::new(EntryId(1));
        entry.write_generation = u64::MAX - 1;
        entry.commit(vec![1]);
        entry.commit(vec![2]);
        assert_eq!((entry.write_generation, entry.inblob), (u64::MAX, vec![1]));
    }
}
