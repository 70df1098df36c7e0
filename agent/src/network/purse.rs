//! What one scheduler has signed for, and what of it is spent. Prepaid: nobody lends.
//!
//! ```text
//! covered   what the contract would have paid out in all for the newest voucher
//! spent     what was claimed before this boot, and what was settled in it
//! reserved  for requests under way: their limits
//!
//! spent + reserved + cost(limit) <= covered
//! ```
//!
//! It is in memory only. After a reboot vouchers count from what the configuration says
//! was claimed: an old one covers nothing of that.
//!
//! A request that is cut off before its settlement costs nothing, since the other end
//! cannot tell what it came to. Who does little else is not served: see [`GRACE`].
//!
//! It does not establish that the deposit is on the chain: the owner, who configures it,
//! is whom the lack of it would harm.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use attestation::config;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use contracts::channel::{At, Channel, Refusal, State, TermsError};
use contracts::voucher::Signed;
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, Load as _};
use tycho_types::models::StdAddr;

/// One Channel from a scheduler to the owner of this machine.
#[derive(Debug)]
pub struct Purse {
    /// As if nothing but `paid` had happened.
    channel: Channel,
    config: config::Channel,
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    newest: Option<Signed>,
    covered: u64,
    spent: u64,
    reserved: u64,
    /// For requests that were cut off.
    lost: u64,
}

impl Purse {
    /// The one of these that is of the same Channel, or a new one: schedulers of one
    /// deployment pay out of one Channel, and what they sign counts once. What the
    /// configuration says of it has to be the same each time.
    pub fn shared<'a>(
        config: &config::Channel,
        mut open: impl Iterator<Item = &'a Arc<Self>>,
    ) -> Result<Arc<Self>, PurseError> {
        let purse = Self::open(config)?;
        let place = |purse: &Self| (purse.network(), purse.address().clone());
        match open.find(|other| place(other) == place(&purse)) {
            Some(other) if other.config == *config => Ok(Arc::clone(other)),
            Some(other) => Err(PurseError::Differs {
                address: other.address().clone(),
            }),
            None => Ok(Arc::new(purse)),
        }
    }

    /// From the configuration.
    pub fn open(config: &config::Channel) -> Result<Self, PurseError> {
        let boc = BASE64_STANDARD.decode(&config.state);
        let cell = Boc::decode(boc.map_err(|_| PurseError::Base64)?);
        let cell = cell.map_err(|_| PurseError::Cells)?;
        let mut slice = cell.as_slice().map_err(|_| PurseError::Cells)?;
        let state = State::load_from(&mut slice).map_err(|_| PurseError::Cells)?;
        let terms = state.terms().map_err(|_| PurseError::Cells)?;
        let mut channel = Channel::new(terms).map_err(PurseError::Terms)?;
        channel.state.paid = config.paid;
        channel.state.ends = channel.state.ends.saturating_sub(CLAIM_TIME);
        Ok(Self {
            channel,
            config: config.clone(),
            account: Mutex::new(Account {
                newest: None,
                covered: config.paid,
                spent: config.paid,
                reserved: 0,
                lost: 0,
            }),
        })
    }

    /// Where it is.
    pub const fn address(&self) -> &StdAddr {
        &self.channel.address
    }

    /// Which network that is in.
    pub const fn network(&self) -> i32 {
        self.config.network
    }

    /// What is worth claiming.
    pub fn newest(&self) -> Option<Signed> {
        self.account().newest.clone()
    }

    /// What was earned since the Channel began.
    pub fn spent(&self) -> u64 {
        self.account().spent
    }

    /// So much was earned after all by what had been cut off.
    fn earn(&self, cost: u64) {
        let mut account = self.account();
        account.spent = account.spent.saturating_add(cost);
        account.lost = account.lost.saturating_sub(cost);
    }

    /// Sets so much aside, which the newest voucher has to cover, or this one.
    pub fn reserve(
        self: &Arc<Self>,
        signed: Option<&Signed>,
        cost: u64,
        now: u32,
    ) -> Result<Reservation, NotCovered> {
        let worth = signed.map(|signed| Ok::<_, Refusal>((signed, self.worth(signed, now)?)));
        let mut account = self.account();
        if let Some((signed, worth)) = worth.transpose()?
            && worth > account.covered
        {
            account.covered = worth;
            account.newest = Some(signed.clone());
        }
        let earned = account.spent.saturating_sub(self.channel.state.paid);
        if account.lost > earned.saturating_add(self.config.deposit / GRACE) {
            return Err(NotCovered::Unsettled { lost: account.lost });
        }
        let taken = account.spent.checked_add(account.reserved);
        match taken.and_then(|taken| taken.checked_add(cost)) {
            Some(needed) if needed <= account.covered => {
                account.reserved = account.reserved.saturating_add(cost);
                drop(account);
                Ok(Reservation {
                    purse: Arc::clone(self),
                    reserved: cost,
                })
            }
            needed => Err(NotCovered::Short {
                needed: needed.unwrap_or(u64::MAX),
                covered: account.covered,
                spent: account.spent,
            }),
        }
    }

    /// What the contract would have paid out in all, had it claimed this one now.
    fn worth(&self, signed: &Signed, now: u32) -> Result<u64, Refusal> {
        let mut channel = self.channel.clone();
        let paid = channel.state.paid;
        let left = self.config.deposit.saturating_sub(paid);
        let at = At {
            now,
            global_id: self.network(),
            balance: channel.state.held.saturating_add(left),
        };
        match channel.claim(&at, signed) {
            Ok(_) => Ok(channel.state.paid),
            // Not forged: only old.
            Err(Refusal::Nothing) => Ok(paid),
            Err(refusal) => Err(refusal),
        }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is set aside for one request; let go of when dropped.
#[derive(Debug)]
pub struct Reservation {
    purse: Arc<Purse>,
    reserved: u64,
}

impl Reservation {
    /// So much of it was earned.
    pub fn settle(self, cost: u64) {
        let earned = cost.min(self.reserved);
        let mut account = self.purse.account();
        account.spent = account.spent.saturating_add(earned);
    }

    /// So much would have been, had it not been cut off.
    pub fn lose(self, cost: u64) {
        let lost = cost.min(self.reserved);
        let mut account = self.purse.account();
        account.lost = account.lost.saturating_add(lost);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut account = self.purse.account();
        account.reserved = account.reserved.saturating_sub(self.reserved);
    }
}

/// What an answer came to, which is counted once: when its end is taken, or when whoever lost
/// that asks for its settlement.
#[derive(Debug)]
pub(super) struct Earned {
    cost: u64,
    stage: Mutex<Stage>,
}

#[derive(Debug, Default)]
enum Stage {
    /// The answer is under way.
    Held(Reservation),
    /// It was cut off.
    Lost(Arc<Purse>),
    #[default]
    Counted,
}

impl Earned {
    pub(super) fn new(reservation: Reservation, cost: u64) -> Self {
        Self {
            cost: cost.min(reservation.reserved),
            stage: Mutex::new(Stage::Held(reservation)),
        }
    }

    /// Whoever pays for it has the settlement.
    pub(super) fn count(&self) {
        match std::mem::take(&mut *self.stage()) {
            Stage::Held(reservation) => reservation.settle(self.cost),
            Stage::Lost(purse) => purse.earn(self.cost),
            Stage::Counted => {}
        }
    }

    /// Nobody takes the answer any more.
    pub(super) fn lose(&self) {
        let mut stage = self.stage();
        *stage = match std::mem::take(&mut *stage) {
            Stage::Held(reservation) => {
                let purse = Arc::clone(&reservation.purse);
                reservation.lose(self.cost);
                Stage::Lost(purse)
            }
            other => other,
        };
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The voucher in a header or in a list, as a bag of cells.
pub(super) fn decode(boc: &[u8]) -> Option<Signed> {
    let cell = Boc::decode(boc).ok()?;
    let mut slice = cell.as_slice().ok()?;
    let signed = Signed::load_from(&mut slice).ok()?;
    slice.is_empty().then_some(signed)
}

/// The same, the other way.
pub(super) fn encode(signed: &Signed) -> Option<Vec<u8>> {
    Some(Boc::encode(CellBuilder::build_from(signed).ok()?))
}

/// Seconds before a Channel ends in which nothing more is done for it: its owner has to
/// claim what was earned.
const CLAIM_TIME: u32 = 1200;

/// What was cut off may be worth as much as what was settled, and this part of the
/// deposit: some users stop answers, and no scheduler can live on stopping them.
const GRACE: u64 = 16;

/// Why a request is not paid for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotCovered {
    /// The contract would not take it.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Another one is wanted.
    #[error("vouchers cover {covered} nanotons, {needed} are needed")]
    Short {
        /// With what was spent and is reserved.
        needed: u64,
        /// By the newest.
        covered: u64,
        /// Since the Channel began.
        spent: u64,
    },
    /// Nobody works for nothing.
    #[error("answers worth {lost} nanotons were cut off before their settlement")]
    Unsettled {
        /// Since the boot.
        lost: u64,
    },
}

/// Why a Channel of the configuration is none.
#[derive(Debug, thiserror::Error)]
pub enum PurseError {
    /// Not even that.
    #[error("state is not base64")]
    Base64,
    /// Of something else.
    #[error("state is not what a Channel keeps")]
    Cells,
    /// Only one of them can be right.
    #[error("{address} is in the configuration twice, with another state, deposit or paid")]
    Differs {
        /// Where it is.
        address: StdAddr,
    },
    /// That no Channel has.
    #[error("the channel's terms are refused")]
    Terms(#[source] TermsError),
}

#[cfg(test)]
mod tests {
    use super::*;

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use contracts::channel::Terms;
    use contracts::voucher::{Forged, Voucher};
    use tycho_types::cell::HashBytes;

    const NOW: u32 = 1_800_000_000;
    const UNTIL: u32 = NOW + 86_400;

    fn key() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap()
    }

    fn config(deposit: u64, paid: u64) -> config::Channel {
        let terms = Terms {
            payer: StdAddr::new(0, HashBytes([1; 32])),
            payee: StdAddr::new(0, HashBytes([2; 32])),
            key: HashBytes(key().public_key().as_ref().try_into().unwrap()),
            until: UNTIL,
            delay: 3600,
            fee: 50,
            market: StdAddr::new(0, HashBytes([3; 32])),
        };
        config::Channel {
            state: state(&Channel::new(terms).unwrap().state),
            network: -239,
            deposit,
            paid,
        }
    }

    fn state(state: &State) -> String {
        BASE64_STANDARD.encode(Boc::encode(CellBuilder::build_from(state).unwrap()))
    }

    fn purse(deposit: u64, paid: u64) -> Arc<Purse> {
        Arc::new(Purse::open(&config(deposit, paid)).unwrap())
    }

    fn voucher(purse: &Purse, amount: u64) -> Voucher {
        Voucher {
            amount,
            tokens: amount,
            cap: 1_000_000,
            ..Voucher::first(-239, purse.address().clone())
        }
    }

    fn sign(voucher: &Voucher) -> Signed {
        let signature = key().sign(&voucher.hash().unwrap());
        voucher
            .signed(signature.as_ref().try_into().unwrap())
            .unwrap()
    }

    /// Of a refusal, what is needed and what is covered.
    fn short(refused: Result<Reservation, NotCovered>) -> Option<(u64, u64)> {
        match refused {
            Err(NotCovered::Short {
                needed, covered, ..
            }) => Some((needed, covered)),
            _ => None,
        }
    }

    #[test]
    fn a_voucher_counts_once_for_all_schedulers_that_pay_out_of_its_channel() {
        let first = purse(1000, 0);
        let second = Purse::shared(&config(1000, 0), [&first].into_iter()).unwrap();
        let signed = sign(&voucher(&first, 100));
        let _kept = first.reserve(Some(&signed), 100, NOW).unwrap();
        assert_eq!(
            short(second.reserve(Some(&signed), 1, NOW)),
            Some((101, 100))
        );
        let elsewhere = Purse::shared(&config(1000, 0), [].into_iter()).unwrap();
        assert!(elsewhere.reserve(Some(&signed), 1, NOW).is_ok());
    }

    #[test]
    fn a_channel_that_is_configured_twice_and_differently_is_refused() {
        let first = purse(1000, 10);
        let shared = |config| Purse::shared(&config, [&first].into_iter());
        assert!(Arc::ptr_eq(&shared(config(1000, 10)).unwrap(), &first));
        let later = config::Channel {
            state: state(&State {
                paid: 10,
                ..first.channel.state.clone()
            }),
            ..config(1000, 10)
        };
        for other in [config(1001, 10), config(1000, 11), later] {
            let refused = shared(other).unwrap_err().to_string();
            let address = first.address();
            let said = format!(
                "{address} is in the configuration twice, with another state, deposit or paid"
            );
            assert_eq!(refused, said);
        }
        let test = config::Channel {
            network: -3,
            ..config(1001, 10)
        };
        assert!(shared(test).is_ok(), "of another network");
    }

    #[test]
    fn what_is_spent_and_reserved_has_to_be_covered() {
        let purse = purse(1000, 0);
        assert_eq!(short(purse.reserve(None, 1, NOW)), Some((1, 0)));
        let signed = sign(&voucher(&purse, 100));
        let first = purse.reserve(Some(&signed), 60, NOW).unwrap();
        let second = purse.reserve(None, 40, NOW).unwrap();
        assert_eq!(short(purse.reserve(None, 1, NOW)), Some((101, 100)));
        first.settle(10);
        drop(second);
        let third = purse.reserve(None, 90, NOW).unwrap();
        assert_eq!(short(purse.reserve(None, 1, NOW)), Some((101, 100)));
        third.settle(1000);
        let refused = purse.reserve(None, 1, NOW).err();
        let expected = NotCovered::Short {
            needed: 101,
            covered: 100,
            spent: 100,
        };
        assert_eq!(refused, Some(expected));
        assert_eq!(purse.newest(), Some(signed));
    }

    #[test]
    fn a_voucher_is_worth_no_more_than_the_deposit_and_an_older_one_nothing() {
        let purse = purse(100, 0);
        let [more, less] = [500, 50].map(|amount| sign(&voucher(&purse, amount)));
        let over = purse.reserve(Some(&more), 101, NOW);
        assert_eq!(short(over), Some((101, 100)));
        drop(purse.reserve(Some(&less), 100, NOW).unwrap());
        assert_eq!(purse.newest(), Some(more));
    }

    #[test]
    fn what_was_paid_before_a_reboot_covers_nothing() {
        let purse = purse(1000, 100);
        let old = sign(&voucher(&purse, 100));
        let short_of = |voucher, cost| short(purse.reserve(Some(voucher), cost, NOW));
        assert_eq!(short_of(&old, 1), Some((101, 100)));
        let new = sign(&voucher(&purse, 130));
        assert_eq!(short_of(&new, 31), Some((131, 130)));
        assert_eq!(short_of(&new, 30), None);
    }

    #[test]
    fn what_the_contract_would_refuse_covers_nothing() {
        let purse = purse(1000, 0);
        let good = voucher(&purse, 100);
        let refused = |voucher: &Voucher, now| purse.reserve(Some(&sign(voucher)), 1, now).err();
        let says = |refusal| Some(NotCovered::Refused(refusal));
        let elsewhere = Voucher {
            channel: StdAddr::new(0, HashBytes::ZERO),
            ..good.clone()
        };
        assert_eq!(refused(&elsewhere, NOW), says(Refusal::Target));
        let test = Voucher {
            global_id: -3,
            ..good.clone()
        };
        assert_eq!(refused(&test, NOW), says(Refusal::Target));
        let later = Voucher {
            epoch: u32::MAX,
            ..good.clone()
        };
        assert_eq!(refused(&later, NOW), says(Refusal::Epoch));
        let dear = Voucher {
            tokens: 1,
            ..good.clone()
        };
        assert_eq!(refused(&dear, NOW), says(Refusal::Cap));
        assert_eq!(refused(&good, UNTIL - CLAIM_TIME), says(Refusal::Ended));
        let mut forged = sign(&good);
        forged.signature.0[0] ^= 1;
        let forged = purse.reserve(Some(&forged), 1, NOW).err();
        assert_eq!(forged, says(Refusal::Forged(Forged::Signature)));
        assert!(purse.newest().is_none());
        assert_eq!(refused(&good, NOW), None);
    }

    #[test]
    fn who_cuts_off_more_than_it_settles_is_not_served() {
        let purse = purse(1600, 0);
        let signed = sign(&voucher(&purse, 1600));
        let serve = || purse.reserve(Some(&signed), 100, NOW);
        serve().unwrap().lose(100);
        serve().unwrap().lose(1);
        assert_eq!(serve().err(), Some(NotCovered::Unsettled { lost: 101 }));
        purse.earn(1);
        assert!(serve().is_ok(), "its settlement was fetched after all");
        assert_eq!(purse.spent(), 1);
        let purse = self::purse(1600, 0);
        let serve = || purse.reserve(Some(&signed), 100, NOW);
        serve().unwrap().lose(100);
        serve().unwrap().settle(10);
        serve().unwrap().lose(10);
        assert!(serve().is_ok());
    }

    #[test]
    fn what_is_earned_is_counted_once_whoever_hears_of_it_first() {
        let purse = purse(1600, 0);
        let signed = sign(&voucher(&purse, 1600));
        let earn = |cost| Earned::new(purse.reserve(Some(&signed), 100, NOW).unwrap(), cost);
        let stand = || {
            let account = purse.account();
            (account.spent, account.reserved, account.lost)
        };
        purse.reserve(Some(&signed), 100, NOW).unwrap().lose(60);
        let taken = earn(10);
        assert_eq!(stand(), (0, 100, 60));
        taken.count();
        taken.count();
        taken.lose();
        assert_eq!(stand(), (10, 0, 60), "others are as lost as before");
        let lost = earn(10);
        lost.lose();
        lost.lose();
        assert_eq!(stand(), (10, 0, 70));
        lost.count();
        lost.count();
        assert_eq!(stand(), (20, 0, 60));
        earn(1000).count();
        assert_eq!(stand(), (120, 0, 60), "no more than was set aside");
    }

    #[test]
    fn what_is_no_channel_is_refused() {
        let with = |state: &str| config::Channel {
            state: state.into(),
            ..config(1, 0)
        };
        let said = |config| Purse::open(&config).unwrap_err().to_string();
        assert_eq!(said(with("-")), "state is not base64");
        assert_eq!(said(with("AAAA")), "state is not what a Channel keeps");
        let empty = BASE64_STANDARD.encode(Boc::encode(tycho_types::cell::Cell::default()));
        assert_eq!(said(with(&empty)), "state is not what a Channel keeps");
    }

    #[test]
    fn a_voucher_travels_as_a_bag_of_cells() {
        let purse = purse(1, 0);
        let signed = sign(&voucher(&purse, 1));
        let boc = encode(&signed).unwrap();
        assert_eq!(decode(&boc), Some(signed));
        for length in 0..boc.len() {
            assert_eq!(decode(&boc[..length]), None, "{length} bytes");
        }
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _voucher = decode(&bytes);
        }
    }
}
