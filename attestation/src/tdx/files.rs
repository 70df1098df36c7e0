//! Collateral as a directory of files, under the names that tools give them.
//!
//! ```text
//! tcb_info.json         tcb_info_issuer_chain.pem
//! td_qe_identity.json   td_qe_identity_issuer_chain.pem, else as for the TCB info
//! pck_platform_crl.der, pck_processor_crl.der, pck_crl.der: one or more
//!                       pck_crl_issuer_chain.pem, where there is one list
//! root_ca_crl.der
//! ```
//!
//! Of several lists a quote gets the one whose issuer its PCK certificate names; a
//! list without a chain gets the one in the quote. That decides which bytes are
//! verified, and nothing about them.

use alloc::string::String;
use alloc::vec::Vec;

use crate::crl::Crl;

use super::collateral::CollateralParts;
use super::quote::Quote;

/// The files, read and not yet looked at.
#[derive(Clone, Debug)]
pub struct CollateralFiles {
    tcb_info: String,
    tcb_info_issuer_chain: Vec<u8>,
    qe_identity: String,
    qe_identity_issuer_chain: Option<Vec<u8>>,
    /// At least one.
    pck_crls: Vec<Vec<u8>>,
    pck_crl_issuer_chain: Option<Vec<u8>>,
    root_crl: Vec<u8>,
}

impl CollateralFiles {
    /// Asks for each file by name; `None` is a file that is not there.
    pub fn read<E>(
        mut open: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, FilesError<E>> {
        let mut find = |name: &str| open(name).map_err(FilesError::Open);
        let need = |found: Option<Vec<u8>>, name| found.ok_or(FilesError::Missing { name });
        let text = |bytes, name| String::from_utf8(bytes).map_err(|_| FilesError::Text { name });

        let (tcb_info, identity) = ("tcb_info.json", "td_qe_identity.json");
        let (tcb_chain, root_crl) = ("tcb_info_issuer_chain.pem", "root_ca_crl.der");
        let mut files = Self {
            tcb_info: text(need(find(tcb_info)?, tcb_info)?, tcb_info)?,
            tcb_info_issuer_chain: need(find(tcb_chain)?, tcb_chain)?,
            qe_identity: text(need(find(identity)?, identity)?, identity)?,
            qe_identity_issuer_chain: find("td_qe_identity_issuer_chain.pem")?,
            pck_crls: Vec::new(),
            pck_crl_issuer_chain: find("pck_crl_issuer_chain.pem")?,
            root_crl: need(find(root_crl)?, root_crl)?,
        };
        for name in PCK_CRLS {
            files.pck_crls.extend(find(name)?);
        }
        match files.pck_crls.is_empty() {
            true => need(None, "pck_platform_crl.der").map(|_| files),
            false => Ok(files),
        }
    }

    /// For the verifier, with the quote that says which CA it is about, and may
    /// have to lend that CA's chain.
    #[must_use]
    pub fn parts<'a>(&'a self, quote: &Quote<'a>) -> CollateralParts<'a> {
        let (pck_crl, chain) = match &self.pck_crls[..] {
            [only] => (&only[..], self.pck_crl_issuer_chain.as_deref()),
            lists => (of_issuer(lists, quote), None),
        };
        CollateralParts {
            tcb_info: &self.tcb_info,
            tcb_info_issuer_chain: &self.tcb_info_issuer_chain,
            qe_identity: &self.qe_identity,
            qe_identity_issuer_chain: self
                .qe_identity_issuer_chain
                .as_deref()
                .unwrap_or(&self.tcb_info_issuer_chain),
            pck_crl,
            pck_crl_issuer_chain: chain.unwrap_or_else(|| quote.unverified_pck_issuer_chain()),
            root_crl: &self.root_crl,
        }
    }
}

/// The list by the CA that issued the quote's PCK certificate; empty where none is.
fn of_issuer<'a>(lists: &'a [Vec<u8>], quote: &Quote<'_>) -> &'a [u8] {
    let issuer = quote.unverified_pck_issuer();
    let by_it = |list: &&Vec<u8>| {
        Crl::parse(list).is_ok_and(|crl| issuer.as_deref() == Some(crl.unverified_issuer()))
    };
    lists.iter().find(by_it).map_or(&[], Vec::as_slice)
}

const PCK_CRLS: [&str; 3] = [
    "pck_platform_crl.der",
    "pck_processor_crl.der",
    "pck_crl.der",
];

/// Why a directory is no collateral.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FilesError<E> {
    /// A file is not there.
    #[error("{name} is missing")]
    Missing {
        /// Name of the file.
        name: &'static str,
    },
    /// A file cannot be read.
    #[error("a file cannot be read")]
    Open(#[source] E),
    /// A file is not text.
    #[error("{name} is not UTF-8")]
    Text {
        /// Name of the file.
        name: &'static str,
    },
}
