//! What happens on TON, on a local chain: contracts and documents, a worker that proves
//! what it runs, a client that reads so with proofs and pays by vouchers, a payment, and the
//! usage that a Market counts.
//!
//! The worker is an emulated TD, whose root of trust only the test build of Collateral
//! believes. Everything is done by `cocoon chain`, as its users do it.

use std::path::Path;
use std::process::Output;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use chain::wallet::Key;
use tests::collateral::files;
use tests::td::Td;

use crate::cocoon::build_doubles;
use crate::contracts;
use crate::image::Builder;
use crate::place::{Place, write};
use crate::town::Town;

use super::report::Expense;

/// A row for each step that costs something.
pub(super) fn run(builder: &Builder) -> Result<Vec<Expense>> {
    let place = &builder.place;
    contracts::prepare(place, &builder.progress)?;
    build_doubles(place, &builder.progress, &[])?;
    let step = builder.progress.step("publish, attest, pay on the chain");
    let folder = tempfile::tempdir().context("cannot make a folder for the chain")?;
    let mut user = User::start(place, folder.path())?;
    let worker = Td::new();
    publish_collateral(&worker, folder.path())?;
    write(&folder.path().join("sample"), worker.quote(&[0; 64]))?;

    let collateral = user.made("Collateral", "deploy collateral --test-build")?;
    user.call(
        "",
        "propose --out build build-of-quote --quote sample --number 1",
    )?;
    let of_quote = "propose --out config configuration-of-quote --quote sample --model";
    user.call("", &format!("{of_quote} {MODEL}"))?;
    let model = format!("propose --out model model --root {MODEL} --name tiny --price-class 1");
    user.call("", &model)?;
    let builder_key = user.builder.clone();
    let registry = user.made(
        "Registry: build, model",
        &format!(
            "deploy registry --collateral {collateral} --threshold 1 --builder {builder_key} \
             --counts build --counts config --counts model"
        ),
    )?;
    let owner = user.town.wallet(1)?.to_owned();
    let node = user.made(
        "Node of the worker",
        &format!("deploy node --collateral {collateral} --registry {registry} --owner {owner}"),
    )?;
    let publish = format!("publish collateral --to {collateral} --files . --quote sample");
    user.call("Intel's documents, once a month", &publish)?;

    let claim = format!(
        "attest claim --node {node} --receipt-key {MODEL} --seal-key {MODEL} \
         --tls-key {LONG} --gpus {LONG} --out claim"
    );
    let claimed = user.call("", &claim)?;
    let data = after(&claimed, "REPORTDATA ").context("no REPORTDATA")?;
    let mut report_data = [0; 64];
    hex::decode_to_slice(&data, &mut report_data).context("REPORTDATA is not 64 bytes")?;
    write(&folder.path().join("quote"), worker.quote(&report_data))?;
    let attest = "attest send --claim claim --quote quote";
    user.call("attestation, all three signatures", attest)?;
    let again = user.output(attest)?;
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    ensure!(
        again.status.code() == Some(1) && said.contains("Replay: "),
        "a quote counted twice: {said}"
    );

    let status = user.call("", &format!("status --registry {registry} --node {node}"))?;
    let build = after(&status, "build    ").context("no build counts")?;
    let build = build.split(':').next().unwrap_or_default();
    ensure!(
        status.contains(&format!("attested build {build} with model {MODEL}")),
        "the worker did not prove the build that counts:\n{status}"
    );

    let market = user.made(
        "Market",
        &format!(
            "deploy market --collateral {collateral} --registry {registry} --model {MODEL} \
             --gpu H100 --capacity 1000000 --stake 1 --price 1000000000 --ceiling 5000000000"
        ),
    )?;
    let terms =
        format!("--market {market} --payee {owner} --voucher-key voucher.key --deposit 1000000000");
    let channel = user.made("Channel, 1 GRAM", &format!("channel open {terms}"))?;
    let mut last = String::new();
    for number in 1..=3 {
        let sign = format!(
            "channel voucher --channel {channel} --voucher-key voucher.key --tokens 20000 \
             --price 1000000000 --receipts {MODEL} --out voucher{number} {last}"
        );
        user.call("", &sign)?;
        last = format!("--last voucher{number}");
    }
    user.call("payment of 3 vouchers", "redeem --voucher voucher3")?;
    user.call("usage, to the Market", "channel report --voucher voucher3")?;
    let used = user.call("", &format!("status --market {market}"))?;
    ensure!(
        used.contains(" 60000 tokens used "),
        "the Market counts something else:\n{used}"
    );
    user.call(
        "Channel, begun to close",
        &format!("channel close --channel {channel}"),
    )?;
    step.done("proved, paid, refused a replay");
    Ok(std::mem::take(&mut user.expenses))
}

/// Who has a wallet on a chain of its own.
struct User {
    town: Town,
    builder: String,
    expenses: Vec<Expense>,
}

impl User {
    fn start(place: &Place, folder: &Path) -> Result<Self> {
        write(&folder.join("voucher.key"), hex::encode([3; 32]))?;
        Ok(Self {
            town: Town::start(place, folder, &["key", "owner.key"])?,
            builder: Key::from_seed([4; 32]).public().to_string(),
            expenses: Vec::new(),
        })
    }

    /// A step that has to succeed, and what it prints. Without a name it costs nothing.
    fn call(&mut self, what: &str, command: &str) -> Result<String> {
        let said = self.town.call(0, command)?;
        if !what.is_empty() {
            self.expenses.push(expense(what, &said)?);
        }
        Ok(said)
    }

    /// The same; where the contract is that it made.
    fn made(&mut self, what: &str, command: &str) -> Result<String> {
        Town::made(&self.call(what, command)?)
    }

    fn output(&self, command: &str) -> Result<Output> {
        self.town.output(0, command)
    }
}

/// As Intel's service would give it.
fn publish_collateral(td: &Td, folder: &Path) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    files(&td.collateral(i64::try_from(now)?))
        .iter()
        .try_for_each(|(name, bytes)| write(&folder.join(name), bytes))
}

/// All that a command says it paid: `fees     0.1 GRAM for 100 gas and the messages`.
fn expense(what: &str, said: &str) -> Result<Expense> {
    let mut sum = Expense {
        what: what.into(),
        gas: 0,
        nanotons: 0,
    };
    for cost in said
        .lines()
        .filter_map(|line| line.strip_prefix("fees     "))
    {
        let words: Vec<_> = cost.split(' ').collect();
        let [fees, "GRAM", "for", gas, ..] = words.as_slice() else {
            bail!("not what something costs: {cost}");
        };
        let nanotons: u64 = fees
            .replace('.', "")
            .parse()
            .context("fees are no number")?;
        let gas: u64 = gas.parse().context("gas is no number")?;
        sum.nanotons = sum.nanotons.saturating_add(nanotons);
        sum.gas = sum.gas.saturating_add(gas);
    }
    Ok(sum)
}

/// What follows a prefix, on the first line that has it.
fn after(text: &str, prefix: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(prefix));
    line.map(str::to_owned)
}

/// Stands for 32 bytes of the model, of keys, of receipts.
const MODEL: &str = "0606060606060606060606060606060606060606060606060606060606060606";
/// For 48 bytes.
const LONG: &str = "080808080808080808080808080808080808080808080808080808080808080808080808080808080808080808080808";
