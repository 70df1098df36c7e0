//! Evidence that others recorded, and what other verifiers say of it.
//!
//! It lies outside the repository: in `COCOON_VECTORS`, or beside the checkout.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests and benches, each of which uses its own part"
)]

use std::fs;
use std::path::{Path, PathBuf};

use attestation::tdx::CollateralFiles;

/// The recorded TDX evidence, or `None` where there is none.
pub fn tdx() -> Option<Vectors> {
    directory("tdx")
}

/// The recorded NVIDIA evidence, or `None` where there is none.
pub fn nvidia() -> Option<Vectors> {
    directory("nvidia")
}

fn directory(name: &str) -> Option<Vectors> {
    let root = std::env::var_os("COCOON_VECTORS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors")),
        PathBuf::from,
    );
    if !root.exists() {
        assert!(std::env::var_os("CI").is_none(), "CI needs the vectors");
        println!("skipped: no vectors");
        return None;
    }
    Some(Vectors(root.join(name)))
}

/// A directory of evidence and of what goes with it.
pub struct Vectors(PathBuf);

impl Vectors {
    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.0.join(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Every quote, by the first digits of its hash.
    pub fn quotes(&self) -> Vec<(String, Vec<u8>)> {
        let mut quotes = Vec::new();
        for source in list(&self.0) {
            for path in list(&source) {
                let name = path.file_name().unwrap().to_str().unwrap();
                if name.ends_with(".quote.bin") {
                    quotes.push((name[..8].into(), fs::read(&path).unwrap()));
                }
            }
        }
        assert!(quotes.len() > 10, "quotes are missing");
        quotes
    }

    pub fn collateral(&self, name: &str) -> CollateralFiles {
        let directory = self.0.join(name);
        CollateralFiles::read(|name| match fs::read(directory.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
    }

    /// Rows of a table, each as its columns.
    pub fn table(&self, name: &str) -> Vec<Vec<String>> {
        let text = String::from_utf8(self.read(name)).unwrap();
        records(&text).into_iter().skip(1).collect()
    }
}

fn list(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Comma-separated values (RFC 4180).
fn records(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut field)),
            '\r' if !quoted => {}
            '\n' if !quoted => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            _ => field.push(character),
        }
    }
    records
}
