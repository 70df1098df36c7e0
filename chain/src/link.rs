//! What the owner's wallet is asked to send: `ton://transfer` links, which wallets on a
//! phone read from a QR code, and the manifest by which they know who asks (TON Connect).
//!
//! The key of a wallet never comes near a machine that serves; this is how its owner acts.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use qrcodegen::{QrCode, QrCodeEcc};
use serde::Serialize;
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;
use tycho_types::models::StdAddr;

/// A message that a wallet would send.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// To whom.
    pub to: StdAddr,
    /// Nanotons.
    pub amount: u128,
    /// What is said.
    pub body: Option<Cell>,
    /// Code and data of a contract that is made by it.
    pub init: Option<Cell>,
}

impl Transfer {
    /// As a link.
    #[must_use]
    pub fn link(&self) -> String {
        let address = friendly(&self.to);
        let mut link = format!("ton://transfer/{address}?amount={}", self.amount);
        for (name, cell) in [("bin", &self.body), ("init", &self.init)] {
            if let Some(cell) = cell {
                let cell = URL_SAFE_NO_PAD.encode(Boc::encode(cell));
                link += &format!("&{name}={cell}");
            }
        }
        link
    }

    /// As a picture for a terminal, where the link is short enough for one.
    #[must_use]
    pub fn picture(&self) -> Option<String> {
        let code = QrCode::encode_text(&self.link(), QrCodeEcc::Low).ok()?;
        let border = 2_i32;
        let end = code.size().checked_add(border)?;
        let dark = |x, y| code.get_module(x, y);
        let mut picture = String::new();
        let mut y = border.checked_neg()?;
        while y < end {
            let below = y.checked_add(1)?;
            for x in border.checked_neg()?..end {
                picture.push(match (dark(x, y), dark(x, below)) {
                    (false, false) => '█',
                    (false, true) => '▀',
                    (true, false) => '▄',
                    (true, true) => ' ',
                });
            }
            picture.push('\n');
            y = below.checked_add(1)?;
        }
        Some(picture)
    }
}

/// An address as people exchange it: bounceable, with a check sum.
#[must_use]
pub fn friendly(address: &StdAddr) -> String {
    address.display_base64_url(true).to_string()
}

/// `tonconnect-manifest.json`: who asks.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Where the application is.
    pub url: String,
    /// What it is called.
    pub name: String,
    /// A picture of 180 by 180 pixels.
    pub icon_url: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    use tycho_types::cell::{CellBuilder, HashBytes};

    fn transfer(body: Option<Cell>) -> Transfer {
        Transfer {
            to: StdAddr::new(0, HashBytes([7; 32])),
            amount: 30_000_000,
            body,
            init: None,
        }
    }

    #[test]
    fn a_link_says_all_that_the_wallet_has_to_send() {
        let mut body = CellBuilder::new();
        body.store_u32(0x4c45_4156).unwrap();
        let body = body.build().unwrap();
        let link = transfer(Some(body.clone())).link();
        let (address, rest) = link.split_once('?').unwrap();
        let address = address.strip_prefix("ton://transfer/").unwrap();
        let flags = tycho_types::models::StdAddrFormat::any();
        let (read, _) = StdAddr::from_str_ext(address, flags).unwrap();
        assert_eq!(read, StdAddr::new(0, HashBytes([7; 32])));
        let bin = rest.strip_prefix("amount=30000000&bin=").unwrap();
        let found = Boc::decode(URL_SAFE_NO_PAD.decode(bin).unwrap()).unwrap();
        assert_eq!(found, body);
    }

    #[test]
    fn a_short_link_is_a_square_picture_and_a_long_one_is_none() {
        let picture = transfer(None).picture().unwrap();
        let lines: Vec<_> = picture.lines().collect();
        let width = lines.first().unwrap().chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width));
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(lines.first().unwrap().chars().all(|char| char == '█'));
        let long = (0..40_u8).fold(Cell::default(), |next, number| {
            let mut builder = CellBuilder::new();
            builder.store_raw(&[number; 120], 960).unwrap();
            builder.store_reference(next).unwrap();
            builder.build().unwrap()
        });
        assert_eq!(transfer(Some(long)).picture(), None);
    }

    #[test]
    fn the_manifest_has_the_names_that_wallets_read() {
        let manifest = Manifest {
            url: "https://cocoon.example".into(),
            name: "Cocoon".into(),
            icon_url: "https://cocoon.example/icon.png".into(),
        };
        let json = serde_json::to_value(manifest).unwrap();
        assert_eq!(json["iconUrl"], "https://cocoon.example/icon.png");
        assert_eq!(json["url"], "https://cocoon.example");
        assert_eq!(json["name"], "Cocoon");
    }
}
