//! What is thought of machines, for all that ask at once; with books it outlives the process,
//! and several schedulers think the same.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::ledger::{Ledger, StoreError};
use crate::machine::Machine;
use crate::reputation::{Event, Reputation, Row};

/// Of everyone.
#[derive(Debug, Default)]
pub struct Standings(Mutex<Reputation>);

impl Standings {
    /// Of [`FULL`](crate::reputation::FULL).
    pub fn of(&self, machine: &Machine) -> u16 {
        self.lock().standing(machine, now())
    }

    /// Something came of a request.
    pub fn record(&self, machine: Machine, event: Event) {
        self.lock().record(machine, event, now());
    }

    /// Everyone, the best first.
    pub fn table(&self) -> Vec<Row> {
        self.lock().table(now())
    }

    /// Writes down what is new, and reads what others wrote; without books it only forgets.
    pub async fn keep(&self, ledger: Option<&Ledger>) -> Result<(), StoreError> {
        let Some(ledger) = ledger else {
            self.lock().forget(now());
            return Ok(());
        };
        let news = self.lock().news();
        let told = ledger.remember(news.clone(), now()).await;
        let mut reputation = self.lock();
        match told {
            Ok(all) => {
                reputation.learn(all, now());
                Ok(())
            }
            // It may have been written: then it counts twice, rather than never.
            Err(error) => {
                reputation.untold(&news, now());
                Err(error)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Reputation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Since 1970: what is remembered is older than the process.
fn now() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Duration::from_secs(since.map_or(0, |since| since.as_secs()))
}
