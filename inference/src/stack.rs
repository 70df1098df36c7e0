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
