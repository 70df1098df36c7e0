//! Turns at what takes a processor for long before the engine's queue is reached.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use inference::Tenant;
use tokio::sync::oneshot;

/// So many at once. Of those who wait, each client gives the next one a turn.
#[derive(Debug)]
pub(super) struct Turns {
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    free: usize,
    /// Who has waited longest for a turn is first; of each, whoever asked first.
    waiting: VecDeque<(Tenant, VecDeque<oneshot::Sender<Turn>>)>,
}

impl Turns {
    pub(super) const fn new(most: usize) -> Self {
        Self {
            line: Mutex::new(Line {
                free: most,
                waiting: VecDeque::new(),
            }),
        }
    }

    /// Waits for one; who goes before that has had none.
    pub(super) async fn take(&'static self, tenant: &Tenant) -> Turn {
        let Some(turn) = self.queue(tenant) else {
            return Turn(Some(self));
        };
        // A line lives as long as the program and drops nobody.
        turn.await.unwrap_or(Turn(None))
    }

    /// Where a turn will come; `None` if there is one at once.
    fn queue(&self, tenant: &Tenant) -> Option<oneshot::Receiver<Turn>> {
        let mut line = self.line();
        if let Some(less) = line.free.checked_sub(1) {
            line.free = less;
            return None;
        }
        let (sender, turn) = oneshot::channel();
        match line.waiting.iter_mut().find(|(other, _)| other == tenant) {
            Some((_, own)) => {
                own.retain(|waiting| !waiting.is_closed());
                own.push_back(sender);
            }
            None => {
                let own = VecDeque::from([sender]);
                line.waiting.push_back((tenant.clone(), own));
            }
        }
        Some(turn)
    }

    /// Whose turn it is; if nobody waits, it is free.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut line = self.line();
        let next = line.waiting.pop_front();
        let Some((tenant, mut own)) = next else {
            line.free = line.free.saturating_add(1);
            return None;
        };
        let sender = own.pop_front();
        if !own.is_empty() {
            line.waiting.push_back((tenant, own));
        }
        sender
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes on to the next who waits when it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<&'static Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else {
            return;
        };
        while let Some(next) = turns.next() {
            match next.send(Self(Some(turns))) {
                Ok(()) => return,
                // Whoever waited is gone.
                Err(mut turn) => mem::take(&mut turn.0),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn clients_take_turns_and_who_is_gone_loses_none() {
        let turns: &Turns = Box::leak(Box::new(Turns::new(2)));
        let [a, b] = [Tenant::new(), Tenant::new()];
        let first = turns.take(&a).await;
        let second = turns.take(&a).await;
        let wait = |tenant| Box::pin(turns.take(tenant));
        let [mut gone, mut third, mut last] = [(); 3].map(|()| wait(&a));
        let mut other = wait(&b);
        for waits in [&mut gone, &mut third, &mut last, &mut other] {
            assert!(poll!(waits).is_pending());
        }
        drop(gone);
        drop(first);
        let Poll::Ready(other) = poll!(&mut other) else {
            panic!("the other client's is next, since the first one is gone");
        };
        assert!(poll!(&mut third).is_pending());
        drop(other);
        let third = third.await;
        assert!(poll!(&mut last).is_pending());
        // It has been given, and nobody takes it.
        drop(third);
        drop(last);
        drop(second);
        assert_eq!(turns.line().free, 2);
        assert!(turns.line().waiting.is_empty());
    }
}
