//! What each tenant has of the batch and of a step.

use super::STEP;
use super::sequence::Sequence;
use crate::request::Tenant;

/// Divides the room in a step: a token for each answer, the rest for prompts.
pub(super) fn share(running: &mut [Sequence]) {
    let mut room = STEP.saturating_sub(running.len());
    let mut readers: Vec<(Tenant, Vec<&mut Sequence>)> = Vec::new();
    for sequence in running {
        sequence.next = sequence.unseen().min(1);
        if sequence.unseen() > 1 {
            let tenant = sequence.tenant.clone();
            match readers.iter_mut().find(|(other, _)| *other == tenant) {
                Some((_, own)) => own.push(sequence),
                None => readers.push((tenant, vec![sequence])),
            }
        }
    }
    for tenants in (1..=readers.len()).rev() {
        let Some((_, own)) = readers.pop() else {
            return;
        };
        let count = own.len();
        let part = room.checked_div(tenants).unwrap_or(0);
        let mut left = part;
        for (sequence, prompts) in own.into_iter().zip((1..=count).rev()) {
            let most = left.checked_div(prompts).unwrap_or(0);
            let more = sequence.unseen().saturating_sub(1).min(most);
            sequence.next = sequence.next.saturating_add(more);
            left = left.saturating_sub(more);
        }
        room = room.saturating_sub(part.saturating_sub(left));
    }
}

/// What each tenant holds, in the order of their oldest answers.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    /// Pages that a place in the batch is worth.
    place: usize,
    held: Vec<Held>,
}

#[derive(Clone, Debug)]
struct Held {
    tenant: Tenant,
    answers: usize,
    /// That they have or were promised; what they share counts once.
    pages: usize,
}

impl Shares {
    /// Of a batch with so many places and a memory with so many pages.
    pub(super) fn of(running: &[&Sequence], places: usize, pages: usize) -> Self {
        let mut held: Vec<Held> = Vec::new();
        for (index, sequence) in running.iter().enumerate() {
            let before = running.iter().take(index);
            let shared = before.filter(|other| other.tenant == sequence.tenant);
            let shared = shared.map(|other| other.begins_as(sequence)).max();
            let had = sequence.pages.len().saturating_sub(shared.unwrap_or(0));
            let pages = had.saturating_add(sequence.missing());
            match held.iter_mut().find(|own| own.tenant == sequence.tenant) {
                Some(own) => {
                    own.answers = own.answers.saturating_add(1);
                    own.pages = own.pages.saturating_add(pages);
                }
                None => held.push(Held {
                    tenant: sequence.tenant.clone(),
                    answers: 1,
                    pages,
                }),
            }
        }
        Self {
            place: pages.div_ceil(places.max(1)),
            held,
        }
    }

    /// Pages that this tenant holds, or that its places are worth if that is more: of
    /// both there is only so much.
    pub(super) fn get(&self, tenant: &Tenant) -> usize {
        let own = self.each().find(|(other, _)| *other == tenant);
        own.map_or(0, |(_, share)| share)
    }

    /// The same for so many pages more in one more place.
    pub(super) fn one_more(&self, pages: usize) -> usize {
        pages.max(self.place)
    }

    /// How many answers this tenant has under way.
    pub(super) fn answers(&self, tenant: &Tenant) -> usize {
        let own = self.held.iter().find(|own| own.tenant == *tenant);
        own.map_or(0, |own| own.answers)
    }

    /// All tenants with what they hold.
    pub(super) fn each(&self) -> impl Iterator<Item = (&Tenant, usize)> {
        self.held.iter().map(|own| {
            let places = own.answers.saturating_mul(self.place);
            (&own.tenant, own.pages.max(places))
        })
    }

    /// Pages that all hold together.
    pub(super) fn pages(&self) -> usize {
        self.held.iter().map(|own| own.pages).sum()
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::channel::tests::nobody;
    use crate::deadline::Deadline;
    use crate::kernel::attention::PAGE;
    use crate::sampler::{Sampler, Settings};
    use crate::scheduler::Job;
    use crate::stop::Stop;

    impl Shares {
        /// Where tenants hold so many pages.
        pub(in crate::scheduler) fn fixed(place: usize, held: &[(&Tenant, usize)]) -> Self {
            let held = held.iter().map(|(tenant, pages)| Held {
                tenant: Tenant::clone(tenant),
                answers: 1,
                pages: *pages,
            });
            Self {
                place,
                held: held.collect(),
            }
        }
    }

    fn reader(tenant: &Tenant, prompt: usize) -> Sequence {
        let job = Job {
            prompt: Zeroizing::new(vec![1; prompt]),
            sights: Vec::new(),
            max_tokens: 1,
            sampler: Sampler::new(Settings::default(), 1, &[]),
            stop: Stop::new(Vec::new()),
            logprobs: None,
            deadline: Deadline::after(std::time::Duration::MAX),
            attended: None,
            replay: None,
            events: nobody(),
        };
        Sequence::new(tenant.clone(), 0, job)
    }

    #[test]
    fn many_prompts_of_a_tenant_have_the_room_of_one_of_another() {
        let [many, one] = [Tenant::new(), Tenant::new()];
        let mut running: Vec<_> = (0..7).map(|_| reader(&many, 1000)).collect();
        running.insert(3, reader(&one, 1000));
        share(&mut running);
        let next: Vec<_> = running.iter().map(|s| s.next).collect();
        assert_eq!(next.iter().sum::<usize>(), STEP);
        assert_eq!(next[3], 1 + (STEP - 8) / 2);
        assert_eq!(next[0], 1 + (STEP - 8) / 2 / 7);
    }

    #[test]
    fn what_a_short_prompt_leaves_of_its_room_others_have() {
        let [a, b] = [Tenant::new(), Tenant::new()];
        let mut running = vec![reader(&a, 1000), reader(&b, 11)];
        share(&mut running);
        let next: Vec<_> = running.iter().map(|s| s.next).collect();
        assert_eq!(next, [STEP - 11, 11]);
    }

    #[test]
    fn pages_count_once_and_a_place_counts_as_its_part_of_them() {
        let [a, b] = [Tenant::new(), Tenant::new()];
        let mut running = [&a, &a, &b].map(|tenant| reader(tenant, 5 * PAGE));
        running[0].pages = vec![0, 1, 2, 3, 4];
        running[1].pages = vec![0, 1, 2, 7];
        let running: Vec<_> = running.iter().collect();
        let shares = Shares::of(&running, 10, 100);
        // Five, and one that is had and one that was promised beside those shared.
        assert_eq!((shares.get(&a), shares.get(&b)), (20, 10));
        assert_eq!(shares.pages(), 7 + 5);
        assert_eq!((shares.answers(&a), shares.answers(&b)), (2, 1));
        let shares = Shares::of(&running, 100, 100);
        assert_eq!((shares.get(&a), shares.get(&b)), (7, 5));
        assert_eq!(shares.get(&Tenant::new()), 0);
    }
}
