//! What this process leaves to nobody, however it ends.
//!
//! It covers neither its memory while it runs ([`crate::wipe`]) nor what the kernel
//! does: that has no swap, and dumps no core (`image/kernel`).

use std::io;
use std::panic::{self, PanicHookInfo};

use nix::sys::prctl::set_dumpable;

/// From here on there is no core file, nobody of the same user reads the memory, and
/// of a panic only its place is told.
pub fn keep() -> io::Result<()> {
    panic::set_hook(Box::new(|panic| eprintln!("{}", place(panic))));
    Ok(set_dumpable(false)?)
}

/// Without its message, which may quote a text: that of a slice out of bounds does.
fn place(panic: &PanicHookInfo<'_>) -> String {
    match panic.location() {
        Some(location) => format!("agent: panicked at {location}"),
        None => "agent: panicked".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;
    use std::sync::mpsc;

    #[test]
    fn of_a_panic_only_the_place_is_told() {
        let (told, heard) = mpsc::channel();
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| told.send(place(panic)).unwrap()));
        let text = "h\u{fc}te";
        panic::catch_unwind(|| text[..black_box(2)].len()).unwrap_err();
        panic::set_hook(before);
        let said = heard.recv().unwrap();
        assert!(
            said.starts_with("agent: panicked at agent/src/secrecy.rs:"),
            "{said}"
        );
        assert!(!said.contains(text));
    }
}
