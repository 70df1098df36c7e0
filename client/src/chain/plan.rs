//! One message: shown with what it costs, then sent, and followed to its end.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use attestation::appraisal::Verdict;
use chain::client::Step;
use chain::link::Transfer;
use chain::wallet::{Key, Order, Wallet};
use clap::Args;
use contracts::exit;
use serde_json::{Map, Value};
use tycho_types::cell::Cell;
use tycho_types::models::{
    ComputePhase, Message, MsgInfo, StateInit, StdAddr, Transaction, TxInfo,
};
use zeroize::Zeroizing;

use crate::artefacts::read;

use super::{COIN, Chain, cell, coins, now};

/// Who sends.
#[derive(Args, Debug)]
pub(super) struct Sender {
    /// The wallet (v5) that pays; without one, a link for a wallet on a phone is shown.
    #[arg(long, value_name = "ADDRESS", requires = "key")]
    wallet: Option<StdAddr>,
    /// Its key, 64 hex digits.
    #[arg(long, value_name = "FILE", requires = "wallet")]
    key: Option<PathBuf>,
    /// Show what would be sent and what it would cost, and send nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Sender {
    /// Who pays, if it is known.
    pub(super) fn address(&self) -> Option<&StdAddr> {
        self.wallet.as_ref()
    }

    pub(super) fn key(&self) -> Result<Key> {
        let path = self.key.as_ref().context("which key?")?;
        key(path)
    }
}

/// Reads a key's file.
pub(crate) fn key(path: &std::path::Path) -> Result<Key> {
    let text = Zeroizing::new(String::from_utf8(read(path)?).context("a key is text")?);
    Key::parse(&text).with_context(|| format!("{} is not 64 hex digits", path.display()))
}

/// What is about to be sent.
#[derive(Debug)]
pub(super) struct Plan {
    /// In a few words.
    pub(super) what: &'static str,
    pub(super) to: StdAddr,
    /// Nanotons that come with it.
    pub(super) value: u128,
    pub(super) rest: Rest,
    pub(super) body: Cell,
    pub(super) init: Option<StateInit>,
    /// What `contracts/gas.json` calls the transactions that follow.
    pub(super) gas: &'static [&'static str],
}

/// Where what is not used of the value goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    /// To the sender.
    Back,
    /// To the owner of the worker.
    Owner,
    /// So much stays there.
    Stays(u128),
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Back => f.write_str("what is not used comes back"),
            Self::Owner => f.write_str("what is not used goes to the worker's owner"),
            Self::Stays(nanotons) => write!(f, "of which {} stays there", coins(*nanotons)),
        }
    }
}

impl Plan {
    /// Shows it; sends it, unless nobody is to; tells what came of it.
    pub(super) async fn carry_out(&self, chain: &Chain) -> Result<Verdict> {
        self.show()?;
        if chain.sender.dry_run {
            println!("not sent (dry run)");
            return Ok(Verdict::Trusted);
        }
        let Some(from) = chain.sender.address() else {
            return self.hand_over();
        };
        let key = chain.sender.key()?;
        let before = chain.client.account(from).await?;
        let wallet = Wallet::of(from, &before, &key)?;
        let most = self.value.saturating_add(COIN / 20);
        ensure!(
            before.balance() >= most,
            "the wallet has {}, but {} may be needed",
            coins(before.balance()),
            coins(most)
        );
        let order = Order {
            to: self.to.clone(),
            value: self.value,
            bounce: self.init.is_none(),
            body: self.body.clone(),
            init: self.init.clone(),
        };
        let message = wallet.sign(&key, &[order], now()?.saturating_add(VALID))?;
        chain.client.send(&message).await?;
        let steps = chain
            .client
            .trace(from, message.repr_hash(), Duration::from_secs(VALID.into()))
            .await?;
        let after = chain.client.account(from).await?;
        let spent = before.balance().saturating_sub(after.balance());
        let verdict = report(&steps)?;
        println!("spent    {} in all", coins(spent));
        Ok(verdict)
    }

    fn show(&self) -> Result<()> {
        println!("send     {} to {}", self.what, self.to);
        println!("value    {}, {}", coins(self.value), self.rest);
        let (cells, bits) = self.size()?;
        let forward = LUMP
            .saturating_add(bits.saturating_mul(PER_BIT) >> 16)
            .saturating_add(cells.saturating_mul(PER_CELL) >> 16);
        // Once from outside to the wallet, and once from there.
        let messages = forward.saturating_mul(2);
        let gas = self.gas()?;
        let total = messages.saturating_add(nanotons(gas.saturating_add(WALLET_GAS)));
        println!(
            "cost     about {}: {gas} gas in contracts as measured, {WALLET_GAS} in the wallet, \
             {cells} cells of {bits} bits twice",
            coins(total)
        );
        Ok(())
    }

    fn size(&self) -> Result<(u128, u128)> {
        let init = self.init.as_ref().map(|init| cell(init)).transpose()?;
        let mut sum = (0_u128, 0_u128);
        for cell in [Some(&self.body), init.as_ref()].into_iter().flatten() {
            let stats = cell.compute_unique_stats(MOST_CELLS).context("too large")?;
            sum.0 = sum.0.saturating_add(stats.cell_count.into());
            sum.1 = sum.1.saturating_add(stats.bit_count.into());
        }
        Ok(sum)
    }

    fn gas(&self) -> Result<u128> {
        let table: Map<String, Value> = serde_json::from_str(GAS).context("gas.json is damaged")?;
        let of = |name: &&str| table.get(*name).and_then(Value::as_u64);
        let gas: Option<u64> = self.gas.iter().map(of).sum();
        gas.map(u128::from).context("gas.json lacks a name")
    }

    /// To whoever has the wallet.
    fn hand_over(&self) -> Result<Verdict> {
        let transfer = Transfer {
            to: self.to.clone(),
            amount: self.value,
            body: Some(self.body.clone()),
            init: self.init.as_ref().map(|init| cell(init)).transpose()?,
        };
        println!("\n{}", transfer.link());
        match transfer.picture() {
            Some(picture) => println!("\n{picture}"),
            None => println!("\n(too long for a QR code)"),
        }
        Ok(Verdict::Trusted)
    }
}

/// What each contract did; refused if one of them did.
fn report(steps: &[Step]) -> Result<Verdict> {
    let mut refused = None;
    let mut sum = (0_u64, 0_u128);
    for (number, step) in steps.iter().enumerate() {
        let TxInfo::Ordinary(info) = step.transaction.load_info()? else {
            bail!("a transaction of another kind");
        };
        let fees = fees(&step.transaction)?;
        let (gas, exit) = match &info.compute_phase {
            ComputePhase::Executed(phase) => (phase.gas_used.into_inner(), phase.exit_code),
            ComputePhase::Skipped(_) => (0, 0),
        };
        let said = match exit {
            0 | 1 if !info.aborted => "done".into(),
            0 | 1 => "took the coins".into(),
            exit => words(exit, number == 0),
        };
        println!(
            "  {} {gas:>7} gas {} in fees: {said}",
            step.address,
            coins(fees)
        );
        sum = (sum.0.saturating_add(gas), sum.1.saturating_add(fees));
        if !(0..=1).contains(&exit) {
            refused.get_or_insert(said);
        }
    }
    println!(
        "fees     {} for {} gas and the messages",
        coins(sum.1),
        sum.0
    );
    match refused {
        None => Ok(Verdict::Trusted),
        Some(why) => {
            println!("refused  {why}");
            Ok(Verdict::Rejected)
        }
    }
}

/// What the network takes: for the transaction, and for what it sends.
fn fees(transaction: &Transaction) -> Result<u128> {
    let mut fees = transaction.total_fees.tokens.into_inner();
    for message in transaction.out_msgs.values() {
        if let MsgInfo::Int(info) = message?.parse::<Message<'_>>()?.info {
            fees = fees.saturating_add(info.fwd_fee.into_inner());
        }
    }
    Ok(fees)
}

/// An exit code by its name. Those of wallets are their own.
fn words(exit: i32, is_wallet: bool) -> String {
    match (exit::meaning(exit), exit) {
        (Some((name, text)), _) if !is_wallet => format!("{name}: {text} (exit {exit})"),
        (_, -14) => "out of gas".into(),
        _ => format!("exit {exit}"),
    }
}

/// At the network's price of 2026.
const fn nanotons(gas: u128) -> u128 {
    gas.saturating_mul(PER_GAS) >> 16
}

/// What contracts use, as a test of theirs holds it true.
const GAS: &str = include_str!("../../../contracts/gas.json");

/// Seconds for which a wallet's message holds.
const VALID: u32 = 60;

/// Prices of the basechain since 30 April 2026, in 1/65536 nanotons but for the lump.
const PER_GAS: u128 = 4_369_067;
const PER_BIT: u128 = 4_369_067;
const PER_CELL: u128 = 436_906_667;
const LUMP: u128 = 66_667;

/// Of one message by wallet v5, measured.
const WALLET_GAS: u128 = 4_939;

/// Of a message.
const MOST_CELLS: usize = 8192;
