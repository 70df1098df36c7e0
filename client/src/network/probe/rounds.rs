//! Who is asked next: every machine once before any is asked again, whatever their number.

use std::collections::HashSet;

use attestation::register::Digest256;
use scheduler::machine::Machine;

/// Who was asked since the last round began.
#[derive(Debug, Default)]
pub(super) struct Rounds(HashSet<Machine>);

/// Workers that have to say the same.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) model: String,
    pub(super) candidates: Vec<Candidate>,
}

/// One of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Candidate {
    pub(super) worker: Digest256,
    pub(super) machine: Machine,
    /// Nanotons for a million tokens.
    pub(super) price: u64,
}

impl Rounds {
    /// One of the groups, with a worker of each machine in the order in which they are asked:
    /// first the reference, if it is there, then those whose turn it is. The first two are
    /// always asked.
    pub(super) fn draw(
        &mut self,
        mut groups: Vec<Group>,
        reference: Option<Machine>,
        mut random: impl FnMut() -> u64,
    ) -> Option<Group> {
        groups.retain(Group::is_of_several);
        if !groups.iter().any(|group| self.is_open(group)) {
            self.0.clear();
        }
        groups.retain(|group| self.is_open(group));
        let count = u64::try_from(groups.len()).ok()?;
        let drawn = usize::try_from(random().checked_rem(count)?).ok()?;
        let mut group = groups.swap_remove(drawn);
        group.candidates.sort_by_cached_key(|one| {
            let is_reference = Some(one.machine) == reference;
            (!is_reference, self.0.contains(&one.machine), random())
        });
        let mut seen = HashSet::new();
        group.candidates.retain(|one| seen.insert(one.machine));
        let asked = group.candidates.iter().take(2).map(|one| one.machine);
        self.0.extend(asked);
        Some(group)
    }

    fn is_open(&self, group: &Group) -> bool {
        let mut machines = group.candidates.iter().map(|one| &one.machine);
        machines.any(|machine| !self.0.contains(machine))
    }
}

impl Group {
    fn is_of_several(&self) -> bool {
        let mut machines = self.candidates.iter().map(|one| one.machine);
        let first = machines.next();
        machines.any(|machine| Some(machine) != first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_a_thousand_machines_is_asked_before_any_is_asked_again() {
        let mut rounds = Rounds::default();
        for _ in 0..3 {
            let mut asked = HashSet::new();
            for probe in 0..500 {
                let drawn = draw(&mut rounds, &[1000], None).unwrap();
                for one in &drawn.candidates[..2] {
                    assert!(asked.insert(one.machine), "in probe {probe}");
                }
            }
            assert_eq!(asked.len(), 1000);
        }
    }

    #[test]
    fn an_odd_machine_and_every_group_have_their_turn() {
        let mut rounds = Rounds::default();
        for _ in 0..3 {
            let mut asked = HashSet::new();
            for _ in 0..2 + 3 {
                let drawn = draw(&mut rounds, &[3, 5], None).unwrap();
                asked.extend(drawn.candidates[..2].iter().map(|one| one.machine));
            }
            assert_eq!(asked.len(), 8);
        }
    }

    #[test]
    fn the_reference_is_asked_first_with_everyone_in_turn() {
        let (mut rounds, mut asked) = (Rounds::default(), HashSet::new());
        for _ in 0..9 {
            let drawn = draw(&mut rounds, &[10], Some(machine(0, 4))).unwrap();
            assert_eq!(drawn.candidates[0].machine, machine(0, 4));
            assert!(asked.insert(drawn.candidates[1].machine));
        }
    }

    #[test]
    fn a_machine_is_asked_once_whatever_its_workers_and_one_alone_is_not_asked() {
        let mut rounds = Rounds::default();
        assert!(draw(&mut rounds, &[1], None).is_none());
        assert!(draw(&mut rounds, &[], None).is_none());
        assert_eq!(draw(&mut rounds, &[4], None).unwrap().candidates.len(), 4);
    }

    /// Of groups of so many machines with two workers each.
    fn draw(rounds: &mut Rounds, groups: &[usize], reference: Option<Machine>) -> Option<Group> {
        let groups = groups.iter().enumerate().map(|(kind, count)| Group {
            model: kind.to_string(),
            candidates: (0..count.saturating_mul(2))
                .map(|number| Candidate {
                    worker: Digest256::of(&[number.to_be_bytes(), kind.to_be_bytes()].concat()),
                    machine: machine(kind, number / 2),
                    price: 0,
                })
                .collect(),
        });
        rounds.draw(groups.collect(), reference, getrandom)
    }

    fn getrandom() -> u64 {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        u64::from_be_bytes(bytes)
    }

    fn machine(kind: usize, number: usize) -> Machine {
        Machine(Digest256::of(
            &[kind.to_be_bytes(), number.to_be_bytes()].concat(),
        ))
    }
}
