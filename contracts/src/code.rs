//! The compiled contracts, as they are deployed.
//!
//! `cargo xtask contracts build` compiles them; a test says when source and code
//! differ. A code's hash is half of every address that it lives at, so a test build
//! (another root of trust) can never be taken for a production build.

use tycho_types::boc::Boc;
use tycho_types::boc::de::Error;
use tycho_types::cell::{Cell, CellBuilder, Store};
use tycho_types::error::Error as CellError;
use tycho_types::models::{StateInit, StdAddr};

/// One compiled contract.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Code {
    name: &'static str,
    boc: &'static [u8],
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self {
                name: $file,
                boc: include_bytes!(concat!("../compiled/", $file, ".boc")),
            };)*

            /// Every contract, test builds included.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

codes! {
    /// One application, and what it will ask for.
    APP = "app";
    /// One payer's deposit for one payee.
    CHANNEL = "channel";
    /// What Intel says of platforms.
    COLLATERAL = "collateral";
    /// The same under the made-up root of the emulated TD: never to be trusted.
    COLLATERAL_TEST = "collateral-test";
    /// What one model costs on one kind of GPU.
    MARKET = "market";
    /// One worker.
    NODE = "node";
    /// For tests of the P-256 construction.
    P256_PROBE = "p256-probe";
    /// Which software counts.
    REGISTRY = "registry";
}

impl Code {
    /// As in the list of golden hashes.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its root cell.
    pub fn cell(&self) -> Result<Cell, Error> {
        Boc::decode(self.boc)
    }
}

/// Where a contract of this code is that begins with this state: in the basechain.
pub fn address(code: Code, first: &dyn Store) -> Result<StdAddr, CellError> {
    let code = code.cell().map_err(|_| CellError::InvalidCell)?;
    address_of(&code, &CellBuilder::build_from(first)?)
}

/// The same, of cells.
pub(crate) fn address_of(code: &Cell, first: &Cell) -> Result<StdAddr, CellError> {
    let first = StateInit {
        code: Some(code.clone()),
        data: Some(first.clone()),
        ..StateInit::default()
    };
    Ok(StdAddr::new(
        0,
        *CellBuilder::build_from(&first)?.repr_hash(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_golden_hash() {
        let golden = include_str!("../compiled/HASHES");
        let found: String = Code::ALL
            .iter()
            .map(|code| format!("{}  {}\n", code.cell().unwrap().repr_hash(), code.name()))
            .collect();
        assert_eq!(found, golden);
    }
}
