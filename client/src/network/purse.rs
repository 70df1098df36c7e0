//! What one payer owes one scheduler: the newest voucher of a Channel, and what it is for.
//!
//! ```text
//! FILE          JSON: the Channel, and where the key is that signs its vouchers
//! FILE.state    JSON: the newest voucher, spent, reserved
//! FILE.lock     locked by the one process that pays
//! ```
//!
//! A request is paid for before it is sent: `voucher >= spent + reserved + its cost`.
//! What broke off is in doubt until the scheduler has told what it counts; it is believed up
//! to what was reserved. The state is on disk before a voucher leaves, so no crash signs a
//! lower one, or another one beside it. A voucher can be redeemed whole whatever was served
//! for it; what can be lost to a scheduler that lies is thus what is reserved at a time, and
//! what is in doubt.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chain::wallet::Key;
use contracts::receipt::Receipt;
use contracts::reports::epoch;
use contracts::voucher::{Signed, Voucher, cost};
use serde::{Deserialize, Serialize};
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, HashBytes};
use tycho_types::models::StdAddr;
use zeroize::Zeroizing;

use super::leaves::Leaves;
use crate::artefacts::read;

/// A Channel's payer. It may be asked by many at once.
#[derive(Debug)]
pub struct Purse {
    channel: ChannelFile,
    address: StdAddr,
    key: Key,
    most: u64,
    path: PathBuf,
    state: Mutex<State>,
    _lock: File,
}

impl Purse {
    /// Opens what `cocoon chain channel open` wrote, to spend at most `budget` of it.
    /// What was reserved when the last process ended is in doubt.
    pub fn open(path: &Path, budget: Option<u64>) -> anyhow::Result<Self> {
        let about = || format!("{} is no channel", path.display());
        let channel: ChannelFile = serde_json::from_slice(&read(path)?).with_context(about)?;
        let address = StdAddr::from_str(&channel.channel)
            .map_err(|_| anyhow!("{:?} is no address", channel.channel))
            .with_context(about)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let key = read_key(&folder.join(&channel.voucher_key))?;
        let state_path = beside(path, "state");
        let lock = lock(&beside(path, "lock"))?;
        let mut state = State::read(&state_path)?;
        state
            .doubt_all()
            .context("more is reserved than there is")?;
        if let Some(voucher) = &state.voucher {
            let voucher = voucher.0.verify(&key.public());
            let voucher = voucher.with_context(|| state_path.display().to_string())?;
            ensure!(
                voucher.channel == address,
                "{} is of {}, not of {address}",
                state_path.display(),
                voucher.channel
            );
        }
        Ok(Self {
            most: channel.deposit.min(budget.unwrap_or(u64::MAX)),
            channel,
            address,
            key,
            path: state_path,
            state: Mutex::new(state),
            _lock: lock,
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

    /// Reserves what a request can cost at most, and signs for it; nothing where it costs
    /// nothing. It waits for the disk.
    pub fn reserve(
        &self,
        request: &str,
        limit: u64,
        price: u64,
    ) -> Result<Option<Signed>, PurseError> {
        let now = now()?;
        if now >= self.channel.until {
            return Err(PurseError::Ended {
                until: self.channel.until,
            });
        }
        let mut state = self.state();
        let price_of_it = cost(limit, price).ok_or(PurseError::Range)?;
        let taken = state.taken()?;
        let needed = taken.checked_add(price_of_it).ok_or(PurseError::Range)?;
        if needed > self.most {
            return Err(PurseError::Empty {
                cost: price_of_it,
                rest: self.most.saturating_sub(taken),
            });
        }
        let mut next = state.clone();
        let reserved = Reserved { limit, price };
        next.reserved.insert(request.into(), reserved);
        let raise = |last: &Voucher| {
            let raised = last.raised(needed, price, epoch(now), state.head());
            self.sign(&raised.ok_or(PurseError::Range)?)
        };
        let signed = match next.voucher.take() {
            Some(Kept(signed)) => {
                let last = signed.unverified()?;
                match last.amount >= needed && last.cap >= price {
                    true => Some(signed),
                    false => Some(raise(&last)?),
                }
            }
            None if needed == 0 => None,
            None => {
                let first = Voucher::first(self.channel.global_id, self.address.clone());
                Some(raise(&first)?)
            }
        };
        next.voucher = signed.clone().map(Kept);
        next.save(&self.path).map_err(PurseError::Disk)?;
        *state = next;
        Ok(signed)
    }

    /// A worker has signed for what it did: what it costs. No more than was reserved.
    pub fn settle(&self, request: &str, receipt: &Receipt) -> Result<u64, PurseError> {
        let tokens = receipt.work.load()?.tokens();
        let leaf = receipt.hash()?;
        self.change(|state| {
            let reserved = state.reserved.remove(request).ok_or(PurseError::Unknown)?;
            if tokens > reserved.limit {
                return Err(PurseError::More {
                    tokens,
                    limit: reserved.limit,
                });
            }
            let paid = cost(tokens, reserved.price).ok_or(PurseError::Range)?;
            state.spent = state.spent.checked_add(paid).ok_or(PurseError::Range)?;
            state.tokens = state.tokens.saturating_add(tokens);
            state.receipts.push(&leaf);
            Ok(paid)
        })
    }

    /// Nothing was done for it.
    pub fn release(&self, request: &str) -> Result<(), PurseError> {
        self.change(|state| {
            state.reserved.remove(request).ok_or(PurseError::Unknown)?;
            Ok(())
        })
    }

    /// Nobody has told what was done for it.
    pub fn doubt(&self, request: &str) -> Result<(), PurseError> {
        self.change(|state| {
            let reserved = state.reserved.remove(request).ok_or(PurseError::Unknown)?;
            state.doubt(reserved)
        })
    }

    /// What the scheduler counts: it is believed as far as there is doubt. Whether that
    /// changed anything.
    pub fn reconcile(&self, counted: Counted) -> Result<bool, PurseError> {
        self.change(|state| {
            let before = (state.spent, state.doubtful, state.held);
            let most = state.spent.checked_add(state.doubtful);
            let most = most.ok_or(PurseError::Range)?;
            if counted.reserved == 0 && state.reserved.is_empty() {
                // All is over on either side: there is nothing left to doubt.
                state.spent = counted.spent.clamp(state.spent, most);
                (state.doubtful, state.held) = (0, 0);
            } else {
                state.held = 0;
                let theirs = counted.spent.saturating_add(counted.reserved);
                let more = theirs.saturating_sub(state.taken()?);
                state.held = more.min(state.doubtful);
            }
            Ok(before != (state.spent, state.doubtful, state.held))
        })
    }

    /// A scheduler refused `sent` for what it counts. Whether another voucher would say more:
    /// of many that were refused at once, one alone finds something to reconcile.
    pub fn refused(&self, sent: Option<&Signed>, counted: Counted) -> Result<bool, PurseError> {
        let changed = self.reconcile(counted)?;
        let state = self.state();
        let newest = state.voucher.as_ref().map(|Kept(signed)| signed);
        Ok(changed || state.held > 0 || newest != sent)
    }

    /// The newest voucher, while there is something that the scheduler knows better.
    #[must_use]
    pub fn in_doubt(&self) -> Option<Signed> {
        let state = self.state();
        let voucher = state.voucher.as_ref().filter(|_| state.doubtful > 0);
        voucher.map(|Kept(signed)| signed.clone())
    }

    /// How it stands.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let state = self.state();
        Balance {
            spent: state.spent,
            reserved: state
                .taken()
                .unwrap_or(u64::MAX)
                .saturating_sub(state.spent),
            budget: self.most,
            tokens: state.tokens,
        }
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, PurseError>,
    ) -> Result<T, PurseError> {
        let mut state = self.state();
        let mut next = state.clone();
        let done = change(&mut next)?;
        next.save(&self.path).map_err(PurseError::Disk)?;
        *state = next;
        Ok(done)
    }

    fn sign(&self, voucher: &Voucher) -> Result<Signed, PurseError> {
        let signature = self.key.sign(&HashBytes(voucher.hash()?));
        Ok(voucher.signed(signature)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is replaced whole or not at all.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a scheduler says that a Channel has paid for, in nanotons.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub struct Counted {
    /// By receipts.
    pub spent: u64,
    /// For what is being done.
    pub reserved: u64,
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

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct State {
    voucher: Option<Kept>,
    spent: u64,
    tokens: u64,
    doubtful: u64,
    /// What of it the scheduler counts, and a voucher has to cover.
    #[serde(default)]
    held: u64,
    reserved: BTreeMap<String, Reserved>,
    receipts: Leaves,
}

impl State {
    fn read(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is no state of a channel", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// On disk, whole, before it returns.
    fn save(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().filter(|folder| *folder != Path::new(""));
        let folder = folder.unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(folder)?.sync_all()
    }

    fn taken(&self) -> Result<u64, PurseError> {
        let taken = self.spent.checked_add(self.held);
        let mut taken = taken.ok_or(PurseError::Range)?;
        for reserved in self.reserved.values() {
            let cost = reserved.cost()?;
            taken = taken.checked_add(cost).ok_or(PurseError::Range)?;
        }
        Ok(taken)
    }

    fn doubt(&mut self, reserved: Reserved) -> Result<(), PurseError> {
        let doubtful = self.doubtful.checked_add(reserved.cost()?);
        self.doubtful = doubtful.ok_or(PurseError::Range)?;
        Ok(())
    }

    fn doubt_all(&mut self) -> Result<(), PurseError> {
        let reserved = std::mem::take(&mut self.reserved);
        reserved.into_values().try_for_each(|one| self.doubt(one))
    }

    fn head(&self) -> HashBytes {
        HashBytes(self.receipts.head())
    }
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Reserved {
    limit: u64,
    price: u64,
}

impl Reserved {
    fn cost(self) -> Result<u64, PurseError> {
        cost(self.limit, self.price).ok_or(PurseError::Range)
    }
}

/// A voucher as base64 of its bag of cells.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(into = "String", try_from = "String")]
struct Kept(Signed);

impl From<Kept> for String {
    fn from(Kept(signed): Kept) -> Self {
        let cell = CellBuilder::build_from(&signed).unwrap_or_default();
        BASE64_STANDARD.encode(Boc::encode(cell))
    }
}

impl TryFrom<String> for Kept {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        let cell = Boc::decode(BASE64_STANDARD.decode(text)?)?;
        Ok(Self(cell.parse()?))
    }
}

fn read_key(path: &Path) -> anyhow::Result<Key> {
    let text = Zeroizing::new(String::from_utf8(read(path)?).context("a key is text")?);
    Key::parse(&text).with_context(|| format!("{} is not 64 hex digits", path.display()))
}

/// Ours until the process ends: two would sign two vouchers beside each other.
fn lock(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(anyhow!(
            "{} is locked: another process pays from this channel",
            path.display()
        )),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn now() -> Result<u32, PurseError> {
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
    Disk(#[source] io::Error),
    /// It would not be covered.
    #[error("the request may cost {cost} nanotons, and {rest} are left")]
    Empty {
        /// At most.
        cost: u64,
        /// Of deposit and budget.
        rest: u64,
    },
    /// The Channel has ended.
    #[error("the channel has ended at {until}")]
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
