//! What an image is made of, as its build states it.
//!
//! Not measured: it says where the measured bytes come from. Whoever doubts it
//! builds again.

use alloc::string::String;
use alloc::vec::Vec;

use attestation::register::Digest256;
use serde::{Deserialize, Serialize};

/// Everything that decides the bytes of an image, apart from the source.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Materials {
    /// Which image of the source it is.
    pub profile: String,
    /// Of `image/packages.lock`: every Debian package that the build read.
    pub packages_lock: Digest256,
    /// Of `Cargo.lock`: every crate that cargo may have read.
    pub cargo_lock: Digest256,
    /// Version of the Rust toolchain.
    pub rust: String,
    /// What is in each artefact.
    pub parts: Vec<Part>,
}

/// What is in one artefact.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// File name.
    pub artefact: String,
    /// Debian packages that files were taken from, compiled or linked.
    pub debian: Vec<Package>,
    /// Crates that were linked, ours included.
    pub crates: Vec<Crate>,
}

/// A Debian package.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// As Debian calls it.
    pub name: String,
    /// With epoch.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Of the package file.
    pub sha256: Digest256,
}

/// A Rust crate.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Crate {
    /// As its registry calls it.
    pub name: String,
    /// Without build metadata.
    pub version: String,
    /// Of the crate file; none if it is part of this source.
    pub sha256: Option<Digest256>,
}
