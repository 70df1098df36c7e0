//! How the network on one machine is paid: clients pay the scheduler, and the scheduler
//! each worker's owner, out of Channels on a chain of their own, at prices of Markets there.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chain::wallet::Key;
use serde_json::Value;
use tempfile::TempDir;

use super::get;
use super::site::Site;
use crate::place::{Place, copy, read, write};
use crate::town::Town;

/// Dropping it ends the chain.
#[derive(Debug)]
pub(crate) struct Money {
    town: Town,
    folder: TempDir,
    /// Of the client, and of each worker's owner.
    channels: Vec<String>,
    /// By the models that they are of.
    pub(crate) markets: Vec<(&'static str, String)>,
}

impl Money {
    /// What a million tokens cost, in nanotons.
    pub(crate) const PRICE: u64 = 1_000_000_000;

    /// Opens a Market for each model of the site, a Channel to the owner of each of `workers`,
    /// which the first Market counts, and one of the client's.
    pub(crate) fn start(place: &Place, site: &Site, workers: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir().context("no folder for the chain")?;
        write(&folder.path().join(VOUCHERS), hex::encode([99; 32]))?;
        let people: Vec<_> = [SCHEDULER, CLIENT].iter().chain(workers).copied().collect();
        let mut money = Self {
            town: Town::start(place, folder.path(), &people)?,
            folder,
            channels: Vec::new(),
            markets: Vec::new(),
        };
        money.found(site)?;
        let (_, market) = money.markets.first().context("no Market")?;
        let counted = format!("--market {market}");
        money.open(1, 0, CLIENT, &format!("--out {CHANNEL}"))?;
        for (worker, owner) in workers.iter().zip(2..) {
            let out = format!("{counted} --worker-out {worker}.toml");
            money.open(0, owner, VOUCHERS, &out)?;
        }
        Ok(money)
    }

    /// The Markets, and a Registry that counts the site's build.
    fn found(&mut self, site: &Site) -> Result<()> {
        let [_, release, ..] = site.trust();
        copy(release.as_ref(), &self.file("release"))?;
        let build = format!("build --release release --shape {} --number 1", site.shape);
        self.town.call(0, &format!("propose --out build {build}"))?;
        let deploy = |what: &str| Town::made(&self.town.call(0, &format!("deploy {what}"))?);
        let collateral = deploy("collateral --test-build")?;
        let builder = Key::from_seed([98; 32]).public();
        let registry = deploy(&format!(
            "registry --collateral {collateral} --threshold 1 --builder {builder} --counts build"
        ))?;
        let price = Self::PRICE;
        let markets = site.disks.iter().map(|(model, disk)| {
            let root = disk.root_hash;
            let market = deploy(&format!(
                "market --collateral {collateral} --registry {registry} --model {root} --gpu none \
                 --capacity 1000000 --stake 1 --price {price} --ceiling {price}"
            ));
            Ok((*model, market?))
        });
        self.markets = markets.collect::<Result<_>>()?;
        Ok(())
    }

    fn open(&mut self, payer: usize, payee: usize, signs: &str, out: &str) -> Result<()> {
        let payee = self.town.wallet(payee)?;
        let terms = format!("--payee {payee} --voucher-key {signs} --deposit {DEPOSIT}");
        let command = format!("channel open {terms} {out}");
        let said = self.town.call(payer, &command)?;
        self.channels.push(Town::made(&said)?);
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
        let markets = self.markets.iter();
        let markets = markets.map(|(_, market)| ("--market", OsStr::new(market)));
        let options = options.into_iter().chain(markets);
        let words = options.flat_map(|(name, value)| [name.into(), value.into()]);
        Ok(words.collect())
    }

    /// What a gateway is told: what it pays out of, and where the prices are.
    pub(crate) fn gateway(&self) -> Vec<String> {
        let file = |name| self.file(name).display().to_string();
        let options = [("--channel", CHANNEL), ("--chain", Town::NETWORK)];
        let options = options.map(|(option, name)| [option.into(), file(name)]);
        let markets = self.markets.iter();
        let markets = markets.map(|(model, at)| ["--market".into(), format!("{model}={at}")]);
        options.into_iter().chain(markets).flatten().collect()
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
