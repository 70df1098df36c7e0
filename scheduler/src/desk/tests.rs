//! The desk at times of a test's own.

use super::*;

use sealed::{OfferedModel, SizeClass};
use tokio::sync::oneshot::Receiver;
use tycho_types::cell::HashBytes;

const MODEL: &str = "m";
const START: Duration = Duration::from_secs(100);

type Told = Receiver<Result<Chosen, NoPick>>;

fn worker(name: u8) -> Digest256 {
    Digest256::of(&[name])
}

fn payer(number: u8) -> Payer {
    Payer::Channel(HashBytes([number; 32]))
}

fn offer(name: u8, slots: u32, free: u32) -> Offer {
    let model = OfferedModel {
        name: MODEL.into(),
        root: None,
        tokens_per_second: 50,
        context: 4096,
        slots,
        free,
        queued: 0,
        ask: 1,
    };
    Offer {
        worker: worker(name),
        draining: false,
        models: vec![model],
    }
}

fn request(limit: u64, except: &[Digest256]) -> AssignmentRequest {
    AssignmentRequest {
        model: MODEL.into(),
        limit,
        max_price: 1,
        tip: 0,
        deadline_ms: 0,
        affinity: None,
        except: except.to_vec(),
    }
}

fn envelope(name: u8, limit: u64) -> Envelope {
    Envelope {
        worker: worker(name),
        model: MODEL.into(),
        id: [0; 16],
        limit,
        price: 1,
        deadline_ms: 1000,
        class: SizeClass::of(0),
    }
}

impl State {
    fn with(slots: u32) -> Self {
        let mut state = Self::new([0; 32]);
        state
            .offered(worker(1), &offer(1, slots, slots), 1000, START)
            .unwrap();
        state
    }

    fn asked(&mut self, payer: Payer, request: AssignmentRequest, now: Duration) -> Told {
        self.within(payer, request, now, MAX_PATIENCE).unwrap()
    }

    fn within(
        &mut self,
        payer: Payer,
        request: AssignmentRequest,
        now: Duration,
        patience: Duration,
    ) -> Result<Told, Refused> {
        let (chosen, told) = oneshot::channel();
        let waiter = Waiter {
            request,
            tip: 0,
            payer,
            deadline: now.saturating_add(patience),
            chosen,
        };
        self.ask(waiter, now).map(|()| told)
    }

    /// As after a heartbeat that says so.
    fn hears(&mut self, free: u32, now: Duration) {
        self.offered(worker(1), &offer(1, 1, free), 1000, now)
            .unwrap();
    }
}

fn is_assigned(told: &mut Told) -> bool {
    matches!(told.try_recv(), Ok(Ok(_)))
}

#[test]
fn who_only_waits_is_not_counted_as_served() {
    let mut state = State::with(1);
    let mut busy = state.asked(payer(1), request(1000, &[]), START);
    assert!(is_assigned(&mut busy));
    // One at a time leaves the queue, a thousand tokens each second.
    let mut now = START;
    for _ in 0..60 {
        let mut told = state.asked(payer(1), request(1000, &[]), now);
        now += Duration::from_secs(1);
        let pick = state.take(&envelope(1, 1000), 0, payer(1), now).unwrap();
        state.hears(1, now);
        state.places.directory.done(pick, &Outcome::Abandoned, now);
        state.serve(now);
        assert!(is_assigned(&mut told));
    }
    let _waiting = state.asked(payer(1), request(100_000, &[]), now);
    for _ in 0..1000 {
        state.serve(now);
    }
    let late = state.within(payer(2), request(50_000, &[]), now, Duration::from_secs(10));
    let Err(Refused::Late { wait, retry_after }) = late else {
        panic!("{late:?}");
    };
    assert!((80..120).contains(&wait.as_secs()), "{wait:?}");
    assert_eq!(retry_after, Duration::from_secs(60));
}

#[test]
fn who_cannot_use_the_room_there_is_holds_up_nobody_and_has_the_next_of_its_own() {
    let mut state = State::with(1);
    state
        .offered(worker(2), &offer(2, 1, 0), 1000, START)
        .unwrap();
    let _busy = state.asked(payer(9), request(1, &[]), START);
    let picky = |state: &mut State| state.asked(payer(1), request(1, &[worker(1)]), START);
    let mut picky: Vec<_> = (0..20).map(|_| picky(&mut state)).collect();
    let mut other = state.asked(payer(2), request(1000, &[]), START);
    let pick = state.take(&envelope(1, 1), 0, payer(9), START).unwrap();
    state
        .places
        .directory
        .done(pick, &Outcome::Abandoned, START);
    state.serve(START);
    assert!(is_assigned(&mut other));
    assert!(!picky.iter_mut().any(is_assigned));
    state
        .offered(worker(2), &offer(2, 1, 1), 1000, START)
        .unwrap();
    assert!(picky.iter_mut().any(is_assigned));
}

#[test]
fn who_has_left_costs_its_payer_nothing_and_gets_no_place() {
    let mut state = State::with(1);
    let _busy = state.asked(payer(9), request(1, &[]), START);
    drop(state.asked(payer(1), request(100_000, &[]), START));
    let mut first = state.asked(payer(1), request(1, &[]), START);
    let mut second = state.asked(payer(2), request(1, &[]), START);
    let pick = state.take(&envelope(1, 1), 0, payer(9), START).unwrap();
    state
        .places
        .directory
        .done(pick, &Outcome::Abandoned, START);
    state.serve(START);
    assert!(is_assigned(&mut first));
    assert!(!is_assigned(&mut second));
}

#[test]
fn a_worker_that_rests_is_not_asked_because_a_client_has_left() {
    let mut state = State::with(3);
    let ask = |state: &mut State| {
        let (chosen, told) = oneshot::channel();
        let waiter = Waiter {
            request: request(1, &[]),
            tip: 0,
            payer: payer(1),
            deadline: START,
            chosen,
        };
        (state.places.pick(&waiter, START), waiter, told)
    };
    let (left, waiter, _) = ask(&mut state);
    for _ in 0..2 {
        let place = ask(&mut state).0.unwrap().place;
        let pick = state.places.held.remove(place).unwrap();
        state.places.directory.done(pick, &Outcome::Failed, START);
    }
    state.places.tell(waiter, left, START);
    let refused = state.places.directory.claim(&worker(1), MODEL, START);
    assert_eq!(refused, Err(NoPick::Full), "it rests");
}

#[test]
fn a_place_is_for_its_payer_and_for_no_more_than_it_was_waited_for_with() {
    let mut state = State::with(1);
    assert!(is_assigned(&mut state.asked(
        payer(1),
        request(100, &[]),
        START
    )));
    for (payer, limit) in [(payer(2), 100), (payer(1), 101)] {
        let refused = state.take(&envelope(1, limit), 0, payer, START);
        assert_eq!(refused, Err(NoPick::Full), "{payer:?}, {limit}");
    }
    assert!(state.take(&envelope(1, 100), 0, payer(1), START).is_ok());
}

#[test]
fn who_asks_for_no_place_gets_none_while_others_wait() {
    let mut state = State::with(1);
    let pick = state.take(&envelope(1, 1), 0, payer(1), START).unwrap();
    let mut waits = state.asked(payer(2), request(1, &[]), START);
    state
        .places
        .directory
        .done(pick, &Outcome::Abandoned, START);
    assert_eq!(
        state.take(&envelope(1, 1), 0, payer(1), START),
        Err(NoPick::Full)
    );
    state.serve(START);
    assert!(is_assigned(&mut waits));
}

#[test]
fn who_can_use_no_room_takes_none_of_anybodys() {
    let mut state = State::with(3);
    for _ in 0..2 {
        let mut told = state.asked(payer(1), request(1, &[]), START);
        assert!(is_assigned(&mut told));
    }
    let mut waits = state.asked(payer(2), request(1, &[worker(1)]), START);
    let later = START + Duration::from_secs(3);
    state.serve(later);
    assert!(!is_assigned(&mut waits));
    for _ in 0..2 {
        assert!(state.take(&envelope(1, 1), 0, payer(1), later).is_ok());
    }
    let without = state.take(&envelope(1, 1), 0, payer(3), later);
    assert!(without.is_ok(), "{without:?}");
}

#[test]
fn who_keeps_all_places_and_sends_nothing_makes_room_for_others() {
    let mut state = State::with(8);
    let kept: Vec<_> = (0..8)
        .map(|_| state.asked(payer(1), request(1, &[]), START))
        .collect();
    let mut own = state.asked(payer(1), request(1, &[]), START);
    let mut early = state.asked(payer(2), request(1000, &[]), START);
    assert!(!is_assigned(&mut early), "a request may be on its way");
    let later = START + Duration::from_secs(2);
    state
        .offered(worker(1), &offer(1, 8, 8), 1000, later)
        .unwrap();
    assert!(is_assigned(&mut early));
    for number in 0..4 {
        let mut told = state.asked(payer(2), request(1000, &[]), later);
        assert_eq!(is_assigned(&mut told), number < 3, "half of all, {number}");
    }
    let mut third = state.asked(payer(3), request(1000, &[]), later);
    assert!(is_assigned(&mut third));
    assert!(!is_assigned(&mut own));
    drop(kept);
}

#[test]
fn of_one_network_of_ipv6_everyone_is_one_payer() {
    let desk = Desk::new([0; 32]);
    desk.offered(worker(1), &offer(1, 1, 1), 1000).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let mut request = request(1, &[]);
    request.deadline_ms = 1000;
    let at = |text: &str| Payer::at(text.parse().unwrap());
    let first = desk.assign(request, at("2001:db8::1"));
    assert!(runtime.block_on(first).is_ok());
    let other = desk.take(&envelope(1, 1), 0, at("2001:db8::2"));
    assert!(other.is_ok());
}

#[test]
fn who_tips_and_waits_is_served_sooner_and_has_the_place_for_the_tip_only() {
    let mut state = State::with(1);
    let tipping = |tip| AssignmentRequest {
        max_price: 1000,
        tip,
        ..request(1000, &[])
    };
    let mut first = state.asked(payer(1), tipping(500), START);
    let at_once = first.try_recv().unwrap().unwrap();
    assert_eq!(at_once.tip, 0, "it did not have to wait");
    let mut pick = state.take(&envelope(1, 1000), 0, payer(1), START).unwrap();
    // Of two that wait all the time, one doubles what it pays.
    let (mut served, mut waiting) = ([0; 2], Vec::new());
    for _ in 0..60 {
        for (place, tip) in [0, 1000].into_iter().enumerate() {
            let number = u8::try_from(place).unwrap();
            let told = state.asked(payer(number + 2), tipping(tip), START);
            waiting.push((place, tip, told));
        }
    }
    for _ in 0..30 {
        state.hears(1, START);
        state
            .places
            .directory
            .done(pick, &Outcome::Abandoned, START);
        state.serve(START);
        let assigned = waiting.iter_mut().find_map(|(place, tip, told)| {
            let chosen = told.try_recv().ok()?.unwrap();
            assert_eq!(chosen.tip, *tip);
            Some((*place, *tip))
        });
        let (place, tip) = assigned.unwrap();
        served[place] += 1;
        let whose = payer(u8::try_from(place).unwrap() + 2);
        let mut take = |tip| state.take(&envelope(1, 1000), tip, whose, START);
        if tip > 0 {
            assert_eq!(
                take(tip - 1),
                Err(NoPick::Full),
                "it does not pay what it said"
            );
        }
        pick = take(tip).unwrap();
    }
    assert_eq!(served, [10, 20]);
}
