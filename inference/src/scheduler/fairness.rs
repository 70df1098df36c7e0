//! The scheduler among tenants of all kinds, without a model: what is said does not
//! matter here.

#![expect(clippy::arithmetic_side_effects, reason = "numbers of a test")]

use std::time::Duration;

use futures_channel::oneshot;
use proptest::prelude::*;

use super::*;
use crate::channel::tests::nobody;
use crate::decoder::tests::Reader;
use crate::kernel::attention::Heads;
use crate::kernel::level::Cpu;
use crate::model_dir::ModelDir;
use crate::sampler::Settings;

const PAGES: usize = 24;
const BATCH: usize = 4;

struct Simulation {
    scheduler: Scheduler,
    queue: Queue<Work>,
    running: Vec<Sequence>,
    asked: u32,
}

impl Simulation {
    fn new() -> Self {
        let Reader { model, pool, .. } = Reader::tiny(1, Cpu::detect());
        let dir = ModelDir::new(&crate::self_test::tiny());
        let heads = Heads {
            query: 2,
            kv: 1,
            width: 16,
            values: 16,
        };
        let bytes = PAGES * PAGE * (16 + 16) * 2;
        Self {
            scheduler: Scheduler {
                tokens: Arc::new(Tokens::load(&dir, model.shape().vocabulary).unwrap()),
                model,
                tower: None,
                pool,
                memory: Memory::new(heads, 1, bytes.try_into().unwrap()),
                ends: Vec::new(),
                batch: BATCH,
                counters: Arc::default(),
                begun: 0,
                accounts: Accounts::default(),
            },
            queue: Queue::new(200),
            running: Vec::new(),
            asked: 0,
        }
    }

    /// Asks for an answer of so many tokens to a prompt like no other.
    fn ask(&mut self, tenant: &Tenant, prompt: usize, answer: usize) {
        self.asked += 1;
        self.ask_again(tenant, prompt, answer);
    }

    /// The same, to the last prompt.
    fn ask_again(&mut self, tenant: &Tenant, prompt: usize, answer: usize) {
        let job = self.job(prompt, answer);
        let pushed = self.queue.push(tenant.clone(), Work::New(job));
        assert!(pushed.is_ok());
    }

    fn job(&self, prompt: usize, answer: usize) -> Job {
        Job {
            prompt: Zeroizing::new(vec![self.asked; prompt]),
            sights: Vec::new(),
            max_tokens: answer,
            sampler: Sampler::new(Settings::default(), 1, &[]),
            stop: Stop::new(Vec::new()),
            logprobs: None,
            deadline: Deadline::after(Duration::MAX),
            attended: None,
            replay: None,
            events: nobody(),
        }
    }

    /// As [`Scheduler::step`]; of which tenants answers were completed.
    fn step(&mut self) -> Vec<Tenant> {
        let (scheduler, running) = (&mut self.scheduler, &mut self.running);
        scheduler.admit(&self.queue, running);
        share(running);
        scheduler.provide(&self.queue, running);
        for sequence in running.iter_mut() {
            if sequence.settle(&mut scheduler.memory) {
                sequence.tokens.push(7);
                sequence.usage.completion += 1;
            }
        }
        let over = running.extract_if(.., |s| s.usage.completion >= s.max_tokens);
        let over: Vec<_> = over.collect();
        let left = over.into_iter().map(|sequence| {
            scheduler.memory.leave(sequence.pages);
            sequence.tenant
        });
        left.collect()
    }

    fn runs(&self, tenant: &Tenant) -> usize {
        self.running.iter().filter(|s| s.tenant == *tenant).count()
    }

    /// Steps until it runs.
    fn wait(&mut self, tenant: &Tenant) -> usize {
        let mut steps = 0;
        while self.runs(tenant) == 0 {
            self.step();
            steps += 1;
            assert!(steps < BOUND);
        }
        steps
    }
}

/// Steps that a tenant may have to wait: until what it owes is forgotten, others have
/// passed it, and the last of them has had its slice.
const BOUND: usize = 4 * SLICE * BATCH;

#[test]
fn what_shares_its_pages_is_not_put_aside_for_room_that_it_does_not_give() {
    let mut all = Simulation::new();
    let [a, b] = [Tenant::new(), Tenant::new()];
    all.ask(&a, 10 * PAGE, 90);
    for _ in 0..5 {
        all.step();
    }
    all.ask_again(&a, 10 * PAGE, 90);
    all.step();
    assert_eq!(all.runs(&a), 2);
    // Eleven pages are in use, and two more by the second alone.
    all.ask(&b, 13 * PAGE, 1);
    all.step();
    assert_eq!(all.runs(&a), 2, "that would not be enough");
    all.ask(&Tenant::new(), 11 * PAGE, 1);
    all.step();
    assert_eq!(all.runs(&a), 1, "that is enough");
}

#[test]
fn a_replay_waits_until_there_is_room_for_its_answer_too() {
    let mut all = Simulation::new();
    all.ask(&Tenant::new(), 20 * PAGE, 9);
    all.step();
    let (outcome, mut found) = oneshot::channel();
    let answer = Zeroizing::new(vec![7; 10 * PAGE]);
    let replay = Job {
        replay: Some(Asked { answer, outcome }),
        ..all.job(PAGE, 0)
    };
    let pushed = all.queue.push(Tenant::new(), Work::New(replay));
    assert!(pushed.is_ok());
    all.step();
    assert_eq!(all.queue.waiting(), 1);
    assert!(matches!(found.try_recv(), Ok(None)));
}

#[test]
fn one_long_answer_gives_way_and_comes_back() {
    let mut all = Simulation::new();
    let long = Tenant::new();
    all.ask(&long, 14 * PAGE, 300);
    all.wait(&long);
    let said = |all: &Simulation| {
        let mut own = all.running.iter().filter(|s| s.tenant == long);
        own.next().unwrap().usage.completion
    };
    for round in 1..4 {
        // Whoever else comes waits for a slice, and for what was read for it.
        let short = Tenant::new();
        all.ask(&short, 12 * PAGE, 2);
        assert!(all.wait(&short) <= SLICE + 5);
        all.wait(&long);
        assert!(said(&all) >= round * SLICE, "what was said remains");
    }
}

#[test]
fn others_that_keep_coming_do_not_starve_what_was_put_aside() {
    let mut all = Simulation::new();
    let long = Tenant::new();
    all.ask(&long, 21 * PAGE, 60);
    let (mut waited, mut over) = (0, false);
    for _ in 0..20 * BOUND {
        // More of them than there is room for, and none knows another.
        while all.queue.waiting() < 40 {
            all.ask(&Tenant::new(), 3 * PAGE, 9);
        }
        over |= all.step().contains(&long);
        waited = if all.runs(&long) == 0 { waited + 1 } else { 0 };
        if over {
            return;
        }
        assert!(waited < BOUND);
    }
    panic!("it never ends");
}

/// What a tenant asks for, again and again: tokens of prompts and answers, and how many
/// at a time.
fn tenants() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    let tenant = (1_usize..300, 1_usize..300, 1_usize..=6);
    proptest::collection::vec(tenant, 2..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn nobody_waits_without_end_and_who_always_waits_has_as_much_as_others(
        kinds in tenants(),
        strangers in any::<bool>(),
    ) {
        let mut all = Simulation::new();
        let mut tenants: Vec<_> = kinds.iter().map(|kind| (Tenant::new(), *kind, 0, 0)).collect();
        for step in 0..3000 {
            if strangers && step % 20 == 0 {
                all.ask(&Tenant::new(), 50, 10);
            }
            for (tenant, (prompt, answer, most), asked, _) in &mut tenants {
                while asked < most {
                    all.ask(tenant, *prompt, *answer);
                    *asked += 1;
                }
            }
            let over = all.step();
            for (tenant, _, asked, waited) in &mut tenants {
                *asked -= over.iter().filter(|other| *other == tenant).count();
                let idle = all.runs(tenant) == 0 && !over.contains(tenant);
                *waited = if idle { *waited + 1 } else { 0 };
                prop_assert!(*waited < BOUND, "{waited} at {step}");
            }
        }
        let had = |tenant| all.scheduler.accounts.of(tenant);
        let greedy = tenants.iter().filter(|(_, (_, _, most), ..)| *most > BATCH);
        for (tenant, ..) in greedy {
            for (other, ..) in &tenants {
                let (own, theirs) = (had(tenant), had(other));
                prop_assert!(theirs <= own + 4 * SLICE * PAGES, "{own} and {theirs}");
            }
        }
    }
}
