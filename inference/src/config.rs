//! Checks that all configurations share.

use crate::error::LoadError;

/// What a setting must be, where it is not.
pub(crate) fn unsupported(
    file: &'static str,
    key: &'static str,
    found: impl ToString,
    expected: impl Into<String>,
) -> LoadError {
    LoadError::Config {
        file,
        key,
        found: found.to_string(),
        expected: expected.into(),
    }
}

/// Refuses sizes of zero and those above a limit: no real model has them.
pub(crate) fn check_sizes<const N: usize>(
    file: &'static str,
    sizes: [(&'static str, usize, usize); N],
) -> Result<(), LoadError> {
    for (key, found, limit) in sizes {
        if !(1..=limit).contains(&found) {
            return Err(unsupported(file, key, found, format!("1 to {limit}")));
        }
    }
    Ok(())
}

/// Refuses a size that is not a multiple of `of`.
pub(crate) fn check_multiple(
    file: &'static str,
    key: &'static str,
    found: usize,
    of: usize,
) -> Result<(), LoadError> {
    match found.checked_rem(of) {
        Some(0) => Ok(()),
        _ => Err(unsupported(file, key, found, format!("a multiple of {of}"))),
    }
}

pub(crate) const FILE: &str = "config.json";
