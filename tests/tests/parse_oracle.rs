//! Quotes with something wrong, before three parsers: nothing is a quote to us that is
//! none to both dcap-qvl and tdx-quote.
#![cfg(test)]

use attestation::tdx::Quote;
use tests::parsers::{Parser, vectors};

#[test]
fn nothing_parses_here_that_two_others_refuse() {
    if vectors().is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI needs the vectors");
        println!("skipped: no vectors");
        return;
    }
    let (mut taken, mut tried) = (0_u32, 0_u32);
    let quote = Parser::named("quote").unwrap();
    for bytes in quote.seeds().unwrap() {
        // Each byte of the header, the lengths and the types, and some of the rest.
        for at in (0..bytes.len()).filter(|at| *at < 64 || *at % 17 == 0 || (628..800).contains(at))
        {
            for change in [1, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                tried = tried.saturating_add(1);
                if Quote::parse(&changed).is_ok() {
                    taken = taken.saturating_add(1);
                    let others = [
                        dcap_qvl::quote::Quote::parse(&changed).is_ok(),
                        tdx_quote::Quote::from_bytes(&changed).is_ok(),
                    ];
                    assert_ne!(others, [false; 2], "byte {at} ^ {change:#x}");
                }
            }
        }
    }
    assert!(
        taken > tried / 2,
        "{taken} of {tried}: hardly anything was taken"
    );
}
