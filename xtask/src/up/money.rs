//! How the network on one machine is paid: clients pay the scheduler, and the scheduler
//! each worker's owner, out of Channels on a chain of their own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use tempfile::TempDir;

use super::get;
use crate::place::{Place, read, write};
use crate::town::Town;

/// Dropping it ends the chain.
#[derive(Debug)]
pub(crate) struct Money {
    town: Town,
    folder: TempDir,
    /// Of the client, and of each worker's owner.
    channels: Vec<String>,
}

impl Money {
    /// What a million tokens cost, in nanotons.
    pub(crate) const PRICE: &str = "1000000000";

    /// Opens a Channel to the owner of each of `workers`, and one of the client's.
    pub(crate) fn start(place: &Place, workers: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir().context("no folder for the chain")?;
        write(&folder.path().join(VOUCHERS), hex::encode([99; 32]))?;
        let people: Vec<_> = [SCHEDULER, CLIENT].iter().chain(workers).copied().collect();
        let mut money = Self {
            town: Town::start(place, folder.path(), &people)?,
            folder,
            channels: Vec::new(),
        };
        money.open(1, 0, CLIENT, &format!("--out {CHANNEL}"))?;
        for (worker, owner) in workers.iter().zip(2..) {
            money.open(0, owner, VOUCHERS, &format!("--worker-out {worker}.toml"))?;
        }
        Ok(money)
    }

    fn open(&mut self, payer: usize, payee: usize, signs: &str, out: &str) -> Result<()> {
        let payee = self.town.wallet(payee)?;
        let terms = format!("--payee {payee} --voucher-key {signs} --deposit {DEPOSIT}");
        let command = format!("channel open {terms} {out}");
        let said = self.town.call(payer, &command)?;
        let address = said.split_whitespace().nth(1);
        self.channels.push(address.context("no channel")?.into());
        Ok(())
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

    /// Has all newest vouchers paid that the client and `workers` have, whoever was quicker:
    /// what the chain has then paid for the client, and to the owners.
    pub(crate) fn claim(&self, workers: &[SocketAddr], trust: &[&OsStr]) -> Result<Paid> {
        let purse = self.file(&format!("{CHANNEL}.state"));
        let purse: Value = serde_json::from_slice(&read(&purse)?).context("no purse")?;
        let voucher = purse.get("voucher").and_then(Value::as_str);
        let voucher = BASE64_STANDARD.decode(voucher.context("the client has signed nothing")?)?;
        write(&self.file("voucher"), voucher)?;
        self.town.output(1, "redeem --voucher voucher")?;
        for (worker, owner) in workers.iter().zip(2..) {
            let redeem = format!("redeem --worker https://{worker}");
            let mut redeem = self.town.command(owner, &redeem)?;
            let redeemed = redeem.args(trust).output().context("cannot start cocoon")?;
            let said = String::from_utf8_lossy(&redeemed.stderr);
            ensure!(redeemed.status.success(), "an owner is not paid: {said}");
        }
        let paid = self.channels.iter().map(|channel| self.paid(channel));
        let paid: Vec<_> = paid.collect::<Result<_>>()?;
        let (client, owners) = paid.split_first().context("no channels")?;
        Ok(Paid {
            by_client: *client,
            to_owners: owners.iter().sum(),
        })
    }

    /// What a Channel has paid in all, by the chain.
    fn paid(&self, channel: &str) -> Result<u64> {
        let status = self.town.call(1, &format!("status --channel {channel}"))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("channel "));
        let coins = line.and_then(|line| line.split_whitespace().next());
        // Nine digits after the point.
        let nanotons = coins.context("no channel")?.replace('.', "");
        nanotons.parse().with_context(|| status.clone())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// What Channels have paid, in nanotons.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Paid {
    by_client: u64,
    to_owners: u64,
}

/// What everyone has written down, in nanotons.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums {
    /// By the client, as by the scheduler on either side.
    pub(crate) spent: u64,
    /// Likewise.
    pub(crate) reserved: u64,
    signed: Paid,
}

impl Sums {
    /// What Channels pay: vouchers are prepaid.
    pub(crate) const fn signed(&self) -> Paid {
        self.signed
    }
}

/// Waits until nothing is under way or in doubt any more, and the gateway's purse and the
/// scheduler's books on either side say that the same was spent, and the same is reserved:
/// `left` at most.
pub(crate) fn agreed(gateway: &str, scheduler: &str, left: u64) -> Result<Sums> {
    let started = Instant::now();
    loop {
        let purse: Value = get(&format!("{gateway}/cocoon/usage"))?.parse()?;
        let status: Value = get(&format!("{scheduler}/status"))?.parse()?;
        let number = |path| status.pointer(path).and_then(Value::as_u64);
        let is_quiet = ["/requests/open", "/requests/waiting"].map(number) == [Some(0); 2];
        let books = ["/money/earned", "/money/paid"].map(|side| status.pointer(side));
        let all = |name| [Some(&purse), books[0], books[1]].map(|sums| sums?.get(name)?.as_u64());
        let signed = ["/money/earned/signed", "/money/paid/signed"].map(number);
        if let ([Some(spent), ..], [Some(reserved), ..], [Some(by_client), Some(to_owners)]) =
            (all("spent"), all("reserved"), signed)
            && is_quiet
            && all("spent") == [Some(spent); 3]
            && all("reserved") == [Some(reserved); 3]
            && reserved <= left
        {
            return Ok(Sums {
                spent,
                reserved,
                signed: Paid {
                    by_client,
                    to_owners,
                },
            });
        }
        let taken = || (all("spent"), all("reserved"));
        let differ = || {
            format!(
                "the books differ: {:?}, {:?}",
                taken(),
                status.get("requests")
            )
        };
        ensure!(started.elapsed() < SETTLED, differ());
        thread::sleep(Duration::from_secs(1));
    }
}

/// An answer that an application broke off is read to its end, and then asked about; what a
/// scheduler that died had admitted, and did not come to its worker, is let go of after 60 s.
const SETTLED: Duration = Duration::from_secs(90);

/// Files of keys, of which the first two are those of wallets.
const SCHEDULER: &str = "scheduler.key";
const CLIENT: &str = "client.key";
const VOUCHERS: &str = "voucher.key";

const CHANNEL: &str = "channel.json";

/// Nanotons.
const DEPOSIT: u64 = 100_000_000_000;
