//! The way of an answer's events to its reader.
//!
//! The engine waits for no reader, so what one does not read would pile up. Its sender
//! knows how much that is, and the reader rings for the engine once it has caught up.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_channel::mpsc;
use futures_core::Stream;

use crate::answer::Event;
use crate::error::EngineError;
use crate::queue::Line;

type Told = Result<Event, EngineError>;

/// For one answer, whose engine waits for work in this line.
pub(crate) fn channel(line: Arc<dyn Line + Send + Sync>) -> (Sender, Receiver) {
    let (events, told) = mpsc::unbounded();
    let unread = Arc::<AtomicUsize>::default();
    let sender = Sender {
        events,
        unread: Arc::clone(&unread),
    };
    let receiver = Receiver { told, unread, line };
    (sender, receiver)
}

pub(crate) struct Sender {
    events: mpsc::UnboundedSender<Told>,
    unread: Arc<AtomicUsize>,
}

impl Sender {
    /// A receiver that is gone does not mind.
    pub(crate) fn send(&self, event: Told) {
        self.unread.fetch_add(1, Ordering::Relaxed);
        drop(self.events.unbounded_send(event));
    }

    /// Whether nobody receives any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.events.is_closed()
    }

    /// Whether so much is unread that nothing should be added.
    pub(crate) fn is_behind(&self) -> bool {
        self.unread.load(Ordering::Relaxed) >= BEHIND
    }

    /// Whether enough of that has been read to go on.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.unread.load(Ordering::Relaxed) <= CAUGHT_UP
    }
}

pub(crate) struct Receiver {
    told: mpsc::UnboundedReceiver<Told>,
    unread: Arc<AtomicUsize>,
    line: Arc<dyn Line + Send + Sync>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("unread", &self.unread)
            .finish_non_exhaustive()
    }
}

impl Stream for Receiver {
    type Item = Told;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Told>> {
        let event = ready!(Pin::new(&mut self.told).poll_next(cx));
        if event.is_some() {
            let before = self.unread.fetch_sub(1, Ordering::Relaxed);
            if before.saturating_sub(1) == CAUGHT_UP {
                self.line.ring();
            }
        }
        Poll::Ready(event)
    }
}

/// So many unread events are enough: an event is a token of text, or a few.
const BEHIND: usize = 256;
const CAUGHT_UP: usize = BEHIND / 2;

#[cfg(test)]
pub(crate) mod tests {
    use futures_util::{FutureExt as _, StreamExt as _};

    use super::*;
    use crate::queue::Queue;

    /// To whom nobody listens.
    pub(crate) fn nobody() -> Sender {
        channel(Arc::new(Queue::<()>::new(0))).0
    }

    /// An event like any other.
    pub(crate) fn event() -> Told {
        Ok(Event::Call(String::new()))
    }

    #[derive(Default)]
    struct Rings(AtomicUsize);

    impl Line for Rings {
        fn waiting(&self) -> usize {
            0
        }

        fn is_full(&self) -> bool {
            false
        }

        fn close(&self) {}

        fn is_closed(&self) -> bool {
            false
        }

        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_is_behind_rings_once_it_has_read_half() {
        let rings = Arc::<Rings>::default();
        let (sender, mut receiver) = channel(rings.clone());
        for sent in 0..BEHIND {
            assert!(!sender.is_behind(), "{sent}");
            sender.send(event());
        }
        assert!(sender.is_behind());
        for _ in CAUGHT_UP..BEHIND {
            assert!(!sender.has_caught_up());
            assert_eq!(rings.0.load(Ordering::Relaxed), 0);
            receiver.next().now_or_never().unwrap().unwrap().unwrap();
        }
        assert!(sender.has_caught_up() && !sender.is_behind());
        assert_eq!(rings.0.load(Ordering::Relaxed), 1);
        receiver.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(rings.0.load(Ordering::Relaxed), 1, "it knows");
    }
}
