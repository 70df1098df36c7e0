//! Lies on the network that is paid, among honest requests: each is named, and its money is
//! followed to the chain. What clients' purses, the scheduler's books, workers' purses and
//! the Channels say is the same, to the last nano.
#![cfg(test)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod lying_scheduler;
mod paid;

use std::time::Duration;

use axum::http::StatusCode;
use client::network::probe::Finding;
use client::network::purse::Purse;
use futures_util::future::join_all;
use lying_scheduler::{Lie, LyingScheduler, spends_again};
use paid::{Answer, Books, Gateway, Running, Worker, World, are_busy};
use tests::stand_in::{Manner, Terms};

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_for_more_than_was_agreed_is_charged_to_nobody() {
    let Some(story) = Story::of(priced(Manner::Greedy)).await else {
        return;
    };
    let gateway = story.world.gateway(&story.scheduler);
    let answers = gateway.ask_all(FEW).await;
    let lies = problems(&answers, "tokens of answer, and there can be 4000");
    assert_eq!(lied(&story.scheduler), [0], "it is asked nothing more");
    let asked = story.workers[LIAR].stand_in.shown().len();
    assert!(asked >= lies);
    let (books, more) = story.ends(&gateway).await;
    assert_eq!(story.workers[LIAR].stand_in.shown().len(), asked);
    assert_eq!(books.charged, paid_for(&answers) + more);
    assert_eq!(books.owners[LIAR].shown, 0);
    // It keeps what was prepaid for those, which is the scheduler's loss.
    let kept = story.paid_to(LIAR).await;
    assert!(
        kept <= u64::try_from(asked).unwrap() * Gateway::MOST,
        "{kept}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_for_more_than_its_answer_says_gets_what_it_signed_and_nothing_after() {
    let lying = Terms {
        manner: Manner::Honest,
        answer: Some((SEVEN, 8)),
        ..THOROUGH
    };
    let Some(story) = Story::of(lying).await else {
        return;
    };
    let gateway = story.world.gateway(&story.scheduler);
    let answers = join_all((0..FEW).map(|index| gateway.say(Gateway::body(index)))).await;
    let lies = problems(&answers, "signed for 8 tokens, and the answer says 7");
    let (books, more) = story.ends(&gateway).await;
    let signed = u64::try_from(lies).unwrap() * 8 * paid::PRICE / 1_000_000;
    assert_eq!(books.charged, paid_for(&answers) + signed + more);
    let liar = &books.owners[LIAR];
    assert_eq!((liar.shown, liar.earned), (signed, signed));
    assert!(story.workers[LIAR].stand_in.shown().len() >= lies);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_twice_costs_what_was_signed_once_and_is_passed_over() {
    let Some(story) = Story::of(priced(Manner::Repeating)).await else {
        return;
    };
    let gateway = story.world.gateway(&story.scheduler);
    let answers = gateway.ask_all(FEW).await;
    assert_all_served(&answers);
    let asked = story.workers[LIAR].stand_in.shown().len();
    assert!(asked > 0);
    let (books, more) = story.ends(&gateway).await;
    assert_eq!(story.workers[LIAR].stand_in.shown().len(), asked);
    // The scheduler cannot see it, and shows what the worker signed for each.
    let liar = &books.owners[LIAR];
    assert_eq!(liar.shown, liar.earned);
    assert_eq!(books.charged, paid_for(&answers) + liar.shown + more);
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_evidence_is_named_and_earns_nothing() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let liar = scheduler.join(
        paid::OWNERS[LIAR],
        world.till(paid::OWNERS[LIAR]).await,
        priced(Manner::Stale),
    );
    let mut workers = vec![liar.await];
    let gateway = world.gateway(&scheduler);
    let refused = gateway.ask_all(1).await.remove(0);
    assert_eq!(refused.status, StatusCode::BAD_GATEWAY, "{refused:?}");
    assert!(refused.said.contains("worker_not_trusted"), "{refused:?}");
    for owner in &paid::OWNERS[1..] {
        workers.push(
            scheduler
                .join(*owner, world.till(*owner).await, THOROUGH)
                .await,
        );
    }
    let answers = gateway.ask_all(FEW).await;
    assert_all_served(&answers);
    let story = Story {
        world,
        scheduler,
        workers,
    };
    let (books, more) = story.ends(&gateway).await;
    assert_eq!(books.charged, paid_for(&answers) + more);
    assert_eq!(
        story.workers[LIAR].stand_in.shown(),
        [],
        "nothing is sealed to it"
    );
    assert_eq!(story.paid_to(LIAR).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_is_found_and_paid_for_until_then() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let mut workers = Vec::new();
    for (owner, said) in paid::OWNERS.into_iter().zip([OTHER, SEVEN, SEVEN]) {
        let terms = Terms {
            manner: Manner::Honest,
            answer: Some((said, 7)),
            ..THOROUGH
        };
        workers.push(scheduler.join(owner, world.till(owner).await, terms).await);
    }
    let (prober, channel, path) = world.prober(&scheduler).await;
    let mut found = Finding::Agreed;
    for _ in 0..FEW {
        found = prober.probe().await.unwrap();
        if found != Finding::Agreed {
            break;
        }
    }
    assert!(matches!(found, Finding::Lied(_)), "{found:?}");
    assert_eq!(lied(&scheduler), [0]);
    drop(prober);
    are_busy(&workers, 0).await;

    let account = scheduler.ledger.account(channel.address.address).await;
    let account = account.unwrap().unwrap().1;
    let spent = Purse::open(&path, None).unwrap().balance().spent;
    let earned = workers.iter().map(|worker| worker.till.spent());
    assert_eq!((account.spent.amount, account.reserved.amount), (spent, 0));
    assert_eq!(earned.sum::<u64>(), spent);
    let asked = workers[LIAR].stand_in.shown().len();
    let signed = u64::try_from(asked).unwrap() * 7 * paid::PRICE / 1_000_000;
    assert_eq!(workers[LIAR].till.spent(), signed);
    world.settle(&scheduler, &workers).await;
    for worker in &workers {
        let paid = world.town.channel(worker.till.address()).await.state.paid;
        let newest = worker.till.newest().unwrap().unverified().unwrap();
        assert!(paid == newest.amount && paid >= worker.till.spent());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_swaps_cuts_or_sends_again_is_named_and_earns_nothing_by_it() {
    for (lie, status, code, asked) in [
        (Lie::Swaps, StatusCode::BAD_GATEWAY, "worker_not_trusted", 0),
        (Lie::Cuts, StatusCode::BAD_GATEWAY, "answer_broken", 1),
        (Lie::SendsAgain, StatusCode::OK, "replayed", 1),
        (
            Lie::SpendsAgain,
            StatusCode::PAYMENT_REQUIRED,
            "not_covered",
            0,
        ),
    ] {
        let Some(story) = Story::of(THOROUGH).await else {
            return;
        };
        let honest = story.world.gateway(&story.scheduler);
        let mut answers = honest.ask_all(FEW).await;
        let liar = LyingScheduler::before(story.scheduler.clients, lie, &story.workers).await;
        let gateway = story.world.gateway_to(liar.address, paid::PRICE);
        if lie == Lie::SpendsAgain {
            answers.extend(gateway.ask_all(1).await);
        }
        assert_all_served(&answers);
        let before = story.asked();
        let answer = gateway.ask_all(1).await.remove(0);
        assert_eq!(answer.status, status, "{lie:?}: {answer:?}");
        let named = [answer.said.clone(), liar.refusals()].concat();
        assert!(named.contains(code), "{lie:?}: {named}");
        assert_eq!(story.asked() - before, asked, "{lie:?}");
        drop(gateway);
        let (books, more) = story.ends(&honest).await;
        let got = paid_for(&answers) + paid_for(&[answer]) + more;
        // What was cut was signed for by who served it.
        let unseen = books.charged - got;
        assert_eq!(unseen > 0, lie == Lie::Cuts, "{lie:?}");
        assert!(unseen <= Gateway::MOST);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voucher_that_comes_again_buys_nothing_of_a_worker_and_pays_nothing_on_the_chain() {
    let Some(story) = Story::of(THOROUGH).await else {
        return;
    };
    let gateway = story.world.gateway(&story.scheduler);
    assert_all_served(&gateway.ask_all(FEW).await);
    let mut story = story;
    let liar = &mut story.workers[LIAR];
    let earned = liar.till.spent();
    let (status, said) = spends_again(liar).await;
    assert_eq!(status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(said["error"]["code"], "not_covered");
    assert_eq!(said["error"]["spent"], earned);
    assert_eq!(liar.till.spent(), earned);
    let (books, _) = story.ends(&gateway).await;
    for index in 0..story.workers.len() {
        assert_eq!(story.paid_to(index).await, books.owners[index].earned);
    }
    // Nobody is paid twice for the same.
    story.world.settle(&story.scheduler, &story.workers).await;
    assert_eq!(story.world.paid_by_client().await, books.charged);
    for index in 0..story.workers.len() {
        assert_eq!(story.paid_to(index).await, books.owners[index].earned);
    }
}

/// A worker of the first owner that lies, and two honest ones.
struct Story {
    world: World,
    scheduler: Running,
    workers: Vec<Worker>,
}

impl Story {
    async fn of(lying: Terms) -> Option<Self> {
        let world = World::start().await?;
        let scheduler = world.scheduler().await;
        let mut workers = Vec::new();
        for (owner, terms) in paid::OWNERS.into_iter().zip([lying, THOROUGH, THOROUGH]) {
            workers.push(scheduler.join(owner, world.till(owner).await, terms).await);
        }
        Some(Self {
            world,
            scheduler,
            workers,
        })
    }

    /// What honest requests come to that use up what is prepaid; then all is claimed, and
    /// everyone's books and the chain agree.
    async fn ends(&self, gateway: &Gateway) -> (Books, u64) {
        let Self {
            world,
            scheduler,
            workers,
        } = self;
        scheduler.ends(world).await;
        world.is_written_down().await;
        gateway.network.reconcile().await;
        assert!(world.purse.in_doubt().is_none(), "each has ended");
        let more = gateway.ask_all(FEW).await;
        assert_all_served(&more);
        scheduler.ends(world).await;
        are_busy(workers, 0).await;
        let books = world.books(scheduler, workers).await;
        assert_eq!((books.reserved, books.held), (0, 0), "{books:?}");
        assert_eq!(books.spent, books.charged, "{books:?}");
        assert_eq!(books.charged, books.signed, "{books:?}");
        assert_eq!(books.charged, books.to_owners().0, "{books:?}");

        world.settle(scheduler, workers).await;
        assert_eq!(world.paid_by_client().await, books.charged);
        for (index, owner) in books.owners.iter().enumerate() {
            let newest = workers[index].till.newest();
            let newest = newest.map_or(0, |newest| newest.unverified().unwrap().amount);
            assert_eq!(self.paid_to(index).await, newest);
            if index != LIAR {
                assert!(owner.earned > 0);
                assert_eq!((owner.shown, owner.earned), (newest, newest), "{books:?}");
            }
        }
        assert_eq!(scheduler.ledger.audit().await.unwrap(), []);
        (books, paid_for(&more))
    }

    /// By the chain, in all.
    async fn paid_to(&self, index: usize) -> u64 {
        let channel = self.workers[index].till.address();
        self.world.town.channel(channel).await.state.paid
    }

    /// How many requests have reached workers.
    fn asked(&self) -> usize {
        let shown = self.workers.iter().map(|it| it.stand_in.shown().len());
        shown.sum()
    }
}

/// The standings of machines that lied.
fn lied(scheduler: &Running) -> Vec<u16> {
    let table = scheduler.scheduler.workers.standings().table().into_iter();
    let liars = table.filter(|row| row.counts.lied > 0);
    liars.map(|row| row.standing).collect()
}

/// How many are whole and not settled as agreed, each for that.
fn problems(answers: &[Answer], named: &str) -> usize {
    for Answer { status, said, .. } in answers {
        assert_eq!(*status, StatusCode::OK, "{said}");
    }
    let problems: Vec<_> = answers.iter().filter_map(|it| it.problem.clone()).collect();
    assert!(!problems.is_empty());
    for problem in &problems {
        assert!(problem.contains(named), "{problem}");
    }
    problems.len()
}

fn assert_all_served(answers: &[Answer]) {
    for answer in answers {
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert!(answer.problem.is_none(), "{answer:?}");
    }
}

fn paid_for(answers: &[Answer]) -> u64 {
    answers.iter().filter_map(|answer| answer.cost).sum()
}

const fn priced(manner: Manner) -> Terms {
    Terms { manner, ..THOROUGH }
}

const LIAR: usize = 0;

const FEW: usize = 30;

const THOROUGH: Terms = Terms {
    slots: 512,
    ask: paid::PRICE,
    pause: Duration::ZERO,
    manner: Manner::Thorough,
    answer: None,
};

const SEVEN: &str = r#"{"choices":[{"message":{"content":"wide"},"finish_reason":"stop"}],"usage":
    {"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;

const OTHER: &str = r#"{"choices":[{"message":{"content":"deep"},"finish_reason":"stop"}],"usage":
    {"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}"#;
