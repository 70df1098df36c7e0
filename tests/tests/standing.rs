//! What becomes of workers that lie or fail: who notices, what it says of their machines,
//! and what it costs them.
#![cfg(test)]

mod one_scheduler;

use one_scheduler::{Network, PATIENCE, TICK};
use scheduler::machine::Machine;
use scheduler::metrics::Ending;
use scheduler::reputation::NEW;
use serde_json::{Value, json};
use tests::asker::{AskError, Asker, texts};
use tests::stand_in::{Manner, StandIn, Terms};
use tokio::time::{sleep, timeout};

/// What one request to a worker of its manner says of its machine.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_and_not_true_is_a_lie_and_what_is_not_signed_a_failure() {
    for (manner, ending, event, standing) in [
        (Manner::Honest, Ending::Settled, "answered", NEW),
        (Manner::Greedy, Ending::Unsettled, "lied", 0),
        (Manner::Dear, Ending::Unsettled, "lied", 0),
        (Manner::Mistaken, Ending::Unsettled, "lied", 0),
        (Manner::Stranger, Ending::Unsettled, "failed", 333),
        (Manner::Unsettled, Ending::Unsettled, "failed", 333),
        (Manner::Breaking, Ending::Failed, "failed", 333),
    ] {
        let network = Network::start().await;
        let worker = network.link(StandIn::start(Terms::of(manner)).await).await;
        let asker = network.asker().await;
        // What a client thinks of it is its own affair.
        drop(asker.ask(texts(1)).await);
        let metrics = &network.scheduler.metrics;
        let ended = async {
            while metrics.count(ending) == 0 {
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, ended)
            .await
            .unwrap_or_else(|_| panic!("{manner:?}"));
        let published = standings(&asker).await;
        let row = &published["machines"][0];
        assert_eq!(
            (&row["standing"], &row[event]),
            (&json!(standing), &json!(1000)),
            "{manner:?}: {row}"
        );
        assert_eq!(
            published["workers"][0],
            json!({
                "worker": worker.id, "machine": row["machine"], "standing": standing,
            })
        );
        assert_eq!(metrics.paid().1 > 0, manner == Manner::Honest, "{manner:?}");
        let said = asker.get("/metrics").await.unwrap();
        let said = String::from_utf8(said.to_vec()).unwrap();
        let line = format!("cocoon_scheduler_judged_total{{event=\"{event}\"}} 1\n");
        assert!(said.contains(&line), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_room_after_all_is_thought_nothing_of() {
    let network = Network::start().await;
    let terms = Terms::of(Manner::Unwilling);
    let _worker = network.link(StandIn::start(terms).await).await;
    let asker = network.asker().await;
    let refused = asker.ask(texts(1)).await.unwrap_err();
    assert!(matches!(refused, AskError::Refused(status, _) if status == 429));
    assert_eq!(network.scheduler.metrics.count(Ending::Refused), 1);
    assert_eq!(standings(&asker).await["machines"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_is_asked_nothing_more_and_new_keys_do_not_help_it() {
    let network = Network::start().await;
    let asker = network.asker().await;
    let liar = network
        .link(StandIn::start_on(MACHINE, Terms::of(Manner::Greedy)).await)
        .await;
    asker.ask(texts(1)).await.unwrap();
    let none = asker.assign(&json!({"deadline_ms": 50})).await.unwrap_err();
    assert!(matches!(none, AskError::Refused(_, code) if code == "full"));

    let first = network
        .scheduler
        .workers
        .get(&liar.id)
        .unwrap()
        .proof
        .machine;
    drop(liar);
    let again = network
        .link(StandIn::start_on(MACHINE, Terms::default()).await)
        .await;
    let machine = network
        .scheduler
        .workers
        .get(&again.id)
        .unwrap()
        .proof
        .machine;
    assert_eq!(machine, first, "other keys, the same machine");
    let none = asker.assign(&json!({"deadline_ms": 50})).await.unwrap_err();
    assert!(matches!(none, AskError::Refused(_, code) if code == "full"));

    let honest = network.link(StandIn::start(Terms::default()).await).await;
    for index in 0..8 {
        assert_eq!(asker.ask(texts(index)).await.unwrap().worker, honest.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_can_turn_the_scheduler_against_a_worker() {
    let network = Network::start().await;
    let worker = network.link(StandIn::start(Terms::default()).await).await;
    let mut asker = network.asker().await;
    let assignment = asker.assign(&json!({})).await.unwrap();
    for _ in 0..8 {
        asker.cut(&assignment).await.unwrap_err();
        asker.garbage(&assignment).await.unwrap_err();
    }
    asker.deadline_ms = 1;
    drop(asker.begin(&assignment, texts(1)).await);
    let quiet = async {
        while network.scheduler.metrics.open() > 0 || worker.busy() > 0 {
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, quiet).await.unwrap();
    // What came of the last one may have been settled.
    for row in standings(&asker).await["machines"].as_array().unwrap() {
        for count in ["late", "failed", "lied"] {
            assert_eq!(row[count], 0, "{row}");
        }
    }
    let machine: Machine = network
        .scheduler
        .workers
        .get(&worker.id)
        .unwrap()
        .proof
        .machine;
    assert_eq!(network.scheduler.workers.standings().of(&machine), NEW);
}

async fn standings(asker: &Asker) -> Value {
    let said = asker.get("/network/v1/standings").await.unwrap();
    serde_json::from_slice(&said).unwrap()
}

const MACHINE: [u8; 16] = *b"of one processor";
