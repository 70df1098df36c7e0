//! Keeps the agent running, or ends the machine.
//!
//! ```text
//! Waiting --time--> Running --exit, silence--> Waiting (longer each time)
//!                      |                           |
//!                      +--stop asked--> Ending ----+--> power off
//! ```
//!
//! [`Supervisor`] decides and does nothing; [`run`] does what it decides.

use std::time::Duration;

use anyhow::Context;

use crate::Machine;
use crate::agent::Agent;
use crate::system::{Event, Signal, System};

/// Opens what watches us and what we watch.
pub(crate) fn watch(system: &mut dyn System) -> anyhow::Result<()> {
    system
        .open_watchdog(WATCHDOG)
        .with_context(|| format!("cannot open {WATCHDOG}"))?;
    let inputs = system
        .list("/sys/class/input")
        .context("cannot list /sys/class/input")?;
    for input in inputs.iter().filter(|name| name.starts_with("event")) {
        let path = format!("/sys/class/input/{input}/device/name");
        let name = system
            .read(&path, 256)
            .with_context(|| format!("cannot read {path}"))?;
        if name.trim_ascii_end() == b"Power Button" {
            let device = format!("/dev/input/{input}");
            system
                .open_button(&device)
                .with_context(|| format!("cannot open {device}"))?;
        }
    }
    Ok(())
}

/// Runs the agent until the machine is to be powered off, and returns why.
pub(crate) fn run(system: &mut dyn System, mut machine: Machine) -> anyhow::Result<String> {
    let mut supervisor = Supervisor::new(system.uptime());
    loop {
        let now = system.uptime();
        // A silent agent is our business, a silent init is the watchdog's.
        system.pet_watchdog().context("cannot pet the watchdog")?;
        // The network is the host's, and so is the loss when it fails.
        if let Err(error) = machine.network.keep(system) {
            system.say(&format!("network: {error:#}"));
        }
        let wake = [Some(supervisor.deadline()), machine.network.due()];
        let wake = wake.into_iter().flatten().min().unwrap_or(now);
        let wake = wake.min(now.saturating_add(PET));
        let event = system.next_event(wake).context("cannot wait")?;

        match supervisor.on(event, system.uptime()) {
            Action::None => {}
            Action::Start => {
                let Agent { program, arguments } = &machine.agent;
                let child = system
                    .start(program, arguments)
                    .with_context(|| format!("cannot start {program}"))?;
                supervisor.started(child, system.uptime());
                system.say(&format!("agent started as process {child}"));
            }
            Action::Ready => {
                let since_boot = system.uptime().as_millis();
                system.say(&format!("{since_boot} ms: agent ready"));
            }
            Action::Restart { how, after } => {
                let after = after.as_secs();
                system.say(&format!("agent failed ({how}), next start in {after} s"));
            }
            Action::Signal { child, signal } => {
                system.say(&format!("agent gets {signal:?}"));
                system
                    .signal(child, signal)
                    .with_context(|| format!("cannot signal process {child}"))?;
            }
            Action::PowerOff { why } => return Ok(why),
        }
    }
}

#[derive(Debug)]
struct Supervisor {
    state: State,
    /// Since it last ran for long.
    failures: u32,
    /// What the notify pipe said since its last line.
    line: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Waiting {
        until: Duration,
    },
    Running {
        child: u32,
        ready_at: Option<Duration>,
        heard_at: Duration,
    },
    Ending {
        child: u32,
        why: End,
        sent: Signal,
        until: Duration,
    },
}

/// Why an agent is made to end.
#[derive(Clone, Copy, Debug)]
enum End {
    Silent { ready_at: Option<Duration> },
    Stop(&'static str),
}

/// What to do now.
#[derive(Debug, Eq, PartialEq)]
enum Action {
    None,
    Start,
    Ready,
    Restart { how: String, after: Duration },
    Signal { child: u32, signal: Signal },
    PowerOff { why: String },
}

impl Supervisor {
    const fn new(now: Duration) -> Self {
        Self {
            state: State::Waiting { until: now },
            failures: 0,
            line: Vec::new(),
        }
    }

    /// The agent runs.
    fn started(&mut self, child: u32, now: Duration) {
        self.line.clear();
        self.state = State::Running {
            child,
            ready_at: None,
            heard_at: now,
        };
    }

    /// When [`Event::Timeout`] means something.
    fn deadline(&self) -> Duration {
        match &self.state {
            State::Running { heard_at, .. } => heard_at.saturating_add(SILENCE),
            State::Waiting { until } | State::Ending { until, .. } => *until,
        }
    }

    fn on(&mut self, event: Event, now: Duration) -> Action {
        match event {
            Event::Exited { child, how } => self.exited(child, how, now),
            Event::Notified(bytes) => self.heard(&bytes, now),
            Event::StopRequested(reason) => self.stop(reason, now),
            Event::Timeout if now >= self.deadline() => self.overdue(now),
            Event::Timeout => Action::None,
        }
    }

    fn exited(&mut self, gone: u32, how: String, now: Duration) -> Action {
        match &self.state {
            State::Running {
                child, ready_at, ..
            } if *child == gone => {
                let ready_at = *ready_at;
                self.failed(how, ready_at, now)
            }
            State::Ending { child, why, .. } if *child == gone => match *why {
                End::Silent { ready_at } => {
                    let how = format!("silent for {} s", SILENCE.as_secs());
                    self.failed(how, ready_at, now)
                }
                End::Stop(reason) => Action::PowerOff {
                    why: format!("{reason}, agent ended with {how}"),
                },
            },
            // Somebody else's orphan.
            _ => Action::None,
        }
    }

    fn failed(&mut self, how: String, ready_at: Option<Duration>, now: Duration) -> Action {
        let steady = ready_at.is_some_and(|at| now.saturating_sub(at) >= STEADY);
        let before = if steady { 0 } else { self.failures };
        self.failures = before.saturating_add(1);
        if self.failures >= FAILURES {
            let why = format!("agent failed {FAILURES} times in a row, at last: {how}");
            return Action::PowerOff { why };
        }
        let after = Duration::from_secs(1_u64.checked_shl(before).unwrap_or(u64::MAX));
        self.state = State::Waiting {
            until: now.saturating_add(after),
        };
        Action::Restart { how, after }
    }

    /// `ready` once, `alive` now and then; anything else is no sign of life.
    fn heard(&mut self, bytes: &[u8], now: Duration) -> Action {
        let State::Running {
            ready_at, heard_at, ..
        } = &mut self.state
        else {
            return Action::None;
        };
        let mut action = Action::None;
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() < LONGEST_LINE {
                    self.line.push(*byte);
                }
                continue;
            }
            match self.line.as_slice() {
                b"ready" if ready_at.is_none() => {
                    *ready_at = Some(now);
                    *heard_at = now;
                    action = Action::Ready;
                }
                b"alive" => *heard_at = now,
                _ => {}
            }
            self.line.clear();
        }
        action
    }

    fn stop(&mut self, reason: &'static str, now: Duration) -> Action {
        let why = End::Stop(reason);
        match &mut self.state {
            State::Waiting { .. } => Action::PowerOff { why: reason.into() },
            State::Running { child, .. } => {
                let child = *child;
                self.end(child, why, Signal::Terminate, now)
            }
            State::Ending { why: earlier, .. } => {
                *earlier = why;
                Action::None
            }
        }
    }

    fn overdue(&mut self, now: Duration) -> Action {
        match &self.state {
            State::Waiting { .. } => Action::Start,
            State::Running {
                child, ready_at, ..
            } => {
                let (child, ready_at) = (*child, *ready_at);
                self.end(child, End::Silent { ready_at }, Signal::Kill, now)
            }
            State::Ending {
                sent: Signal::Kill, ..
            } => Action::PowerOff {
                why: "agent cannot be killed".into(),
            },
            State::Ending { child, why, .. } => {
                let (child, why) = (*child, *why);
                self.end(child, why, Signal::Kill, now)
            }
        }
    }

    fn end(&mut self, child: u32, why: End, signal: Signal, now: Duration) -> Action {
        self.state = State::Ending {
            child,
            why,
            sent: signal,
            until: now.saturating_add(GRACE),
        };
        Action::Signal { child, signal }
    }
}

const WATCHDOG: &str = "/dev/watchdog";
/// Well under the 60 s after which the kernel's software watchdog resets.
const PET: Duration = Duration::from_secs(10);
/// The agent writes `alive` every 5 s.
const SILENCE: Duration = Duration::from_secs(60);
/// Between asking and killing, and between killing and giving up.
const GRACE: Duration = Duration::from_secs(10);
/// After this long in service, failures count from zero again.
const STEADY: Duration = Duration::from_secs(600);
const FAILURES: u32 = 5;
const LONGEST_LINE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;

    const CHILD: u32 = 42;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn running() -> Supervisor {
        let mut supervisor = Supervisor::new(s(0));
        assert_eq!(supervisor.on(Event::Timeout, s(0)), Action::Start);
        supervisor.started(CHILD, s(0));
        supervisor
    }

    fn exited(child: u32) -> Event {
        let how = "exit status 1".into();
        Event::Exited { child, how }
    }

    fn said(text: &str) -> Event {
        Event::Notified(text.into())
    }

    #[test]
    fn an_agent_that_dies_is_started_again_later_each_time_and_then_given_up() {
        let (mut supervisor, mut now) = (running(), s(0));
        for expected in [1, 2, 4, 8] {
            let after = s(expected);
            let how = "exit status 1".into();
            let action = supervisor.on(exited(CHILD), now);
            assert_eq!(action, Action::Restart { how, after });
            assert_eq!(
                supervisor.on(Event::Timeout, now),
                Action::None,
                "too early"
            );
            now += after;
            assert_eq!(supervisor.deadline(), now);
            assert_eq!(supervisor.on(Event::Timeout, now), Action::Start);
            supervisor.started(CHILD, now);
        }
        let why = "agent failed 5 times in a row, at last: exit status 1".into();
        assert_eq!(supervisor.on(exited(CHILD), now), Action::PowerOff { why });
    }

    #[test]
    fn ten_minutes_of_service_forgive_earlier_failures() {
        for (served, after) in [(599, 2), (600, 1)] {
            let mut supervisor = running();
            supervisor.failures = 1;
            supervisor.on(said("ready\n"), s(5));
            let action = supervisor.on(exited(CHILD), s(5 + served));
            let how = "exit status 1".into();
            assert_eq!(
                action,
                Action::Restart {
                    how,
                    after: s(after)
                }
            );
        }
    }

    #[test]
    fn time_before_ready_is_not_service() {
        let mut supervisor = running();
        supervisor.failures = 4;
        supervisor.on(said("alive\n"), s(1000));
        let action = supervisor.on(exited(CHILD), s(1000));
        assert!(matches!(action, Action::PowerOff { .. }));
    }

    #[test]
    fn orphans_are_nobodys_concern() {
        let mut supervisor = running();
        assert_eq!(supervisor.on(exited(CHILD + 1), s(1)), Action::None);
        assert_eq!(supervisor.deadline(), s(60));
    }

    #[test]
    fn signs_of_life_put_the_deadline_off_and_other_lines_do_not() {
        let mut supervisor = running();
        assert_eq!(supervisor.on(said("ready\n"), s(10)), Action::Ready);
        assert_eq!(supervisor.on(said("ready\n"), s(20)), Action::None, "once");
        assert_eq!(supervisor.deadline(), s(70));
        supervisor.on(said("ali"), s(30));
        assert_eq!(supervisor.deadline(), s(70), "half a line");
        supervisor.on(said("ve\nalive\n"), s(40));
        assert_eq!(supervisor.deadline(), s(100));
        supervisor.on(said("alive and well\n\nliving\n"), s(50));
        assert_eq!(supervisor.deadline(), s(100));
        let flood = "x".repeat(100_000);
        supervisor.on(said(&flood), s(60));
        assert!(supervisor.line.len() <= LONGEST_LINE);
    }

    #[test]
    fn a_silent_agent_is_killed_and_counts_as_failed() {
        let mut supervisor = running();
        assert_eq!(supervisor.on(Event::Timeout, s(59)), Action::None);
        let kill = Action::Signal {
            child: CHILD,
            signal: Signal::Kill,
        };
        assert_eq!(supervisor.on(Event::Timeout, s(60)), kill);
        let how = "silent for 60 s".into();
        let restart = Action::Restart { how, after: s(1) };
        assert_eq!(supervisor.on(exited(CHILD), s(61)), restart);
    }

    #[test]
    fn a_stop_asks_then_kills_then_gives_up() {
        let mut supervisor = running();
        let signal = |signal| Action::Signal {
            child: CHILD,
            signal,
        };
        let stop = Event::StopRequested("SIGTERM");
        assert_eq!(supervisor.on(stop.clone(), s(1)), signal(Signal::Terminate));
        assert_eq!(supervisor.on(stop, s(2)), Action::None, "asked already");
        assert_eq!(supervisor.on(said("alive\n"), s(3)), Action::None);
        assert_eq!(supervisor.on(Event::Timeout, s(10)), Action::None);
        assert_eq!(supervisor.on(Event::Timeout, s(11)), signal(Signal::Kill));
        let mut stuck = supervisor;
        let why = "agent cannot be killed".into();
        let action = stuck.on(Event::Timeout, s(21));
        assert_eq!(action, Action::PowerOff { why });
    }

    #[test]
    fn an_agent_that_ends_when_asked_ends_the_machine() {
        let mut supervisor = running();
        supervisor.on(Event::StopRequested("power button pressed"), s(1));
        let why = "power button pressed, agent ended with exit status 1".into();
        let action = supervisor.on(exited(CHILD), s(2));
        assert_eq!(action, Action::PowerOff { why });
    }

    #[test]
    fn a_stop_while_a_silent_agent_is_killed_still_ends_the_machine() {
        let mut supervisor = running();
        supervisor.on(Event::Timeout, s(60));
        supervisor.on(Event::StopRequested("SIGINT"), s(60));
        let action = supervisor.on(exited(CHILD), s(61));
        assert!(matches!(action, Action::PowerOff { .. }));
    }

    #[test]
    fn a_stop_between_two_starts_ends_the_machine_at_once() {
        let mut supervisor = running();
        supervisor.on(exited(CHILD), s(1));
        let why = "SIGTERM".into();
        let action = supervisor.on(Event::StopRequested("SIGTERM"), s(1));
        assert_eq!(action, Action::PowerOff { why });
    }

    #[test]
    fn the_watchdog_is_petted_at_least_every_ten_seconds() {
        let mut double = Double::with_tpm();
        let machine = crate::boot(&mut double).unwrap();
        double.calls.clear();
        // Nothing is heard: killed after 60 s, and given up as it does not even die.
        let began = double.now;
        let why = run(&mut double, machine).unwrap();
        assert_eq!(why, "agent cannot be killed");
        assert_eq!(double.now - began, SILENCE + GRACE);
        let pets = double.calls.iter().filter(|call| *call == "pet").count();
        assert!(pets > 7, "{pets} pets in 70 s");
    }

    #[test]
    fn a_network_that_fails_later_is_said_and_survived() {
        let mut double = Double::with_tpm();
        let machine = crate::boot(&mut double).unwrap();
        double.server = |_, _| Vec::new();
        let start = double.now;
        double.events.push_back((start, Event::Timeout));
        double
            .events
            .push_back((start, Event::StopRequested("SIGTERM")));
        double.events.push_back((start, exited(CHILD)));
        double.now = machine.network.due().unwrap();
        run(&mut double, machine).unwrap();
        let line = "network: 10.0.2.2 does not renew the DHCP lease".to_owned();
        assert!(double.said.contains(&line), "{:?}", double.said);
    }
}
