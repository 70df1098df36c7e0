//! Memory that is wiped when it is freed.
//!
//! A prompt passes through many hands: HTTP frames, JSON, template, tokenizer, token
//! ids, the text of the answer. Each lets go of its memory, and hardly any wipes it. Here
//! everything on the heap is wiped, whoever had it; what is not reached is stacks,
//! registers, and what is not freed.

#![allow(unsafe_code, reason = "an allocator is asked in raw pointers")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::arch::asm;
use std::ptr::write_bytes;

/// The system's memory, wiped on its way back. What grows moves, so that what was there
/// before is freed, and wiped, too.
#[derive(Debug)]
pub struct Wiping;

// SAFETY: every pointer and layout is the system's own, handed on as it came; `realloc`
// is the one that the trait makes of the others.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps what the trait asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller gives a block of this layout, which nobody uses any more.
        unsafe { write_bytes(memory, 0, layout.size()) };
        // SAFETY: no instruction; but for all that the compiler knows it reads the block,
        // so that what was written cannot be left out.
        unsafe { asm!("/* {} */", in(reg) memory, options(nostack, preserves_flags, readonly)) };
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
