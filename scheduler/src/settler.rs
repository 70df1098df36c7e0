//! Carries out on the chain what the books call for: claims, reports, and a look at Channels
//! whose payers may be closing them.
//!
//! One wallet sends one message after another, and each is waited for. What was lost on the
//! way is due again in the next round; what another has claimed meanwhile is refused by the
//! contract, for the price of the attempt. So one of several schedulers has the wallet.

use std::time::Duration;

use attestation::appraisal::chain;
use chain::client::{Client, ClientError};
use chain::wallet::{Key, Order, Wallet, WalletError};
use contracts::channel::{Claim, REPORT_VALUE, Report};
use contracts::voucher::Signed;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tycho_types::cell::{Cell, CellBuilder, Store};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::books::now;
use crate::ledger::{CommitError, Costs, Due, Failed, Ledger, Side, StoreError};
use crate::look::{LookError, look};

/// Who sends for a ledger.
#[derive(Debug)]
pub struct Settler {
    /// What is due.
    pub ledger: Ledger,
    /// The chain.
    pub client: Client,
    /// Pays for the messages. What is claimed goes to the ledger's payee.
    pub wallet: StdAddr,
    /// Of the wallet.
    pub key: Key,
    /// What is worth it.
    pub costs: Costs,
}

impl Settler {
    /// Does what is due, as long as it is polled and it is our turn.
    pub async fn keep(&self) {
        let mut who = [0; 16];
        if let Err(error) = getrandom::fill(&mut who) {
            return tracing::error!("nothing is claimed: no randomness: {error}");
        }
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let now = now();
            let done = match self.ledger.turn(who, now.saturating_add(TURN), now).await {
                Ok(true) => self.round(now).await,
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            match done {
                Ok(done) => done.iter().for_each(Done::log),
                Err(error) => tracing::warn!("nothing is claimed: {}", chain(&error)),
            }
        }
    }

    /// Does what is due, what cannot wait first, for as long as a turn allows; says how it
    /// went. What failed, or is left, is due again.
    pub async fn round(&self, now: u32) -> Result<Vec<Done>, StoreError> {
        let clock = Clock::at(now);
        let due = self.ledger.due(self.costs, now).await?.into_iter();
        let looks = due.filter_map(|due| match due {
            Due::Look(channel) => Some(async {
                let outcome = self.look(&channel).await.map(drop).map_err(Into::into);
                let due = Due::Look(channel);
                Done { due, outcome }
            }),
            Due::Claim(_) | Due::Report(_) => None,
        });
        let looks = stream::iter(looks).buffer_unordered(LOOKS);
        let mut done: Vec<_> = looks.collect().await;
        for due in self.ledger.due(self.costs, clock.now()).await? {
            if clock.has_run(ROUND) {
                break;
            }
            let outcome = match &due {
                // It could not be seen a moment ago.
                Due::Look(_) => continue,
                Due::Claim(signed) => self.claim(signed, &clock).await,
                Due::Report(channel) => self.report(channel, &clock).await,
            };
            done.push(Done { due, outcome });
        }
        Ok(done)
    }

    async fn claim(&self, signed: &Signed, clock: &Clock) -> Result<(), SettlerError> {
        let claim = Claim {
            query_id: 0,
            voucher: signed.clone(),
        };
        let channel = signed.unverified()?.channel;
        self.send(&channel, CLAIM_VALUE, &claim, clock).await
    }

    async fn report(&self, channel: &StdAddr, clock: &Clock) -> Result<(), SettlerError> {
        let report = Report {
            query_id: 0,
            voucher: self.ledger.commit(channel.address, clock.now()).await?,
        };
        let value = u128::from(REPORT_VALUE).saturating_mul(2);
        self.send(channel, value, &report, clock).await
    }

    /// Has the ledger know a Channel as the newest block has it; says who pays in it.
    pub async fn look(&self, channel: &StdAddr) -> Result<Side, LookError> {
        let looked = look(&self.client, &self.ledger, channel).await?;
        Ok(looked.side)
    }

    async fn send(
        &self,
        to: &StdAddr,
        value: u128,
        body: &dyn Store,
        clock: &Clock,
    ) -> Result<(), SettlerError> {
        let state = self.client.account(&self.wallet).await?;
        let wallet = Wallet::of(&self.wallet, &state, &self.key)?;
        let order = Order {
            to: to.clone(),
            value,
            bounce: true,
            body: CellBuilder::build_from(body)?,
            init: None,
        };
        let until = clock.now().saturating_add(VALID);
        let message: Cell = wallet.sign(&self.key, &order, until)?;
        self.client.send(&message).await?;
        let patience = Duration::from_secs(VALID.into());
        let hash = message.repr_hash();
        self.client.trace(&self.wallet, hash, patience).await?;
        self.look(to).await?;
        Ok(())
    }
}

/// The time while a round goes on, in which each message is waited for.
struct Clock {
    began: u32,
    since: Instant,
}

impl Clock {
    fn at(began: u32) -> Self {
        let since = Instant::now();
        Self { began, since }
    }

    fn now(&self) -> u32 {
        let passed = u32::try_from(self.since.elapsed().as_secs());
        self.began.saturating_add(passed.unwrap_or(u32::MAX))
    }

    fn has_run(&self, seconds: u32) -> bool {
        self.now() >= self.began.saturating_add(seconds)
    }
}

/// Something that was due.
#[derive(Debug)]
pub struct Done {
    /// What.
    pub due: Due,
    /// How it went; a message that was sent may still have been refused.
    pub outcome: Result<(), SettlerError>,
}

impl Done {
    fn log(&self) {
        let (what, channel) = match &self.due {
            Due::Claim(signed) => ("claim", signed.unverified().ok().map(|it| it.channel)),
            Due::Look(channel) => ("look", Some(channel.clone())),
            Due::Report(channel) => ("report", Some(channel.clone())),
        };
        let channel = channel.map(|channel| channel.to_string());
        match &self.outcome {
            Ok(()) => tracing::info!(what, channel, "done"),
            Err(error) => tracing::warn!(what, channel, "not done: {}", chain(error)),
        }
    }
}

/// Why something is not done.
#[derive(Debug, thiserror::Error)]
pub enum SettlerError {
    /// More than fits.
    #[error("a message does not fit into cells")]
    Cells(#[from] Error),
    /// Nobody answers, or not with what can be proved.
    #[error("the chain cannot be asked")]
    Chain(#[from] ClientError),
    /// No such Channel of a worker's.
    #[error("the ledger has nothing to report")]
    Commit(#[from] Failed<CommitError>),
    /// What the chain has cannot be told.
    #[error(transparent)]
    Look(#[from] LookError),
    /// The books.
    #[error("the ledger cannot tell")]
    Store(#[from] StoreError),
    /// It cannot send.
    #[error("the wallet cannot send")]
    Wallet(#[from] WalletError),
}

/// What comes with a claim; what it does not use goes to the payee.
const CLAIM_VALUE: u128 = 10_000_000;

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(60);

/// Seconds for which others leave the wallet to who has it.
const TURN: u32 = 300;

/// Seconds after which a round sends nothing more: the last message ends within the turn.
const ROUND: u32 = TURN - 2 * VALID;

/// Channels that are looked at at once.
const LOOKS: usize = 16;

/// Seconds for which a message of the wallet's holds.
const VALID: u32 = 60;
