//! What a VM remembers of a secret that it was told.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use memchr::memmem;

use crate::cocoon::Gateway;
use crate::vm::Vm;

use super::chat;

/// Tells it a secret, leaves, and gives the seconds until its memory, all of which is
/// searched as its host sees it, has none of it. Its console never had.
pub(super) fn forgotten(vm: &Vm, memory: u64, gateway: Gateway) -> Result<f64> {
    chat::echo(&gateway.base, SECRET)?;
    drop(gateway);
    let left = Instant::now();
    let wide: Vec<u8> = SECRET.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let forms = [KNOWN.as_bytes(), SECRET.as_bytes(), &wide];
    loop {
        let passed = left.elapsed();
        let [known, secret, wide] = search(vm, memory, &forms)?;
        ensure!(
            known,
            "the guest's memory cannot be searched: it has no {KNOWN}"
        );
        if !secret && !wide {
            let lines = vm.console().lines();
            let said = lines.iter().any(|line| line.text.contains(SECRET));
            ensure!(!said, "the console has a secret");
            return Ok(passed.as_secs_f64());
        }
        ensure!(passed < LIMIT, "the guest's memory still has a secret");
        sleep(POLL);
    }
}

/// Which of these are anywhere in the guest's memory.
fn search<const N: usize>(vm: &Vm, memory: u64, forms: &[&[u8]; N]) -> Result<[bool; N]> {
    let mut found = [false; N];
    // Each piece ends in the next: nothing is missed between them.
    let mut start = 0;
    while start < memory {
        let size = PIECE
            .saturating_add(OVERLAP)
            .min(memory.saturating_sub(start));
        let bytes = vm
            .memory(start, size)
            .context("cannot see the guest's memory")?;
        for (found, form) in found.iter_mut().zip(forms) {
            *found |= memmem::find(&bytes, form).is_some();
        }
        start = start.saturating_add(PIECE);
    }
    Ok(found)
}

/// Of one word, so that no tokenizer needs to be asked what becomes of it.
const SECRET: &str = "quokkamarzipanvelvethollyhock";

/// What the guest knows as long as it runs.
const KNOWN: &str = "cocoon-tiny";

/// Bytes; QEMU writes so much in a moment.
const PIECE: u64 = 256 << 20;
const OVERLAP: u64 = 4096;

const POLL: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(60);
