//! `cocoon scheduler run`: workers dial in at one port, clients at another.

mod certificate;
mod fabric;
mod notify;
mod sockets;

use std::future::pending;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::chain::client::Client;
use ::chain::network::Network;
use anyhow::{Context as _, Result};
use attestation::appraisal::Verdict;
use clap::{Args, Subcommand, value_parser};
use scheduler::books::{Books, DEPOSIT, EXPOSURE, Kept};
use scheduler::fee::Fee;
use scheduler::ledger::{Costs, Identity, Ledger};
use scheduler::onchain::Onchain;
use scheduler::scheduler::Scheduler;
use scheduler::settler::Settler;
use scheduler::{api, serve};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tycho_types::models::StdAddr;

use self::certificate::Certificate;
use self::fabric::FabricArgs;
use self::sockets::Sockets;
use crate::artefacts::read;
use crate::chain::key;
use crate::network::probe::{ProbeArgs, Prober};
use crate::trust::TrustArgs;

/// What an operator does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring clients' sealed requests to workers that proved themselves.
    ///
    /// It sees who asks for which model and how much, never what.
    Run(Box<RunArgs>),
}

/// Where it listens, whom it takes, and how it is paid.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Where clients connect.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Where workers dial in.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8091")]
    workers: SocketAddr,
    /// Certificate chain for clients, PEM; without one they connect in clear. Read again
    /// on SIGHUP.
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// How long answers that are under way may take after SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    drain: u32,
    #[command(flatten)]
    probes: ProbeArgs,
    #[command(flatten)]
    payment: PaymentArgs,
    #[command(flatten)]
    fabric: FabricArgs,
    #[command(flatten)]
    trust: TrustArgs,
}

/// How it is paid; without a database it asks for nothing.
#[derive(Args, Debug)]
struct PaymentArgs {
    /// Where the books are: sqlite:PATH, or postgres://… for several schedulers.
    #[arg(long, value_name = "URL", requires_all = ["payee", "voucher_key", "network"])]
    database: Option<String>,
    /// The wallet that clients' Channels pay to.
    #[arg(long, value_name = "ADDRESS", requires = "database")]
    payee: Option<StdAddr>,
    /// 64 hex digits: the key that signs for the owners of workers.
    #[arg(long, value_name = "FILE", requires = "database")]
    voucher_key: Option<PathBuf>,
    /// The network's description: its liteservers, and the block that is pinned.
    #[arg(long, value_name = "FILE", requires = "database")]
    network: Option<PathBuf>,
    /// Nanotons that the owner of a worker may hold before receipts show what for.
    #[arg(long, value_name = "NANOTONS", requires = "database", default_value_t = EXPOSURE)]
    exposure: u64,
    /// Nanotons that a client's Channel holds for the client to have places and turns of its
    /// own; whoever has less shares one turn with all who have less.
    #[arg(long, value_name = "NANOTONS", requires = "database", default_value_t = DEPOSIT)]
    least_deposit: u64,
    /// What it keeps for itself, in thousandths of what a worker asks: clients pay both.
    #[arg(long, value_name = "PER_MILLE", requires = "database", default_value_t = 0,
          value_parser = value_parser!(u16).range(..=1000))]
    fee: u16,
    /// A wallet that claims and reports on the chain as soon as that pays; of several
    /// schedulers with the same books one does at a time.
    #[arg(long, value_name = "ADDRESS", requires_all = ["database", "wallet_key"])]
    wallet: Option<StdAddr>,
    /// 64 hex digits: the key of the wallet.
    #[arg(long, value_name = "FILE", requires = "wallet")]
    wallet_key: Option<PathBuf>,
    /// A Market whose price and usage it shows, with what the Registry and the Nodes behind it
    /// say of its workers; may be repeated: there is one for each model and kind of GPU.
    #[arg(long, value_name = "ADDRESS", requires = "database")]
    market: Vec<StdAddr>,
}

/// Runs until `shutdown`; then asks for nothing new, and lets what is under way finish.
pub async fn run(
    command: Command,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<Verdict> {
    let Command::Run(args) = command;
    let policy = Arc::new(args.trust.policy()?);
    let certificate = match (args.certificate, args.key) {
        (Some(chain), Some(key)) => Some(Certificate::read(chain, key)?),
        _ => None,
    };
    let tls = certificate.clone().map(Certificate::acceptor).transpose()?;
    let asked = signal(SignalKind::hangup()).context("cannot watch for SIGHUP")?;
    let (books, settler) = args.payment.books().await?;
    let sockets = Sockets::open(args.listen, args.workers).await?;
    println!("workers {}", sockets.workers.local_addr()?);
    println!("clients {}/network/v1", sockets.clients.local_addr()?);

    let place = args.fabric.join().await?;
    let known = Arc::clone(&place.workers);
    let scheduler = Scheduler::new(Arc::clone(&known), Arc::clone(&place.fabric), books);
    let (stop, end) = (CancellationToken::new(), CancellationToken::new());
    let address = sockets.clients.local_addr()?;
    let prober = args.probes.open(&scheduler, &policy, address)?;
    let linked = serve::workers(sockets.workers, policy, known, end.clone());
    let linked = tokio::spawn(linked);
    let joined = tokio::spawn(place.keep(Arc::clone(&scheduler), stop.clone()));
    let api = api::router(Arc::clone(&scheduler));
    let served = tokio::spawn(serve::clients(sockets.clients, tls, api, stop.clone()));
    let kept = CancellationToken::new();
    let keep = {
        let (scheduler, kept) = (Arc::clone(&scheduler), kept.clone());
        tokio::spawn(async move { scheduler.keep(&kept).await })
    };
    notify::tell(notify::READY)?;
    tokio::select! {
        () = probe(prober) => {}
        () = renew(certificate, asked) => {}
        () = settle(settler) => {}
        () = shutdown => {}
    }
    notify::tell(notify::STOPPING)?;
    scheduler.drain();
    // What a worker was asked it still answers; then it dials again.
    end.cancel();
    if sockets.are_shared {
        stop.cancel();
    }
    let drain = Duration::from_secs(args.drain.into());
    if timeout(drain, scheduler.idle()).await.is_err() {
        let open = scheduler.metrics.open();
        tracing::warn!("{open} requests took longer than {} s", args.drain);
    }
    stop.cancel();
    served.await.context("serving clients failed")?;
    joined.await.context("serving schedulers failed")??;
    linked.await.context("following workers failed")?;
    kept.cancel();
    keep.await.context("keeping the records failed")?;
    Ok(Verdict::Trusted)
}

async fn probe(prober: Option<Prober>) {
    match prober {
        Some(prober) => prober.run().await,
        None => pending().await,
    }
}

/// Reads the certificate again whenever that is asked for.
async fn renew(certificate: Option<Arc<Certificate>>, mut asked: Signal) {
    while asked.recv().await.is_some() {
        let renewed = certificate.as_deref().map(Certificate::renew);
        match renewed.transpose() {
            Ok(None) => {}
            Ok(Some(())) => tracing::info!("the certificate was read again"),
            Err(error) => tracing::error!("the certificate stays: {error:#}"),
        }
    }
}

/// Sends what is due to the chain, if there is a wallet for that.
async fn settle(settler: Option<Settler>) {
    match settler {
        Some(settler) => settler.keep().await,
        None => std::future::pending().await,
    }
}

impl PaymentArgs {
    async fn books(self) -> Result<(Books, Option<Settler>)> {
        let (Some(url), Some(payee), Some(voucher_key), Some(network)) =
            (self.database, self.payee, self.voucher_key, self.network)
        else {
            return Ok((Books::Free, None));
        };
        let network = text(&network)
            .and_then(|text| Ok(Network::parse(&text)?))
            .with_context(|| format!("{} describes no network", network.display()))?;
        let client = Client::new(&network, MAX_AGE);
        let newest = client.newest().await.context("cannot ask the chain")?;
        let identity = Identity {
            key: key(&voucher_key)?,
            payee,
            global_id: newest.global_id(),
        };
        let ledger = Ledger::open(&url, identity.clone()).await?;
        let settler = match (self.wallet, self.wallet_key) {
            (Some(wallet), Some(wallet_key)) => Some(Settler {
                ledger: ledger.clone(),
                // Of its own: clients do not wait until a message has arrived.
                client: Client::new(&network, MAX_AGE),
                wallet,
                key: key(&wallet_key)?,
                costs: Costs::default(),
            }),
            _ => None,
        };
        let fee = Fee::per_mille(self.fee).context("more than all of it")?;
        let kept = Kept::new(ledger, client, &identity, self.exposure)
            .expecting(self.least_deposit)
            .keeping(fee);
        let kept = match self.market.is_empty() {
            true => kept,
            false => kept.seeing(Onchain::new(Client::new(&network, MAX_AGE), self.market)),
        };
        Ok((Books::Kept(Box::new(kept)), settler))
    }
}

fn text(path: &Path) -> Result<String> {
    Ok(String::from_utf8(read(path)?)?)
}

/// The oldest state of the chain that is taken.
const MAX_AGE: Duration = Duration::from_secs(60);
