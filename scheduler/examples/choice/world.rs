//! Workers, conversations, and what comes of them.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use scheduler::dice::{Dice, mix};
use scheduler::directory::Outcome;
use scheduler::retry::Patience;

use crate::policy::{Ask, Heard, Policy, Sent};

/// What is simulated.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) schedulers: usize,
    /// Seconds between two offers of a worker.
    pub(crate) heartbeat: f64,
    /// At most, before the first token.
    pub(crate) attempts: usize,
    pub(crate) hedging: Hedging,
}

/// Whether a second worker is asked before the first one failed.
#[derive(Clone, Copy)]
pub(crate) enum Hedging {
    Never,
    /// When so many of a thousand requests had their first token.
    After {
        thousandths: u32,
    },
    /// As the crate has it, for second attempts too.
    Rule,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            schedulers: 4,
            heartbeat: 2.0,
            attempts: 3,
            hedging: Hedging::Never,
        }
    }
}

/// What was found.
#[derive(Default)]
pub(crate) struct Found {
    /// Seconds, by request.
    first: Vec<f64>,
    failed: usize,
    requests: usize,
    attempts: usize,
    paid: f64,
    tokens: f64,
    turns: usize,
    cached: usize,
    /// Slot-seconds that were of use, and that were not.
    work: f64,
    wasted: f64,
    /// By worker, of one.
    used: Vec<f64>,
}

impl Found {
    pub(crate) const COLUMNS: &'static str = "\
        | | p50 | p99 | failed | price | uneven | found | attempts extra | work thrown away |\n\
        |---|---|---|---|---|---|---|---|---|\n";

    /// Who gets no answer has waited in vain for as long as anyone does.
    fn fail(&mut self) {
        self.failed += 1;
        self.first.push(DEADLINE);
    }

    pub(crate) fn row(&self, name: &str) -> String {
        let mut first = self.first.clone();
        first.sort_by(f64::total_cmp);
        let at = |part: f64| first[(first.len() as f64 * part) as usize];
        let percent = |of: f64, all: f64| 100.0 * of / all.max(1e-9);
        let mean = self.used.iter().sum::<f64>() / self.used.len() as f64;
        let far = self
            .used
            .iter()
            .map(|used| (used - mean).powi(2))
            .sum::<f64>();
        format!(
            "| {name} | {:.2} | {:.2} | {:.2} % | {:.0} | {:.0} % | {:.0} % | {:.1} % | {:.1} % |\n",
            at(0.5),
            at(0.99),
            percent(self.failed as f64, self.requests as f64),
            self.paid / self.tokens,
            percent((far / self.used.len() as f64).sqrt(), mean),
            percent(self.cached as f64, self.turns as f64),
            percent(self.attempts as f64, self.requests as f64) - 100.0,
            percent(self.wasted, self.work),
        )
    }

    /// How many of a hundred waited at most so long.
    pub(crate) fn waits(&self) -> Vec<(f64, f64)> {
        let mut first = self.first.clone();
        first.sort_by(f64::total_cmp);
        let parts = (1..=200).map(|part| f64::from(part) / 200.0);
        let at = |part: f64| first[(((first.len() - 1) as f64) * part) as usize];
        let answered = first.len() as f64 / self.requests as f64;
        parts
            .map(|part| (at(part), 100.0 * part * answered))
            .collect()
    }

    pub(crate) fn uses(&self) -> Vec<(f64, f64)> {
        let mut used = self.used.clone();
        used.sort_by(f64::total_cmp);
        let numbered = used.iter().enumerate();
        numbered
            .map(|(number, used)| (number as f64, 100.0 * used))
            .collect()
    }
}

/// All of it, from one seed.
pub(crate) fn simulate(plan: &Plan, make: fn() -> Box<dyn Policy>) -> Found {
    let mut dice = Dice(7);
    let mut world = World {
        plan: *plan,
        schedulers: (0..plan.schedulers).map(|_| make()).collect(),
        workers: (0..WORKERS)
            .map(|number| Worker::new(number, &mut dice))
            .collect(),
        requests: Vec::new(),
        attempts: Vec::new(),
        events: BinaryHeap::new(),
        now: 0.0,
        order: 0,
        conversations: 0,
        quantile: 1.0,
        patience: Patience::default(),
        found: Found::default(),
        dice,
    };
    for worker in 0..WORKERS {
        let phase = world.chance() * plan.heartbeat;
        for scheduler in 0..plan.schedulers {
            world.offer(scheduler, worker);
        }
        world.after(phase, Event::Beat { worker });
    }
    world.after(0.0, Event::Begin);
    while let Some(Reverse((at, _, event))) = world.events.pop() {
        world.now = at as f64 / 1e6;
        if world.now > END {
            break;
        }
        world.happen(event);
    }
    let used = world
        .workers
        .iter()
        .map(|worker| worker.used / END / f64::from(worker.slots));
    world.found.used = used.collect();
    world.found
}

const WORKERS: usize = 60;
/// Seconds.
const END: f64 = 1200.0;
const DAY: f64 = 1200.0;
/// Of the slots, in the middle of the day.
const MEAN_USE: f64 = 0.5;
const SWING: f64 = 0.25;
/// Tokens.
const TURN: f64 = 400.0;
const ANSWER: f64 = 180.0;
const TURNS: f64 = 5.0;
/// Seconds between an answer and the next turn.
const PAUSE: f64 = 20.0;
const DEADLINE: f64 = 30.0;

struct Worker {
    slots: u32,
    /// Tokens a second.
    prefill: f64,
    /// Seconds, of a token in an empty worker.
    token: f64,
    ask: u64,
    /// One way, seconds.
    distance: f64,
    fate: Fate,
    running: u32,
    queue: VecDeque<usize>,
    /// When each conversation was here last.
    cache: HashMap<u64, u64>,
    used: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    None,
    /// Fails at once, from then on.
    Fails(f64),
    /// Is not heard of any more.
    Lost(f64),
    /// Takes five times as long.
    Slow(f64),
}

impl Worker {
    fn new(number: usize, dice: &mut Dice) -> Self {
        let (slots, prefill, token, usual) = match number % 3 {
            0 => (32, 12_000.0, 0.012, 1200.0),
            1 => (16, 6000.0, 0.020, 1000.0),
            _ => (8, 2500.0, 0.035, 800.0),
        };
        let spread = 0.5 * 4_f64.powf(part(dice));
        let dear = if number % 6 == 5 { 4.0 } else { 1.0 };
        Self {
            slots,
            prefill,
            token,
            ask: (usual * spread * dear) as u64,
            distance: 0.005 + 0.05 * part(dice),
            fate: match number {
                7 | 30 => Fate::Fails(300.0),
                12 => Fate::Lost(600.0),
                27 => Fate::Slow(600.0),
                _ => Fate::None,
            },
            running: 0,
            queue: VecDeque::new(),
            cache: HashMap::new(),
            used: 0.0,
        }
    }

    /// How much longer everything takes with so many at once.
    fn crowd(&self) -> f64 {
        1.0 + f64::from(self.running) / f64::from(self.slots)
    }

    fn remember(&mut self, conversation: u64, turn: u64) {
        if self.cache.len() >= 8 * self.slots as usize {
            let oldest = self.cache.iter().min_by_key(|(name, at)| (**at, **name));
            if let Some(oldest) = oldest.map(|(name, _)| *name) {
                self.cache.remove(&oldest);
            }
        }
        self.cache.insert(conversation, turn);
    }
}

struct Request {
    conversation: u64,
    turn: u32,
    prompt: f64,
    answer: f64,
    max_price: u64,
    at: f64,
    tried: Vec<usize>,
    live: Vec<usize>,
    is_begun: bool,
    is_over: bool,
}

struct Attempt {
    request: usize,
    worker: usize,
    scheduler: usize,
    sent: Option<Sent>,
    at: f64,
    began: Option<f64>,
    first: f64,
    rest: f64,
}

#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Event {
    Begin,
    Turn { conversation: u64, turn: u32 },
    Try { request: usize },
    Hedge { request: usize },
    Reach { attempt: usize },
    First { attempt: usize },
    End { attempt: usize },
    Fail { attempt: usize },
    Full { attempt: usize },
    Beat { worker: usize },
}

struct World {
    plan: Plan,
    schedulers: Vec<Box<dyn Policy>>,
    workers: Vec<Worker>,
    requests: Vec<Request>,
    attempts: Vec<Attempt>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    now: f64,
    order: u64,
    conversations: u64,
    /// Of times to the first token.
    quantile: f64,
    patience: Patience,
    found: Found,
    dice: Dice,
}

impl World {
    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin => self.begin(),
            Event::Turn { conversation, turn } => self.turn(conversation, turn),
            Event::Try { request } => self.attempt(request),
            Event::Hedge { request } => {
                let asked = &self.requests[request];
                let waits = !asked.is_begun && !asked.is_over && asked.live.len() == 1;
                if waits && self.may_try_again(request) {
                    self.attempt(request);
                }
            }
            Event::Reach { attempt } => self.reach(attempt),
            Event::First { attempt } => self.first(attempt),
            Event::End { attempt } => self.end(attempt),
            Event::Fail { attempt } => self.lose(attempt, Outcome::Failed),
            Event::Full { attempt } => self.lose(attempt, Outcome::Full),
            Event::Beat { worker } => {
                if !matches!(self.workers[worker].fate, Fate::Lost(at) if self.now >= at) {
                    for scheduler in 0..self.schedulers.len() {
                        self.offer(scheduler, worker);
                    }
                    self.after(self.plan.heartbeat, Event::Beat { worker });
                }
            }
        }
    }

    /// A conversation, and when the next one begins.
    fn begin(&mut self) {
        self.conversations += 1;
        let conversation = self.conversations;
        self.turn(conversation, 0);
        let day = (self.now / DAY * std::f64::consts::TAU).sin();
        let rate = CAPACITY * (MEAN_USE - SWING * day) / TURNS;
        let pause = exponential(&mut self.dice) / rate;
        self.after(pause, Event::Begin);
    }

    fn turn(&mut self, conversation: u64, turn: u32) {
        let is_rich = mix(conversation) & 1 == 0;
        self.requests.push(Request {
            conversation,
            turn,
            prompt: TURN * f64::from(turn + 1),
            answer: 1.0 + ANSWER * exponential(&mut self.dice),
            max_price: if is_rich { 4000 } else { 1500 },
            at: self.now,
            tried: Vec::new(),
            live: Vec::new(),
            is_begun: false,
            is_over: false,
        });
        self.found.requests += 1;
        let request = self.requests.len() - 1;
        match self.plan.hedging {
            Hedging::Never => (),
            Hedging::After { .. } => self.after(self.quantile, Event::Hedge { request }),
            Hedging::Rule => {
                let pause = self.patience.begin().as_secs_f64();
                self.after(pause, Event::Hedge { request });
            }
        }
        self.attempt(request);
    }

    /// Sends it to another worker, or waits for room.
    fn attempt(&mut self, request: usize) {
        let random = self.dice.roll();
        let scheduler = self.dice.below(self.schedulers.len());
        let now = self.time();
        let asked = &mut self.requests[request];
        if asked.is_begun || asked.is_over {
            return;
        }
        if self.now - asked.at > DEADLINE {
            asked.is_over = asked.live.is_empty();
            if asked.is_over {
                self.found.fail();
            }
            return;
        }
        let ask = Ask {
            max_price: asked.max_price,
            conversation: asked.conversation,
            except: &asked.tried,
        };
        let Some(sent) = self.schedulers[scheduler].pick(&ask, now, random) else {
            if asked.live.is_empty() {
                let pause = 0.05 + 0.1 * self.chance();
                self.after(pause, Event::Try { request });
            }
            return;
        };
        let attempt = self.attempts.len();
        asked.tried.push(sent.worker);
        asked.live.push(attempt);
        self.found.attempts += 1;
        let distance = self.workers[sent.worker].distance;
        self.attempts.push(Attempt {
            request,
            worker: sent.worker,
            scheduler,
            sent: Some(sent),
            at: self.now,
            began: None,
            first: 0.0,
            rest: 0.0,
        });
        self.after(distance, Event::Reach { attempt });
    }

    fn reach(&mut self, attempt: usize) {
        if self.attempts[attempt].sent.is_none() {
            return;
        }
        let worker = &mut self.workers[self.attempts[attempt].worker];
        let distance = worker.distance;
        match worker.fate {
            Fate::Fails(at) if self.now >= at => self.after(distance, Event::Fail { attempt }),
            Fate::Lost(at) if self.now >= at => self.after(1.0, Event::Fail { attempt }),
            _ if worker.running < worker.slots => self.run(attempt),
            _ if (worker.queue.len() as u32) < worker.slots / 4 => worker.queue.push_back(attempt),
            _ => self.after(distance, Event::Full { attempt }),
        }
    }

    fn run(&mut self, attempt: usize) {
        let fails = self.dice.is_one_in(500);
        let at = &mut self.attempts[attempt];
        let asked = &self.requests[at.request];
        let worker = &mut self.workers[at.worker];
        worker.running += 1;
        let is_cached = worker.cache.contains_key(&asked.conversation);
        if asked.turn > 0 {
            self.found.turns += 1;
            self.found.cached += usize::from(is_cached);
        }
        let unread = if is_cached { TURN } else { asked.prompt };
        let slow = match worker.fate {
            Fate::Slow(from) if self.now >= from => 5.0,
            _ => 1.0,
        };
        let times = slow * worker.crowd();
        at.began = Some(self.now);
        at.first = unread / worker.prefill * times + worker.token * times;
        at.rest = asked.answer * worker.token * times;
        worker.remember(asked.conversation, self.order);
        let (first, distance) = (at.first, worker.distance);
        if fails {
            self.after(first / 2.0, Event::Fail { attempt });
        } else {
            self.after(first + distance, Event::First { attempt });
        }
    }

    fn first(&mut self, attempt: usize) {
        let at = &self.attempts[attempt];
        let asked = &mut self.requests[at.request];
        if at.sent.is_none() || asked.is_begun {
            return;
        }
        asked.is_begun = true;
        let waited = self.now - asked.at;
        self.found.first.push(waited);
        match self.plan.hedging {
            Hedging::Never => (),
            Hedging::After { thousandths } => {
                let part = f64::from(thousandths) / 1000.0;
                let by = if waited > self.quantile {
                    part
                } else {
                    part - 1.0
                };
                self.quantile = (self.quantile * (1.0 + by / 20.0)).max(0.05);
            }
            Hedging::Rule => self.patience.first(Duration::from_secs_f64(waited)),
        }
        let others: Vec<_> = asked
            .live
            .iter()
            .filter(|other| **other != attempt)
            .copied()
            .collect();
        let rest = at.rest;
        for other in others {
            self.leave(other, Outcome::Abandoned);
        }
        self.after(rest, Event::End { attempt });
    }

    fn end(&mut self, attempt: usize) {
        let at = &self.attempts[attempt];
        let asked = &mut self.requests[at.request];
        asked.is_over = true;
        let next = Event::Turn {
            conversation: asked.conversation,
            turn: asked.turn + 1,
        };
        let price = at.sent.as_ref().map_or(0, |sent| sent.price) as f64;
        let tokens = asked.prompt + asked.answer;
        let first = self.now - at.rest - at.at;
        let outcome = Outcome::Answered {
            first: Duration::from_secs_f64(first),
            rest: Duration::from_secs_f64(at.rest),
            tokens: asked.answer as u64,
        };
        self.found.paid += price * tokens;
        self.found.tokens += tokens;
        self.found.work += at.first + at.rest;
        self.leave(attempt, outcome);
        if self.chance() > 1.0 / TURNS {
            let pause = PAUSE * exponential(&mut self.dice);
            self.after(pause, next);
        }
    }

    /// It came to nothing there: another worker is tried.
    fn lose(&mut self, attempt: usize, outcome: Outcome) {
        let request = self.attempts[attempt].request;
        if self.attempts[attempt].sent.is_none() {
            return;
        }
        self.leave(attempt, outcome);
        let asked = &mut self.requests[request];
        asked.live.retain(|other| *other != attempt);
        if asked.is_begun || !asked.live.is_empty() {
            return;
        }
        if self.may_try_again(request) {
            self.attempt(request);
        } else {
            let asked = &mut self.requests[request];
            asked.is_over = true;
            self.found.fail();
        }
    }

    fn may_try_again(&mut self, request: usize) -> bool {
        let tried = self.requests[request].tried.len();
        match self.plan.hedging {
            Hedging::Rule => self.patience.again(tried as u32),
            _ => tried < self.plan.attempts,
        }
    }

    /// The worker has it no more.
    fn leave(&mut self, attempt: usize, outcome: Outcome) {
        let now = self.time();
        let at = &mut self.attempts[attempt];
        let Some(sent) = at.sent.take() else {
            return;
        };
        self.schedulers[at.scheduler].done(sent, &outcome, now);
        let worker = &mut self.workers[at.worker];
        let Some(began) = at.began else {
            worker.queue.retain(|waits| *waits != attempt);
            return;
        };
        let took = self.now - began;
        worker.used += took;
        if !matches!(outcome, Outcome::Answered { .. }) {
            self.found.wasted += took;
        }
        worker.running -= 1;
        if let Some(next) = worker.queue.pop_front() {
            self.run(next);
        }
    }

    fn offer(&mut self, scheduler: usize, worker: usize) {
        let now = self.time();
        let offered = &self.workers[worker];
        let heard = Heard {
            slots: offered.slots,
            free: offered.slots - offered.running,
            queued: offered.queue.len() as u32,
            ask: offered.ask,
        };
        self.schedulers[scheduler].hear(worker, heard, now);
    }

    fn after(&mut self, seconds: f64, event: Event) {
        self.order += 1;
        let at = ((self.now + seconds) * 1e6) as u64;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.now)
    }

    fn chance(&mut self) -> f64 {
        part(&mut self.dice)
    }
}

/// Requests that all workers could answer in a second.
const CAPACITY: f64 = 180.0;

/// Of one.
fn part(dice: &mut Dice) -> f64 {
    (dice.roll() >> 11) as f64 / (1_u64 << 53) as f64
}

fn exponential(dice: &mut Dice) -> f64 {
    -(1.0 - part(dice)).ln()
}
