//! What to accept of a TD, as text, and what comes of it.
//!
//! `cargo run -p attestation --example write_a_policy -- QUOTE COLLATERAL_DIR UNIX_TIME`
//!
//! A policy names what is accepted, and nothing in it is unset: a key that is left out
//! of `[platform]` is as strict as it can be, and `[identity]` has every key or is not
//! there. What is never accepted, whatever the text says: a debug TD, a revoked
//! platform, reserved bits.

use std::path::Path;
use std::{env, fs, io};

use attestation::tdx::{CollateralFiles, QuotePolicy, Report, TcbStatus};
use attestation::time::UnixTime;

/// `[platform]` is Intel's and the host's part, `[identity]` the software's.
const POLICY: &str = r#"
# What the guest put into its quote. A session computes it, a file has to be told.
# report_data = "<64 bytes in hex>"

[platform]
# Intel's verdict. "UpToDate" alone is the default.
statuses = ["UpToDate", "SWHardeningNeeded"]
# Known weaknesses that you have looked at and can live with, by name.
advisories = ["INTEL-SA-00615"]
# TCB recoveries have numbers; older collateral would hide what is known since.
min_evaluation_number = 17
# Families of processors; "any" is the default for this and all other pins.
fmspc = ["90c06f000000"]

# Without it any software does. Take the values from a published release, not from a
# quote. One table for each build: registers of two builds do not mix.
# [identity]
# mrconfigid = ["..."]           # digest of the measured configuration
# mrowner = ["00..."]            # zeros where the host sets none
# mrownerconfig = ["00..."]
# [[identity.builds]]
# mrtd = "<48 bytes in hex>"     # firmware
# rtmr0 = "..."                  # its settings, memory map and ACPI tables
# rtmr1 = "..."                  # kernel
# rtmr2 = "..."                  # command line and initrd
# rtmr3 = "..."                  # what ran later
"#;

/// The text, as the sets that a verifier asks.
pub fn policy() -> Result<QuotePolicy, toml::de::Error> {
    let policy: QuotePolicy = toml::from_str(POLICY)?;
    assert!(policy.platform.statuses.contains(&TcbStatus::UpToDate));
    assert!(policy.identity.is_none(), "so any software would do");
    Ok(policy)
}

/// Holds a stored quote against it, and prints every reason if it is not accepted.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, quote, folder, at] = &*env::args().collect::<Vec<_>>() else {
        return Err("expected QUOTE COLLATERAL_DIR UNIX_TIME".into());
    };
    let files = CollateralFiles::read(|name| match fs::read(Path::new(folder).join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    })?;
    let report = Report::new(&fs::read(quote)?, &files, &policy()?, UnixTime(at.parse()?));
    print!("{report}");
    Ok(())
}
