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

/// How many answers of each tenant are under way, in the order of their oldest.
pub(super) struct Shares(Vec<(Tenant, usize)>);

impl Shares {
    pub(super) fn of(running: &[Sequence]) -> Self {
        let mut shares: Vec<(Tenant, usize)> = Vec::new();
        for sequence in running {
            match shares
                .iter_mut()
                .find(|(other, _)| *other == sequence.tenant)
            {
                Some((_, share)) => *share = share.saturating_add(1),
                None => shares.push((sequence.tenant.clone(), 1)),
            }
        }
        Self(shares)
    }

    pub(super) fn get(&self, tenant: &Tenant) -> usize {
        let own = self.0.iter().find(|(other, _)| other == tenant);
        own.map_or(0, |(_, share)| *share)
    }

    /// Whoever has the most; of several, the one that came last.
    pub(super) fn most(self) -> Option<(Tenant, usize)> {
        self.0.into_iter().max_by_key(|(_, share)| *share)
    }
}

#[cfg(test)]
mod tests {
    use futures_channel::mpsc;
    use zeroize::Zeroizing;

    use super::*;
    use crate::deadline::Deadline;
    use crate::sampler::{Sampler, Settings};
    use crate::scheduler::Job;
    use crate::stop::Stop;

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
            events: mpsc::unbounded().0,
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
    fn who_has_the_most_is_found_and_of_several_who_came_last() {
        let [a, b] = [Tenant::new(), Tenant::new()];
        let running = [&a, &b, &b, &a].map(|tenant| reader(tenant, 1));
        let shares = Shares::of(&running);
        assert_eq!((shares.get(&a), shares.get(&Tenant::new())), (2, 0));
        assert_eq!(shares.most(), Some((b, 2)));
    }
}
