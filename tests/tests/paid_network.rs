//! Money through the whole network: an application, a gateway with a Channel, a scheduler
//! with books, workers whose owners are paid through other Channels, and the chain. What one
//! has spent the other has earned, to the last nano, whatever breaks on the way.
#![cfg(test)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod paid;

use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::join_all;
use paid::{Gateway, OWNERS, World};
use tests::stand_in::{Manner, Terms};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_cost_the_same_in_every_book_and_on_the_chain() {
    let Some(world) = World::start().await else {
        return;
    };
    let scheduler = world.scheduler().await;
    let mut workers = Vec::new();
    for owner in OWNERS {
        workers.push(scheduler.worker(&world, owner, SLOW).await);
    }
    let gateway = world.gateway(&scheduler);
    let answers = join_all((0..STREAMS).map(|index| gateway.ask(index))).await;
    let mut paid = 0;
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.said);
        assert_eq!(answer.said, Gateway::body(index), "nothing is mixed");
        paid += answer.cost.unwrap();
    }
    let books = world.books(&scheduler, &workers).await;
    assert_eq!(
        (books.spent, books.charged, books.signed),
        (paid, paid, paid)
    );
    assert_eq!((books.reserved, books.held), (0, 0));
    for owner in &books.owners {
        assert!(owner.earned > 0);
        assert_eq!((owner.shown, owner.reserved), (owner.earned, 0));
    }

    // All of it was used, so the chain pays that and no more.
    world.settle(&scheduler, &workers).await;
    assert_eq!(world.paid_by_client().await, paid);
    let mut to_owners = 0;
    for (worker, owner) in workers.iter().zip(&books.owners) {
        let channel = world.town.channel(worker.till.address()).await;
        assert_eq!(channel.state.paid, owner.earned);
        to_owners += channel.state.paid;
    }
    assert_eq!(to_owners, paid);
    assert_eq!(scheduler.ledger.audit().await.unwrap(), []);
}

const STREAMS: usize = 1000;

/// All streams are under way at once.
const SLOW: Terms = Terms {
    slots: 512,
    ask: paid::PRICE,
    pause: Duration::from_millis(500),
    manner: Manner::Thorough,
};
