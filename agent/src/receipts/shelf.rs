//! Receipts of one connection, for as long as it lasts and there is room.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

/// Holds what was signed on one connection; the oldest goes first.
#[derive(Debug, Default)]
pub struct Shelf(Mutex<VecDeque<Kept>>);

struct Kept {
    id: String,
    receipt: String,
    opening: Option<Zeroizing<String>>,
}

impl Kept {
    fn size(&self) -> usize {
        let opening = self.opening.as_ref().map_or(0, |opening| opening.len());
        self.receipt.len().saturating_add(opening)
    }
}

impl Shelf {
    pub(super) fn put(&self, id: String, receipt: String, opening: Option<Zeroizing<String>>) {
        let mut kept = self.kept();
        kept.push_back(Kept {
            id,
            receipt,
            opening,
        });
        let size =
            |kept: &VecDeque<Kept>| kept.iter().map(Kept::size).fold(0, usize::saturating_add);
        while kept.len() > MAX_COUNT || (kept.len() > 1 && size(&kept) > MAX_SIZE) {
            kept.pop_front();
        }
        if size(&kept) > MAX_SIZE
            && let Some(only) = kept.back_mut()
        {
            only.opening = None;
        }
    }

    pub(super) fn receipt(&self, id: &str) -> Option<String> {
        let kept = self.kept();
        let found = kept.iter().find(|kept| kept.id == id);
        found.map(|kept| kept.receipt.clone())
    }

    /// Gives it away: there is no second.
    pub(super) fn take_opening(&self, id: &str) -> Option<Zeroizing<String>> {
        let mut kept = self.kept();
        let found = kept.iter_mut().find(|kept| kept.id == id);
        found.and_then(|kept| kept.opening.take())
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Requests that a connection can have under way at a time, which are as many receipts.
const MAX_COUNT: usize = 256;

/// Bytes of all of them. An opening has some eight for each token.
const MAX_SIZE: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let shelf = Shelf::default();
        for id in 0..=MAX_COUNT {
            shelf.put(id.to_string(), "r".into(), None);
        }
        assert_eq!(shelf.receipt("0"), None);
        assert_eq!(shelf.receipt("1").as_deref(), Some("r"));
        let large = "x".repeat(MAX_SIZE / 2);
        for id in ["a", "b", "c"] {
            shelf.put(id.into(), "r".into(), Some(large.clone().into()));
        }
        assert_eq!(
            ["1", "a", "b", "c"].map(|id| shelf.receipt(id).is_some()),
            [false, false, false, true]
        );
    }

    #[test]
    fn an_opening_is_given_once_and_one_too_large_is_not_kept() {
        let shelf = Shelf::default();
        shelf.put("a".into(), "r".into(), Some(Zeroizing::new("o".into())));
        assert_eq!(shelf.take_opening("a").unwrap().as_str(), "o");
        assert!(shelf.take_opening("a").is_none());
        shelf.put("b".into(), "r".into(), Some("x".repeat(MAX_SIZE).into()));
        assert!(shelf.take_opening("b").is_none());
        assert_eq!(shelf.receipt("b").as_deref(), Some("r"));
    }
}
