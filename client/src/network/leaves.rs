//! The head of a growing tree over receipts (RFC 9162, section 2.1.1), from as many
//! hashes as its number of leaves has bits.

use attestation::merkle;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Of every whole subtree at the right edge its head, the smallest first.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(super) struct Leaves(Vec<Option<Node>>);

impl Leaves {
    /// Puts one more at the end.
    pub(super) fn push(&mut self, value: &[u8; 32]) {
        let mut node: [u8; 32] = merkle::leaf::<Sha256>(value).into();
        for subtree in &mut self.0 {
            match subtree.take() {
                Some(Node(left)) => node = merkle::parent::<Sha256>(&left, &node).into(),
                None => {
                    *subtree = Some(Node(node));
                    return;
                }
            }
        }
        self.0.push(Some(Node(node)));
    }

    /// Of all of them; zero of none.
    pub(super) fn head(&self) -> [u8; 32] {
        let subtrees = self.0.iter().flatten().map(|Node(node)| *node);
        let head = subtrees.reduce(|right, left| merkle::parent::<Sha256>(&left, &right).into());
        head.unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(into = "String", try_from = "String")]
struct Node([u8; 32]);

impl From<Node> for String {
    fn from(Node(node): Node) -> Self {
        hex::encode(node)
    }
}

impl TryFrom<String> for Node {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        let mut node = [0; 32];
        hex::decode_to_slice(text, &mut node)?;
        Ok(Self(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_head_is_that_of_the_whole_tree() {
        let mut leaves = Leaves::default();
        let mut all = Vec::new();
        for number in 0..70 {
            leaves.push(&[number; 32]);
            all.push(merkle::leaf::<Sha256>(&[number; 32]));
            let whole: [u8; 32] = merkle::tree::<Sha256>(&all).0.into();
            assert_eq!(leaves.head(), whole, "of {} leaves", all.len());
        }
        assert_eq!(Leaves::default().head(), [0; 32]);
    }
}
