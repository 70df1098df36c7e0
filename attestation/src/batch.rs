//! Many sessions under one quote: a platform takes a second for each.
//!
//! ```text
//! TreeHead = head of the tree over the bindings of all who wait, with SHA-512
//! ```
//!
//! Each client gets the path from its own binding to the head, which the quote
//! covers. Its session is named as before: nobody finds another binding with a
//! path to that head. The tree is that of [`merkle`].

use alloc::vec::Vec;

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256, Sha512};

use crate::binding::{Binding, ReportData};
use crate::merkle::{self, PathError};
use crate::register::Digest384;

/// The head of the tree over `bindings`, and the path of each of them to it.
#[must_use]
pub fn tree(bindings: &[Binding]) -> (TreeHead, Vec<Path>) {
    let leaves: Vec<_> = bindings.iter().map(leaf).collect();
    let (head, paths) = merkle::tree::<Sha512>(&leaves);
    (TreeHead(head.into()), paths.into_iter().map(Path).collect())
}

/// What one round of evidence is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TreeHead([u8; 64]);

impl TreeHead {
    /// What GPU `index` of `count` has to sign.
    #[must_use]
    pub fn gpu_nonce(&self, index: u32, count: u32) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"cocoon/gpu/v1\0")
            .chain_update(self.0)
            .chain_update(index.to_le_bytes())
            .chain_update(count.to_le_bytes())
            .finalize()
            .into()
    }

    /// What the CPU has to sign. `gpus` and `state` are digests of what else is shown.
    #[must_use]
    pub fn report_data(&self, gpus: &Digest384, state: &Digest384) -> ReportData {
        let hash = Sha512::new()
            .chain_update(b"cocoon/quote/v1\0")
            .chain_update(self.0)
            .chain_update(gpus.as_bytes())
            .chain_update(state.as_bytes());
        ReportData(hash.finalize().into())
    }
}

/// One binding's way to the head of its tree.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(transparent)]
pub struct Path(#[n(0)] merkle::Path);

impl Path {
    /// The head that `binding` leads to.
    pub fn head(&self, binding: &Binding) -> Result<TreeHead, PathError> {
        let head = self.0.head::<Sha512>(leaf(binding))?;
        Ok(TreeHead(head.into()))
    }
}

fn leaf(binding: &Binding) -> merkle::Node<Sha512> {
    merkle::leaf::<Sha512>(binding.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::Nonce;

    fn bindings(count: u8) -> Vec<Binding> {
        let of = |nonce| Binding::new(&Digest384::ZERO, &[0; 64], &Nonce([nonce; 32]));
        (0..count).map(of).collect()
    }

    #[test]
    fn every_path_of_every_tree_leads_to_its_head_and_for_nobody_else() {
        let all = bindings(40);
        let stranger = Binding::new(&Digest384::ZERO, &[1; 64], &Nonce([0; 32]));
        for count in 1..=all.len() {
            let (head, paths) = tree(&all[..count]);
            for (binding, path) in all.iter().zip(&paths) {
                assert_eq!(path.head(binding), Ok(head));
                assert_ne!(path.head(&stranger), Ok(head));
            }
            for (binding, path) in all.iter().zip(paths.iter().cycle().skip(1)).take(count - 1) {
                assert_ne!(path.head(binding), Ok(head), "of {count}");
            }
        }
    }

    #[test]
    fn gpus_and_state_each_change_the_report_data() {
        let (head, _) = tree(&bindings(1));
        let (zero, other) = (Digest384::ZERO, Digest384::from_bytes([1; 48]));
        let data = head.report_data(&zero, &zero);
        assert_ne!(data, head.report_data(&other, &zero));
        assert_ne!(data, head.report_data(&zero, &other));
        assert_ne!(data, tree(&bindings(2)).0.report_data(&zero, &zero));
        assert_ne!(data.0[32..], [0; 32], "as a certificate's value ends");
    }

    #[test]
    fn each_gpu_signs_its_own_nonce() {
        let (head, _) = tree(&bindings(1));
        assert_ne!(head.gpu_nonce(0, 2), head.gpu_nonce(1, 2));
        assert_ne!(head.gpu_nonce(0, 1), head.gpu_nonce(0, 2));
    }
}
