//! Keys of encrypted models: fetched by the agent's program, used here, and gone.
//!
//! The program runs without privileges, proves this machine to the key server that the
//! measured configuration names, checks what comes, and ends. It leaves each key in a
//! file in memory, from where it goes into the kernel's dm-crypt and nowhere else.

use anyhow::{Context, anyhow};
use attestation::config::{KEY_LEN, Model};
use zeroize::Zeroizing;

use crate::agent::Agent;
use crate::system::{System, User};

/// Has the keys of all encrypted models fetched.
pub(crate) fn fetch(
    system: &mut dyn System,
    models: &[Model],
    agent: &Agent,
) -> anyhow::Result<()> {
    if models.iter().all(|model| model.key.is_none()) {
        return Ok(());
    }
    system
        .create_dir(KEYS)
        .with_context(|| format!("cannot make {KEYS}"))?;
    system
        .give_to_agent(KEYS)
        .with_context(|| format!("cannot give {KEYS} to the agent"))?;
    let arguments = agent.arguments.iter().map(String::as_str);
    let arguments: Vec<_> = arguments.chain(["--fetch-keys", KEYS]).collect();
    system
        .run(agent.program, &arguments, User::Agent)
        .context("an encrypted model has no key")
}

/// The key of one model, which can be taken once.
pub(crate) fn take(
    system: &mut dyn System,
    name: &str,
) -> anyhow::Result<Zeroizing<[u8; KEY_LEN]>> {
    let path = format!("{KEYS}/{name}");
    let bytes = system
        .read(&path, KEY_LEN)
        .map(Zeroizing::new)
        .with_context(|| format!("cannot read {path}"))?;
    // The kernel wipes memory before anybody else gets it.
    system
        .remove(&path)
        .with_context(|| format!("cannot remove {path}"))?;
    let key = bytes.as_slice().try_into().map(Zeroizing::new);
    key.map_err(|_| anyhow!("{path} has {} bytes, expected {KEY_LEN}", bytes.len()))
}

/// Below the folder of the configuration, in memory.
const KEYS: &str = "/run/cocoon/keys";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;

    #[test]
    fn a_key_is_taken_once() {
        let mut double = Double::with_tpm();
        double.file("/run/cocoon/keys/m", &"k".repeat(KEY_LEN));
        assert_eq!(*take(&mut double, "m").unwrap(), [b'k'; KEY_LEN]);
        let error = take(&mut double, "m").unwrap_err().to_string();
        assert_eq!(error, "cannot read /run/cocoon/keys/m");
    }

    #[test]
    fn a_key_of_another_length_is_refused_and_removed() {
        let mut double = Double::with_tpm();
        double.file("/run/cocoon/keys/m", "short");
        let error = take(&mut double, "m").unwrap_err().to_string();
        assert_eq!(error, "/run/cocoon/keys/m has 5 bytes, expected 64");
        assert!(!double.files.contains_key("/run/cocoon/keys/m"));
    }
}
