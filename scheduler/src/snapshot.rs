//! What takes long to find, found at most once a second however many ask.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// What was found last, and when.
#[derive(Debug)]
pub(crate) struct Snapshot<T> {
    last: Mutex<Option<(Instant, T)>>,
    is_old: AtomicBool,
}

impl<T> Default for Snapshot<T> {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
            is_old: AtomicBool::default(),
        }
    }
}

impl<T: Clone> Snapshot<T> {
    /// Found no longer than a second ago: those who ask meanwhile wait for one to find it,
    /// however long that takes. What was not found is looked for again.
    pub(crate) async fn get<E>(&self, find: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut last = self.last.lock().await;
        let is_old = self.is_old.swap(false, Ordering::AcqRel);
        last.take_if(|(at, _)| is_old || at.elapsed() >= FRESH);
        if let Some((_, found)) = last.as_ref() {
            return Ok(found.clone());
        }
        let found = find.await?;
        *last = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    /// Whoever asks next has it found anew.
    pub(crate) fn forget(&self) {
        self.is_old.store(true, Ordering::Release);
    }
}

const FRESH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;
    use std::convert::Infallible;

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep};

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_within_a_second_have_it_found_once() {
        let (snapshot, found) = (Snapshot::default(), Cell::new(0));
        let find = async || {
            sleep(FRESH * 2).await;
            found.update(|count| count + 1);
            Ok::<_, Infallible>(found.get())
        };
        let all = join_all((0..10).map(|_| snapshot.get(find()))).await;
        assert_eq!(all, [Ok(1); 10]);
        advance(FRESH - Duration::from_millis(1)).await;
        assert_eq!(snapshot.get(find()).await, Ok(1));
        advance(Duration::from_millis(1)).await;
        assert_eq!(snapshot.get(find()).await, Ok(2));
        snapshot.forget();
        assert_eq!(snapshot.get(find()).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_found_is_looked_for_again() {
        let snapshot = Snapshot::default();
        assert_eq!(snapshot.get(async { Err("gone") }).await, Err("gone"));
        assert_eq!(snapshot.get(async { Ok::<_, &str>(1) }).await, Ok(1));
    }
}
