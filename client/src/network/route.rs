//! The way through one scheduler: how it is paid, and whether it worked last time.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ::scheduler::fee::Fee;
use tokio::sync::OnceCell;

use super::purse::Purse;
use super::scheduler::{Failure, Scheduler};

/// One scheduler, and what is known of it.
#[derive(Debug)]
pub(super) struct Route {
    scheduler: Scheduler,
    purse: OnceCell<Option<Arc<Purse>>>,
    fee: OnceLock<Fee>,
    rests: Mutex<Option<Instant>>,
}

impl Route {
    pub(super) fn new(scheduler: Scheduler) -> Self {
        Self {
            scheduler,
            purse: OnceCell::new(),
            fee: OnceLock::new(),
            rests: Mutex::default(),
        }
    }

    pub(super) const fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Out of which of `purses` it is paid; None where it asks for nothing.
    pub(super) async fn purse(
        &self,
        purses: &[Arc<Purse>],
    ) -> Result<Option<Arc<Purse>>, RouteError> {
        let find = async || {
            let terms = self.scheduler.terms().await?;
            if terms.free {
                return Ok(None);
            }
            let fee = Fee::per_mille(terms.fee).unwrap_or_default();
            self.fee.get_or_init(|| fee);
            let fits = |purse: &&Arc<Purse>| {
                Some(purse.payee()) == terms.payee.as_deref()
                    && Some(purse.global_id()) == terms.global_id
            };
            match purses.iter().find(fits) {
                Some(purse) => Ok(Some(Arc::clone(purse))),
                None => Err(RouteError::NoChannel {
                    payee: terms.payee.unwrap_or_default(),
                }),
            }
        };
        self.purse.get_or_try_init(find).await.cloned()
    }

    /// What it says that it keeps, on top of what workers ask.
    pub(super) fn fee(&self) -> Fee {
        self.fee.get().copied().unwrap_or_default()
    }

    /// Whether it failed a moment ago.
    pub(super) fn is_resting(&self) -> bool {
        let rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        rests.is_some_and(|since| since.elapsed() < REST)
    }

    pub(super) fn works(&self) {
        *self.rests.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn fails(&self) {
        *self.rests.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

/// For how long others go first.
const REST: Duration = Duration::from_secs(15);

/// Why a scheduler cannot be paid.
#[derive(Debug, thiserror::Error)]
pub(super) enum RouteError {
    #[error(
        "no --channel pays {payee:?}, as the scheduler asks: `cocoon chain channel open --payee` \
         makes one"
    )]
    NoChannel { payee: String },
    #[error("the scheduler does not say how it is paid")]
    Terms(#[from] Failure),
}
