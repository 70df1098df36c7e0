//! Many sessions under one quote: a platform takes a second for each.
//!
//! ```text
//! leaf     = SHA-512(0x00 || Binding)
//! node     = SHA-512(0x01 || left || right)
//! TreeHead = of the tree over the bindings of all who wait
//! ```
//!
//! Each client gets the path from its own binding to the head, which the quote
//! covers. Its session is named as before: nobody finds another binding with a
//! path to that head.
//!
//! Source: RFC 9162 (Certificate Transparency 2.0), section 2.1, with SHA-512.

use alloc::vec::Vec;

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256, Sha512};

use crate::binding::{Binding, ReportData};
use crate::register::Digest384;

/// The head of the tree over `bindings`, and the path of each of them to it.
#[must_use]
pub fn tree(bindings: &[Binding]) -> (TreeHead, Vec<Path>) {
    let leaves: Vec<Node> = bindings.iter().map(leaf).collect();
    let mut siblings = alloc::vec![Vec::new(); leaves.len()];
    let head = grow(&leaves, &mut siblings);
    let size = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
    let paths = (0..).zip(siblings).map(|(index, siblings)| Path {
        index,
        size,
        siblings,
    });
    (TreeHead(head), paths.collect())
}

/// What one round of evidence is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TreeHead(Node);

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

/// One binding's way to the head of its tree (section 2.1.3).
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
pub struct Path {
    #[n(0)]
    index: u32,
    #[n(1)]
    size: u32,
    /// The lowest first.
    #[cbor(n(2), with = "minicbor::bytes")]
    siblings: Vec<u8>,
}

impl Path {
    /// The head that `binding` leads to (section 2.1.3.2).
    pub fn head(&self, binding: &Binding) -> Result<TreeHead, PathError> {
        let (siblings, []) = self.siblings.as_chunks() else {
            return Err(PathError);
        };
        let mut index = self.index;
        let mut last = self.size.checked_sub(1).ok_or(PathError)?;
        if index > last {
            return Err(PathError);
        }
        let mut node = leaf(binding);
        for sibling in siblings {
            if last == 0 {
                return Err(PathError);
            }
            if index & 1 == 1 || index == last {
                node = parent(sibling, &node);
                // Where there was no sibling the node had risen as it was.
                while index & 1 == 0 && index != 0 {
                    index >>= 1;
                    last >>= 1;
                }
            } else {
                node = parent(&node, sibling);
            }
            index >>= 1;
            last >>= 1;
        }
        match last {
            0 => Ok(TreeHead(node)),
            _ => Err(PathError),
        }
    }
}

/// A path that does not fit the tree that it names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the path does not lead from a leaf to the head of its tree")]
pub struct PathError;

type Node = [u8; 64];

/// The head over `leaves` (section 2.1.1); each one's siblings are appended to its own.
fn grow(leaves: &[Node], siblings: &mut [Vec<u8>]) -> Node {
    let half = match leaves {
        [] => return Sha512::digest([]).into(),
        [only] => return *only,
        // The largest power of two that is less than their number.
        _ => leaves.len().div_ceil(2).next_power_of_two(),
    };
    let (left, right) = leaves.split_at(half);
    let (of_left, of_right) = siblings.split_at_mut(half);
    let (left, right) = (grow(left, of_left), grow(right, of_right));
    of_left.iter_mut().for_each(|path| path.extend(right));
    of_right.iter_mut().for_each(|path| path.extend(left));
    parent(&left, &right)
}

fn leaf(binding: &Binding) -> Node {
    let hash = Sha512::new()
        .chain_update([0])
        .chain_update(binding.as_bytes());
    hash.finalize().into()
}

fn parent(left: &Node, right: &Node) -> Node {
    let hash = Sha512::new().chain_update([1]).chain_update(left);
    hash.chain_update(right).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::Nonce;
    use proptest::prelude::*;

    fn bindings(count: u8) -> Vec<Binding> {
        let of = |nonce| Binding::new(&Digest384::ZERO, &[0; 64], &Nonce([nonce; 32]));
        (0..count).map(of).collect()
    }

    #[test]
    fn the_tree_is_that_of_the_specification() {
        let of = bindings(5);
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|index| leaf(&of[index]));
        let four = parent(&parent(&a, &b), &parent(&c, &d));
        assert_eq!(tree(&of).0, TreeHead(parent(&four, &e)));
        assert_eq!(tree(&of[..1]).0, TreeHead(a));
        assert_eq!(tree(&of[..3]).0, TreeHead(parent(&parent(&a, &b), &c)));
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
    fn a_path_that_does_not_fit_its_tree_is_refused() {
        let of = bindings(3);
        let (_, paths) = tree(&of);
        let refused = |change: fn(&mut Path)| {
            let mut path = paths[0].clone();
            change(&mut path);
            assert_eq!(path.head(&of[0]), Err(PathError));
        };
        refused(|path| path.size = 0);
        refused(|path| path.index = 3);
        refused(|path| path.siblings.extend([0; 64]));
        refused(|path| path.siblings.truncate(64));
        refused(|path| path.siblings.push(0));
        refused(|path| path.size = u32::MAX);
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

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic(index: u32, size: u32, siblings: Vec<u8>) {
            let path = Path { index, size, siblings };
            let _head = path.head(&bindings(1)[0]);
        }
    }
}
