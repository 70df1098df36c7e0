//! Merkle trees: many values under one head, each with a path that shows it is there.
//!
//! ```text
//! leaf = H(0x00 || value)
//! node = H(0x01 || left || right)
//! ```
//!
//! Nobody finds another value with a path to a head. Which hash it is, both ends know.
//!
//! Source: RFC 9162 (Certificate Transparency 2.0), section 2.1.

use alloc::vec::Vec;

use minicbor::{Decode, Encode};
use sha2::Digest;
use sha2::digest::Output;

/// A value of the hash.
pub type Node<H> = Output<H>;

/// The head over `leaves` (section 2.1.1), and the path of each of them to it.
#[must_use]
pub fn tree<H: Digest>(leaves: &[Node<H>]) -> (Node<H>, Vec<Path>) {
    let mut siblings = alloc::vec![Vec::new(); leaves.len()];
    let head = grow::<H>(leaves, &mut siblings);
    let size = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
    let paths = (0..).zip(siblings).map(|(index, siblings)| Path {
        index,
        size,
        siblings,
    });
    (head, paths.collect())
}

/// What stands for a value.
#[must_use]
pub fn leaf<H: Digest>(value: &[u8]) -> Node<H> {
    H::new().chain_update([0]).chain_update(value).finalize()
}

/// One value's way to the head of its tree (section 2.1.3).
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
    /// The head that a leaf leads to (section 2.1.3.2).
    pub fn head<H: Digest>(&self, leaf: Node<H>) -> Result<Node<H>, PathError> {
        let siblings = self.siblings.chunks_exact(<H as Digest>::output_size());
        if !siblings.remainder().is_empty() {
            return Err(PathError);
        }
        let mut index = self.index;
        let mut last = self.size.checked_sub(1).ok_or(PathError)?;
        if index > last {
            return Err(PathError);
        }
        let mut node = leaf;
        for sibling in siblings {
            if last == 0 {
                return Err(PathError);
            }
            if index & 1 == 1 || index == last {
                node = parent::<H>(sibling, &node);
                // Where there was no sibling the node had risen as it was.
                while index & 1 == 0 && index != 0 {
                    index >>= 1;
                    last >>= 1;
                }
            } else {
                node = parent::<H>(&node, sibling);
            }
            index >>= 1;
            last >>= 1;
        }
        match last {
            0 => Ok(node),
            _ => Err(PathError),
        }
    }
}

/// A path that does not fit the tree that it names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the path does not lead from a leaf to the head of its tree")]
pub struct PathError;

/// The head over `leaves`; each one's siblings are appended to its own.
fn grow<H: Digest>(leaves: &[Node<H>], siblings: &mut [Vec<u8>]) -> Node<H> {
    let half = match leaves {
        [] => return H::digest([]),
        [only] => return only.clone(),
        // The largest power of two that is less than their number.
        _ => leaves.len().div_ceil(2).next_power_of_two(),
    };
    let (left, right) = leaves.split_at(half);
    let (of_left, of_right) = siblings.split_at_mut(half);
    let (left, right) = (grow::<H>(left, of_left), grow::<H>(right, of_right));
    of_left.iter_mut().for_each(|path| path.extend(&right[..]));
    of_right.iter_mut().for_each(|path| path.extend(&left[..]));
    parent::<H>(&left, &right)
}

/// What stands for two subtrees.
#[must_use]
pub fn parent<H: Digest>(left: &[u8], right: &[u8]) -> Node<H> {
    let hash = H::new().chain_update([1]).chain_update(left);
    hash.chain_update(right).finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::Sha256;

    fn leaves<const N: u8>() -> Vec<Node<Sha256>> {
        (0..N).map(|value| leaf::<Sha256>(&[value])).collect()
    }

    #[test]
    fn the_tree_is_that_of_the_specification() {
        let of = leaves::<5>();
        let parent = |left: &Node<Sha256>, right: &Node<Sha256>| parent::<Sha256>(left, right);
        let four = parent(&parent(&of[0], &of[1]), &parent(&of[2], &of[3]));
        let head = |leaves: &[Node<Sha256>]| tree::<Sha256>(leaves).0;
        assert_eq!(head(&of), parent(&four, &of[4]));
        assert_eq!(head(&of[..1]), of[0]);
        assert_eq!(head(&of[..3]), parent(&parent(&of[0], &of[1]), &of[2]));
        assert_eq!(head(&[]), Sha256::digest([]));
    }

    #[test]
    fn a_path_that_does_not_fit_its_tree_is_refused() {
        let of = leaves::<3>();
        let (_, paths) = tree::<Sha256>(&of);
        let refused = |change: fn(&mut Path)| {
            let mut path = paths[0].clone();
            change(&mut path);
            assert_eq!(path.head::<Sha256>(of[0]), Err(PathError));
        };
        refused(|path| path.size = 0);
        refused(|path| path.index = 3);
        refused(|path| path.siblings.extend([0; 32]));
        refused(|path| path.siblings.truncate(32));
        refused(|path| path.siblings.push(0));
        refused(|path| path.size = u32::MAX);
    }

    proptest! {
        #[test]
        fn arbitrary_paths_never_panic(index: u32, size: u32, siblings: Vec<u8>) {
            let path = Path { index, size, siblings };
            let _head = path.head::<Sha256>(leaf::<Sha256>(&[]));
        }
    }
}
