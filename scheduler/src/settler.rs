//! Carries out on the chain what the books call for: claims, reports, and a look at Channels
//! whose payers may be closing them.
//!
//! One wallet sends one message after another, and each is waited for; all claims that are due
//! go in one, up to [`MOST_ORDERS`]. Whether one is done is what its Channel then shows, not
//! that it was sent. What was lost on the way, or left out for want of coins, is due again in
//! the next round; what another has claimed meanwhile, or a message that was thought lost, is
//! refused by the contract, for the price of the attempt. So one of several schedulers has
//! the wallet.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use attestation::appraisal::chain;
use chain::client::{Client, ClientError};
use chain::wallet::{Key, MOST_ORDERS, Order, Wallet, WalletError};
use contracts::channel::{Claim, REPORT_VALUE, Report};
use contracts::voucher::Signed;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tycho_types::cell::{CellBuilder, HashBytes, Store};
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
        let mut due: VecDeque<_> = self.ledger.due(self.costs, clock.now()).await?.into();
        while !clock.has_run(ROUND) {
            match due.pop_front() {
                None => break,
                // It could not be seen a moment ago.
                Some(Due::Look(_)) => {}
                Some(Due::Report(channel)) => {
                    let outcome = self.report(&channel, &clock).await;
                    let due = Due::Report(channel);
                    done.push(Done { due, outcome });
                }
                Some(Due::Claim(first)) => {
                    // Others go with the first, whatever is between them.
                    let mut claims = vec![*first];
                    for other in mem::take(&mut due) {
                        match other {
                            Due::Claim(signed) if claims.len() < MOST_ORDERS => {
                                claims.push(*signed);
                            }
                            other => due.push_back(other),
                        }
                    }
                    self.claim(claims, &clock, &mut done).await?;
                }
            }
        }
        Ok(done)
    }

    /// All in one message. Each is done if its Channel has paid since.
    async fn claim(
        &self,
        claims: Vec<Signed>,
        clock: &Clock,
        done: &mut Vec<Done>,
    ) -> Result<(), StoreError> {
        let (mut orders, mut waiting) = (Vec::new(), Vec::new());
        for signed in claims {
            match claim(&signed) {
                Ok(order) => {
                    let before = self.paid(&order.to).await?;
                    waiting.push((signed, order.to.clone(), before));
                    orders.push(order);
                }
                Err(error) => done.push(Done::claim(signed, Err(error.into()))),
            }
        }
        let until = clock.now().saturating_add(VALID);
        let arrived = self.arrive(&orders, until).await;
        let settles = match &arrived {
            Ok(()) => SETTLES,
            Err(_) => Duration::ZERO,
        };
        if let Err(error) = arrived {
            tracing::warn!("{} claims in one message: {}", orders.len(), chain(&error));
        }
        let since = Instant::now();
        loop {
            let looks = waiting.iter().map(|(_, channel, _)| self.look(channel));
            // What cannot be seen has not been paid, as far as we know.
            let looks = stream::iter(looks).buffer_unordered(LOOKS);
            looks.for_each(async |_| {}).await;
            for (signed, channel, before) in mem::take(&mut waiting) {
                match self.paid(&channel).await? > before {
                    true => done.push(Done::claim(signed, Ok(()))),
                    false => waiting.push((signed, channel, before)),
                }
            }
            if waiting.is_empty() || since.elapsed() >= settles {
                break;
            }
            sleep(PAUSE).await;
        }
        let unpaid = waiting.into_iter();
        done.extend(unpaid.map(|(signed, ..)| Done::claim(signed, Err(SettlerError::Unpaid))));
        Ok(())
    }

    /// Of a Channel, as far as the ledger knows.
    async fn paid(&self, channel: &StdAddr) -> Result<Option<u64>, StoreError> {
        let found = self.ledger.account(channel.address).await?;
        Ok(found.map(|(_, account)| account.channel.state.paid))
    }

    /// Until the wallet has taken a message; its transactions would not show it for long
    /// where many are paid to it.
    async fn arrive(&self, orders: &[Order], until: u32) -> Result<(), SettlerError> {
        let (seqno, message) = self.hand_in(orders, until).await?;
        match timeout(PATIENCE, self.is_taken(seqno, until)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Ok(Ok(false)) | Err(_) => Err(SettlerError::Chain(ClientError::Lost {
                address: self.wallet.clone(),
                message,
            })),
        }
    }

    /// By a wallet that had sent so many messages; it takes none once its chain's time is
    /// past `until`.
    async fn is_taken(&self, seqno: u32, until: u32) -> Result<bool, SettlerError> {
        loop {
            let (wallet, time) = self.wallet().await?;
            if wallet.seqno() > seqno {
                return Ok(true);
            }
            if time > until {
                return Ok(false);
            }
            sleep(PAUSE).await;
        }
    }

    /// With the time of the block that it is proved by.
    async fn wallet(&self) -> Result<(Wallet, u32), SettlerError> {
        let state = self.client.account(&self.wallet).await?;
        let wallet = Wallet::of(&self.wallet, &state, &self.key)?;
        Ok((wallet, state.block.generated()))
    }

    async fn report(&self, channel: &StdAddr, clock: &Clock) -> Result<(), SettlerError> {
        let report = Report {
            query_id: 0,
            voucher: self.ledger.commit(channel.address, clock.now()).await?,
        };
        let value = u128::from(REPORT_VALUE).saturating_mul(2);
        let until = clock.now().saturating_add(VALID);
        let (_, hash) = self
            .hand_in(&[order(channel, value, &report)?], until)
            .await?;
        self.client.trace(&self.wallet, &hash, PATIENCE).await?;
        self.look(channel).await?;
        Ok(())
    }

    /// Has the ledger know a Channel as the newest block has it; says who pays in it.
    pub async fn look(&self, channel: &StdAddr) -> Result<Side, LookError> {
        let looked = look(&self.client, &self.ledger, channel).await?;
        Ok(looked.side)
    }

    /// Says which message it is, and how many the wallet had sent before.
    async fn hand_in(
        &self,
        orders: &[Order],
        until: u32,
    ) -> Result<(u32, HashBytes), SettlerError> {
        let (wallet, _) = self.wallet().await?;
        let message = wallet.sign(&self.key, orders, until)?;
        self.client.send(&message).await?;
        Ok((wallet.seqno(), *message.repr_hash()))
    }
}

fn claim(signed: &Signed) -> Result<Order, Error> {
    let claim = Claim {
        query_id: 0,
        voucher: signed.clone(),
    };
    order(&signed.unverified()?.channel, CLAIM_VALUE, &claim)
}

fn order(to: &StdAddr, value: u128, body: &dyn Store) -> Result<Order, Error> {
    Ok(Order {
        to: to.clone(),
        value,
        bounce: true,
        body: CellBuilder::build_from(body)?,
        init: None,
    })
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
    /// How it went; a report that was sent may still have been refused.
    pub outcome: Result<(), SettlerError>,
}

impl Done {
    fn claim(signed: Signed, outcome: Result<(), SettlerError>) -> Self {
        let due = Due::Claim(Box::new(signed));
        Self { due, outcome }
    }

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
    /// Refused, left out or lost; or the answer is.
    #[error("the chain does not show that it is paid")]
    Unpaid,
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

/// By our clock, for a message to arrive.
const PATIENCE: Duration = Duration::from_secs(60);

/// For what follows from it to arrive at Channels.
const SETTLES: Duration = Duration::from_secs(10);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
