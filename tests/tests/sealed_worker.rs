//! A worker that dials out to a scheduler, which is a double here, and answers sealed
//! requests of a client that the scheduler cannot read.
#![cfg(test)]

mod sealed_client;

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use contracts::voucher::cost;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use inference::Limits;
use sealed::{Envelope, Offer, SecretKey};
use sealed_client::{ASK, Chat, DEPOSIT, Double, Sealed, voucher};
use serde_json::{Value, json};
use tokio::time::timeout;

#[tokio::test]
async fn a_sealed_chat_is_answered_and_its_settlement_says_what_usage_does() {
    let double = Double::paying(Limits::default()).await;
    let vouchers = async || -> Value {
        let said = double.get("/network/vouchers").await;
        let mut said: Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(said["vouchers"].as_array().unwrap().len(), 1);
        said["vouchers"][0].take()
    };
    let none = vouchers().await;
    assert_eq!(
        (&none["amount"], &none["signed"]),
        (&json!(0), &Value::Null)
    );
    assert!(none["channel"].as_str().unwrap().starts_with("0:"));
    let mut amount = 0;
    for stream in [false, true] {
        amount += double.cost(&double.envelope());
        let chat = Chat {
            stream,
            ..Chat::default()
        };
        let sealed = double.seal(&double.envelope(), &chat.request());
        let reply = double
            .ask(&sealed, Some(voucher(amount)))
            .await
            .open(&sealed);
        assert_eq!(reply.head.status, 200);
        let usage = match stream {
            false => reply.json()["usage"].clone(),
            true => {
                assert!(reply.chunks.len() > 8, "each event leaves at once");
                assert!(reply.body.ends_with(b"data: [DONE]\n\n"));
                reply.last_event()["usage"].clone()
            }
        };
        let work = double.settled(&sealed, &reply).work.load().unwrap();
        assert_eq!(usage["prompt_tokens"], work.prompt_tokens);
        assert_eq!(usage["completion_tokens"], work.completion_tokens);
        assert_eq!(usage["total_tokens"], reply.settlement.tokens);
        assert!(reply.settlement.tokens > 20);
        let id = hex::encode(sealed.envelope.id);
        let again = double.get(&format!("/network/settlements/{id}")).await;
        assert_eq!(again, reply.settlement.encode());
        // Only what was used is spent.
        amount -= double.cost(&double.envelope());
        amount += reply.settlement.tokens * ASK / 1_000_000;
    }
    let newest = vouchers().await;
    assert_eq!(newest["network"], -239);
    assert_eq!(newest["spent"], amount);
    assert!(newest["amount"].as_u64().unwrap() > amount);
}

#[tokio::test]
async fn an_image_is_settled_by_its_steps() {
    let double = Double::free(Limits::default()).await;
    for (limit, status, tokens) in [(6, 200, 6), (5, 400, 0)] {
        let envelope = Envelope {
            model: "draws".into(),
            limit,
            ..double.envelope()
        };
        let input = json!({"model": "draws", "prompt": "a sea", "n": 3, "steps": 2});
        let sealed = double.seal(&envelope, &("/v1/images/generations", input, 7));
        let reply = double.ask(&sealed, None).await.open(&sealed);
        assert_eq!(reply.head.status, status);
        assert_eq!(reply.settlement.tokens, tokens);
        double.settled(&sealed, &reply);
    }
}

#[tokio::test]
async fn a_receipt_is_there_for_whoever_knows_the_secret() {
    let double = Double::free(Limits::default()).await;
    let sealed = double.seal(&double.envelope(), &Chat::default().request());
    let reply = double.ask(&sealed, None).await.open(&sealed);
    let id = reply.header("x-receipt-id").unwrap();
    for (secret, status) in [(Chat::SECRET, 200), (8, 404)] {
        let path = format!("/v1/aci/receipts/{id}");
        let sealed = double.seal(&double.envelope(), &(&*path, Value::Null, secret));
        let reply = double.ask(&sealed, None).await.open(&sealed);
        assert_eq!(reply.head.status, status);
        assert_eq!(reply.settlement.tokens, 0);
    }
}

#[tokio::test]
async fn a_receipt_says_the_price_where_a_voucher_paid() {
    for (double, price) in [
        (Double::free(Limits::default()).await, Value::Null),
        (Double::paying(Limits::default()).await, ASK.into()),
    ] {
        let paid = |times| Some(voucher(times * double.cost(&double.envelope())));
        let sealed = double.seal(&double.envelope(), &Chat::default().request());
        let reply = double.ask(&sealed, paid(1)).await.open(&sealed);
        let path = format!("/v1/aci/receipts/{}", reply.header("x-receipt-id").unwrap());
        let sealed = double.seal(&double.envelope(), &(&*path, Value::Null, Chat::SECRET));
        let receipt = double.ask(&sealed, paid(2)).await.open(&sealed).json();
        let events = receipt["event_log"].as_array().unwrap();
        let executed = events.iter().find(|event| !event["outputs"].is_null());
        assert_eq!(executed.unwrap()["price"], price);
    }
}

#[tokio::test]
async fn a_worker_is_paid_what_it_asks_whatever_its_client_pays() {
    let double = Double::paying(Limits::default()).await;
    let pay = Some(voucher(double.cost(&double.envelope())));
    let dear = Envelope {
        price: 2 * ASK,
        ..double.envelope()
    };
    let sealed = double.seal(&dear, &Chat::default().request());
    let reply = double.ask(&sealed, pay).await.open(&sealed);
    let receipt = double.settled(&sealed, &reply);
    assert_eq!(receipt.price, ASK);
    let vouchers: Value = serde_json::from_slice(&double.get("/network/vouchers").await).unwrap();
    assert_eq!(vouchers["vouchers"][0]["spent"], receipt.cost().unwrap());
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_in_clear_by_name() {
    let double = Double::paying(Limits::default()).await;
    let good = double.envelope();
    let pay = Some(voucher(DEPOSIT));
    let chat = Chat::default().request();
    let refused = async |sealed: &Sealed, voucher, status: u16, code: &str| {
        let (found, error) = double.ask(sealed, voucher).await.refusal();
        assert_eq!(
            (found, &error["error"]["code"]),
            (status, &json!(code)),
            "{error}"
        );
        error["error"]["message"].as_str().unwrap().to_owned()
    };

    let with = |envelope: Envelope| double.seal(&envelope, &chat);
    let elsewhere = with(Envelope {
        worker: attestation::register::Digest256::ZERO,
        ..good.clone()
    });
    refused(&elsewhere, pay.clone(), 409, "not_my_key").await;
    let unknown = with(Envelope {
        model: "other".into(),
        ..double.envelope()
    });
    refused(&unknown, pay.clone(), 404, "model_not_found").await;
    let cheap = with(Envelope {
        price: ASK - 1,
        ..double.envelope()
    });
    let said = refused(&cheap, pay.clone(), 402, "not_covered").await;
    assert!(said.contains("the ask is"), "{said}");
    let dear = with(Envelope {
        limit: u64::MAX,
        price: u64::MAX,
        ..double.envelope()
    });
    refused(&dear, pay.clone(), 400, "bad_envelope").await;

    let cost = double.cost(&good);
    let sealed = with(double.envelope());
    let said = refused(&sealed, None, 402, "not_covered").await;
    assert_eq!(
        said,
        format!("Not covered: vouchers cover 0 nanotons, {cost} are needed.")
    );
    refused(&sealed, Some(voucher(cost - 1)), 402, "not_covered").await;
    let mut forged = voucher(cost);
    *forged.last_mut().unwrap() ^= 1;
    refused(&sealed, Some(forged), 402, "not_covered").await;

    // What was sealed beside another envelope, or to another key.
    let mut swapped = with(double.envelope());
    swapped.envelope.limit += 1;
    refused(&swapped, pay.clone(), 400, "bad_envelope").await;
    let other = SecretKey::from_seed([9; 32]).unwrap().public();
    let stolen = Sealed::new(&other, &double.envelope(), &chat);
    refused(&stolen, pay.clone(), 400, "bad_envelope").await;
    let mut short = with(double.envelope());
    short.body.truncate(100);
    refused(&short, pay.clone(), 400, "bad_envelope").await;

    let reply = double.ask(&sealed, pay.clone()).await.open(&sealed);
    assert_eq!(reply.head.status, 200);
    refused(&sealed, pay, 409, "replayed").await;
}

#[tokio::test]
async fn what_only_the_worker_can_see_is_refused_sealed_and_costs_nothing() {
    let double = Double::paying(Limits::default()).await;
    let small = Envelope {
        limit: 30,
        ..double.envelope()
    };
    let greedy = Chat {
        max_tokens: Some(1000),
        ..Chat::default()
    };
    let other = Chat {
        model: "draws",
        ..Chat::default()
    };
    let mut truncated = double.seal(&double.envelope(), &Chat::default().request());
    truncated.body.truncate(truncated.body.len() - 1);
    for (sealed, status, code) in [
        (
            double.seal(&small, &greedy.request()),
            400,
            json!("limit_exceeded"),
        ),
        (
            double.seal(&double.envelope(), &other.request()),
            404,
            json!("model_not_found"),
        ),
        (truncated, 400, Value::Null),
    ] {
        let reply = double
            .ask(&sealed, Some(voucher(DEPOSIT)))
            .await
            .open(&sealed);
        let error = reply.json();
        assert_eq!(
            (reply.head.status, &error["error"]["code"]),
            (status, &code),
            "{error}"
        );
        assert_eq!(reply.settlement.tokens, 0);
        double.settled(&sealed, &reply);
    }
    // Without a length of its own the answer ends where the limit does.
    let open = Chat {
        max_tokens: None,
        ..Chat::default()
    };
    let again = Envelope {
        id: double.envelope().id,
        ..small
    };
    let sealed = double.seal(&again, &open.request());
    let reply = double
        .ask(&sealed, Some(voucher(DEPOSIT)))
        .await
        .open(&sealed);
    assert_eq!(reply.json()["choices"][0]["finish_reason"], "length");
    assert_eq!(reply.settlement.tokens, 30);
}

#[tokio::test]
async fn a_voucher_that_paid_for_one_request_covers_no_other() {
    let double = Double::paying(Limits::default()).await;
    let pay = Some(voucher(double.cost(&double.envelope())));
    let chat = Chat::default().request();
    let sealed = double.seal(&double.envelope(), &chat);
    let reply = double.ask(&sealed, pay.clone()).await.open(&sealed);
    assert_eq!(reply.head.status, 200);
    let sealed = double.seal(&double.envelope(), &chat);
    let (status, error) = double.ask(&sealed, pay).await.refusal();
    assert_eq!(
        (status, &error["error"]["code"]),
        (402, &json!("not_covered"))
    );
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_and_its_reservation_back() {
    let one = Limits {
        batch: 1,
        ..Limits::default()
    };
    let double = Double::paying(one).await;
    let cost = double.cost(&double.envelope());
    let pay = Some(voucher(cost));
    let chat = Chat {
        stream: true,
        ..Chat::default()
    };
    let sealed = double.seal(&double.envelope(), &chat.request());
    let mut answer = double.send(&sealed, pay.clone()).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.frame().await.unwrap().unwrap();
    drop(answer);
    let mut offers = double.offers().await;
    let is_free = async { while offers.next().await.unwrap().models[0].free < 1 {} };
    timeout(Duration::from_secs(30), is_free).await.unwrap();
    let sealed = double.seal(&double.envelope(), &chat.request());
    // Whatever it came to, it is less than what was set aside.
    let pay = Some(voucher(2 * cost - 1));
    let reply = double.ask(&sealed, pay).await.open(&sealed);
    assert_eq!(reply.head.status, 200);
}

#[tokio::test]
async fn an_offer_says_what_there_is_and_then_that_there_will_be_no_more() {
    let double = Double::paying(Limits::default()).await;
    let mut offers = double.offers().await;
    let offer = offers.next().await.unwrap();
    assert_eq!(offer.worker, double.peer.key.id());
    let names: Vec<_> = offer.models.iter().map(|model| &*model.name).collect();
    assert_eq!(names, ["cocoon-tiny", "draws"]);
    let tiny = &offer.models[0];
    assert_eq!(
        (tiny.slots, tiny.free, tiny.queued, tiny.ask),
        (16, 16, 0, ASK)
    );
    assert_eq!(
        tiny.root.as_deref(),
        Some(&*format!("verity-sha256:{}", "06".repeat(32)))
    );
    let keyset = double.get("/v1/aci/keyset").await;
    assert_eq!(keyset, double.peer.keyset.text().as_bytes());

    double.stop.cancel();
    let last = |offer: Option<Offer>| offer.unwrap().draining;
    while !last(offers.next().await) {}
    assert_eq!(offers.next().await, None);
    double.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn requests_that_are_cancelled_by_the_hundred_end_no_link() {
    let double = Double::free(Limits::default()).await;
    for turns in [1, 8, 16] {
        let sealed = double.seal(&double.envelope(), &Chat::default().request());
        let begin = |_| double.send_body(&sealed, endless(&[]), None).boxed_local();
        let mut cancelled: Vec<_> = (0..500).map(begin).collect();
        for request in &mut cancelled {
            assert!(futures_util::poll!(request).is_pending());
        }
        // Their streams are sent, and the worker has not looked yet.
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        drop(cancelled);
        let sealed = double.seal(&double.envelope(), &Chat::default().request());
        let reply = double.ask(&sealed, None).await.open(&sealed);
        assert_eq!(reply.head.status, 200);
    }
}

#[tokio::test]
async fn a_request_that_never_ends_is_given_up_and_holds_nothing() {
    let double = Double::paying(Limits::default()).await;
    let envelope = Envelope {
        deadline_ms: 300,
        ..double.envelope()
    };
    let pay = voucher(double.cost(&envelope));
    let chat = Chat::default().request();
    let sealed = double.seal(&envelope, &chat);
    let body = endless(&sealed.body);
    let broken = async {
        let mut answer = double.send_body(&sealed, body, Some(pay.clone())).await?;
        while let Some(frame) = answer.frame().await {
            frame?;
        }
        Ok::<_, hyper::Error>(())
    };
    assert!(broken.await.is_err(), "it has no settlement");
    // Nothing of what it might have cost is set aside any more.
    let sealed = double.seal(&double.envelope(), &chat);
    let reply = double.ask(&sealed, Some(pay)).await.open(&sealed);
    assert_eq!(reply.head.status, 200);
}

#[tokio::test]
async fn an_answer_whose_time_ends_is_signed_for_as_far_as_it_came() {
    const MOST: u64 = 8 * 900;
    // Of eight choices six wait for the others.
    let limits = Limits {
        batch: 2,
        ..Limits::default()
    };
    let double = Double::paying(limits).await;
    let (path, mut chat, seed) = Chat::default().request();
    // None of them ends by itself.
    chat["logit_bias"] = json!({"0": -100, "2": -100});
    chat["n"] = 8.into();
    chat["max_tokens"] = 900.into();
    let mut deadline_ms = 100;
    let mut spent = 0;
    // At first there may be no time to begin.
    let (reply, tokens) = loop {
        deadline_ms *= 2;
        let envelope = Envelope {
            deadline_ms,
            limit: MOST + 1000,
            ..double.envelope()
        };
        let pay = voucher(spent + double.cost(&envelope));
        let sealed = double.seal(&envelope, &(path, chat.clone(), seed));
        let answer = double.ask(&sealed, Some(pay)).await;
        if answer.status() == StatusCode::REQUEST_TIMEOUT {
            continue;
        }
        let reply = answer.open(&sealed);
        let tokens = reply.settlement.tokens;
        spent += cost(tokens, ASK).unwrap();
        if tokens > 0 {
            double.settled(&sealed, &reply);
            break (reply, tokens);
        }
        assert_eq!(reply.head.status, 504);
    };
    assert!(tokens < MOST, "{tokens} within {deadline_ms} ms");
    assert_eq!(reply.head.status, 200);
    let said = reply.json();
    assert_eq!(said["usage"]["total_tokens"], tokens);
    for choice in said["choices"].as_array().unwrap() {
        assert_eq!(choice["finish_reason"], "length");
    }
}

#[tokio::test]
async fn a_request_is_not_opened_again_after_its_scheduler_has_come_back() {
    let double = Double::free(Limits::default()).await;
    let sealed = double.seal(&double.envelope(), &Chat::default().request());
    let reply = double.ask(&sealed, None).await.open(&sealed);
    assert_eq!(reply.head.status, 200);
    let double = double.lose().await;
    let (status, error) = double.ask(&sealed, None).await.refusal();
    assert_eq!((status, &error["error"]["code"]), (409, &json!("replayed")));
    let id = hex::encode(sealed.envelope.id);
    let settled = double.get(&format!("/network/settlements/{id}")).await;
    assert_eq!(settled, reply.settlement.encode());
}

#[tokio::test]
async fn an_identifier_that_is_known_is_taken_for_no_other_request() {
    let double = Double::paying(Limits::default()).await;
    let envelope = double.envelope();
    let pay = Some(voucher(2 * double.cost(&envelope)));
    let chat = Chat::default().request();
    let [first, second] = [0, 1].map(|_| double.seal(&envelope, &chat));
    let path = format!("/network/settlements/{}", hex::encode(envelope.id));
    let is = async |status| {
        while double.status(&path).await != status {}
    };
    let is = async |status| timeout(Duration::from_secs(30), is(status)).await.unwrap();
    let replayed = async || {
        let (status, error) = double.ask(&second, pay.clone()).await.refusal();
        assert_eq!((status, &error["error"]["code"]), (409, &json!("replayed")));
    };
    // Of an upload of which nothing has come it is known that it may still be answered.
    let slow = double.send_body(&first, endless(&[]), pay.clone());
    let mut slow = slow.boxed_local();
    assert!(futures_util::poll!(&mut slow).is_pending());
    is(StatusCode::ACCEPTED).await;
    replayed().await;
    drop(slow);
    is(StatusCode::NOT_FOUND).await;
    let reply = double.ask(&first, pay.clone()).await.open(&first);
    assert_eq!(reply.head.status, 200);
    replayed().await;
    assert_eq!(double.get(&path).await, reply.settlement.encode());
}

#[tokio::test]
async fn a_worker_comes_back_to_a_scheduler_that_lost_it() {
    let double = Double::free(Limits::default()).await.lose().await;
    let sealed = double.seal(&double.envelope(), &Chat::default().request());
    let reply = double.ask(&sealed, None).await.open(&sealed);
    assert_eq!(reply.head.status, 200);
    let plain = double.post("/v1/chat/completions", Body::from("{}")).await;
    assert_eq!(
        plain.status(),
        StatusCode::NOT_FOUND,
        "nothing is served in clear"
    );
}

/// These bytes, and no end.
fn endless(bytes: &[u8]) -> Body {
    let first = (!bytes.is_empty()).then(|| Ok::<_, Infallible>(bytes.to_vec()));
    Body::from_stream(stream::iter(first).chain(stream::pending()))
}
