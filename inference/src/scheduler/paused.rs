//! Answers that nobody reads as fast as they are made.
//!
//! They hold neither place nor pages, and go on where they were when their readers have
//! caught up, as what was put aside for others does: their tokens are the same.

use super::Work;
use super::sequence::Sequence;
use crate::error::EngineError;
use crate::memory::Memory;
use crate::queue::{Queue, share_of};

#[derive(Default)]
pub(super) struct Paused(Vec<Sequence>);

impl Paused {
    /// Takes those whose readers are behind. Of more than `most`, or one tenant's share of
    /// it, the newest of whoever has most of them ends.
    pub(super) fn take(&mut self, running: &mut Vec<Sequence>, memory: &mut Memory, most: usize) {
        for mut sequence in running.extract_if(.., |sequence| sequence.events.is_behind()) {
            sequence.forget(memory);
            self.0.push(sequence);
            if let Some((place, own)) = self.most_of_one()
                && (self.0.len() > most || own > share_of(most))
            {
                self.0.remove(place).end(EngineError::Unread);
            }
        }
    }

    /// Where the last one is of the tenant that has most, and how many it has.
    fn most_of_one(&self) -> Option<(usize, usize)> {
        let of = |sequence: &Sequence| {
            let own = self.0.iter().filter(|s| s.tenant == sequence.tenant);
            own.count()
        };
        let places = self.0.iter().map(of).enumerate();
        places.max_by_key(|(_, own)| *own)
    }

    /// Puts back what is read, and drops what nobody wants.
    pub(super) fn release(&mut self, queue: &Queue<Work>) {
        self.0.retain_mut(Sequence::is_wanted);
        for sequence in self.0.extract_if(.., |s| s.events.has_caught_up()) {
            queue.put_back(sequence.tenant.clone(), Work::Begun(sequence));
        }
    }

    /// Ends them all.
    pub(super) fn fail(self, error: EngineError) {
        for sequence in self.0 {
            sequence.fail(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use futures_util::{FutureExt as _, StreamExt as _};
    use zeroize::Zeroizing;

    use super::*;
    use crate::answer::{Event, FinishReason, Usage};
    use crate::channel::tests::event;
    use crate::channel::{Receiver, channel};
    use crate::deadline::Deadline;
    use crate::kernel::attention::Heads;
    use crate::queue::Line as _;
    use crate::request::{Sampling, Tenant};
    use crate::sampler::{Sampler, Settings};
    use crate::scheduler::Job;
    use crate::stop::Stop;
    use crate::witness::{Attended, Bounds, Executed, Witness};

    struct Engine {
        queue: Arc<Queue<Work>>,
        memory: Memory,
        paused: Paused,
        began: u64,
        witness: Option<Witness>,
    }

    impl Engine {
        fn new() -> Self {
            let heads = Heads {
                query: 2,
                kv: 1,
                width: 16,
                values: 16,
            };
            Self {
                queue: Arc::new(Queue::new(4)),
                memory: Memory::new(heads, 1, 1 << 20),
                paused: Paused::default(),
                began: 0,
                witness: None,
            }
        }

        /// An answer of which so much is unread; whether it is behind.
        fn answer(&mut self, tenant: &Tenant, time: Duration, unread: usize) -> Receiver {
            let (events, receiver) = channel(self.queue.clone());
            for _ in 0..unread {
                events.send(event());
            }
            let job = Job {
                prompt: Zeroizing::new(vec![1; 20]),
                sights: Vec::new(),
                max_tokens: 1,
                sampler: Sampler::new(Settings::default(), 1, &[]),
                stop: Stop::new(Vec::new()),
                logprobs: None,
                deadline: Deadline::after(time),
                attended: self.witness.clone().map(attended),
                replay: None,
                events,
            };
            self.began = self.began.saturating_add(1);
            let mut sequence = Sequence::new(tenant.clone(), self.began, job);
            while sequence.missing() > 0 {
                sequence.pages.push(self.memory.page().unwrap());
            }
            let mut running = vec![sequence];
            self.paused.take(&mut running, &mut self.memory, 3);
            for sequence in running {
                self.memory.leave(sequence.pages);
            }
            receiver
        }
    }

    fn attended(witness: Witness) -> Attended {
        let executed = Executed {
            index: 0,
            prompt: Zeroizing::default(),
            images: 0,
            form: None,
            answer: Zeroizing::default(),
            sampling: Sampling::default(),
            own_seed: false,
            max_tokens: 1,
            stop: Vec::new(),
            reason: None,
            usage: Usage::default(),
        };
        Attended { witness, executed }
    }

    fn last(mut answer: Receiver) -> Option<Result<Event, EngineError>> {
        let mut last = None;
        while let Some(Some(event)) = answer.next().now_or_never() {
            last = Some(event);
        }
        last
    }

    #[test]
    fn what_is_behind_holds_nothing_until_it_is_read_or_unwanted() {
        let mut engine = Engine::new();
        let tenant = Tenant::new();
        let _quick = engine.answer(&tenant, Duration::MAX, 255);
        assert!(engine.paused.0.is_empty());
        let mut slow = engine.answer(&tenant, Duration::MAX, 256);
        let other = Tenant::new();
        let late = engine.answer(&other, Duration::ZERO, 256);
        let gone = engine.answer(&other, Duration::MAX, 256);
        assert_eq!(engine.paused.0.len(), 3);
        assert!(engine.paused.0.iter().all(|s| s.pages.is_empty()));
        drop(gone);
        engine.paused.release(&engine.queue);
        assert_eq!(engine.paused.0.len(), 1);
        let limit = Duration::ZERO;
        assert_eq!(last(late), Some(Err(EngineError::Deadline { limit })));
        for _ in 0..128 {
            assert_eq!(engine.queue.waiting(), 0);
            slow.next().now_or_never().unwrap().unwrap().unwrap();
            engine.paused.release(&engine.queue);
        }
        assert_eq!((engine.paused.0.len(), engine.queue.waiting()), (0, 1));
    }

    #[test]
    fn of_too_many_the_newest_of_whoever_has_most_ends() {
        let mut engine = Engine::new();
        let [a, b] = [Tenant::new(), Tenant::new()];
        let tenants = [&a, &a, &b, &b, &a];
        let mut answers = tenants.map(|tenant| engine.answer(tenant, Duration::MAX, 256));
        let ended = answers.each_mut().map(|answer| {
            let ends = |event| event == Err(EngineError::Unread);
            let events = std::iter::from_fn(|| answer.next().now_or_never().flatten());
            events.map(ends).filter(|ended| *ended).count()
        });
        assert_eq!(ended, [0, 0, 0, 1, 1]);
    }

    #[test]
    fn nobody_has_more_than_its_share() {
        let mut engine = Engine::new();
        let tenant = Tenant::new();
        let mut answer = || engine.answer(&tenant, Duration::MAX, 256);
        let (_first, _second, third) = (answer(), answer(), answer());
        assert_eq!(last(third), Some(Err(EngineError::Unread)));
        let _others = engine.answer(&Tenant::new(), Duration::MAX, 256);
        assert_eq!(engine.paused.0.len(), 3);
    }

    #[test]
    fn what_is_paid_for_ends_with_what_was_made() {
        let paid = Witness::within(Bounds {
            tokens: 100,
            until: Instant::now(),
        });
        for has_said in [false, true] {
            if has_said {
                paid.say();
            }
            let mut engine = Engine {
                witness: Some(paid.clone()),
                ..Engine::new()
            };
            let tenant = Tenant::new();
            let late = engine.answer(&tenant, Duration::ZERO, 256);
            let _more = engine.answer(&tenant, Duration::MAX, 256);
            let unread = engine.answer(&tenant, Duration::MAX, 256);
            engine.paused.release(&engine.queue);
            let errors = [
                EngineError::Deadline {
                    limit: Duration::ZERO,
                },
                EngineError::Unread,
            ];
            for (answer, error) in [late, unread].into_iter().zip(errors) {
                match last(answer) {
                    Some(Ok(Event::Finish { reason, .. })) => {
                        assert!(has_said && reason == FinishReason::Length);
                    }
                    other => assert!(!has_said && other == Some(Err(error)), "{other:?}"),
                }
            }
            assert_eq!(paid.take().len(), usize::from(has_said) * 2);
        }
    }
}
