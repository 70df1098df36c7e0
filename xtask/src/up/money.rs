//! How the network on one machine is paid: clients pay the scheduler, and the scheduler
//! each worker's owner, out of Channels on a chain of their own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::place::{Place, write};
use crate::town::Town;

/// Dropping it ends the chain.
#[derive(Debug)]
pub(crate) struct Money {
    town: Town,
    folder: TempDir,
}

impl Money {
    /// What a million tokens cost, in nanotons.
    pub(crate) const PRICE: &str = "1000000000";

    /// Opens a Channel to the owner of each of `workers`, and one of the client's.
    pub(crate) fn start(place: &Place, workers: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir().context("no folder for the chain")?;
        write(&folder.path().join(VOUCHERS), hex::encode([99; 32]))?;
        let people: Vec<_> = [SCHEDULER, CLIENT].iter().chain(workers).copied().collect();
        let money = Self {
            town: Town::start(place, folder.path(), &people)?,
            folder,
        };
        for (worker, owner) in workers.iter().zip(2..) {
            money.open(0, owner, VOUCHERS, &format!("--worker-out {worker}.toml"))?;
        }
        money.open(1, 0, CLIENT, &format!("--out {CHANNEL}"))?;
        Ok(money)
    }

    fn open(&self, payer: usize, payee: usize, signs: &str, out: &str) -> Result<String> {
        let payee = self.town.wallet(payee)?;
        let terms = format!("--payee {payee} --voucher-key {signs} --deposit {DEPOSIT}");
        self.town
            .call(payer, &format!("channel open {terms} {out}"))
    }

    /// What a worker's configuration says of it, by the worker's name.
    pub(crate) fn terms(&self, worker: &str) -> Result<String> {
        let path = self.file(&format!("{worker}.toml"));
        let channel = fs::read_to_string(&path);
        let channel = channel.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(format!("ask = {}\n\n{channel}", Self::PRICE))
    }

    /// What a scheduler is told.
    pub(crate) fn scheduler(&self) -> Result<Vec<OsString>> {
        let mut books = OsString::from("sqlite:");
        books.push(self.file("books.db"));
        let wallet = OsStr::new(self.town.wallet(0)?);
        let (network, vouchers) = (self.file(Town::NETWORK), self.file(VOUCHERS));
        let key = self.file(SCHEDULER);
        let options: [(&str, &OsStr); 6] = [
            ("--database", &books),
            ("--network", network.as_ref()),
            ("--payee", wallet),
            ("--voucher-key", vouchers.as_ref()),
            ("--wallet", wallet),
            ("--wallet-key", key.as_ref()),
        ];
        let options = options.into_iter();
        let words = options.flat_map(|(name, value)| [name.into(), value.into()]);
        Ok(words.collect())
    }

    /// What a gateway pays out of.
    pub(crate) fn channel(&self) -> String {
        self.file(CHANNEL).display().to_string()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Files of keys, of which the first two are those of wallets.
const SCHEDULER: &str = "scheduler.key";
const CLIENT: &str = "client.key";
const VOUCHERS: &str = "voucher.key";

const CHANNEL: &str = "channel.json";

/// Nanotons.
const DEPOSIT: u64 = 100_000_000_000;
