//! What takes long to find, found at most once a second however many ask.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// What was found last, and when.
#[derive(Debug)]
pub(crate) struct Snapshot<T>(Mutex<Option<(Instant, T)>>);

impl<T> Default for Snapshot<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Snapshot<T> {
    /// No older than a second: those who ask meanwhile wait for one to find it. What was not
    /// found is looked for again.
    pub(crate) async fn get<E>(&self, find: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut last = self.0.lock().await;
        if let Some((_, found)) = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(found.clone());
        }
        let at = Instant::now();
        let found = find.await?;
        *last = Some((at, found.clone()));
        Ok(found)
    }

    /// Whoever asks next has it found anew.
    pub(crate) async fn forget(&self) {
        *self.0.lock().await = None;
    }
}

const FRESH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;
    use std::convert::Infallible;

    use futures_util::future::join_all;
    use tokio::task::yield_now;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_within_a_second_have_it_found_once() {
        let (snapshot, found) = (Snapshot::default(), Cell::new(0));
        let find = async || {
            yield_now().await;
            found.update(|count| count + 1);
            Ok::<_, Infallible>(found.get())
        };
        let all = join_all((0..10).map(|_| snapshot.get(find()))).await;
        assert_eq!(all, [Ok(1); 10]);
        advance(FRESH - Duration::from_millis(1)).await;
        assert_eq!(snapshot.get(find()).await, Ok(1));
        advance(Duration::from_millis(1)).await;
        assert_eq!(snapshot.get(find()).await, Ok(2));
        snapshot.forget().await;
        assert_eq!(snapshot.get(find()).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_found_is_looked_for_again() {
        let snapshot = Snapshot::default();
        assert_eq!(snapshot.get(async { Err("gone") }).await, Err("gone"));
        assert_eq!(snapshot.get(async { Ok::<_, &str>(1) }).await, Ok(1));
    }
}
