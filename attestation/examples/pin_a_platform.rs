//! Accepting one machine and no other, by what its quote says of the hardware.
//!
//! `cargo run -p attestation --example pin_a_platform -- QUOTE COLLATERAL_DIR UNIX_TIME`
//!
//! An up-to-date quote says "some genuine Intel server". Whoever owns one can, with an
//! interposer on its memory, get its keys and forge such quotes; a pin leaves that to
//! the owner of the one server that you mean.
//!
//! A pin is as good as the way that the first quote came: visit the machine, or have
//! somebody do it whom you trust. It does not say where a machine stands, or who runs it.

use std::path::Path;
use std::{env, fs, io};

use attestation::tdx::{
    Accept, Collateral, CollateralFiles, Platform, PlatformPolicy, Quote, Verified, verify,
};
use attestation::time::UnixTime;

/// The platform behind a quote that is known to be of the right machine.
pub fn platform(
    quote: &[u8],
    files: &CollateralFiles,
    at: UnixTime,
) -> Result<Verified, Box<dyn std::error::Error>> {
    let quote = Quote::parse(quote)?;
    let collateral = Collateral::verify(files.parts(&quote), at)?;
    Ok(verify(quote, &collateral, at)?)
}

/// A policy that takes this platform only.
pub fn pin(platform: &Platform) -> PlatformPolicy {
    PlatformPolicy {
        // Names the processor package for as long as it lives.
        ppid: Accept::OneOf([platform.ppid].into()),
        // Follows from it; a second look costs nothing.
        fmspc: Accept::OneOf([platform.fmspc].into()),
        // The registered platform, which changes when its owner registers it anew. There
        // is none under the processor CA, and a pin on none would take nothing.
        instance: match platform.instance {
            Some(instance) => Accept::OneOf([instance].into()),
            None => Accept::Any,
        },
        // `pck` could be pinned too: it changes with each TCB recovery, so that after an
        // update of the machine somebody has to look again.
        pck: Accept::Any,
        ..PlatformPolicy::strict()
    }
}

/// Prints the policy for a machine, to be kept, and what else it would take.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, quote, folder, at] = &*env::args().collect::<Vec<_>>() else {
        return Err("expected QUOTE COLLATERAL_DIR UNIX_TIME".into());
    };
    let files = CollateralFiles::read(|name| match fs::read(Path::new(folder).join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    })?;
    let verified = platform(&fs::read(quote)?, &files, UnixTime(at.parse()?))?;
    let policy = pin(verified.platform());
    println!("{}", serde_json::json!(policy));
    for check in verified.check_platform(&policy) {
        println!(
            "{}: {}, expected {}",
            check.name, check.found, check.expected
        );
    }
    Ok(())
}
