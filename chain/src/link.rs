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
