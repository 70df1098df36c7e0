//! The chain on disk: one file of records, a length and a bag of cells each. The first
//! holds the states that everything begins with, each other one a block of the masterchain
//! and, where there is a new one, of the shard. States are what the blocks make of them.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use chain::bag;
use tycho_types::boc::ser::BocHeader;
use tycho_types::cell::Cell;

#[derive(Debug)]
pub(super) struct BlockFile(File);

impl BlockFile {
    /// Opens or makes the file, and reads what it has. A record that was cut off when the
    /// machine stopped is cut away.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Vec<Cell>>)> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .context("cannot read the chain")?;
        let mut records = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((record, after)) = split(rest) {
            records.push(bag::some_roots(record, 2).context("not a chain")?);
            rest = after;
        }
        let whole = bytes.len().saturating_sub(rest.len());
        let whole = u64::try_from(whole)?;
        file.set_len(whole).context("cannot cut the chain")?;
        file.seek(SeekFrom::Start(whole)).context("cannot seek")?;
        Ok((Self(file), records))
    }

    pub(super) fn append(&mut self, record: &[Cell]) -> Result<()> {
        let bytes = bag_of(record);
        let length = u32::try_from(bytes.len())?.to_le_bytes();
        let record = [&length[..], &bytes].concat();
        self.0.write_all(&record).context("cannot write the chain")
    }
}

/// A bag with several roots.
pub(super) fn bag_of(roots: &[Cell]) -> Vec<u8> {
    let mut header = BocHeader::<'_, std::hash::RandomState>::with_capacity(64);
    for root in roots {
        header.add_root(root.as_ref());
    }
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}
