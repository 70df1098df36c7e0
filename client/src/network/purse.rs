//! What one payer owes one scheduler: the newest voucher of a Channel, and what it is for.
//!
//! ```text
//! FILE          JSON: the Channel, and where the key is that signs its vouchers
//! FILE.state    JSON: the newest voucher, what was spent, is reserved, and is in doubt
//! FILE.lock     locked by the one process that pays
//! ```
//!
//! A request is paid for before it is sent: `voucher >= spent + held + reserved`. What broke
//! off, or was not settled as agreed, is in doubt, each request by itself and across restarts,
//! until its worker's receipt is there, or the scheduler has said that nothing is charged for
//! it. While there is doubt a scheduler may have that much covered (`held`), and no more.
//!
//! The state is on disk before a voucher leaves, so no crash signs a lower one, or another
//! one beside it. A voucher can be redeemed whole whatever was served for it; what can be
//! lost to a scheduler that lies is thus what is reserved at a time, and what is in doubt.

mod disk;
mod state;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ::chain::wallet::Key;
use anyhow::{Context as _, anyhow, ensure};
use attestation::appraisal::chain;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use contracts::receipt::Receipt;
use contracts::reports::epoch;
use contracts::voucher::{Signed, Voucher};
use scheduler::pass::Pass;
use sealed::Settlement;
use serde::{Deserialize, Serialize};
use tycho_types::cell::HashBytes;
use tycho_types::models::StdAddr;
use zeroize::Zeroizing;

use self::disk::Disk;
use self::state::State;
use super::agreed::{Agreed, SettlementError};
use crate::artefacts::read;

/// A Channel's payer. It may be asked by many at once, who share what the disk takes.
#[derive(Debug)]
pub struct Purse {
    channel: ChannelFile,
    address: StdAddr,
    key: Key,
    most: u64,
    state: Disk<State>,
}

impl Purse {
    /// Opens what `cocoon chain channel open` wrote, to spend at most `budget` of it.
    /// What was reserved when the last process ended is in doubt.
    pub fn open(path: &Path, budget: Option<u64>) -> anyhow::Result<Self> {
        let about = || format!("{} is no channel", path.display());
        // Under all its names it is one.
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot read {}", path.display()))?;
        let channel: ChannelFile = serde_json::from_slice(&read(&path)?).with_context(about)?;
        let address = StdAddr::from_str(&channel.channel)
            .map_err(|_| anyhow!("{:?} is no address", channel.channel))
            .with_context(about)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let key = read_key(&folder.join(&channel.voucher_key))?;
        let state_path = beside(&path, "state");
        let state: Disk<State> = Disk::open(state_path.clone(), &beside(&path, "lock"))?;
        if let Some(voucher) = state.look(|state| state.voucher().cloned()) {
            let voucher = voucher.verify(&key.public());
            let voucher = voucher.with_context(|| state_path.display().to_string())?;
            ensure!(
                voucher.channel == address,
                "{} is of {}, not of {address}",
                state_path.display(),
                voucher.channel
            );
        }
        let is_kept = state.change(|state| {
            state.doubt_all();
            state.taken()
        });
        is_kept.with_context(|| state_path.display().to_string())?;
        Ok(Self {
            most: channel.deposit.min(budget.unwrap_or(u64::MAX)),
            channel,
            address,
            key,
            state,
        })
    }

    /// Of whose Channel it is: the scheduler's.
    #[must_use]
    pub fn payee(&self) -> &str {
        &self.channel.payee
    }

    /// On which network.
    #[must_use]
    pub const fn global_id(&self) -> i32 {
        self.channel.global_id
    }

    /// Shows a scheduler whose turn it is.
    pub(super) fn pass(&self) -> Result<Pass, PurseError> {
        let (network, channel) = (self.channel.global_id, self.address.clone());
        Ok(Pass::new(&self.key, network, channel, now()?))
    }

    /// Reserves what a request can cost at most, and signs for it; nothing where it costs
    /// nothing. It waits for the disk, as all do that change something.
    pub fn reserve(&self, request: &str, agreed: Agreed) -> Result<Option<Signed>, PurseError> {
        let (now, until) = (now()?, self.channel.until);
        if now >= until {
            return Err(PurseError::Ended { until });
        }
        let price_of_it = agreed.cost().ok_or(PurseError::Range)?;
        self.state.change(|state| {
            let taken = state.taken()?;
            let needed = taken.checked_add(price_of_it).ok_or(PurseError::Range)?;
            if needed > self.most {
                return Err(PurseError::Empty {
                    cost: price_of_it,
                    rest: self.most.saturating_sub(taken),
                    of: self.most,
                });
            }
            let raise = |last: &Voucher| {
                let raised = last.raised(needed, agreed.price, epoch(now), state.head());
                self.sign(&raised.ok_or(PurseError::Range)?)
            };
            let signed = match state.voucher() {
                Some(signed) => {
                    let last = signed.unverified()?;
                    match last.amount >= needed && last.cap >= agreed.price {
                        true => Some(signed.clone()),
                        false => Some(raise(&last)?),
                    }
                }
                None if needed == 0 => None,
                None => {
                    let first = Voucher::first(self.channel.global_id, self.address.clone());
                    Some(raise(&first)?)
                }
            };
            state.reserve(request, agreed, signed.clone());
            Ok(signed)
        })
    }

    /// A worker has signed for what it did: what it costs. No more than was reserved.
    pub fn settle(&self, request: &str, receipt: &Receipt) -> Result<u64, PurseError> {
        self.state.change(|state| state.settle(request, receipt))
    }

    /// Nothing was done for it.
    pub fn release(&self, request: &str) -> Result<(), PurseError> {
        self.end(request, State::release)
    }

    /// Nobody has told what was done for it.
    pub fn doubt(&self, request: &str) -> Result<(), PurseError> {
        self.end(request, State::doubt)
    }

    /// A scheduler refused `sent` for what it counts. Whether another voucher would say more:
    /// of many that were refused at once, one alone finds something to hold.
    pub fn refused(&self, sent: Option<&Signed>, counted: Counted) -> Result<bool, PurseError> {
        self.state.change(|state| {
            let before = state.held();
            state.hold_most(counted);
            Ok(before != state.held() || state.held() > 0 || state.voucher() != sent)
        })
    }

    /// What is in doubt; nothing where nothing is.
    #[must_use]
    pub fn in_doubt(&self) -> Option<Doubts> {
        self.state.look(|state| {
            let voucher = state.voucher()?.clone();
            let requests: Vec<_> = state.doubts().keys().cloned().collect();
            (!requests.is_empty()).then_some(Doubts { voucher, requests })
        })
    }

    /// What a scheduler tells of `asked`. A doubt ends by the worker's receipt, or as released;
    /// also if the scheduler has never heard of the request, and it is too late for it to.
    pub fn told(&self, asked: &[String], told: &Told) -> Result<(), PurseError> {
        let now = now()?;
        self.state.change(|state| {
            for request in asked {
                let Some(agreed) = state.doubts().get(request) else {
                    continue;
                };
                match told.requests.get(request) {
                    Some(Stage::Settled { settlement }) => {
                        let receipt = receipt_in(settlement, agreed);
                        let settled = receipt.and_then(|one| Ok(state.settle(request, &one)?));
                        if let Err(error) = settled {
                            let error = chain(&error);
                            tracing::warn!(request, "what was shown ends no doubt: {error}");
                        }
                    }
                    Some(Stage::Released) => state.release(request),
                    None if agreed.until < now => state.release(request),
                    None | Some(Stage::Open) => {}
                }
            }
            state.hold(told.counted)
        })
    }

    /// How it stands.
    #[must_use]
    pub fn balance(&self) -> Balance {
        self.state.look(|state| {
            let taken = state.taken().unwrap_or(u64::MAX);
            Balance {
                spent: state.spent,
                reserved: taken.saturating_sub(state.spent),
                budget: self.most,
                tokens: state.tokens,
            }
        })
    }

    fn end(&self, request: &str, how: fn(&mut State, &str)) -> Result<(), PurseError> {
        self.state.change(|state| {
            how(state, request);
            Ok(())
        })
    }

    fn sign(&self, voucher: &Voucher) -> Result<Signed, PurseError> {
        let signature = self.key.sign(&HashBytes(voucher.hash()?));
        Ok(voucher.signed(signature)?)
    }
}

/// Requests of which nobody has told how they ended.
#[derive(Clone, Debug)]
pub struct Doubts {
    /// The newest: shows whose they are.
    pub voucher: Signed,
    /// Their identifiers.
    pub requests: Vec<String>,
}

/// What a scheduler says that a Channel has paid for, in nanotons.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub struct Counted {
    /// By receipts.
    pub spent: u64,
    /// For what is being done.
    pub reserved: u64,
}

impl Counted {
    const fn total(self) -> u64 {
        self.spent.saturating_add(self.reserved)
    }
}

/// The same, and of requests that it was asked about how far they are.
#[derive(Clone, Debug, Deserialize)]
pub struct Told {
    /// In all.
    #[serde(flatten)]
    pub counted: Counted,
    /// Those that it knows, by their identifiers.
    pub requests: HashMap<String, Stage>,
}

/// How far a request is, for a scheduler.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase", tag = "stage")]
pub enum Stage {
    /// A receipt may come.
    Open,
    /// Charged for nothing, for good.
    Released,
    /// Charged for what a worker signed.
    Settled {
        /// What followed the answer: base64.
        settlement: String,
    },
}

fn receipt_in(settlement: &str, agreed: &Agreed) -> Result<Receipt, SettlementError> {
    let bytes = BASE64_STANDARD.decode(settlement);
    let bytes = bytes.map_err(|_| SettlementError::Receipt)?;
    let settlement = Settlement::parse(&bytes).map_err(SettlementError::Absent)?;
    agreed.receipt(&settlement)
}

/// How a Channel stands, in nanotons.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Balance {
    /// For what was settled.
    pub spent: u64,
    /// For what is being done, or may have been.
    pub reserved: u64,
    /// All that may be spent.
    pub budget: u64,
    /// That were settled.
    pub tokens: u64,
}

/// What `cocoon chain channel open` leaves for a payer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelFile {
    /// Its address.
    pub channel: String,
    /// Of the network that it is on.
    pub global_id: i32,
    /// Who is paid.
    pub payee: String,
    /// What was put in, in nanotons.
    pub deposit: u64,
    /// When vouchers stop counting, in Unix seconds.
    pub until: u32,
    /// The file of the key that signs vouchers, beside this one unless it is absolute.
    pub voucher_key: PathBuf,
}

fn read_key(path: &Path) -> anyhow::Result<Key> {
    let text = Zeroizing::new(String::from_utf8(read(path)?).context("a key is text")?);
    Key::parse(&text).with_context(|| format!("{} is not 64 hex digits", path.display()))
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// Unix seconds.
pub(super) fn now() -> Result<u32, PurseError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_err(|_| PurseError::Clock)?.as_secs();
    u32::try_from(seconds).map_err(|_| PurseError::Clock)
}

/// Why nothing was signed or counted.
#[derive(Debug, thiserror::Error)]
pub enum PurseError {
    /// No such cell.
    #[error("what does not fit into cells")]
    Cell(#[from] tycho_types::error::Error),
    /// Before 1970, or after 2106.
    #[error("this machine's clock shows no time")]
    Clock,
    /// It is not on disk.
    #[error("cannot write the state of the channel")]
    Disk(#[from] Arc<io::Error>),
    /// It would not be covered.
    #[error(
        "the request may cost {cost} nanotons, and {rest} of {of} are left: ask for fewer tokens, \
         raise --budget, or pay from another --channel"
    )]
    Empty {
        /// At most.
        cost: u64,
        /// Neither spent nor reserved.
        rest: u64,
        /// Deposit or budget, whichever is less.
        of: u64,
    },
    /// The Channel has ended.
    #[error("the channel has ended at {until}: pay from another --channel")]
    Ended {
        /// Unix seconds.
        until: u32,
    },
    /// A lie.
    #[error("the receipt is for {tokens} tokens, and {limit} were agreed upon")]
    More {
        /// As signed.
        tokens: u64,
        /// As in the envelope.
        limit: u64,
    },
    /// Numbers that no voucher has place for.
    #[error("more than a voucher has place for")]
    Range,
    /// Settled already, or never made.
    #[error("nothing is reserved for this request")]
    Unknown,
}

#[cfg(test)]
mod tests;
