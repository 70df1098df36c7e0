//! Collateral as a directory of files, under the names that tools give them.
//!
//! ```text
//! tcb_info.json         tcb_info_issuer_chain.pem
//! td_qe_identity.json   td_qe_identity_issuer_chain.pem, else as for the TCB info
//! pck_platform_crl.der, pck_processor_crl.der or pck_crl.der
//!                       pck_crl_issuer_chain.pem, else as in the quote
//! root_ca_crl.der
//! ```

use alloc::string::String;
use alloc::vec::Vec;

use super::collateral::CollateralParts;
use super::quote::Quote;

/// The files, read and not yet looked at.
#[derive(Clone, Debug)]
pub struct CollateralFiles {
    tcb_info: String,
    tcb_info_issuer_chain: Vec<u8>,
    qe_identity: String,
    qe_identity_issuer_chain: Option<Vec<u8>>,
    pck_crl: Vec<u8>,
    pck_crl_issuer_chain: Option<Vec<u8>>,
    root_crl: Vec<u8>,
}

impl CollateralFiles {
    /// Asks for each file by name; `None` is a file that is not there.
    pub fn read<E>(
        mut open: impl FnMut(&str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, FilesError<E>> {
        let mut first = |names: &[&'static str]| {
            for name in names {
                if let Some(bytes) = open(name).map_err(FilesError::Open)? {
                    return Ok(Some(bytes));
                }
            }
            Ok(None)
        };
        let need = |found: Option<Vec<u8>>, name| found.ok_or(FilesError::Missing { name });
        let text = |bytes, name| String::from_utf8(bytes).map_err(|_| FilesError::Text { name });

        let (tcb_info, identity) = ("tcb_info.json", "td_qe_identity.json");
        let (tcb_chain, root_crl) = ("tcb_info_issuer_chain.pem", "root_ca_crl.der");
        let pck_crls = [
            "pck_platform_crl.der",
            "pck_processor_crl.der",
            "pck_crl.der",
        ];
        Ok(Self {
            tcb_info: text(need(first(&[tcb_info])?, tcb_info)?, tcb_info)?,
            tcb_info_issuer_chain: need(first(&[tcb_chain])?, tcb_chain)?,
            qe_identity: text(need(first(&[identity])?, identity)?, identity)?,
            qe_identity_issuer_chain: first(&["td_qe_identity_issuer_chain.pem"])?,
            pck_crl: need(first(&pck_crls)?, "pck_platform_crl.der")?,
            pck_crl_issuer_chain: first(&["pck_crl_issuer_chain.pem"])?,
            root_crl: need(first(&[root_crl])?, root_crl)?,
        })
    }

    /// For the verifier, with a quote that may have to lend the chain of its CA.
    #[must_use]
    pub fn parts<'a>(&'a self, quote: &Quote<'a>) -> CollateralParts<'a> {
        CollateralParts {
            tcb_info: &self.tcb_info,
            tcb_info_issuer_chain: &self.tcb_info_issuer_chain,
            qe_identity: &self.qe_identity,
            qe_identity_issuer_chain: self
                .qe_identity_issuer_chain
                .as_deref()
                .unwrap_or(&self.tcb_info_issuer_chain),
            pck_crl: &self.pck_crl,
            pck_crl_issuer_chain: self
                .pck_crl_issuer_chain
                .as_deref()
                .unwrap_or_else(|| quote.unverified_pck_issuer_chain()),
            root_crl: &self.root_crl,
        }
    }
}

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
