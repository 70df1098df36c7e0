//! One reader of the table, by the name in `COCOON_PARSER`.

#![no_main]

use std::env;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use parsers::Parser;

#[allow(dead_code, reason = "seeds are made by `cargo xtask fuzz`")]
#[path = "../../tests/src/parsers.rs"]
mod parsers;

fuzz_target!(|bytes: &[u8]| {
    (PARSER.read)(bytes);
});

static PARSER: LazyLock<&Parser> = LazyLock::new(|| {
    let name = env::var("COCOON_PARSER").expect("COCOON_PARSER names a reader");
    Parser::named(&name).expect("is in the table")
});
