//! What tenants have had while others waited.
//!
//! Room is what answers compete for, so room is what is counted, in pages times steps:
//! a tenant is charged for a step as much as it held in it, by [`Shares`]. A count of
//! answers would make one that fills the memory cheaper than two that need a page each.
//! Nobody is charged while nobody waits, since that harms nobody.
//!
//! [`Accounts::standing`] is what a tenant has had and would have had after [`SLICE`]
//! steps more with what it holds. Whoever stands lowest is next, and for it whoever
//! stands highest gives way, if it stands no lower even so. Between tenants that always
//! have work, what they have had thus differs by no more than some slices of all pages,
//! however long they go on.
//!
//! Whoever comes, or comes back, starts at a floor that rises by a place in each such
//! step, or with what it owes if that is more: nobody saves up claims, loses debts by
//! being away for a moment, or is kept waiting by others that keep coming.

use super::shares::Shares;
use crate::request::{Tenant, TenantName};

#[derive(Debug, Default)]
pub(crate) struct Accounts {
    /// What whoever comes is taken to have had.
    floor: usize,
    /// What others have had: those present, and those that owe.
    had: Vec<(TenantName, usize)>,
}

impl Accounts {
    /// Where a tenant stands that holds so many pages.
    pub(super) fn standing(&self, tenant: &Tenant, held: usize) -> usize {
        let ahead = held.saturating_mul(SLICE);
        self.had(&tenant.name()).saturating_add(ahead)
    }

    /// Charges a step in which some `waited`.
    pub(super) fn charge(&mut self, shares: &Shares, waited: &[Tenant]) {
        let held = shares.each().map(|(tenant, held)| (tenant.name(), held));
        let waited = waited.iter().map(|tenant| (tenant.name(), 0));
        let mut now: Vec<(TenantName, usize)> = Vec::new();
        for (name, held) in held.chain(waited) {
            if !now.iter().any(|(other, _)| *other == name) {
                let had = self.had(&name).saturating_add(held);
                now.push((name, had));
            }
        }
        self.floor = self.floor.saturating_add(shares.one_more(0));
        let present = |name: &TenantName| now.iter().any(|(other, _)| other == name);
        let owes = |name: &TenantName, had: usize| had > self.floor && !name.is_gone();
        self.had
            .retain(|(name, had)| !present(name) && owes(name, *had));
        self.had.append(&mut now);
    }

    fn had(&self, name: &TenantName) -> usize {
        let own = self.had.iter().find(|(other, _)| other == name);
        own.map_or(self.floor, |(_, had)| *had)
    }
}

/// So many steps ahead it is looked who would have had how much, and so many tokens a
/// tenant's only answer may say before it gives way to those of others.
pub(super) const SLICE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    impl Accounts {
        /// What a tenant has had.
        pub(in crate::scheduler) fn of(&self, tenant: &Tenant) -> usize {
            self.had(&tenant.name())
        }
    }

    #[test]
    fn who_comes_starts_at_the_floor_and_who_owes_does_so_still() {
        let [a, b, new] = [Tenant::new(), Tenant::new(), Tenant::new()];
        let mut accounts = Accounts::default();
        let had = |accounts: &Accounts| [&a, &b, &new].map(|tenant| accounts.of(tenant));
        accounts.charge(&Shares::fixed(1, &[(&a, 9)]), std::slice::from_ref(&b));
        assert_eq!(had(&accounts), [9, 0, 1], "b has waited since");
        assert_eq!(accounts.standing(&a, 3), 9 + 3 * SLICE);
        accounts.charge(&Shares::fixed(1, &[(&b, 5)]), &[]);
        assert_eq!(had(&accounts), [9, 5, 2], "a owes");
        accounts.charge(&Shares::fixed(5, &[]), std::slice::from_ref(&new));
        assert_eq!(had(&accounts), [9, 7, 2], "b has saved nothing");
        drop(a);
        accounts.charge(&Shares::fixed(1, &[]), &[]);
        assert!(accounts.had.is_empty());
    }
}
