//! Keys and values of all sequences, in pages that are made when first needed.
//!
//! Pages are shared where a sequence begins as another of the same tenant did, images
//! included.
//! Tenants never share, so that nobody can tell from the time an answer takes what
//! somebody else has asked. A page that nobody uses keeps what it holds for its
//! tenant until its room is needed or the tenant is gone, and then is wiped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::take;

use crate::kernel::attention::{Head, Heads, PAGE};
use crate::request::{Tenant, TenantName};
use crate::vision::{Mark, Sight};

/// All pages, and who uses which.
#[derive(Debug)]
pub(crate) struct Memory {
    heads: Heads,
    layers: Vec<Vec<Head>>,
    pages: Vec<Use>,
    limit: usize,
    /// Pages that hold nothing.
    free: Vec<usize>,
    /// Pages that hold what tenants have read, by what stands before them.
    known: HashMap<Known, usize>,
    /// Known pages that nobody uses, by when they were left.
    idle: BTreeMap<u64, usize>,
    clock: u64,
    /// Pages to wipe where they are, if that is not here.
    #[cfg(any(test, feature = "cuda"))]
    elsewhere: Option<Vec<usize>>,
}

/// A page where it stands: after the page `after`, or at the beginning.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Known {
    tenant: TenantName,
    after: Option<usize>,
    content: Content,
}

/// What a page is of: tokens, and the images for which some of them stand.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Content {
    /// On the heap, where the agent wipes what is freed, and on no stack.
    tokens: Box<[u32]>,
    images: Vec<Mark>,
}

impl Content {
    /// That of all whole pages of a sequence.
    pub(crate) fn of(tokens: &[u32], sights: &[Sight]) -> impl Iterator<Item = Self> {
        let whole = tokens.chunks_exact(PAGE);
        (0_usize..).step_by(PAGE).zip(whole).map(|(start, tokens)| {
            let page = start..start.saturating_add(PAGE);
            let marks = sights.iter().map(|sight| &sight.mark);
            Self {
                tokens: tokens.into(),
                images: marks.filter(|mark| mark.is_in(&page)).cloned().collect(),
            }
        })
    }
}

#[derive(Debug, Default)]
struct Use {
    sequences: usize,
    known: Option<Known>,
    /// Known pages that stand after this one.
    followers: usize,
    /// When it was left, if it is idle.
    left: Option<u64>,
}

impl Memory {
    /// For as many pages as `bytes` have room for, two at least.
    pub(crate) fn new(heads: Heads, layers: usize, bytes: u64) -> Self {
        let page = Self::page_bytes(heads, layers);
        let limit = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .checked_div(page);
        let layer = || {
            std::iter::repeat_with(Head::default)
                .take(heads.kv)
                .collect()
        };
        Self {
            heads,
            layers: std::iter::repeat_with(layer).take(layers).collect(),
            pages: Vec::new(),
            limit: limit.unwrap_or(0).max(2),
            free: Vec::new(),
            known: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
            #[cfg(any(test, feature = "cuda"))]
            elsewhere: None,
        }
    }

    /// Keeps what pages hold elsewhere from now on, where there is as much room.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn leave_here(&mut self) {
        self.layers.clear();
        self.elsewhere = Some(Vec::new());
    }

    /// Pages that are to be wiped elsewhere.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn wipe_elsewhere(&mut self) -> &mut Vec<usize> {
        self.elsewhere.get_or_insert_default()
    }

    /// Most pages that there are.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    fn page_bytes(heads: Heads, layers: usize) -> usize {
        // Two bytes for each number.
        let numbers = heads.width.saturating_add(heads.values);
        let bytes = numbers.saturating_mul(2).saturating_mul(PAGE);
        bytes.saturating_mul(heads.kv).saturating_mul(layers)
    }

    /// Tokens that one sequence can have.
    pub(crate) fn capacity(&self) -> usize {
        self.limit.saturating_mul(PAGE)
    }

    /// The heads of each layer.
    pub(crate) fn layers(&mut self) -> impl Iterator<Item = &mut [Head]> {
        self.layers.iter_mut().map(Vec::as_mut_slice)
    }

    /// Pages that hold the beginning of `tokens` already, used from now on. At least
    /// one token is left to read.
    pub(crate) fn recall(
        &mut self,
        tenant: &Tenant,
        tokens: &[u32],
        sights: &[Sight],
    ) -> Vec<usize> {
        let mut pages = Vec::new();
        let but_one = tokens.split_last().map_or(tokens, |(_, tokens)| tokens);
        for content in Content::of(but_one, sights) {
            let known = Known {
                tenant: tenant.name(),
                after: pages.last().copied(),
                content,
            };
            let Some(page) = self.known.get(&known).copied() else {
                break;
            };
            self.take(page);
            pages.push(page);
        }
        pages
    }

    /// Pages that can still be had.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        let unmade = self.limit.saturating_sub(self.pages.len());
        unmade
            .saturating_add(self.free.len())
            .saturating_add(self.idle.len())
    }

    /// One more page for a sequence, if there is room.
    pub(crate) fn page(&mut self) -> Option<usize> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.pages.len() < self.limit => self.grow(),
            None => self.forget()?,
        };
        self.take(page);
        Some(page)
    }

    /// Lets later sequences of the tenant share a page that has been filled.
    pub(crate) fn remember(
        &mut self,
        tenant: &Tenant,
        after: Option<usize>,
        page: usize,
        content: Content,
    ) {
        let known = Known {
            tenant: tenant.name(),
            after,
            content,
        };
        let stands = after.is_none_or(|after| {
            self.pages
                .get(after)
                .is_some_and(|after| after.known.is_some())
        });
        if !stands || self.known.contains_key(&known) {
            return;
        }
        if let Some(entry) = self.pages.get_mut(page).filter(|page| page.known.is_none()) {
            entry.known = Some(known.clone());
            self.known.insert(known, page);
            if let Some(after) = after.and_then(|after| self.pages.get_mut(after)) {
                after.followers = after.followers.saturating_add(1);
            }
        }
    }

    /// Gives back the pages of a sequence.
    pub(crate) fn leave(&mut self, pages: Vec<usize>) {
        // The last first: it is of use to the fewest.
        for page in pages.into_iter().rev() {
            let Some(entry) = self.pages.get_mut(page) else {
                continue;
            };
            entry.sequences = entry.sequences.saturating_sub(1);
            if entry.sequences > 0 {
                continue;
            }
            if entry.known.is_some() {
                entry.left = Some(self.clock);
                self.idle.insert(self.clock, page);
                self.clock = self.clock.saturating_add(1);
            } else {
                self.wipe(page);
                self.free.push(page);
            }
        }
    }

    fn take(&mut self, page: usize) {
        if let Some(entry) = self.pages.get_mut(page) {
            entry.sequences = entry.sequences.saturating_add(1);
            if let Some(left) = entry.left.take() {
                self.idle.remove(&left);
            }
        }
    }

    fn grow(&mut self) -> usize {
        for head in self.layers.iter_mut().flatten() {
            head.grow(self.heads);
        }
        self.pages.push(Use::default());
        self.pages.len().saturating_sub(1)
    }

    /// Empties the pages of tenants that are gone. None of theirs is in use.
    pub(crate) fn forget_gone(&mut self) {
        // Found first: of one that goes meanwhile all pages stay, or none.
        let names = self.known.keys().map(|known| &known.tenant);
        let gone: HashSet<_> = names.filter(|name| name.is_gone()).cloned().collect();
        let pages = &self.pages;
        let theirs = |page: usize| {
            let known = pages.get(page).and_then(|page| page.known.as_ref());
            known.is_some_and(|known| gone.contains(&known.tenant))
        };
        let left = self.idle.extract_if(.., |_, page| theirs(*page));
        for (_, page) in left.collect::<Vec<_>>() {
            // What stands before and after it goes, too.
            if let Some(known) = self.pages.get_mut(page).and_then(|page| take(page).known) {
                self.known.remove(&known);
            }
            self.wipe(page);
            self.free.push(page);
        }
    }

    /// Empties the page that was left first, of those that nothing known stands after.
    fn forget(&mut self) -> Option<usize> {
        let last = |page: &usize| {
            self.pages
                .get(*page)
                .is_some_and(|page| page.followers == 0)
        };
        let (left, page) = self.idle.iter().find(|(_, page)| last(page))?;
        let (left, page) = (*left, *page);
        self.idle.remove(&left);
        let entry = self.pages.get_mut(page)?;
        entry.left = None;
        let known = entry.known.take()?;
        self.known.remove(&known);
        if let Some(after) = known.after.and_then(|after| self.pages.get_mut(after)) {
            after.followers = after.followers.saturating_sub(1);
        }
        self.wipe(page);
        Some(page)
    }

    fn wipe(&mut self, page: usize) {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(pages) = &mut self.elsewhere {
            pages.push(page);
        }
        for head in self.layers.iter_mut().flatten() {
            head.wipe(page);
        }
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of a test")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADS: Heads = Heads {
        query: 2,
        kv: 1,
        width: 16,
        values: 16,
    };

    /// Room for `pages` pages.
    fn memory(pages: u64) -> Memory {
        Memory::new(HEADS, 1, pages * 16 * 4 * 32)
    }

    /// A sequence that has read `tokens`, if there is room.
    fn read(memory: &mut Memory, tenant: &Tenant, tokens: &[u32]) -> Option<Vec<usize>> {
        see(memory, tenant, tokens, &[])
    }

    /// The same, with images.
    fn see(
        memory: &mut Memory,
        tenant: &Tenant,
        tokens: &[u32],
        sights: &[Sight],
    ) -> Option<Vec<usize>> {
        let mut pages = memory.recall(tenant, tokens, sights);
        let recalled = pages.len();
        while pages.len() < tokens.len().div_ceil(PAGE) {
            match memory.page() {
                Some(page) => pages.push(page),
                None => {
                    memory.leave(pages);
                    return None;
                }
            }
        }
        let mut after = recalled.checked_sub(1).map(|before| pages[before]);
        let contents = Content::of(tokens, sights);
        for (page, content) in pages.iter().zip(contents).skip(recalled) {
            memory.remember(tenant, after, *page, content);
            after = Some(*page);
        }
        Some(pages)
    }

    fn tokens(count: u32) -> Vec<u32> {
        (0..count).collect()
    }

    #[test]
    fn a_tenant_shares_with_itself_alone() {
        let mut memory = memory(8);
        let tenant = Tenant::new();
        let first = read(&mut memory, &tenant, &tokens(70)).unwrap();
        assert_eq!(memory.recall(&tenant, &tokens(80), &[]), first[..2]);
        assert!(memory.recall(&Tenant::new(), &tokens(80), &[]).is_empty());
    }

    #[test]
    fn one_token_is_always_left_to_read() {
        let mut memory = memory(8);
        let tenant = Tenant::new();
        read(&mut memory, &tenant, &tokens(64)).unwrap();
        assert_eq!(memory.recall(&tenant, &tokens(64), &[]).len(), 1);
        assert_eq!(memory.recall(&tenant, &tokens(65), &[]).len(), 2);
    }

    #[test]
    fn the_same_tokens_elsewhere_are_not_the_same() {
        let mut memory = memory(8);
        let tenant = Tenant::new();
        let page: Vec<u32> = tokens(32);
        read(&mut memory, &tenant, &[page.clone(), page.clone()].concat()).unwrap();
        let other: Vec<u32> = (100..132).collect();
        assert!(
            memory
                .recall(&tenant, &[other, page, vec![1]].concat(), &[])
                .is_empty()
        );
    }

    #[test]
    fn other_images_behind_equal_tokens_are_not_the_same() {
        let mut memory = memory(16);
        let tenant = Tenant::new();
        let tokens = [5; 100];
        let cat = [Sight::mark_only(40, 20, 1)];
        let pages = see(&mut memory, &tenant, &tokens, &cat).unwrap();
        assert_eq!(memory.recall(&tenant, &tokens, &cat), pages[..3]);
        // Before the image they are the same, in its page and after it they are not.
        for other in [
            Sight::mark_only(40, 20, 2),
            Sight::mark_only(41, 20, 1),
            Sight::mark_only(40, 21, 1),
        ] {
            assert_eq!(memory.recall(&tenant, &tokens, &[other]), pages[..1]);
        }
        assert_eq!(memory.recall(&tenant, &tokens, &[]), pages[..1]);
    }

    #[test]
    fn what_is_left_is_kept_until_its_room_is_needed() {
        let mut memory = memory(4);
        let tenant = Tenant::new();
        let first = read(&mut memory, &tenant, &tokens(96)).unwrap();
        memory.leave(first);
        assert_eq!(memory.room(), 4);
        // Two more pages take the fresh one and the last of the old.
        let stranger = read(&mut memory, &Tenant::new(), &[7; 64]).unwrap();
        let again = memory.recall(&tenant, &tokens(96), &[]);
        assert_eq!(again.len(), 2);
        memory.leave(again);
        memory.leave(stranger);
        assert_eq!(memory.room(), 4);
    }

    #[test]
    fn a_page_in_use_is_never_given_away() {
        let mut memory = memory(2);
        let first = read(&mut memory, &Tenant::new(), &tokens(64)).unwrap();
        assert_eq!(memory.page(), None);
        memory.leave(first);
        assert!(memory.page().is_some());
    }

    #[test]
    fn of_a_tenant_that_is_gone_nothing_is_left() {
        let mut memory = memory(8);
        let [gone, here] = [Tenant::new(), Tenant::new()];
        let mut first = Vec::new();
        for tenant in [&gone, &here] {
            first = read(&mut memory, tenant, &tokens(70)).unwrap();
            memory.leave(first.clone());
        }
        let name = gone.name();
        memory.forget_gone();
        assert_eq!(memory.known.len(), 4);
        drop(gone);
        memory.forget_gone();
        assert!(!memory.known.keys().any(|known| known.tenant == name));
        assert_eq!(memory.recall(&here, &tokens(80), &[]), first[..2]);
        assert_eq!(memory.room(), 6);
        assert_eq!(memory.free.len(), 3);
    }

    proptest! {
        #[test]
        fn pages_are_neither_lost_nor_shared_by_strangers(
            steps in proptest::collection::vec((0_usize..3, 0_u32..3, 1_u32..200, any::<bool>()), 1..60),
        ) {
            let mut memory = memory(10);
            let tenants = [(); 3].map(|()| Tenant::new());
            let mut held: Vec<(usize, Vec<usize>)> = Vec::new();
            for (tenant, text, length, leave) in steps {
                if leave && !held.is_empty() {
                    memory.leave(held.remove(0).1);
                }
                let tokens: Vec<u32> = (0..length).map(|i| i + text * 1000).collect();
                if let Some(pages) = read(&mut memory, &tenants[tenant], &tokens) {
                    for (other, theirs) in &held {
                        let shared = pages.iter().any(|page| theirs.contains(page));
                        prop_assert!(!shared || *other == tenant);
                    }
                    held.push((tenant, pages));
                }
            }
            for (_, pages) in held.drain(..) {
                memory.leave(pages);
            }
            prop_assert_eq!(memory.room(), 10);
        }
    }
}
