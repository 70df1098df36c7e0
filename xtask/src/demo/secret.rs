//! What a VM remembers of a secret that it was told.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use memchr::memmem;

use crate::cocoon::Gateway;
use crate::vm::Vm;

use super::chat;

/// Tells it a secret, leaves, and gives the seconds until its memory, all of which was
/// searched as its host sees it, had none of it. Its console never had.
pub(super) fn forgotten(vm: &Vm, memory: u64, gateway: Gateway) -> Result<f64> {
    chat::echo(&gateway.base, SECRET)?;
    drop(gateway);
    let left = Instant::now();
    // A register that held a part of it held one of the pieces.
    let pieces = SECRET.as_bytes().windows(10).step_by(7).map(Vec::from);
    let wide = SECRET.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let secrets: Vec<Vec<u8>> = pieces.chain([wide]).collect();
    loop {
        let [known, secret] = places(vm, memory, [&[KNOWN.into()], &secrets])?;
        let passed = left.elapsed();
        ensure!(!known.is_empty(), "a search does not find {KNOWN}");
        if secret.is_empty() {
            let lines = vm.console().lines();
            let said = lines.iter().any(|line| line.text.contains(SECRET));
            ensure!(!said, "the console has a secret");
            return Ok(passed.as_secs_f64());
        }
        ensure!(
            passed < LIMIT,
            "the guest's memory still has a secret, at {secret:#x?}"
        );
        sleep(POLL);
    }
}

/// Where in the guest's memory these are: the first place of each in each stretch.
fn places<const N: usize>(vm: &Vm, memory: u64, forms: [&[Vec<u8>]; N]) -> Result<[Vec<u64>; N]> {
    let mut places = forms.map(|_| Vec::new());
    let mut start = 0;
    while start < memory {
        // Each stretch ends in the next: nothing is missed between them.
        let size = STRETCH
            .saturating_add(OVERLAP)
            .min(memory.saturating_sub(start));
        let bytes = vm
            .memory(start, size)
            .context("cannot see the guest's memory")?;
        for (places, forms) in places.iter_mut().zip(forms) {
            let found = forms.iter().filter_map(|form| memmem::find(&bytes, form));
            let found = found.filter_map(|at| u64::try_from(at).ok());
            places.extend(found.map(|at| start.saturating_add(at)));
        }
        start = start.saturating_add(STRETCH);
    }
    Ok(places)
}

/// Of one word, so that no tokenizer needs to be asked what becomes of it.
const SECRET: &str = "quokkamarzipanvelvethollyhock";

/// What the guest knows as long as it runs.
const KNOWN: &str = "cocoon-tiny";

/// Bytes; QEMU writes so much in a moment.
const STRETCH: u64 = 256 << 20;
const OVERLAP: u64 = 4096;

const POLL: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(120);
