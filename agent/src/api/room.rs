//! Room that clients share: none holds more than its share, nor more than it leaves to
//! the others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inference::{RequestError, Tenant};

/// So much of something, and who holds how much of it.
#[derive(Debug)]
pub(super) struct Room {
    size: usize,
    /// Most that one may hold.
    pub(super) share: usize,
    held: Mutex<Vec<(Tenant, usize)>>,
}

impl Room {
    pub(super) const fn new(size: usize, share: usize) -> Self {
        Self {
            size,
            share,
            held: Mutex::new(Vec::new()),
        }
    }

    /// Nothing yet.
    pub(super) fn hold(&'static self, tenant: &Tenant) -> Held {
        Held {
            room: self,
            tenant: tenant.clone(),
            amount: 0,
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<(Tenant, usize)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    room: &'static Room,
    tenant: Tenant,
    amount: usize,
}

impl Held {
    /// Takes more. Nobody waits here: those who wait with a part would wait for each other.
    pub(super) fn take(&mut self, amount: usize) -> Result<(), RequestError> {
        let mut all = self.room.held();
        let taken = all.iter().map(|(_, held)| *held);
        let left = self
            .room
            .size
            .saturating_sub(taken.fold(0, usize::saturating_add));
        let place = all.iter_mut().find(|(tenant, _)| *tenant == self.tenant);
        let own = place.as_ref().map_or(0, |(_, held)| *held);
        let own = own.saturating_add(amount);
        if own > left.min(self.room.share) {
            return Err(RequestError::Busy {
                retry_after: Duration::from_secs(1),
            });
        }
        match place {
            Some((_, held)) => *held = own,
            None => all.push((self.tenant.clone(), own)),
        }
        self.amount = self.amount.saturating_add(amount);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.room.held();
        if let Some((_, held)) = all.iter_mut().find(|(tenant, _)| *tenant == self.tenant) {
            *held = held.saturating_sub(self.amount);
        }
        all.retain(|(_, held)| *held > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_holds_more_than_a_share_nor_more_than_is_left() {
        let room: &Room = Box::leak(Box::new(Room::new(100, 40)));
        let tenants = [(); 5].map(|()| Tenant::new());
        let most = |tenant: &Tenant| {
            let mut held = room.hold(tenant);
            while held.take(1).is_ok() {}
            held
        };
        let held = tenants.each_ref().map(most);
        assert_eq!(held.each_ref().map(|held| held.amount), [40, 30, 15, 8, 4]);
        // A second request of the same client has no share of its own.
        assert_eq!(most(&tenants[0]).amount, 0);
        drop(held);
        assert!(room.held().is_empty());
        let mut held = room.hold(&tenants[0]);
        held.take(41).unwrap_err();
        held.take(40).unwrap();
    }
}
