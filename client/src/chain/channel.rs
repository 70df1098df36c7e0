//! A payer's deposit for a payee: opened, drawn upon by vouchers, closed.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use attestation::appraisal::Verdict;
use attestation::register::Digest256;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chain::account::State;
use clap::{Args, Subcommand};
use contracts::channel::{At, Channel, Close, Open, REPORT_VALUE, Report, Terms};
use contracts::code::Code;
use contracts::reports::epoch;
use contracts::voucher::{Signed, Voucher};
use tycho_types::boc::Boc;
use tycho_types::cell::HashBytes;
use tycho_types::models::{StateInit, StdAddr};

use super::plan::{Plan, Rest, key};
use super::{COIN, Chain, cell, coins, load, now, save};
use crate::network::purse::ChannelFile;

/// What a payer does.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a channel, with a deposit.
    Open(OpenArgs),
    /// Sign for so many tokens more than the last voucher; nothing is sent to the chain.
    Voucher(VoucherArgs),
    /// Have the market told what was paid: it counts it as used.
    Report {
        /// The newest voucher that was redeemed.
        #[arg(long, value_name = "FILE")]
        voucher: PathBuf,
    },
    /// End it: at once as the payee, after the delay as the payer.
    Close {
        /// The channel.
        #[arg(long, value_name = "ADDRESS")]
        channel: StdAddr,
    },
}

#[derive(Args, Debug)]
pub(super) struct OpenArgs {
    /// The owner of the worker.
    #[arg(long, value_name = "ADDRESS")]
    payee: StdAddr,
    /// The key that will sign vouchers, 64 hex digits.
    #[arg(long, value_name = "FILE")]
    voucher_key: PathBuf,
    /// Nanotons.
    #[arg(long)]
    deposit: u64,
    /// Hours until vouchers stop counting.
    #[arg(long, default_value_t = 30 * 24)]
    hours: u32,
    /// Seconds for which vouchers count once the payer closes.
    #[arg(long, default_value_t = 24 * 3600)]
    delay: u32,
    /// The market that counts what is paid, for ten in a thousand of it.
    #[arg(long, value_name = "ADDRESS")]
    market: Option<StdAddr>,
    /// Write what `cocoon gateway --channel` takes.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write what the payee's worker takes: the section of its configuration under
    /// `[[scheduler]]`.
    #[arg(long, value_name = "FILE")]
    worker_out: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct VoucherArgs {
    /// The channel.
    #[arg(long, value_name = "ADDRESS")]
    channel: StdAddr,
    /// The key that signs vouchers, 64 hex digits.
    #[arg(long, value_name = "FILE")]
    voucher_key: PathBuf,
    /// The last voucher, if there was one.
    #[arg(long, value_name = "FILE")]
    last: Option<PathBuf>,
    /// So many tokens more.
    #[arg(long)]
    tokens: u64,
    /// Nanotons for a million of them.
    #[arg(long)]
    price: u64,
    /// Head of the tree over the receipts for all tokens so far.
    #[arg(long, value_name = "HEX")]
    receipts: Digest256,
    /// Where the voucher goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Command {
    pub(super) async fn run(self, chain: &Chain) -> Result<Verdict> {
        match self {
            Self::Open(args) => args.run(chain).await,
            Self::Voucher(args) => args.run(chain).await,
            Self::Report { voucher } => report(chain, load(&voucher)?).await,
            Self::Close { channel } => {
                let (mut open, at, _) = known(chain, &channel).await?;
                if let Some(sender) = chain.sender.address() {
                    let closed = open.close(&at, sender).context("it cannot be closed")?;
                    println!("closing  {closed:?}");
                }
                let plan = Plan {
                    what: "Close",
                    to: channel,
                    value: COIN / 50,
                    rest: Rest::Back,
                    body: cell(&Close { query_id: 0 })?,
                    init: None,
                    gas: &["channel_close"],
                };
                plan.carry_out(chain).await
            }
        }
    }
}

impl OpenArgs {
    async fn run(self, chain: &Chain) -> Result<Verdict> {
        let payer = chain
            .sender
            .address()
            .context("a channel needs a payer: --wallet")?;
        let counted = self.market.is_some();
        let terms = Terms {
            payer: payer.clone(),
            market: self.market.unwrap_or_else(|| self.payee.clone()),
            payee: self.payee,
            key: key(&self.voucher_key)?.public(),
            until: now()?.saturating_add(self.hours.saturating_mul(3600)),
            delay: self.delay,
            fee: if counted {
                contracts::channel::COUNTED
            } else {
                0
            },
        };
        let until = terms.until;
        let payee = terms.payee.to_string();
        let open = Open::new(0, terms)?;
        println!("channel  {}", open.address);
        let global_id = chain.client.account(payer).await?.block.global_id();
        if let Some(path) = &self.out {
            let file = ChannelFile {
                channel: open.address.to_string(),
                global_id,
                payee,
                deposit: self.deposit,
                until,
                voucher_key: std::path::absolute(&self.voucher_key)?,
            };
            std::fs::write(path, serde_json::to_vec_pretty(&file)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some(path) = &self.worker_out {
            let section = format!(
                "[scheduler.channel]\nstate = \"{}\"\nnetwork = {}\ndeposit = {}\npaid = 0\n",
                BASE64_STANDARD.encode(Boc::encode(&open.data)),
                global_id,
                self.deposit,
            );
            std::fs::write(path, section)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let deposit = u128::from(self.deposit);
        let value = deposit.saturating_add(COIN / 50);
        let plan = Plan {
            what: "TopUp, with the first state",
            to: open.address,
            value,
            rest: Rest::Stays(value),
            body: cell(&open.body)?,
            init: Some(StateInit {
                code: Some(open.code),
                data: Some(open.data),
                ..StateInit::default()
            }),
            gas: &["channel_open"],
        };
        plan.carry_out(chain).await
    }
}

impl VoucherArgs {
    async fn run(self, chain: &Chain) -> Result<Verdict> {
        let (channel, at, _) = known(chain, &self.channel).await?;
        let last = match &self.last {
            Some(path) => load::<Signed>(path)?.verify(&channel.terms.key)?,
            None => Voucher::first(at.global_id, self.channel.clone()),
        };
        let receipts = HashBytes(*self.receipts.as_bytes());
        let next = last.next(self.tokens, self.price, epoch(at.now), receipts);
        let next = next.context("more than a voucher has place for")?;
        let key = key(&self.voucher_key)?;
        let signed = next.signed(key.sign(&HashBytes(next.hash()?)))?;
        signed.verify(&channel.terms.key)?;
        save(&self.out, &signed)?;
        println!(
            "voucher  {} for {} tokens",
            coins(next.amount.into()),
            next.tokens
        );
        Ok(Verdict::Trusted)
    }
}

async fn report(chain: &Chain, voucher: Signed) -> Result<Verdict> {
    let address = voucher.unverified()?.channel;
    let (mut channel, at, _) = known(chain, &address).await?;
    let reporter = chain
        .sender
        .address()
        .unwrap_or(&channel.terms.payee)
        .clone();
    let told = channel.report(&at, &voucher, 0, &reporter);
    let told = told.context("it would be refused")?;
    println!(
        "usage    {} for {} tokens",
        coins(told.amount.into()),
        told.tokens
    );
    let plan = Plan {
        what: "Report",
        to: address,
        value: u128::from(REPORT_VALUE).saturating_mul(2),
        rest: Rest::Back,
        body: cell(&Report {
            query_id: 0,
            voucher,
        })?,
        init: None,
        gas: &["channel_report"],
    };
    plan.carry_out(chain).await
}

/// A channel as it is, and when and where that is.
pub(super) async fn known(chain: &Chain, address: &StdAddr) -> Result<(Channel, At, State)> {
    let state = chain.client.account(address).await?;
    super::expect(address, &state, &[Code::CHANNEL])?;
    let data = state.data().context("a contract without data")?;
    let at = At {
        now: now()?,
        global_id: state.block.global_id(),
        balance: u64::try_from(state.balance())?,
    };
    Ok((Channel::load(address, data)?, at, state))
}
