//! What was signed for, paid to the payee: by the payee, or by anyone for it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use attestation::appraisal::Verdict;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use contracts::channel::{Claim, Refusal};
use contracts::voucher::Signed;
use serde::Deserialize;
use tycho_types::boc::Boc;

use super::channel::known;
use super::plan::{Plan, Rest};
use super::{COIN, Chain, cell, coins, load};
use crate::address::Address;
use crate::trust::TrustArgs;
use crate::worker::{FRESH, Worker};

#[derive(Args, Debug)]
pub(super) struct Redeem {
    /// The newest voucher.
    #[arg(long, value_name = "FILE", conflicts_with = "worker")]
    voucher: Option<PathBuf>,
    /// The worker whose newest vouchers are redeemed, https://HOST:PORT.
    #[arg(long, value_name = "URL", required_unless_present = "voucher")]
    worker: Option<Address>,
    #[command(flatten)]
    trust: TrustArgs,
}

impl Redeem {
    pub(super) async fn run(self, chain: &Chain) -> Result<Verdict> {
        if let Some(path) = &self.voucher {
            let paid = redeem(chain, load(path)?).await?;
            return paid.context("it would be refused");
        }
        let address = self.worker.context("which voucher?")?;
        let worker = Worker::new(address, Arc::new(self.trust.policy()?), FRESH);
        for signed in vouchers(&worker).await? {
            match redeem(chain, signed).await? {
                Ok(Verdict::Trusted) => {}
                Ok(verdict) => return Ok(verdict),
                Err(Refusal::Nothing) => println!("payment  nothing that was not paid before"),
                Err(refusal) => return Err(refusal).context("it would be refused"),
            }
        }
        Ok(Verdict::Trusted)
    }
}

/// Unless the contract would refuse it.
async fn redeem(chain: &Chain, voucher: Signed) -> Result<Result<Verdict, Refusal>> {
    let address = voucher.unverified()?.channel;
    let (mut channel, at, _) = known(chain, &address).await?;
    let paid = match channel.claim(&at, &voucher) {
        Ok(paid) => paid,
        Err(refusal) => return Ok(Err(refusal)),
    };
    println!("payment  {} to {}", coins(paid.into()), channel.terms.payee);
    let claim = Claim {
        query_id: 0,
        voucher,
    };
    let plan = Plan {
        what: "Claim",
        to: address,
        value: COIN / 100,
        rest: Rest::Owner,
        body: cell(&claim)?,
        init: None,
        gas: &["channel_claim"],
    };
    plan.carry_out(chain).await.map(Ok)
}

/// The newest of each channel that a worker has one of.
async fn vouchers(worker: &Worker) -> Result<Vec<Signed>> {
    let request = Request::get("https://worker.cocoon.invalid/network/vouchers");
    let response = worker.send(request.body(Body::empty())?).await?;
    let status = response.status();
    ensure!(status.is_success(), "the worker answers {status}");
    let listed = to_bytes(Body::new(response.into_body()), MAX_LIST).await;
    let listed: Listed = serde_json::from_slice(&listed.context("the list is cut off")?)
        .context("the worker's list cannot be read")?;
    let signed = listed.vouchers.into_iter().filter_map(|one| one.signed);
    let signed = signed.map(|boc| {
        let cell = Boc::decode(BASE64_STANDARD.decode(boc)?)?;
        Ok::<_, anyhow::Error>(cell.parse()?)
    });
    let signed = signed.collect::<Result<_>>();
    signed.context("one of the worker's vouchers is none")
}

#[derive(Deserialize)]
struct Listed {
    vouchers: Vec<OfChannel>,
}

#[derive(Deserialize)]
struct OfChannel {
    signed: Option<String>,
}

/// Of a list: a voucher is some 400 bytes, and there is one for each scheduler.
const MAX_LIST: usize = 1 << 20;
