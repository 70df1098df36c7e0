//! The directory, told anything in any order.

use super::*;
use proptest::prelude::*;

const MODEL: &str = "m";
const SLOTS: u32 = 16;

const ANSWER: Outcome = Outcome::Answered {
    first: Duration::from_millis(200),
    rest: Duration::from_secs(2),
    tokens: 100,
};

fn id(worker: u8) -> Digest256 {
    Digest256::of(&[worker])
}

fn offer(worker: Digest256, ask: u64) -> Offer {
    Offer {
        worker,
        draining: false,
        models: vec![OfferedModel {
            name: MODEL.into(),
            root: None,
            tokens_per_second: 50,
            context: 4096,
            slots: SLOTS,
            free: SLOTS,
            queued: 0,
            ask,
        }],
    }
}

fn directory(asks: &[u64]) -> Directory {
    let mut directory = Directory::new([0; 32]);
    for (worker, ask) in (0..).zip(asks) {
        directory
            .update(id(worker), &offer(id(worker), *ask), Duration::ZERO)
            .unwrap();
    }
    directory
}

fn wanted(max_price: u64) -> Wanted<'static> {
    Wanted {
        model: MODEL,
        max_price,
        affinity: None,
        except: &[],
    }
}

#[test]
fn why_there_is_no_worker_is_said() {
    let mut directory = directory(&[100, 50]);
    let mut pick = |wanted: Wanted<'_>| directory.pick(&wanted, Duration::ZERO, 0);
    let other = Wanted {
        model: "n",
        ..wanted(100)
    };
    assert_eq!(pick(other), Err(NoPick::Model));
    assert_eq!(pick(wanted(49)), Err(NoPick::Price { least: 50 }));
    let both = [id(0), id(1)];
    let except = Wanted {
        except: &both,
        ..wanted(100)
    };
    assert_eq!(pick(except), Err(NoPick::Excepted));
    let twice = Wanted {
        except: &[id(0), id(0), id(2)],
        ..wanted(100)
    };
    assert!(pick(twice).is_ok(), "there is another");
    assert_eq!(pick(wanted(99)).unwrap().price, 50);
}

#[test]
fn offers_that_no_worker_makes_are_refused() {
    let mut directory = Directory::new([0; 32]);
    let mut refused = |models: Vec<OfferedModel>| {
        let offer = Offer {
            models,
            ..offer(id(0), 1)
        };
        let error = directory.update(id(0), &offer, Duration::ZERO).unwrap_err();
        error.to_string()
    };
    let named = |name: String| OfferedModel {
        name,
        ..offer(id(0), 1).models.remove(0)
    };
    let many = (0..65).map(|number| named(number.to_string())).collect();
    assert_eq!(refused(many), "an offer of 65 models, at most 64 are taken");
    let long = vec![named("x".repeat(257))];
    assert_eq!(
        refused(long),
        "a model's name of 257 bytes, expected 1 to 256"
    );
    let none = vec![named(String::new())];
    assert_eq!(
        refused(none),
        "a model's name of 0 bytes, expected 1 to 256"
    );
    let twice = vec![named("x".into()), named("x".into())];
    assert_eq!(refused(twice), "an offer has the model x twice");
    let other = directory.update(id(0), &offer(id(1), 1), Duration::ZERO);
    let said = format!("an offer of worker {}, expected {}", id(1), id(0));
    assert_eq!(other.unwrap_err().to_string(), said);
    assert!(directory.is_empty());
}

#[test]
fn who_does_not_speak_for_three_heartbeats_is_gone_and_with_it_its_models() {
    let mut directory = directory(&[1]);
    let late = EXPIRY.saturating_sub(Duration::from_millis(1));
    directory.update(id(0), &offer(id(0), 1), late).unwrap();
    let pick = directory.pick(&wanted(1), EXPIRY, 0).unwrap();
    let gone = late.saturating_add(EXPIRY);
    assert_eq!(directory.pick(&wanted(1), gone, 0), Err(NoPick::Model));
    assert!(directory.is_empty() && directory.models().next().is_none());
    // What is done after that changes nothing, nor for who comes back in its place.
    directory.update(id(1), &offer(id(1), 1), gone).unwrap();
    directory.done(pick, &ANSWER, gone);
    assert_eq!(directory.models().next().unwrap().free, u64::from(SLOTS));
}

#[test]
fn a_conversation_comes_back_while_there_is_room_and_goes_on_next_to_it() {
    let mut directory = directory(&[10; 20]);
    let affine = Wanted {
        affinity: Some(id(7)),
        ..wanted(10)
    };
    let mut loads = HashMap::<_, u32>::new();
    let mut at_first = None;
    for random in 0..8 {
        let pick = directory.pick(&affine, Duration::ZERO, random).unwrap();
        assert_eq!(*at_first.get_or_insert(pick.worker), pick.worker);
    }
    for random in 8..160 {
        let pick = directory.pick(&affine, Duration::ZERO, random).unwrap();
        *loads.entry(pick.worker).or_default() += 1;
    }
    // All slots are 320, half of them used: a quarter more than that of 16 is 10.
    assert!(loads.values().all(|load| *load <= 11), "{loads:?}");
}

#[test]
fn who_asks_for_nothing_gets_two_shares_at_most() {
    let mut asks = [1000; 20];
    asks[3] = 0;
    let mut directory = directory(&asks);
    let mut cheap = 0;
    for random in 0..10_000 {
        let pick = directory
            .pick(&wanted(1000), Duration::ZERO, random)
            .unwrap();
        cheap += u32::from(pick.worker == id(3));
        directory.done(pick, &ANSWER, Duration::ZERO);
    }
    assert!(
        (900..1100).contains(&cheap),
        "a tenth of ten thousand: {cheap}"
    );
}

#[test]
fn a_standing_is_a_share_with_affinity_and_without() {
    for affinity in [false, true] {
        let mut directory = directory(&[1000; 20]);
        for worker in 1..20 {
            directory.judge(&id(worker), reputation::FULL, Duration::ZERO);
        }
        let mut tried = 0;
        for random in 0..20_000_u64 {
            let wanted = Wanted {
                affinity: affinity.then(|| Digest256::of(&random.to_be_bytes())),
                ..wanted(1000)
            };
            let pick = directory.pick(&wanted, Duration::ZERO, random).unwrap();
            tried += u32::from(pick.worker == id(0));
            directory.done(pick, &ANSWER, Duration::ZERO);
        }
        let share = 20_000 / 20;
        assert!(
            (share / 4..share * 3 / 4).contains(&tried),
            "about a half: {tried}"
        );
    }
}

#[test]
fn who_was_slow_is_tried_again() {
    let mut directory = directory(&[1000; 20]);
    let slow = Outcome::Answered {
        first: Duration::from_secs(9),
        rest: Duration::ZERO,
        tokens: 1,
    };
    let mut tried = 0;
    for random in 0..20_000 {
        let pick = directory
            .pick(&wanted(1000), Duration::ZERO, random)
            .unwrap();
        let is_slow = pick.worker == id(0);
        tried += u32::from(is_slow);
        directory.done(pick, if is_slow { &slow } else { &ANSWER }, Duration::ZERO);
    }
    assert!(
        (10..100).contains(&tried),
        "one of 32 tries, of 20 workers: {tried}"
    );
}

#[test]
fn who_fails_at_once_does_not_draw_everything() {
    let mut directory = directory(&[1000; 10]);
    let mut failures = 0;
    for random in 0..60_000_u64 {
        let now = Duration::from_millis(random);
        if random % 2000 == 0 {
            for worker in 0..10 {
                directory
                    .update(id(worker), &offer(id(worker), 1000), now)
                    .unwrap();
            }
        }
        let pick = directory.pick(&wanted(1000), now, random).unwrap();
        let fails = pick.worker == id(4);
        failures += u32::from(fails);
        let outcome = if fails { Outcome::Failed } else { ANSWER };
        directory.done(pick, &outcome, now);
    }
    assert!(
        failures <= 8,
        "2 and one after 1, 2, 4, … s of a minute: {failures}"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Hear {
        worker: u8,
        model: bool,
        ask: u64,
        slots: u32,
        free: u32,
        draining: bool,
    },
    Leave {
        worker: u8,
    },
    Judge {
        worker: u8,
        standing: u16,
    },
    Pick {
        max: u64,
        affinity: Option<u8>,
        except: Vec<u8>,
        random: u64,
    },
    Done {
        which: prop::sample::Index,
        outcome: Outcome,
    },
    Wait {
        millis: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        Just(ANSWER),
        Just(Outcome::Failed),
        Just(Outcome::Full),
        Just(Outcome::Abandoned),
    ];
    prop_oneof![
        3 => (0..12_u8, any::<bool>(), 0..300_u64, 0..4_u32, 0..5_u32, prop::bool::weighted(0.1))
            .prop_map(|(worker, model, ask, slots, free, draining)| Step::Hear {
                worker, model, ask, slots, free, draining
            }),
        1 => (0..12_u8).prop_map(|worker| Step::Leave { worker }),
        1 => (0..12_u8, prop::sample::select(vec![0, 500, 1000])).prop_map(|(worker, standing)| Step::Judge {
            worker, standing
        }),
        6 => (
            0..300_u64,
            prop::option::of(any::<u8>()),
            prop::collection::vec(0..12_u8, 0..4),
            any::<u64>()
        ).prop_map(|(max, affinity, except, random)| Step::Pick {
            max, affinity, except, random
        }),
        3 => (any::<prop::sample::Index>(), outcome)
            .prop_map(|(which, outcome)| Step::Done { which, outcome }),
        1 => (0..4000_u64).prop_map(|millis| Step::Wait { millis }),
    ]
}

proptest! {
    #[test]
    fn a_pick_is_allowed_and_there_is_one_if_one_is_allowed(
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut directory = Directory::new([1; 32]);
        let mut now = Duration::ZERO;
        let mut heard = HashMap::new();
        let mut picks = Vec::new();
        for step in steps {
            match step {
                Step::Hear { worker, model, ask, slots, free, draining } => {
                    let mut offer = offer(id(worker), ask);
                    offer.draining = draining;
                    offer.models[0].slots = slots;
                    offer.models[0].free = free;
                    if !model {
                        offer.models[0].name = "other".into();
                    }
                    directory.update(id(worker), &offer, now).unwrap();
                    heard.insert(id(worker), (ask, now, draining || !model));
                }
                Step::Leave { worker } => {
                    directory.remove(&id(worker));
                    heard.remove(&id(worker));
                }
                Step::Judge { worker, standing } => directory.judge(&id(worker), standing, now),
                Step::Wait { millis } => now = now.saturating_add(Duration::from_millis(millis)),
                Step::Done { which, outcome } => {
                    if !picks.is_empty() {
                        let pick = picks.swap_remove(which.index(picks.len()));
                        directory.done(pick, &outcome, now);
                    }
                }
                Step::Pick { max, affinity, except, random } => {
                    let except: Vec<_> = except.into_iter().map(id).collect();
                    directory.advance(now);
                    let is_allowed = |seat: &Seat| {
                        seat.is_open(now)
                            && &*directory.models[seat.model].name == MODEL
                            && seat.ask <= max
                            && !except.contains(&seat.worker)
                    };
                    let any = directory.seats.iter().any(|(_, seat)| is_allowed(seat));
                    let wanted = Wanted {
                        model: MODEL,
                        max_price: max,
                        affinity: affinity.map(id),
                        except: &except,
                    };
                    let pick = directory.pick(&wanted, now, random);
                    prop_assert_eq!(pick.is_ok(), any, "{:?}", pick);
                    if let Ok(pick) = pick {
                        let (ask, at, is_closed) = heard[&pick.worker];
                        prop_assert!(pick.price == ask && ask <= max);
                        prop_assert!(now.saturating_sub(at) < EXPIRY && !is_closed);
                        prop_assert!(!except.contains(&pick.worker));
                        let seat = &directory.seats[pick.seat];
                        prop_assert!(seat.load() <= seat.slots && seat.standing > 0);
                        picks.push(pick);
                    }
                }
            }
            for (number, model) in &directory.models {
                let seats = || directory.seats.iter().filter(|(_, seat)| seat.model == number);
                let sum = |of: fn(&Seat) -> u32| seats().map(|(_, seat)| u64::from(of(seat))).sum::<u64>();
                prop_assert_eq!(model.slots, sum(|seat| seat.slots));
                prop_assert_eq!(model.load, sum(Seat::load));
                prop_assert_eq!(model.seats, seats().count());
                let open = seats().filter(|(_, seat)| seat.position.is_some());
                prop_assert_eq!(model.open.len(), open.count());
            }
        }
    }
}
