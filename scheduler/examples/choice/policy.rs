//! Ways to choose: the crate's, and what it is compared with.

use std::time::Duration;

use attestation::register::Digest256;
use scheduler::choice::Wanted;
use scheduler::dice::Dice;
use scheduler::directory::{Directory, Outcome, Pick};
use scheduler::reputation::FULL;
use sealed::{Offer, OfferedModel};

/// What one scheduler does.
pub(crate) trait Policy {
    fn hear(&mut self, worker: usize, heard: Heard, now: Duration);
    fn pick(&mut self, ask: &Ask<'_>, now: Duration, random: u64) -> Option<Sent>;
    fn done(&mut self, sent: Sent, outcome: &Outcome, now: Duration);
}

/// A worker's offer.
#[derive(Clone, Copy)]
pub(crate) struct Heard {
    pub(crate) slots: u32,
    pub(crate) free: u32,
    pub(crate) queued: u32,
    pub(crate) ask: u64,
}

/// What a client wants.
pub(crate) struct Ask<'a> {
    pub(crate) max_price: u64,
    pub(crate) conversation: u64,
    pub(crate) except: &'a [usize],
}

/// To whom it went.
pub(crate) struct Sent {
    pub(crate) worker: usize,
    pub(crate) price: u64,
    pick: Option<Pick>,
}

/// The crate's.
pub(crate) struct Ours {
    directory: Directory,
    with_affinity: bool,
    ids: Vec<Digest256>,
}

impl Ours {
    pub(crate) fn new(with_affinity: bool) -> Self {
        Self {
            directory: Directory::new([0; 32]),
            with_affinity,
            ids: Vec::new(),
        }
    }

    /// All have the full standing but the first.
    pub(crate) fn judge(&mut self, first: u16, now: Duration) {
        for (worker, id) in self.ids.iter().enumerate() {
            let standing = if worker == 0 { first } else { FULL };
            self.directory.judge(id, standing, now);
        }
    }

    pub(crate) fn boxed(with_affinity: bool) -> Box<dyn Policy> {
        Box::new(Self::new(with_affinity))
    }
}

impl Policy for Ours {
    fn hear(&mut self, worker: usize, heard: Heard, now: Duration) {
        while self.ids.len() <= worker {
            self.ids.push(Digest256::of(&self.ids.len().to_be_bytes()));
        }
        let offer = Offer {
            worker: self.ids[worker],
            draining: false,
            models: vec![OfferedModel {
                name: "m".into(),
                root: None,
                slots: heard.slots,
                free: heard.free,
                queued: heard.queued,
                tokens_per_second: 0,
                context: 8192,
                ask: heard.ask,
            }],
        };
        let heard = self.directory.update(self.ids[worker], &offer, now);
        heard.expect("an offer of our own");
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration, random: u64) -> Option<Sent> {
        let affinity = Digest256::of(&ask.conversation.to_be_bytes());
        let except: Vec<_> = ask.except.iter().map(|worker| self.ids[*worker]).collect();
        let wanted = Wanted {
            model: "m",
            max_price: ask.max_price,
            affinity: self.with_affinity.then_some(affinity),
            except: &except,
        };
        let pick = self.directory.pick(&wanted, now, random).ok()?;
        Some(Sent {
            worker: self.ids.iter().position(|id| *id == pick.worker)?,
            price: pick.price,
            pick: Some(pick),
        })
    }

    fn done(&mut self, sent: Sent, outcome: &Outcome, now: Duration) {
        if let Some(pick) = sent.pick {
            self.directory.done(pick, outcome, now);
        }
    }
}

/// What others do.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// Any that is allowed and has room.
    Random,
    /// The next one of those.
    RoundRobin,
    /// The one with the fewest requests of this scheduler's.
    LeastConnections,
    /// The one with the most room, as offered and as sent since.
    LeastLoaded,
    /// As the original Cocoon does it: requests under way times the mean time of an answer, of
    /// failures too; all that are idle weigh nothing, so the first one in order wins.
    FirstIdle,
}

/// A scheduler that looks at everyone.
pub(crate) struct Baseline {
    rule: Rule,
    known: Vec<Known>,
    turn: usize,
}

#[derive(Clone, Copy, Default)]
struct Known {
    heard: Option<(Heard, Duration)>,
    under_way: u32,
    since: u32,
    /// Mean time of an answer.
    time: f64,
}

impl Baseline {
    pub(crate) fn boxed(rule: Rule) -> Box<dyn Policy> {
        Box::new(Self {
            rule,
            known: Vec::new(),
            turn: 0,
        })
    }
}

impl Known {
    fn load(&self) -> f64 {
        let Some((heard, _)) = self.heard else {
            return f64::MAX;
        };
        let used = heard.slots - heard.free + heard.queued + self.since;
        f64::from(used) / f64::from(heard.slots)
    }
}

impl Policy for Baseline {
    fn hear(&mut self, worker: usize, heard: Heard, now: Duration) {
        if self.known.len() <= worker {
            self.known.resize(worker + 1, Known::default());
        }
        let known = &mut self.known[worker];
        (known.heard, known.since) = (Some((heard, now)), 0);
    }

    fn pick(&mut self, ask: &Ask<'_>, now: Duration, random: u64) -> Option<Sent> {
        let known = self.known.iter().enumerate();
        let allowed = known.filter(|(worker, known)| {
            known.heard.is_some_and(|(heard, at)| {
                let is_here = now.saturating_sub(at) < Duration::from_secs(6);
                let is_new = !ask.except.contains(worker);
                is_here && is_new && heard.ask <= ask.max_price && known.load() < 1.0
            })
        });
        let allowed: Vec<usize> = allowed.map(|(worker, _)| worker).collect();
        let least = |of: &dyn Fn(&Known) -> f64| {
            let weight = |worker: &&usize| of(&self.known[**worker]);
            allowed
                .iter()
                .min_by(|a, b| weight(a).total_cmp(&weight(b)))
                .copied()
        };
        let worker = match self.rule {
            Rule::Random => allowed.get(Dice(random).below(allowed.len())).copied(),
            Rule::RoundRobin => {
                let next = allowed.iter().find(|worker| **worker > self.turn);
                next.or(allowed.first()).copied()
            }
            Rule::LeastConnections => least(&|known| f64::from(known.under_way)),
            Rule::LeastLoaded => least(&Known::load),
            Rule::FirstIdle => least(&|known| f64::from(known.under_way) * known.time),
        }?;
        self.turn = worker;
        let known = &mut self.known[worker];
        known.under_way += 1;
        known.since += 1;
        Some(Sent {
            worker,
            price: known.heard?.0.ask,
            pick: None,
        })
    }

    fn done(&mut self, sent: Sent, outcome: &Outcome, _now: Duration) {
        let known = &mut self.known[sent.worker];
        known.under_way -= 1;
        let time = match outcome {
            Outcome::Answered { first, rest, .. } => (*first + *rest).as_secs_f64(),
            Outcome::Failed | Outcome::Lied | Outcome::Silent => 0.01,
            Outcome::Full | Outcome::Abandoned => return,
        };
        known.time += (time - known.time) / 16.0;
    }
}
