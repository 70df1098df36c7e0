//! What calls that have returned left on their thread's stack.

use std::hint::black_box;

/// Wipes it, as deep as calls of this program go. Whoever has handled a text and is
/// about to wait calls this: nothing else reaches a stack.
#[inline(never)]
pub fn wipe_stack() {
    black_box(&mut [0_u8; DEPTH]);
}

/// Measured: half of it is used where nothing is optimised.
const DEPTH: usize = 256 << 10;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    /// Leaves a text on the stack, as a call does that has handled one; where.
    #[inline(never)]
    pub(crate) fn leave() -> usize {
        let said = black_box([black_box(0x51_u8); 4096]);
        black_box(&raw const said).addr()
    }

    /// Whether most of it is still there, though something else was called since.
    pub(crate) fn is_left(place: usize) -> bool {
        let mut found = vec![0; 4096];
        let memory = File::open("/proc/self/mem").unwrap();
        let place = u64::try_from(place).unwrap();
        memory.read_exact_at(&mut found, place).unwrap();
        found.iter().filter(|byte| **byte == 0x51).count() > 1024
    }

    #[test]
    fn what_a_call_has_left_is_wiped() {
        let place = leave();
        assert!(is_left(place), "otherwise this shows nothing");
        wipe_stack();
        assert!(!is_left(place));
    }
}
